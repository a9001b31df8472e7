"""Stage "select": which samples and captions are trained on, and what each weighs.

A sample is kept when it is no duplicate, its picture is sound and large enough, the uid lists allow it, one of its
captions passes the thresholds, it is in the top share by its best quality, and balancing draws it. Captions that do not
pass weigh 0; the others weigh their quality, those of a source that `use` sets aside weigh 0.

Unusual here: thresholds over all shards come from histograms, so memory does not grow with the corpus; the draw of
balancing is a hash of the uid, so it is the same everywhere.

Source: top share, DataComp (clip-score filter); `use = "adaptive"`, Nguyen et al. 2023 (2307.10350): the web text where
it fits its picture well, a synthetic one elsewhere; balancing, MetaCLIP (2309.16671), section 3: an entry of a list of
concepts that more than t captions hold is kept with probability t / count, a sample when one of its entries is.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from mobileclip.captions.flags import Flag
from mobileclip.captions.stage import OK, Batch, Columns, Everything, Prepared, checked
from mobileclip.captions.tables import file_digest
from mobileclip.captions.uids import Uids
from mobileclip.data.order import uniform

_BINS = 1 << 16
_BALANCE = 211  # stream of draws
_RULED = Flag.BLOCKED | Flag.EMPTY


@dataclass(frozen=True, kw_only=True)
class Select:
    """Options of the stage."""

    kind: ClassVar[str] = "select"
    version: ClassVar[int] = 1
    prepares: ClassVar[bool] = True
    divisible: ClassVar[bool] = True

    name: str = "select"
    """Of this entry."""
    sources: tuple[str, ...] = ("clean",)
    """Of captions; the first is the web text."""
    judge: str = ""
    """Stage that gave captions their quality; "" for none."""
    score: str = ""
    """Stage that scored captions with pictures, for `min_clip`, `max_rank` and `use`; "" for none."""
    dedup: str = ""
    """Stage that found duplicates; "" for none."""
    images: str = ""
    """Stage that measured pictures, for `min_side` and `max_aspect`; "" for none."""
    embed: str = ""
    """Stage whose heads `heads` names; "" for none."""
    concepts: str = ""
    """`text_score` stage of the web text whose concepts are balanced; "" for none."""
    min_q: float = 0.0
    """Quality below which a caption is not used."""
    min_clip: float = -1.0
    """Similarity below which a caption is not used."""
    max_rank: int = 65_535
    """Pictures of its block that may fit a caption better than its own."""
    min_side: int = 0
    """Pixels of the short side."""
    max_aspect: float = math.inf
    """Long side by short side."""
    heads: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Head of the embed stage -> least and greatest value: aesthetic = [4.5, 99], nsfw = [-99, 0.3]."""
    top_share: float = 1.0
    """Share of the samples that passed all else, best first by their best caption."""
    balance: int = 0
    """Captions that a concept may have before it is thinned out (t); 0: no balancing."""
    unmatched: float = 1.0
    """Probability of keeping a sample without any concept, when balancing."""
    include: str = ""
    """File of uids outside of which nothing is kept."""
    exclude: str = ""
    """File of uids that are not kept (those that are evaluated on)."""
    use: Literal["all", "web", "synthetic", "best", "adaptive"] = "all"
    """Which sources weigh: all that pass, the web text, the others, the best one alone, or the web text where its
    similarity reaches `web_clip` and the others elsewhere."""
    web_clip: float = 0.28
    """Similarity of the web text from which "adaptive" keeps it."""
    captions: int = 255
    """Captions of a source that weigh, best first."""
    weigh: Literal["q", "one"] = "q"
    """What a caption weighs: its quality, or 1."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        checked(bool(self.sources), f"stage '{self.name}' has no sources: name at least one.")
        checked(0 < self.top_share <= 1, f"{self.name}.top_share is {self.top_share}: above 0, up to 1 is allowed.")
        checked(0 <= self.unmatched <= 1, f"{self.name}.unmatched is {self.unmatched}: 0 to 1 is allowed.")
        checked(self.balance >= 0 and self.captions >= 1, f"{self.name}: balance from 0, captions from 1 are allowed.")
        wants = {
            "judge": self.top_share < 1 or self.min_q > 0,
            "score": self.use == "adaptive" or self.min_clip > -1 or self.max_rank < 65_535,
            "images": self.min_side > 0 or self.max_aspect < math.inf,
            "embed": bool(self.heads),
            "concepts": self.balance > 0,
        }
        for option, wanted in wants.items():
            checked(
                not wanted or bool(getattr(self, option)),
                f"{self.name} asks for what a '{option}' stage finds, and names none: set {self.name}.{option}.",
            )
        for head, limits in self.heads.items():
            checked(len(limits) == 2, f"{self.name}.heads.{head} is {list(limits)}: least and greatest are wanted.")

    def needs(self) -> tuple[str, ...]:
        """Captions and what was found about them."""
        stages = (self.judge, self.score, self.dedup, self.images, self.embed, self.concepts)
        return tuple(dict.fromkeys([*self.sources, *filter(None, stages)]))

    def looks(self) -> bool:
        """No pictures."""
        return False

    def points_at(self) -> Mapping[str, str]:
        """The uid lists."""
        found = {}
        for path in filter(None, (self.include, self.exclude)):
            Uids(Path(path))
            found[path] = file_digest(Path(path))
        return found

    def prepare(self, everything: Everything) -> pa.Table:
        """The quality that the top share begins at, and counts of concepts: rows (what, number, value)."""
        rows: list[dict[str, Any]] = []
        if self.balance:
            counts: Counter[int] = Counter()
            for _, table in everything.tables(self.concepts, ["concept_ids"]):
                for row in table.column("concept_ids").to_pylist():
                    counts.update({one for caption in row or () for one in caption or ()})
            rows += [{"what": "concept", "number": one, "value": float(n)} for one, n in sorted(counts.items())]
        if self.top_share < 1:
            histogram = np.zeros(_BINS, np.int64)
            for _, table in everything.tables(self.judge, ["best_q"]):
                best = table.column("best_q").drop_null().to_numpy().astype(np.float64)
                histogram += np.bincount(_bin(best), minlength=_BINS)
            above = histogram[::-1].cumsum()[::-1]
            within = np.nonzero(above <= self.top_share * above[0])[0]
            rows.append({"what": "top", "number": 0, "value": float(within[0] if len(within) else _BINS) / _BINS})
        return pa.Table.from_pylist(rows, schema=_PREPARED)

    def worker(self, prepared: Prepared | None) -> "_Worker":
        """Opens the uid lists."""
        assert prepared is not None
        return _Worker(self, prepared.table())


_PREPARED = pa.schema([("what", pa.string()), ("number", pa.int64()), ("value", pa.float64())])


class _Worker:
    def __init__(self, stage: Select, prepared: pa.Table) -> None:
        self._stage = stage
        rows = prepared.to_pylist()
        self._counts = {row["number"]: row["value"] for row in rows if row["what"] == "concept"}
        self._top = next((row["value"] for row in rows if row["what"] == "top"), 0.0)
        self._include = Uids(Path(stage.include)) if stage.include else None
        self._exclude = Uids(Path(stage.exclude)) if stage.exclude else None
        self.provenance: dict[str, Any] = {"least_q_of_top_share": self._top, "concepts": len(self._counts)}
        weights = [(f"w_{source}", pa.list_(pa.float32())) for source in stage.sources]
        self.schema = pa.schema(
            [("keep", pa.bool_()), ("weight", pa.float32()), ("why", pa.string()), ("use", pa.string()), *weights]
        )

    def __call__(self, batch: Batch) -> Columns:
        stage, known = self._stage, _Known(batch, self._stage)
        out: dict[str, list[Any]] = {name: [] for name in self.schema.names}
        for row, one in enumerate(batch.rows):
            weights = {source: known.weights(source, row) for source in stage.sources}
            use = known.use(weights, row)
            for source in stage.sources:
                if not _used(use, source, stage.sources[0]):
                    weights[source] = [0.0] * len(weights[source])
            why = self._why(known, one.uid, row, weights)
            out["keep"].append(why == "")
            out["why"].append(why)
            out["use"].append(use)
            best = max((weight for values in weights.values() for weight in values), default=0.0)
            out["weight"].append(best if why == "" else 0.0)
            for source, values in weights.items():
                out[f"w_{source}"].append(values if why == "" else [0.0] * len(values))
        return out

    def _why(self, known: "_Known", uid: str, row: int, weights: Mapping[str, Sequence[float]]) -> str:
        """Why a sample is left out, the cheapest reason first; "" when it is kept."""
        stage = self._stage
        if self._exclude is not None and uid in self._exclude:
            return "excluded"
        if self._include is not None and uid not in self._include:
            return "not included"
        why = known.why(row)
        if why:
            return why
        if not any(weight > 0 for values in weights.values() for weight in values):
            return "no caption passes"
        if stage.top_share < 1 and _bin(np.array([known.best_q(row)]))[0] < round(self._top * _BINS):
            return "not in the top share"
        if stage.balance and not self._drawn(uid, known.concepts(row)):
            return "balanced away"
        return ""

    def _drawn(self, uid: str, concepts: set[int]) -> bool:
        chance = float(uniform(_BALANCE, self._stage.seed, np.array([int(uid[:16], 16)], np.uint64))[0])
        if not concepts:
            return chance < self._stage.unmatched
        lost = math.prod(1 - min(1.0, self._stage.balance / self._counts[one]) for one in concepts)
        return bool(chance < 1 - lost)


class _Known:
    """What earlier stages say of a batch."""

    def __init__(self, batch: Batch, stage: Select) -> None:
        self._batch, self._stage = batch, stage
        self._texts = {source: batch.texts(source) for source in stage.sources}
        self._columns: dict[tuple[str, str], list[Any]] = {}

    def weights(self, source: str, row: int) -> list[float]:
        """[K] of the captions of a source; 0 for those that do not pass."""
        stage, captions = self._stage, self._texts[source][row]
        q = self._list(stage.judge, f"q_{source}", row, len(captions), 1.0)
        clip = self._list(stage.score, f"clip_{source}", row, len(captions), None)
        ranked = stage.score if stage.max_rank < 65_535 else ""
        rank = self._list(ranked, f"rank_{source}", row, len(captions), None)
        flags = self._flags(source, row, len(captions))
        out, seen = [], set[str]()
        for place, caption in enumerate(captions):
            passes = (
                bool(caption)
                and caption not in seen
                and not flags[place] & _RULED
                and q[place] >= stage.min_q
                and (stage.min_clip <= -1 or (clip[place] is not None and clip[place] >= stage.min_clip))
                and (not ranked or (rank[place] is not None and rank[place] <= stage.max_rank))
            )
            seen.add(caption)
            out.append((q[place] if stage.weigh == "q" else 1.0) if passes else 0.0)
        best = sorted(range(len(out)), key=lambda place: (-out[place], place))
        for place in best[stage.captions :]:
            out[place] = 0.0
        return out

    def use(self, weights: Mapping[str, Sequence[float]], row: int) -> str:
        """Which sources weigh: "all", "web", "synthetic", or a source's name; never one without captions."""
        stage, web = self._stage, self._stage.sources[0]
        has_web = any(weight > 0 for weight in weights[web])
        others = [source for source in stage.sources[1:] if any(weight > 0 for weight in weights[source])]
        if stage.use == "best":
            return max(stage.sources, key=lambda source: max(weights[source], default=0.0))
        if stage.use == "adaptive":
            clips = self._list(stage.score, f"clip_{web}", row, len(weights[web]), None)
            fits = has_web and any(clip is not None and clip >= stage.web_clip for clip in clips)
            return "web" if fits or not others else "synthetic"
        if stage.use == "web":
            return "web"
        return "synthetic" if stage.use == "synthetic" and others else "all"

    def why(self, row: int) -> str:
        """What is wrong with the picture; "" for nothing."""
        stage = self._stage
        if self._batch.rows[row].image is None:
            return "no image"
        for name in filter(None, (stage.images, stage.embed)):
            status = self._column(name, "status")[row]
            if status != OK:
                return "image: " + str(status).split(" (")[0].split(":")[0]
        if stage.dedup and self._column(stage.dedup, "duplicate_of")[row] is not None:
            return f"duplicate: {self._column(stage.dedup, 'how')[row]}"
        if stage.images:
            sides = sorted((self._column(stage.images, "width")[row], self._column(stage.images, "height")[row]))
            if sides[0] < stage.min_side:
                return "small image"
            if sides[1] > stage.max_aspect * sides[0]:
                return "long image"
        for head, (least, most) in stage.heads.items():
            value = self._column(stage.embed, f"head_{head}")[row]
            if value is None or not least <= value <= most:
                return f"head {head}"
        return ""

    def best_q(self, row: int) -> float:
        """Of all captions of all sources."""
        value = self._column(self._stage.judge, "best_q")[row]
        return -1.0 if value is None else float(value)

    def concepts(self, row: int) -> set[int]:
        """Of the web text."""
        found = self._column(self._stage.concepts, "concept_ids")[row]
        return {one for caption in found or () for one in caption or ()}

    def _flags(self, source: str, row: int, count: int) -> list[int]:
        if self._stage.judge:
            return [value or 0 for value in self._list(self._stage.judge, f"flags_{source}", row, count, 0)]
        if source in self._batch.inputs and "flags" in self._batch.inputs[source].column_names:
            return [value or 0 for value in self._list(source, "flags", row, count, 0)]
        return [0] * count

    def _list(self, stage: str, column: str, row: int, count: int, default: Any) -> list[Any]:
        values = self._column(stage, column)[row] if stage else None
        return list(values) if values is not None and len(values) == count else [default] * count

    def _column(self, stage: str, name: str) -> list[Any]:
        if (stage, name) not in self._columns:
            self._columns[stage, name] = self._batch.column(stage, name)
        return self._columns[stage, name]


def _used(use: str, source: str, web: str) -> bool:
    return use in ("all", source) or (use == "web" and source == web) or (use == "synthetic" and source != web)


def _bin(values: Any) -> Any:
    return np.clip((np.asarray(values, np.float64) * _BINS).astype(np.int64), 0, _BINS - 1)
