"""Deployed form of timm's Swin-V1, the baseline that MCi2 is compared with.

`FusedSwin.from_timm(trunk)` is exactly `trunk.eval()` at its input size, written so that one delegate can take all of
it: windows are cut and joined by one transposition of a four-dimensional tensor, the cyclic shift is slices and a
concatenation, relative position bias and shift mask are constants, and of each LayerNorm only the normalisation is
left (see `blocks`). A comparison on phones is fair only if the baseline is rewritten as carefully as the model that it
is held against. One folding of the others does not exist here: the stream keeps its mean over the channels, because a
merging normalises four tokens at once and so sees how their means differ.

Where windows do not divide a grid, timm fills it up with zeros in front of the packed projection; such a token has the
projection's bias as key and value. Here that bias leaves both, exactly: what is added to all keys alike does not pass
the softmax, and what is added to all values alike is added to their mean, so it moves into the bias behind. The grid
can then be filled up with zeros *behind* the projection, and no linear layer runs on tokens that are not there.

Source: Liu et al., Swin Transformer, 2021 (arXiv 2103.14030), sections 3.1-3.2; timm/models/swin_transformer.py.

Shapes: B images, H x W tokens of C channels, windows of h x w tokens, N = h * w, M windows in an image, A heads.
"""

import copy

import torch
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F

from mobileclip.models.blocks import (
    Mlp,
    Normalise,
    attention,
    fold_norm_into_linear,
    fold_query_scale,
    linear_like,
)

Size = tuple[int, int]
_ONE_MASK = 1 << 21
"""Elements up to which relative position bias and shift mask are one constant: one addition instead of two, at the
price of a copy of the bias for every window. 8 MiB in fp32; Swin-L at 256 px stays below, at 640 px it would pay
450 MB."""


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
        patch, patch_norm = copy.deepcopy((trunk.patch_embed.proj, trunk.patch_embed.norm))
        body = [block for stage in fuse_stages(trunk) for block in stage]
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
        self, norm1: Normalise, attn: "WindowAttention", norm2: Normalise, mlp: Mlp, *, window: Size, shift: Size
    ) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = norm1, attn, norm2, mlp
        self.window, self.shift = window, shift

    def forward(self, x: Tensor) -> Tensor:
        (down, right), (h, w) = self.shift, self.window
        height, width = x.shape[1:3]
        below, beside = -height % h, -width % w
        y = self.attn.qkv(roll(self.norm1(x), down, right))  # [B, H, W, 3C]
        if below or beside:
            y = F.pad(y, (0, 0, 0, beside, 0, below))
        y = self.attn(partition(y, self.window))  # [B * M, N, C]
        y = join(y, (height + below, width + beside), self.window)
        if below:
            y = y[:, :height]
        if beside:
            y = y[:, :, :width]
        x = x + roll(self.attn.proj(y), -down, -right)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class WindowAttention(nn.Module):
    """What `SwinBlock` needs to attend: the projections, and between them packed windows `[B * M, N, 3C]` to
    `[B * M, N, C]`.

    `mask` is added to the scores, `[1 or M, A, N, N]`; then `shifted` where that is not in it, `[M, 1, N, N]`.
    """

    mask: Tensor
    shifted: Tensor | None

    def __init__(self, qkv: nn.Linear, proj: nn.Linear, heads: int, mask: Tensor, shifted: Tensor | None) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = qkv, proj, heads
        self.register_buffer("mask", mask)
        self.register_buffer("shifted", shifted)

    def forward(self, packed: Tensor) -> Tensor:
        masks = [self.mask] if self.shifted is None else [self.mask, self.shifted]
        windows = max(mask.shape[0] for mask in masks)
        if windows not in (1, packed.shape[0]):  # several images: each brings all its windows
            images = packed.shape[0] // windows
            masks = [mask if mask.shape[0] == 1 else mask.repeat(images, 1, 1, 1) for mask in masks]
        return attention(packed, self.heads, *masks)


class Merging(nn.Module):
    """Four neighbouring tokens become one of twice the channels: `[B, H, W, C]` to `[B, H / 2, W / 2, 2 C]`. An odd row
    or column has zeros beside it."""

    def __init__(self, norm: Normalise, reduction: nn.Linear) -> None:
        super().__init__()
        self.norm, self.reduction = norm, reduction

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
            height, width = height + height % 2, width + width % 2
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


def fuse_stages(trunk: SwinTransformer) -> list[nn.Sequential]:
    """The stages of `trunk` at its input size, each `[B, H, W, C]` to the same or to `[B, H / 2, W / 2, 2 C]`."""
    stages = []
    for stage in trunk.layers:
        merging = [fuse_merging(stage.downsample)] if isinstance(stage.downsample, PatchMerging) else []
        stages.append(nn.Sequential(*merging, *(fuse_block(block) for block in stage.blocks)))
    return stages


def fuse_block(block: SwinTransformerBlock) -> SwinBlock:
    """One timm block at its input size."""
    attn = block.attn
    norm1, qkv = fold_norm_into_linear(block.norm1, attn.qkv)
    norm2, fc1 = fold_norm_into_linear(block.norm2, block.mlp.fc1)
    qkv, proj = _without_constants(qkv, attn.qkv, attn.proj)
    mask, shifted = _masks(block)
    return SwinBlock(
        norm1,
        WindowAttention(fold_query_scale(qkv, attn.scale), proj, attn.num_heads, mask, shifted),
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


def _without_constants(qkv: nn.Linear, original: nn.Linear, proj: nn.Linear) -> tuple[nn.Linear, nn.Linear]:
    """(qkv, proj) in which the bias of the original projection has left keys and values: see the module's docstring.

    `qkv` is `original` with the norm folded in: of its bias, what came from the norm stays.
    """
    weight, bias = proj.weight.detach().double(), proj.bias.detach().double()
    packed = qkv.bias.detach().double()
    if original.bias is not None:
        kept = original.bias.detach().double()
        dim = kept.numel() // 3
        packed = torch.cat([packed[:dim], packed[dim:] - kept[dim:]])
        bias = bias + weight @ kept[2 * dim :]
    return linear_like(qkv.weight, qkv.weight.detach().double(), packed), linear_like(proj.weight, weight, bias)


def _masks(block: SwinTransformerBlock) -> tuple[Tensor, Tensor | None]:
    """Bias `[1, A, N, N]` and shift mask `[M, 1, N, N]` (0 or -100) of a block, or both as one `[M, A, N, N]`."""
    bias = block.attn._get_rel_pos_bias().detach()  # [1, A, N, N]
    mask = block.get_attn_mask(device=bias.device, dtype=bias.dtype)  # [M, N, N] or None
    if mask is not None:
        mask = mask[:, None]
        if mask.shape[0] * bias.numel() <= _ONE_MASK:
            bias, mask = bias + mask, None
    # with one head, odd strides would read as channels-last
    bias = bias.clone(memory_format=torch.contiguous_format)
    return bias, None if mask is None else mask.clone(memory_format=torch.contiguous_format)
