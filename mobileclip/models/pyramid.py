"""An image tower as a pyramid of four maps at strides 4, 8, 16 and 32, which is what dense heads stand on.

Legend: B pictures, H and W rows and columns, C_i channels of map i.
"""

from collections.abc import Callable, Mapping
from typing import Any

import timm
from timm.models.fastvit import FastVit
from torch import Tensor, nn

from mobileclip.config import ModelConfig
from mobileclip.errors import MobileClipError


class Pyramid(nn.Module):
    """Pixels [B, 3, H, W] -> four maps [B, C_i, H / s_i, W / s_i], in the form that trains.

    Attributes:
        channels: C_i of the four maps.
        trunk: timm's tower, under its own names.
    """

    channels: tuple[int, int, int, int]

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, x: Tensor) -> list[Tensor]:
        raise NotImplementedError

    def levels(self) -> list[list[nn.Module]]:
        """Modules from the stem to the last stage, for learning rates that fall with depth; each parameter of the
        encoder is in exactly one level."""
        raise NotImplementedError


class MciPyramid(Pyramid):
    """Of MCi0-MCi2 (timm's `FastVit` of four stages)."""

    def __init__(self, trunk: FastVit, size: tuple[int, int]) -> None:
        super().__init__(trunk)
        self.channels = tuple(stage.blocks[-1].mlp.fc2.out_channels for stage in trunk.stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self.trunk.stem(x)]
        for stage in self.trunk.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]

    def levels(self) -> list[list[nn.Module]]:
        return [[self.trunk.stem], *([stage] for stage in self.trunk.stages)]


PYRAMIDS: Mapping[type[nn.Module], Callable[[Any, tuple[int, int]], Pyramid]] = {FastVit: MciPyramid}
"""Class of a tower in training form -> its pyramid for a size."""


def build_pyramid(config: ModelConfig, size: tuple[int, int]) -> Pyramid:
    """The pyramid of a model's image tower with fresh weights; its classifier and last convolution are not there."""
    trunk = timm.create_model(config.image.timm, pretrained=False, num_classes=0, **dict(config.image.args))
    for kind, make in PYRAMIDS.items():
        if isinstance(trunk, kind):
            return make(trunk, size)
    raise MobileClipError(f"{config.name} has no pyramid: take {', '.join(kind.__name__ for kind in PYRAMIDS)}.")
