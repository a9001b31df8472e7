"""MIL's operators on values, shapes and indices against coremltools' own values, torch and numpy.

Many cases are in one program; the larger operators are in `test_mil_layers.py`.
"""

from collections.abc import Callable
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from export.mil_ops import LEFT_OUT, OPS
from export.mil_package import DECODERS

Case = tuple[dict[str, np.ndarray], Callable[..., Any], Any]
"""Inputs, how MIL variables become the operator's outputs, and the answer or None for coremltools' own."""

rng = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def integers(low: int, high: int, *shape: int) -> np.ndarray:
    return rng.integers(low, high, shape).astype(np.int32)


IMAGE, SMALL, POSITIVE = normal(2, 8, 7, 6), normal(2, 3, 4), np.abs(normal(2, 3, 4)) + 0.1
UNIT = np.tanh(normal(2, 3, 4))
GAMMA, BETA = normal(8), np.abs(normal(8))


def unary(name: str, x: np.ndarray, **extra: Any) -> Case:
    return {"x": x}, lambda x: getattr(mb, name)(x=x, **extra), None


def binary(name: str, x: np.ndarray, y: np.ndarray) -> Case:
    return {"x": x, "y": y}, lambda x, y: getattr(mb, name)(x=x, y=y), None


ELEMENTWISE: dict[str, Case] = {
    **{
        n: unary(n, SMALL)
        for n in (
            "abs",
            "atan",
            "ceil",
            "cos",
            "cosh",
            "erf",
            "exp",
            "exp2",
            "floor",
            "sign",
            "sin",
            "sinh",
            "square",
            "tan",
            "tanh",
        )
    },
    **{n: unary(n, SMALL) for n in ("relu", "relu6", "sigmoid", "softplus", "softsign")},
    **{n: unary(n, UNIT) for n in ("acos", "asin", "atanh")},
    "round": unary("round", SMALL * 3),
    "sqrt": unary("sqrt", POSITIVE),
    "log": unary("log", POSITIVE, epsilon=np.float32(0.01)),
    "log_default": unary("log", POSITIVE),
    "rsqrt": unary("rsqrt", POSITIVE, epsilon=np.float32(0.5)),
    "inverse": unary("inverse", POSITIVE, epsilon=np.float32(0.5)),
    "inverse_default": unary("inverse", POSITIVE),
    "threshold": unary("threshold", SMALL, alpha=np.float32(0.2)),
    "thresholded_relu": unary("thresholded_relu", SMALL, alpha=np.float32(0.2)),
    "clip": unary("clip", SMALL, alpha=np.float32(-0.5), beta=np.float32(0.7)),
    "clamped_relu": unary("clamped_relu", SMALL, alpha=np.float32(0.3), beta=np.float32(0.6)),
    "elu": unary("elu", SMALL, alpha=np.float32(0.7)),
    "leaky_relu": unary("leaky_relu", SMALL, alpha=np.float32(0.2)),
    "linear_activation": unary("linear_activation", SMALL, alpha=np.float32(2), beta=np.float32(3)),
    "scaled_tanh": unary("scaled_tanh", SMALL, alpha=np.float32(2), beta=np.float32(3)),
    "sigmoid_hard": unary("sigmoid_hard", SMALL, alpha=np.float32(0.4), beta=np.float32(0.5)),
    "silu": ({"x": SMALL}, lambda x: mb.silu(x=x), F.silu),
    "gelu": unary("gelu", SMALL),
    "gelu_tanh": unary("gelu", SMALL, mode="TANH_APPROXIMATION"),
    "gelu_sigmoid": unary("gelu", SMALL, mode="SIGMOID_APPROXIMATION"),
    "prelu": unary("prelu", IMAGE, alpha=GAMMA),
    "softplus_parametric": unary("softplus_parametric", IMAGE, alpha=GAMMA, beta=BETA),
    "softmax": unary("softmax", SMALL, axis=1),
    "softmax_default": unary("softmax", SMALL),
    **{
        n: binary(n, SMALL, normal(3, 1))
        for n in ("add", "sub", "mul", "real_div", "maximum", "minimum", "floor_div", "mod")
    },
    **{n: binary(n, SMALL, normal(1, 4)) for n in ("greater", "greater_equal", "less", "less_equal")},
    **{
        f"{n}_int": binary(n, integers(-9, 9, 3, 4), integers(-9, 0, 4)) for n in ("add", "floor_div", "mod", "maximum")
    },
    **{f"{n}_int": binary(n, integers(0, 3, 3, 4), integers(0, 3, 4)) for n in ("equal", "not_equal")},
    "pow": binary("pow", POSITIVE, SMALL),
    **{
        n: (
            {"x": integers(0, 2, 3, 4), "y": integers(0, 2, 3, 4)},
            lambda x, y, n=n: getattr(mb, n)(x=mb.cast(x=x, dtype="bool"), y=mb.cast(x=y, dtype="bool")),
            None,
        )
        for n in ("logical_and", "logical_or", "logical_xor")
    },
    "logical_not": ({"x": SMALL}, lambda x: mb.logical_not(x=mb.cast(x=x, dtype="bool")), None),
    "select": (
        {"c": integers(0, 2, 3, 1), "x": SMALL, "y": normal(2, 3, 4)},
        lambda c, x, y: mb.select(cond=mb.cast(x=c, dtype="bool"), a=x, b=y),
        lambda c, x, y: torch.where(c.bool(), x, y),
    ),
    "cast_int": unary("cast", SMALL * 5, dtype="int32"),
    "cast_fp16": unary("cast", np.round(SMALL * 8) / 8, dtype="fp16"),
    "cast_uint8": unary("cast", integers(0, 255, 3, 4), dtype="uint8"),
    "cast_bool": unary("cast", integers(0, 2, 3, 4), dtype="bool"),
    "cast_up": unary("cast", integers(-9, 9, 3, 4), dtype="fp32"),
    "identity": unary("identity", SMALL),
}

REDUCED = (
    "reduce_l1_norm",
    "reduce_l2_norm",
    "reduce_max",
    "reduce_mean",
    "reduce_min",
    "reduce_prod",
    "reduce_sum",
    "reduce_sum_square",
)
REDUCTIONS: dict[str, Case] = {
    **{n: unary(n, SMALL, axes=[-1, 0], keep_dims=False) for n in REDUCED},
    **{f"{n}_keep": unary(n, SMALL, axes=[1], keep_dims=True) for n in REDUCED},
    "reduce_sum_all": unary("reduce_sum", SMALL),
    "reduce_sum_int": unary("reduce_sum", integers(-5, 5, 3, 4), axes=[0], keep_dims=False),
    "reduce_log_sum": unary("reduce_log_sum", POSITIVE, axes=[1], keep_dims=False),
    "reduce_log_sum_exp": unary("reduce_log_sum_exp", SMALL, axes=[1], keep_dims=True),
    "reduce_argmax": unary("reduce_argmax", SMALL, axis=1, keep_dims=False),
    "reduce_argmin": unary("reduce_argmin", SMALL, axis=-1, keep_dims=True),
    "cumsum": unary("cumsum", SMALL, axis=1),
    "cumsum_both": (
        {"x": SMALL},
        lambda x: mb.cumsum(x=x, axis=1, exclusive=True, reverse=True),
        lambda x: torch.stack([x[:, 1] + x[:, 2], x[:, 2], 0 * x[:, 0]], 1),
    ),
    "argsort": unary("argsort", SMALL, axis=1),
    "argsort_up": unary("argsort", SMALL, axis=2, ascending=True),
    "topk": unary("topk", SMALL, k=2, axis=1),
    "topk_up": unary("topk", SMALL, k=3, axis=-1, ascending=True),
    "topk_values": unary("topk", SMALL, k=2, axis=-1, return_indices=False),
}

SHAPES: dict[str, Case] = {
    "transpose": unary("transpose", SMALL, perm=[2, 0, -2]),
    "reshape": unary("reshape", SMALL, shape=[4, -1]),
    "reshape_zero": unary("reshape", SMALL, shape=[0, 2, -1, 0]),
    "reshape_like": (
        {"x": normal(6, 4), "a": normal(2, 9), "b": normal(5, 3, 4)},
        lambda x, a, b: mb.reshape_like(
            x=x, ref_tensors=[a, b], begins=[0, 1], ends=[1, 0], end_masks=[False, True]
        ),
        lambda x, a, b: x.reshape(2, 3, 4),
    ),
    "expand_dims": unary("expand_dims", SMALL, axes=[0, -1]),
    "squeeze": unary("squeeze", normal(1, 3, 1, 2), axes=[0, -2]),
    "squeeze_all": unary("squeeze", normal(1, 3, 1, 2)),
    "flatten2d": unary("flatten2d", SMALL, axis=-1),
    "reverse": unary("reverse", SMALL, axes=[0, 2]),
    "reverse_all": unary("reverse", SMALL),
    "reverse_sequence": (
        {"x": normal(3, 5, 2), "n": np.array([2, 0, 5], np.int32)},
        lambda x, n: mb.reverse_sequence(x=x, lengths=n, seq_axis=1, batch_axis=0),
        lambda x, n: torch.stack([torch.cat([v[:k].flip(0), v[k:]]) for v, k in zip(x, n.tolist(), strict=True)]),
    ),
    "concat": ({"x": SMALL, "y": normal(2, 1, 4)}, lambda x, y: mb.concat(values=[x, y], axis=-2), None),
    "concat_interleave": (
        {"x": SMALL, "y": normal(2, 3, 4)},
        lambda x, y: mb.concat(values=[x, y], axis=1, interleave=True),
        lambda x, y: torch.stack([x, y], 2).reshape(2, 6, 4),
    ),
    "concat_one": ({"x": SMALL}, lambda x: mb.concat(values=[x], axis=0), None),
    "stack": ({"x": SMALL, "y": normal(2, 3, 4)}, lambda x, y: mb.stack(values=[x, y], axis=-1), None),
    "split": unary("split", SMALL, num_splits=2, axis=-1),
    "split_sizes": unary("split", SMALL, split_sizes=[1, 2], axis=1),
    "tile": unary("tile", SMALL, reps=[1, 2, 3]),
    "shape": unary("shape", SMALL),
    "slice_by_index": unary("slice_by_index", SMALL, begin=[0, -2, 3], end=[2, 3, 0], stride=[1, 1, -2]),
    "slice_masks": (
        {"x": SMALL},
        lambda x: mb.slice_by_index(
            x=x, begin=[1, 9, -1], end=[0, 9, 9], begin_mask=[False, True, False], end_mask=[False, True, True],
            squeeze_mask=[True, False, False],
        ),
        lambda x: x[1, :, 3:],
    ),
    "slice_by_size": unary("slice_by_size", SMALL, begin=[0, 1, 1], size=[1, -1, 2]),
    "slice_dynamic": (
        {"x": SMALL, "at": np.array([1, 0, 2], np.int32)},
        lambda x, at: mb.slice_by_size(x=x, begin=at, size=[1, 2, 2]),
        lambda x, at: x[1:, :2, 2:],
    ),
    "sliding_windows": (
        {"x": SMALL},
        lambda x: mb.sliding_windows(x=x, axis=-1, size=2, stride=2),
        lambda x: x.reshape(2, 3, 2, 2),
    ),
    "depth_to_space": (
        {"x": IMAGE},
        lambda x: mb.depth_to_space(x=x, block_size=2),
        lambda x: F.pixel_shuffle(x.reshape(2, 4, 2, 7, 6).transpose(1, 2).reshape(2, 8, 7, 6), 2),
    ),
    "space_to_depth": (
        {"x": IMAGE[:, :, :6]},
        lambda x: mb.space_to_depth(x=x, block_size=2),
        lambda x: F.pixel_unshuffle(x, 2).reshape(2, 8, 4, 3, 3).transpose(1, 2).reshape(2, 32, 3, 3),
    ),
    "depth_and_back": (
        {"x": IMAGE},
        lambda x: mb.space_to_depth(x=mb.depth_to_space(x=x, block_size=2), block_size=2),
        lambda x: x,
    ),
    "pixel_shuffle": (
        {"x": IMAGE},
        lambda x: mb.pixel_shuffle(x=x, upscale_factor=2),
        lambda x: F.pixel_shuffle(x, 2),
    ),
    "pixel_unshuffle": (
        {"x": IMAGE[:, :, :6]},
        lambda x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(2)),
        lambda x: F.pixel_unshuffle(x, 2),
    ),
    "space_to_batch": (
        {"x": np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)},
        lambda x: mb.space_to_batch(x=x, block_shape=[2, 2], paddings=[[0, 0], [0, 0]]),
        lambda x: torch.stack([x[0, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]),
    ),
    "batch_and_back": (
        {"x": IMAGE},
        lambda x: mb.batch_to_space(
            x=mb.space_to_batch(x=x, block_shape=[2, 3], paddings=[[1, 0], [1, 2]]),
            block_shape=[2, 3], crops=[[1, 0], [1, 2]],
        ),
        lambda x: x,
    ),
    "pad": unary("pad", SMALL, pad=[1, 0, 2, 3], constant_val=np.float32(7)),
    "pad_reflect": unary("pad", SMALL, pad=[0, 0, 2, 1, 3, 2], mode="reflect"),
    "pad_replicate": unary("pad", SMALL, pad=[1, 2, 4, 5], mode="replicate"),
    "band_part": unary("band_part", SMALL, lower=1, upper=0),
    "band_part_upper": unary("band_part", SMALL, lower=0, upper=-1),
    "fill": ({"x": np.array([2, 3], np.int32)}, lambda x: mb.fill(shape=x, value=np.float32(4)), None),
    "fill_like": ({"x": SMALL}, lambda x: mb.fill_like(ref_tensor=x, value=np.int32(4)), None),
    "range_1d": (
        {"x": np.array([9], np.int32)},
        lambda x: mb.range_1d(start=2, end=mb.squeeze(x=x), step=3),
        lambda x: torch.tensor([2, 5, 8]),
    ),
    "one_hot": (
        {"x": np.array([[0, 2], [1, 5]], np.int32)},
        lambda x: mb.one_hot(indices=x, one_hot_vector_size=3, axis=1, on_value=2.0, off_value=-1.0),
        lambda x: torch.where(x[:, None] == torch.arange(3)[None, :, None], 2.0, -1.0),
    ),
    "non_zero": ({"x": integers(0, 2, 3, 4)}, lambda x: mb.non_zero(x=x), lambda x: x.nonzero()),
    "gather": (
        {"x": SMALL, "i": np.array([[2, 0], [1, 1]], np.int32)}, lambda x, i: mb.gather(x=x, indices=i, axis=1), None
    ),
    "gather_scalar": unary("gather", SMALL, indices=2, axis=-1),
    "gather_batch": (
        {"x": SMALL, "i": integers(0, 4, 2, 5)},
        lambda x, i: mb.gather(x=x, indices=i, axis=2, batch_dims=1),
        lambda x, i: torch.stack([a[:, j] for a, j in zip(x, i, strict=True)]),
    ),
    "gather_along_axis": (
        {"x": SMALL, "i": integers(0, 3, 2, 5, 4)},
        lambda x, i: mb.gather_along_axis(x=x, indices=i, axis=1),
        None,
    ),
    "gather_nd": (
        {"x": SMALL, "i": np.array([[1, 2], [0, 1]], np.int32)},
        lambda x, i: mb.gather_nd(x=x, indices=i),
        lambda x, i: x[i[:, 0], i[:, 1]],
    ),
    "gather_nd_batch": (
        {"x": SMALL, "i": np.array([[[1, 3]], [[0, 2]]], np.int32)},
        lambda x, i: mb.gather_nd(x=x, indices=i, batch_dims=1),
        lambda x, i: torch.stack([x[0, 1, 3], x[1, 0, 2]]).reshape(2, 1),
    ),
}  # fmt: skip


def scatter_case(mode: str) -> Case:
    """Two updates of one row, the numpy way."""

    def answer(x: Tensor, u: Tensor) -> Tensor:
        y = x.numpy().copy()
        operation = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum,
                     "min": np.minimum}[mode]  # fmt: skip
        operation.at(y, (slice(None), np.array([2, 0, 2])), u.numpy())
        return torch.from_numpy(y)

    return (
        {"x": SMALL, "u": normal(2, 3, 4)},
        lambda x, u: mb.scatter(data=x, indices=np.array([2, 0, 2], np.int32), updates=u, axis=1, mode=mode),
        answer,
    )


SCATTER: dict[str, Case] = {
    **{f"scatter_{mode}": scatter_case(mode) for mode in ("add", "sub", "mul", "div", "max", "min")},
    "scatter_update": (
        {"x": SMALL, "u": normal(2, 2, 4)},
        lambda x, u: mb.scatter(data=x, indices=np.array([2, 0], np.int32), updates=u, axis=1, mode="update"),
        lambda x, u: torch.stack([u[:, 1], x[:, 1], u[:, 0]], 1),
    ),
    "scatter_along_axis": (
        {"x": SMALL, "i": np.array([[[2, 0, 1, 1]], [[0, 0, 2, 1]]], np.int32), "u": normal(2, 1, 4)},
        lambda x, i, u: mb.scatter_along_axis(data=x, indices=i, updates=u, axis=1, mode="update"),
        lambda x, i, u: x.scatter(1, i, u),
    ),
    "scatter_nd": (
        {"x": SMALL, "i": np.array([[1, 2], [0, 1], [1, 2]], np.int32), "u": normal(3, 4)},
        lambda x, i, u: mb.scatter_nd(data=x, indices=i, updates=u, mode="add"),
        lambda x, i, u: x.index_put((i[:, 0], i[:, 1]), u, accumulate=True),
    ),
    "scatter_nd_update": (
        {"x": SMALL, "u": normal(2)},
        lambda x, u: mb.scatter_nd(
            data=x, indices=np.array([[1, 2, 0], [0, 0, 3]], np.int32), updates=u, mode="update"
        ),
        lambda x, u: x.index_put((torch.tensor([1, 0]), torch.tensor([2, 0]), torch.tensor([0, 3])), u),
    ),
}  # fmt: skip

NEW: dict[str, Case] = {
    "slice_update": (
        {"x": SMALL, "u": normal(2, 3, 2)},
        lambda x, u: mb.slice_update(x=x, update=u, begin=[0, 0, 3], end=[2, 3, 0], stride=[1, 1, -2]),
        lambda x, u: torch.stack([x[..., 0], u[..., 1], x[..., 2], u[..., 0]], -1),
    ),
}

OLD: dict[str, Case] = {
    "gather_negative": (
        {"x": SMALL},
        lambda x: mb.gather(x=x, indices=np.array([-1, 0], np.int32), axis=1),
        lambda x: torch.stack([x[:, 2], x[:, 0]], 1),
    ),
}

GROUPS: dict[str, tuple[Any, dict[str, Case]]] = {
    "elementwise": (ct.target.iOS17, ELEMENTWISE),
    "reductions": (ct.target.iOS17, REDUCTIONS),
    "shapes": (ct.target.iOS17, SHAPES),
    "scatter": (ct.target.iOS17, SCATTER),
    "new": (ct.target.iOS18, NEW),
    "old": (ct.target.iOS15, OLD),
}


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, (_, cases) in GROUPS.items() for name in cases])
def test_operator(check_operator: Callable[[str, Any, dict[str, Case], str], None], group: str, name: str) -> None:
    check_operator(group, *GROUPS[group], name)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_slicing_is_numpys(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    x = torch.arange(float(np.prod(shape))).reshape(shape)
    parts: list[Any] = []
    columns: list[tuple[int, int, int, bool, bool, bool]] = []
    for n in shape:
        begin, end = data.draw(st.integers(-7, 7)), data.draw(st.integers(-7, 7))
        stride = data.draw(st.sampled_from([-3, -2, -1, 1, 2, 3]))
        no_begin, no_end, single = (data.draw(st.booleans()) for _ in range(3))
        if single:
            begin, no_begin = data.draw(st.integers(-n, n - 1)), False
        parts.append(begin if single else slice(None if no_begin else begin, None if no_end else end, stride))
        columns.append((begin, end, stride, no_begin, no_end, single))
    names = ("begin", "end", "stride", "begin_mask", "end_mask", "squeeze_mask")
    arguments = {name: torch.tensor(values) for name, values in zip(names, zip(*columns, strict=True), strict=True)}
    wanted = torch.from_numpy(np.array(x.numpy()[tuple(parts)]))
    assert torch.equal(OPS["slice_by_index"](x=x, **arguments), wanted)
    if wanted.ndim and wanted.numel():
        y = x.numpy().copy()
        y[tuple(parts)] = -1 - wanted.numpy()
        assert torch.equal(OPS["slice_update"](x=x, update=-1 - wanted, **arguments), torch.from_numpy(y))


def test_the_operator_set_is_covered() -> None:
    """Every MIL operator of coremltools is run, decoded, or left out with a reason."""
    registry = set(SSAOpRegistry.core_ops) - {"const", "_const_symbolic"}
    assert registry - set(OPS) - set(DECODERS) - set(LEFT_OUT) == set()
