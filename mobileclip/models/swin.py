"""Deployed form of timm's Swin-V1, the baseline that MCi2 is compared with.

`FusedSwin.from_timm(trunk)` is exactly `trunk.eval()` at its input size, written so that one delegate can take all of
it: windows are cut and joined by one transposition of a four-dimensional tensor, the cyclic shift is slices and a
concatenation, relative position bias and shift mask are one constant per block, and of each LayerNorm only the
normalisation is left (see `blocks`). A comparison on phones is fair only if the baseline is rewritten as carefully as
the model that it is held against.

Source: Liu et al., Swin Transformer, 2021 (arXiv 2103.14030), sections 3.1-3.2; timm/models/swin_transformer.py.

Shapes: B images, H x W tokens of C channels, windows of h x w tokens, N = h * w, M windows in an image, A heads.
"""

import copy

import torch
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn

from mobileclip.errors import MobileClipError
from mobileclip.models.blocks import Attention, Mlp, Normalise, fold_norm_into_linear, fold_query_scale

Size = tuple[int, int]


class FusedSwin(nn.Module):
    """Swin at one input size: `[B, 3, H, W]` to `[B, classes]`, or to the pooled `[B, C]` if it has no classifier."""

    def __init__(
        self, patch: nn.Conv2d, patch_norm: nn.Module, body: nn.Sequential, norm: nn.Module, head: nn.Module
    ) -> None:
        super().__init__()
        self.patch, self.patch_norm, self.body, self.norm, self.head = patch, patch_norm, body, norm, head

    @classmethod
    def from_timm(cls, trunk: SwinTransformer) -> "FusedSwin":
        """New modules equal to `trunk.eval()`; `trunk` is left as it is."""
        assert trunk.head.global_pool.pool_type == "avg", "only mean pooling has a deployed form"
        _require_whole_windows(trunk)
        body: list[nn.Module] = []
        for stage in trunk.layers:
            if isinstance(stage.downsample, PatchMerging):
                body.append(fuse_merging(stage.downsample))
            body.extend(fuse_block(block) for block in stage.blocks)
        patch, patch_norm = copy.deepcopy((trunk.patch_embed.proj, trunk.patch_embed.norm))
        norm, head = copy.deepcopy((trunk.norm, trunk.head.fc))
        if isinstance(head, nn.Linear):
            norm, head = fold_norm_into_linear(norm, head)  # the affine part passes through the mean over tokens
        fused = cls(patch, patch_norm, nn.Sequential(*body), norm, head)
        return fused.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)  # [B, H, W, C]
        x = self.norm(self.body(self.patch_norm(x)))
        x = x.permute(0, 3, 1, 2).mean((2, 3), keepdim=True).flatten(1)  # [B, C]
        out: Tensor = self.head(x)
        return out


class SwinBlock(nn.Module):
    """Attention within windows, shifted by `shift` tokens, then the perceptron: `[B, H, W, C]` to `[B, H, W, C]`."""

    def __init__(
        self, norm1: Normalise, attn: Attention, norm2: Normalise, mlp: Mlp, *, window: Size, shift: Size
    ) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = norm1, attn, norm2, mlp
        self.window, self.shift = window, shift

    def forward(self, x: Tensor) -> Tensor:
        down, right = self.shift
        size = (x.shape[1], x.shape[2])
        y = partition(roll(self.norm1(x), down, right), self.window)  # [B * M, N, C]
        y = roll(join(self.attn(y), size, self.window), -down, -right)
        x = x + y
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Merging(nn.Module):
    """Four neighbouring tokens become one of twice the channels: `[B, H, W, C]` to `[B, H / 2, W / 2, 2 C]`."""

    def __init__(self, norm: Normalise, reduction: nn.Linear) -> None:
        super().__init__()
        self.norm, self.reduction = norm, reduction

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        x = x.reshape(batch * height // 2, 2, width // 2, 2 * dim).transpose(1, 2)  # [B * H/2, W/2, row, column * C]
        x = x.reshape(batch, height // 2, width // 2, 4 * dim)
        out: Tensor = self.reduction(self.norm(x))
        return out


def partition(x: Tensor, window: Size) -> Tensor:
    """`[B, H, W, C]` cut into windows `[B * M, N, C]`, in timm's order, through four dimensions."""
    batch, height, width, dim = x.shape
    h, w = window
    if (height, width) != window:
        x = x.reshape(batch * height // h, h, width // w, w * dim).transpose(1, 2)  # [B * H/h, W/w, h, w * C]
    return x.reshape(-1, h * w, dim)


def join(x: Tensor, size: Size, window: Size) -> Tensor:
    """Windows `[B * M, N, C]` back to `[B, H, W, C]` where `size` is (H, W)."""
    height, width = size
    h, w = window
    dim = x.shape[-1]
    if size != window:
        x = x.reshape(-1, width // w, h, w * dim).transpose(1, 2)  # [B * H/h, h, W/w, w * C]
    return x.reshape(-1, height, width, dim)


def roll(x: Tensor, down: int, right: int) -> Tensor:
    """`torch.roll(x, (-down, -right), (1, 2))` of `[B, H, W, C]` without index arithmetic."""
    if down:
        x = torch.cat([x[:, down:], x[:, :down]], dim=1)
    if right:
        x = torch.cat([x[:, :, right:], x[:, :, :right]], dim=2)
    return x


def fuse_block(block: SwinTransformerBlock) -> SwinBlock:
    """One timm block; its bias `[1, A, N, N]` and shift mask `[M, N, N]` (0 or -100) are added to one mask, once."""
    attn = block.attn
    norm1, qkv = fold_norm_into_linear(block.norm1, attn.qkv)
    norm2, fc1 = fold_norm_into_linear(block.norm2, block.mlp.fc1)
    bias = attn._get_rel_pos_bias().detach()  # [1, A, N, N]
    mask = block.get_attn_mask(device=bias.device, dtype=bias.dtype)  # [M, N, N] or None
    if mask is not None:
        bias = bias + mask[:, None]
    bias = bias.clone(memory_format=torch.contiguous_format)  # with one head, odd strides would read as channels-last
    return SwinBlock(
        norm1,
        Attention(fold_query_scale(qkv, attn.scale), copy.deepcopy(attn.proj), attn.num_heads, bias),
        norm2,
        Mlp(fc1, copy.deepcopy(block.mlp.fc2), copy.deepcopy(block.mlp.act)),
        window=block.window_size,
        shift=block.shift_size,
    )


def fuse_merging(merging: PatchMerging) -> Merging:
    """timm puts the four tokens column first; weights reordered to row first need one transposition of the tokens."""
    norm, reduction = fold_norm_into_linear(merging.norm, merging.reduction)
    weight = reduction.weight.reshape(-1, 2, 2, merging.dim)  # [2C, column, row, C]
    reduction.weight = nn.Parameter(weight.transpose(1, 2).flatten(1), requires_grad=False)
    return Merging(norm, reduction)


def _require_whole_windows(trunk: SwinTransformer) -> None:
    """Refuse sizes at which timm pads: a padded grid has no exact static form here."""
    for index, stage in enumerate(trunk.layers):
        before, grid, window = stage.input_resolution, stage.output_resolution, stage.blocks[0].window_size
        halved = isinstance(stage.downsample, PatchMerging)
        if any(n % w for n, w in zip(grid, window, strict=True)) or (halved and any(n % 2 for n in before)):
            raise MobileClipError(
                f"a Swin for {'x'.join(map(str, trunk.patch_embed.img_size))} pixels is not fused: stage {index + 1} "
                f"makes {grid[0]}x{grid[1]} tokens of {before[0]}x{before[1]}, for windows of {window[0]}x{window[1]}. "
                "Each stage must halve evenly and hold whole windows: choose a size such as 224 with window 7 or 256 "
                "with window 8."
            )
