"""Lists of sample uids in DataComp's form: a sorted `.npy` of pairs of 64-bit halves, read where it lies on disk.

Source: DataComp, "Subset files": dtype `u8,u8`, the two halves of 32 hexadecimal digits.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mobileclip.data.arrays import placing
from mobileclip.errors import DataError

DTYPE = np.dtype("u8,u8")
"""High half, low half."""


class Uids:
    """A list in a file; `uid in uids` is two binary searches in the mapped file."""

    def __init__(self, path: Path) -> None:
        """Map it.

        Raises:
            DataError: it is missing, of another type, or not sorted.
        """
        try:
            found: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:120]
            raise DataError(f"uid list '{path}' cannot be read ({reason}): give a .npy of dtype 'u8,u8'.") from error
        if found.dtype != DTYPE or found.ndim != 1:
            raise DataError(
                f"uid list '{path}' holds {found.dtype} {list(found.shape)}: one dimension of dtype 'u8,u8' is "
                "allowed, as DataComp writes it."
            )
        self._high, self._low = found["f0"], found["f1"]
        rising = (self._high[1:] > self._high[:-1]) | (
            (self._high[1:] == self._high[:-1]) & (self._low[1:] >= self._low[:-1])
        )
        if not rising.all():
            raise DataError(f"uid list '{path}' is not sorted: sort it (`np.sort`), since it is searched on disk.")

    def __len__(self) -> int:
        return len(self._high)

    def __contains__(self, uid: str) -> bool:
        high, low = np.uint64(int(uid[:16], 16)), np.uint64(int(uid[16:], 16))
        first, last = np.searchsorted(self._high, high, "left"), np.searchsorted(self._high, high, "right")
        place = first + np.searchsorted(self._low[first:last], low)
        return bool(place < last and self._low[place] == low)


def write(path: Path, uids: Iterable[str]) -> int:
    """Write uids (32 hexadecimal digits each) sorted, each once; returns how many.

    Raises:
        OutputError: the place cannot be written.
    """
    pairs = np.fromiter(((int(uid[:16], 16), int(uid[16:], 16)) for uid in uids), DTYPE)
    pairs = np.unique(pairs)
    with placing(path) as file:
        np.save(file, pairs, allow_pickle=False)
    return len(pairs)
