"""Semantic FPN: a feature pyramid whose levels are brought to a quarter of the picture and added.

Kirillov et al., Panoptic Feature Pyramid Networks, 2019 (arXiv 1901.02446), section 3.2, with the numbers of
mmsegmentation's `sem_fpn` configurations: neck 256, head 128, BatchNorm, dropout 0.1, corners not aligned.

Legend: B pictures, K classes, C_i channels of map i, H and W rows and columns of the picture.
"""

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from mobileclip.dense.config import IGNORE, DenseConfig
from mobileclip.dense.samples import Targets
from mobileclip.models.heads.blocks import (
    Doubled,
    FpnNeck,
    FusedFpnNeck,
    classifier,
    conv_bn_relu,
    folded,
    segmentation_loss,
)


class SemanticFpn(nn.Module):
    """Maps [B, C_i, H / s_i, W / s_i] -> logits [B, K, H/4, W/4].

    Args:
        channels: C_i of the maps, finest first; each map has half the size of the one before.
        config: of the model; its labels are the classes.
        neck: channels of the feature pyramid.
        width: channels of the head.
        dropout: share of channels that are left out in training.
    """

    def __init__(
        self, channels: tuple[int, ...], config: DenseConfig, neck: int = 256, width: int = 128, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.neck = FpnNeck(channels, neck)
        levels = [_level(neck, width, doublings) for doublings in range(len(channels))]
        self.levels = nn.ModuleList(levels)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = classifier(width, len(config.labels))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        parts = [level(x) for level, x in zip(self.levels, self.neck(maps), strict=True)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        logits: Tensor = self.classify(self.dropout(total))
        return logits

    def loss(self, maps: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """`segmentation`: cross-entropy at the size of the labels."""
        assert targets.labels is not None
        return {"segmentation": segmentation_loss(self(maps), targets.labels, IGNORE)}

    def deployed(self) -> nn.Module:
        """New modules with the same `forward` in evaluation."""
        return FusedSemanticFpn(self)


class FusedSemanticFpn(nn.Module):
    """`SemanticFpn` as it is deployed."""

    def __init__(self, head: SemanticFpn) -> None:
        super().__init__()
        self.neck = FusedFpnNeck(head.neck)
        self.levels = nn.ModuleList(folded(level) for level in head.levels)
        self.classify = copy.deepcopy(head.classify)
        self.eval().requires_grad_(False)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        parts = [level(x) for level, x in zip(self.levels, self.neck(maps), strict=True)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        logits: Tensor = self.classify(total)
        return logits


def _level(inputs: int, width: int, doublings: int) -> nn.Sequential:
    """As many convolutions as doublings, at least one."""
    if not doublings:
        return conv_bn_relu(inputs, width, 3)
    layers: list[nn.Module] = []
    for step in range(doublings):
        layers += [*conv_bn_relu(width if step else inputs, width, 3), Doubled()]
    return nn.Sequential(*layers)
