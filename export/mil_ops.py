"""The operators of Core ML's MIL, each as a small torch function: the table `OPS` at the end maps op types to them.

How to read it: a function's parameters are the MIL op's inputs, by the same names and with the same defaults; every
number arrives as a tensor (axes, strides and flags too; `int()`, `bool()` and `ints()` unpack them), strings as `str`,
and the inputs that MIL calls tuples (`values`, `ref_tensors`, ...) as lists. Floats are float32, integers int64, truth
values bool, whatever width the program declares: an interpreter that verifies wants ideal arithmetic, and
`export/mil.py` rounds where it is asked to. Layers (convolution, norms, resizing, ...) are in `export/mil_layers.py`.

Source of every definition: coremltools 9.0, `converters/mil/mil/ops/defs/iOS15` to `iOS18` (docstrings and
`value_inference`). What those leave open is said where it is decided.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from export import mil_layers as layers
from export.mil_layers import bounded, ints, pad_constant

Result: TypeAlias = Tensor | tuple[Tensor, ...]
Op: TypeAlias = Callable[..., Result]

# Activations


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate={"EXACT": "none", "TANH_APPROXIMATION": "tanh"}[mode])


def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, x * alpha.reshape(1, -1, *[1] * (x.ndim - 2)))


def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """alpha * log(1 + exp(beta * x)), alpha and beta per channel."""
    a, b = (v.reshape(1, -1, *[1] * (x.ndim - 2)) for v in (alpha, beta))
    return a * _softplus(b * x)


def _softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros(()))


_ACTIVATIONS: dict[str, Op] = {
    "clamped_relu": lambda x, alpha, beta: torch.minimum(torch.where(x >= 0, x, alpha * x), beta),
    "clip": lambda x, alpha, beta: torch.minimum(torch.maximum(x, alpha), beta),
    "elu": lambda x, alpha: torch.where(x >= 0, x, alpha * torch.expm1(x)),
    "gelu": gelu,
    "leaky_relu": lambda x, alpha: torch.where(x >= 0, x, alpha * x),
    "linear_activation": lambda x, alpha, beta: alpha * x + beta,
    "prelu": prelu,
    "relu": lambda x: F.relu(x),
    "relu6": lambda x: F.relu6(x),
    "scaled_tanh": lambda x, alpha, beta: alpha * torch.tanh(beta * x),
    "sigmoid": lambda x: torch.sigmoid(x),
    "sigmoid_hard": lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1),
    "silu": lambda x: F.silu(x),
    "softmax": lambda x, axis=None: torch.softmax(x, -1 if axis is None else int(axis)),
    "softplus": lambda x: _softplus(x),
    "softplus_parametric": softplus_parametric,
    "softsign": lambda x: x / (1 + x.abs()),
    "threshold": lambda x, alpha: torch.maximum(x, alpha),
    "thresholded_relu": lambda x, alpha: torch.where(x >= alpha, x, torch.zeros_like(x)),
}

# Elementwise, and reductions


def _unary(function: Callable[[Tensor], Tensor]) -> Op:
    return lambda x: function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Op:
    return lambda x, y: function(x, y)


def _divide(x: Tensor, y: Tensor) -> Tensor:
    """MIL types the quotient of two integers as an integer and does not say how it rounds: towards zero, as in C."""
    return torch.div(x, y, rounding_mode=None if x.is_floating_point() else "trunc")


def cast(x: Tensor, dtype: str) -> Tensor:
    """Floats stay float32 (`export/mil.py` rounds); narrow integers wrap as in C; floats are cut towards zero."""
    if dtype in ("fp16", "fp32", "fp64"):
        return x.float()
    if dtype == "bool":
        return x != 0
    return x.to(_INTEGERS[dtype]).to(torch.int64)


_INTEGERS = {
    "int8": torch.int8, "int16": torch.int16, "int32": torch.int32, "int64": torch.int64, "uint8": torch.uint8,
    "uint16": torch.uint16, "uint32": torch.uint32,
}  # fmt: skip
_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs, "acos": torch.acos, "asin": torch.asin, "atan": torch.atan, "atanh": torch.atanh,
    "ceil": torch.ceil, "cos": torch.cos, "cosh": torch.cosh, "erf": torch.erf, "exp": torch.exp, "exp2": torch.exp2,
    "floor": torch.floor, "identity": torch.clone, "logical_not": torch.logical_not, "round": torch.round,
    "sign": torch.sign, "sin": torch.sin, "sinh": torch.sinh, "sqrt": torch.sqrt, "square": torch.square,
    "tan": torch.tan, "tanh": torch.tanh,
}  # fmt: skip
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "equal": torch.eq, "floor_div": torch.floor_divide, "greater": torch.gt,
    "greater_equal": torch.ge, "less": torch.lt, "less_equal": torch.le, "logical_and": torch.logical_and,
    "logical_or": torch.logical_or, "logical_xor": torch.logical_xor, "maximum": torch.maximum,
    "minimum": torch.minimum, "mod": torch.remainder, "mul": torch.mul, "not_equal": torch.ne, "pow": torch.pow,
    "real_div": _divide, "sub": torch.sub,
}  # fmt: skip
_ELEMENTWISE: dict[str, Op] = {
    **{name: _unary(function) for name, function in _UNARY.items()},
    **{name: _binary(function) for name, function in _BINARY.items()},
    "cast": cast,
    "inverse": lambda x, epsilon=1e-4: 1 / (x + epsilon),
    "log": lambda x, epsilon=1e-45: torch.log(x + epsilon),
    "rsqrt": lambda x, epsilon=1e-12: 1 / torch.sqrt(x + epsilon),
    "select": lambda cond, a, b: torch.where(cond.bool(), a, b),
}


def _reduction(function: Callable[[Tensor, list[int]], Tensor]) -> Op:
    """`function` reduces the axes that it is given and keeps them with size 1."""

    def reduce(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | None = None) -> Tensor:
        over = [a % x.ndim for a in ints(axes, range(x.ndim))]
        y = function(x, over)
        if keep_dims is None or not bool(keep_dims):
            y = y.reshape([n for i, n in enumerate(y.shape) if i not in over])
        return y if x.is_floating_point() else y.to(x.dtype)

    return reduce


def _product(x: Tensor, axes: list[int]) -> Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True)
    return x


def _reduce_arg(function: Callable[..., Tensor]) -> Op:
    """The first index of the extreme value; MIL leaves open which one wins a tie."""

    def reduce(
        x: Tensor, axis: Tensor | None = None, keep_dims: Tensor | None = None, output_dtype: str = "int32"
    ) -> Tensor:
        return function(x, -1 if axis is None else int(axis), keepdim=keep_dims is not None and bool(keep_dims))

    return reduce


_REDUCTIONS: dict[str, Op] = {
    "reduce_argmax": _reduce_arg(torch.argmax),
    "reduce_argmin": _reduce_arg(torch.argmin),
    "reduce_l1_norm": _reduction(lambda x, axes: x.abs().sum(axes, keepdim=True)),
    "reduce_l2_norm": _reduction(lambda x, axes: x.square().sum(axes, keepdim=True).sqrt()),
    "reduce_log_sum": _reduction(lambda x, axes: x.sum(axes, keepdim=True).log()),
    "reduce_log_sum_exp": _reduction(lambda x, axes: x.float().logsumexp(axes, keepdim=True)),
    "reduce_max": _reduction(lambda x, axes: x.amax(axes, keepdim=True)),
    "reduce_mean": _reduction(lambda x, axes: x.float().mean(axes, keepdim=True)),
    "reduce_min": _reduction(lambda x, axes: x.amin(axes, keepdim=True)),
    "reduce_prod": _reduction(_product),
    "reduce_sum": _reduction(lambda x, axes: x.sum(axes, keepdim=True)),
    "reduce_sum_square": _reduction(lambda x, axes: x.square().sum(axes, keepdim=True)),
}

# Products


def matmul(x: Tensor, y: Tensor, transpose_x: Tensor | None = None, transpose_y: Tensor | None = None) -> Tensor:
    if transpose_x is not None and bool(transpose_x) and x.ndim > 1:
        x = x.mT
    if transpose_y is not None and bool(transpose_y) and y.ndim > 1:
        y = y.mT
    return torch.matmul(x, y)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., D_in], weight [D_out, D_in]."""
    return F.linear(x, weight, bias)


# Shape


def reshape(x: Tensor, shape: Tensor) -> Tensor:
    """-1: what remains; 0: the size of x's axis at the same distance from the last (iOS 17), 1 where x has none."""
    size = ints(shape)
    for i, n in enumerate(size):
        if n == 0:
            back = len(size) - i
            size[i] = x.shape[-back] if back <= x.ndim else 1
    return x.reshape(size)


def reshape_like(
    x: Tensor, ref_tensors: list[Tensor], begins: list[Tensor], ends: list[Tensor], end_masks: list[Tensor]
) -> Tensor:
    size: list[int] = []
    for ref, begin, end, mask in zip(ref_tensors, begins, ends, end_masks, strict=True):
        size += ref.shape[int(begin) : None if bool(mask) else int(end)]
    return x.reshape(size)


def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + axes.numel()
    for axis in sorted(a % rank for a in ints(axes)):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Axes of another size than 1 stay."""
    return x.squeeze(tuple(ints(axes, range(x.ndim))))


def flatten2d(x: Tensor, axis: Tensor | None = None) -> Tensor:
    cut = 1 if axis is None else int(axis)
    cut = cut + x.ndim if cut < 0 else cut
    return x.reshape(math.prod(x.shape[:cut]), -1)


def concat(values: list[Tensor], axis: Tensor, interleave: Tensor | None = None) -> Tensor:
    if values[0].ndim == 0:
        return torch.stack(values)
    along = int(axis) % values[0].ndim
    if interleave is not None and bool(interleave):
        return torch.stack(values, along + 1).flatten(along, along + 1)
    return torch.cat(values, along)


def split(
    x: Tensor, axis: Tensor, num_splits: Tensor | None = None, split_sizes: Tensor | None = None
) -> tuple[Tensor, ...]:
    along = int(axis)
    if split_sizes is not None:
        return torch.split(x, ints(split_sizes), along)
    assert num_splits is not None
    return torch.split(x, x.shape[along] // int(num_splits), along)


def _slices(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None,
    begin_mask: Tensor | None,
    end_mask: Tensor | None,
    squeeze_mask: Tensor | None,
) -> tuple[tuple[slice, ...], list[int], list[int]]:
    """Numpy's `begin:end:stride`, masks meaning "left out": slices of positive steps, axes to flip, axes to squeeze."""
    rank = x.ndim
    masks = [ints(m, [0] * rank) for m in (begin_mask, end_mask, squeeze_mask)]
    slices, flipped = [], []
    for axis, (n, b, e, s, no_begin, no_end, single) in enumerate(
        zip(x.shape, ints(begin), ints(end), ints(stride, [1] * rank), *masks, strict=True)
    ):
        if single:
            index = 0 if no_begin else b
            if not -n <= index < n:
                raise IndexError(f"index {index} on an axis of {n}")
            slices.append(slice(index % n, index % n + 1))
            continue
        chosen = range(n)[slice(None if no_begin else b, None if no_end else e, s)]
        if s < 0:
            chosen = chosen[::-1]
            flipped.append(axis)
        slices.append(slice(chosen.start, chosen.stop, chosen.step) if chosen else slice(0, 0))
    return tuple(slices), flipped, [i for i, single in enumerate(masks[2]) if single]


def slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    slices, flipped, single = _slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    y = x[slices].flip(flipped) if flipped else x[slices]
    return y.squeeze(tuple(single)) if single else y


def slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    """A size of -1 takes what remains."""
    for axis, (start, length) in enumerate(zip(ints(begin), ints(size), strict=True)):
        start = start + x.shape[axis] if start < 0 else start
        x = x.narrow(axis, start, x.shape[axis] - start if length == -1 else length)
    return x


def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    slices, flipped, _ = _slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    y = x.clone()
    y[slices] = update.reshape(y[slices].shape).flip(flipped)
    return y


def sliding_windows(x: Tensor, axis: Tensor, size: Tensor, stride: Tensor | None = None) -> Tensor:
    """[..., n, ...] -> [..., windows, size, ...]"""
    along = int(axis) % x.ndim
    return x.unfold(along, int(size), 1 if stride is None else int(stride)).movedim(-1, along + 1)


def reverse_sequence(
    x: Tensor, lengths: Tensor, seq_axis: Tensor | None = None, batch_axis: Tensor | None = None
) -> Tensor:
    sequence, batch = (0 if a is None else int(a) % x.ndim for a in (seq_axis, batch_axis))
    place = torch.arange(x.shape[sequence])
    back = lengths.unsqueeze(1) - 1 - place
    index = torch.where(back >= 0, back, place)  # [batch, sequence]
    index = index if batch < sequence else index.T
    index = index.reshape([n if i in (sequence, batch) else 1 for i, n in enumerate(x.shape)])
    return x.gather(sequence, index.expand(x.shape))


def depth_to_space(x: Tensor, block_size: Tensor) -> Tensor:
    """Channel (row * block + column) * C + c goes to row, column (TensorFlow's order; `pixel_shuffle` is torch's)."""
    b = int(block_size)
    n, c, h, w = x.shape
    return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)


def space_to_depth(x: Tensor, block_size: Tensor) -> Tensor:
    b = int(block_size)
    n, c, h, w = x.shape
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b**2, h // b, w // b)


def space_to_batch(x: Tensor, block_shape: Tensor, paddings: Tensor) -> Tensor:
    """Batch (row * blocks + column) * N + n, as TensorFlow orders it."""
    (b0, b1), flat = ints(block_shape), ints(paddings)
    x = pad_constant(x, [(flat[0], flat[1]), (flat[2], flat[3])], 0.0)
    n, c, h, w = x.shape
    return x.reshape(n, c, h // b0, b0, w // b1, b1).permute(3, 5, 0, 1, 2, 4).reshape(-1, c, h // b0, w // b1)


def batch_to_space(x: Tensor, block_shape: Tensor, crops: Tensor) -> Tensor:
    (b0, b1), (top, bottom, left, right) = ints(block_shape), ints(crops)
    n, c, h, w = x.shape
    y = x.reshape(b0, b1, n // (b0 * b1), c, h, w).permute(2, 3, 4, 0, 5, 1).reshape(-1, c, h * b0, w * b1)
    return y[:, :, top : h * b0 - bottom, left : w * b1 - right]


def pad(x: Tensor, pad: Tensor, mode: str = "constant", constant_val: Tensor | float = 0.0) -> Tensor:
    """`pad` holds (before, after) for the last axes."""
    flat = ints(pad)
    pairs = list(zip(flat[::2], flat[1::2], strict=True))
    first = x.ndim - len(pairs)
    bounded([n + sum(p) for n, p in zip(x.shape[first:], pairs, strict=True)])
    if mode == "constant":
        return pad_constant(x, pairs, constant_val.item() if isinstance(constant_val, Tensor) else constant_val)
    for axis, (before, after) in enumerate(pairs, first):
        n = x.shape[axis]
        index = torch.arange(-before, n + after)
        if mode == "reflect":  # the edge is not repeated
            index = (n - 1) - (index % max(1, 2 * n - 2) - (n - 1)).abs()
        elif mode != "replicate":
            raise ValueError(f"mode '{mode}'")
        x = x.index_select(axis, index.clamp(0, n - 1))
    return x


# Gather and scatter


def _wrapped(indices: Tensor, size: int) -> Tensor:
    """Negative indices count from the end (iOS 15 and 16; iOS 17 leaves them undefined)."""
    return torch.where(indices < 0, indices + size, indices)


def gather(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | None = None,
    batch_dims: Tensor | None = None,
    validate_indices: Tensor | None = None,
) -> Tensor:
    return _gather(x, indices, 0 if axis is None else int(axis) % x.ndim, 0 if batch_dims is None else int(batch_dims))


def _gather(x: Tensor, indices: Tensor, axis: int, batch_dims: int) -> Tensor:
    if batch_dims:
        parts = zip(x.unbind(), indices.unbind(), strict=True)
        return torch.stack([_gather(a, i, axis - 1, batch_dims - 1) for a, i in parts])
    taken = x.index_select(axis, _wrapped(indices, x.shape[axis]).reshape(-1))
    return taken.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def gather_along_axis(
    x: Tensor, indices: Tensor, axis: Tensor | None = None, validate_indices: Tensor | None = None
) -> Tensor:
    along = 0 if axis is None else int(axis)
    return x.gather(along, _wrapped(indices, x.shape[along]))


def gather_nd(
    x: Tensor, indices: Tensor, batch_dims: Tensor | None = None, validate_indices: Tensor | None = None
) -> Tensor:
    """The last axis of `indices` holds one index for each leading axis of x."""
    return _gather_nd(x, indices, 0 if batch_dims is None else int(batch_dims))


def _gather_nd(x: Tensor, indices: Tensor, batch_dims: int) -> Tensor:
    if batch_dims:
        parts = zip(x.unbind(), indices.unbind(), strict=True)
        return torch.stack([_gather_nd(a, i, batch_dims - 1) for a, i in parts])
    return x[indices.unbind(-1)]


def _scatter(data: Tensor, axis: int, indices: Tensor, updates: Tensor, mode: str) -> Tensor:
    """`indices` and `updates` of one shape; several updates of one place combine, except for `update`."""
    index = _wrapped(indices, data.shape[axis])
    if mode == "update":
        return data.scatter(axis, index, updates)
    if mode == "sub":
        return data.scatter_reduce(axis, index, -updates, "sum")
    if mode == "div":
        return data / torch.ones_like(data).scatter_reduce(axis, index, updates, "prod")
    reduce = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}[mode]
    return data.scatter_reduce(axis, index, updates, reduce)


def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Tensor | None = None,
    mode: str = "add",
    validate_indices: Tensor | None = None,
) -> Tensor:
    """`indices` [n] name slices of data along `axis`."""
    along = 0 if axis is None else int(axis) % data.ndim
    index = indices.reshape([-1 if i == along else 1 for i in range(data.ndim)])
    return _scatter(data, along, index.expand(updates.shape), updates, mode)


def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Tensor | None = None,
    mode: str = "add",
    validate_indices: Tensor | None = None,
) -> Tensor:
    return _scatter(data, 0 if axis is None else int(axis), indices, updates, mode)


def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, mode: str = "add", validate_indices: Tensor | None = None
) -> Tensor:
    """As `gather_nd` reads: the leading axes of data become one, along which slices are scattered."""
    depth = indices.shape[-1]
    lead, slices = data.shape[:depth], data.shape[depth:]
    flat = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for i, size in enumerate(lead):
        flat = flat * size + _wrapped(indices[..., i], size)
    width = math.prod(slices)
    index = flat.reshape(-1, 1).expand(-1, width)
    return _scatter(data.reshape(-1, width), 0, index, updates.reshape(-1, width), mode).reshape(data.shape)


# Making and ordering tensors


def fill(shape: Tensor, value: Tensor | float = 0.0) -> Tensor:
    return torch.as_tensor(value).expand(bounded(ints(shape))).clone()


def fill_like(ref_tensor: Tensor, value: Tensor | float = 0.0) -> Tensor:
    return torch.as_tensor(value).expand(ref_tensor.shape).clone()


def range_1d(end: Tensor, start: Tensor, step: Tensor) -> Tensor:
    first, last, by = start.item(), end.item(), step.item()
    bounded([max(0, math.ceil((last - first) / by))])
    return torch.arange(first, last, by, dtype=start.dtype)


def one_hot(
    indices: Tensor,
    one_hot_vector_size: Tensor,
    axis: Tensor | None = None,
    on_value: Tensor | int = 1,
    off_value: Tensor | int = 0,
) -> Tensor:
    along = -1 if axis is None else int(axis)
    along = along + indices.ndim + 1 if along < 0 else along
    classes = torch.arange(bounded([int(one_hot_vector_size)])[0])
    hit = indices.unsqueeze(along) == classes.reshape([-1 if i == along else 1 for i in range(indices.ndim + 1)])
    return torch.where(hit, torch.as_tensor(on_value), torch.as_tensor(off_value))


def tile(x: Tensor, reps: Tensor) -> Tensor:
    bounded([n * r for n, r in zip(x.shape, ints(reps), strict=True)])
    return x.repeat(ints(reps))


def band_part(x: Tensor, lower: Tensor | None = None, upper: Tensor | None = None) -> Tensor:
    below = torch.arange(x.shape[-2]).unsqueeze(1) - torch.arange(x.shape[-1])
    down, up = (-1 if v is None else int(v) for v in (lower, upper))
    band = ((below <= down) | (down < 0)) & ((-below <= up) | (up < 0))
    return torch.where(band, x, torch.zeros_like(x))


def cumsum(
    x: Tensor, axis: Tensor | None = None, exclusive: Tensor | None = None, reverse: Tensor | None = None
) -> Tensor:
    along = 0 if axis is None else int(axis)
    backwards = reverse is not None and bool(reverse)
    x = x.flip(along) if backwards else x
    y = x.cumsum(along)
    if exclusive is not None and bool(exclusive):
        y = y - x
    return y.flip(along) if backwards else y


def argsort(x: Tensor, axis: Tensor | None = None, ascending: Tensor | None = None) -> Tensor:
    descending = ascending is None or not bool(ascending)
    return x.argsort(dim=-1 if axis is None else int(axis), descending=descending, stable=True)


def topk(
    x: Tensor,
    k: Tensor | None = None,
    axis: Tensor | None = None,
    ascending: Tensor | None = None,
    sort: Tensor | None = None,
    return_indices: Tensor | None = None,
    output_indices_dtype: str = "int32",
) -> Result:
    """Values and indices; k = -1 takes all. Sorted even where the program does not ask: any order is allowed there."""
    along = -1 if axis is None else int(axis)
    count = 1 if k is None else int(k)
    indices = argsort(x, torch.tensor(along), ascending).narrow(along, 0, x.shape[along] if count == -1 else count)
    values = x.gather(along, indices)
    return values if return_indices is not None and not bool(return_indices) else (values, indices)


OPS: dict[str, Op] = {
    **_ACTIVATIONS,
    **_ELEMENTWISE,
    **_REDUCTIONS,
    "affine": layers.affine,
    "argsort": argsort,
    "avg_pool": layers.avg_pool,
    "band_part": band_part,
    "batch_norm": layers.batch_norm,
    "batch_to_space": batch_to_space,
    "classify": layers.classify,
    "concat": concat,
    "conv": layers.conv,
    "conv_transpose": layers.conv_transpose,
    "crop": layers.crop,
    "crop_resize": layers.crop_resize,
    "cumsum": cumsum,
    "depth_to_space": depth_to_space,
    "dequantize": layers.dequantize,
    "einsum": lambda values, equation: torch.einsum(equation, *values),
    "expand_dims": expand_dims,
    "fill": fill,
    "fill_like": fill_like,
    "flatten2d": flatten2d,
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "gather_nd": gather_nd,
    "gru": layers.gru,
    "instance_norm": layers.instance_norm,
    "l2_norm": layers.l2_norm,
    "l2_pool": layers.l2_pool,
    "layer_norm": layers.layer_norm,
    "linear": linear,
    "local_response_norm": layers.local_response_norm,
    "lstm": layers.lstm,
    "matmul": matmul,
    "max_pool": layers.max_pool,
    "non_maximum_suppression": layers.non_maximum_suppression,
    "non_zero": lambda x: torch.nonzero(x),
    "one_hot": one_hot,
    "pad": pad,
    "pixel_shuffle": lambda x, upscale_factor: F.pixel_shuffle(x, int(upscale_factor)),
    "pixel_unshuffle": lambda x, downscale_factor: F.pixel_unshuffle(x, int(downscale_factor)),
    "quantize": layers.quantize,
    "range_1d": range_1d,
    "resample": layers.resample,
    "reshape": reshape,
    "reshape_like": reshape_like,
    "resize": layers.resize,
    "resize_bilinear": layers.resize_bilinear,
    "resize_nearest_neighbor": layers.resize_nearest_neighbor,
    "reverse": lambda x, axes=None: x.flip(ints(axes, range(x.ndim))),
    "reverse_sequence": reverse_sequence,
    "rnn": layers.rnn,
    "scaled_dot_product_attention": layers.scaled_dot_product_attention,
    "scatter": scatter,
    "scatter_along_axis": scatter_along_axis,
    "scatter_nd": scatter_nd,
    "shape": lambda x: torch.tensor(x.shape),
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "slice_update": slice_update,
    "sliding_windows": sliding_windows,
    "space_to_batch": space_to_batch,
    "space_to_depth": space_to_depth,
    "split": split,
    "squeeze": squeeze,
    "stack": lambda values, axis: torch.stack(values, int(axis)),
    "tile": tile,
    "topk": topk,
    "transpose": lambda x, perm: x.permute(ints(perm)),
    "upsample_bilinear": layers.upsample_bilinear,
    "upsample_nearest_neighbor": layers.upsample_nearest_neighbor,
}

# Ops that only move or choose numbers: rounding their outputs again would change nothing.
MOVES = frozenset({
    "concat", "crop", "depth_to_space", "expand_dims", "flatten2d", "gather", "gather_along_axis", "gather_nd",
    "identity", "max_pool", "pixel_shuffle", "pixel_unshuffle", "relu", "reshape", "reshape_like", "reverse",
    "reverse_sequence", "slice_by_index", "slice_by_size", "slice_update", "sliding_windows", "space_to_depth", "split",
    "squeeze", "stack", "tile", "topk", "transpose",
})  # fmt: skip

# Ops that are left out on purpose, and why; the error text says it.
LEFT_OUT = {
    **dict.fromkeys(("cond", "while_loop"), "control flow"),
    **dict.fromkeys(("list_gather", "list_length", "list_read", "list_scatter", "list_write", "make_list"), "lists"),
    **dict.fromkeys(("read_state", "write_state", "coreml_update_state"), "keeps a state between calls"),
    **dict.fromkeys(
        ("random_bernoulli", "random_categorical", "random_normal", "random_uniform"), "differs in every run"
    ),
    "conv_quantized": "experimental",
    "custom_layer": "code of another program",
}
