"""Doing the work: a shard through a wave of stages, with its pictures decoded once for all that look at them.

    prepare(plan, stage)                            # stages that look at all shards first
    work(plan, wave, item)                          # side-cars of one shard, committed stage by stage
    probe(plan, wave, item, range(512, 1024))       # the same for some rows, and nothing is kept

Whoever calls these (one process, many, a cluster) decides on order and places alone; results do not depend on it.
"""

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

import mobileclip
from mobileclip.captions import flags, tables
from mobileclip.captions.plan import PREPARED, Item, Plan, blocked, mark
from mobileclip.captions.recipe import options
from mobileclip.captions.shard import NO_IMAGE, Row, Shard
from mobileclip.captions.stage import OK, Batch, Columns, Stage, Worker
from mobileclip.captions.tables import Done
from mobileclip.data.ahead import ahead
from mobileclip.data.decode import Pixels
from mobileclip.errors import DataError, ImageError, MobileClipError

PIXEL_ROWS, TEXT_ROWS = 128, 1_024
"""Rows of a batch with pictures and without; part of what decides results, so never options."""
_ERROR = "error: "  # begins the status of a row that a worker could not take

Tell = Callable[[str, int, int], None]
"""Called with the stages at work, rows that are done and rows of the shard."""


def prepare(plan: Plan, stage: str) -> None:
    """Let a stage look at all shards, unless it has.

    Raises:
        DataError: a side-car that it reads is missing.
    """
    found = plan.recipe.stage(stage)
    if not found.prepares:
        return
    read, known = plan.read_by(stage), tables.committed(plan.stem(stage, PREPARED))
    if known is not None and known.content == read:
        return
    began = time.time()
    table = found.prepare(_Everything(plan, stage))
    assert table is not None, "a stage that prepares gives a table"
    content = tables.encode(table)
    done = Done(
        stage=stage,
        kind=found.kind,
        config=options(found),
        config_hash=plan.hashes[stage],
        shard="",
        place="",
        content=read,
        inputs={},
        keys="",
        rows=table.num_rows,
        size=len(content),
        sha256=tables.digest(content),
        counts={},
        made=_made(began),
    )
    tables.commit(plan.stem(stage, PREPARED), content, done)


def work(
    plan: Plan, wave: Sequence[str], item: Item, tell: Tell | None = None, workers: "Workers | None" = None
) -> int:
    """Take a shard through a wave; what is finished is not done again. Returns the rows that were worked on.

    Raises:
        MobileClipError: the shard, an option or a place to write cannot be used.
    """
    with Shard.open(item.place, item.name, json_keys=plan.json_keys, cache=plan.cache) as shard:
        run = _Run(plan, shard, item, workers or Workers(plan), tell or (lambda stages, done, rows: None))
        worked = 0
        for group in _groups(plan, wave):
            worked += run.through(group)
        return worked


def probe(plan: Plan, wave: Sequence[str], item: Item, rows: range, workers: "Workers | None" = None) -> None:
    """Do to some rows what `work` would, and keep nothing: to find out which of them ends a process.

    Only stages are tried that can be: those that read what is not finished come when these are through.
    """
    with Shard.open(item.place, item.name, json_keys=plan.json_keys, cache=plan.cache) as shard:
        run = _Run(plan, shard, item, workers or Workers(plan), lambda stages, done, count: None)
        for group in _groups(plan, wave):
            todo = [stage for stage in group if plan.done(stage.name, item) is None]
            if todo:
                run.columns(todo, rows)
                return


class Workers:
    """The workers of one process, made when they are first needed, kept for the next shard."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._made: dict[str, tuple[str, Worker]] = {}

    def get(self, stage: Stage) -> Worker:
        """The worker of a stage, made anew when what was prepared has changed."""
        mark, prepared = "", None
        if stage.prepares:
            done = tables.committed(self._plan.stem(stage.name, PREPARED))
            if done is None:
                raise DataError(f"stage '{stage.name}' has not looked at all shards yet: run the stages before it.")
            mark, prepared = done.sha256, _Prepared(self._plan.stem(stage.name, PREPARED))
        known = self._made.get(stage.name)
        if known is None or known[0] != mark:
            known = self._made[stage.name] = (mark, stage.worker(prepared))
        return known[1]


@dataclass(frozen=True)
class _Prepared:
    stem: Path

    def table(self, shard: str | None = None) -> pa.Table:
        return tables.read(self.stem, filters=None if shard is None else [("shard", "=", shard)])


@dataclass(frozen=True)
class _Everything:
    plan: Plan
    stage: str

    @property
    def shards(self) -> Sequence[str]:
        return [item.name for item in self.plan.shards]

    def tables(self, stage: str, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        for item in self.plan.shards:
            if tables.committed(self.plan.stem(stage, item.name)) is None:
                raise DataError(
                    f"stage '{self.stage}' looks at all shards, and '{stage}' of shard '{item.name}' is not finished: "
                    "run again when all are."
                )
            yield item.name, tables.read(self.plan.stem(stage, item.name), columns)

    def columns(self, stage: str) -> Sequence[str]:
        if stage not in self.plan.hashes or not self.plan.shards:
            return ()
        return tables.columns(self.plan.stem(stage, self.plan.shards[0].name))

    def texts(self, source: str, shard: str) -> list[list[str]]:
        if source in self.plan.hashes:
            found = tables.read(self.plan.stem(source, shard), ["texts"]).column("texts").to_pylist()
            return [captions or [] for captions in found]
        return [list(row.texts.get(source, ())) for row in self.rows(shard)]

    def rows(self, shard: str) -> Sequence[Row]:
        item = next(item for item in self.plan.shards if item.name == shard)
        with Shard.open(item.place, item.name, json_keys=self.plan.json_keys, cache=self.plan.cache) as found:
            return found.rows


class _Run:
    """One shard on its way through a wave."""

    def __init__(self, plan: Plan, shard: Shard, item: Item, workers: Workers, tell: Tell) -> None:
        self.plan, self.shard, self.item, self.workers, self.tell = plan, shard, item, workers, tell
        self.blocked = blocked(plan, item.name)
        self.tables: dict[str, pa.Table] = {}

    def through(self, group: Sequence[Stage]) -> int:
        """Work on all rows for the stages of a group that are not done, and commit."""
        todo = [stage for stage in group if self.plan.done(stage.name, self.item) is None]
        if not todo:
            return 0
        began, rows = time.time(), range(len(self.shard.rows))
        for stage, table in zip(todo, self.columns(todo, rows), strict=True):
            self._commit(stage, table, began)
        return len(rows)

    def columns(self, stages: Sequence[Stage], rows: range) -> list[pa.Table]:
        """What the stages, none of which reads another, make of some rows."""
        if not stages:
            return []
        workers = [self.workers.get(stage) for stage in stages]
        parts: list[list[pa.Table]] = [[] for _ in stages]
        names = ", ".join(stage.name for stage in stages)
        for batch, span in self._batches(stages, rows):
            for stage, worker, found in zip(stages, workers, parts, strict=True):
                mine = replace(batch, inputs=self._inputs(stage, span))
                found.append(_sound(stage, _applied(stage, worker, mine)))
            self.tell(names, span.stop - rows.start, len(rows))
        return [
            pa.concat_tables(found) if found else _schema(worker).empty_table()
            for worker, found in zip(workers, parts, strict=True)
        ]

    def _batches(self, stages: Sequence[Stage], rows: range) -> Iterator[tuple[Batch, range]]:
        looks = stages[0].looks()
        size = PIXEL_ROWS if looks else TEXT_ROWS
        if looks:
            decoded = ahead(self._decode, rows, threads=self.plan.threads, depth=PIXEL_ROWS)
        first = rows.start
        while first < rows.stop:
            span = range(first, min(first - first % size + size, rows.stop))
            found = [self.shard.rows[row] for row in span]
            why = [self.blocked.get(row.key) for row in found]
            status = [OK if reason is None else f"blocked: {reason}" for reason in why]
            found = [
                row if reason is None else replace(row, texts={}, image=None, record={})
                for row, reason in zip(found, why, strict=True)
            ]
            pixels: list[Pixels | None] = [None] * len(span)
            images: list[memoryview | None] = [None] * len(span)
            if looks:
                for place in range(len(span)):
                    one = next(decoded)
                    if isinstance(one, str):
                        status[place] = one
                    else:
                        pixels[place], images[place] = one, self.shard.image(found[place])
            batch = Batch(shard=self.shard.name, rows=found, pixels=pixels, images=images, status=status, inputs={})
            yield batch, span
            first = span.stop

    def _decode(self, place: int) -> Pixels | str:
        """Pixels, or the status of a row that has none."""
        row = self.shard.rows[place]
        if row.key in self.blocked:
            return f"blocked: {self.blocked[row.key]}"
        try:
            return self.shard.pixels(row)
        except ImageError as error:
            return NO_IMAGE if row.image is None else f"broken image: {str(error)[:200]}"

    def _inputs(self, stage: Stage, span: range) -> dict[str, pa.Table]:
        return {
            other.name: self._table(other.name).slice(span.start, len(span)) for other in self.plan.recipe.before(stage)
        }

    def _table(self, stage: str) -> pa.Table:
        if stage not in self.tables:
            stem = self.plan.stem(stage, self.shard.name)
            done = tables.committed(stem)
            if done is None:
                raise DataError(f"stage '{stage}' of shard '{self.shard.name}' is not finished: run it before.")
            if done.keys != self.shard.keys or done.rows != len(self.shard.rows):
                raise DataError(
                    f"'{stem}{tables.PARQUET}' has {done.rows} rows of other keys than the shard's "
                    f"{len(self.shard.rows)}: the tar has changed; run again."
                )
            self.tables[stage] = tables.read(stem)
        return self.tables[stage]

    def _commit(self, stage: Stage, table: pa.Table, began: float) -> None:
        worker, inputs = self.workers.get(stage), self.plan.inputs(stage.name, self.item)
        assert inputs is not None
        content = tables.encode(table)
        found: Counter[str] = Counter()
        if "flags" in table.column_names:
            for value, count in Counter(table.column("flags").combine_chunks().flatten().to_pylist()).items():
                found.update(dict.fromkeys(flags.names(value or 0), count))
        done = Done(
            stage=stage.name,
            kind=stage.kind,
            config=options(stage),
            config_hash=self.plan.hashes[stage.name],
            shard=self.shard.name,
            place=self.item.place,
            content=self.shard.content,
            inputs=inputs,
            keys=self.shard.keys,
            rows=table.num_rows,
            size=len(content),
            sha256=tables.digest(content),
            counts=dict(Counter(_kind(status) for status in table.column("status").to_pylist()).most_common(100)),
            flags=dict(sorted(found.items())),
            provenance=worker.provenance,
            made={**_made(began), "tar": mark(self.item.place)},
        )
        tables.commit(self.plan.stem(stage.name, self.shard.name), content, done)
        self.tables[stage.name] = table


def _applied(stage: Stage, worker: Worker, batch: Batch) -> pa.Table:
    """A worker's columns; memory that runs out or a row that breaks it halves the batch, down to one row."""
    try:
        return _table(worker, batch, worker(batch))
    except MobileClipError:
        raise
    except Exception as error:
        if not stage.divisible or (len(batch.rows) == 1 and _is_memory(error)):
            raise
        if len(batch.rows) == 1:
            reason = " ".join(f"{_ERROR}{type(error).__name__}: {error}".split())[:200]
            return _table(worker, batch, {"status": [reason]})
        if _is_memory(error):
            _release()
    middle = len(batch.rows) // 2
    halves = (_part(batch, 0, middle), _part(batch, middle, len(batch.rows)))
    return pa.concat_tables([_applied(stage, worker, half) for half in halves])


def _sound(stage: Stage, table: pa.Table) -> pa.Table:
    """The table, unless not one row of it could be worked on: then it is the stage that is broken.

    Raises:
        DataError: names the first row's error.
    """
    said: list[str] = table.column("status").to_pylist()
    if len(said) > 1 and all(status.startswith(_ERROR) for status in said):
        raise DataError(f"stage '{stage.name}' fails on every row, first with '{said[0].removeprefix(_ERROR)}'.")
    return table


def _part(batch: Batch, first: int, last: int) -> Batch:
    return Batch(
        shard=batch.shard,
        rows=batch.rows[first:last],
        pixels=batch.pixels[first:last],
        images=batch.images[first:last],
        status=batch.status[first:last],
        inputs={name: table.slice(first, last - first) for name, table in batch.inputs.items()},
    )


def _table(worker: Worker, batch: Batch, columns: Columns) -> pa.Table:
    """The side-car's rows: key, uid, status and what the worker gave; a column that it did not give is null."""
    schema, count = _schema(worker), len(batch.rows)
    said: dict[str, Any] = {
        "key": [row.key for row in batch.rows],
        "uid": [row.uid for row in batch.rows],
        "status": columns.get("status", batch.status),
    }
    arrays = []
    for entry in schema:
        values = said.get(entry.name, columns.get(entry.name))
        if values is None:
            arrays.append(pa.nulls(count, entry.type))
        elif isinstance(values, pa.Array | pa.ChunkedArray):
            arrays.append(values.cast(entry.type))
        else:
            arrays.append(pa.array(values, entry.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _schema(worker: Worker) -> pa.Schema:
    first = [pa.field("key", pa.string()), pa.field("uid", pa.string()), pa.field("status", pa.string())]
    return pa.schema([*first, *worker.schema])


def _groups(plan: Plan, wave: Sequence[str]) -> list[list[Stage]]:
    """Stages of a wave in their order, those together that look at pictures and read nothing of one another."""
    groups: list[list[Stage]] = []
    for name in wave:
        stage = plan.recipe.stage(name)
        before = {other.name for other in plan.recipe.before(stage)}
        together = groups and stage.looks() and groups[-1][0].looks() and not before & {one.name for one in groups[-1]}
        if together:
            groups[-1].append(stage)
        else:
            groups.append([stage])
    return groups


def _kind(status: str | None) -> str:
    """A status without what differs between samples."""
    return (status or "").split(" (")[0].split(": '")[0][:100]


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _release() -> None:
    import gc
    import sys

    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _made(began: float) -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - began, 3),
        "host": platform.node(),
        "mobileclip": mobileclip.__version__,
        "pyarrow": pa.__version__,
        "python": platform.python_version(),
    }
