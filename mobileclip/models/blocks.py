"""Blocks that several deployed forms share, and the exact foldings that lead to them.

A fused tower keeps of each LayerNorm only the normalisation: its affine part is folded into the linear layer after it,
the scale of the attention into the weights of the queries, layer scale into the linear layer before it. What is folded
is computed in float64 and cast back, so folding costs no more than one rounding of each weight.

What is left is written for converters: attention is matmul, softmax, matmul over three slices of one packed projection
(`reshape(..., 3, ...).unbind(0)` or a fused SDPA splits the graph on XNNPACK), tensors have at most four dimensions,
and masks are constants.

A stream that is only ever read through LayerNorms over its channels may lose its mean over the channels, because every
reader subtracts it: `centre_output` takes it out of all that is added to the stream. `Normalise(centred=True)` then
tells a target without a LayerNorm that it need not centre (as SliceGPT does, arXiv 2401.15024, section 3.1).

Shapes: B batch (or batch x windows), N tokens, C channels, H heads, D = C / H.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LinearOrConv = TypeVar("LinearOrConv", nn.Linear, nn.Conv2d)


class Normalise(nn.Module):
    """LayerNorm over the last dimension without its affine part: `(x - mean) / sqrt(var + eps)`.

    `centred` promises that the input has zero mean over the last dimension; `forward` does not use it, a rewrite may.
    """

    def __init__(self, dim: int, eps: float, centred: bool = False) -> None:
        super().__init__()
        self.dim, self.eps, self.centred = dim, eps, centred

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.dim,), eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.dim}, eps={self.eps}, centred={self.centred}"


class Attention(nn.Module):
    """Self-attention over a packed projection, `[B, N, C]` to `[B, N, C_out]`.

    `qkv` gives `[B, N, 3C]` (queries, keys, values), scale 1/sqrt(D) already in the first third (`fold_query_scale`).
    `mask` is added to the scores: `[1, 1 or H, N, N]`, finite.
    """

    mask: Tensor | None

    def __init__(self, qkv: nn.Linear, proj: nn.Linear, heads: int, mask: Tensor | None = None) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = qkv, proj, heads
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        masks = () if self.mask is None else (self.mask,)
        out: Tensor = self.proj(attention(self.qkv(x), self.heads, *masks))
        return out


class Mlp(nn.Module):
    """Linear, GELU (exact), linear over the last dimension."""

    def __init__(self, fc1: nn.Linear, fc2: nn.Linear, act: nn.Module | None = None) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = fc1, act or nn.GELU(), fc2

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class Block(nn.Module):
    """Pre-norm transformer block, `[B, N, C]` to `[B, N, C]`; the ViT and the text tower are made of it."""

    def __init__(self, norm1: Normalise, attn: Attention, norm2: Normalise, mlp: Mlp) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = norm1, attn, norm2, mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def attention(qkv: Tensor, heads: int, *masks: Tensor) -> Tensor:
    """Attention of packed, already scaled `qkv` `[B, N, 3C]`, to `[B, N, C]`; `masks` add to scores `[B, H, N, N]`."""
    batch, tokens, packed = qkv.shape
    dim = packed // 3
    split = (batch, tokens, heads, dim // heads)
    q = qkv[..., :dim].reshape(split).transpose(1, 2)  # [B, H, N, D]
    k = qkv[..., dim : 2 * dim].reshape(split).permute(0, 2, 3, 1)  # [B, H, D, N], one transposition instead of two
    v = qkv[..., 2 * dim :].reshape(split).transpose(1, 2)  # [B, H, N, D]
    scores = torch.matmul(q, k)  # [B, H, N, N]
    for mask in masks:
        scores = scores + mask
    mixed = torch.matmul(scores.softmax(dim=-1), v)  # [B, H, N, D]
    return mixed.transpose(1, 2).reshape(batch, tokens, dim)


def fold_norm_into_linear(norm: nn.LayerNorm, linear: nn.Linear) -> tuple[Normalise, nn.Linear]:
    """`linear(norm(x))` as `linear'(normalise(x))`: `W' = W * g`, `b' = b + W @ beta` (both new modules)."""
    weight = linear.weight.detach().double()
    bias = _bias(linear)
    if norm.weight is not None:
        if norm.bias is not None:
            bias = bias + weight @ norm.bias.detach().double()
        weight = weight * norm.weight.detach().double()
    return Normalise(norm.normalized_shape[-1], norm.eps), linear_like(linear.weight, weight, bias)


def fold_query_scale(qkv: nn.Linear, scale: float) -> nn.Linear:
    """Packed qkv projection with `scale` multiplied into the queries, its first third."""
    factor = torch.ones(qkv.out_features, dtype=torch.float64)
    factor[: qkv.out_features // 3] = scale
    return scale_output(qkv, factor)


def scale_output(layer: LinearOrConv, factor: Tensor) -> LinearOrConv:
    """`layer(x) * factor` as one layer; `factor` is `[out]` (layer scale)."""
    gamma = factor.detach().double().to(layer.weight.device)
    weight = layer.weight.detach().double() * gamma.reshape(-1, *[1] * (layer.weight.ndim - 1))
    if isinstance(layer, nn.Conv2d):
        return conv_like(layer, weight, _bias(layer) * gamma)
    return linear_like(layer.weight, weight, _bias(layer) * gamma)


def centre(stream: Tensor) -> Tensor:
    """`[..., C]` without its mean over the channels."""
    wide = stream.detach().double()
    return (wide - wide.mean(-1, keepdim=True)).to(stream)


def centre_output(layer: LinearOrConv) -> LinearOrConv:
    """The layer whose output is `layer(x)` minus its mean over the output channels (a new module)."""
    weight = layer.weight.detach().double()
    weight, bias = weight - weight.mean(0), _bias(layer) - _bias(layer).mean()
    if isinstance(layer, nn.Conv2d):
        return conv_like(layer, weight, bias)
    return linear_like(layer.weight, weight, bias)


def fold_bn_into_conv(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """`bn(conv(x))` in evaluation as one convolution with bias (a new module)."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = torch.rsqrt(bn.running_var.double() + bn.eps)
    shift = -bn.running_mean.double() * scale
    if bn.weight is not None:
        gamma, beta = bn.weight.detach().double(), bn.bias.detach().double()
        scale, shift = scale * gamma, shift * gamma + beta
    weight = conv.weight.detach().double() * scale.reshape(-1, 1, 1, 1)
    return conv_like(conv, weight, _bias(conv) * scale + shift)


def _bias(layer: nn.Linear | nn.Conv2d) -> Tensor:
    """Bias in float64, zeros where the layer has none, `[out]`."""
    if layer.bias is None:
        return torch.zeros(layer.weight.shape[0], dtype=torch.float64, device=layer.weight.device)
    return layer.bias.detach().double()


def linear_like(like: Tensor, weight: Tensor, bias: Tensor) -> nn.Linear:
    """Linear layer of float64 `weight` `[out, in]` and `bias` `[out]`, in the type and on the device of `like`."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight = nn.Parameter(weight.to(like), requires_grad=False)
    linear.bias = nn.Parameter(bias.to(like), requires_grad=False)
    return linear


def conv_like(like: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """Convolution with the geometry, type and device of `like`, and float64 `weight` and `bias`."""
    conv = nn.Conv2d(
        like.in_channels,
        like.out_channels,
        like.kernel_size,  # type: ignore[arg-type]
        like.stride,  # type: ignore[arg-type]
        like.padding,  # type: ignore[arg-type]
        like.dilation,  # type: ignore[arg-type]
        like.groups,
        padding_mode=like.padding_mode,
        device="meta",
    )
    conv.weight = nn.Parameter(weight.to(like.weight), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(like.weight), requires_grad=False)
    return conv
