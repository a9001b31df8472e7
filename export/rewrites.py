"""Exact rewrites for targets that lack an operator or run it badly.

A rewrite is a function from one module to its replacement, or to None where it does not apply; `REWRITES` names them
and `rewrite(model, names)` applies them to every submodule of a copy. Replacements compute the same function (to
rounding), so that a rewritten view is verified against the view as it was.

Shapes: `...` any leading dimensions, C channels.
"""

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.depthwise import split_depthwise, split_multiplier
from export.pyramids import linear_pooling, nearest_deconv
from mobileclip.errors import UnknownName
from mobileclip.models.blocks import Normalise

Rewrite = Callable[[nn.Module], nn.Module | None]


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


REWRITES: dict[str, Rewrite] = {
    "linear-layernorm": linear_layernorm,
    "split-multiplier": split_multiplier,
    "split-depthwise": split_depthwise,
    "nearest-deconv": nearest_deconv,
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
