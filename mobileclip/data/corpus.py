"""A corpus: all samples of many shards under one numbering, 0 to n - 1.

    found = corpus(["shards/{00000..00099}.tar"], jobs=8)
    shard, row = found.locate(np.array([123_456]))
    found.shards[int(shard[0])].image_bytes(int(row[0]))

Unusual here: only counts stay in memory; indices are opened when they are asked for, and a bounded number stays open,
so that 128,000 shards need neither their memory nor their file descriptors. A corpus of which nothing can be used says
so at once, with the reasons and the extensions that were found, where webdataset's readers wait for ever.
"""

import hashlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobileclip.data import index as indices
from mobileclip.data.index import Index
from mobileclip.data.pool import each
from mobileclip.data.problems import Problem, Tally, sentence
from mobileclip.data.shards import expand
from mobileclip.errors import DataError

Progress = Callable[[int, int], None]
"""Called with the number of shards that are ready and the number of all."""


class Shards(Sequence[Index]):
    """The indices of a corpus, opened when asked for; safe to use from several threads."""

    def __init__(
        self, places: Sequence[str], cache: Path | None, json_keys: tuple[str, ...], embeddings: Path | None
    ) -> None:
        self.places = tuple(places)
        self._options = {"cache": cache, "json_keys": json_keys, "embeddings": embeddings}
        self._open: OrderedDict[int, Index] = OrderedDict()
        self._room = _descriptors()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, shard: Any) -> Any:
        with self._lock:
            if shard in self._open:
                self._open.move_to_end(shard)
                return self._open[shard]
        found = indices.index(self.places[shard], **self._options)  # type: ignore[arg-type]
        with self._lock:
            self._open[shard] = found
            while len(self._open) > self._room:  # those who still use one keep it open
                self._open.popitem(last=False)
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Corpus:
    """All usable samples of several shards."""

    n: int
    """Samples."""
    shards: Shards
    """Their indices, in the order in which the shards were given."""
    start: NDArray[np.int64]
    """[shards + 1] number of each shard's first sample."""
    sources: tuple[str, ...]
    """All sources of captions."""
    problems: dict[str, Problem]
    """What is wrong in all shards; names are `shard/key`."""
    fingerprint: str
    """Changes when a shard's name, order or content does."""

    def locate(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of samples -> shards and rows in them."""
        shard = np.searchsorted(self.start, rows, side="right") - 1
        return shard, rows - self.start[shard]


class _Summary(NamedTuple):
    """What a corpus keeps of an index."""

    n: int
    sources: tuple[str, ...]
    problems: dict[str, Problem]
    extensions: dict[str, int]
    mark: str


def corpus(
    specs: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    cache: Path | None = None,
    json_keys: Sequence[str] = (),
    embeddings: Path | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Corpus:
    """Index all shards that `specs` name (see `expand`), in `jobs` processes.

    `embeddings` is a folder of side-cars, joined to the shards by name; `json_keys` are string fields of `.json` that
    are captions.

    Raises:
        DataError: a shard cannot be read at all, a side-car is missing or belongs to another shard, or not one sample
            can be used.
    """
    places, keys = expand(specs), tuple(json_keys)
    found: list[_Summary | None] = [None] * len(places)
    summary = partial(_summary, cache=cache, keys=keys, embeddings=embeddings)
    for done, ((number, _), one) in enumerate(each(summary, list(enumerate(places)), jobs), 1):
        found[number] = one
        if progress is not None:
            progress(done, len(places))
    tally, extensions, sources, mark = Tally(), Counter[str](), dict[str, None](), hashlib.sha256()
    counts = []
    for place, one in zip(places, (one for one in found if one is not None), strict=True):
        counts.append(one.n)
        tally.merge(one.problems, f"{indices.stem_of(place)}/")
        extensions.update(one.extensions)
        sources.update(dict.fromkeys(one.sources))
        mark.update(one.mark.encode())
    start = np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64))]).astype(np.int64)
    if start[-1] == 0:
        held = ", ".join(f"{count} .{name}" for name, count in extensions.most_common(8)) or "no files"
        why = sentence(tally.result()) or "no sample has an image and a caption"
        raise DataError(
            f"none of {len(places)} shards holds a sample that can be used ({why}); found were {held}: a sample needs "
            "an image (.jpg, .png, .jpeg, .webp) and a caption (.txt, .json, .syn.json) of the same name."
        )
    return Corpus(
        n=int(start[-1]),
        shards=Shards(places, cache, keys, embeddings),
        start=start,
        sources=tuple(sources),
        problems=tally.result(),
        fingerprint=mark.hexdigest(),
    )


def _summary(
    numbered: tuple[int, str], *, cache: Path | None, keys: tuple[str, ...], embeddings: Path | None
) -> _Summary:
    _, place = numbered
    found = indices.index(place, cache=cache, json_keys=keys, embeddings=embeddings)
    metadata = found.metadata
    extensions = {str(name): int(count) for name, count in metadata["extensions"].items()}
    mark = f"{indices.stem_of(place)}\0{metadata['headers']}\0{metadata['keys_hash']}\0{metadata['texts_hash']}\n"
    return _Summary(found.n, found.sources, found.problems, extensions, mark)


def _descriptors() -> int:
    """How many indices (an index and a tar each) may stay open."""
    try:
        import resource

        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except (ImportError, OSError):
        soft = 256
    return max(16, min(1_024, soft // 4))
