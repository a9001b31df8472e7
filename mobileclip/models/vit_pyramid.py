"""A plain ViT as a pyramid: the maps of four of its blocks, all at stride 16, enlarged by 4 and 2, kept, and halved.

The neck is that of MAE's and BEiT's segmentation code (mmsegmentation's `Feature2Pyramid`, channels of the ViT): two
transposed convolutions with BatchNorm and GELU between them, one, nothing, and a maximum over 2x2. Maps are the raw
stream behind blocks 4, 6, 8 and 12 of 12 (counted from 1), and behind the like shares of other depths.

Source: Li et al., Benchmarking Detection Transfer Learning with Vision Transformers, 2021 (arXiv 2111.11429), section
2.2; Bao et al., BEiT, 2021 (arXiv 2106.08254), appendix.

Legend: B pictures, H and W rows and columns, h and w those of the patches, C channels, K class and register tokens.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mobileclip.errors import MobileClipError
from mobileclip.models.heads.blocks import folded
from mobileclip.models.pyramid import Pyramid
from mobileclip.models.vit import fuse_block, fuse_stem, tokens_of

PATCH = 16
"""Pixels a side of a patch."""
SHARES = (4 / 12, 6 / 12, 8 / 12, 1.0)
"""Share of the blocks behind which each map is taken."""


class VitPyramid(Pyramid):
    """Pixels [B, 3, H, W] -> four maps [B, C, H / s_i, W / s_i].

    Attributes:
        size: rows and columns that the position embeddings are for; for pictures of other sizes they are interpolated
            at each pass.
        neck: from the maps at stride 16 to strides 4, 8, 16 and 32.
    """

    def __init__(self, trunk: VisionTransformer, size: tuple[int, int]) -> None:
        """Takes `trunk` over: it is set to `size`, and its last norm and classifier are removed."""
        super().__init__(trunk)
        patch = trunk.patch_embed.feat_ratio()
        if patch != PATCH or trunk.pos_embed is None:
            raise MobileClipError(
                f"a ViT of patches of {patch} pixels has no pyramid: take one with patches of {PATCH} x {PATCH} pixels "
                "and absolute positions."
            )
        self.size, self.blocks = size, taken(len(trunk.blocks))
        trunk.set_input_size(img_size=size)
        trunk.patch_embed.strict_img_size = False
        trunk.dynamic_img_size = True  # positions follow the grid
        trunk.norm, trunk.fc_norm, trunk.head, trunk.attn_pool = nn.Identity(), nn.Identity(), nn.Identity(), None
        width = trunk.embed_dim
        self.channels = (width,) * 4
        self.neck = nn.ModuleList(
            (
                nn.Sequential(_deconv(width), nn.BatchNorm2d(width), nn.GELU(), _deconv(width)),
                nn.Sequential(_deconv(width)),
                nn.Sequential(),
                nn.Sequential(nn.MaxPool2d(2)),
            )
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        trunk, grid = self.trunk, (x.shape[2] // PATCH, x.shape[3] // PATCH)
        x = trunk.patch_embed(x)
        x = x.reshape(len(x), *grid, -1)  # [B, h, w, C]
        x = trunk._pos_embed(x)  # [B, K + h * w, C]
        x = trunk.norm_pre(trunk.patch_drop(x))
        maps = []
        for index, block in enumerate(trunk.blocks):
            x = block(x)
            maps += [x[:, trunk.num_prefix_tokens :]] * self.blocks.count(index)
        return pyramid_from(maps, grid, self.neck)

    def levels(self, fine: bool = False) -> list[list[nn.Module]]:
        """See `Pyramid.levels`; a stage is the blocks up to a map."""
        trunk = self.trunk
        tokens = nn.ParameterList(trunk.parameters(recurse=False))  # class and register tokens, positions
        found: list[list[nn.Module]] = [[trunk.patch_embed, tokens, trunk.norm_pre]]
        if fine:
            return [*found, *([block] for block in trunk.blocks)]
        first = 0
        for last in self.blocks:
            found.append(list(trunk.blocks[first : last + 1]))
            first = last + 1
        return found

    def fresh(self) -> list[nn.Module]:
        """The neck."""
        return [self.neck]

    def adapted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a ViT at any square size: its position embeddings are interpolated (bicubic) to this size."""
        found, trunk = dict(state), self.trunk
        positions = found.get("pos_embed")
        if positions is not None and positions.shape != trunk.pos_embed.shape and positions.ndim == 3:
            count = 0 if trunk.no_embed_class else trunk.num_prefix_tokens
            side = round((positions.shape[1] - count) ** 0.5)
            if side * side == positions.shape[1] - count and side > 0:
                found["pos_embed"] = resample_abs_pos_embed(
                    positions, list(trunk.patch_embed.grid_size), [side, side], num_prefix_tokens=count
                )
        return found

    def deployed(self) -> "FusedVitPyramid":
        """See `Pyramid.deployed`; for `size` alone."""
        return FusedVitPyramid(self)


class FusedVitPyramid(nn.Module):
    """`VitPyramid` at one size as it is deployed.

    `prefix` is the class and register tokens with their positions [1, K, C], `position` that of patches [1, h * w, C].
    """

    prefix: Tensor
    position: Tensor

    def __init__(self, source: VitPyramid) -> None:
        """New modules; `source` is left as it is.

        The maps read the stream as it is, so its mean over the channels stays (unlike in `FusedViT`).
        """
        super().__init__()
        trunk = source.trunk
        self.grid, self.blocks = (source.size[0] // PATCH, source.size[1] // PATCH), source.blocks
        prefix, position = tokens_of(trunk)
        self.register_buffer("prefix", prefix)
        self.register_buffer("position", position)
        layers, last = fuse_stem(trunk.patch_embed)
        self.stem = nn.Sequential(*layers, last)
        self.norm_pre = copy.deepcopy(trunk.norm_pre)
        self.body = nn.Sequential(*(fuse_block(block, centred=False) for block in trunk.blocks))
        self.neck = nn.ModuleList(folded(layer) for layer in source.neck)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x).flatten(2).transpose(1, 2)  # [B, h * w, C]
        x = torch.cat([self.prefix.expand(x.shape[0], -1, -1), x + self.position], dim=1)
        x = self.norm_pre(x)
        maps = []
        for index, block in enumerate(self.body):
            x = block(x)
            maps += [x[:, self.prefix.shape[1] :]] * self.blocks.count(index)
        return pyramid_from(maps, self.grid, self.neck)


def taken(depth: int) -> tuple[int, ...]:
    """Blocks (counted from 0) whose outputs are the maps: 3, 5, 7, 11 of 12."""
    return tuple(max(1, round(depth * share)) - 1 for share in SHARES)


def pyramid_from(streams: Sequence[Tensor], grid: tuple[int, int], neck: nn.ModuleList) -> list[Tensor]:
    """Patches [B, h * w, C] of four blocks -> four maps at strides 4, 8, 16, 32."""
    maps = [stream.transpose(1, 2).reshape(len(stream), -1, *grid) for stream in streams]  # [B, C, h, w]
    return [layer(x) for layer, x in zip(neck, maps, strict=True)]


def _deconv(width: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(width, width, 2, stride=2)
