"""Data sets of pairs of files: what ADE20K, NYUv2's tree and a plain folder have in common.

    pairs = paired(listed(images), listed(masks), skipped, "mask")
    FileSet(name="ade20k/val", task="segmentation", pairs=pairs, read=ReadLabels(lookup=...), ...)

A listing takes a folder's names and sizes and opens nothing: 20,000 pairs in half a second.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from mobileclip.dense.config import IGNORE, Task
from mobileclip.dense.data import reading
from mobileclip.dense.data.skipping import Skipped
from mobileclip.dense.samples import Sample
from mobileclip.errors import DataError
from mobileclip.images import EXTENSIONS

MAPS = (".png", ".tif", ".tiff", ".bmp", ".pgm")
"""Files of truth, without loss."""
MAX_FILES = 10_000_000
"""Files of one listing."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A picture and its truth on disk; for a file that holds both, the same path twice."""

    image: str
    truth: str
    bytes: int
    """Of both."""


class Read(Protocol):
    """Reads one pair; an object that can be pickled."""

    def __call__(self, pair: Pair, name: str, index: int) -> Sample: ...


class FileSet:
    """Pairs of files as a `DenseSet`; safe in threads and processes."""

    def __init__(
        self,
        *,
        name: str,
        task: Task,
        root: Path,
        pairs: Sequence[Pair],
        read: Read,
        skipped: Skipped,
        labels: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> None:
        self.name, self.task, self.labels, self.skipped, self.notes = name, task, labels, skipped, notes
        self.category_ids: tuple[int, ...] = ()
        self._root, self._pairs, self._read = str(root), list(pairs), read
        digest = hashlib.sha256(f"{task}\n{labels}\n".encode())
        for pair in self._pairs:
            digest.update(f"{self._short(pair.image)}\t{self._short(pair.truth)}\t{pair.bytes}\n".encode())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read one.

        Raises:
            DataError: a file is damaged, or holds what its layout does not allow; it is named.
        """
        pair = self._pairs[index]
        return self._read(pair, self._short(pair.image), index)

    def _short(self, path: str) -> str:
        return path.removeprefix(self._root + os.sep)


@dataclass(frozen=True, kw_only=True)
class ReadLabels:
    """A picture and a label map whose values `lookup` translates."""

    lookup: tuple[int, ...]
    """Of 256 values of the file: 0..K-1, 255 for none, -1 for what may not be there."""
    allowed: str
    """What may be there, in words."""

    def __call__(self, pair: Pair, name: str, index: int) -> Sample:
        """Read both.

        Raises:
            DataError: a label outside the range, other sizes, a damaged file.
        """
        ids = reading.class_ids(reading.content_of(Path(pair.truth)), pair.truth)
        found = reading.counts(ids)
        table = np.array(self.lookup)
        wrong = np.flatnonzero((found > 0) & (table < 0))
        if len(wrong):
            raise DataError(
                f"'{pair.truth}' holds the label {wrong[0]} ({found[wrong[0]]:,} pixels): allowed are {self.allowed}; "
                "correct the map or the list of labels."
            )
        image = reading.rgb(reading.content_of(Path(pair.image)), pair.image, (ids.shape[0], ids.shape[1]))
        reading.same_size(image, ids, pair.image, pair.truth)
        return Sample(name=name, image=image, labels=table.astype(np.uint8)[ids], image_id=index)


@dataclass(frozen=True, kw_only=True)
class ReadDepth:
    """A picture and a 16-bit depth map in millimetres."""

    max_depth: float
    """Metres; what is farther has no depth."""

    def __call__(self, pair: Pair, name: str, index: int) -> Sample:
        """Read both.

        Raises:
            DataError: no 16-bit map, other sizes, a damaged file.
        """
        metres = reading.millimetres(reading.content_of(Path(pair.truth)), pair.truth)
        image = reading.rgb(reading.content_of(Path(pair.image)), pair.image, (metres.shape[0], metres.shape[1]))
        reading.same_size(image, metres, pair.image, pair.truth)
        metres[metres > self.max_depth] = 0
        return Sample(name=name, image=image, depth=metres, image_id=index)


def plain_lookup(classes: int) -> tuple[int, ...]:
    """Labels 0..K-1 as they are, 255 for none."""
    return tuple(value if value < classes or value == IGNORE else -1 for value in range(256))


def listed(folder: Path, endings: Iterable[str], skipped: Skipped) -> dict[str, tuple[str, int]]:
    """Files of a folder by stem: path and bytes, sorted; hidden ones and sub-folders are passed over.

    Raises:
        DataError: the folder cannot be read, or holds more than `MAX_FILES`.
    """
    wanted = frozenset(endings)
    found: dict[str, tuple[str, int]] = {}
    try:
        with os.scandir(folder) as entries:
            for count, entry in enumerate(entries):
                stem, ending = os.path.splitext(entry.name)
                if ending.lower() in wanted and not entry.name.startswith(".") and entry.is_file():
                    if stem in found:
                        skipped.add("second file of the same stem", entry.path)
                        if found[stem][0] < entry.path:
                            continue
                    found[stem] = (entry.path, entry.stat().st_size)
                if count > MAX_FILES:
                    raise DataError(f"'{folder}' holds more than {MAX_FILES:,} files: split it.")
    except OSError as error:
        raise DataError(f"'{folder}' cannot be read ({error.strerror}): check the path and its permissions.") from error
    return dict(sorted(found.items()))


def paired(
    images: Mapping[str, tuple[str, int]], truths: Mapping[str, tuple[str, int]], skipped: Skipped, truth: str
) -> list[Pair]:
    """Pictures and their truth by stem, in the order of stems; what has no partner, or no byte, is counted."""
    pairs = []
    for stem, (path, size) in images.items():
        if stem not in truths:
            skipped.add(f"image without a {truth}", path)
            continue
        other, other_size = truths[stem]
        if not size or not other_size:
            skipped.add("empty file", path if not size else other)
            continue
        pairs.append(Pair(image=path, truth=other, bytes=size + other_size))
    for stem, (path, _) in truths.items():
        if stem not in images:
            skipped.add(f"{truth} without an image", path)
    return pairs


def some(pairs: Sequence[Pair], skipped: Skipped, root: Path, wanted: str) -> None:
    """Refuse an empty set.

    Raises:
        DataError: there is no pair.
    """
    if not pairs:
        why = f" ({skipped.sentence()})" if skipped else ""
        raise DataError(f"'{root}' holds nothing that can be used{why}: looked for {wanted}.")


IMAGES = EXTENSIONS
"""Endings of pictures."""
