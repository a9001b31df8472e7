"""Reads what the report shows from the finished side-cars of a sample of shards; few of their tars are opened.

    found = gather(plan, shards=200, tars=12, seed=0)
    found.sources["coca"].stats.result()

Shards are taken in the order of their hashed names, so the sample says something about all of them, is the same for the
same seed, and a billion pairs cost what two hundred shards cost. Counts of finished shards come from the folders'
listings and hold for all. Texts, licences and pictures come from the tars, of which fewer are opened: those that got
furthest come first. A side-car that does not belong to what it was made from any more is counted and left out.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mobileclip.captions import flags, tables
from mobileclip.captions.plan import BLOCKED, Item, Plan, blocked
from mobileclip.captions.recipe import options
from mobileclip.captions.report.data import (
    ALT,
    MEASURES,
    PLAIN,
    SELECTED,
    Found,
    Place,
    SourceFacts,
    StageFacts,
    base_of,
    read,
    source_of,
)
from mobileclip.captions.shard import Shard
from mobileclip.captions.stage import OK
from mobileclip.errors import MobileClipError

Progress = Callable[[int, int], None]
"""Called with the shards that are read and all that will be."""

_OF_ROWS = ("duplicate_of", "how", "keep", "why")
_OF_CAPTIONS = (*MEASURES, "flags", "w")
_LISTED = 100_000  # files of blocked keys that are looked at


def gather(plan: Plan, *, shards: int = 200, tars: int = 12, seed: int = 0, progress: Progress | None = None) -> Found:
    """Read side-cars of at most so many shards, and at most so many tars.

    Raises:
        DataError: a note is of another version or damaged.
    """
    order = sorted(plan.shards, key=lambda item: hashlib.sha256(f"{seed}/{item.name}".encode()).digest())
    found = Found(plan=plan, sampled=tuple(order[:shards]))
    names = {item.name for item in plan.shards}
    for stage in plan.recipe.stages:
        found.stages[stage.name] = StageFacts(
            name=stage.name,
            kind=stage.kind,
            config_hash=plan.hashes[stage.name],
            config=options(stage),
            finished=_finished(plan, stage.name, names),
        )
    _blocked(found)
    for item in found.sampled:
        _notes(found, item)
    furthest = sorted(found.sampled, key=lambda item: -_depth(found, item))[:tars]
    count = len(found.sampled) + len(furthest)
    for done, item in enumerate(found.sampled, 1):
        _columns(found, item)
        if progress:
            progress(done, count)
    for done, item in enumerate(furthest, len(found.sampled) + 1):
        _tar(found, item)
        if progress:
            progress(done, count)
    stages = list(found.stages)
    found.sources = dict(sorted(found.sources.items(), key=lambda pair: _order(pair[1], stages)))
    return found


def _finished(plan: Plan, stage: str, names: set[str]) -> int:
    """Shards with a note, by the folder's listing alone."""
    try:
        with os.scandir(plan.home(stage)) as entries:
            return sum(
                entry.name.removesuffix(tables.DONE) in names for entry in entries if entry.name.endswith(tables.DONE)
            )
    except OSError:
        return 0


def _blocked(found: Found) -> None:
    try:
        with os.scandir(found.plan.folder / BLOCKED) as entries:
            names = sorted(entry.name.removesuffix(".json") for entry in entries if entry.name.endswith(".json"))
    except OSError:
        return
    for name in names[:_LISTED]:
        try:
            found.blocked.update(blocked(found.plan, name).values())
        except MobileClipError as error:
            found.problems.append(str(error))


def _notes(found: Found, item: Item) -> None:
    for stage, facts in found.stages.items():
        note = tables.committed(found.plan.stem(stage, item.name))
        if note is None:
            continue
        if note.inputs == found.plan.inputs(stage, item):
            facts.notes[item.name] = note
        else:
            facts.stale += 1


def _depth(found: Found, item: Item) -> int:
    return sum(item.name in facts.notes for facts in found.stages.values())


def _columns(found: Found, item: Item) -> None:
    """What side-cars of a shard say of single captions and rows."""
    lists: dict[tuple[str, str, str], pa.Array] = {}  # measure, stage, source
    for name, facts in found.stages.items():
        if item.name not in facts.notes:
            continue
        table = read(found, name, item.name, lambda column: column in _OF_ROWS or column.split("_")[0] in _OF_CAPTIONS)
        if table is None:
            continue
        columns = set(table.column_names)
        if {"duplicate_of", "how"} <= columns:
            how = table.column("how").filter(table.column("duplicate_of").is_valid()).to_pylist()
            found.duplicates.update(str(value) for value in how)
            found.compared += table.num_rows
        if {"keep", "why"} <= columns:
            found.reasons.update(str(why or "") for why in table.column("why").to_pylist())
        for source, measure, column in _said(facts, columns):
            lists[measure, name, source] = table.column(column).combine_chunks()
    _measured(found, lists)
    _flagged(found, lists)
    _selected(found, lists)


def _said(facts: StageFacts, columns: set[str]) -> list[tuple[str, str, str]]:
    """(source, measure, column) of a side-car's columns of one value a caption."""
    own = str(facts.config.get("source", "")) if facts.kind == "text_score" else facts.name
    out = [(own, measure, measure) for measure in _OF_CAPTIONS if measure in columns]
    for column in sorted(columns):
        measure, _, source = column.partition("_")
        if measure in _OF_CAPTIONS and source:
            out.append((source, measure, column))
    return out


def _measured(found: Found, lists: Mapping[tuple[str, str, str], pa.Array]) -> None:
    for (measure, stage, source), column in lists.items():
        if measure in MEASURES:
            source_of(found, source).add(measure, "" if measure in PLAIN else stage, _flat(column))


def _flagged(found: Found, lists: Mapping[tuple[str, str, str], pa.Array]) -> None:
    last = {source: column for (measure, _, source), column in lists.items() if measure == "flags"}
    for source, column in last.items():
        values, counts = np.unique(_flat(column).astype(np.uint64), return_counts=True)
        facts = source_of(found, source)
        facts.flagged += int(counts.sum())
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            facts.flags.update(dict.fromkeys(flags.names(value), count))


def _selected(found: Found, lists: Mapping[tuple[str, str, str], pa.Array]) -> None:
    """Weights by source, and the measures of what weighs anything."""
    weights = {source: column for (measure, _, source), column in lists.items() if measure == "w"}
    for source, column in weights.items():
        weight, facts = _flat(column), source_of(found, source)
        facts.weight += float(weight.sum())
        facts.used += int((weight > 0).sum())
    for (measure, stage, source), column in lists.items():
        if measure in MEASURES and source in weights and stage != source:
            values, weight = _aligned(column, weights[source])
            source_of(found, SELECTED).add(measure, "" if measure in PLAIN else stage, values[weight > 0])


def _aligned(one: pa.Array, other: pa.Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Values of two columns of lists, of the rows in which both have as many."""
    lengths = [pc.fill_null(pc.list_value_length(column), 0).to_numpy() for column in (one, other)]
    same = lengths[0] == lengths[1]
    return _flat(one)[np.repeat(same, lengths[0])], _flat(other)[np.repeat(same, lengths[1])]


def _flat(column: pa.Array) -> npt.NDArray[np.float64]:
    """Values of a column of lists; NaN where there is none."""
    values: npt.NDArray[np.float64] = column.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    return values


def _order(source: SourceFacts, stages: Sequence[str]) -> tuple[int, int, str]:
    """The web's texts first, what was selected last; raw ones before those of stages."""
    roles = (ALT, "synthetic", "fused", SELECTED)
    return roles.index(source.role), 1 + stages.index(source.name) if source.name in stages else 0, source.name


def _tar(found: Found, item: Item) -> None:
    """Texts, licences and rows of a tar."""
    plan = found.plan
    try:
        with Shard.open(item.place, item.name, json_keys=plan.json_keys, cache=plan.cache) as shard:
            _belongs(found, shard)
            _texts(found, shard)
            _places(found, shard)
            found.licences.update(row.license for row in shard.rows)
            found.images += len(shard.rows)
            found.opened = (*found.opened, item)
    except MobileClipError as error:
        found.problems.append(str(error))


def _belongs(found: Found, shard: Shard) -> None:
    """Forget side-cars that were made from another tar."""
    for facts in found.stages.values():
        note = facts.notes.get(shard.name)
        if note is not None and (note.keys != shard.keys or note.content != shard.content):
            del facts.notes[shard.name]
            facts.stale += 1
            found.problems.append(
                f"side-car '{facts.name}' of shard '{shard.name}' was made from another content of '{shard.place}': "
                "run the work again."
            )


def _texts(found: Found, shard: Shard) -> None:
    """Add the captions of every source to its statistics."""
    every: dict[str, list[list[str]]] = {}
    for source in sorted({source for row in shard.rows for source in row.texts}):
        every[source] = [list(row.texts.get(source, ())) for row in shard.rows]
    for name in found.stages:
        texts = _lists(found, name, shard.name, "texts")
        if texts is not None:
            every[name] = [[caption or "" for caption in captions or ()] for captions in texts]
    alt = every.get(ALT) or next((every[name] for name in every if base_of(found.plan, name) == ALT), None)
    weights = _weights(found, shard.name, every)
    for source, texts in every.items():
        facts, concepts, fused = source_of(found, source), _concepts(found, source, shard.name), _fused(found, source)
        written = [every[other] for other in fused if other in every]
        for row, captions in enumerate(texts):
            known = concepts[row] if concepts is not None else None
            facts.stats.add(
                captions,
                key=shard.rows[row].uid,
                alt=" ".join(alt[row]) if alt is not None and source != ALT else "",
                originals=[text for other in written for text in other[row]] if written else None,
                concepts=known if known is not None and len(known) == len(captions) else None,
            )
    if weights:
        _add_selected(found, shard, every, weights, alt)


def _add_selected(
    found: Found,
    shard: Shard,
    every: Mapping[str, list[list[str]]],
    weights: Mapping[str, list[list[float]]],
    alt: list[list[str]] | None,
) -> None:
    facts = source_of(found, SELECTED)
    for row, one in enumerate(shard.rows):
        captions = [caption for source in weights for caption in every[source][row]]
        weigh = [weight for source in weights for weight in weights[source][row]]
        if any(weight > 0 for weight in weigh):
            alt_text = " ".join(alt[row]) if alt is not None else ""
            facts.stats.add(captions, key=one.uid, alt=alt_text, weights=weigh)


def _weights(found: Found, shard: str, every: Mapping[str, list[list[str]]]) -> dict[str, list[list[float]]]:
    """Source -> what each of its captions weighs, row by row; 0 where nothing is said."""
    out = {}
    for name in found.stages:
        for source, texts in every.items():
            column = _lists(found, name, shard, f"w_{source}")
            if column is not None:
                out[source] = [
                    [float(weight or 0) for weight in said]
                    if said is not None and len(said) == len(captions)
                    else [0.0] * len(captions)
                    for said, captions in zip(column, texts, strict=True)
                ]
    return out


def _concepts(found: Found, source: str, shard: str) -> list[Any] | None:
    for name, facts in found.stages.items():
        if facts.kind == "text_score" and facts.config.get("source") == source:
            return _lists(found, name, shard, "concept_ids")
    return None


def _fused(found: Found, source: str) -> tuple[str, ...]:
    """What a rewritten source was written from."""
    if source not in found.stages or found.stages[source].kind != "rewrite":
        return ()
    return found.plan.recipe.stage(source).needs()


def _lists(found: Found, stage: str, shard: str, column: str) -> list[Any] | None:
    table = read(found, stage, shard, column.__eq__)
    return None if table is None or not table.num_columns else table.column(column).to_pylist()


def _places(found: Found, shard: Shard) -> None:
    """Rows that samples are chosen from, with what they are worth and what is wrong with them."""
    count = len(shard.rows)
    best = np.full(count, np.nan)
    trouble = [""] * count
    left_out = [""] * count
    of_rows = ("status", "why", "best_q")
    for name in found.stages:
        table = read(found, name, shard.name, lambda column: column in of_rows or column.startswith("clip_"))
        if table is None:
            continue
        for row, status in enumerate(table.column("status").to_pylist()):
            trouble[row] = trouble[row] or ("" if status == OK else str(status))
        if "why" in table.column_names:
            left_out = [str(why or "") for why in table.column("why").to_pylist()]
        for column in table.column_names:
            if column.startswith("clip_"):
                for row, values in enumerate(table.column(column).to_pylist()):
                    known = [value for value in values or () if value is not None]
                    best[row] = np.fmax(best[row], max(known, default=np.nan))
        if "best_q" in table.column_names:
            best = table.column("best_q").to_numpy(zero_copy_only=False).astype(np.float64)
    for row in range(count):
        value = float(best[row])
        found.places.append(
            Place(
                shard=shard.name,
                row=row,
                value=value if np.isfinite(value) else None,
                trouble=trouble[row],
                left_out=left_out[row],
            )
        )
