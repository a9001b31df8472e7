"""UPerNet: pyramid pooling on the coarsest map, a feature pyramid, and all levels concatenated at a quarter of the
picture; a small convolutional head on the map at 1/16 helps training and is not deployed.

Xiao et al., Unified Perceptual Parsing for Scene Understanding, 2018 (arXiv 1807.10221), section 4, with the numbers of
mmsegmentation's `upernet` configurations: 512 channels, pools 1, 2, 3, 6, auxiliary head of 256 channels and weight
0.4, dropout 0.1, corners not aligned.

Legend: B pictures, K classes, C_i channels of map i, H and W rows and columns of the picture.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobileclip.dense.config import IGNORE, DenseConfig
from mobileclip.dense.samples import Targets
from mobileclip.models.heads.blocks import Pooled, bilinear, classifier, conv_bn_relu, folded, segmentation_loss

AUXILIARY = 0.4
"""Weight of the auxiliary loss."""
COARSEST = 32
"""Stride of the last map."""
AUXILIARY_MAP = 2
"""Map of the auxiliary head: 1/16."""


class UperNet(nn.Module):
    """Maps [B, C_i, H / s_i, W / s_i] -> logits [B, K, H/4, W/4].

    Args:
        channels: C_i of the four maps, finest first.
        config: of the model; its labels are the classes.
        width: channels of every level.
        pools: side of the grids that the coarsest map is averaged to.
        aux: channels of the auxiliary head; 0 for none.
        dropout: share of channels that are left out in training.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        config: DenseConfig,
        width: int = 512,
        pools: Sequence[int] = (1, 2, 3, 6),
        aux: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        *finer, last = channels
        self.size, self.pools = config.size, tuple(pools)
        self.pooled = nn.ModuleList(conv_bn_relu(last, width, 1) for _ in self.pools)
        self.bottleneck = conv_bn_relu(last + len(self.pools) * width, width, 3)
        self.lateral = nn.ModuleList(conv_bn_relu(inputs, width, 1) for inputs in finer)
        self.output = nn.ModuleList(conv_bn_relu(width, width, 3) for _ in finer)
        self.joined = conv_bn_relu(len(channels) * width, width, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = classifier(width, len(config.labels))
        self.auxiliary: nn.Sequential | None = None
        if aux:
            self.auxiliary = nn.Sequential(
                *conv_bn_relu(channels[AUXILIARY_MAP], aux, 3),
                nn.Dropout2d(dropout),
                classifier(aux, len(config.labels)),
            )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        *finer, last = maps
        size = last.shape[2:]
        pools = [last]
        for bins, conv in zip(self.pools, self.pooled, strict=True):
            pools.append(bilinear(conv(F.adaptive_avg_pool2d(last, bins)), size))
        path = [lateral(x) for lateral, x in zip(self.lateral, finer, strict=True)]
        path.append(self.bottleneck(torch.cat(pools, dim=1)))
        for index in range(len(path) - 1, 0, -1):
            path[index - 1] = path[index - 1] + bilinear(path[index], path[index - 1].shape[2:])
        outs = [output(x) for output, x in zip(self.output, path[:-1], strict=True)]
        outs.append(path[-1])
        joined = self.joined(torch.cat([bilinear(x, outs[0].shape[2:]) for x in outs], dim=1))
        logits: Tensor = self.classify(self.dropout(joined))
        return logits

    def loss(self, maps: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """`segmentation`, and `auxiliary` times its weight: cross-entropies at the size of the labels."""
        assert targets.labels is not None
        parts = {"segmentation": segmentation_loss(self(maps), targets.labels, IGNORE)}
        if self.auxiliary is not None:
            logits = self.auxiliary(maps[AUXILIARY_MAP])
            parts["auxiliary"] = AUXILIARY * segmentation_loss(logits, targets.labels, IGNORE)
        return parts

    def deployed(self) -> nn.Module:
        """New modules with the same `forward` in evaluation, for the model's size."""
        return FusedUperNet(self)


class FusedUperNet(nn.Module):
    """`UperNet` as it is deployed, for one size: pooling is products with constants, resizes are to known sizes."""

    def __init__(self, head: UperNet) -> None:
        super().__init__()
        last = (head.size[0] // COARSEST, head.size[1] // COARSEST)
        like = head.classify.weight.detach()
        self.sizes = tuple((last[0] << power, last[1] << power) for power in range(len(head.lateral), -1, -1))
        self.pools = nn.ModuleList(Pooled(last, bins, like) for bins in head.pools)
        self.pooled = nn.ModuleList(folded(layers) for layers in head.pooled)
        self.lateral = nn.ModuleList(folded(layers) for layers in head.lateral)
        self.output = nn.ModuleList(folded(layers) for layers in head.output)
        self.bottleneck, self.joined = folded(head.bottleneck), folded(head.joined)
        self.classify = copy.deepcopy(head.classify)
        self.eval().requires_grad_(False)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        *finer, last = maps
        pools = [last]
        for pool, conv in zip(self.pools, self.pooled, strict=True):
            pools.append(_resized(conv(pool(last)), self.sizes[-1]))
        path = [lateral(x) for lateral, x in zip(self.lateral, finer, strict=True)]
        path.append(self.bottleneck(torch.cat(pools, dim=1)))
        for index in range(len(path) - 1, 0, -1):
            path[index - 1] = path[index - 1] + _resized(path[index], self.sizes[index - 1])
        outs = [output(x) for output, x in zip(self.output, path[:-1], strict=True)]
        outs.append(path[-1])
        joined = self.joined(torch.cat([_resized(x, self.sizes[0]) for x in outs], dim=1))
        logits: Tensor = self.classify(joined)
        return logits


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    if x.shape[2:] == (1, 1):
        return x.expand(-1, -1, *size)
    return bilinear(x, size)
