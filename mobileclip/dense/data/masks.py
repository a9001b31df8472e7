"""COCO's two forms of masks to pixels, bit for bit as `pycocotools` does, on foreign numbers without its crashes.

    mask = polygon(vertices([10, 10, 90, 10, 50, 80], "a.json"), (100, 120), "a.json")      # bool [100, 120]
    mask = run_lengths(unpacked("52203", "a.json"), (100, 120), "a.json")

A polygon is drawn on a grid five times as fine and read back column by column; what two crossings of a column enclose
is inside. Run lengths go down the columns, first those that are not inside.

Source: cocodataset/cocoapi, `common/maskApi.h` (formats); Lin et al., arXiv:1405.0312.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mobileclip.errors import DataError

FINE = 5
"""Points of the grid for each pixel."""
MAX_POINTS = 1 << 26
"""Points of the fine grid on one polygon's outline; a picture of 12,000 x 9,000 has 210,000 around it."""
_FAR = 1 << 20  # pixels from the origin at which coordinates are cut, and
_MARGIN = 1_000  # pixels from the picture at which they are cut when it is drawn

Ints = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]


def vertices(numbers: Any, name: str) -> Ints:
    """x, y, x, y, … in pixels -> the same on the fine grid, int32.

    Raises:
        DataError: not a list of finite numbers, an odd count.
    """
    try:
        values = np.asarray(numbers, np.float64)
    except (ValueError, TypeError, OverflowError):
        values = np.empty(0)
    if values.ndim != 1 or not len(values) or len(values) % 2 or not np.isfinite(values).all():
        raise DataError(f"'{name}' has a polygon {str(numbers)[:60]}: a list of x, y, x, y … in pixels is allowed.")
    return np.trunc(np.clip(values, -_FAR, _FAR) * FINE + 0.5).astype(np.int32)


def polygon(fine: Ints, size: tuple[int, int], name: str) -> Mask:
    """Vertices on the fine grid -> bool [H, W].

    Raises:
        DataError: the outline is far longer than any picture's.
    """
    height, width = size
    low, high = -FINE * (max(size) + _MARGIN), FINE * (2 * max(size) + _MARGIN)
    x, y = np.clip(fine[0::2], low, high).astype(np.int64), np.clip(fine[1::2], low, high).astype(np.int64)
    u, v = _outline(x, y, name)
    across = np.flatnonzero(u[1:] != u[:-1])  # where a column of the fine grid is left
    column = np.where(u[across + 1] < u[across], u[across + 1], u[across + 1] - 1)
    here = (column + 0.5) / FINE - 0.5
    whole = (here == np.floor(here)) & (here >= 0) & (here <= width - 1)  # the middles of pixels
    row = np.minimum(v[across + 1], v[across])[whole]
    down = np.ceil(np.clip((row + 0.5) / FINE - 0.5, 0, height))
    at = (here[whole] * height + down).astype(np.int64)
    flat = np.zeros(height * width, np.bool_)
    if len(at):
        start, stop = int(at.min()), min(int(at.max()), height * width)
        turns = np.bincount(at - start, minlength=stop - start)[: stop - start]
        flat[start:stop] = np.cumsum(turns) & 1
    return flat.reshape(width, height).T


def _outline(x: npt.NDArray[np.int64], y: npt.NDArray[np.int64], name: str) -> tuple[Any, Any]:
    """All points of the closed outline on the fine grid, in its order: each edge steps along its longer side."""
    x1, y1 = np.roll(x, -1), np.roll(y, -1)
    dx, dy = np.abs(x1 - x), np.abs(y1 - y)
    flat = dx >= dy
    swap = np.where(flat, x > x1, y > y1)  # an edge is drawn from its lower end, whichever way it is passed
    xs, ys = np.where(swap, x1, x), np.where(swap, y1, y)
    xe, ye = np.where(swap, x, x1), np.where(swap, y, y1)
    long = np.maximum(dx, dy)
    slope = np.where(flat, ye - ys, xe - xs) / np.maximum(long, 1)
    count = long + 1
    total = int(count.sum())
    if total > MAX_POINTS:
        raise DataError(f"'{name}' has a polygon whose outline is {total // FINE:,} pixels long: simplify it.")
    edge = np.repeat(np.arange(len(x)), count)
    step = np.arange(total) - np.repeat(np.cumsum(count) - count, count)
    step = np.where(swap[edge], long[edge] - step, step)
    other = slope[edge] * step + 0.5
    u = np.where(flat[edge], xs[edge] + step, np.trunc(xs[edge] + other)).astype(np.int64)
    v = np.where(flat[edge], np.trunc(ys[edge] + other), ys[edge] + step).astype(np.int64)
    return u, v


def unpacked(counts: Any, name: str) -> Ints:
    """Run lengths, as a list or as COCO's text of them, -> int32.

    Raises:
        DataError: neither, or a negative length.
    """
    try:
        found = np.asarray(_from_text(counts) if isinstance(counts, str) else counts, np.int64)
        if found.ndim != 1 or not len(found) or found.min() < 0 or found.max() >= 1 << 31:
            raise ValueError
    except (ValueError, TypeError, OverflowError, IndexError):
        raise DataError(
            f"'{name}' has run lengths {str(counts)[:60]!r}: a list of counts, or COCO's text of them, is allowed."
        ) from None
    return found.astype(np.int32)


def run_lengths(counts: Ints, size: tuple[int, int], name: str) -> Mask:
    """Run lengths down the columns -> bool [H, W].

    Raises:
        DataError: they do not cover the picture exactly.
    """
    height, width = size
    total = int(counts.sum(dtype=np.int64))
    if total != height * width:
        raise DataError(
            f"'{name}' has run lengths of {total:,} pixels for a picture of {width} x {height}: they must cover it."
        )
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


def _from_text(text: str) -> Sequence[int]:
    """Groups of five bits from the low end, a sixth says that more follow; from the third on, differences to two
    before.
    """
    counts: list[int] = []
    at = 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            group = ord(text[at]) - 48
            if not 0 <= group < 64 or shift > 35:
                raise ValueError
            value |= (group & 31) << shift
            more = bool(group & 32)
            at, shift = at + 1, shift + 5
            if not more and group & 16:
                value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts
