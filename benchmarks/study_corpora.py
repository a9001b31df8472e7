"""Corpora of `python -m benchmarks study` that are made from scenes: the same pictures, other texts.

`filtered` keeps the web texts that the caption recipe `filter` selects; `scored` writes beside every text how well it
fits its picture; `classes` has the name of the main object as the only text, which makes contrastive training
supervised: pictures of one class share their text, and the loss takes no pair with the same text as a negative, so that
what remains is a softmax over the classes of the batch (as in UniCL, Yang et al. 2022, arXiv 2204.03610).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.captions_judged import judged
from mobileclip.captions import engine, plan
from mobileclip.captions.joined import Joined
from mobileclip.captions.plan import Plan
from mobileclip.captions.recipe import Recipe, recipe_of
from mobileclip.data import places, shards, tars
from mobileclip.data.pack import pack_shards
from mobileclip.data.problems import Tally
from mobileclip.data.scene_captions import AltNoise, class_names
from mobileclip.data.shards import Data, Sample, Text

SOURCES = ("alt", "syn_text_short", "syn_text_quality")
"""Texts of a scene."""
_PER_SHARD = 1_000


def filtered(scenes: Path, scorer: Path, home: Path, seed: int, count: int) -> dict[str, Any]:
    """Web texts judged and selected; tells how well they were judged."""
    asked = _ran(recipe_of("filter", [f'embed.model="{scorer}"']), scenes, home)
    packed = _packed(home)
    return {"samples": packed, "judge": judged(asked, seed, count, AltNoise())}


def scored(scenes: Path, scorer: Path, home: Path, seed: int, count: int) -> dict[str, Any]:
    """All texts, each with its similarity to the picture."""
    names = ", ".join(f'"{source}"' for source in SOURCES)
    file = home / "scored.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        f'[[stage]]\nkind = "embed"\nmodel = "{scorer}"\n\n'
        f'[[stage]]\nkind = "score"\nsources = [{names}]\nalt = "alt"\n\n'
        f'[[stage]]\nkind = "select"\nsources = [{names}]\nscore = "score"\nweigh = "one"\n',
        encoding="utf-8",
    )
    _ran(recipe_of(file), scenes, home)
    return {"samples": _packed(home)}


def classes(scenes: Path, home: Path) -> dict[str, Any]:
    """The class of the main object, by colour and shape, as the only text."""
    chosen = Labelled(places=tuple(places.expand(scenes / "train")))
    packed = pack_shards((), home / "scenes", captions=chosen, embeddings="none", size=None, per_shard=_PER_SHARD)
    return {"samples": packed.samples, "classes": len(class_names(fine=True))}


def _ran(recipe: Recipe, scenes: Path, home: Path) -> Plan:
    asked = plan.plan_of(recipe, scenes / "train", home / "work", threads=1)
    plan.save(asked)
    engine.run(asked, jobs=1)
    return asked


def _packed(home: Path) -> int:
    chosen = Joined.open(home / "work")
    packed = pack_shards((), home / "scenes", captions=chosen, embeddings="none", size=None, per_shard=_PER_SHARD)
    return packed.samples


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Samples whose only text is the name of their class: what `pack_shards` takes as captions."""

    places: Sequence[str]
    """Tars of scenes."""

    def counts(self, place: str) -> tuple[int, int]:
        """All samples are kept."""
        with tars.opened(Path(place)) as data:
            count = len(shards.group(tars.walk(data, place), Tally()).samples)
        return count, count

    def mark(self, place: str) -> str:
        """Names the texts; the tar is known by its place."""
        return f"a photo of the class, {place}"

    def samples(self, data: Data, place: str, first: int, last: int, json_keys: Sequence[str] = ()) -> Iterator[Sample]:
        """Samples `first` to `last` of a tar."""
        names = class_names(fine=True)
        groups = shards.group(tars.walk(data, place), Tally()).samples
        for key, members in list(groups.items())[first:last]:
            sample = shards.described(data, key, members, Tally(), json_keys)
            text = Text(source="alt", text=f"a photo of a {names[sample.record['label_fine']]}.")
            record = {name: value for name, value in sample.record.items() if not name.startswith("caption_")}
            yield replace(sample, texts=(text,), record=record)

    def provenance(self) -> dict[str, str]:
        """What made the texts."""
        return {"alt": "the class of the main object"}
