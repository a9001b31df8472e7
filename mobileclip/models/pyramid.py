"""An image tower as a pyramid of four maps at strides 4, 8, 16 and 32, which is what dense heads stand on.

A pyramid takes timm's tower over and drops what only a classifier needs. Towers at MobileCLIP's or timm's size become
pyramids of any size: `build_pyramid` makes an empty one, `Pyramid.adapted` fits the tower's weights to it.

Legend: B pictures, H and W rows and columns, C_i channels of map i.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import timm
import torch
from timm.layers import DropPath
from timm.models.fastvit import FastVit
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mobileclip.config import ModelConfig
from mobileclip.errors import MobileClipError
from mobileclip.models.mci import FusedMciPyramid

STRIDE = 32
"""Pixels of the picture for one of the coarsest map: sides are multiples of it."""


class Pyramid(nn.Module):
    """Pixels [B, 3, H, W] -> four maps [B, C_i, H / s_i, W / s_i], in the form that trains.

    Attributes:
        channels: C_i of the four maps.
        trunk: timm's tower, under its own names.
    """

    channels: tuple[int, ...]

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk: Any = trunk

    def forward(self, x: Tensor) -> list[Tensor]:
        raise NotImplementedError

    def levels(self, fine: bool = False) -> list[list[nn.Module]]:
        """Modules from the stem to the last stage, for learning rates that fall with depth: the stem, then a level a
        stage, or one a block if `fine`. Each parameter of the encoder is in exactly one level or in `fresh`."""
        raise NotImplementedError

    def fresh(self) -> list[nn.Module]:
        """Modules that no checkpoint of an image tower fills and that learn like the head."""
        return []

    def adapted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the tower at any size as this one's `trunk` takes them."""
        return dict(state)

    def deployed(self) -> nn.Module:
        """New modules with the same maps in evaluation, in the form that devices run."""
        raise NotImplementedError


class MciPyramid(Pyramid):
    """Of MCi0-MCi2 and other FastViTs (timm's `FastVit` of four stages)."""

    def __init__(self, trunk: FastVit, size: tuple[int, int]) -> None:
        """Takes `trunk` over: its last convolution and its classifier are removed."""
        super().__init__(trunk)
        if len(trunk.stages) != 4:
            raise MobileClipError(
                f"a tower of {len(trunk.stages)} stages has no pyramid at strides 4, 8, 16 and 32: take one of four "
                "stages, such as mci2."
            )
        self.channels = tuple(stage.blocks[-1].mlp.fc2.out_channels for stage in trunk.stages)
        trunk.final_conv, trunk.head = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self.trunk.stem(x)]
        for stage in self.trunk.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]

    def levels(self, fine: bool = False) -> list[list[nn.Module]]:
        """See `Pyramid.levels`; a stage's entry goes with its first block."""
        if not fine:
            return [[self.trunk.stem], *([stage] for stage in self.trunk.stages)]
        found: list[list[nn.Module]] = [[self.trunk.stem]]
        for stage in self.trunk.stages:
            first, *others = stage.blocks
            found.append([stage.downsample, stage.pos_emb, first])
            found.extend([block] for block in others)
        return found

    def deployed(self) -> FusedMciPyramid:
        """See `Pyramid.deployed`."""
        return FusedMciPyramid.from_timm(self.trunk)


PYRAMIDS: Mapping[type[nn.Module], str] = {
    FastVit: "mobileclip.models.pyramid:MciPyramid",
    VisionTransformer: "mobileclip.models.vit_pyramid:VitPyramid",
    SwinTransformer: "mobileclip.models.swin_pyramid:SwinPyramid",
}
"""Class of a tower in training form -> `module:Class` of its pyramid; the class takes (tower, size)."""


def build_pyramid(config: ModelConfig, size: tuple[int, int]) -> Pyramid:
    """The pyramid of a model's image tower with fresh weights; its classifier and last convolution are not there.

    Raises:
        MobileClipError: the size is no multiple of 32, or the tower is of a class without a pyramid.
    """
    trunk = timm.create_model(config.image.timm, pretrained=False, num_classes=0, **dict(config.image.args))
    return pyramid_of(trunk, size, config.name)


def pyramid_of(trunk: nn.Module, size: tuple[int, int], name: str) -> Pyramid:
    """The pyramid of a tower of timm, which it takes over; `name` is for messages.

    Raises:
        MobileClipError: as `build_pyramid`.
    """
    if min(size) < STRIDE or size[0] % STRIDE or size[1] % STRIDE:
        raise MobileClipError(
            f"a pyramid of {size[0]} x {size[1]} pixels cannot be built: give sides that are multiples of {STRIDE}."
        )
    home = PYRAMIDS.get(type(trunk))
    if home is None:
        known = ", ".join(kind.__name__ for kind in PYRAMIDS)
        raise MobileClipError(f"{name} is a {type(trunk).__name__} and has no pyramid: take one of {known}.")
    module, _, kind = home.partition(":")
    pyramid: Pyramid = getattr(import_module(module), kind)(trunk, size)
    return pyramid


def set_drop_path(encoder: nn.Module, rate: float) -> None:
    """Let training skip blocks at random, in place: with probability 0 at the first, rising to `rate` at the last.

    The rates lie on a line over all blocks, as timm sets them (Huang et al., 2016, arXiv 1603.09382).
    """
    names = ("drop_path", "drop_path1", "drop_path2")
    blocks = [module for module in encoder.modules() if any(name in dict(module.named_children()) for name in names)]
    for block, chance in zip(blocks, torch.linspace(0, rate, len(blocks)).tolist(), strict=True):
        for name in names:
            if hasattr(block, name):
                layer = DropPath(chance) if chance > 0 else nn.Identity()
                setattr(block, name, layer.train(block.training))
