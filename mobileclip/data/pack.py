"""Shards of any readable layout to training shards: small clean JPEGs, members together, scaled augmentations.

    pack_shards(["cc12m/{00000..01242}.tar"], "packed", size=288, jobs=16)

Each image is decoded once here, so that training neither fails nor spends its time on pixels that it throws away: the
short side becomes `size`, EXIF rotation is applied (except where stored augmentations refer to the pixels as they lie),
alpha is dropped. An image that is small enough, upright and clean keeps its bytes. Samples whose image cannot be
decoded are left out, counted and named, up to a share.

Unusual here: an output shard is a function of its place in the corpus alone, so shards are made by any number of
processes; a finished one has a `.done.json` with the hash of what it was made from, and is not made again.
`ShardWriter` is the writer behind it, for samples from elsewhere.
"""

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from mobileclip.data import index as indices
from mobileclip.data import remote, shard_writer, shards, tars
from mobileclip.data.arrays import placing
from mobileclip.data.corpus import Corpus, Progress, corpus
from mobileclip.data.index import Index
from mobileclip.data.pixels import ImageTooLarge, packed_image
from mobileclip.data.pool import each
from mobileclip.data.problems import Problem, Tally, as_json, from_json, sentence
from mobileclip.data.sample import RESERVED, sample_members
from mobileclip.data.shard_writer import Form, TarWriter, Written
from mobileclip.data.shard_writer import ShardWriter as ShardWriter
from mobileclip.data.shards import Data, Sample, Span
from mobileclip.errors import DataError, ImageError

_VERSION = 1  # of what packing does to a sample; another one makes finished shards again


class Selected(Protocol):
    """Samples that were selected elsewhere, with their captions (`mobileclip.captions.joined`); can be pickled."""

    @property
    def places(self) -> Sequence[str]:
        """Tars, in order."""
        ...

    def counts(self, place: str) -> tuple[int, int]:
        """Samples of a tar that were selected, and all that it has."""
        ...

    def mark(self, place: str) -> str:
        """Changes when `samples` of a tar would."""
        ...

    def samples(self, data: Data, place: str, first: int, last: int, json_keys: Sequence[str]) -> Iterator[Sample]:
        """Selected samples `first` to `last` of a tar."""
        ...

    def provenance(self) -> Mapping[str, str]:
        """What made the captions."""
        ...


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What `pack_shards` has made."""

    folder: Path
    """Where it is."""
    shards: int
    """Tars."""
    samples: int
    """In all tars."""
    kept: int
    """Tars that an earlier run had finished."""
    problems: dict[str, Problem]
    """What was left out, and why; names are `shard/key` of the input."""


@dataclass(frozen=True, kw_only=True)
class _Config:
    """What decides how a sample is packed."""

    size: int | None
    quality: int
    embeddings: Form
    licence: str
    json_keys: tuple[str, ...]
    broken_share: float


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One output shard."""

    path: Path
    parts: tuple[tuple[str, int, int], ...]  # input tar, its first and last row
    inputs: str  # hash of what it is made from
    config: _Config
    cache: Path | None
    side_cars: Path | None
    captions: Selected | None


def pack_shards(
    specs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    size: int | None = 288,
    quality: int = 92,
    per_shard: int = 10_000,
    jobs: int = 1,
    embeddings: Form = "npz",
    side_cars: Path | None = None,
    captions: Selected | None = None,
    licence: str = "",
    json_keys: Sequence[str] = (),
    broken_share: float = 0.05,
    provenance: dict[str, Any] | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Packed:
    """Pack what `specs` name into the folder `out`; started again, it goes on where it was interrupted.

    `size` is the short side of stored images in pixels (None: as they are); `side_cars` a folder of embeddings of the
    inputs; `embeddings` where those of the outputs go. With `captions` its samples are packed and no others: `specs` is
    not looked at, and stored augmentations and embeddings are left behind, since they belong to other captions.

    Raises:
        DataError: an input cannot be read, or more than `broken_share` of the samples cannot be packed.
        OutputError: `out` holds something else, or cannot be written.
    """
    _check(size, per_shard, quality, broken_share)
    if captions is not None and (embeddings != "none" or side_cars is not None):
        raise DataError(
            "stored embeddings are those of other captions: pack selected captions with embeddings 'none' and no "
            "side-cars, and embed them afterwards."
        )
    folder = Path(out)
    read = _selected(captions) if captions is not None else _indexed(specs, cache, json_keys, side_cars, jobs)
    config = _Config(
        size=size,
        quality=quality,
        embeddings=embeddings,
        licence=licence,
        json_keys=tuple(json_keys),
        broken_share=broken_share,
    )
    tasks = list(_tasks(read, folder, per_shard, config, cache, side_cars, captions))
    _claim(folder, tasks)
    tally, written, kept = Tally(), [], 0
    tally.merge(read.problems)
    for done, (one, problems, old) in enumerate(_run(tasks, jobs), 1):
        if one.count:
            written.append(one)
        kept += old
        tally.merge(problems)
        if progress is not None:
            progress(done, len(tasks))
    samples = sum(one.count for one in written)
    if read.n - samples > broken_share * read.n:
        raise DataError(_too_many(read.n - samples, read.n, broken_share, tally.result()))
    made: dict[str, Any] = {"size": size, "quality": quality, "per_shard": per_shard, "inputs": read.fingerprint}
    made |= {"read": read.n, "left_out": as_json(tally.result())}
    if captions is not None:
        made |= {"captions": dict(captions.provenance()), "not_selected": read.left}
    written.sort(key=lambda one: one.name)
    shard_writer.finish(folder, written, {**(provenance or {}), "packed": made})
    return Packed(folder=folder, shards=len(written), samples=samples, kept=kept, problems=tally.result())


def _check(size: int | None, per_shard: int, quality: int, broken_share: float) -> None:
    """Raises DataError where a number is out of bounds."""
    if size is not None and not 16 <= size <= 4_096:
        raise DataError(f"size is {size}: a short side of 16 to 4,096 pixels is allowed; 288 suits training at 256.")
    if per_shard < 1 or not 1 <= quality <= 100 or not 0 <= broken_share <= 1:
        raise DataError(
            f"per_shard is {per_shard}, quality {quality}, broken_share {broken_share}: at least 1, 1 to 100 and 0 to "
            "1 are allowed."
        )


@dataclass(frozen=True, kw_only=True)
class _Read:
    """What is packed: tars, how many samples of each, and what makes packing them different."""

    places: Sequence[str]
    counts: Sequence[int]
    marks: Sequence[object]
    problems: dict[str, Problem]
    fingerprint: str
    left: int = 0  # samples that were not selected

    @property
    def n(self) -> int:
        return sum(self.counts)


def _indexed(specs: Any, cache: Path | None, json_keys: Sequence[str], side_cars: Path | None, jobs: int) -> _Read:
    found: Corpus = corpus(specs, cache=cache, json_keys=json_keys, embeddings=side_cars, jobs=jobs)
    names = ("tar_bytes", "mtime_ns", "headers", "keys_hash", "texts_hash")
    metadata = [found.shards[number].metadata for number in range(len(found.shards))]
    return _Read(
        places=found.shards.places,
        counts=[int(count) for count in found.start[1:] - found.start[:-1]],
        marks=[[one[name] for name in names] for one in metadata],
        problems=found.problems,
        fingerprint=found.fingerprint,
    )


def _selected(captions: Selected) -> _Read:
    counts = [captions.counts(place) for place in captions.places]
    marks = [captions.mark(place) for place in captions.places]
    kept, every = sum(kept for kept, _ in counts), sum(every for _, every in counts)
    if not kept:
        raise DataError(f"none of {every:,} samples was selected: loosen the thresholds of the select stage.")
    return _Read(
        places=captions.places,
        counts=[kept for kept, _ in counts],
        marks=marks,
        problems={},
        fingerprint=hashlib.sha256("".join(marks).encode()).hexdigest(),
        left=every - kept,
    )


def _tasks(
    read: _Read,
    folder: Path,
    per_shard: int,
    config: _Config,
    cache: Path | None,
    side_cars: Path | None,
    captions: Selected | None,
) -> Iterator[_Task]:
    settings = json.dumps([_VERSION, asdict(config), per_shard], sort_keys=True)
    start = list(accumulate(read.counts, initial=0))
    for number, first in enumerate(range(0, read.n, per_shard)):
        last, parts = min(first + per_shard, read.n), []
        digest = hashlib.sha256(settings.encode())
        shard = bisect_right(start, first) - 1
        while shard < len(read.places) and start[shard] < last:
            begin, end = start[shard], start[shard + 1]
            if end > begin:
                part = (read.places[shard], max(first, begin) - begin, min(last, end) - begin)
                parts.append(part)
                said = [indices.stem_of(part[0]), part[1], part[2], read.marks[shard]]
                digest.update(json.dumps(said).encode())
            shard += 1
        yield _Task(
            path=folder / f"{number:05d}.tar",
            parts=tuple(parts),
            inputs=digest.hexdigest(),
            config=config,
            cache=cache,
            side_cars=side_cars,
            captions=captions,
        )


def _claim(folder: Path, tasks: Sequence[_Task]) -> None:
    """Make the folder ours; a finished one may be packed again when it was packed from the same."""
    if (folder / shard_writer.MANIFEST).exists() and all(_finished(task) is not None for task in tasks):
        (folder / shard_writer.MANIFEST).unlink()
        with placing(folder / shard_writer.MARKER) as file:
            file.write(b"{}\n")
    shard_writer.claim(folder)


def _run(tasks: Sequence[_Task], jobs: int) -> Iterator[tuple[Written, dict[str, Problem], bool]]:
    waiting = []
    for task in tasks:
        known = _finished(task)
        if known is None:
            waiting.append(task)
        else:
            yield *known, True
    for _, (written, problems) in each(_pack, waiting, jobs):
        yield written, problems, False


def _done_path(task: _Task) -> Path:
    return task.path.with_suffix(".done.json")


def _finished(task: _Task) -> tuple[Written, dict[str, Problem]] | None:
    """What an earlier run says of this shard, when it made it from the same inputs and it is still there."""
    try:
        found = json.loads(_done_path(task).read_bytes())
        written = Written(**found["written"])
        if found["inputs"] != task.inputs or (written.count and task.path.stat().st_size != written.bytes):
            return None
        return written, from_json(found["problems"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _pack(task: _Task) -> tuple[Written, dict[str, Problem]]:
    """Make one output shard."""
    _done_path(task).unlink(missing_ok=True)
    tally, read = Tally(), 0
    total = sum(last - first for _, first, last in task.parts)
    with TarWriter(task.path, task.config.embeddings) as writer:
        for place, first, last in task.parts:
            with tars.opened(remote.local(place, task.cache)) as data:
                for sample, found, row in _rows(data, place, first, last, task):
                    read += 1
                    problem = _add(writer, sample, found, row, data, place, task.config)
                    if problem is not None:
                        tally.add(problem, f"{indices.stem_of(place)}/{sample.key}")
                    broken = read - writer.count
                    if read >= 100 and broken > task.config.broken_share * total:
                        raise DataError(_too_many(broken, read, task.config.broken_share, tally.result()))
    written = writer.written()
    if not written.count:
        task.path.unlink()
    content = {"inputs": task.inputs, "written": asdict(written), "problems": as_json(tally.result())}
    with placing(_done_path(task)) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")
    return written, tally.result()


def _rows(data: Data, place: str, first: int, last: int, task: _Task) -> Iterator[tuple[Sample, Index | None, int]]:
    """Samples `first` to `last` of a tar, with its index and their rows in it where nothing was selected."""
    json_keys = task.config.json_keys
    if task.captions is not None:
        for sample in task.captions.samples(data, place, first, last, json_keys):
            yield sample, None, 0
        return
    found = indices.index(place, cache=task.cache, json_keys=json_keys, embeddings=task.side_cars)
    row = 0
    for sample in shards.read(data, tars.walk(data, place), Tally(), json_keys):
        if row == last:
            return
        if sample.key != found.key(row):
            continue  # the index left it out
        if row >= first:
            yield sample, found, row
        row += 1


def _add(
    writer: TarWriter, sample: Sample, found: Index | None, row: int, data: Data, place: str, config: _Config
) -> str | None:
    """Append a sample, or say which problem it is left out for."""

    def bytes_of(span: Span) -> bytes:
        return bytes(data[span.offset : span.offset + span.size])

    problem = "bad_augmentation"
    try:
        paug = None if found is None else found.paug(row)
        problem = "broken_image"
        content = bytes_of(sample.image)
        image, old, new = packed_image(content, config.size, config.quality, upright=paug is None)
        problem = "bad_embeddings"
        embedded = None if found is None or config.embeddings == "none" else found.teachers(row)
        problem = "unsafe_name"
        record = {**sample.record, "width": new[0], "height": new[1]}
        record["license"] = record.get("license") or config.licence
        if old != new:
            record["resized_from"] = list(old)
        if image != content:
            record["original_sha256"] = hashlib.sha256(content).hexdigest()
        others = {name: bytes_of(span) for name, span in sample.members.items() if _is_kept(name)}
        if paug is not None:
            paug = paug.scaled(paug.size or old, new)
        key = sample.key if sample.key not in writer.keys else f"{indices.stem_of(place)}_{sample.key}"
        files = sample_members(key, image, sample.texts, record, others, paug)
        problem = "bad_embeddings"
        writer.add(key, files, sample.texts, embedded)
    except ImageTooLarge:
        return "image_too_large"
    except (DataError, ImageError):
        return problem
    return None


def _is_kept(extension: str) -> bool:
    """Whether a member that packing knows nothing of is copied: masks, depth, addresses, but no pickle."""
    name = extension.rsplit(".", 1)[-1]
    return (
        extension not in RESERVED
        and extension not in shards.SILENT
        and name not in shards.PICKLES
        and extension.isascii()
    )


def _too_many(broken: int, read: int, share: float, problems: dict[str, Problem]) -> str:
    return (
        f"{broken} of {read} samples cannot be packed ({sentence(problems)}): a share of {share:g} is allowed; look at "
        "these samples, or allow a larger `broken_share`."
    )
