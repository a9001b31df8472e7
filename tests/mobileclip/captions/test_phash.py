"""Perceptual hashes: those of ImageHash, and the same for the same picture in other files."""

import io
from itertools import combinations
from pathlib import Path

import imagehash
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mobileclip.captions.pictures import phash
from mobileclip.data.decode import Pixels, open_picture
from mobileclip.images import load_images

CHANGES = ("quality 50", "quality 20", "half", "a third", "half more")


def decoded(data: bytes) -> Pixels:
    picture = open_picture(memoryview(data))
    return picture.decode(512, (0, 0, picture.height, picture.width))[0]


def hashed(pictures: list[Pixels]) -> npt.NDArray[np.uint64]:
    words, structured = phash.hashes(np.stack([phash.reduced(pixels) for pixels in pictures]))
    assert structured.all()
    return words


def changed(image: Image.Image, how: str) -> Pixels:
    factor, quality = {"half": (0.5, 85), "a third": (0.33, 85), "half more": (1.5, 85)}.get(how, (1.0, 0))
    size = (round(image.width * factor), round(image.height * factor))
    file = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=quality or int(how.split()[1]))
    return decoded(file.getvalue())


@pytest.fixture(scope="module")
def contents(photos: Path) -> list[bytes]:
    return [path.read_bytes() for path in load_images(photos)[:60]]


def test_hashes_are_near_those_of_imagehash(contents: list[bytes]) -> None:
    pictures = [decoded(data) for data in contents]
    theirs = np.array([int(str(imagehash.phash(Image.fromarray(one))), 16) for one in pictures], np.uint64)
    bits = phash.distance(hashed(pictures), theirs)
    assert bits.max() <= 6
    assert bits.mean() < 1


@pytest.mark.parametrize("how", CHANGES)
def test_a_picture_saved_again_stays_near(contents: list[bytes], how: str) -> None:
    before = hashed([decoded(data) for data in contents])
    after = hashed([changed(Image.open(io.BytesIO(data)).convert("RGB"), how) for data in contents])
    bits = phash.distance(before, after)
    assert bits.max() <= 6
    assert (bits <= 4).mean() >= 0.98


def test_other_pictures_are_far(contents: list[bytes]) -> None:
    words = hashed([decoded(data) for data in contents])
    assert min(int(phash.distance(words[i], words[j])) for i, j in combinations(range(len(words)), 2)) >= 12


def test_a_hash_does_not_depend_on_its_batch(contents: list[bytes]) -> None:
    grey = np.stack([phash.reduced(decoded(data)) for data in contents[:9]])
    alone = [int(phash.hashes(one[None])[0][0]) for one in grey]
    assert phash.hashes(grey)[0].tolist() == alone


@pytest.mark.parametrize("value", [0, 1, 128, 255])
@pytest.mark.parametrize("size", [(1, 1), (31, 700), (640, 480)])
def test_one_colour_has_no_hash(size: tuple[int, int], value: int) -> None:
    _, structured = phash.hashes(phash.reduced(np.full((*size, 3), value, np.uint8))[None])
    assert not structured[0]


def test_no_pictures_no_hashes() -> None:
    words, structured = phash.hashes(np.zeros((0, phash.GRID, phash.GRID)))
    assert words.shape == structured.shape == (0,)
    assert words.dtype == np.uint64


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 130), width=st.integers(1, 130), seed=st.integers(0, 2**32 - 1))
def test_cells_are_means(height: int, width: int, seed: int) -> None:
    """Of any size: the reduced picture has its brightness, and lies between its darkest and its brightest."""
    low, high = sorted(np.random.default_rng(seed).integers(0, 256, 2))
    pixels = np.random.default_rng(seed).integers(low, high + 1, (height, width, 3)).astype(np.uint8)
    grey = phash.reduced(pixels)
    assert grey.shape == (32, 32)
    assert (grey == np.rint(grey)).all()
    assert low - 0.2 <= grey.min() / 8 <= grey.max() / 8 <= high + 0.2


def test_turned_and_mirrored_views_hash_as_copies() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 70, 3)).astype(np.uint8)
    for view in (pixels[::-1], pixels[:, ::-1], pixels.transpose(1, 0, 2)):
        assert (phash.reduced(view) == phash.reduced(np.ascontiguousarray(view))).all()
