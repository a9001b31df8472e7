"""The fast decoder delivers what `read_image` delivers, upright, and the same errors for what is broken."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobileclip.data.decode import jpeg_orientation, open_picture
from mobileclip.errors import ImageError
from mobileclip.images import read_image

POISON = Path(__file__).parents[3] / "shared" / "data" / "poison"
HUGE = 1 << 20


def picture(width: int = 96, height: int = 64) -> Image.Image:
    generator = np.random.default_rng(0)
    small = Image.fromarray(generator.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    exif[0x0112] = orientation
    return encoded(picture(), kind, exif=exif, quality=90)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_pictures_come_upright_or_as_they_lie(orientation: int, kind: str) -> None:
    data = turned(orientation, kind)
    opened = open_picture(memoryview(data))
    pixels, divisor = opened.decode(HUGE, (0, 0, opened.height, opened.width))
    assert divisor == 1
    assert pixels.shape == (opened.height, opened.width, 3)
    assert np.array_equal(pixels, np.asarray(read_image(data)))
    lying = open_picture(memoryview(data), upright=False)
    assert (lying.height, lying.width) == (64, 96)
    pixels, _ = lying.decode(HUGE, (0, 0, 64, 96))
    assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_jpegs_of_any_colours_are_those_of_pillow(mode: str, subsampling: int) -> None:
    data = encoded(picture().convert(mode), quality=85, subsampling=subsampling)
    opened = open_picture(memoryview(data))
    assert np.array_equal(opened.decode(HUGE, (0, 0, 64, 96))[0], np.asarray(read_image(data)))


@pytest.mark.parametrize(
    ("least", "divisor"), [(1, 8), (25, 8), (26, 4), (50, 4), (51, 2), (100, 2), (101, 1), (999, 1)]
)
def test_a_jpeg_is_decoded_no_larger_than_its_crop_needs(least: int, divisor: int) -> None:
    data = encoded(picture(301, 221), quality=95)
    opened = open_picture(memoryview(data))
    pixels, used = opened.decode(least, (3, 5, 200, 280))
    assert used == divisor
    assert pixels.shape == (-(-221 // divisor), -(-301 // divisor), 3)
    reference = picture(301, 221).resize(pixels.shape[1::-1], Image.Resampling.BOX)
    assert np.abs(pixels.astype(int) - np.asarray(reference)).mean() < 4


def test_turned_jpegs_are_scaled_before_they_are_turned() -> None:
    opened = open_picture(memoryview(turned(6)))
    assert (opened.height, opened.width) == (96, 64)
    pixels, divisor = opened.decode(24, (0, 0, 96, 64))
    assert divisor == 2
    assert pixels.shape == (48, 32, 3)


def in_full(data: bytes) -> np.ndarray:
    opened = open_picture(memoryview(data))
    return opened.decode(HUGE, (0, 0, opened.height, opened.width))[0]


def outcome(read: Callable[[], object]) -> object:
    try:
        return np.asarray(read()).tolist()
    except ImageError as error:
        return str(error)


def test_cut_and_foreign_files_are_refused_as_elsewhere() -> None:
    data = encoded(picture())
    for broken in (data[: len(data) // 2], b"", b"\xff\xd8", b"not a picture" * 9, data[:30]):
        expected = outcome(lambda broken=broken: read_image(broken))  # type: ignore[misc]
        assert isinstance(expected, str)
        assert outcome(lambda broken=broken: in_full(broken)) == expected  # type: ignore[misc]


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II",
        b"XX*\0\0\0\0\0",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"II*\0\x08\0\0\0\1\0\x12\1\4\0",
    ],
)
def test_broken_exif_says_nothing(block: bytes) -> None:
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block
    assert jpeg_orientation(memoryview(b"\xff\xd8" + segment + b"\xff\xdb" + bytes(64))) == 1
    assert jpeg_orientation(memoryview(b"\xff\xd8\xff\xe1\0\0" + bytes(64))) == 1


@pytest.mark.parametrize("path", sorted(POISON.glob("*.*")) or [None], ids=lambda path: getattr(path, "name", "none"))
def test_poison_is_read_or_refused_as_elsewhere(path: Path | None) -> None:
    if path is None:
        pytest.skip(f"no broken pictures at {POISON}")
    data = path.read_bytes()

    assert outcome(lambda: in_full(data)) == outcome(lambda: read_image(data))
