"""Selected captions joined with their shards: what `mobileclip pack shards --captions WORK` reads in place of indices.

    found = Joined.open("work")                     # every shard of the work has to be selected
    for sample in found.samples(data, place, 0, 100): ...

Captions that weigh nothing are left behind, so nothing but what was selected is in a packed shard. The web text is the
source "alt"; captions of a stage are the source `syn_text_<stage>`, with their quality, their similarity, and a note of
where they come from in `.json`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mobileclip.captions import plan as plans
from mobileclip.captions import tables, uids
from mobileclip.captions.plan import Item, Plan
from mobileclip.captions.recipe import options
from mobileclip.captions.select import Select
from mobileclip.data import shards, tars
from mobileclip.data.problems import Tally
from mobileclip.data.shards import Data, Sample, Text
from mobileclip.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Joined:
    """What was selected in a folder of caption work; cheap to send to other processes."""

    plan: Plan
    """The work."""
    select: str
    """The stage that decides."""

    @classmethod
    def open(cls, folder: Path | str, select: str = "") -> "Joined":
        """Take the last `select` stage of a finished work, or the one of that name.

        Raises:
            DataError: it has none, or a shard has not been through it.
        """
        plan = plans.load(Path(folder))
        names = [stage.name for stage in plan.recipe.stages if isinstance(stage, Select)]
        if not names:
            raise DataError(f"recipe '{plan.recipe.name}' of '{folder}' selects nothing: add a stage of kind 'select'.")
        name = select or names[-1]
        if name not in names:
            raise DataError(f"'{folder}' has no select stage '{name}': it has {', '.join(names)}.")
        missing = [item.name for item in plan.shards if plan.done(name, item) is None]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(plan.shards)} shards of '{folder}' are not selected yet (first: "
                f"{missing[0]}): run `mobileclip captions run` to its end."
            )
        return cls(plan=plan, select=name)

    @property
    def places(self) -> tuple[str, ...]:
        """Tars, in order."""
        return tuple(item.place for item in self.plan.shards)

    @property
    def stage(self) -> Select:
        """The stage that decides."""
        found = self.plan.recipe.stage(self.select)
        assert isinstance(found, Select)
        return found

    def counts(self, place: str) -> tuple[int, int]:
        """Samples that are kept, and all keys."""
        table = tables.read(self._stem(self.select, place), ["keep"])
        return sum(table.column("keep").to_pylist()), table.num_rows

    def mark(self, place: str) -> str:
        """Hash of all that decides what `samples` gives for a shard."""
        item = self._item(place)
        found = [tables.committed(self.plan.stem(stage, item.name)) for stage in self._stages()]
        return tables.digest(repr([done and (done.stage, done.sha256, done.content) for done in found]).encode())

    def samples(self, data: Data, place: str, first: int, last: int, json_keys: Sequence[str] = ()) -> Iterator[Sample]:
        """Samples `first` to `last` of those that are kept, with their selected captions.

        Raises:
            DataError: the tar holds other keys than when it was selected.
        """
        item, stage, number = self._item(place), self.stage, -1
        rows, made = _Rows(self, item), self.provenance()
        groups = shards.group(tars.walk(data, place), Tally()).samples
        if list(groups) != rows.keys:
            raise DataError(f"'{place}' holds other samples than when its captions were selected: run again.")
        for row, (key, members) in enumerate(groups.items()):
            if not rows.keep[row]:
                continue
            number += 1
            if number >= last:
                return
            if number >= first:
                sample = shards.described(data, key, members, Tally(), json_keys or self.plan.json_keys)
                texts = rows.texts(sample, row, stage.sources)
                record = {**sample.record, "uid": rows.uids[row], "captions_from": made}
                yield replace(sample, texts=texts, uid=rows.uids[row], record=record)

    def summary(self) -> tuple[int, int, dict[str, int]]:
        """Samples that are kept, all samples, and why the others are not, most frequent first."""
        why: Counter[str] = Counter()
        for place in self.places:
            why.update(tables.read(self._stem(self.select, place), ["why"]).column("why").to_pylist())
        kept, every = why.pop("", 0), why.total()
        return kept, kept + every, dict(why.most_common())

    def write_uids(self, path: Path) -> int:
        """Write the uids of what is kept, sorted (`mobileclip.captions.uids`); returns how many.

        Raises:
            OutputError: the place cannot be written.
        """
        found = (tables.read(self._stem(self.select, place), ["uid", "keep"]) for place in self.places)
        return uids.write(path, (uid for table in found for uid in table.filter(table["keep"])["uid"].to_pylist()))

    def provenance(self) -> dict[str, str]:
        """Source -> stage and hash of its config, which the `done.json` of that stage explains."""
        names = [name for name in (*self.stage.sources, self.select) if name in self.plan.hashes]
        return {name: f"{name}@{self.plan.hashes[name]}" for name in names}

    def names(self) -> dict[str, str]:
        """Source -> what it is called in packed shards: "alt", or `syn_text_` and its author; cleaning is none."""
        out: dict[str, str] = {}
        for place, source in enumerate(self.stage.sources):
            author = source
            while author in self.plan.hashes and self.plan.recipe.stage(author).kind == "clean":
                author = options(self.plan.recipe.stage(author))["source"]
            name = author if author.startswith("syn_text") else f"syn_text_{author}"
            if place == 0:
                name = "alt"
            elif name in out.values():
                name = f"syn_text_{source}"
            out[source] = name
        return out

    def _stages(self) -> list[str]:
        return [self.select, *(source for source in self.stage.sources if source in self.plan.hashes)]

    def _stem(self, stage: str, place: str) -> Path:
        return self.plan.stem(stage, self._item(place).name)

    def _item(self, place: str) -> Item:
        return self._items[place]

    @cached_property
    def _items(self) -> dict[str, Item]:
        return {item.place: item for item in self.plan.shards}


class _Rows:
    """Selection of one shard."""

    def __init__(self, joined: Joined, item: Item) -> None:
        self._names = joined.names()
        plan, stage = joined.plan, joined.stage
        columns = ["key", "uid", "keep", *(f"w_{source}" for source in stage.sources)]
        table = tables.read(plan.stem(joined.select, item.name), columns)
        self.keys: list[str] = table.column("key").to_pylist()
        self.uids: list[str] = table.column("uid").to_pylist()
        self.keep: list[bool] = table.column("keep").to_pylist()
        self._weights = {source: table.column(f"w_{source}").to_pylist() for source in stage.sources}
        self._texts = {
            source: tables.read(plan.stem(source, item.name), ["texts"]).column("texts").to_pylist()
            for source in stage.sources
            if source in plan.hashes
        }
        self._clip: dict[str, list[Any]] = {}
        if stage.score:
            names = [f"clip_{source}" for source in stage.sources]
            scores = tables.read(plan.stem(stage.score, item.name), names)
            self._clip = {source: scores.column(f"clip_{source}").to_pylist() for source in stage.sources}

    def texts(self, sample: Sample, row: int, sources: Sequence[str]) -> tuple[Text, ...]:
        """Captions of a kept sample that weigh something."""
        out = []
        for source in sources:
            raw = [text.text for text in sample.texts if text.source == source]
            captions = (self._texts[source][row] or []) if source in self._texts else raw
            weights = self._weights[source][row] or []
            clips = self._clip[source][row] if source in self._clip else None
            for place, (caption, weight) in enumerate(zip(captions, weights, strict=True)):
                if weight > 0:
                    clip = clips[place] if clips is not None and clips[place] is not None else float("nan")
                    out.append(Text(source=self._names[source], text=caption, weight=float(weight), clip=float(clip)))
        return tuple(out)
