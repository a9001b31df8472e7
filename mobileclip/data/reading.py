"""Samples to pixels: what a loader's thread does for the few pictures of a batch that it takes.

A picture that cannot be used (damaged, not a picture, augmentations or embeddings that make no sense) is replaced by
another sample, which depends on its place in the epoch and on nothing else, and is counted by reason with its name. An
error of a whole shard is not: it ends the run.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from mobileclip.data.augment import Augment, Box, Operation, Pixels, pick_stored, read_stored, resize, scaled_box
from mobileclip.data.decode import Picture, open_picture
from mobileclip.data.order import Ints, hashed
from mobileclip.data.places import stem_of
from mobileclip.data.problems import NAMED, Problem
from mobileclip.data.teachers import Teachers
from mobileclip.errors import DataError, ImageError

if TYPE_CHECKING:
    from mobileclip.data.corpus import Corpus
    from mobileclip.data.index import Index


_ATTEMPTS = 100  # other samples that are tried in place of a broken one
_SOME, _START = 100, 16  # reads from which on the share of broken ones counts; reads of which one must be good
_INSTEAD = 301  # stream of draws
_FULL = 1 << 20  # pixels that no picture has: it is decoded in full


@dataclass(kw_only=True, eq=False)
class Sample:
    """A sample on its way into a batch."""

    shard: int
    """Number of its shard."""
    row: int
    """In the shard."""
    index: "Index"
    """Of the shard."""
    key: int
    """What chance depends on: a hash of seed, epoch and uid."""
    aug: int = -1
    """Which of its stored augmentations is replayed; -1 none."""
    box: Box | None = None
    """Crop: top, left, height, width of the picture in full; None: all of it."""
    refers_to: tuple[int, int] | None = None
    """Width and height that a stored crop was made for; None: the picture in full."""
    mirrored: bool = False
    """To be flipped."""
    operations: tuple[Operation, ...] = ()
    """RandAugment's."""
    teacher: Teachers | None = None
    """Its stored embeddings, where they were asked for."""
    crop: Pixels | None = None
    """Pixels of the crop, where they were not resized into a batch."""

    @property
    def name(self) -> str:
        """`shard/key`."""
        return f"{stem_of(self.index.tar)}/{self.index.key(self.row)}"


class Tally:
    """Counts what was read and what of it was broken; safe to use from several threads."""

    def __init__(self, share: float) -> None:
        self._share, self._reads, self._count = share, 0, 0
        self._found: dict[str, tuple[int, list[str]]] = {}
        self._lock = threading.Lock()

    def broken(self, error: Exception, name: str) -> None:
        """One more that cannot be used; the reason is the error's text without what differs between samples."""
        reason = str(error).split(" (")[0].split(":")[0][:100]
        with self._lock:
            count, names = self._found.setdefault(reason, (0, []))
            if len(names) < NAMED:
                names.append(name)
            self._found[reason] = (count + 1, names)
            self._count += 1

    def read(self, count: int) -> None:
        """So many more were read.

        Raises:
            DataError: too many of all that were read are broken.
        """
        with self._lock:
            self._reads += count
            reads, bad = self._reads, self._count
        if (reads >= _SOME and bad > self._share * reads) or (reads >= _START and bad >= reads):
            raise DataError(
                f"{bad:,} of the first {reads:,} samples cannot be used, {self._share:.1%} are allowed "
                f"({self.sentence()}): check the shards with `mobileclip inspect`, or allow a larger broken_share."
            )

    def result(self) -> dict[str, Problem]:
        """Reason -> count and first names, most frequent first."""
        with self._lock:
            found = sorted(self._found.items(), key=lambda item: -item[1][0])
            return {reason: Problem(count=count, names=tuple(names)) for reason, (count, names) in found}

    def sentence(self) -> str:
        """The most frequent reasons, for a message."""
        found = list(self.result().items())[:3]
        return "; ".join(f"{problem.count:,} × {reason}: {', '.join(problem.names[:3])}" for reason, problem in found)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads samples of a corpus; has no state but the tally."""

    corpus: "Corpus"
    """Where from."""
    size: int
    """S, pixels a side of a crop when it is resized."""
    augment: Augment
    """What may be done to pictures."""
    seed: int
    """Of the run."""
    teachers: bool
    """Read the stored embeddings too; a sample without them is broken."""
    tally: Tally
    """Of broken samples."""

    def read(self, epoch: int, place: int, numbers: Ints, images: Tensor | None) -> list[Sample]:
        """Samples `numbers` [N] of the corpus, which stand at `place` and behind it in the epoch, or others for them.

        Crops are resized into `images` uint8 [N, 3, S, S], or left in the samples as they are without.

        Raises:
            DataError: a shard cannot be read, or too many samples are broken.
        """
        found: list[Sample | None] = [None] * len(numbers)
        slots = np.arange(len(numbers))
        for attempt in range(_ATTEMPTS + 1):
            if attempt:
                numbers = (
                    hashed(self.seed, epoch, place + slots, _INSTEAD, attempt) % np.uint64(self.corpus.n)
                ).astype(np.int64)
            opened = []
            for slot, sample in zip(slots.tolist(), self._samples(epoch, numbers), strict=True):
                picture = self._open(sample)
                if picture is not None:
                    opened.append((slot, sample, picture))
            self._draw([(sample, picture) for _, sample, picture in opened])
            for slot, sample, picture in opened:
                if self._decode(sample, picture, None if images is None else images[slot : slot + 1]):
                    found[slot] = sample
            self.tally.read(len(slots))
            slots = np.array([slot for slot in slots.tolist() if found[slot] is None], np.int64)
            if not len(slots):
                return [sample for sample in found if sample is not None]
        raise DataError(
            f"{_ATTEMPTS} samples in a row cannot be used ({self.tally.sentence()}): check the shards with "
            "`mobileclip inspect`."
        )

    def _samples(self, epoch: int, numbers: Ints) -> list[Sample]:
        shards, rows = (values.tolist() for values in self.corpus.locate(numbers))
        indices = [self._index(shard) for shard in shards]
        uids = np.array([index.uid[row] for index, row in zip(indices, rows, strict=True)], np.uint64)
        keys = hashed(self.seed, epoch, uids).tolist()
        return [
            Sample(shard=shard, row=row, index=index, key=key)
            for shard, row, index, key in zip(shards, rows, indices, keys, strict=True)
        ]

    def _index(self, shard: int) -> "Index":
        index: Index = self.corpus.shards[shard]
        count = int(self.corpus.start[shard + 1] - self.corpus.start[shard])
        if index.n != count:  # it was opened anew, and another index had to be built
            raise DataError(
                f"'{index.tar}' holds {index.n:,} samples, and {count:,} when the run began: shards must not change "
                "under a run; start it again."
            )
        return index

    def _open(self, sample: Sample) -> Picture | None:
        """Header, stored augmentation and embeddings; None: broken."""
        index, row = sample.index, sample.row
        data = index.image_bytes(row)  # what fails here is the shard, not the sample
        try:
            if self.augment.replay and index.paug_at[row, 0] >= 0:
                _restore(sample)
            if self.teachers:
                sample.teacher = index.teachers(row)
                _check_teachers(sample)
            return open_picture(data, upright=sample.aug < 0)
        except (ImageError, DataError) as error:
            self.tally.broken(error, sample.name)
            return None

    def _draw(self, opened: Sequence[tuple[Sample, Picture]]) -> None:
        """Crop, flip and operations of those that replay nothing."""
        new = [(sample, picture) for sample, picture in opened if sample.aug < 0]
        if not new:
            return
        keys = np.array([sample.key for sample, _ in new], np.uint64)
        sizes = np.array([(picture.height, picture.width) for _, picture in new], np.int64)
        boxes, flips = self.augment.boxes(keys, sizes).tolist(), self.augment.flips(keys).tolist()
        operations = self.augment.operations(keys, self.size)
        for (sample, _), box, mirrored, drawn in zip(new, boxes, flips, operations, strict=True):
            sample.box, sample.mirrored, sample.operations = tuple(box), mirrored, drawn

    def _decode(self, sample: Sample, picture: Picture, out: Tensor | None) -> bool:
        """The crop, into `out` or into the sample; False: broken."""
        full = (picture.height, picture.width)
        box, least = sample.box or (0, 0, *full), self.size
        if sample.aug >= 0:  # what is replayed is decoded in full, so that its crop is exact; and lies in the picture
            width, height = sample.refers_to or (full[1], full[0])
            box, least = scaled_box(box, (height, width), full), _FULL
        try:
            pixels, divisor = picture.decode(least, box)
        except ImageError as error:
            self.tally.broken(error, sample.name)
            return False
        if divisor > 1:
            box = scaled_box(box, full, (pixels.shape[0], pixels.shape[1]))
        if out is not None:
            resize(pixels, box, out, self.augment.interpolation)
        else:
            top, left, height, width = box
            sample.crop = pixels[top : top + height, left : left + width]
        return True


def _restore(sample: Sample) -> None:
    """One of the stored augmentations instead of draws."""
    paug = sample.index.paug(sample.row)
    assert paug is not None
    which = int(pick_stored(np.array([sample.key], np.uint64), np.array([len(paug.params)]))[0])
    stored = read_stored(paug.params[which])
    sample.aug, sample.box, sample.refers_to = which, stored.box, paug.size
    sample.mirrored, sample.operations = stored.flip, stored.operations


def _check_teachers(sample: Sample) -> None:
    if sample.teacher is None:
        raise DataError("it has no teacher embeddings: store them, or train without teachers.")
    count = len(sample.teacher.image)
    if (sample.aug < 0 and count != 1) or sample.aug >= count:
        raise DataError("its image embeddings are of augmentations that are not stored: make both again.")
