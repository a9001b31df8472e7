"""Stage "judge": one quality `q` for every caption of every source, and the guards that rule captions out.

    q = sigmoid(bias + a z(clip) + r retrieval + b z(idf) + c [concepts] + d z(lp)
                - e rep3 - f boilerplate - g [too many tokens] - h duplicate - i invented)

z() is over all captions of all sources together, so that a source that is worse as a whole comes out worse. Every term
is kept beside q (`parts_<source>`, in the order of `PARTS`), so that the weights can be fitted again (`refit`) without
any picture being looked at.

Guards: a caption that repeats itself, refuses, leaks its prompt or invents more than is allowed is flagged and blocked;
a source whose captions have collapsed into few templates or words raises an alarm, which is kept with what was prepared
and shown by the report.

Self-retrieval stands beside the cosine because captions that fit every picture have high cosines and do not find their
own picture among others.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mobileclip.captions.flags import Flag
from mobileclip.captions.stage import Batch, Columns, Everything, Prepared, checked
from mobileclip.captions.text.metrics import TextStats, collapse, content_words
from mobileclip.errors import UnknownName

PARTS = ("clip", "retrieval", "idf", "concept", "lp", "rep", "boilerplate", "tokens", "duplicate", "invented")
"""Terms of q, in the order of `parts_<source>`."""
WEIGHTS: Mapping[str, float] = {
    "clip": 1.0,
    "retrieval": 1.5,
    "idf": 0.2,
    "concept": 0.3,
    "lp": 0.2,
    "rep": -3.0,
    "boilerplate": -0.7,
    "tokens": -0.7,
    "duplicate": -0.7,
    "invented": -1.0,
}
"""What a term weighs where the recipe says nothing."""

_SAMPLED = 50_000  # captions a source of which the alarm is judged
_RULED = Flag.BLOCKED | Flag.REFUSAL | Flag.LEAKAGE | Flag.EMPTY
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Options of the stage."""

    kind: ClassVar[str] = "judge"
    version: ClassVar[int] = 1
    prepares: ClassVar[bool] = True
    divisible: ClassVar[bool] = True

    name: str = "judge"
    """Of this entry."""
    sources: tuple[str, ...] = ("clean",)
    """Of captions; the first is the web text that others are compared with."""
    score: str = ""
    """Stage that scored them with pictures; "" for none."""
    text: Mapping[str, str] = field(default_factory=dict)
    """Source -> its `text_score` stage."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Term -> weight, where it is not the usual one."""
    bias: float = 0.0
    """Added before the sigmoid."""
    max_rep3: float = 0.5
    """Share of repeated trigrams from which a caption is blocked."""
    fused_from: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Source -> those it was written from: its content words must come from them."""
    max_invented: float = 0.6
    """Share of content words from nowhere, from which a caption is blocked (paraphrases count as from nowhere)."""

    def __post_init__(self) -> None:
        checked(bool(self.sources), f"stage '{self.name}' has no sources: name at least one.")
        for given in self.weights:
            if given not in PARTS:
                raise UnknownName("term of q", given, PARTS)
        for given in (*self.text, *self.fused_from):
            if given not in self.sources:
                raise UnknownName(f"source of stage '{self.name}'", given, self.sources)

    def needs(self) -> tuple[str, ...]:
        """Captions and all scores of them."""
        written = [other for others in self.fused_from.values() for other in others]
        return tuple(dict.fromkeys([*self.sources, *written, *filter(None, [self.score]), *self.text.values()]))

    def looks(self) -> bool:
        """No pictures."""
        return False

    def points_at(self) -> Mapping[str, str]:
        """Nothing."""
        return {}

    def prepare(self, everything: Everything) -> pa.Table:
        """Mean and deviation of what is standardised, and alarms: rows (what, source, mean, std, count, note)."""
        rows: list[dict[str, Any]] = []
        for what in ("clip", "idf", "lp"):
            moments = _Moments()
            for source in self.sources:
                stage, column = self._place(what, source)
                if column not in everything.columns(stage):
                    continue
                for _, table in everything.tables(stage, [column]):
                    moments.add(table.column(column))
            rows.append({"what": what, "mean": moments.mean, "std": moments.std, "count": moments.count})
        rows += [{"what": "alarm", "source": source, "note": note} for source, note in self._alarms(everything)]
        return pa.Table.from_pylist(rows, schema=_PREPARED)

    def worker(self, prepared: Prepared | None) -> "_Worker":
        """Reads the moments."""
        assert prepared is not None
        return _Worker(self, prepared.table())

    def _place(self, what: str, source: str) -> tuple[str, str]:
        """Stage and column of a standardised term; no such stage where there is none."""
        if what == "clip":
            return self.score, f"clip_{source}"
        return (self.text.get(source, ""), "idf") if what == "idf" else (source, "lp")

    def _alarms(self, everything: Everything) -> list[tuple[str, str]]:
        """(source, what is alarming), from a sample of shards that follows from their names."""
        found: list[tuple[str, str]] = []
        names = sorted(everything.shards, key=lambda shard: hashlib.sha256(shard.encode()).digest())
        stats = {source: TextStats() for source in self.sources}
        for source, one in stats.items():
            for shard in names:
                if one.count >= _SAMPLED:
                    break
                for row, captions in enumerate(everything.texts(source, shard)):
                    one.add([caption for caption in captions if caption], key=f"{shard}/{row}")
        web = stats[self.sources[0]]
        for source in self.sources[1:]:
            found += [(source, note) for note in collapse(web, stats[source])]
        return found


_PREPARED = pa.schema(
    [
        ("what", pa.string()),
        ("source", pa.string()),
        ("mean", pa.float64()),
        ("std", pa.float64()),
        ("count", pa.int64()),
        ("note", pa.string()),
    ]
)


class _Moments:
    """Mean and deviation of a stream, shard by shard: sums of each are exact enough in double precision."""

    def __init__(self) -> None:
        self.count, self._sum, self._square = 0, 0.0, 0.0

    def add(self, column: pa.ChunkedArray) -> None:
        values = _flat(column)
        self.count += len(values)
        self._sum += math.fsum(values)
        self._square += math.fsum(values**2)

    @property
    def mean(self) -> float:
        return self._sum / self.count if self.count else 0.0

    @property
    def std(self) -> float:
        return math.sqrt(max(self._square / self.count - self.mean**2, 0.0)) if self.count else 0.0


class _Worker:
    def __init__(self, stage: Judge, prepared: pa.Table) -> None:
        self._stage = stage
        rows = prepared.to_pylist()
        self._moments = {row["what"]: (row["mean"], row["std"]) for row in rows if row["what"] != "alarm"}
        self._weights = np.array([{**WEIGHTS, **stage.weights}[part] for part in PARTS])
        alarms = [f"{row['source']}: {row['note']}" for row in rows if row["what"] == "alarm"]
        self.provenance: dict[str, Any] = {
            "parts": list(PARTS),
            "weights": self._weights.tolist(),
            "moments": {what: list(pair) for what, pair in self._moments.items()},
            "alarms": alarms,
        }
        fields = []
        for source in stage.sources:
            fields += [
                (f"q_{source}", pa.list_(pa.float32())),
                (f"flags_{source}", pa.list_(pa.uint32())),
                (f"order_{source}", pa.list_(pa.uint16())),
                (f"parts_{source}", pa.list_(pa.list_(pa.float32(), len(PARTS)))),
            ]
        self.schema = pa.schema([*fields, ("best", pa.string()), ("best_q", pa.float32())])

    def __call__(self, batch: Batch) -> Columns:
        stage = self._stage
        out: dict[str, list[Any]] = {name: [] for name in self.schema.names}
        texts = {source: batch.texts(source) for source in dict.fromkeys((*stage.sources, *_all(stage.fused_from)))}
        known = {source: _Known(batch, stage, source) for source in stage.sources}
        for row in range(len(batch.rows)):
            seen: set[str] = set()
            qs: dict[str, list[float]] = {}
            for source in stage.sources:
                captions = texts[source][row]
                flags = known[source].flags(row, len(captions))
                parts = np.zeros((len(captions), len(PARTS)))
                for place, caption in enumerate(captions):
                    said = known[source].parts(row, place, self._moments)
                    said["duplicate"] = float(caption in seen)
                    seen.add(caption)
                    said["boilerplate"] = float(bool(flags[place] & Flag.BOILERPLATE))
                    said["invented"] = self._invented(source, caption, texts, row)
                    parts[place] = [said.get(part, 0.0) for part in PARTS]
                    flags[place] |= self._guarded(said)
                q = _sigmoid(stage.bias + parts @ self._weights)
                q = np.where([bool(flag & _RULED) for flag in flags], 0.0, q) if captions else q
                qs[source] = q.astype(np.float32).tolist()
                out[f"q_{source}"].append(qs[source])
                out[f"flags_{source}"].append(flags)
                out[f"parts_{source}"].append(parts.astype(np.float32).tolist())
            _rank(qs, out)
        return out

    def _invented(self, source: str, caption: str, texts: Mapping[str, list[list[str]]], row: int) -> float:
        """Share of a fused caption's content words that none of its sources has."""
        if source not in self._stage.fused_from:
            return 0.0
        words = set(content_words(caption))
        own: set[str] = set()
        for other in self._stage.fused_from[source]:
            for text in texts[other][row]:
                own.update(content_words(text))
        return len(words - own) / len(words) if words else 0.0

    def _guarded(self, said: Mapping[str, float]) -> int:
        flags = 0
        if said.get("rep", 0.0) >= self._stage.max_rep3:
            flags |= Flag.REPEATED | Flag.BLOCKED
        if said["invented"] > self._stage.max_invented:
            flags |= Flag.INVENTED | Flag.BLOCKED
        return flags


class _Known:
    """What earlier stages say of the captions of one source in a batch."""

    def __init__(self, batch: Batch, stage: Judge, source: str) -> None:
        self._lists: dict[str, list[Any]] = {}
        self._pool: list[Any] = []
        if stage.score:
            self._lists["clip"] = batch.column(stage.score, f"clip_{source}")
            self._lists["rank"] = batch.column(stage.score, f"rank_{source}")
            self._pool = batch.column(stage.score, "pool")
        if source in stage.text:
            for name in ("idf", "rep3", "concepts", "tokens"):
                self._lists[name] = batch.column(stage.text[source], name)
        own = batch.inputs[source].column_names if source in batch.inputs else []
        if "lp" in own:
            self._lists["lp"] = batch.column(source, "lp")
        self._flags = [batch.column(source, "flags")] if "flags" in own else []
        if source in stage.text:
            self._flags.append(batch.column(stage.text[source], "flags"))

    def flags(self, row: int, count: int) -> list[int]:
        """[K] bits of all stages that flag this source."""
        out = [0] * count
        for column in self._flags:
            for place, value in enumerate((column[row] or [])[:count]):
                out[place] |= value or 0
        return out

    def parts(self, row: int, place: int, moments: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Terms of one caption; one that is not known is 0, the mean."""
        out: dict[str, float] = {}
        for what in ("clip", "idf", "lp"):
            value = self._at(what, row, place)
            mean, std = moments.get(what, (0.0, 0.0))
            if value is not None and std > 0:
                out[what] = (value - mean) / std
        rank, pool = self._at("rank", row, place), self._pool[row] if self._pool else None
        if rank is not None and pool is not None and pool > 1:
            out["retrieval"] = 1 - 2 * math.log1p(rank) / math.log(pool)
        out["concept"] = float((self._at("concepts", row, place) or 0) > 0)
        out["rep"] = self._at("rep3", row, place) or 0.0
        out["tokens"] = float((self._at("tokens", row, place) or 0) > 77)
        return out

    def _at(self, name: str, row: int, place: int) -> Any:
        column = self._lists.get(name)
        values = column[row] if column is not None else None
        value = values[place] if values is not None and place < len(values) else None
        return None if isinstance(value, float) and math.isnan(value) else value


def refit(parts: npt.ArrayLike, good: npt.ArrayLike, penalty: float = 1.0) -> tuple[dict[str, float], float]:
    """Weights and bias by logistic regression: `parts` [N, len(PARTS)] of captions that are `good` [N] or not.

    Newton's method with a ridge of `penalty` on the weights; for a recipe's `weights` and `bias`.
    """
    x = np.column_stack([np.asarray(parts, np.float64), np.ones(len(np.asarray(good)))])
    y, w = np.asarray(good, np.float64), np.zeros(x.shape[1])
    ridge = np.diag([penalty] * len(PARTS) + [1e-9])
    for _ in range(50):
        p = _sigmoid(x @ w)
        step = np.linalg.solve((x.T * (p * (1 - p))) @ x + ridge, x.T @ (y - p) - ridge @ w)
        w += step
        if np.abs(step).max() < 1e-9:
            break
    return dict(zip(PARTS, w[:-1].tolist(), strict=True)), float(w[-1])


def _rank(qs: Mapping[str, Sequence[float]], out: dict[str, list[Any]]) -> None:
    """Places of a row's captions among all its captions, best first, and which that is."""
    everyone = sorted((-q, source, place) for source, values in qs.items() for place, q in enumerate(values))
    order = {(source, place): rank for rank, (_, source, place) in enumerate(everyone)}
    for source, values in qs.items():
        out[f"order_{source}"].append([order[source, place] for place in range(len(values))])
    out["best"].append(f"{everyone[0][1]}/{everyone[0][2]}" if everyone else None)
    out["best_q"].append(-everyone[0][0] if everyone else None)


def _flat(column: pa.ChunkedArray) -> _Floats:
    """Finite values of a column of lists."""
    values = column.combine_chunks().flatten().drop_null().to_numpy(zero_copy_only=False).astype(np.float64)
    finite: _Floats = values[np.isfinite(values)]
    return finite


def _sigmoid(x: npt.NDArray[Any]) -> _Floats:
    out: _Floats = 1 / (1 + np.exp(-np.clip(x, -60, 60)))
    return out


def _all(lists: Mapping[str, Sequence[str]]) -> list[str]:
    return [one for several in lists.values() for one in several]
