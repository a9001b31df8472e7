"""Foreign pictures in: bounded bytes and pixels, formats by list, each failure an `ImageError`.

    read_image("photo.jpg")                                 # RGB, upright, without metadata
    load_images("folder")                                   # its pictures, sorted

Apple's snippet (`Image.open(path).convert("RGB")`) leaves a photo lying on its side when its EXIF says so; phones' APIs
deliver upright pixels. Here a file becomes upright pixels first, and then passes exactly Apple's transform
(preprocessing.py).
"""

import io
import os
import stat
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from mobileclip.errors import ImageError

MAX_PIXELS = 178_956_970
"""Largest picture that is decoded: Pillow's own limit for an error, 537 MB of RGB. 12,000 x 9,000 passes."""
MAX_BYTES = 3 * MAX_PIXELS + (1 << 20)
"""Largest file that is opened: such a picture without compression, and a header."""
EXTENSIONS = (".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""What `load_images` takes from a folder, in lower or upper case. `read_image` goes by content, not by name."""
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "ICO", "QOI")
"""Pillow's readers that may open a foreign file. Not EPS, which runs Ghostscript."""

# Pillow warns from half of MAX_PIXELS on, which is allowed here; set per call, it would not be safe in threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_ORIENTATION = 0x0112  # EXIF 2.32, table 4
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(source: str | os.PathLike[str] | bytes | BinaryIO) -> Image.Image:
    """A file, by path, by content or open in binary mode -> RGB picture, upright, without metadata.

    Of an animation the first frame; alpha is dropped and CMYK converted as Pillow's `convert("RGB")` does; 16-bit grey
    keeps its high byte, as Pillow's 16-bit RGB does.

    Raises:
        ImageError: no such file, not a picture, damaged, cut short, or too large; one sentence with the file's name.
    """
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), "the picture")
    if not isinstance(source, str | os.PathLike):
        return _read(source, Path(str(getattr(source, "name", "the picture"))).name)
    path = Path(source)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block, a folder cannot be read
            raise ImageError(f"{path.name} is not a file: give the path of a picture.")
        file = path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise ImageError(f"{path.name} cannot be opened ({reason}): check the path and its permissions.") from error
    with file:
        return _read(file, path.name)


def load_images(source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """A folder, a file, or several of them -> the paths of pictures.

    A folder gives its files with one of `EXTENSIONS`, sorted by name, not those of its sub-folders nor hidden ones. A
    file is taken whatever its name. The order of several is kept.

    Raises:
        ImageError: a path does not exist, or there is no picture at all.
    """
    roots = [Path(source)] if isinstance(source, str | os.PathLike) else [Path(path) for path in source]
    found: list[Path] = []
    for root in roots:
        if root.is_dir():
            names = sorted(path for path in root.iterdir() if path.suffix.lower() in EXTENSIONS)
            found += [path for path in names if not path.name.startswith(".") and path.is_file()]
        elif root.is_file():
            found.append(root)
        else:
            raise ImageError(f"{root} does not exist: give a picture or a folder of pictures.")
    if not found:
        raise ImageError(
            f"no picture in {', '.join(map(str, roots)) or 'an empty list'}: allowed are {' '.join(EXTENSIONS)}."
        )
    return found


def _read(file: BinaryIO, name: str) -> Image.Image:
    """The border: whatever Pillow and its libraries raise on a foreign file leaves it as an ImageError."""
    too_many = f"{name} holds more than {MAX_PIXELS:,} pixels: that many are allowed; make it smaller first."
    try:
        if not file.seekable():
            file = io.BytesIO(file.read(MAX_BYTES + 1))
        size = file.seek(0, os.SEEK_END)
        if size > MAX_BYTES:
            raise ImageError(f"{name} is larger than {MAX_BYTES:,} bytes: that many are allowed; save it compressed.")
        file.seek(0)
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(too_many)
            image.load()
            orientation = _orientation(image)
            out = rgb(image, name)
            if out is image:
                out = image.copy()
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(too_many) from error
    except UnidentifiedImageError as error:
        kinds = ", ".join(FORMATS)
        raise ImageError(f"{name} is not a picture that can be read: allowed are {kinds}; convert it first.") from error
    except Exception as error:  # among them OSError, SyntaxError, ValueError, struct.error, IndexError, MemoryError
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ImageError(f"{name} is damaged or cut short ({reason}): get or save it again.") from error
    upright = out.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else out
    upright.info = {}  # its EXIF would turn the picture a second time
    return upright


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1


def rgb(image: Image.Image, name: str = "the picture") -> Image.Image:
    """RGB form of a picture in any of Pillow's modes; a picture that is RGB already is returned itself."""
    if image.mode == "RGB":
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey(image, name)
    if "transparency" in image.info:  # alpha is dropped: a damaged one need not be read
        image = image.copy()
        del image.info["transparency"]
    try:
        if image.mode != "F":  # which Pillow would clip to 0..255
            return image.convert("RGB")
    except ValueError:
        pass
    raise ImageError(f"{name} has pixels of kind {image.mode}: 8 or 16 bits of grey or colour are allowed; convert it.")


def _grey(image: Image.Image, name: str) -> Image.Image:
    """Modes I and I;16 (which Pillow would clip at 255) -> RGB, from the high byte of 16 bits."""
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise ImageError(f"{name} has grey values beyond 16 bits: 8 or 16 bits are allowed; scale it first.")
    tags = getattr(image, "tag_v2", {})  # of a TIFF, whose 12-bit samples Pillow does not scale
    bits = 12 if tags.get(258) == (12,) else 16
    return Image.fromarray((pixels >> (bits - 8)).astype(np.uint8)).convert("RGB")
