"""MIL's larger operators (convolution, pooling, norms, resizing, attention, detection, recurrence) against torch.

As in `test_mil_ops.py`, many cases are in one program.
"""

from collections.abc import Callable
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from export.mil_ops import OPS

Case = tuple[dict[str, np.ndarray], Callable[..., Any], Any]
"""Inputs, how MIL variables become the operator's outputs, and the answer or None for coremltools' own."""

rng = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


IMAGE, SMALL = normal(2, 8, 7, 6), normal(2, 3, 4)


def unary(name: str, x: np.ndarray, **extra: Any) -> Case:
    return {"x": x}, lambda x: getattr(mb, name)(x=x, **extra), None


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
}

DETECTION: dict[str, Case] = {
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
}

GROUPS: dict[str, tuple[Any, dict[str, Case]]] = {
    "layers": (ct.target.iOS17, LAYERS),
    "attention": (ct.target.iOS18, ATTENTION),
    "detection": (ct.target.iOS15, DETECTION),
}


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, (_, cases) in GROUPS.items() for name in cases])
def test_operator(check_operator: Callable[[str, Any, dict[str, Case], str], None], group: str, name: str) -> None:
    check_operator(group, *GROUPS[group], name)


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
