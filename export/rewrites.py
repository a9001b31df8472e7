"""Exact rewrites for targets that lack an operator or run it badly.

A rewrite is a function from one module to its replacement, or to None where it does not apply; `REWRITES` names them
and `rewrite(model, names)` applies them to every submodule of a copy. Replacements compute the same function (to
rounding), so that a rewritten view is verified against the view as it was.

Shapes: `...` any leading dimensions, C channels.
"""

import copy
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.depthwise import split_depthwise, split_multiplier
from export.pyramids import linear_pooling, nearest_products
from mobileclip.errors import UnknownName
from mobileclip.models.blocks import Normalise

Rewrite = Callable[[nn.Module], nn.Module | None]
LONGEST_INNER = 6912
"""Products of an output of a convolution: of a 3x3 kernel over 768 channels, the longest at nearly full speed."""
BEST_INNER = 4608
"""Of a 3x3 kernel over 512 channels, the fastest."""


def rewrite(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """A copy of `model` with the named rewrites applied in order; raises `UnknownName`. `model` is left as it is."""
    names = list(names)
    for name in names:
        if name not in REWRITES:
            raise UnknownName("rewrite", name, REWRITES)
    model = copy.deepcopy(model)
    for name in names:
        model = _replaced(model, REWRITES[name])
    return model


class LinearLayerNorm(nn.Module):
    """LayerNorm over the last dimension of `[..., C]` whose means are linear layers of one output, with 1/C as weights.

    XNNPACK has no LayerNorm, and its mean wants the last two of four dimensions; a linear layer it takes anywhere. An
    input that is `centred` (see `Normalise`) saves the centring.
    """

    mean: Tensor
    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self, dim: int, eps: float, *, centred: bool = False, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> None:
        super().__init__()
        self.eps, self.centred = eps, centred
        like = torch.empty(0) if weight is None else weight
        self.register_buffer("mean", torch.full((1, dim), 1 / dim, dtype=like.dtype, device=like.device))
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        if not self.centred:
            x = x - F.linear(x, self.mean)
        x = x * torch.rsqrt(F.linear(x * x, self.mean) + self.eps)
        if self.weight is not None:
            x = x * self.weight
        if self.bias is not None:
            x = x + self.bias
        return x


def linear_layernorm(module: nn.Module) -> nn.Module | None:
    """`Normalise` and `nn.LayerNorm` over one dimension as `LinearLayerNorm`."""
    if isinstance(module, Normalise):
        return LinearLayerNorm(module.dim, module.eps, centred=module.centred)
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        affine = [None if p is None else p.detach().clone() for p in (module.weight, module.bias)]
        return LinearLayerNorm(module.normalized_shape[0], module.eps, weight=affine[0], bias=affine[1])
    return None


class SplitInputs(nn.Module):
    """A convolution, `[B, C, H, W]` to `[B, D, H, W]`, as the sum of `parts` ones of some input channels each."""

    def __init__(self, conv: nn.Conv2d, parts: int) -> None:
        super().__init__()
        weights = conv.weight.detach().tensor_split(parts, dim=1)
        self.channels = [weight.shape[1] for weight in weights]
        self.parts = nn.ModuleList(_part(conv, weight, bias=not index) for index, weight in enumerate(weights))

    def forward(self, x: Tensor) -> Tensor:
        total, start = None, 0
        for part, channels in zip(self.parts, self.channels, strict=True):
            term: Tensor = part(x[:, start : start + channels])  # slices: XNNPACK's delegate leaves `split` out
            total, start = term if total is None else total + term, start + channels
        assert total is not None
        return total


def _part(conv: nn.Conv2d, weight: Tensor, bias: bool) -> nn.Conv2d:
    part = copy.deepcopy(conv)
    part.in_channels, part.weight = weight.shape[1], nn.Parameter(weight.clone(), requires_grad=False)
    if not bias:
        part.bias = None
    return part


def split_inputs(module: nn.Module) -> nn.Module | None:
    """A dense convolution with more than `LONGEST_INNER` products to an output as a sum of shorter ones.

    XNNPACK multiplies over kernel and input channels before it takes the next columns; once the weights of that length
    leave the second-level cache, a 3x3 convolution of 1024 channels runs at a fifth of the speed of one of 512.
    """
    if not isinstance(module, nn.Conv2d) or module.groups != 1:
        return None
    inner = module.weight[0].numel()
    return SplitInputs(module, math.ceil(inner / BEST_INNER)) if inner > LONGEST_INNER else None


REWRITES: dict[str, Rewrite] = {
    "linear-layernorm": linear_layernorm,
    "split-inputs": split_inputs,
    "split-multiplier": split_multiplier,
    "split-depthwise": split_depthwise,
    "nearest-products": nearest_products,
    "linear-pooling": linear_pooling,
}


def _replaced(module: nn.Module, change: Rewrite) -> nn.Module:
    """`module` changed, or with its children changed in place; what a rewrite made is not rewritten again."""
    new = change(module)
    if new is not None:
        return new.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, _replaced(child, change))
    return module
