"""Perceptual hashes of pictures that are decoded already: 64 bits that survive another size and another JPEG.

    grey = np.stack([reduced(pixels) for pixels in pictures])      # [B, 32, 32]
    words = hashes(grey)                                           # uint64 [B], and which of them mean something

A picture is reduced to a small grey square, of whose cosine transform the lowest frequencies are compared with their
median; two pictures are alike when few bits differ. The bits and their order are those of the widespread `phash` of
ImageHash, up to what its other filter changes, so that hashes of other corpora can be compared.

The reduction touches some of a picture's rows and all of its columns, and everything after it is done in whole numbers:
a hash depends on no library's rounding, nor on the batch it was made in.

Source: Zauner, Implementation and benchmarking of perceptual image hash functions (2010), section 3.2.1; the median's
place as in ImageHash 4.3, `phash`.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mobileclip.data.decode import Pixels

GRID = 32
"""Cells of the grey square, each way."""
LOW = 8
"""Frequencies that are kept, each way."""
FLAT = 1.0
"""Levels of 0..255: a picture whose strongest kept wave is weaker has a hash of nothing but noise."""

_ROWS = 8  # of a picture that are read for a row of cells; fewer would let edges alias
_FIXED = 1 << 12  # cosines as whole numbers: all sums stay below 2**53, so float64 holds them exactly
_LUMA = (299, 587, 114)  # thousandths; ITU-R BT.601, as Pillow's mode "L"

Grey = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint64]


def reduced(pixels: Pixels) -> Grey:
    """RGB uint8 [H, W, 3] -> grey float32 [32, 32]: means of cells, in whole eighths of a level (0..2040).

    No matrix product, though it would be shorter: libraries of linear algebra share one among threads, which for
    a picture costs many times the work itself.
    """
    height, width = pixels.shape[:2]
    picked = (np.arange(GRID * _ROWS) * 2 + 1) * height // (2 * GRID * _ROWS)
    rows = pixels[picked].reshape(GRID, _ROWS, width * 3).sum(1, dtype=np.uint16).reshape(GRID, width, 3)
    sums = np.zeros((GRID, width + 2), np.int64)  # of all columns before one; the last is never reached
    np.cumsum(sum(rows[:, :, channel] * np.uint32(share) for channel, share in enumerate(_LUMA)), 1, out=sums[:, 1:-1])
    whole, part = np.divmod(np.arange(GRID + 1) * width, GRID)  # where cells begin, in columns and 32nds of one
    at = sums[:, whole]
    edges = at * GRID + (sums[:, whole + 1] - at) * part * (whole < width)
    out: Grey = np.rint(np.diff(edges, axis=1) / (width * sum(_LUMA))).astype(np.float32)
    return out


def hashes(grey: npt.NDArray[Any]) -> tuple[Words, npt.NDArray[np.bool_]]:
    """Grey squares [B, 32, 32] of `reduced` -> uint64 [B], and bool [B]: whether the picture has anything to hash.

    The first bit of a hash is its highest.
    """
    if not len(grey):
        return np.zeros(0, np.uint64), np.zeros(0, np.bool_)
    cosines = _cosines()
    low = cosines @ grey.astype(np.float64) @ cosines.T  # [B, 8, 8]
    flat = low.reshape(len(grey), LOW * LOW)
    bits = flat > np.median(flat, axis=1, keepdims=True)
    words = np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)
    waves = np.abs(flat[:, 1:]).max(axis=1) / (_FIXED**2 * _ROWS * GRID * GRID / 4)
    return words, waves >= FLAT


def distance(a: npt.NDArray[np.uint64], b: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Bits in which hashes differ, element by element."""
    out: npt.NDArray[np.uint8] = np.bitwise_count(a ^ b)
    return out


@lru_cache(maxsize=1)
def _cosines() -> npt.NDArray[np.float64]:
    """[8, 32]: rows of the type II cosine transform, as whole numbers."""
    wave, cell = np.arange(LOW)[:, None], np.arange(GRID)[None, :]
    out: npt.NDArray[np.float64] = np.rint(np.cos(np.pi * wave * (2 * cell + 1) / (2 * GRID)) * _FIXED)
    return out
