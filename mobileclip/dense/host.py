"""What an app does around an exported segmentation or depth model, in numpy: the oracle for Swift, Kotlin and C++.

    x = stretch(photo, (512, 512))                             # uint8 [512, 512, 3], what the artifact takes
    segmented(logits, photo.shape[:2]).labels                  # uint8 [H, W]

A bundle takes one size. The picture is stretched to it (not cropped, not padded), and what comes out is stretched back
to the picture's own size: logits and depths bilinearly, labels to the nearest. Every artifact, every app and the
parity gates follow these few functions; they are written to be read, and work in bands of rows, so that the logits of a
large photo never exist at once (150 classes of 12 megapixels are 7 GB). Detection: `host_detection`.

Legend: K classes; h, w rows and columns of an output; H, W of the picture.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from mobileclip.dense.samples import Array, Depths, Segmented
from mobileclip.errors import ImageError
from mobileclip.images import MAX_PIXELS

if TYPE_CHECKING:
    from mobileclip.dense.config import Task


BAND = 1 << 21
"""Values that are enlarged at once."""
MOST_PIXELS = 25_000_000
"""Largest picture whose objects are predicted: 100 masks of it are 2.5 GB. `mobileclip predict` makes larger ones of
every task smaller, since it also draws them."""

Floats = npt.NDArray[np.float32]


def checked(image: Array, task: "Task" = "detection") -> npt.NDArray[np.uint8]:
    """`image` as it must be: RGB uint8 [H, W, 3], at least 1 x 1.

    Raises:
        ImageError: another shape or type, or more pixels than are read, of detection more than `MOST_PIXELS`.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ImageError(
            f"the picture is {image.dtype} of shape {list(image.shape)}: uint8 [H, W, 3] in RGB is allowed, with at "
            "least 1 x 1 pixels."
        )
    height, width = image.shape[:2]
    most = MOST_PIXELS if task == "detection" else MAX_PIXELS
    if height * width > most:
        raise ImageError(
            f"the picture is {width} x {height}: at most {most:,} pixels are predicted at once; make it smaller first."
        )
    return image


def stretch(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """RGB uint8 [H, W, 3] -> uint8 [h, w, 3], bilinear with antialias (Pillow's BILINEAR), ratio not kept."""
    height, width = size
    if image.shape[:2] == size:
        return image
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def segmented(logits: Array, size: tuple[int, int]) -> Segmented:
    """Output `logits`, [1, K, h, w] or [K, h, w], any float -> the best class of each pixel of a picture of `size`.

    Logits are enlarged bilinearly (corners not aligned) before the best is taken; the other way round edges are steps.
    """
    maps = _maps(logits)
    out = np.empty(size, np.uint8)
    for top, band in enlarged(maps, size):
        out[top : top + band.shape[1]] = band.argmax(0)
    return Segmented(labels=out)


def segmented_labels(labels: Array, size: tuple[int, int]) -> Segmented:
    """Output `labels`, [1, 1, h, w], [1, h, w] or [h, w], any integer -> the nearest of each pixel."""
    small = np.asarray(labels).reshape(labels.shape[-2:]).astype(np.uint8)
    rows, columns = (
        np.minimum((np.arange(size[axis]) + 0.5) * small.shape[axis] / size[axis], small.shape[axis] - 1)
        for axis in (0, 1)
    )
    return Segmented(labels=np.ascontiguousarray(small[rows.astype(np.int64)][:, columns.astype(np.int64)]))


def depths(depth: Array, size: tuple[int, int]) -> Depths:
    """Output `depth` in metres, [1, 1, h, w] or [1, h, w], any float -> metres of each pixel of a picture of `size`."""
    out = np.empty(size, np.float32)
    for top, band in enlarged(_maps(depth), size):
        out[top : top + band.shape[1]] = band[0]
    return Depths(metres=out)


def enlarged(maps: Floats, size: tuple[int, int]) -> Iterator[tuple[int, Floats]]:
    """[C, h, w] -> (first row, [C, rows, W]) from top to bottom, together [C, H, W].

    Bilinear as torch's `interpolate(align_corners=False)` and Core ML's `UPSAMPLE_MODE` half pixel: the value at output
    row r is that at input row (r + 0.5) h / H - 0.5, columns alike, beyond the edge that of the edge.
    """
    height, width = size
    below, above, share = places(maps.shape[1], height)
    step = max(BAND // (maps.shape[0] * width), 1)
    for top in range(0, height, step):
        part = slice(top, top + step)
        first, last = below[part][0], above[part][-1]
        wide = _between(maps[:, first : last + 1], width, axis=2)  # [C, rows that the band lies between, W]
        weight = share[part, None]
        yield top, wide[:, below[part] - first] * (1 - weight) + wide[:, above[part] - first] * weight


def places(few: int, many: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]:
    """Of `many` outputs along an axis of `few` inputs: the two inputs that each lies between, and the share of the
    second."""
    at = np.maximum((np.arange(many) + 0.5) * (few / many) - 0.5, 0)
    first = np.minimum(at.astype(np.int64), few - 1)
    second = np.minimum(first + 1, few - 1)
    return first, second, (at - first).astype(np.float32)


def _between(maps: Floats, many: int, axis: int) -> Floats:
    first, second, share = places(maps.shape[axis], many)
    out: Floats = maps.take(first, axis) * (1 - share) + maps.take(second, axis) * share
    return out


def _maps(output: Array) -> Floats:
    """[1, C, h, w] or [C, h, w] -> float32 [C, h, w]."""
    assert output.ndim == 3 or output.shape[0] == 1, f"an output of one picture was expected, not {output.shape}"
    return np.asarray(output, np.float32).reshape(output.shape[-3:])
