"""Swin-V1 as a pyramid of four maps, the encoder that the dense heads of MCi2 are held against.

`SwinPyramid` is the form that trains: timm's tower and, as in Swin's segmentation repository, a LayerNorm of its own on
each of the four maps; the tower's last norm and classifier are gone. The windows stay as they were trained when the
picture is of another size: timm pads a grid that they do not divide, and attention masks follow the grid.
`FusedSwinPyramid.from_pyramid` is what is deployed at one size.

Source: Liu et al., Swin Transformer, 2021 (arXiv 2103.14030), section 4.3; Swin-Transformer-Semantic-Segmentation,
mmseg/models/backbones/swin_transformer.py.

Legend: B pictures, H and W rows and columns, C_i channels of map i (strides s_i 4, 8, 16, 32).
"""

import copy
from collections.abc import Iterable, Mapping

import torch
from timm.layers import resize_rel_pos_bias_table
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from mobileclip.models.pyramid import Pyramid
from mobileclip.models.swin import fuse_stages

_TABLE = "relative_position_bias_table"


class SwinPyramid(Pyramid):
    """Pixels [B, 3, H, W] -> four maps [B, C_i, H / s_i, W / s_i]; H and W multiples of 4.

    Attributes:
        size: rows and columns for which windows were set. Pictures of other sizes keep them: a grid smaller than a
            window is padded to it, where timm built for that size would shrink the window.
        norms: of the four maps.
    """

    def __init__(self, trunk: SwinTransformer, size: tuple[int, int]) -> None:
        """Takes `trunk` over: it is set to `size`, and its last norm and classifier are removed."""
        super().__init__(trunk)
        self.size = size
        trunk.set_input_size(img_size=size, window_size=trunk._ref_window_sizes)  # alone, img_size scales windows too
        trunk.patch_embed.strict_img_size = False
        for stage in trunk.layers:
            for block in stage.blocks:
                block.dynamic_mask, block.attn_mask = True, None  # drawn for the grid that comes
        first, *others = (info["num_chs"] for info in trunk.feature_info)
        self.channels = (first, others[0], others[1], others[2])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self.channels)
        trunk.norm = nn.Identity()
        trunk.head = nn.Identity()

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.trunk.patch_embed(x)  # [B, H / 4, W / 4, C]
        maps = []
        for stage, norm in zip(self.trunk.layers, self.norms, strict=True):
            x = stage(x)
            maps.append(norm(x).permute(0, 3, 1, 2))
        return maps

    def levels(self, fine: bool = False) -> list[list[nn.Module]]:
        """See `Pyramid.levels`; a stage's merging goes with its first block."""
        found: list[list[nn.Module]] = [[self.trunk.patch_embed]]
        for stage in self.trunk.layers:
            if not fine:
                found.append([stage])
                continue
            first, *others = stage.blocks
            found.append([stage.downsample, first])
            found.extend([block] for block in others)
        return found

    def fresh(self) -> list[nn.Module]:
        """The norms of the maps: no classifier has them."""
        return [self.norms]

    def adapted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the tower at any size as this one's `trunk` loads them: tables of relative positions of another
        window (timm shrinks windows that are larger than a grid) are interpolated, the rest is what it was."""
        found = dict(state)
        for name, module in self.trunk.named_modules():
            key = f"{name}.{_TABLE}"
            if key in found and found[key].shape != getattr(module, _TABLE).shape:
                shape = tuple(getattr(module, _TABLE).shape)
                with torch.no_grad():
                    found[key] = resize_rel_pos_bias_table(
                        found[key], new_window_size=module.window_size, new_bias_shape=shape
                    )
        return found

    def deployed(self) -> "FusedSwinPyramid":
        """See `Pyramid.deployed`; for pictures of `size`."""
        return FusedSwinPyramid.from_pyramid(self)


class FusedSwinPyramid(nn.Module):
    """Swin's pyramid at one input size, in the form that is deployed: `[B, 3, H, W]` to four maps."""

    def __init__(
        self, patch: nn.Conv2d, patch_norm: nn.Module, stages: Iterable[nn.Module], norms: Iterable[nn.Module]
    ) -> None:
        super().__init__()
        self.patch, self.patch_norm = patch, patch_norm
        self.stages, self.norms = nn.ModuleList(stages), nn.ModuleList(norms)

    @classmethod
    def from_pyramid(cls, pyramid: SwinPyramid) -> "FusedSwinPyramid":
        """New modules equal to `pyramid.eval()` at `pyramid.size`; `pyramid` is left as it is."""
        patch = pyramid.trunk.patch_embed
        copied = copy.deepcopy((patch.proj, patch.norm, list(pyramid.norms)))
        fused = cls(copied[0], copied[1], fuse_stages(pyramid.trunk), copied[2])
        return fused.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.patch_norm(self.patch(x).permute(0, 2, 3, 1))  # [B, H / 4, W / 4, C]
        maps = []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = stage(x)
            maps.append(norm(x).permute(0, 3, 1, 2))
        return maps
