"""Samples in tars, for evaluation: where each picture lies, its class, its captions.

What trains is told apart by `mobileclip.data`; this reads the same shards whole and in order, and is stricter: a tar
that is cut short would change the figure that it is measured for, so it is an error.
"""

import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mobileclip.data import shards, tars
from mobileclip.data.problems import Tally, sentence
from mobileclip.errors import DataError, ImageError, some
from mobileclip.images import MAX_BYTES, read_image


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Pictures inside of tars."""

    tars: tuple[Path, ...]
    which: npt.NDArray[np.int64]
    """[N]: in which tar."""
    spans: npt.NDArray[np.int64]
    """[N, 2]: first byte and size."""
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.which)

    def name(self, index: int) -> str:
        return f"{self.tars[self.which[index]].name}/{self.keys[index]}"

    def read(self, index: int) -> Image.Image:
        offset, size = (int(value) for value in self.spans[index])
        if size > MAX_BYTES:
            raise ImageError(f"{self.name(index)} has {size:,} bytes: at most {MAX_BYTES:,} are allowed.")
        try:
            with self.tars[self.which[index]].open("rb") as file:
                file.seek(offset)
                return read_image(file.read(size))
        except OSError as error:
            raise ImageError(f"{self.name(index)} cannot be read ({error.strerror}): check the tar.") from error


def labelled(files: Sequence[Path], classes: int) -> tuple[Packed, npt.NDArray[np.int64], list[str]]:
    """Every sample with a picture and a `.cls` member, its class, and those that have only one of both.

    Captions are not needed.

    Raises:
        DataError: a damaged tar, a class out of range, or no such sample.
    """
    found: list[_Found] = []
    labels: list[int] = []
    tally = Tally()
    lost: list[str] = []
    extensions: set[str] = set()
    for number, path in enumerate(files):
        with tars.opened(path) as data:
            for key, members in shards.group(_whole(data, path), tally).samples.items():
                image = _image(members)
                if image is None or "cls" not in members:
                    if image is not None or "cls" in members:
                        lost.append(f"{path.name}/{key}: {'no .cls' if image is not None else 'no picture'}")
                    extensions.update(members)
                    continue
                span = members["cls"]
                labels.append(_class(bytes(data[span.offset : span.offset + min(span.size, 32)]), path, key, classes))
                found.append((number, image.offset, image.size, key))
    if not found:
        raise DataError(
            f"{some([path.name for path in files])}: no sample has both a picture and a .cls member "
            f"(found: {some(sorted(extensions)) or 'nothing'}); zero-shot classification needs them."
        )
    return _packed(files, found), np.array(labels, np.int64), lost


def captioned(files: Sequence[Path], source: str | None) -> tuple[Packed, list[list[str]], int]:
    """Every sample with a picture and captions, and how many have none.

    Taken are the captions of one `source` (`alt`, `syn_text`, ...), or all of them.

    Raises:
        DataError: a damaged tar, or no such sample.
    """
    found: list[_Found] = []
    captions: list[list[str]] = []
    tally = Tally()
    sources: set[str] = set()
    samples = 0
    for number, path in enumerate(files):
        with tars.opened(path) as data:
            walk = _whole(data, path)
            samples += len(shards.group(walk, Tally()).samples)
            for sample in shards.read(data, walk, tally):
                sources.update(text.source for text in sample.texts)
                texts = [text.text for text in sample.texts if source in (None, text.source)]
                if texts:
                    found.append((number, sample.image.offset, sample.image.size, sample.key))
                    captions.append(texts)
    if not found and sources:
        raise DataError(f"no caption is of source '{source}': these shards have {some(sorted(sources), 20)}.")
    if not found:
        reason = sentence(tally.result()) or "they are empty"
        raise DataError(f"{some([path.name for path in files])}: no sample has a picture and a caption ({reason}).")
    return _packed(files, found), captions, samples - len(found)


_Found = tuple[int, int, int, str]


def _packed(files: Sequence[Path], found: Sequence[_Found]) -> Packed:
    numbers = np.array([item[:3] for item in found], np.int64).reshape(-1, 3)
    return Packed(tars=tuple(files), which=numbers[:, 0], spans=numbers[:, 1:], keys=tuple(item[3] for item in found))


def _whole(data: mmap.mmap, path: Path) -> tars.Walk:
    walk = tars.walk(data, path)
    damage = walk.damage or (None if walk.end_mark else "its end mark is missing, so it may have been cut")
    if damage is not None:
        raise DataError(f"{path} is damaged ({damage}): a figure from part of a set misleads; get it again.")
    return walk


def _image(members: Mapping[str, shards.Span]) -> shards.Span | None:
    return next((members[extension] for extension in shards.IMAGES if extension in members), None)


def _class(content: bytes, path: Path, key: str, classes: int) -> int:
    digits = content.strip()
    if not digits.isdigit() or int(digits) >= classes:
        shown = content[:20].decode("utf-8", "backslashreplace")
        raise DataError(
            f"{path}: sample {key} is of class '{shown}', the class list has 0 to {classes - 1}: give the list that "
            "belongs to these shards."
        )
    return int(digits)


def tars_in(folder: Path) -> list[Path]:
    """The tars of a folder, sorted."""
    return sorted(path for path in _visible(folder) if path.suffix == ".tar" and path.is_file())


def _visible(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if not path.name.startswith("."))
