"""Foreign files of dense data sets to arrays: the border where each failure becomes a `DataError` that names the file.

    image = rgb(path.read_bytes(), str(path))            # uint8 [H, W, 3], upright
    ids = class_ids(content, name)                       # uint8 [H, W], as they are in the file
    metres = millimetres(content, name)                  # float32 [H, W], 0 where there is none

A picture may have up to `images.MAX_PIXELS` pixels, so 12,000 x 9,000 passes; a file of truth as many.
"""

import io
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mobileclip.data.decode import open_picture
from mobileclip.errors import DataError, ImageError
from mobileclip.images import MAX_BYTES, MAX_PIXELS

_TRUTH_FORMATS = ("PNG", "TIFF", "BMP", "PPM")  # without loss
_PART = 1 << 20  # values
_WORDS = "pictures of truth are PNG with one channel"


def content_of(path: Path, limit: int = MAX_BYTES) -> bytes:
    """A file's bytes.

    Raises:
        DataError: no such file, not a file, or larger than `limit`.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise DataError(f"'{path}' is not a file: give a folder that holds files.")
            if found.st_size > limit:
                raise DataError(
                    f"'{path}' has {found.st_size:,} bytes: {limit:,} are allowed; make it smaller or leave it out."
                )
            return file.read()
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise DataError(f"'{path}' cannot be opened ({reason}): check the path and its permissions.") from error


def rgb(content: bytes, name: str, size: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """An encoded picture -> uint8 [H, W, 3], upright.

    With `size` (rows, columns), a picture that has this size only as it lies in the file is not turned: its truth was
    drawn on the pixels as they lie.

    Raises:
        DataError: not a picture, damaged, cut short, too large.
    """
    try:
        pixels = _decoded(content, upright=True)
        if size is not None and pixels.shape[:2] != size:
            lying = _decoded(content, upright=False)
            pixels = lying if lying.shape[:2] == size else pixels
    except ImageError as error:
        text = str(error).removeprefix("the picture ")
        raise DataError(f"'{name}' {text}") from error
    return np.require(pixels, requirements=("C", "W"))


def _decoded(content: bytes, *, upright: bool) -> npt.NDArray[np.uint8]:
    picture = open_picture(memoryview(content), upright)
    return picture.decode(max(picture.height, picture.width), (0, 0, picture.height, picture.width))[0]


def class_ids(content: bytes, name: str) -> npt.NDArray[np.uint8]:
    """An encoded label map -> uint8 [H, W], the values of the file; of a palette picture its indices.

    Raises:
        DataError: not such a picture, in colour, with values above 255, damaged, too large.
    """
    pixels = _truth(content, name)
    if pixels.ndim != 2:
        raise DataError(
            f"'{name}' is in colour: a label map has one channel of class ids, or a palette; convert its colours to "
            "ids first."
        )
    if pixels.dtype != np.uint8:
        if pixels.size and (pixels.min() < 0 or pixels.max() > 255):
            raise DataError(
                f"'{name}' holds the label {pixels.max():,}: ids of 0 to 255 are allowed, of which 255 is ignored."
            )
        pixels = pixels.astype(np.uint8)
    return pixels


def counts(ids: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """How often each of 256 values is there: int64 [256], a part at a time, since numpy makes each value 8 bytes."""
    flat, found = ids.reshape(-1), np.zeros(256, np.int64)
    for start in range(0, len(flat), _PART):
        found += np.bincount(flat[start : start + _PART], minlength=256)
    return found


def millimetres(content: bytes, name: str) -> npt.NDArray[np.float32]:
    """An encoded 16-bit depth map in millimetres -> float32 [H, W] in metres; 0 stays 0, there is none.

    Raises:
        DataError: not such a picture, of 8 bits or in colour, damaged, too large.
    """
    pixels = _truth(content, name)
    if pixels.ndim != 2 or pixels.dtype == np.uint8:
        raise DataError(f"'{name}' is no 16-bit grey picture: depth is stored as 16 bits of millimetres, 0 for none.")
    if pixels.size and pixels.min() < 0:
        raise DataError(f"'{name}' holds the depth {pixels.min():,}: 0 to 65,535 millimetres are allowed.")
    return np.asarray(pixels, np.float32) / np.float32(1000)


def same_size(image: npt.NDArray[Any], truth: npt.NDArray[Any], name: str, truth_name: str) -> None:
    """Refuse a picture and a truth of other sizes.

    Raises:
        DataError: they differ.
    """
    if image.shape[:2] != truth.shape[:2]:
        (rows, columns), (other_rows, other_columns) = image.shape[:2], truth.shape[:2]
        raise DataError(
            f"'{name}' has {columns} x {rows} pixels and '{truth_name}' {other_columns} x {other_rows}: a picture and "
            "its truth must have the same size; take both from the same release."
        )


def _truth(content: bytes, name: str) -> npt.NDArray[Any]:
    """Pixels of a picture of truth, as numbers: uint8 or wider, [H, W] or [H, W, C]."""
    try:
        with Image.open(io.BytesIO(content), formats=_TRUTH_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"'{name}' holds more than {MAX_PIXELS:,} pixels: that many are allowed.")
            pixels = np.array(image)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"'{name}' holds more than {MAX_PIXELS:,} pixels: that many are allowed.") from error
    except Exception as error:  # Pillow's readers raise what they like on foreign bytes
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"'{name}' cannot be read ({reason}): {_WORDS}; get or save it again.") from error
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8)
    if pixels.dtype.kind not in "iu":
        raise DataError(f"'{name}' has pixels of kind {pixels.dtype}: {_WORDS}; convert it.")
    return pixels


def text_of(path: Path, limit: int) -> str:
    """A small file as UTF-8.

    Raises:
        DataError: it cannot be read, is larger than `limit` bytes, or is no UTF-8.
    """
    try:
        return content_of(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is no UTF-8 text ({error}): save it as UTF-8.") from error
