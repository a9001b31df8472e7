"""What the report shows: facts of stages and of sources of captions, filled in by `report_gather`."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy.typing as npt
import pyarrow as pa

from mobileclip.captions import tables
from mobileclip.captions.plan import Item, Plan
from mobileclip.captions.recipe import options
from mobileclip.captions.report.plots import Histogram
from mobileclip.captions.stage import OK
from mobileclip.captions.tables import Done
from mobileclip.captions.text.metrics import TextStats
from mobileclip.errors import MobileClipError

SELECTED = "selected"
"""Name of the captions that were selected, of whatever source."""
ALT = "alt"
"""Source of the web's texts."""
MEASURES: Mapping[str, tuple[float, float, int]] = {
    "clip": (-1, 1, 2_000),
    "agree": (-1, 1, 2_000),
    "q": (0, 1, 1_000),
    "rank": (0, 256, 256),
    "words": (0, 256, 256),
    "lp": (-12, 0, 1_200),
}
"""What is known of single captions -> range and bins of its histogram."""
PLAIN = ("words", "lp")
"""Those of them that every stage measures alike."""

_DIFFERS = ("at", "seconds", "host", "tar")  # of what a note says about its making: no part of versions


@dataclass(kw_only=True)
class StageFacts:
    """What notes of finished side-cars say of a stage."""

    name: str
    """In the recipe."""
    kind: str
    """What it is."""
    config_hash: str
    """In the name of its folder."""
    config: Mapping[str, Any]
    """Options."""
    finished: int = 0
    """Shards that have a side-car, of all."""
    stale: int = 0
    """Of the sampled: side-cars whose inputs have changed since."""
    notes: dict[str, Done] = field(default_factory=dict)
    """Sampled shard -> its note."""

    def total(self, name: str) -> Counter[str]:
        """Sum of "counts" or "flags" of the notes."""
        out: Counter[str] = Counter()
        for note in self.notes.values():
            out.update({str(key): int(value) for key, value in getattr(note, name).items()})
        return out

    @property
    def rows(self) -> int:
        """Of the sampled shards."""
        return sum(note.rows for note in self.notes.values())

    @property
    def failed(self) -> int:
        """Of those, how many could not be worked on."""
        return self.failures.total()

    @property
    def failures(self) -> Counter[str]:
        """Those by reason, in few words."""
        out: Counter[str] = Counter()
        for status, count in self.total("counts").items():
            if status != OK:
                out[status.split(":")[0][:60]] += count
        return out

    @property
    def seconds(self) -> float:
        """That the sampled shards took."""
        return sum(float(note.made.get("seconds", 0.0)) for note in self.notes.values())

    def makers(self) -> list[tuple[dict[str, Any], dict[str, Any], int]]:
        """(provenance, versions, shards made with them), the commonest first."""
        found: Counter[str] = Counter()
        for note in self.notes.values():
            versions = {key: value for key, value in note.made.items() if key not in _DIFFERS}
            found[json.dumps([note.provenance, versions], sort_keys=True)] += 1
        return [(*json.loads(said), count) for said, count in found.most_common()]


@dataclass(kw_only=True)
class SourceFacts:
    """What is known of the captions of a source."""

    name: str
    """A stage, a source in the shards, or `SELECTED`."""
    role: str
    """"alt", "synthetic", "fused", or `SELECTED`."""
    stats: TextStats = field(default_factory=TextStats)
    """Of the opened tars."""
    histograms: dict[tuple[str, str], Histogram] = field(default_factory=dict)
    """(measure, stage that measured it) -> its values in the sampled shards; "" for what is no model's opinion."""
    flags: Counter[str] = field(default_factory=Counter)
    """Captions by flag, in the sampled shards; as the last stage that flags them has it."""
    flagged: int = 0
    """Captions that flags are known of."""
    weight: float = 0.0
    """Sum of what its captions weigh in the selection."""
    used: int = 0
    """Captions that weigh anything."""

    def add(self, measure: str, stage: str, values: npt.ArrayLike) -> None:
        """Take in values of a measure."""
        if (measure, stage) not in self.histograms:
            self.histograms[measure, stage] = Histogram(*MEASURES[measure])
        self.histograms[measure, stage].add(values)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A row of a shard."""

    shard: str
    """Name of the shard."""
    row: int
    """From 0."""
    value: float | None
    """Quality of its best caption, or similarity of it; None where nothing is known."""
    trouble: str
    """Why it could not be worked on; "" where it could."""
    left_out: str
    """Why it was not selected; "" where it was, or nothing was selected."""


@dataclass(kw_only=True)
class Found:
    """Everything that the report shows."""

    plan: Plan
    """The work."""
    sampled: tuple[Item, ...]
    """Shards whose side-cars were read."""
    opened: tuple[Item, ...] = ()
    """Shards whose tars were read."""
    stages: dict[str, StageFacts] = field(default_factory=dict)
    """In the recipe's order."""
    sources: dict[str, SourceFacts] = field(default_factory=dict)
    """Raw ones, then stages in order, then what was selected."""
    licences: Counter[str] = field(default_factory=Counter)
    """Rows of the opened tars by licence."""
    images: int = 0
    """Rows of the opened tars."""
    duplicates: Counter[str] = field(default_factory=Counter)
    """Rows of the sampled shards by how their duplicate was found."""
    compared: int = 0
    """Rows that were looked at for duplicates."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Rows of the sampled shards by why they were left out; "" for those that are kept."""
    blocked: Counter[str] = field(default_factory=Counter)
    """Keys of all shards that are never touched, by reason."""
    problems: list[str] = field(default_factory=list)
    """What could not be read."""
    places: list[Place] = field(default_factory=list)
    """Rows of the opened tars."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One sentence."""

    level: Literal["warning", "note"]
    """Whether something is wrong, or only has to be known."""
    title: str
    """In few words."""
    text: str
    """What was found, and what follows."""


def base_of(plan: Plan, source: str) -> str:
    """The source in the shards that a source was cleaned from; a source itself where it was not."""
    while source in plan.hashes and plan.recipe.stage(source).kind == "clean":
        source = str(options(plan.recipe.stage(source)).get("source", ALT))
    return source


def role_of(plan: Plan, source: str) -> str:
    """ "alt", "fused" or "synthetic"."""
    base = base_of(plan, source)
    if base == ALT:
        return ALT
    return "fused" if base in plan.hashes and plan.recipe.stage(base).kind == "rewrite" else "synthetic"


def read(found: Found, stage: str, shard: str, wanted: Callable[[str], bool]) -> pa.Table | None:
    """The columns of a side-car that are wanted, None where it does not count; what cannot be read is noted."""
    facts = found.stages[stage]
    if shard not in facts.notes:
        return None
    stem = found.plan.stem(stage, shard)
    try:
        here = tables.columns(stem)
        return tables.read(stem, [name for name in here if wanted(name)])
    except MobileClipError as error:
        found.problems.append(str(error))
        del facts.notes[shard]
        return None


def source_of(found: Found, name: str) -> SourceFacts:
    """Facts of a source, made when they are first wanted."""
    if name not in found.sources:
        role = SELECTED if name == SELECTED else role_of(found.plan, name)
        found.sources[name] = SourceFacts(name=name, role=role)
    return found.sources[name]


def own_found(ranks: Histogram) -> float:
    """Self-retrieval: the share of captions that no other picture of the pool fits better than their own."""
    return float(ranks.counts[0]) / ranks.count


def web_ranks(found: Found, stage: str) -> Histogram | None:
    """Ranks of the web's texts, in whatever form a stage scored them."""
    own = (facts.histograms.get(("rank", stage)) for facts in found.sources.values() if facts.role == ALT)
    return next((ranks for ranks in own if ranks is not None and ranks.count), None)


def web_of(found: Found) -> SourceFacts | None:
    """The web's texts: as they are, else cleaned."""
    if ALT in found.sources and found.sources[ALT].stats.count:
        return found.sources[ALT]
    return next((facts for facts in found.sources.values() if facts.role == ALT and facts.stats.count), None)
