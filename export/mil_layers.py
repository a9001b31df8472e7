"""MIL's larger operators in torch: convolution, pooling, norms, resizing, detection, quantised values, recurrence.

Read `export/mil_ops.py` first: it says how these functions are called and holds the table.

Unusual here: paddings and poolings are computed from MIL's own formulas (before / after pairs, `same`, `same_lower`,
ceil mode), not mapped to a torch option that is nearly the same; all five grids of MIL's resizing ops are one function.

Source of every definition: coremltools 9.0, `converters/mil/mil/ops/defs/iOS15` to `iOS18` (docstrings and
`value_inference`). What those leave open is said where it is decided.

Shapes: N batch, C channels, D spatial sizes (one to three), K kernel sizes, S steps, I inputs, H hidden.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from export.mil_package import MAX_ELEMENTS
from mobileclip.errors import ArtifactError


def ints(values: Tensor | None, default: Sequence[int] = ()) -> list[int]:
    """A tensor of integers (strides, axes, shapes) as Python numbers; `default` where MIL lets it out."""
    return list(default) if values is None else [int(v) for v in values.reshape(-1).tolist()]


def bounded(shape: Sequence[int]) -> list[int]:
    """A shape that a program asks for, refused above `MAX_ELEMENTS`, so that a hostile file cannot fill the memory."""
    if math.prod(shape) > MAX_ELEMENTS:
        raise ArtifactError(f"a tensor of shape {list(shape)} is larger than {MAX_ELEMENTS} elements")
    return list(shape)


# Convolution and pooling


def _pads(
    pad_type: str, pad: Tensor | None, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """(before, after) per spatial axis. `same` gives ceil(size / stride) outputs; its odd element goes after the input,
    that of `same_lower` before."""
    kind = pad_type.lower()
    if kind == "custom":
        flat = ints(pad, [0] * (2 * len(sizes)))
        return list(zip(flat[::2], flat[1::2], strict=True))
    if kind == "valid":
        return [(0, 0)] * len(sizes)
    totals = [max(0, (-(-n // s) - 1) * s + k - n) for n, k, s in zip(sizes, kernel, strides, strict=True)]
    if kind == "same":
        return [(t // 2, t - t // 2) for t in totals]
    if kind == "same_lower":
        return [(t - t // 2, t // 2) for t in totals]
    raise ValueError(f"pad_type '{pad_type}'")


def pad_constant(x: Tensor, pads: Sequence[tuple[int, int]], value: float) -> Tensor:
    """Pad the last axes; torch wants the last axis first."""
    flat = [n for pair in reversed(pads) for n in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | None = None,
) -> Tensor:
    """x [N, C_in, *D], weight [C_out, C_in / groups, *K]."""
    n = x.ndim - 2
    stride, dilation = ints(strides, [1] * n), ints(dilations, [1] * n)
    reach = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    pads = _pads(pad_type, pad, x.shape[2:], reach, stride)
    padding = [0] * n
    if all(before == after for before, after in pads):
        padding = [before for before, _ in pads]
    else:
        x = pad_constant(x, pads, 0.0)
    function = (F.conv1d, F.conv2d, F.conv3d)[n - 1]
    return function(x, weight, bias, stride, padding, dilation, 1 if groups is None else int(groups))


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Tensor | None = None,
    output_shape: Tensor | None = None,
    pad_type: str = "valid",
    strides: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | None = None,
) -> Tensor:
    """x [N, C_in, *D], weight [C_in, C_out / groups, *K]: the full product, from which `pad` is cut off."""
    n = x.ndim - 2
    stride = ints(strides, [1] * n)
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[n - 1]
    y = function(
        x, weight, None, stride, groups=1 if groups is None else int(groups), dilation=ints(dilations, [1] * n)
    )
    kind = pad_type.lower()
    cut = _pads("custom", pad if kind == "custom" else None, x.shape[2:], weight.shape[2:], stride)
    sizes = [full - before - after for full, (before, after) in zip(y.shape[2:], cut, strict=True)]
    if output_shape is not None:
        sizes = ints(output_shape)[2:]
    elif kind == "same":
        sizes = [d * s for d, s in zip(x.shape[2:], stride, strict=True)]
    for i, (size, (before, _)) in enumerate(zip(sizes, cut, strict=True)):
        full = y.shape[2 + i]
        start = max(0, full - size) // 2 if kind == "same" else before
        y = y.narrow(2 + i, start, min(size, full - start))
        y = pad_constant(y, [(0, size - y.shape[2 + i]), *[(0, 0)] * (n - 1 - i)], 0.0)
    return y if bias is None else y + bias.reshape(-1, *[1] * n)


def _windows(
    x: Tensor, kernel: list[int], stride: list[int], pads: list[tuple[int, int]], ceil_mode: bool
) -> list[tuple[int, int]]:
    """The padding beyond `pads` that makes the last, partial window whole in ceil mode; none otherwise.

    As in torch, a window must begin inside of the input or its padding before.
    """
    extra = []
    for n, k, s, (before, after) in zip(x.shape[2:], kernel, stride, pads, strict=True):
        count = (n + before + after - k + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (count - 1) * s >= n + before:
            count -= 1
        extra.append((0, max(0, (count - 1) * s + k - (n + before + after))))
    return extra


def max_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Tensor | None = None,
) -> Tensor:
    n = x.ndim - 2
    kernel, stride = ints(kernel_sizes), ints(strides, [1] * n)
    pads = _pads(pad_type, pad, x.shape[2:], kernel, stride)
    extra = _windows(x, kernel, stride, pads, ceil_mode is not None and bool(ceil_mode))
    whole = [(b, a + e) for (b, a), (_, e) in zip(pads, extra, strict=True)]
    return (F.max_pool1d, F.max_pool2d, F.max_pool3d)[n - 1](pad_constant(x, whole, -math.inf), kernel, stride)


def avg_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Tensor | None = None,
    exclude_padding_from_average: Tensor | None = None,
) -> Tensor:
    """Window sums over window counts: what ceil mode adds never counts, padding counts unless it is excluded."""
    n = x.ndim - 2
    kernel, stride = ints(kernel_sizes), ints(strides, [1] * n)
    pads = _pads(pad_type, pad, x.shape[2:], kernel, stride)
    extra = _windows(x, kernel, stride, pads, ceil_mode is not None and bool(ceil_mode))
    mean = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[n - 1]
    values = mean(pad_constant(pad_constant(x, pads, 0.0), extra, 0.0), kernel, stride)
    if not any(n for pair in (*pads, *extra) for n in pair):
        return values
    exclude = exclude_padding_from_average is not None and bool(exclude_padding_from_average)
    ones = torch.ones(1, 1, *x.shape[2:])
    counts = mean(pad_constant(pad_constant(ones, pads, 0.0 if exclude else 1.0), extra, 0.0), kernel, stride)
    return values / counts


def l2_pool(x: Tensor, kernel_sizes: Tensor, **window: Tensor | str) -> Tensor:
    """sqrt of the sum of squares in each window."""
    size = math.prod(ints(kernel_sizes))
    return (avg_pool(x.square(), kernel_sizes, **window) * size).sqrt()  # type: ignore[arg-type]


# Normalisation and attention


def _per_channel(values: Tensor | None, x: Tensor) -> Tensor | None:
    """A vector [C] shaped for x [N, C, *D]."""
    return None if values is None else values.reshape(1, -1, *[1] * (x.ndim - 2))


def _scale_shift(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    x = x if gamma is None else x * gamma
    return x if beta is None else x + beta


def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    return F.batch_norm(x, mean, variance, gamma, beta, eps=1e-5 if epsilon is None else float(epsilon))


def _normalise(x: Tensor, axes: list[int], epsilon: Tensor | None) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True) + (1e-5 if epsilon is None else epsilon)).sqrt()


def instance_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: Tensor | None = None
) -> Tensor:
    """Per sample and channel, over the spatial axes."""
    y = _normalise(x, list(range(2, x.ndim)), epsilon)
    return _scale_shift(y, _per_channel(gamma, x), _per_channel(beta, x))


def layer_norm(
    x: Tensor,
    axes: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    """gamma and beta have the sizes of `axes`, in the order of x's axes."""
    over = sorted(a % x.ndim for a in ints(axes, range(x.ndim)))
    shape = [n if i in over else 1 for i, n in enumerate(x.shape)]
    y = _normalise(x, over, epsilon)
    return _scale_shift(y, *(v if v is None else v.reshape(shape) for v in (gamma, beta)))


def l2_norm(x: Tensor, epsilon: Tensor | None = None) -> Tensor:
    """Over the last three axes together."""
    return x / (x.square().sum((-3, -2, -1), keepdim=True) + (1e-6 if epsilon is None else epsilon)).sqrt()


def local_response_norm(
    x: Tensor, size: Tensor, alpha: Tensor | None = None, beta: Tensor | None = None, k: Tensor | None = None
) -> Tensor:
    values = [d if v is None else float(v) for v, d in ((alpha, 1e-4), (beta, 0.75), (k, 1.0))]
    return F.local_response_norm(x, int(size), *values)


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask)


# Resizing


def _grid(length: float, count: int, mode: str) -> Tensor:
    """`count` points of the interval [0, length], length being one less than the pixels on it. float64, clamped."""
    i = torch.arange(count, dtype=torch.float64)
    if mode == "STRICT_ALIGN_CORNERS" or (mode == "ALIGN_CORNERS" and count > 1):
        points = i * length / max(count - 1, 1)
    elif mode == "ALIGN_CORNERS":
        points = torch.full((1,), length / 2, dtype=torch.float64)
    elif mode == "DEFAULT":
        points = i * (length + 1) / count
    elif mode == "OFFSET_CORNERS":
        points = (i + 0.5) * max(1.0, length) / count
    elif mode == "UNALIGN_CORNERS":
        points = (i + 0.5) * (length + 1) / count - 0.5
    else:
        raise ValueError(f"sampling_mode '{mode}'")
    return points.clamp(0, max(0.0, length))


def _interpolate(x: Tensor, axis: int, points: Tensor) -> Tensor:
    """Linear between the neighbours of each point along one axis."""
    last = x.shape[axis] - 1
    low = points.floor().long().clamp(0, last)
    weight = (points - low).float().reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    return torch.lerp(x.index_select(axis, low), x.index_select(axis, (low + 1).clamp(max=last)), weight)


def _nearest(x: Tensor, axis: int, points: Tensor, mode: str) -> Tensor:
    """DEFAULT takes the pixel at or before the point (torch's and TensorFlow's `nearest`), others the closest."""
    index = (points if mode == "DEFAULT" else points + 0.5).floor().long()
    return x.index_select(axis, index.clamp(0, x.shape[axis] - 1))


def _resize(x: Tensor, sizes: Sequence[int], mode: str, linear: bool) -> Tensor:
    """Resize the last `len(sizes)` axes."""
    bounded([*x.shape[: x.ndim - len(sizes)], *sizes])
    for axis, size in enumerate(sizes, x.ndim - len(sizes)):
        points = _grid(x.shape[axis] - 1, size, mode)
        x = _interpolate(x, axis, points) if linear else _nearest(x, axis, points, mode)
    return x


def _upsampled(x: Tensor, height: Tensor | None, width: Tensor | None) -> list[int]:
    factors = [1.0 if f is None else float(f) for f in (height, width)]
    return [math.floor(n * f) for n, f in zip(x.shape[-2:], factors, strict=True)]


def upsample_nearest_neighbor(
    x: Tensor, scale_factor_height: Tensor | None = None, scale_factor_width: Tensor | None = None
) -> Tensor:
    return _resize(x, _upsampled(x, scale_factor_height, scale_factor_width), "DEFAULT", linear=False)


def upsample_bilinear(
    x: Tensor,
    scale_factor_height: Tensor | None = None,
    scale_factor_width: Tensor | None = None,
    align_corners: Tensor | None = None,
    half_pixel_centers: Tensor | None = None,
) -> Tensor:
    """Corners are aligned by default; if not, pixels have their centres at 0.5 unless `half_pixel_centers` says no."""
    align = align_corners is None or bool(align_corners)
    half = not align if half_pixel_centers is None else bool(half_pixel_centers)
    mode = "STRICT_ALIGN_CORNERS" if align else "UNALIGN_CORNERS" if half else "DEFAULT"
    return _resize(x, _upsampled(x, scale_factor_height, scale_factor_width), mode, linear=True)


def resize_nearest_neighbor(x: Tensor, target_size_height: Tensor, target_size_width: Tensor) -> Tensor:
    return _resize(x, [int(target_size_height), int(target_size_width)], "DEFAULT", linear=False)


def resize_bilinear(
    x: Tensor,
    target_size_height: Tensor | int = 1,
    target_size_width: Tensor | int = 1,
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    return _resize(x, [int(target_size_height), int(target_size_width)], sampling_mode, linear=True)


def resize(
    x: Tensor,
    shape: Tensor,
    resized_dims: Tensor,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """The last `resized_dims` axes take the last numbers of `shape`, 0 keeping a size."""
    count = int(resized_dims)
    sizes = [s or n for s, n in zip(ints(shape)[-count:], x.shape[-count:], strict=True)]
    return _resize(x, sizes, sampling_mode, interpolation_mode == "LINEAR")


def crop(x: Tensor, crop_height: Tensor, crop_width: Tensor) -> Tensor:
    (top, bottom), (left, right) = ints(crop_height), ints(crop_width)
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def crop_resize(
    x: Tensor,
    roi: Tensor | None = None,
    boxes: Tensor | None = None,
    box_indices: Tensor | None = None,
    target_height: Tensor | int = 1,
    target_width: Tensor | int = 1,
    normalized_coordinates: Tensor | bool = False,
    spatial_scale: Tensor | float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: Tensor | float = 0.0,
) -> Tensor:
    """Boxes of x [B, C, H, W], resized.

    iOS 17: boxes [N, 4] -> [N, C, h, w]. Before: roi [N, 1, 4, 1, 1] -> [N, B, C, h, w], or [N, 1, 5, 1, 1] with the
    number of an image first -> [N, 1, C, h, w].

    Written from the documentation: coremltools computes no values for it.
    """
    size = [int(target_height), int(target_width)]
    if roi is None:
        assert boxes is not None
        which = range(len(boxes)) if box_indices is None else ints(box_indices)
        targets = [[i] for i in which]
        corners = boxes.float()
    else:
        flat = roi.reshape(roi.shape[0], -1).float()
        targets = [[int(f[0])] if len(f) == 5 else list(range(len(x))) for f in flat]
        corners = flat[:, -4:]
    crops = []
    for box, images in zip(corners * spatial_scale, targets, strict=True):
        sides = _sides(box.tolist(), box_coordinate_mode)
        points = []
        for (start, stop), n, count in zip(sides, x.shape[-2:], size, strict=True):
            unit = n - 1 if bool(normalized_coordinates) else 1
            points.append(start * unit + _grid((stop - start) * unit, count, sampling_mode))
        inside = [(p >= 0) & (p <= n - 1) for p, n in zip(points, x.shape[-2:], strict=True)]
        crop_of = _interpolate(_interpolate(x[images], -2, points[0]), -1, points[1])
        crops.append(torch.where(inside[0].unsqueeze(1) & inside[1], crop_of, torch.as_tensor(pad_value).float()))
    return torch.cat(crops) if roi is None else torch.stack(crops)


def _sides(box: list[float], mode: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """((top, bottom), (left, right)) of four numbers in one of MIL's four orders."""
    a, b, c, d = box if mode.endswith("HEIGHT_FIRST") else (box[1], box[0], box[3], box[2])
    if mode.startswith("CENTER_SIZE"):
        return (a - c / 2, a + c / 2), (b - d / 2, b + d / 2)
    return (a, c), (b, d)


def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: Tensor,
    coordinates_mode: str,
    align_corners: Tensor,
) -> Tensor:
    """x [B, C, H, W] at coordinates [B, h, w, 2], each (x, y)."""
    last = torch.tensor([x.shape[-1] - 1, x.shape[-2] - 1], dtype=torch.float32)
    place = coordinates.float()
    if coordinates_mode != "unnormalized":
        unit = place if coordinates_mode == "normalized_zero_to_one" else (place + 1) / 2
        place = unit * last if bool(align_corners) else unit * (last + 1) - 0.5
    # torch reflects about the edge pixels' centres with aligned corners, about their borders without.
    aligned = padding_mode != "symmetric"
    grid = place / last.clamp(min=1) * 2 - 1 if aligned else (place + 0.5) / (last + 1) * 2 - 1
    mode = {"constant": "zeros", "border": "border", "reflection": "reflection", "symmetric": "reflection"}[
        padding_mode
    ]
    shift = padding_value if padding_mode == "constant" else torch.zeros(())
    return F.grid_sample(x - shift, grid, mode=sampling_mode, padding_mode=mode, align_corners=aligned) + shift


def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: Tensor,
    output_width: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: Tensor,
    coordinates_mode: str,
    align_corners: Tensor,
) -> Tensor:
    """transform_matrix [B or 1, 6] from output to input coordinates, corners at -1 and 1."""
    size = [x.shape[0], x.shape[1], int(output_height), int(output_width)]
    matrix = transform_matrix.reshape(-1, 2, 3).expand(x.shape[0], 2, 3)
    grid = F.affine_grid(matrix, size, align_corners=bool(align_corners))
    return resample(x, grid, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners)


# Detection


def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: Tensor,
    max_boxes: Tensor,
    score_threshold: Tensor | None = None,
    per_class_suppression: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Boxes (x, y, width, height) from the centre, by falling best class score; empty places: 0, index -1.

    iOS 15: boxes [N, B, 4], scores [N, B, K], with a score threshold and a fourth output, the counts.
    iOS 17: boxes [N, 4, B], scores [N, K, B]. Padding as in NeuralNetwork.proto, NonMaximumSuppressionLayerParams.
    """
    if modern := score_threshold is None:
        boxes, scores = boxes.mT, scores.mT
    room, by_class = int(max_boxes), per_class_suppression is not None and bool(per_class_suppression)
    chosen = torch.full((boxes.shape[0], room), -1)
    counts = []
    for n, (box, score) in enumerate(zip(boxes, scores, strict=True)):
        best, label = score.max(-1)
        kept: list[int] = []
        for i in best.argsort(descending=True, stable=True).tolist():
            if len(kept) == room or (score_threshold is not None and best[i] < score_threshold):
                break
            rivals = [j for j in kept if not by_class or label[i] == label[j]]
            if not rivals or bool((_overlap(box[i], box[rivals]) <= iou_threshold).all()):
                kept.append(i)
        chosen[n, : len(kept)] = torch.tensor(kept, dtype=torch.int64)
        counts.append(len(kept))
    found = (chosen >= 0).unsqueeze(-1)
    out_boxes, out_scores = (
        torch.where(found, torch.stack([v[i] for v, i in zip(values, chosen.clamp(min=0), strict=True)]), 0.0)
        for values in (boxes, scores)
    )
    if modern:
        return out_boxes.mT, out_scores.mT, chosen
    return out_boxes, out_scores, chosen, torch.tensor(counts)


def _overlap(box: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of one box [4] with others [n, 4], each (x, y, width, height) from the centre."""
    low = torch.maximum(box[:2] - box[2:] / 2, others[:, :2] - others[:, 2:] / 2)
    high = torch.minimum(box[:2] + box[2:] / 2, others[:, :2] + others[:, 2:] / 2)
    shared = (high - low).clamp(min=0).prod(-1)
    return shared / (box[2:].prod() + others[:, 2:].prod(-1) - shared).clamp(min=1e-12)


# Quantised activations, and classifiers


def _along(values: Tensor, x: Tensor, axis: Tensor | None) -> Tensor:
    """A vector shaped for one axis of x; a scalar stays."""
    if axis is None or not values.ndim:
        return values
    return values.reshape([-1 if i == int(axis) % x.ndim else 1 for i in range(x.ndim)])


def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: Tensor | None = None
) -> Tensor:
    zero = torch.zeros((), dtype=torch.int64) if zero_point is None else _along(zero_point, input, axis)
    low, high = (0, 255) if output_dtype == "uint8" else (-128, 127)
    return (torch.round(input / _along(scale, input, axis)) + zero).clamp(low, high).long()


def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    zero = torch.zeros((), dtype=torch.int64) if zero_point is None else _along(zero_point, input, axis)
    return (input - zero) * _along(scale, input, axis)


def classify(probabilities: Tensor, classes: list[str]) -> tuple[Tensor, Tensor]:
    """In place of a label and a dictionary: the label's index, and the probabilities in the order of the classes."""
    return probabilities.reshape(-1).argmax(), probabilities.reshape(-1)


# Recurrent

_GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": F.relu,
    "linear": lambda x: x,
    "hard_sigmoid": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "sigmoid_hard": lambda x: (0.2 * x + 0.5).clamp(0, 1),
}


def _steps(
    x: Tensor, direction: str, output_sequence: Tensor | None, state: Tensor, step: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Run `step` over x [S, B, I]: all hidden states in the order of x (or the last one), and the last one."""
    backwards = direction == "reverse"
    outputs = []
    for item in reversed(x.unbind()) if backwards else x.unbind():
        state = step(item)
        outputs.append(state)
    if output_sequence is None or not bool(output_sequence):
        return state.unsqueeze(0), state
    return torch.stack(outputs[::-1] if backwards else outputs), state


def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: Tensor | None = None,
    activation: str = "tanh",
) -> tuple[Tensor, Tensor]:
    h = initial_h

    def step(item: Tensor) -> Tensor:
        nonlocal h
        h = _GATES[activation](F.linear(item, weight_ih, bias) + F.linear(h, weight_hh))
        return h

    return _steps(x, direction, output_sequence, h, step)


def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: Tensor | None = None,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: Tensor | None = None,
    input_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gates in the order reset, output, update. `bias` is on the hidden side where there is an `input_bias` too."""
    gate, out = _GATES[recurrent_activation], _GATES[activation]
    after = reset_after is not None and bool(reset_after)
    size = initial_h.shape[-1]
    w_reset, w_out, w_update = torch.split(weight_hh, size)
    b_reset, b_out, b_update = torch.split(torch.zeros(3 * size) if bias is None else bias, size)
    h = initial_h

    def step(item: Tensor) -> Tensor:
        nonlocal h
        i_reset, i_out, i_update = torch.split(F.linear(item, weight_ih, input_bias), size, -1)
        reset = gate(i_reset + F.linear(h, w_reset, b_reset))
        update = gate(i_update + F.linear(h, w_update, b_update))
        hidden = reset * F.linear(h, w_out, b_out) if after else F.linear(reset * h, w_out, b_out)
        h = (1 - update) * out(i_out + hidden) + update * h
        return h

    return _steps(x, direction, output_sequence, h, step)


def _lstm_one(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    direction: str,
    output_sequence: Tensor | None,
    activations: tuple[str, str, str],
    clip: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gates in the order input, forget, output, cell; peepholes [3 * H] look at the cell."""
    gate, cell, out = (_GATES[name] for name in activations)
    weight_ih, weight_hh, bias, peephole = weights
    h, c = state
    peep = torch.zeros(3 * h.shape[-1]) if peephole is None else peephole
    p_in, p_forget, p_out = peep.chunk(3)

    def step(item: Tensor) -> Tensor:
        nonlocal h, c
        i, f, o, z = (F.linear(item, weight_ih, bias) + F.linear(h, weight_hh)).chunk(4, -1)
        fresh = cell(z) if clip is None else cell(z).clamp(-float(clip), float(clip))
        c = gate(f + p_forget * c) * c + gate(i + p_in * c) * fresh
        h = gate(o + p_out * c) * out(c)
        return h

    outputs, last = _steps(x, direction, output_sequence, h, step)
    return outputs, last, c


def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: Tensor | None = None,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """x [S, B, I]; both directions side by side in the last axis of the states and outputs."""
    rules = (recurrent_activation, cell_activation, activation)
    both = direction == "bidirectional"
    states = list(zip(*(s.chunk(2 if both else 1, -1) for s in (initial_h, initial_c)), strict=True))
    forward = (weight_ih, weight_hh, bias, peephole)
    first = "forward" if both else direction
    ways = [_lstm_one(x, states[0], forward, first, output_sequence, rules, clip)]
    if both:
        assert weight_ih_back is not None
        assert weight_hh_back is not None
        back = (weight_ih_back, weight_hh_back, bias_back, peephole_back)
        ways.append(_lstm_one(x, states[1], back, "reverse", output_sequence, rules, clip))
    return tuple(torch.cat(parts, -1) for parts in zip(*ways, strict=True))
