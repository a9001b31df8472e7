"""Merging parallel branches of convolutions and BatchNorms into one convolution, exactly.

A branch is a convolution with a BatchNorm after it, or a BatchNorm alone (a convolution whose kernel is one at its
centre). Kernels of several sizes are added about their centres. RepVGG: Ding et al., 2021 (arXiv 2101.03697), section
3.3; RepMixer: Vasu et al., 2023 (arXiv 2303.14189), section 3.1.1. Blocks are read by the names that timm and
models/text.py share (`identity`, `conv_kxk`, `conv_scale`, `large_conv`, `small_conv`); what timm has merged already
is copied.

Legend: O output channels, I input channels a group, K rows and L columns of a kernel.
"""

import copy
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobileclip.models.blocks import conv_like, fold_bn_into_conv, linear_like

_M = TypeVar("_M", bound=nn.Module)


def copied(layer: _M) -> _M:
    """A copy that shares nothing with `layer` and takes no gradient."""
    return copy.deepcopy(layer).requires_grad_(False)


def merge_parallel(block: nn.Module) -> nn.Conv2d:
    """The sum of a block's branches as one convolution with bias (activation and squeeze-excite stay outside)."""
    merged = getattr(block, "reparam_conv", None)
    if isinstance(merged, nn.Conv2d):
        return copied(merged)
    convs = [_folded(branch) for branch in _convolutions(block)]
    largest = max(convs, key=lambda conv: conv.weight[0, 0].numel())
    weight = torch.zeros_like(largest.weight)  # [O, I, K, L]
    bias = torch.zeros_like(weight[:, 0, 0, 0])  # [O]
    for conv in convs:
        assert conv.bias is not None
        rows, columns = ((big - small) // 2 for big, small in zip(weight.shape[2:], conv.weight.shape[2:], strict=True))
        weight += F.pad(conv.weight, (columns, columns, rows, rows))
        bias += conv.bias
    identity = getattr(block, "identity", None)
    if isinstance(identity, nn.BatchNorm2d):
        scale, shift = affine_of(identity)
        weight += _delta(weight) * scale.reshape(-1, 1, 1, 1)
        bias += shift
    return _as_stored(largest, weight, bias, next(block.parameters()))


def merge_mixer(mixer: nn.Module, gamma: Tensor | None) -> nn.Conv2d:
    """RepMixer, `x + gamma * (mixer(x) - norm(x))`, as one depthwise convolution; `gamma` None is one."""
    merged = getattr(mixer, "reparam_conv", None)
    if isinstance(merged, nn.Conv2d):
        return copied(merged)
    assert isinstance(mixer.mixer, nn.Module)
    assert isinstance(mixer.norm, nn.Module)
    identity = mixer.norm.identity
    assert isinstance(identity, nn.BatchNorm2d)
    conv = merge_parallel(copy.deepcopy(mixer.mixer).double())
    assert conv.bias is not None
    norm_scale, norm_shift = affine_of(identity)
    ones = torch.ones_like(norm_scale)
    factor = ones if gamma is None else gamma.detach().double().flatten()  # [O]
    centre = ones - factor * norm_scale
    weight = conv.weight * factor.reshape(-1, 1, 1, 1) + _delta(conv.weight) * centre.reshape(-1, 1, 1, 1)
    return _as_stored(conv, weight, factor * (conv.bias - norm_shift), next(mixer.parameters()))


def fold_bn_into_linear(bn: nn.BatchNorm2d, linear: nn.Linear) -> nn.Linear:
    """`linear(bn(x))` over channels as one linear layer: `W' = W * scale`, `b' = b + W @ shift`."""
    scale, shift = affine_of(bn)
    weight = linear.weight.detach().double()
    bias = weight @ shift
    if linear.bias is not None:
        bias = bias + linear.bias.detach().double()
    return linear_like(linear.weight, weight * scale, bias)


def affine_of(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A BatchNorm in evaluation as `x * scale + shift`, both [C] in float64."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = bn.weight.detach().double() * torch.rsqrt(bn.running_var.double() + bn.eps)
    return scale, bn.bias.detach().double() - bn.running_mean.double() * scale


def _convolutions(block: nn.Module) -> Iterator[nn.Module]:
    """Branches with a convolution `conv` and a BatchNorm `bn`."""
    kxk = getattr(block, "conv_kxk", None)
    if kxk is not None:
        yield from kxk
    for name in ("conv_scale", "large_conv", "small_conv"):
        branch = getattr(block, name, None)
        if isinstance(branch, nn.Module):
            yield branch


def _folded(branch: nn.Module) -> nn.Conv2d:
    """A branch's convolution and BatchNorm as one convolution in float64."""
    conv, bn = branch.conv, branch.bn
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(bn, nn.BatchNorm2d)
    return fold_bn_into_conv(copy.deepcopy(conv).double(), bn)


def _delta(like: Tensor) -> Tensor:
    """Kernel [O, I, K, L] that leaves its input as it is: one at the centre, on the channel's own input."""
    kernel = torch.zeros_like(like)
    channel = torch.arange(like.shape[0], device=like.device)
    kernel[channel, channel % like.shape[1], like.shape[2] // 2, like.shape[3] // 2] = 1
    return kernel


def _as_stored(geometry: nn.Conv2d, weight: Tensor, bias: Tensor, like: Tensor) -> nn.Conv2d:
    conv = conv_like(geometry, weight, bias)
    return conv.to(dtype=like.dtype)
