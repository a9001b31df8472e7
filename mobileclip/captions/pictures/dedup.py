"""Stage `dedup`: of pictures that are the same, or say the same, one is kept; the others say which.

    [[stage]]
    kind = "dedup"
    radius = 4                          # bits of perceptual hashes; -1: only equal files
    embed = "embed"                     # with it, also by meaning, where eps is given
    eps = 0.05
    keep = "best:score.clip_alt"        # or "first", in the order of the shards

It looks at all shards first, in columns: 16 bytes of each file's hash, 8 of each perceptual hash, and, if asked for,
embeddings, which are kept on disk where they are many. Equal files are found first, then near hashes (alike.py) among
what is left, then near embeddings (cells.py) among what is left of that. What a row duplicates is always kept itself.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mobileclip.captions.pictures import alike, cells
from mobileclip.captions.pictures.embed import COLUMN, embeddings
from mobileclip.captions.stage import Batch, Columns, Everything, Prepared, checked
from mobileclip.data.arrays import writing
from mobileclip.errors import DataError, UnknownName

HOW = ("sha256", "phash", "semantic")
"""By what a duplicate was found."""

_BEST = "best:"
_IN_MEMORY = 1 << 30  # bytes of embeddings; more are mapped from a temporary file
_PREPARED = pa.schema(
    [
        pa.field("shard", pa.string()),
        pa.field("key", pa.string()),
        pa.field("duplicate_of", pa.string()),
        pa.field("how", pa.string()),
    ]
)

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Dedup:
    """Pictures that are there more than once."""

    kind: ClassVar[str] = "dedup"
    version: ClassVar[int] = 1
    prepares: ClassVar[bool] = True
    divisible: ClassVar[bool] = True

    name: str = "dedup"
    """What other stages call it."""
    images: str = "images"
    """Stage with the hashes."""
    radius: int = 4
    """Perceptual hashes that differ in so many bits or fewer are the same picture; -1: they are not compared."""
    embed: str = ""
    """Stage with embeddings; "": meaning is not compared."""
    eps: float = 0.05
    """Embeddings whose cosine exceeds 1 - eps are the same; right for one model, wrong for another."""
    cells: int = 0
    """Of k-means; 0: by the number of pictures."""
    seed: int = 0
    """Of k-means."""
    keep: str = "first"
    """Which of the same is kept: "first", or "best:STAGE.COLUMN", the one with the largest number there."""

    def __post_init__(self) -> None:
        checked(
            -1 <= self.radius <= alike.MOST,
            f"{self.name}.radius is {self.radius}: 0 to {alike.MOST} bits are allowed, or -1 for none.",
        )
        checked(0 < self.eps < 1, f"{self.name}.eps is {self.eps}: more than 0 and less than 1 is allowed.")
        checked(self.cells >= 0, f"{self.name}.cells is {self.cells}: give a number of cells, or 0.")
        stage, dot, column = self.keep.removeprefix(_BEST).partition(".")
        checked(
            self.keep == "first" or (self.keep.startswith(_BEST) and bool(stage and dot and column)),
            f"{self.name}.keep is '{self.keep[:60]}': 'first' or 'best:STAGE.COLUMN' is allowed.",
        )

    def needs(self) -> tuple[str, ...]:
        best = self.keep.removeprefix(_BEST).partition(".")[0] if self.keep != "first" else ""
        return tuple(dict.fromkeys(name for name in (self.images, self.embed, best) if name))

    def looks(self) -> bool:
        return False

    def points_at(self) -> Mapping[str, str]:
        return {}

    def prepare(self, everything: Everything) -> pa.Table | None:
        files, hashed, words, phashed = _hashes(everything, self.images)
        order = self._order(everything, len(hashed))
        by, how = np.full(len(hashed), -1, np.int64), np.zeros(len(hashed), np.int8)

        def merge(mine: Places, found: Places, number: int) -> None:
            """What `found` (places in `mine`, -1: kept) says of the rows `mine`."""
            gone = found >= 0
            by[mine[gone]], how[mine[gone]] = mine[found[gone]], number

        mine = order[hashed[order]]
        merge(mine, equal(files[mine]), 0)
        if self.radius >= 0:
            mine = order[(phashed & (by < 0))[order]]
            merge(mine, near(words[mine], self.radius), 1)
        if self.embed:
            mine = order[(by < 0)[order]]
            rows = _embedded(everything, self.embed, mine)
            merge(mine, cells.same(rows, self.eps, cells=self.cells, seed=self.seed), 2)
        while (again := np.flatnonzero((by >= 0) & (by[by] >= 0))).size:  # what it duplicates has gone since
            by[again] = by[by[again]]
        return _written(everything, self.images, by, how)

    def worker(self, prepared: Prepared | None) -> "DedupWorker":
        assert prepared is not None, "the stage prepares"
        return DedupWorker(prepared)

    def _order(self, everything: Everything, count: int) -> Places:
        """Rows in the order of preference."""
        if self.keep == "first":
            return np.arange(count)
        stage, _, column = self.keep.removeprefix(_BEST).partition(".")
        if column not in (known := everything.columns(stage)):
            raise UnknownName(f"column of stage '{stage}'", column, known)
        scores = [_numbers(table.column(column), self.keep) for _, table in everything.tables(stage, [column])]
        score = np.concatenate(scores) if scores else np.zeros(0)
        order: Places = np.lexsort((np.arange(count), -score))
        return order


class DedupWorker:
    """Rows -> what they duplicate."""

    schema: ClassVar[pa.Schema] = pa.schema([pa.field("duplicate_of", pa.string()), pa.field("how", pa.string())])
    provenance: ClassVar[Mapping[str, Any]] = {"order": list(HOW)}

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._shard: str | None = None
        self._known: dict[str, tuple[str, str]] = {}

    def __call__(self, batch: Batch) -> Columns:
        if batch.shard != self._shard:
            columns = self._prepared.table(batch.shard).select(["key", "duplicate_of", "how"]).to_pydict()
            self._known = {key: (of, how) for key, of, how in zip(*columns.values(), strict=True)}
            self._shard = batch.shard
        found = [self._known.get(row.key, (None, None)) for row in batch.rows]
        return {"duplicate_of": [of for of, _ in found], "how": [how for _, how in found]}


def equal(files: npt.NDArray[np.uint64]) -> Places:
    """uint64 [N, 2] in the order of preference -> -1 for the first of each, else the place of that first."""
    order = np.lexsort((np.arange(len(files)), files[:, 1], files[:, 0]))
    ordered = files[order]
    begins = np.ones(len(files), np.bool_)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = order[np.maximum.accumulate(np.where(begins, np.arange(len(files)), 0))]
    out = np.full(len(files), -1, np.int64)
    out[order[~begins]] = first[~begins]
    return out


def near(words: npt.NDArray[np.uint64], radius: int) -> Places:
    """Hashes [N] in the order of preference -> -1 for those that are kept, else the place of what they duplicate."""
    _, first, group = np.unique(words, return_index=True, return_inverse=True)
    order = np.argsort(first)  # distinct hashes in the order of their best rows
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    rows = first[order]
    by = alike.thinned(len(rows), *alike.pairs(words[rows], radius))
    of = rows[np.where(by >= 0, by, np.arange(len(rows)))][place[group]]
    return np.where(of == np.arange(len(words)), -1, of)


def _hashes(
    everything: Everything, stage: str
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_], npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Of all rows: half of a file's hash [N, 2] and whether it is there, a perceptual hash [N] and whether it is."""
    files, hashed = [np.zeros((0, 2), np.uint64)], [np.zeros(0, np.bool_)]
    words, phashed = [np.zeros(0, np.uint64)], [np.zeros(0, np.bool_)]
    for _, table in everything.tables(stage, ["sha256", "phash"]):
        digits, perceptual = table.column("sha256"), table.column("phash")
        there = np.asarray(digits.is_valid())
        halves = np.zeros((len(table), 2), np.uint64)
        text = "".join(value[:32] for value in digits.drop_null().to_pylist())
        halves[there] = np.frombuffer(bytes.fromhex(text), ">u8").reshape(-1, 2)
        files.append(halves)
        hashed.append(there)
        words.append(np.asarray(perceptual.fill_null(pa.scalar(0, pa.uint64()))))
        phashed.append(np.asarray(perceptual.is_valid()))
    return np.concatenate(files), np.concatenate(hashed), np.concatenate(words), np.concatenate(phashed)


def _embedded(everything: Everything, stage: str, left: Places) -> npt.NDArray[np.float16]:
    """[N, D]: embeddings of the rows `left`, in that order; zeros, which are like nothing, where there is none."""
    place = np.full(int(left.max(initial=-1)) + 1, -1, np.int64)  # of a row among those that are left
    place[left] = np.arange(len(left))
    rows: npt.NDArray[np.float16] | None = None
    offset = 0
    for _, table in everything.tables(stage, [COLUMN]):
        found, there = embeddings(table.column(COLUMN))
        if rows is None:
            rows = _room(len(left), found.shape[1])
        mine = place[offset : offset + len(found)]
        wanted = there[: len(mine)] & (mine >= 0)
        rows[mine[wanted]] = found[: len(mine)][wanted]
        offset += len(found)
    return np.zeros((0, 1), np.float16) if rows is None else rows


def _room(count: int, dim: int) -> npt.NDArray[np.float16]:
    """Zeros [count, dim], in memory or in a file that goes when they do.

    Raises:
        OutputError: there is no room for the file.
    """
    size = 2 * count * dim
    if size <= _IN_MEMORY:
        return np.zeros((count, dim), np.float16)
    with writing(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as file:
        os.posix_fallocate(file.fileno(), 0, size)  # a full disk is told here, and not when it is written to
        return np.memmap(file, np.float16, "r+", shape=(count, dim))


def _numbers(column: pa.ChunkedArray, where: str) -> npt.NDArray[np.float64]:
    """A number a row; of a list its largest; -inf where there is none."""
    kind, values = column.type, column.combine_chunks()
    if pa.types.is_list(kind):
        parents, flat = pc.list_parent_indices(values), values.flatten()
        out = np.full(len(column), -np.inf)
        np.maximum.at(out, np.asarray(parents), _numbers(pa.chunked_array([flat]), where))
        return out
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DataError(f"{where} is a column of {kind}: name one of numbers, or of lists of numbers.")
    numbers = np.asarray(pc.fill_null(pc.cast(values, pa.float64()), float("-inf")))
    return np.where(np.isnan(numbers), -np.inf, numbers)


def _written(everything: Everything, stage: str, by: Places, how: npt.NDArray[np.int8]) -> pa.Table:
    """The rows that are duplicates, in order."""
    wanted = np.zeros(len(by), np.bool_)
    wanted[by[by >= 0]] = True
    names: dict[int, str] = {}
    parts: list[tuple[str, Sequence[int], Sequence[str]]] = []
    offset = 0
    for shard, table in everything.tables(stage, ["key"]):
        keys = table.column("key")
        span = slice(offset, offset + len(table))
        kept, gone = np.flatnonzero(wanted[span]), np.flatnonzero(by[span] >= 0)
        names.update((offset + row, f"{shard}/{keys[row].as_py()}") for row in kept.tolist())
        parts.append((shard, (offset + gone).tolist(), keys.take(gone).to_pylist()))
        offset += len(table)
    tables = [
        pa.table(
            {
                "shard": [shard] * len(rows),
                "key": keys,
                "duplicate_of": [names[int(by[row])] for row in rows],
                "how": [HOW[how[row]] for row in rows],
            },
            schema=_PREPARED,
        )
        for shard, rows, keys in parts
    ]
    return pa.concat_tables([_PREPARED.empty_table(), *tables]).combine_chunks()
