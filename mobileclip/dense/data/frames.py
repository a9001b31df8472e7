"""Frames with depth in HDF5 files: NYUv2's labelled `.mat` (MATLAB 7.3) and FastDepth's `.h5`.

A file is opened for each read, so sets may cross forks. Only arrays that lie in the file itself are read: links to
other files, virtual and external storage are refused, and so is what is larger than a picture may be.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mobileclip.dense.data.files import Pair
from mobileclip.dense.samples import Sample
from mobileclip.errors import DataError, MissingExtra
from mobileclip.images import MAX_PIXELS

_ROWS, _COLUMNS = slice(7, 474), slice(7, 632)  # of the picture; outside it is a white frame


@dataclass(frozen=True, kw_only=True)
class ReadLabelled:
    """A frame of the labelled `.mat`: pictures [N, 3, W, H] uint8, raw depth [N, W, H] float in metres."""

    count: int
    """N."""
    max_depth: float
    """Metres; what is farther has no depth."""

    def __call__(self, pair: Pair, name: str, index: int) -> Sample:
        """Read the frame whose number follows the `#`.

        Raises:
            DataError: the file has no such arrays, or is damaged.
        """
        number = int(pair.image.rpartition("#")[2])
        with opened(pair.truth) as file:
            images = array(file, pair.truth, "images", ndim=4, kinds="u")
            depths = array(file, pair.truth, "rawDepths", ndim=3, kinds="f")
            if images.shape[0] != depths.shape[0] or images.shape[1] != 3 or images.shape[2:] != depths.shape[1:]:
                raise DataError(
                    f"'{pair.truth}' has images {images.shape} and rawDepths {depths.shape}: [N, 3, W, H] and "
                    "[N, W, H] are allowed; get nyu_depth_v2_labeled.mat again."
                )
            pixels, raw = _values(images, number, pair.truth), _values(depths, number, pair.truth)
        image = np.zeros((pixels.shape[2], pixels.shape[1], 3), np.uint8)
        image[_ROWS, _COLUMNS] = pixels.transpose(2, 1, 0)[_ROWS, _COLUMNS]
        millimetres = np.clip(_metres(raw.T, pair.truth) * 1000, 0, 65_535).astype(np.uint16)
        return _sample(name, image, millimetres.astype(np.float32) / np.float32(1000), self.max_depth, index)


@dataclass(frozen=True, kw_only=True)
class ReadFrame:
    """A file with `rgb` [3, H, W] uint8 and `depth` [H, W] float in metres."""

    max_depth: float
    """Metres; what is farther has no depth."""

    def __call__(self, pair: Pair, name: str, index: int) -> Sample:
        """Read the file.

        Raises:
            DataError: it has no such arrays, or is damaged.
        """
        with opened(pair.image) as file:
            rgb = array(file, pair.image, "rgb", ndim=3, kinds="u")
            depth = array(file, pair.image, "depth", ndim=2, kinds="f")
            if rgb.shape != (3, *depth.shape):
                raise DataError(
                    f"'{pair.image}' has rgb {rgb.shape} and depth {depth.shape}: [3, H, W] and [H, W] are allowed."
                )
            pixels, metres = _values(rgb, (), pair.image), _values(depth, (), pair.image)
        image = np.ascontiguousarray(pixels.transpose(1, 2, 0), np.uint8)
        return _sample(name, image, _metres(metres, pair.image), self.max_depth, index)


def frames_of(path: Path) -> int:
    """How many frames a labelled `.mat` has.

    Raises:
        DataError: it is none.
        MissingExtra: h5py is not installed.
    """
    with opened(str(path)) as file:
        return int(array(file, str(path), "rawDepths", ndim=3, kinds="f").shape[0])


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """An HDF5 file.

    Raises:
        DataError: it cannot be opened.
        MissingExtra: h5py is not installed.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        if error.name != "h5py":
            raise
        raise MissingExtra(f"'{path}' needs h5py: pip install 'mobileclip-toolkit[dense]'.") from error
    try:
        file = h5py.File(path, "r")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(
            f"'{path}' is no HDF5 file that can be read ({reason}): get it again; of MATLAB, save with -v7.3."
        ) from error
    with file:
        yield file


def array(file: Any, path: str, name: str, *, ndim: int, kinds: str) -> Any:
    """An array of a file, not read yet.

    Raises:
        DataError: there is none, it lies elsewhere, or it has another rank or kind.
    """
    import h5py

    try:
        inside = isinstance(file.get(name, getlink=True), h5py.HardLink)
        found = file[name] if inside else None
    except (KeyError, OSError, RuntimeError, ValueError):
        found = None
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
        raise DataError(f"'{path}' has no array '{name}' of its own: it is needed; get the file again.")
    if found.ndim != ndim or found.dtype.kind not in kinds or (kinds == "u" and found.dtype.itemsize != 1):
        raise DataError(
            f"'{path}' has an array '{name}' of {found.dtype} with {found.ndim} dimensions: "
            f"{'uint8' if kinds == 'u' else 'floats'} with {ndim} are allowed."
        )
    if math.prod(found.shape[-2:]) > MAX_PIXELS:
        raise DataError(f"'{path}' has frames of more than {MAX_PIXELS:,} pixels: that many are allowed.")
    return found


def _values(found: Any, index: Any, path: str) -> npt.NDArray[Any]:
    try:
        values: npt.NDArray[Any] = np.asarray(found[index])
    except (OSError, ValueError, RuntimeError, IndexError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"'{path}' is damaged in '{found.name}' ({reason}): get it again.") from error
    return values


def _metres(values: npt.NDArray[Any], path: str) -> npt.NDArray[np.float32]:
    """Finite and not negative; what is not finite is a hole."""
    metres = np.array(values, np.float32)
    metres[~np.isfinite(metres)] = 0
    if metres.size and metres.min() < 0:
        raise DataError(f"'{path}' holds the depth {metres.min():g} m: 0 or more is allowed.")
    return metres


def _sample(
    name: str, image: npt.NDArray[np.uint8], metres: npt.NDArray[np.float32], max_depth: float, index: int
) -> Sample:
    metres[metres > max_depth] = 0
    return Sample(name=name, image=image, depth=np.ascontiguousarray(metres), image_id=index)
