"""An image as it is packed: decoded once, upright, at most so large, encoded again only where that changes something.

Decoding is strict: what the fast JPEG decoder warns of and Pillow can still read is encoded again, so that nothing in a
packed shard is doubtful.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobileclip.data.sample import encode
from mobileclip.errors import ImageError
from mobileclip.images import FORMATS, MAX_PIXELS, read_image

_ORIENTATION = 0x0112  # EXIF 2.32, table 4
_SHARP = 2.0  # images are decoded at no less than this times the size that they get


class ImageTooLarge(ImageError):
    """More pixels than are decoded."""


def packed_image(
    content: bytes, size: int | None, quality: int, *, upright: bool
) -> tuple[bytes, tuple[int, int], tuple[int, int]]:
    """Encoded image -> encoded image, its old and its new width and height (in the orientation of the result).

    `upright` applies EXIF rotation; without it pixels stay as they lie, and a rotation that is recorded is dropped.

    Raises:
        ImageError: it cannot be decoded, or is too large.
    """
    kind, old, turned = _inspect(content)
    swap = upright and turned >= 5
    shown = (old[1], old[0]) if swap else old
    new = shown
    if size is not None and min(shown) > size:
        scale = size / min(shown)
        new = (max(round(shown[0] * scale), size), max(round(shown[1] * scale), size))
    pixels = _fast(content, old, new if not swap else (new[1], new[0])) if kind == "JPEG" and turned == 1 else None
    clean = pixels is not None or kind in ("PNG", "WEBP")
    if pixels is None:
        pixels = np.asarray(read_image(content) if upright else _lying(content))
    if new == shown and turned == 1 and clean:
        return content, shown, new
    if (pixels.shape[1], pixels.shape[0]) != new:
        pixels = np.asarray(Image.fromarray(pixels).resize(new, Image.Resampling.BICUBIC))
    return encode(pixels, quality), shown, new


def header(content: bytes) -> tuple[int, int]:
    """Width and height, as the pixels lie, from the header alone.

    Raises:
        ImageError: it is not an image, or too large.
    """
    return _inspect(content)[1]


def _inspect(content: bytes) -> tuple[str, tuple[int, int], int]:
    """Format, size and EXIF orientation."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            kind, size = str(image.format), image.size
            try:
                turned = int(image.getexif().get(_ORIENTATION, 1))
            except Exception:  # a broken EXIF block says nothing about the pixels
                turned = 1
    except Exception as error:  # Pillow's readers raise what they like on foreign bytes
        if isinstance(error, Image.DecompressionBombError):
            raise ImageTooLarge(f"the image holds more than {MAX_PIXELS:,} pixels: that many are allowed.") from error
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ImageError(f"the image cannot be read ({reason}): get or save it again.") from error
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageTooLarge(f"the image holds more than {MAX_PIXELS:,} pixels: that many are allowed.")
    return kind, size, turned if 1 <= turned <= 8 else 1


def _fast(content: bytes, old: tuple[int, int], new: tuple[int, int]) -> NDArray[np.uint8] | None:
    """A JPEG at a scale of n/8 that is not smaller than needed; None when Pillow should look at it."""
    import simplejpeg

    least = [min(side, round(_SHARP * want)) for side, want in zip(old, new, strict=True)]
    try:
        pixels: Any = simplejpeg.decode_jpeg(content, "RGB", min_width=least[0], min_height=least[1])
    except (ValueError, MemoryError):
        return None
    return np.asarray(pixels)


def _lying(content: bytes) -> Image.Image:
    """RGB pixels as they lie in the file, alpha dropped, as Apple's reader sees them."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return image.convert("RGBA").convert("RGB")
    except Exception as error:  # as above
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ImageError(f"the image cannot be read ({reason}): get or save it again.") from error
