"""Encoded pictures to uint8 arrays at the speed of the decoder: JPEG without the GIL, at a fraction of its size.

    picture = open_picture(data)                     # reads the header: size, as it will be delivered
    pixels, divisor = picture.decode(256, box)       # uint8 [H', W', 3], RGB; the crop still has 256 pixels each way

A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where the crop that is wanted stays large enough (the other eighths
have no vector code in libjpeg-turbo and take longer than the whole picture). Whatever the fast decoder does not take
(other formats, CMYK, oddities that are no damage) goes through `images.read_image`, whose limits and errors hold
for both, and whose pixels both deliver. Pictures come upright, unless they are to be replayed: stored crops refer to
the picture as it lies in the file.
"""

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from mobileclip.images import MAX_PIXELS, read_image

Pixels = npt.NDArray[np.uint8]

_EXIF = b"Exif\x00\x00"
_TURNED = (5, 6, 7, 8)  # orientations that swap height and width
_FAST = ("YCbCr", "Gray", "RGB")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of which the header is read."""

    height: int
    """As `decode` delivers it at full size."""
    width: int
    """As `decode` delivers it at full size."""
    orientation: int
    """EXIF's, 1 to 8, that `decode` undoes; 1: nothing to do."""
    data: memoryview
    """The file."""
    pixels: Pixels | None
    """Decoded already: the fast decoder did not take it."""

    def decode(self, least: int, box: Sequence[int]) -> tuple[Pixels, int]:
        """RGB uint8 [H', W', 3] and the divisor of its size: 1, 2, 4 or 8.

        The largest divisor with which the crop `box` (top, left, height, width; at full size) keeps `least` pixels each
        way. A crop smaller than that is decoded at full size.

        Raises:
            ImageError: the file is damaged or cut short.
        """
        if self.pixels is not None:
            return self.pixels, 1
        import simplejpeg

        shortest = min(box[2], box[3])
        divisor = next((f for f in (8, 4, 2) if shortest >= f * least), 1)
        h, w = (self.width, self.height) if self.orientation in _TURNED else (self.height, self.width)
        try:
            pixels: Pixels = simplejpeg.decode_jpeg(self.data, min_height=-(-h // divisor), min_width=-(-w // divisor))
        except ValueError:  # damaged, or odd: Pillow says which
            return _read(self.data, self.orientation != 1), 1
        return _turn(pixels, self.orientation), divisor


def open_picture(data: memoryview, upright: bool = True) -> Picture:
    """Read a header; `upright`: turn the picture as its EXIF says.

    Raises:
        ImageError: not a picture, damaged, or too large; `read_image`'s sentences.
    """
    import simplejpeg

    if bytes(data[:2]) == b"\xff\xd8":
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError:
            colours = ""
        if colours in _FAST and 0 < height * width <= MAX_PIXELS:
            orientation = jpeg_orientation(data) if upright else 1
            if orientation in _TURNED:
                height, width = width, height
            return Picture(height=height, width=width, orientation=orientation, data=data, pixels=None)
    pixels = _read(data, upright)
    return Picture(height=pixels.shape[0], width=pixels.shape[1], orientation=1, data=data, pixels=pixels)


def _read(data: memoryview, upright: bool) -> Pixels:
    content = bytes(data)
    image = np.asarray(read_image(content))
    if upright:
        return image
    with Image.open(io.BytesIO(content)) as opened:  # read_image has taken it, so it is harmless
        try:
            orientation = int(opened.getexif().get(0x0112, 1))
        except Exception:  # as read_image: a broken EXIF block says nothing
            orientation = 1
    return _turn(image, {6: 8, 8: 6}.get(orientation, orientation))


def _turn(pixels: Pixels, orientation: int) -> Pixels:
    """View of [H, W, 3] as EXIF's orientation has it (EXIF 2.32, table 4)."""
    match orientation:
        case 2:
            return pixels[:, ::-1]
        case 3:
            return pixels[::-1, ::-1]
        case 4:
            return pixels[::-1]
        case 5:
            return pixels.transpose(1, 0, 2)
        case 6:
            return pixels.transpose(1, 0, 2)[:, ::-1]
        case 7:
            return pixels.transpose(1, 0, 2)[::-1, ::-1]
        case 8:
            return pixels.transpose(1, 0, 2)[::-1]
    return pixels


def jpeg_orientation(data: memoryview) -> int:
    """EXIF's orientation of a JPEG, 1 where it says none or nothing sensible.

    Walks the application's segments at the front (EXIF 2.32, 4.5.4: where it must be), each of which begins with its
    length; most pictures have one or two.
    """
    at, end = 2, len(data)
    while at + 10 < end:
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == 0xFFE1 and bytes(data[at + 4 : at + 10]) == _EXIF:
            return _of_tiff(data[at + 10 : at + 2 + length])
        if not (0xFFE0 <= marker <= 0xFFEF or marker == 0xFFFE) or length < 2:
            return 1
        at += 2 + length
    return 1


def _of_tiff(block: memoryview) -> int:
    """The orientation in the first directory of a TIFF block."""
    try:
        order = {b"II": "<", b"MM": ">"}[bytes(block[:2])]
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for index in range(min(count, 256)):
            tag, kind, many, value = struct.unpack_from(order + "HHIH", block, start + 2 + 12 * index)
            if tag == 0x0112:
                return int(value) if kind == 3 and many == 1 and 1 <= value <= 8 else 1
    except (KeyError, struct.error):
        pass
    return 1
