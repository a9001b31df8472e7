"""What an app does around an exported detector, in numpy: the oracle for Swift, Kotlin, TypeScript and C++.

    pixels, scale = letterbox(photo, (512, 512))                   # uint8 [512, 512, 3], what the artifact takes
    detected(boxes, scores, coeffs, protos, photo.shape[:2])       # one-stage: raw points -> Detected
    detected_regions(boxes, scores, labels, masks, photo.shape[:2], (512, 512))     # static Mask R-CNN

The picture is made smaller or larger with its ratio kept, and lies in the upper left corner of the input; the rest is
0. Scores, not boxes, decide what is kept, and masks are only computed inside the boxes that are kept: an app does the
same in a few loops. Every step is a plain formula that its function's docstring states.

Legend: K classes, N points, P prototypes, D rows of Mask R-CNN, n objects that are kept, H and W rows and columns of
the picture as it came; those of the input are `size`.
"""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from mobileclip.dense.samples import Array, Detected

THRESHOLD = 0.05
"""Least score (torchvision's and mmdetection's for COCO's AP; apps that show boxes take 0.3 to 0.5)."""
MOST = 100
"""Objects that are kept, the best first; what COCO's AP looks at."""
CANDIDATES = 1000
"""Best answers that enter suppression."""

Floats = npt.NDArray[np.float32]
Size = tuple[int, int]
Picture = npt.NDArray[np.uint8]
Between = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]
"""Of places along an axis: the two samples that each lies between, and the share of the second."""


def letterbox(image: Picture, size: Size) -> tuple[Picture, float]:
    """RGB uint8 [H, W, 3] -> uint8 [*size, 3] and the scale.

    The picture is resized to `content(...)` (Pillow's BILINEAR, which has an antialias), the rest is 0.
    """
    height, width = image.shape[:2]
    rows, columns = content((height, width), size)
    out = np.zeros((*size, 3), np.uint8)
    if (rows, columns) == (height, width):
        out[:rows, :columns] = image
    else:
        out[:rows, :columns] = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR))
    return out, min(size[0] / height, size[1] / width)


def content(original: Size, size: Size) -> Size:
    """Rows and columns of a letterboxed picture inside an input of `size`: scale = min(size / original); each side is
    floor(original * scale + 1/2), at least 1."""
    scale = min(size[0] / original[0], size[1] / original[1])
    rows, columns = (max(int(side * scale + 0.5), 1) for side in original)
    return min(rows, size[0]), min(columns, size[1])


def detected(
    boxes: Array,
    scores: Array,
    coeffs: Array,
    protos: Array,
    original: Size,
    *,
    inside: Size | None = None,
    threshold: float = THRESHOLD,
    most: int = MOST,
    nms: float | None = None,
) -> Detected:
    """The raw outputs of a one-stage head as objects of the picture as it came.

    Of all pairs of a class and a point whose score is above `threshold`, the best `most`. A pixel belongs to an object
    if its centre is inside the box and its logit is above 0 (its probability above 1/2); its logit is the sum over p of
    coeffs[p] * protos[p], between prototypes bilinearly, beyond the outer ones that of the edge.

    Args:
        boxes: [1, 4, N], left, top, right, bottom in pixels of the input.
        scores: [1, K, N], 0..1.
        coeffs: [1, P, N]
        protos: [1, P, h, w]; the input has 4 h rows and 4 w columns.
        original: H and W.
        inside: rows and columns of the picture in the input; None: as `letterbox` puts it there.
        threshold: least score.
        most: objects at most.
        nms: for the branch `many`: of two objects of a class whose boxes overlap by more than this (IoU), the worse
            goes; None for the branch `one`, which needs none.
    """
    corners, marks, mixes, maps = (np.asarray(part[0], np.float32) for part in (boxes, scores, coeffs, protos))
    inside = inside or content(original, (4 * maps.shape[1], 4 * maps.shape[2]))
    classes, points = best(marks, threshold, most if nms is None else CANDIDATES)
    found = to_original(corners[:, points].T, original, inside)
    values = marks[classes, points]
    kept = np.flatnonzero((found[:, 2] > found[:, 0]) & (found[:, 3] > found[:, 1]))
    if nms is not None:
        kept = kept[suppressed(found[kept], classes[kept], nms)]
    kept = kept[:most]
    masks = np.zeros((len(kept), *original), np.bool_)
    logits = mixed(mixes[:, points[kept]].T, maps, found[kept], original, inside)
    for mask, (rows, columns, part) in zip(masks, logits, strict=True):
        mask[rows, columns] = part > 0
    return Detected(boxes=found[kept], scores=values[kept], classes=classes[kept], masks=masks)


def detected_regions(
    boxes: Array,
    scores: Array,
    labels: Array,
    masks: Array,
    original: Size,
    size: Size,
    *,
    inside: Size | None = None,
    threshold: float = THRESHOLD,
    most: int = MOST,
) -> Detected:
    """The outputs of a static Mask R-CNN as objects of the picture as it came.

    Args:
        boxes: [D, 4], left, top, right, bottom in pixels of the input.
        scores: [D], 0..1; rows that nothing was left for have 0.
        labels: [D], classes 0..K-1.
        masks: [D, m, m], probabilities over each box; above 1/2 a pixel belongs to the object.
        original: H and W.
        size: rows and columns of the input.
        inside: rows and columns of the picture in the input; None: as `letterbox` puts it there.
        threshold: least score.
        most: objects at most.
    """
    values = np.asarray(scores, np.float32)
    inside = inside or content(original, size)
    found = to_original(np.asarray(boxes, np.float32), original, inside)
    real = (values > threshold) & (found[:, 2] > found[:, 0]) & (found[:, 3] > found[:, 1])
    order = np.argsort(-values, kind="stable")
    order = order[real[order]][:most]
    pasted = paste(np.asarray(masks, np.float32)[order], found[order], original)
    return Detected(
        boxes=found[order], scores=values[order], classes=np.asarray(labels)[order].astype(np.int64), masks=pasted
    )


def best(scores: Floats, threshold: float, most: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Classes and points of the best `most` scores [K, N] above a threshold, best first; equal ones by class, then by
    point."""
    flat = scores.ravel()
    places = np.flatnonzero(flat > threshold)
    if len(places) > most:
        least = np.partition(flat[places], len(places) - most)[len(places) - most]
        places = places[flat[places] >= least]
    places = places[np.argsort(-flat[places], kind="stable")][:most]
    classes, points = np.divmod(places, scores.shape[1])
    return classes, points


def to_original(boxes: Floats, original: Size, inside: Size) -> Floats:
    """[n, 4] in pixels of the input -> in pixels of the picture, clipped to it: x * W / columns, y * H / rows."""
    height, width = original
    ratio = np.array([width / inside[1], height / inside[0]] * 2, np.float32)
    out: Floats = np.clip(boxes * ratio, 0, np.array([width, height] * 2, np.float32))
    return out


def suppressed(boxes: Floats, classes: npt.NDArray[np.int64], overlap: float) -> npt.NDArray[np.int64]:
    """Of boxes [n, 4], best first, the places of those that stay: in this order, each one that stays removes all later
    ones of its class whose IoU with it is above `overlap`."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    stays = np.ones(len(boxes), np.bool_)
    for place in range(len(boxes)):
        if not stays[place]:
            continue
        later = place + 1 + np.flatnonzero(stays[place + 1 :] & (classes[place + 1 :] == classes[place]))
        across = np.minimum(boxes[later, 2], boxes[place, 2]) - np.maximum(boxes[later, 0], boxes[place, 0])
        down = np.minimum(boxes[later, 3], boxes[place, 3]) - np.maximum(boxes[later, 1], boxes[place, 1])
        common = np.maximum(across, 0) * np.maximum(down, 0)
        stays[later[common > overlap * (area[later] + area[place] - common)]] = False
    return np.flatnonzero(stays)


def mixed(
    coeffs: Floats, protos: Floats, boxes: Floats, original: Size, inside: Size
) -> Iterator[tuple[slice, slice, Floats]]:
    """For each object the rows and columns whose pixel centres are inside its box, and its logits there.

    The centre of column x is at ((x + 1/2) * columns / W) / 4 - 1/2 prototypes, rows alike: one bilinear step from
    prototypes to the picture, instead of one to the input and another one back.

    Args:
        coeffs: [n, P]
        protos: [P, h, w]
        boxes: [n, 4] in pixels of the picture.
        original: H and W.
        inside: rows and columns of the picture in the input.
    """
    for own, (left, top, right, bottom) in zip(coeffs, boxes, strict=True):
        axes: list[tuple[slice, slice, Between]] = []
        for low, high, many, some, few in (
            (top, bottom, original[0], inside[0], protos.shape[1]),
            (left, right, original[1], inside[1], protos.shape[2]),
        ):
            pixels = slice(max(math.ceil(low - 0.5), 0), min(math.ceil(high - 0.5), many))
            at = (np.arange(pixels.start, pixels.stop) + 0.5) * (some / many) / 4 - 0.5
            first, second, share = between(at, few)
            touched = slice(first.min(initial=few), second.max(initial=-1) + 1)
            axes.append((pixels, touched, (first - touched.start, second - touched.start, share)))
        (rows, near_rows, down), (columns, near_columns, across) = axes
        logits = np.tensordot(own, protos[:, near_rows, near_columns], axes=1)
        yield rows, columns, bilinear(logits, down, across)


def paste(masks: Floats, boxes: Floats, original: Size) -> npt.NDArray[np.bool_]:
    """Probabilities [n, m, m] over boxes [n, 4] in pixels of the picture -> [n, H, W], where they are above 1/2.

    As torchvision's `paste_masks_in_image` does, with which its AP was measured: a border of 0 is put around the mask,
    the box is enlarged by (m + 2) / m about its middle, its corners are cut to whole pixels (towards 0), and the mask
    is stretched bilinearly over right - left + 1 columns and bottom - top + 1 rows from that corner.
    """
    out = np.zeros((len(masks), *original), np.bool_)
    side = masks.shape[-1] + 2
    grow = np.float32(side / (side - 2)) * np.float32(0.5)
    half = (boxes[:, 2:] - boxes[:, :2]) * grow
    middle = (boxes[:, 2:] + boxes[:, :2]) * np.float32(0.5)
    corners = np.concatenate([middle - half, middle + half], axis=1).astype(np.int64)
    for mask, probabilities, (left, top, right, bottom) in zip(out, masks, corners, strict=True):
        rows, columns = (
            slice(max(top, 0), min(bottom + 1, original[0])),
            slice(max(left, 0), min(right + 1, original[1])),
        )
        y = np.arange(rows.start, rows.stop) - top + 0.5
        x = np.arange(columns.start, columns.stop) - left + 0.5
        down = between(y * (side / (bottom - top + 1)) - 0.5, side)
        across = between(x * (side / (right - left + 1)) - 0.5, side)
        mask[rows, columns] = bilinear(np.pad(probabilities, 1), down, across) > 0.5
    return out


def bilinear(values: Floats, down: Between, across: Between) -> Floats:
    """[h, w] at rows and columns between its own."""
    above, below, second = down
    before, after, share = across
    wide = values[:, before] * (1 - share) + values[:, after] * share
    out = wide[above] * (1 - second[:, None]) + wide[below] * second[:, None]
    return out.astype(np.float32, copy=False)


def between(at: npt.NDArray[np.float64], few: int) -> Between:
    """Of positions among `few` samples; beyond the outer ones, these."""
    place = np.clip(at, 0, few - 1)
    first = place.astype(np.int64)
    return first, np.minimum(first + 1, few - 1), (place - first).astype(np.float32)
