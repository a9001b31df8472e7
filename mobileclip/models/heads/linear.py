"""Linear probes: what a frozen encoder's maps hold, read by one affine layer.

Segmentation: BatchNorm and a 1x1 convolution on the last map. Depth: BatchNorm and a 1x1 convolution on all four maps
together, to 256 bins spread evenly over the range; the depth is the mean of the bins weighed by `relu(x) + 0.1`
(Bhat et al., AdaBins, 2021, arXiv 2011.14141, section 3.4; Oquab et al., DINOv2, 2023, arXiv 2304.07193, section 7.4).
A 1x1 convolution and a bilinear resize commute, so each map is read at its own size.

Legend: B pictures, K classes, C_i channels of map i, H and W rows and columns of the picture.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mobileclip.dense.config import IGNORE, DenseConfig
from mobileclip.dense.samples import Targets
from mobileclip.models.blocks import conv_like
from mobileclip.models.branches import affine_of
from mobileclip.models.heads.blocks import bilinear, classifier, segmentation_loss
from mobileclip.models.heads.depth import silog

LEAST = 1e-3
"""Metres of the first bin."""
FLOOR = 0.1
"""Added to the weight of each bin."""


class LinearSegmentation(nn.Module):
    """Maps -> logits [B, K, H/4, W/4], read from the last map."""

    def __init__(self, channels: tuple[int, ...], config: DenseConfig) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels[-1])
        self.classify = classifier(channels[-1], len(config.labels))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return bilinear(self.classify(self.norm(maps[-1])), maps[0].shape[2:])

    def loss(self, maps: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """`segmentation`: cross-entropy at the size of the labels."""
        assert targets.labels is not None
        return {"segmentation": segmentation_loss(self.classify(self.norm(maps[-1])), targets.labels, IGNORE)}

    def deployed(self) -> nn.Module:
        """New modules with the same `forward` in evaluation, for the model's size."""
        return FusedLinearSegmentation(self)


class FusedLinearSegmentation(nn.Module):
    """`LinearSegmentation` as it is deployed."""

    def __init__(self, head: LinearSegmentation) -> None:
        super().__init__()
        self.classify = _read(head.norm, head.classify)
        self.eval().requires_grad_(False)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return bilinear(self.classify(maps[-1]), maps[0].shape[2:])


class LinearDepth(nn.Module):
    """Maps -> depth in metres [B, 1, H/4, W/4], read from all maps."""

    centres: Tensor

    def __init__(self, channels: tuple[int, ...], config: DenseConfig, bins: int = 256) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(inputs) for inputs in channels)
        self.reads = nn.ModuleList(classifier(inputs, bins) for inputs in channels)
        self.register_buffer("centres", torch.linspace(LEAST, config.max_depth, bins).reshape(1, -1, 1, 1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = maps[0].shape[2:]
        parts = [read(norm(x)) for read, norm, x in zip(self.reads, self.norms, maps, strict=True)]
        total = bilinear(parts[0], size)  # [B, bins, H/4, W/4]
        for part in parts[1:]:
            total = total + bilinear(part, size)
        weights = total.relu() + FLOOR
        depth: Tensor = (weights * self.centres).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
        return depth

    def loss(self, maps: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """`depth`: `silog` at the size of the truth."""
        assert targets.depth is not None
        return {"depth": silog(bilinear(self(maps).float(), targets.depth.shape[1:])[:, 0], targets.depth)}

    def deployed(self) -> nn.Module:
        """New modules with the same `forward` in evaluation."""
        return FusedLinearDepth(self)


class FusedLinearDepth(nn.Module):
    """`LinearDepth` as it is deployed: the weighed mean is a 1x1 convolution to two maps, one over the other."""

    def __init__(self, head: LinearDepth) -> None:
        super().__init__()
        self.reads = nn.ModuleList(_read(norm, read) for norm, read in zip(head.norms, head.reads, strict=True))
        bins = head.centres.shape[1]
        self.moments = nn.ModuleList(nn.Conv2d(bins, 1, 1, bias=False) for _ in range(2))
        for conv, row in zip(self.moments, (head.centres, torch.ones_like(head.centres)), strict=True):
            conv.weight = nn.Parameter(row.detach().clone())
        self.eval().requires_grad_(False)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = maps[0].shape[2:]
        total = self.reads[0](maps[0])
        for read, x in zip(self.reads[1:], maps[1:], strict=True):
            total = total + bilinear(read(x), size)
        weights = total.relu() + FLOOR
        depth: Tensor = self.moments[0](weights) / self.moments[1](weights)
        return depth


def _read(norm: nn.Module, conv: nn.Module) -> nn.Conv2d:
    """`conv(norm(x))` in evaluation as one new 1x1 convolution."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(conv, nn.Conv2d)
    scale, shift = affine_of(norm)
    weight = conv.weight.detach().double()
    assert conv.bias is not None
    bias = conv.bias.detach().double() + weight[:, :, 0, 0] @ shift
    return conv_like(conv, weight * scale.reshape(1, -1, 1, 1), bias)
