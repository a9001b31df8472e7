"""The interpreter against coremltools' own values, torch, numpy and real converted models."""

import contextlib
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import open_clip
import pytest
import timm
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
from coremltools.optimize import _utils as optimize_utils
from coremltools.proto import Model_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.models.fastvit import FastVit
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.nn import functional as F

from export.mil import Audit, Program
from export.mil_ops import LEFT_OUT, OPS
from export.mil_package import DECODERS, unpack
from mobileclip.errors import ArtifactError, UnknownName

TARGETS = {"ios15": ct.target.iOS15, "ios16": ct.target.iOS16, "ios17": ct.target.iOS17, "ios18": ct.target.iOS18}
FP32 = ct.precision.FLOAT32


def decibels(found: Tensor, wanted: Tensor) -> float:
    """Signal to noise, 10 log10(power of wanted / power of the difference)."""
    noise = (found.double() - wanted.double()).square().mean().clamp(min=1e-300)
    return float(10 * torch.log10(wanted.double().square().mean() / noise))


def convert(model: Any, path: Path, **options: Any) -> Path:
    """Convert without passes that need a Mac, and save."""
    options = {"convert_to": "mlprogram", "compute_precision": FP32, "skip_model_load": True, **options}
    options.setdefault("minimum_deployment_target", ct.target.iOS17)
    ct.convert(model, **options).save(str(path))
    return path


def export(module: nn.Module, *example: Tensor) -> Any:
    with torch.no_grad():
        return torch.export.export(module.eval(), example).run_decompositions({})


def traced(module: nn.Module, *example: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(module.eval(), example)


# Operators, many in one program. A case is (inputs, build from MIL variables, the answer or None for coremltools' own).

rng = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def integers(low: int, high: int, *shape: int) -> np.ndarray:
    return rng.integers(low, high, shape).astype(np.int32)


IMAGE, SMALL, POSITIVE = normal(2, 8, 7, 6), normal(2, 3, 4), np.abs(normal(2, 3, 4)) + 0.1
UNIT = np.tanh(normal(2, 3, 4))
Case = tuple[dict[str, np.ndarray], Callable[..., Any], Any]


def unary(name: str, x: np.ndarray, **extra: Any) -> Case:
    return {"x": x}, lambda x: getattr(mb, name)(x=x, **extra), None


def binary(name: str, x: np.ndarray, y: np.ndarray) -> Case:
    return {"x": x, "y": y}, lambda x, y: getattr(mb, name)(x=x, y=y), None


def of_image(build: Callable[..., Any], answer: Callable[[Tensor], Any]) -> Case:
    return {"x": IMAGE}, build, answer


def weighted(*shape: int) -> tuple[np.ndarray, Tensor]:
    values = normal(*shape)
    return values, torch.from_numpy(values)


W, TW = weighted(8, 4, 3, 2)  # groups 2
B, TB = weighted(8)
WT, TWT = weighted(8, 3, 3, 3)
BT, TBT = weighted(6)
GAMMA, TGAMMA = weighted(8)


def torch_same(x: Tensor, kernel: int, stride: int, *, lower: bool = False, value: float = 0.0) -> Tensor:
    """TensorFlow's SAME padding, written independently."""
    pads = []
    for n in (x.shape[3], x.shape[2]):
        total = max(0, (int(np.ceil(n / stride)) - 1) * stride + kernel - n)
        few, many = total // 2, total - total // 2
        pads += [many, few] if lower else [few, many]
    return F.pad(x, pads, value=value)


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
    "softplus_parametric": unary("softplus_parametric", IMAGE, alpha=GAMMA, beta=np.abs(B)),
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
    "pixel_shuffle": of_image(lambda x: mb.pixel_shuffle(x=x, upscale_factor=2), lambda x: F.pixel_shuffle(x, 2)),
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

STRIDED = {"strides": [2, 1], "dilations": [1, 2]}
LAYERS: dict[str, Case] = {
    "conv": of_image(
        lambda x: mb.conv(x=x, weight=W, bias=B, pad_type="custom", pad=[1, 1, 2, 2], groups=2, **STRIDED),
        lambda x: F.conv2d(x, TW, TB, (2, 1), (1, 2), (1, 2), 2),
    ),
    "conv_uneven": of_image(
        lambda x: mb.conv(x=x, weight=W, bias=B, pad_type="custom", pad=[2, 0, 0, 1], groups=2),
        lambda x: F.conv2d(F.pad(x, (0, 1, 2, 0)), TW, TB, groups=2),
    ),
    "conv_valid": of_image(
        lambda x: mb.conv(x=x, weight=W, pad_type="valid", groups=2), lambda x: F.conv2d(x, TW, groups=2)
    ),
    "conv_same": of_image(
        lambda x: mb.conv(x=x, weight=W[..., :2, :], pad_type="same", strides=[2, 2], groups=2),
        lambda x: F.conv2d(torch_same(x, 2, 2), TW[..., :2, :], stride=2, groups=2),
    ),
    "conv_same_lower": of_image(
        lambda x: mb.conv(x=x, weight=W[..., :2, :], pad_type="same_lower", strides=[1, 1], groups=2),
        lambda x: F.conv2d(torch_same(x, 2, 1, lower=True), TW[..., :2, :], groups=2),
    ),
    "conv_1d": (
        {"x": normal(2, 4, 9)},
        lambda x: mb.conv(x=x, weight=W[..., 0], pad_type="custom", pad=[1, 1], strides=[2]),
        lambda x: F.conv1d(x, TW[..., 0], stride=2, padding=1),
    ),
    "conv_3d": (
        {"x": normal(1, 4, 3, 4, 5)},
        lambda x: mb.conv(x=x, weight=W[..., None], pad_type="valid"),
        lambda x: F.conv3d(x, TW[..., None]),
    ),
    "conv_dynamic": (
        {"x": normal(1, 4, 5, 5), "w": normal(2, 4, 3, 3)},
        lambda x, w: mb.conv(x=x, weight=w, pad_type="valid"),
        lambda x, w: F.conv2d(x, w),
    ),
    "conv_transpose": of_image(
        lambda x: mb.conv_transpose(
            x=x, weight=WT, bias=BT, pad_type="custom", pad=[1, 1, 0, 0], strides=[2, 3], groups=2
        ),
        lambda x: F.conv_transpose2d(x, TWT, TBT, (2, 3), (1, 0), groups=2),
    ),
    "conv_transpose_shape": of_image(
        lambda x: mb.conv_transpose(
            x=x, weight=WT, bias=BT, pad_type="custom", pad=[1, 1, 1, 1], strides=[2, 2], groups=2,
            output_shape=[2, 6, 14, 12],
        ),
        lambda x: F.conv_transpose2d(x, TWT, TBT, 2, 1, 1, groups=2),
    ),
    "conv_transpose_same": of_image(
        lambda x: mb.conv_transpose(x=x, weight=WT[..., :2, :2], pad_type="same", strides=[2, 2], groups=2),
        lambda x: F.conv_transpose2d(x, TWT[..., :2, :2], stride=2, groups=2),
    ),
    "max_pool": of_image(
        lambda x: mb.max_pool(x=x, kernel_sizes=[3, 2], strides=[2, 2], pad_type="custom", pad=[1, 1, 0, 0]),
        lambda x: F.max_pool2d(x, (3, 2), 2, (1, 0)),
    ),
    "max_pool_same": of_image(
        lambda x: mb.max_pool(x=mb.sub(x=x, y=9.0), kernel_sizes=[3, 3], strides=[2, 2], pad_type="same"),
        lambda x: F.max_pool2d(torch_same(x - 9, 3, 2, value=-torch.inf), 3, 2),
    ),
    "avg_pool_include": of_image(
        lambda x: mb.avg_pool(x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]),
        lambda x: F.avg_pool2d(x, 3, 2, 1),
    ),
    "avg_pool_exclude": of_image(
        lambda x: mb.avg_pool(
            x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1],
            exclude_padding_from_average=True, ceil_mode=True,
        ),
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    ),
    "l2_pool": of_image(
        lambda x: mb.l2_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid"),
        lambda x: F.lp_pool2d(x, 2.0, 2, 2),
    ),
    "batch_norm": of_image(
        lambda x: mb.batch_norm(x=x, mean=B, variance=np.abs(B), gamma=GAMMA, beta=B, epsilon=np.float32(0.1)),
        lambda x: F.batch_norm(x, TB, TB.abs(), TGAMMA, TB, eps=0.1),
    ),
    "instance_norm": of_image(
        lambda x: mb.instance_norm(x=x, gamma=GAMMA, beta=B, epsilon=np.float32(0.1)),
        lambda x: F.instance_norm(x, weight=TGAMMA, bias=TB, eps=0.1),
    ),
    "layer_norm": unary("layer_norm", SMALL, axes=[-1], gamma=normal(4), beta=normal(4), epsilon=np.float32(0.1)),
    "layer_norm_two": unary("layer_norm", SMALL, axes=[1, 2], gamma=normal(3, 4), beta=normal(3, 4)),
    "layer_norm_channels": unary("layer_norm", IMAGE, axes=[1], gamma=normal(8), beta=normal(8)),
    "l2_norm": unary("l2_norm", IMAGE, epsilon=np.float32(0.1)),
    "local_response_norm": of_image(
        lambda x: mb.local_response_norm(x=x, size=3, alpha=0.5, beta=0.7, k=2.0),
        lambda x: F.local_response_norm(x, 3, 0.5, 0.7, 2.0),
    ),
    "linear": unary("linear", SMALL, weight=normal(5, 4), bias=normal(5)),
    "matmul": (
        {"x": normal(2, 1, 4, 3), "y": normal(3, 5, 4)},
        lambda x, y: mb.matmul(x=x, y=y, transpose_x=True, transpose_y=True),
        None,
    ),
    "einsum": (
        {"x": normal(2, 3, 4, 5), "y": normal(2, 5, 4, 6)},
        lambda x, y: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"),
        lambda x, y: torch.einsum("nchw,nwhu->nchu", x, y),
    ),
    "upsample_nearest": of_image(
        lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
        lambda x: F.interpolate(x, scale_factor=(2, 3)),
    ),
    "upsample_bilinear": of_image(
        lambda x: mb.upsample_bilinear(x=x, scale_factor_height=2.0, scale_factor_width=1.5, align_corners=False),
        lambda x: F.interpolate(x, (14, 9), mode="bilinear"),
    ),
    "upsample_aligned": of_image(
        lambda x: mb.upsample_bilinear(x=x, scale_factor_height=2, scale_factor_width=2),
        lambda x: F.interpolate(x, (14, 12), mode="bilinear", align_corners=True),
    ),
    "resize_nearest": of_image(
        lambda x: mb.resize_nearest_neighbor(x=x, target_size_height=5, target_size_width=9),
        lambda x: F.interpolate(x, (5, 9)),
    ),
    "resize_unaligned": of_image(
        lambda x: mb.resize_bilinear(
            x=x, target_size_height=5, target_size_width=13, sampling_mode="UNALIGN_CORNERS"
        ),
        lambda x: F.interpolate(x, (5, 13), mode="bilinear"),
    ),
    "resize_strict": of_image(
        lambda x: mb.resize_bilinear(
            x=x, target_size_height=5, target_size_width=13, sampling_mode="STRICT_ALIGN_CORNERS"
        ),
        lambda x: F.interpolate(x, (5, 13), mode="bilinear", align_corners=True),
    ),
    **{
        f"resize_documented_{mode}": (
            {"x": np.array([[[0, 1]]], np.float32)},
            lambda x, mode=mode: mb.resize_bilinear(
                x=x, target_size_height=1, target_size_width=5, sampling_mode=mode
            ),
            lambda x, row=row: torch.tensor([[row]]),
        )
        for mode, row in {  # the table in the docstring of iOS15 resize_bilinear
            "UNALIGN_CORNERS": [0.0, 0.1, 0.5, 0.9, 1.0],
            "ALIGN_CORNERS": [0, 0.25, 0.5, 0.75, 1],
            "DEFAULT": [0.0, 0.4, 0.8, 1.0, 1.0],
            "OFFSET_CORNERS": [0.1, 0.3, 0.5, 0.7, 0.9],
        }.items()
    },
    "resize": of_image(
        lambda x: mb.resize(
            x=x, shape=[1, 5, 0], resized_dims=np.uint32(2), interpolation_mode="LINEAR",
            sampling_mode="UNALIGN_CORNERS",
        ),
        lambda x: F.interpolate(x, (5, 6), mode="bilinear"),
    ),
    "resize_nearest_exact": of_image(
        lambda x: mb.resize(
            x=x, shape=[5, 11], resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR",
            sampling_mode="UNALIGN_CORNERS",
        ),
        lambda x: F.interpolate(x, (5, 11), mode="nearest-exact"),
    ),
    "crop": of_image(lambda x: mb.crop(x=x, crop_height=[1, 2], crop_width=[0, 1]), lambda x: x[:, :, 1:-2, :-1]),
    "crop_resize": of_image(
        lambda x: mb.crop_resize(
            x=x, boxes=np.array([[1, 0, 5, 4], [2, 1, 6, 5]], np.float32), box_indices=np.array([1, 0], np.int32),
            target_height=9, target_width=5, sampling_mode="STRICT_ALIGN_CORNERS",
        ),
        lambda x: torch.stack([
            F.interpolate(x[1:, :, 1:6, 0:5], (9, 5), mode="bilinear", align_corners=True)[0],
            F.interpolate(x[:1, :, 2:7, 1:6], (9, 5), mode="bilinear", align_corners=True)[0],
        ]),
    ),
    "crop_resize_outside": of_image(
        lambda x: mb.crop_resize(
            x=x, boxes=np.array([[0.5, 0.5, 2, 2]], np.float32), box_indices=np.array([0], np.int32),
            target_height=1, target_width=1, normalized_coordinates=True, box_coordinate_mode="CENTER_SIZE_WIDTH_FIRST",
            sampling_mode="STRICT_ALIGN_CORNERS", pad_value=np.float32(5),
        ),
        lambda x: torch.full((1, 8, 1, 1), 5.0),
    ),
    **{
        f"resample_{mode}": (
            {"x": IMAGE, "at": np.clip(normal(2, 3, 4, 2), -1.9, 1.9)},
            lambda x, at, mode=mode, aligned=aligned: mb.resample(
                x=x, coordinates=at, sampling_mode="bilinear", padding_mode=mode, padding_value=0.0,
                coordinates_mode="normalized_minus_one_to_one", align_corners=aligned,
            ),
            lambda x, at, theirs=theirs, aligned=aligned: F.grid_sample(
                x, at, padding_mode=theirs, align_corners=aligned
            ),
        )
        for mode, theirs, aligned in (
            ("constant", "zeros", False),
            ("border", "border", True),
            ("reflection", "reflection", True),
            ("symmetric", "reflection", False),
        )
    },
    "affine": (
        {"x": IMAGE, "m": normal(2, 6)},
        lambda x, m: mb.affine(
            x=x, transform_matrix=m, output_height=4, output_width=5, sampling_mode="bilinear",
            padding_mode="constant", padding_value=0.0, coordinates_mode="normalized_minus_one_to_one",
            align_corners=True,
        ),
        lambda x, m: F.grid_sample(
            x, F.affine_grid(m.reshape(2, 2, 3), [2, 8, 4, 5], align_corners=True), align_corners=True
        ),
    ),
    "quantize": (
        {"x": IMAGE},
        lambda x: mb.quantize(
            input=x, scale=np.abs(GAMMA) / 9, zero_point=np.full(8, 5, np.int8), axis=1, output_dtype="int8"
        ),
        None,
    ),
    "dequantize": (
        {"x": IMAGE},
        lambda x: mb.dequantize(
            input=mb.quantize(input=x, scale=np.float32(0.25), output_dtype="uint8", zero_point=np.uint8(99)),
            scale=np.float32(0.25), zero_point=np.uint8(99),
        ),
        lambda x: torch.fake_quantize_per_tensor_affine(x, 0.25, 99, 0, 255),
    ),
}  # fmt: skip

ATTENTION: dict[str, Case] = {
    "attention": (
        {"q": normal(1, 2, 3, 4), "k": normal(1, 2, 5, 4), "v": normal(1, 2, 5, 6), "m": normal(3, 5)},
        lambda q, k, v, m: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=m),
        lambda q, k, v, m: torch.softmax(q @ k.mT / 2 + m, -1) @ v,
    ),
    "slice_update": (
        {"x": SMALL, "u": normal(2, 3, 2)},
        lambda x, u: mb.slice_update(x=x, update=u, begin=[0, 0, 3], end=[2, 3, 0], stride=[1, 1, -2]),
        lambda x, u: torch.stack([x[..., 0], u[..., 1], x[..., 2], u[..., 0]], -1),
    ),
}

OLD: dict[str, Case] = {
    "suppression": (
        {
            "boxes": np.array([[[5, 5, 4, 4], [5, 5.5, 4, 4], [20, 20, 4, 4], [5, 5, 4, 4]]], np.float32),
            "scores": np.array([[[0.9, 0], [0.8, 0.1], [0.3, 0.7], [0.1, 0.85]]], np.float32),
        },
        lambda boxes, scores: mb.non_maximum_suppression(
            boxes=boxes, scores=scores, iou_threshold=0.5, score_threshold=0.2, max_boxes=4, per_class_suppression=True
        ),
        lambda boxes, scores: (
            torch.stack([boxes[0, 0], boxes[0, 3], boxes[0, 2], 0 * boxes[0, 0]])[None],
            torch.stack([scores[0, 0], scores[0, 3], scores[0, 2], 0 * scores[0, 0]])[None],
            torch.tensor([[0, 3, 2, -1]]),
            torch.tensor([3]),
        ),
    ),
    "gather_negative": (
        {"x": SMALL},
        lambda x: mb.gather(x=x, indices=np.array([-1, 0], np.int32), axis=1),
        lambda x: torch.stack([x[:, 2], x[:, 0]], 1),
    ),
}

GROUPS: dict[str, tuple[str, dict[str, Case]]] = {
    "elementwise": ("ios17", ELEMENTWISE),
    "reductions": ("ios17", REDUCTIONS),
    "shapes": ("ios17", SHAPES),
    "scatter": ("ios17", SCATTER),
    "layers": ("ios17", LAYERS),
    "attention": ("ios18", ATTENTION),
    "old": ("ios15", OLD),
}
ALL = [(group, name) for group, (_, cases) in GROUPS.items() for name in cases]


def outputs_of(variable: Any) -> list[Any]:
    return list(variable) if isinstance(variable, (tuple, list)) else [variable]


def build(cases: dict[str, Case], target: Any) -> Any:
    """One MIL program of all cases; the outputs of case c are named c__0, c__1, ..."""
    specs = {
        f"{name}__{key}": mb.TensorSpec(value.shape, types.int32 if value.dtype == np.int32 else types.fp32)
        for name, (inputs, _, _) in cases.items()
        for key, value in inputs.items()
    }

    def body(**variables: Any) -> Any:
        results = []
        for name, (inputs, make, _) in cases.items():
            made = make(**{key: variables[f"{name}__{key}"] for key in inputs})
            for i, out in enumerate(outputs_of(made)):
                # Core ML programs return fp32, fp16 and int32.
                if out.dtype == types.bool or types.is_int(out.dtype):
                    out = mb.cast(x=out, dtype="int32")
                results.append(mb.identity(x=out, name=f"{name}__{i}"))
        return tuple(results)

    names = ", ".join(specs)
    scope: dict[str, Any] = {"body": body}
    exec(f"def program({names}):\n    return body({', '.join(f'{n}={n}' for n in specs)})", scope)
    return mb.program(input_specs=list(specs.values()), opset_version=target)(scope["program"])


def value_of(case: Case, target: Any) -> list[np.ndarray]:
    """coremltools' own value inference of a case whose inputs are constants."""
    inputs, make, _ = case
    found: list[np.ndarray] = []

    @mb.program(input_specs=[mb.TensorSpec((1,))], opset_version=target)
    def program(unused: Any) -> Any:
        made = make(**{key: mb.const(val=value.copy()) for key, value in inputs.items()})
        found.extend(out.val for out in outputs_of(made))
        return unused

    return found


@pytest.fixture(scope="session")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Tensor]]:
    """Run a group's program once."""
    done: dict[str, dict[str, Tensor]] = {}

    def run(group: str) -> dict[str, Tensor]:
        if group not in done:
            target, cases = GROUPS[group]
            path = tmp_path_factory.mktemp(group) / "ops.mlpackage"
            convert(
                build(cases, TARGETS[target]),
                path,
                minimum_deployment_target=TARGETS[target],
                pass_pipeline=ct.PassPipeline.EMPTY,
            )
            program = Program.load(path)
            done[group] = program.run(
                {f"{n}__{k}": v for n, (inputs, _, _) in cases.items() for k, v in inputs.items()}
            )
        return done[group]

    return run


@pytest.mark.parametrize(("group", "name"), ALL)
def test_operator(answers: Callable[[str], dict[str, Tensor]], group: str, name: str) -> None:
    target, cases = GROUPS[group]
    inputs, _, answer = cases[name]
    if answer is None:
        wanted = [torch.as_tensor(np.array(v)) for v in value_of(cases[name], TARGETS[target])]
    else:
        tensors = {
            k: torch.from_numpy(v).long() if v.dtype == np.int32 else torch.from_numpy(v) for k, v in inputs.items()
        }
        made = answer(*tensors.values())
        wanted = list(made) if isinstance(made, tuple) else [made]
    found = [answers(group)[f"{name}__{i}"] for i in range(len(wanted))]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=2e-6)


# Properties


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


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_pooling_is_torchs(n: int, kernel: int, stride: int, pad: int, ceil: bool, exclude: bool) -> None:
    if pad > kernel // 2 or n + 2 * pad < kernel:
        return
    x = torch.randn(1, 2, n, 7)
    window = {
        "kernel_sizes": torch.tensor([kernel, kernel]),
        "strides": torch.tensor([stride, stride]),
        "pad_type": "custom",
        "pad": torch.tensor([pad] * 4),
        "ceil_mode": torch.tensor(ceil),
    }
    average = OPS["avg_pool"](x=x, exclude_padding_from_average=torch.tensor(exclude), **window)
    torch.testing.assert_close(average, F.avg_pool2d(x, kernel, stride, pad, ceil, not exclude))
    assert torch.equal(OPS["max_pool"](x=x, **window), F.max_pool2d(x, kernel, stride, pad, ceil_mode=ceil))


@given(st.sampled_from([1, 2, 3, 4, 6]), st.lists(st.integers(0, 63), min_size=1, max_size=40))
@settings(deadline=None)
def test_unpacking_reverses_packing(bits: int, values: list[int]) -> None:
    numbers = np.array(values, np.uint8) % (1 << bits)
    assert np.array_equal(unpack(optimize_utils.pack_elements_into_bits(numbers, bits), bits, len(numbers)), numbers)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_recurrent_operators_are_torchs(direction: str) -> None:
    x, h, c = torch.randn(5, 2, 3), torch.randn(2, 4), torch.randn(2, 4)
    flip = (lambda v: v.flip(0)) if direction == "reverse" else (lambda v: v)
    common = {"x": x, "initial_h": h, "direction": direction, "output_sequence": torch.tensor(True)}

    def weights(module: nn.RNNBase, order: list[int]) -> dict[str, Tensor]:
        ih, hh, bih, bhh = ([*v.detach().split(4)] for v in module.parameters())
        arrange = [torch.cat([v[i] for i in order]) for v in (ih, hh, bih, bhh)]
        return {"weight_ih": arrange[0], "weight_hh": arrange[1], "bias": arrange[2] + arrange[3], "b": arrange[3]}

    with torch.no_grad():
        rnn, gru, lstm = nn.RNN(3, 4), nn.GRU(3, 4), nn.LSTM(3, 4)
        for module in (rnn, gru, lstm):
            module.requires_grad_(False)
        arguments = weights(rnn, [0])
        arguments.pop("b")
        wanted, _ = rnn(flip(x), h[None])
        torch.testing.assert_close(OPS["rnn"](**common, **arguments)[0], flip(wanted))

        arguments = weights(gru, [0, 2, 1])  # torch: reset, update, new; MIL: reset, output, update
        hidden = arguments.pop("b")
        both = {
            **arguments,
            "bias": hidden,
            "input_bias": arguments["bias"] - hidden,
            "reset_after": torch.tensor(True),
        }
        wanted, last = gru(flip(x), h[None])
        found = OPS["gru"](**common, **both)
        torch.testing.assert_close(found[0], flip(wanted))
        torch.testing.assert_close(found[1], last[0])

        arguments = weights(lstm, [0, 1, 3, 2])  # torch: input, forget, cell, output; MIL: input, forget, output, cell
        arguments.pop("b")
        wanted, (_, memory) = lstm(flip(x), (h[None], c[None]))
        found = OPS["lstm"](**common, initial_c=c, **arguments)
        torch.testing.assert_close(found[0], flip(wanted))
        torch.testing.assert_close(found[2], memory[0])


# Whole models, converted


def fastvit() -> nn.Module:
    torch.manual_seed(0)
    model = FastVit(
        layers=(1, 1, 1, 1),
        token_mixers=("repmixer", "repmixer", "repmixer", "attention"),
        embed_dims=(8, 16, 32, 64),
        mlp_ratios=(2, 2, 2, 2),
        num_classes=16,
        cls_ratio=1.0,
        act_layer=nn.GELU,
    )
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.2)
        elif name.endswith("gamma"):
            value.uniform_(0.2, 0.6)
    return reparameterize_model(model.eval())


def text_tower() -> nn.Module:
    torch.manual_seed(0)
    return open_clip.transformer.TextTransformer(
        context_length=12, vocab_size=50, width=32, heads=2, layers=2, output_dim=16
    )


def swin() -> nn.Module:
    torch.manual_seed(0)
    return timm.models.swin_transformer.SwinTransformer(
        img_size=32, patch_size=2, window_size=4, embed_dim=16, depths=(2, 1), num_heads=(2, 2), num_classes=8
    )


def vit() -> nn.Module:
    torch.manual_seed(0)
    return timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=8
    )


PICTURE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
WORDS = torch.tensor([[48, 5, 7, 9, 49, 0, 0, 0, 0, 0, 0, 0]], dtype=torch.int32)


@pytest.mark.parametrize(
    ("make", "example", "capture", "precision"),
    [
        (fastvit, PICTURE, export, "FLOAT32"),
        (vit, PICTURE, export, "FLOAT32"),
        (swin, PICTURE, traced, "FLOAT32"),  # coremltools 9.0 cannot convert Swin's exported form
        (text_tower, WORDS, traced, "FLOAT16"),
    ],
)
def test_models(
    make: Callable[[], nn.Module], example: Tensor, capture: Callable[..., Any], precision: str, tmp_path: Path
) -> None:
    model = make().eval()
    with torch.no_grad():
        wanted = model(example)
        captured = capture(model, example)
    options: dict[str, Any] = {"compute_precision": getattr(ct.precision, precision)}
    if capture is traced:
        kind = np.int32 if example.dtype == torch.int32 else np.float32
        options["inputs"] = [ct.TensorType("x", example.shape, dtype=kind)]
    program = Program.load(convert(captured, tmp_path / "m.mlpackage", **options))
    feeds = {program.inputs[0].name: example}
    (found,) = program.run(feeds).values()
    assert decibels(found, wanted) > (90 if precision == "FLOAT32" else 50)
    (rounded,) = program.run(feeds, fp16=True).values()
    assert 40 < decibels(rounded, wanted) < 90
    assert program.outputs[0].shape == tuple(wanted.shape)


class Small(nn.Module):
    """Weights large enough for coremltools to compress them."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(16, 32, 3, padding=1)
        self.linear = nn.Linear(32, 96)
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.conv(x).relu().mean((2, 3)) * self.gain) / self.gain


FEATURES = torch.randn(1, 16, 6, 6, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same network for iOS 16 and iOS 18, as coremltools models."""
    captured = export(Small(), FEATURES)
    return {
        target: ct.convert(
            captured,
            convert_to="mlprogram",
            minimum_deployment_target=TARGETS[target],
            compute_precision=ct.precision.FLOAT16,
            skip_model_load=True,
            outputs=[ct.TensorType("y")],
        )
        for target in ("ios16", "ios18")
    }


def linear(model: Any, **options: Any) -> Any:
    joint = options.pop("joint", False)
    config = cto.OptimizationConfig(global_config=cto.OpLinearQuantizerConfig(**options))
    return cto.linear_quantize_weights(model, config, joint_compression=joint)


def palette(model: Any, **options: Any) -> Any:
    joint = options.pop("joint", False)
    config = cto.OptimizationConfig(global_config=cto.OpPalettizerConfig(**options))
    return cto.palettize_weights(model, config, joint_compression=joint)


def prune(model: Any) -> Any:
    config = cto.OpMagnitudePrunerConfig(target_sparsity=0.6)
    return cto.prune_weights(model, cto.OptimizationConfig(global_config=config))


COMPRESSIONS: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "linear 8": ("ios16", lambda m: linear(m, mode="linear_symmetric"), "constexpr_affine_dequantize"),
    "linear 8 asymmetric": ("ios16", lambda m: linear(m, mode="linear", dtype="uint8"), "constexpr_affine_dequantize"),
    "palette 4": ("ios16", lambda m: palette(m, mode="uniform", nbits=4), "constexpr_lut_to_dense"),
    "palette 6": ("ios16", lambda m: palette(m, mode="uniform", nbits=6), "constexpr_lut_to_dense"),
    "sparse": ("ios16", prune, "constexpr_sparse_to_dense"),
    "linear 4 by block": (
        "ios18",
        lambda m: linear(m, mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=8),
        "constexpr_blockwise_shift_scale",
    ),
    "palette 3 by group": (
        "ios18",
        lambda m: palette(m, mode="uniform", nbits=3, granularity="per_grouped_channel", group_size=8),
        "constexpr_lut_to_dense",
    ),
    "palette of vectors": (
        "ios18",
        lambda m: palette(m, mode="kmeans", nbits=2, cluster_dim=2),
        "constexpr_lut_to_dense",
    ),
    "sparse and palette": (
        "ios18",
        lambda m: palette(prune(m), mode="uniform", nbits=4, joint=True),
        "constexpr_lut_to_sparse",
    ),
    "sparse and linear": (
        "ios18",
        lambda m: linear(prune(m), mode="linear_symmetric", joint=True),
        "constexpr_sparse_blockwise_shift_scale",
    ),
    "palette and linear": (
        "ios18",
        lambda m: linear(
            palette(m, mode="uniform", nbits=4), mode="linear_symmetric", granularity="per_tensor", joint=True
        ),
        "constexpr_blockwise_shift_scale",
    ),
}


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_compressed_weights_decode_as_coremltools_decodes_them(
    name: str, small: dict[str, Any], tmp_path: Path
) -> None:
    target, compress, kind = COMPRESSIONS[name]
    compressed = compress(small[target])
    compressed.save(str(tmp_path / "c.mlpackage"))
    cto.decompress_weights(compressed).save(str(tmp_path / "d.mlpackage"))
    stored = Model_pb2.Model()
    stored.ParseFromString((tmp_path / "c.mlpackage/Data/com.apple.CoreML/model.mlmodel").read_bytes())
    assert kind in {
        op.type for op in next(iter(stored.mlProgram.functions["main"].block_specializations.values())).operations
    }
    ours, theirs = (Program.load(tmp_path / f"{which}.mlpackage") for which in "cd")
    found, wanted = (p.run({"x": FEATURES})["y"] for p in (ours, theirs))
    assert decibels(found, wanted) > 90
    assert ours.weight_bytes < theirs.weight_bytes
    with torch.no_grad():
        assert 5 < decibels(found, Small()(FEATURES)) < 80


# Pictures, ranges, feeds


class Mixer(nn.Module):
    """Keeps channels apart, so that their order shows."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pictures")
    captured = traced(Mixer(), torch.rand(1, 3, 8, 6))
    grey = traced(nn.ReLU(), torch.rand(1, 1, 8, 6))
    outputs = [ct.TensorType("y")]

    def image(layout: str, channels: int, **options: Any) -> list[Any]:
        return [ct.ImageType("image", (1, channels, 8, 6), color_layout=getattr(ct.colorlayout, layout), **options)]

    bias = [-0.5, -0.25, 0.0]
    return {
        "RGB": convert(captured, folder / "rgb.mlpackage", inputs=image("RGB", 3, scale=1 / 255), outputs=outputs),
        "BGR": convert(
            captured, folder / "bgr.mlpackage", inputs=image("BGR", 3, scale=1 / 127, bias=bias), outputs=outputs
        ),
        "GRAYSCALE": convert(grey, folder / "grey.mlpackage", inputs=image("GRAYSCALE", 1), outputs=outputs),
    }


PIXELS = rng.integers(0, 256, (8, 6, 3), dtype=np.uint8)


def test_pictures_take_the_programs_order_scale_and_bias(pictures: dict[str, Path]) -> None:
    weights = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)
    chw = torch.from_numpy(PIXELS).permute(2, 0, 1)[None].float()
    rgb = Program.load(pictures["RGB"])
    assert (rgb.inputs[0].kind, rgb.inputs[0].colour, rgb.inputs[0].shape) == ("image", "RGB", (1, 3, 8, 6))
    assert rgb.inputs[0].scale == pytest.approx(1 / 255)
    assert rgb.inputs[0].bias == (0.0,)
    for feed in (PIXELS, Image.fromarray(PIXELS), torch.from_numpy(PIXELS), chw, chw.numpy()):
        torch.testing.assert_close(rgb.run({"image": feed})["y"], chw / 255 * weights)
    bgr = Program.load(pictures["BGR"])
    assert bgr.inputs[0].bias == (-0.5, -0.25, 0.0)
    wanted = (chw.flip(1) / 127 + torch.tensor([-0.5, -0.25, 0]).reshape(1, 3, 1, 1)) * weights
    torch.testing.assert_close(bgr.run({"image": PIXELS})["y"], wanted)
    torch.testing.assert_close(bgr.run({"image": chw})["y"], wanted)
    grey = Program.load(pictures["GRAYSCALE"])
    assert (grey.inputs[0].colour, grey.inputs[0].scale) == ("GRAYSCALE", 1.0)
    assert torch.equal(grey.run({"image": PIXELS[..., 0]})["y"], chw[:, :1])


def refused(call: Callable[[], Any], *parts: str) -> None:
    """`call` raises an ArtifactError whose text, one sentence without a line break, holds every part."""
    with pytest.raises(ArtifactError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_feeds_that_do_not_fit(pictures: dict[str, Path], small_package: Path) -> None:
    rgb, tensors = Program.load(pictures["RGB"]), Program.load(small_package)
    refused(lambda: rgb.run({"x": PIXELS}), "rgb.mlpackage takes the inputs image; it was given x.")
    refused(lambda: rgb.run({}), "takes the inputs image; it was given nothing.")
    picture = "input 'image' takes a picture, uint8 RGB [8, 6, 3] or 0..255 RGB [1, 3, 8, 6]; it was given "
    refused(lambda: rgb.run({"image": PIXELS[:5]}), picture + "uint8 [1, 3, 5, 6] from 0 to 2")
    refused(lambda: rgb.run({"image": PIXELS[..., 0]}), picture + "uint8 [1, 1, 8, 6]")
    refused(lambda: rgb.run({"image": PIXELS.astype(np.float32)}), picture + "float32 [8, 6, 3]")
    refused(lambda: rgb.run({"image": np.full((1, 3, 8, 6), -1.0)}), "from -1 to -1.")
    refused(lambda: rgb.run({"image": torch.rand(1, 3, 8, 6)}), "it was given fractions from 0 to 1: multiply by 255")
    refused(lambda: rgb.run({"image": "cat.jpg"}), "input 'image' takes numbers; it was given str.")
    needs = "input 'x' takes float32 [1, 16, 6, 6] (-1: any size); it was given "
    refused(lambda: tensors.run({"x": FEATURES[0]}), needs + "float32 [16, 6, 6].")
    refused(lambda: tensors.run({"x": FEATURES.int()}), needs + "int32 [1, 16, 6, 6].")
    refused(lambda: tensors.run({"x": FEATURES > 0}), needs + "bool [1, 16, 6, 6].")


@pytest.fixture(scope="session")
def small_package(tmp_path_factory: pytest.TempPathFactory, small: dict[str, Any]) -> Path:
    path = tmp_path_factory.mktemp("small") / "small.mlpackage"
    small["ios16"].save(str(path))
    return path


def test_a_program_describes_itself(small_package: Path) -> None:
    program = Program.load(str(small_package))
    assert program.inputs[0].name == "x"
    assert (program.outputs[0].name, program.outputs[0].kind, program.outputs[0].shape) == ("y", "tensor", (1, 96))
    assert {"conv", "relu", "reduce_mean", "linear"} <= set(program.ops)
    assert "const" not in program.ops
    assert program.max_rank == 4
    assert program.weight_bytes == pytest.approx(2 * (32 * 16 * 9 + 96 * 32), rel=0.1)


def test_an_audit_finds_what_fp16_cannot_hold(tmp_path: Path) -> None:
    path = convert(
        export(Small(gain=1e6), FEATURES),
        tmp_path / "gain.mlpackage",
        compute_precision=ct.precision.FLOAT16,
        outputs=[ct.TensorType("y", dtype=np.float16)],
    )
    program, audit = Program.load(path), Audit()
    ideal = program.run({"x": FEATURES}, audit=audit)["y"]
    assert ideal.isfinite().all()
    assert audit.overflows
    worst = audit.table(top=1)[0]
    assert worst.overflow
    assert worst.largest > 65504
    assert worst.not_finite == 0
    assert audit.table(top=99) == sorted(audit.rows.values(), key=lambda r: -r.largest)
    rounded = Audit()
    broken = program.run({"x": FEATURES}, fp16=True, audit=rounded)["y"]
    assert not broken.isfinite().all()
    assert rounded.rows[rounded.overflows[0]].largest == float("inf")
    assert rounded.rows[rounded.overflows[0]].not_finite > 0


def test_an_audit_counts_over_runs(small_package: Path) -> None:
    program, audit = Program.load(small_package), Audit()
    program.run({"x": FEATURES}, audit=audit)
    once = dict(audit.rows)
    program.run({"x": FEATURES * 1e-3}, audit=audit)
    name = next(iter(once))
    assert audit.overflows == []
    assert audit.rows[name].largest == once[name].largest
    assert audit.rows[name].count == 2 * once[name].count
    assert audit.rows[name].tiny >= once[name].tiny


def test_rounding_is_to_fp16(small_package: Path) -> None:
    program = Program.load(small_package)
    ideal, rounded = (program.run({"x": FEATURES}, fp16=fp16)["y"] for fp16 in (False, True))
    assert not torch.equal(ideal, ideal.half().float())
    assert torch.equal(rounded, rounded.half().float())
    assert 50 < decibels(rounded, ideal) < 90


def test_wide_weights_round_too(tmp_path: Path) -> None:
    path = convert(export(Small(), FEATURES), tmp_path / "wide.mlpackage", outputs=[ct.TensorType("y")])
    program = Program.load(path)
    with torch.no_grad():
        assert decibels(program.run({"x": FEATURES})["y"], Small()(FEATURES)) > 100
        assert decibels(program.run({"x": FEATURES}, fp16=True)["y"], Small()(FEATURES)) < 85


def test_sizes_may_stay_open(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Upsample(scale_factor=2.0))
    flexible = ct.Shape((1, 3, ct.RangeDim(8, 32, default=16), ct.RangeDim(8, 32, default=16)))
    path = convert(
        traced(module, torch.rand(1, 3, 16, 16)), tmp_path / "open.mlpackage", inputs=[ct.TensorType("x", flexible)]
    )
    program = Program.load(path)
    assert program.inputs[0].shape == (1, 3, -1, -1)
    x = torch.rand(1, 3, 24, 10)
    with torch.no_grad():
        torch.testing.assert_close(next(iter(program.run({"x": x}).values())), module(x))


def test_a_classifier_gives_index_and_probabilities(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Softmax(-1))
    x = torch.rand(1, 3, 2, 2)
    path = convert(
        traced(module, x),
        tmp_path / "classes.mlpackage",
        inputs=[ct.TensorType("x", x.shape)],
        classifier_config=ct.ClassifierConfig(["cat", "dog", "eel"]),
    )
    program = Program.load(path)
    label, probabilities = program.run({"x": x}).values()
    with torch.no_grad():
        torch.testing.assert_close(probabilities, module(x)[0])
    assert int(label) == int(probabilities.argmax())
    assert [out.dtype for out in program.outputs] == ["string", "dictionary"]


def test_functions_are_chosen_by_name(tmp_path: Path, small: dict[str, Any]) -> None:
    small["ios18"].save(str(tmp_path / "a.mlpackage"))
    description = ct.utils.MultiFunctionDescriptor()
    for name in ("first", "second"):
        description.add_function(str(tmp_path / "a.mlpackage"), "main", name)
    description.default_function_name = "first"
    ct.utils.save_multifunction(description, str(tmp_path / "two.mlpackage"))
    found = Program.load(tmp_path / "two.mlpackage", function="second").run({"x": FEATURES})["y"]
    assert torch.equal(found, Program.load(tmp_path / "a.mlpackage").run({"x": FEATURES})["y"])
    with pytest.raises(UnknownName) as caught:
        Program.load(tmp_path / "two.mlpackage")
    assert str(caught.value).startswith("unknown function 'main'")
    assert str(caught.value).endswith("Known: first, second.")


# Files that are damaged, hostile or of another kind


MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture
def package(tmp_path: Path, small_package: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(small_package, tmp_path / "bad.mlpackage"))


def edit(package: Path, change: Callable[[Any], None]) -> None:
    """Change the parsed protobuf of a package."""
    spec = Model_pb2.Model()
    spec.ParseFromString((package / MODEL).read_bytes())
    change(spec)
    (package / MODEL).write_bytes(spec.SerializeToString())


def operations(spec: Any) -> Any:
    return next(iter(spec.mlProgram.functions["main"].block_specializations.values())).operations


def test_what_is_no_package(tmp_path: Path) -> None:
    refused(lambda: Program.load(tmp_path / "none.mlpackage"), "no model at", "give the folder of a .mlpackage.")
    (tmp_path / "old.mlmodel").write_bytes(b"x")
    refused(lambda: Program.load(tmp_path / "old.mlmodel"), "is a file", "convert_to='mlprogram'")
    (tmp_path / "empty").mkdir()
    refused(lambda: Program.load(tmp_path / "empty"), "is no model package: it has no Manifest.json.")
    (tmp_path / "c.mlmodelc").mkdir()
    (tmp_path / "c.mlmodelc/coremldata.bin").write_bytes(b"x")
    refused(lambda: Program.load(tmp_path / "c.mlmodelc"), "is a compiled model; give the .mlpackage")


def test_a_neural_network_is_refused(package: Path) -> None:
    def change(spec: Any) -> None:
        spec.neuralNetwork.SetInParent()

    edit(package, change)
    refused(lambda: Program.load(package), "bad.mlpackage is a neuralNetwork model; only ML Programs can be run here")


def test_damaged_manifests(package: Path) -> None:
    manifest = package / "Manifest.json"
    whole = manifest.read_bytes()
    damaged = "Manifest.json does not name a model: the package is damaged; copy or export it again."
    for content in (
        whole[:-20],
        bytes([whole[0] ^ 255]) + whole[1:],
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"itemInfoEntries": 3}',
    ):
        manifest.write_bytes(content)
        refused(lambda: Program.load(package), damaged)
    manifest.write_bytes(b" " * (1 << 21))
    refused(lambda: Program.load(package), "Manifest.json is larger than 1048576 bytes")
    entries = json.loads(whole)
    root = entries["rootModelIdentifier"]
    outside = ("../../etc/passwd", "/etc/passwd", "a/../../../b", "com.apple.CoreML\\..\\x", "x\0y")
    for path in outside:
        entries["itemInfoEntries"][root]["path"] = path
        manifest.write_text(json.dumps(entries))
        refused(lambda: Program.load(package), "Manifest.json names '", "which lies outside of the package.")
    entries["itemInfoEntries"][root]["path"] = "com.apple.CoreML/lost.mlmodel"
    manifest.write_text(json.dumps(entries))
    refused(lambda: Program.load(package), "names 'com.apple.CoreML/lost.mlmodel', which is missing")
    entries["itemInfoEntries"][root]["path"] = "com.apple.CoreML"
    manifest.write_text(json.dumps(entries))
    refused(lambda: Program.load(package), "'com.apple.CoreML', the root model, is not a file")


def test_links_stay_inside(package: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes((package / WEIGHTS).read_bytes())
    (package / WEIGHTS).rename(package / "moved.bin")
    (package / WEIGHTS).symlink_to(package / "moved.bin")
    Program.load(package)
    (package / WEIGHTS).unlink()
    (package / WEIGHTS).symlink_to(secret)
    refused(lambda: Program.load(package), f"'{WEIGHTS}' is a link that leaves the package.")


def test_damaged_models(package: Path) -> None:
    whole = (package / MODEL).read_bytes()
    (package / MODEL).write_bytes(whole[: len(whole) // 2])
    refused(lambda: Program.load(package), "model.mlmodel cannot be parsed: the package is damaged")
    (package / MODEL).write_bytes(b"")
    refused(lambda: Program.load(package), "model.mlmodel holds no model: the package is damaged")


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4), st.booleans())
@settings(max_examples=60, deadline=None)
def test_flipped_bytes_never_escape(small_package: Path, flips: list[tuple[int, int]], weights: bool) -> None:
    """Any flip of bytes in model or weights gives an answer or one sentence, and nothing else."""
    file = small_package / (WEIGHTS if weights else MODEL)
    whole = file.read_bytes()
    content = bytearray(whole)
    for place, mask in flips:
        content[place % len(content)] ^= mask
    file.write_bytes(bytes(content))
    try:
        with contextlib.suppress(ArtifactError, UnknownName):
            program = Program.load(small_package)
            program.run({feature.name: FEATURES for feature in program.inputs})
    finally:
        file.write_bytes(whole)


def test_damaged_weights(package: Path) -> None:
    weights = package / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused(
        lambda: Program.load(package), "weights/weight.bin is cut short: constant '", f"the file has {len(whole) // 2}:"
    )
    weights.write_bytes(whole[:100])
    refused(lambda: Program.load(package), "weights/weight.bin is cut short")
    weights.write_bytes(b"\1\0\0\0\1\0\0\0" + whole[8:])
    refused(lambda: Program.load(package), "weights/weight.bin is no weight file of version 2")
    weights.write_bytes(b"")
    refused(lambda: Program.load(package), "weights/weight.bin is no weight file of version 2")
    weights.write_bytes(whole[:64] + b"\0" * 64 + whole[128:])
    refused(lambda: Program.load(package), "holds no record of constant", "at byte 64")
    weights.unlink()
    refused(lambda: Program.load(package), "bad.mlpackage has no weights/weight.bin: the package is incomplete")


def test_hostile_constants(package: Path) -> None:
    def stored(spec: Any) -> Any:
        return next(op for op in operations(spec) if op.attributes["val"].WhichOneof("value") == "blobFileValue")

    def elsewhere(spec: Any) -> None:
        stored(spec).attributes["val"].blobFileValue.fileName = "@model_path/../../../secret"

    def huge(spec: Any) -> None:
        stored(spec).attributes["val"].type.tensorType.dimensions[0].constant.size = 1 << 40

    def grown(spec: Any) -> None:
        stored(spec).attributes["val"].type.tensorType.dimensions[0].constant.size += 1

    whole = (package / MODEL).read_bytes()
    for change, text in (
        (elsewhere, "outside of the package"),
        (huge, "or more than 1073741824"),
        (grown, "are stored."),
    ):
        (package / MODEL).write_bytes(whole)
        edit(package, change)
        refused(lambda: Program.load(package), text)


def test_hostile_sizes_are_refused_before_they_are_allocated() -> None:
    for op, arguments in (
        ("fill", {"shape": torch.tensor([1 << 20, 1 << 20])}),
        ("tile", {"x": torch.zeros(2, 2), "reps": torch.tensor([1 << 20, 1 << 20])}),
        ("pad", {"x": torch.zeros(2), "pad": torch.tensor([0, 1 << 40])}),
        ("range_1d", {"start": torch.tensor(0), "end": torch.tensor(1 << 40), "step": torch.tensor(1)}),
    ):
        refused(lambda op=op, arguments=arguments: OPS[op](**arguments), "is larger than 1073741824 elements")


def test_unknown_operators_are_listed_up_front(package: Path) -> None:
    def change(spec: Any) -> None:
        for op in operations(spec):
            op.type = {"relu": "frobnicate", "linear": "while_loop"}.get(op.type, op.type)

    edit(package, change)
    refused(
        lambda: Program.load(package),
        "bad.mlpackage uses operators that cannot be run here: frobnicate '",
        "; while_loop '",
        "(control flow). Run it with Core ML on a Mac, or convert the model without them.",
    )


def test_names_in_messages_are_printable(package: Path) -> None:
    def change(spec: Any) -> None:
        next(op for op in operations(spec) if op.type == "relu").type = "\x1b[31mre\nlu"

    edit(package, change)
    refused(lambda: Program.load(package), "cannot be run here: ?[31mre?lu '")


def test_an_impossible_type_is_refused(package: Path) -> None:
    def change(spec: Any) -> None:
        stored = next(op for op in operations(spec) if op.attributes["val"].WhichOneof("value") == "blobFileValue")
        stored.attributes["val"].type.tensorType.dataType = 99

    edit(package, change)
    refused(lambda: Program.load(package), "bad.mlpackage cannot be read (", "the package is damaged")


def test_states_are_refused(tmp_path: Path) -> None:
    @mb.program(
        input_specs=[mb.TensorSpec((3,), types.fp16), mb.StateTensorSpec((3,), types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def program(x: Any, memory: Any) -> Any:
        return mb.add(x=x, y=mb.read_state(input=memory))

    path = convert(program, tmp_path / "state.mlpackage", minimum_deployment_target=ct.target.iOS18)
    refused(lambda: Program.load(path), "keeps a state or takes no plain tensor in memory")


def test_wrong_shapes_and_names_are_noticed(package: Path) -> None:
    whole = (package / MODEL).read_bytes()

    def shape(spec: Any) -> None:
        next(op for op in operations(spec) if op.type == "relu").outputs[0].type.tensorType.dimensions[
            1
        ].constant.size = 7

    edit(package, shape)
    refused(lambda: Program.load(package).run({"x": FEATURES}), "relu '", "declares '", "but computes [1, 32, 6, 6]")
    (package / MODEL).write_bytes(whole)

    def name(spec: Any) -> None:
        next(op for op in operations(spec) if op.type == "relu").inputs["x"].arguments[0].name = "nowhere"

    edit(package, name)
    refused(lambda: Program.load(package), "relu '", "uses 'nowhere' before it is computed.")
    (package / MODEL).write_bytes(whole)

    def parameter(spec: Any) -> None:
        op = next(op for op in operations(spec) if op.type == "relu")
        op.inputs["surprise"].CopyFrom(op.inputs["x"])

    edit(package, parameter)
    refused(lambda: Program.load(package).run({"x": FEATURES}), "cannot be computed:", "surprise")


def test_the_operator_set_is_covered() -> None:
    """Every MIL operator of coremltools is run, decoded, or left out with a reason."""
    registry = set(SSAOpRegistry.core_ops) - {"const", "_const_symbolic"}
    assert registry - set(OPS) - set(DECODERS) - set(LEFT_OUT) == set()
