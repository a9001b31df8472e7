"""Smaller weights for Core ML: integers of 8 bits by channel, or places in palettes of 256, 64 or 16 values.

Without inputs each weight is rounded to what is nearest. With inputs (some pictures of what the model is for) three
things are better: palettes weigh a weight's error by the mean square of what it multiplies; the error of each column of
a layer is made good by the columns that are not rounded yet, as the inputs' second moments tell (GPTQ, Frantar et al.
2022, algorithm 1); and biases take up what the rounding moves a layer's mean by. On three trained nano models that
takes the mean of 1 - cosine from 1.9e-4 to 0.8e-4 with 6 bits and from 34e-4 to 11e-4 with 4.

Tensors below `SMALLEST` weights are not worth it and stay floats. Channels of fewer than `NARROW` weights (depthwise
kernels, 2 % of MCi2) have 8 bits in every form, and palettes rather than integers in all but `w8`: the middle of a
fused kernel is far larger than the rest, which integers lose. The mean of 1 - cosine on a trained MCi2 by these kernels
alone is 2.9e-4 with integers, 1.2e-4 with palettes of 256 at the same size, and 46e-4 with palettes of 64.

Scales by channel in front of palettes (iOS 18 has them) are not used: they made the error of 4 bits 15 % smaller, and
coremltools writes such a weight with one palette a channel, since iOS 18 itself decodes the other form wrongly.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.blocks import blocks_of
from export.palettes import group_of, nearest, palettes
from export.stored import Integers, Palette, keep
from export.targets import Quantisation

if TYPE_CHECKING:
    from export.views import View


Layer: TypeAlias = nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a weight is stored."""

    bits: int
    palette: bool = False
    """Places in a palette; else integers with a scale by channel."""
    joint: bool = False
    """Palettes whose values are integers of 8 bits with a scale themselves."""


FORMS: Mapping[str, Form] = {
    "w8": Form(bits=8),
    "w8p": Form(bits=8, palette=True),
    "w6p": Form(bits=6, palette=True),
    "w4p": Form(bits=4, palette=True),
    "w6pj": Form(bits=6, palette=True, joint=True),
    "w4pj": Form(bits=4, palette=True, joint=True),
}
"""Precision -> how the weights of a block are stored; all others leave it in floats."""
SMALLEST = 2048
"""Weights of a tensor: fewer stay floats."""
NARROW = 64
"""Weights of a channel: fewer have palettes of 256 in every form that has palettes."""
DAMPING = 0.1
"""Added to the diagonal of second moments, as a part of its mean: inputs that the calibration does not have count."""
ROWS = 4096
"""Positions by which the second moments of a layer's inputs are taken, about."""
WIDEST = 4096
"""Weights of a channel: for more the second moments are left out."""


@torch.no_grad()
def compressed(view: "View", quantisation: Quantisation) -> nn.Module:
    """A copy of `view` whose layers hold the integers and tables that a Core ML package stores (`export.stored`)."""
    small = copy.deepcopy(view)
    chosen: dict[str, Form] = {}
    for block, path in blocks_of(view).items():
        form = FORMS.get(quantisation.of(block))
        if form is not None:
            chosen |= dict.fromkeys(_layers(small, path), form)
    moments = _moments(view, quantisation, chosen)
    for name, form in chosen.items():
        layer = small.get_submodule(name)
        assert isinstance(layer, Layer)
        _compress(layer, form, moments.get(name))
    return small


def _layers(view: nn.Module, path: str) -> Iterator[str]:
    """Names of the layers below `path` whose weights are worth it."""
    for name, module in view.get_submodule(path).named_modules():
        if isinstance(module, Layer) and module.weight.numel() >= SMALLEST:
            yield f"{path}.{name}".strip(".")


@dataclass
class Moments:
    """Of the inputs of one layer, over positions and pictures; K is the weights of a channel."""

    squares: Tensor
    """Mean of x x^T, [K, K]."""
    mean: Tensor
    """[K]."""
    rows: int = 0


def _moments(view: "View", quantisation: Quantisation, chosen: Mapping[str, Form]) -> dict[str, Moments]:
    """Second moments of the inputs of every dense layer that is to be compressed; none without inputs."""
    found: dict[str, Moments] = {}
    each = max(64, math.ceil(ROWS / max(1, len(quantisation.inputs))))

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def seen(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            x = _columns(layer, given[0])
            x = x[:: max(1, len(x) // each)]
            kept = found.setdefault(name, Moments(x.new_zeros(x.shape[1], x.shape[1]), x.new_zeros(x.shape[1])))
            kept.squares.addmm_(x.T, x)
            kept.mean += x.sum(0)
            kept.rows += len(x)

        return seen

    dense = [name for name in chosen if _is_dense(view.get_submodule(name))]
    handles = [view.get_submodule(name).register_forward_pre_hook(hook(name)) for name in dense]
    try:
        for x in quantisation.inputs:
            view(x)
    finally:
        for handle in handles:
            handle.remove()
    for kept in found.values():
        kept.squares /= kept.rows
        kept.mean /= kept.rows
        kept.squares.diagonal().add_(DAMPING * kept.squares.diagonal().mean() + 1e-12)
    return found


def _is_dense(layer: nn.Module) -> bool:
    """Whether an output of a layer is a product with all of its inputs, of a bearable number."""
    if isinstance(layer, nn.Conv2d) and (layer.groups != 1 or layer.padding_mode != "zeros"):
        return False
    return isinstance(layer, (nn.Conv2d, nn.Linear)) and NARROW <= layer.weight[0].numel() <= WIDEST


def _columns(layer: nn.Module, x: Tensor) -> Tensor:
    """What each position multiplies the weights of a channel with, [positions, K]."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    assert isinstance(layer, nn.Conv2d)
    assert not isinstance(layer.padding, str)
    patches = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # [B, K, positions]
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])


def _compress(layer: Layer, form: Form, moments: Moments | None) -> None:
    """Round the weight of one layer; what it is stored as takes its place."""
    weight = layer.weight.detach().flatten(1)  # [O, K]
    shape = layer.weight.shape
    if form.palette:
        form = form if weight.shape[1] >= NARROW else FORMS["w8p"]
        kind, rows, parts, values = _to_palette(weight, shape, form, moments)
    else:
        kind = Integers()
        scale = _half(weight.abs().amax(1) / 127)
        values = torch.arange(-127, 128) * scale[:, None]
        rows = _rounded(weight, lambda column: (column / scale).round().clamp(-127, 127).long() + 127, values, moments)
        parts = [scale]
    dense = values.repeat_interleave(len(weight) // len(values), 0).gather(1, rows)
    bias = getattr(layer, "bias", None)
    if moments is not None and isinstance(bias, Tensor):
        layer.bias = nn.Parameter(bias + (weight - dense) @ moments.mean, requires_grad=False)
    stored = rows.to(torch.uint8) if isinstance(kind, Palette) else (rows - 127).to(torch.int8)
    keep(layer, kind, [stored.reshape(shape), *parts])


def _to_palette(
    weight: Tensor, shape: torch.Size, form: Form, moments: Moments | None
) -> tuple[nn.Module, Tensor, list[Tensor], Tensor]:
    """The form, the places [O, K], what is kept besides, and the values of each place [G, 2^bits]."""
    channels, inner = weight.shape
    groups = channels // group_of(channels, inner, form.bits)
    importance = None
    if moments is not None:
        importance = moments.squares.diagonal().expand(channels, inner).reshape(groups, -1)
    values = _half(palettes(weight.reshape(groups, -1), form.bits, importance))
    table, parts = values, []
    if form.joint:
        scale = _half(values.abs().amax(1) / 127)
        table = (values / scale[:, None]).round().clamp(-127, 127)
        values, parts = table * scale[:, None], [scale]
        table = table.to(torch.int8)

    def place(column: Tensor) -> Tensor:
        return nearest(values, column.reshape(groups, -1)).flatten()

    rows = _rounded(weight, place, values, moments)
    kept = table.reshape(groups, *[1] * (len(shape) - 1), -1, 1)
    return Palette(), rows, [kept, *parts], values


def _half(values: Tensor) -> Tensor:
    """Rounded to what fp16 holds, in which packages store scales and palettes; not zero."""
    rounded = values.half().float()
    return torch.where(values == 0, torch.full_like(values, 2.0**-14), rounded) if values.dim() == 1 else rounded


def _rounded(
    weight: Tensor, place: Callable[[Tensor], Tensor], values: Tensor, moments: Moments | None, span: int = 128
) -> Tensor:
    """The place of every weight, [O, K].

    Args:
        weight: [O, K].
        place: the place of each weight of a column, [O] -> [O].
        values: of each place, [G, 2^bits], a row for O / G channels.
        moments: of what the columns multiply; without, every weight goes to what is nearest.
        span: columns after which the others are corrected.
    """
    channels, inner = weight.shape
    if moments is None:
        return torch.stack([place(column) for column in weight.T], dim=1)
    order = moments.squares.diagonal().argsort(descending=True)
    squares = moments.squares[order][:, order]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(squares))
    upper = torch.linalg.cholesky(inverse, upper=True)
    left = weight[:, order].clone()
    found = torch.empty(channels, inner, dtype=torch.long)
    of_row = torch.arange(channels) // (channels // len(values))
    for start in range(0, inner, span):
        stop = min(start + span, inner)
        errors = left.new_empty(channels, stop - start)
        for column in range(start, stop):
            where = place(left[:, column])
            error = (left[:, column] - values[of_row, where]) / upper[column, column]
            left[:, column + 1 : stop].addr_(error, upper[column, column + 1 : stop], alpha=-1)
            errors[:, column - start], found[:, column] = error, where
        left[:, stop:].addmm_(errors, upper[start:stop, stop:], alpha=-1)
    return found[:, order.argsort()]
