"""The folder of caption work: what is to be done, and what has been done.

    plan = plan_of(recipe, ["web/"], Path("work"))
    for wave in plan.waves:
        plan.todo(wave)                             # shards that have not been through it

    work/
      plan.json                                   what was last asked for: stages and shards
      clean@1a2b3c4d5e6f/00012.parquet            one row a key of the tar, in its order
      clean@1a2b3c4d5e6f/00012.done.json          without it the Parquet file does not count
      dedup@0f1e2d3c4b5a/all.prepared.parquet     what a stage found out about all shards
      blocked/00012.json                          keys that ended a process, and how

There is no other state: what is finished is what is there with the right hashes. A wave is a run of stages of which
none waits for what another finds out about all shards; a shard goes through a wave in one piece.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobileclip.captions import tables
from mobileclip.captions.recipe import Recipe, build, options, override
from mobileclip.captions.tables import Done
from mobileclip.data import places, remote
from mobileclip.data.arrays import placing
from mobileclip.data.places import stem_of
from mobileclip.errors import DataError

PREPARED = "all.prepared"
"""Stem of what a stage found out about all shards."""
PLAN = "plan.json"
"""What was last asked for."""
BLOCKED = "blocked"
"""Folder of keys that are not to be touched."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One shard."""

    name: str
    """What its side-cars are called."""
    place: str
    """Path or address of the tar."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done; the same on every machine that is given the same recipe, shards and folder."""

    folder: Path
    """Of the side-cars."""
    recipe: Recipe
    """The stages."""
    hashes: Mapping[str, str]
    """Name of a stage -> its config's hash."""
    shards: tuple[Item, ...]
    """In order."""
    waves: tuple[tuple[str, ...], ...]
    """Names of stages that a shard goes through in one piece; what they prepare reads earlier waves alone."""
    json_keys: tuple[str, ...] = ()
    """String fields of `.json` that are captions."""
    cache: Path | None = None
    """Folder for copies of remote shards."""
    threads: int = 1
    """Threads that decode pictures, a process."""

    def home(self, stage: str) -> Path:
        """Folder of a stage's side-cars."""
        return self.folder / f"{stage}@{self.hashes[stage]}"

    def stem(self, stage: str, shard: str) -> Path:
        """A side-car's path without its ending."""
        return self.home(stage) / shard

    def prepared(self, stage: str) -> Done | None:
        """The note of what a stage prepared, if it is there and was made from all shards as they are now.

        Raises:
            DataError: it is of another version, or damaged.
        """
        done = tables.committed(self.stem(stage, PREPARED))
        return done if done is not None and done.content == self.read_by(stage) else None

    def done(self, stage: str, item: Item) -> Done | None:
        """The note of a finished side-car that still counts: same tar, same inputs, same preparation.

        Raises:
            DataError: it is of another version, or damaged.
        """
        done = tables.committed(self.stem(stage, item.name))
        if done is None or done.made.get("tar") != mark(item.place) or done.place != item.place:
            return None
        return done if done.inputs == self.inputs(stage, item) else None

    def inputs(self, stage: str, item: Item) -> dict[str, str] | None:
        """Hashes of the side-cars that a stage reads for a shard; None while one is missing."""
        out: dict[str, str] = {}
        found = self.recipe.stage(stage)
        for other in self.recipe.before(found):
            done = tables.committed(self.stem(other.name, item.name))
            if done is None:
                return None
            out[other.name] = done.sha256
        if found.prepares:
            prepared = tables.committed(self.stem(stage, PREPARED))
            if prepared is None:
                return None
            out["prepared"] = prepared.sha256
        return out

    def todo(self, wave: Sequence[str]) -> list[Item]:
        """Shards that have not been through a wave.

        Raises:
            DataError: a side-car is of another version, or damaged.
        """
        return [item for item in self.shards if any(self.done(stage, item) is None for stage in wave)]

    def read_by(self, stage: str) -> str:
        """Hash of all that a stage's preparation reads: side-cars of all shards, by name."""
        said = []
        for item in self.shards:
            for other in self.recipe.before(self.recipe.stage(stage)):
                done = tables.committed(self.stem(other.name, item.name))
                said.append((item.name, other.name, "" if done is None else done.sha256))
        return tables.digest(json.dumps([[item.name for item in self.shards], said]).encode())


def plan_of(
    recipe: Recipe,
    specs: Any,
    folder: Path,
    *,
    json_keys: Sequence[str] = (),
    cache: Path | None = None,
    threads: int = 1,
) -> Plan:
    """What `recipe` does to the shards that `specs` name (see `mobileclip.data.places.expand`).

    Raises:
        DataError: no shard is found, two have one name, or an option points at what cannot be used.
    """
    return Plan(
        folder=Path(folder).resolve(),
        recipe=recipe,
        hashes=recipe.hashes(),
        shards=named([_absolute(place) for place in places.expand(specs)]),
        waves=waves_of(recipe),
        json_keys=tuple(json_keys),
        cache=cache,
        threads=threads,
    )


def save(plan: Plan) -> None:
    """Write what is asked for to `plan.json`, for commands that are given the folder alone.

    Raises:
        OutputError: the folder cannot be written.
    """
    entries = [{"kind": stage.kind, **options(stage)} for stage in plan.recipe.stages]
    content = {
        "version": tables.VERSION,
        "recipe": {"name": plan.recipe.name, "stages": entries},
        "shards": [[item.name, item.place] for item in plan.shards],
        "json_keys": list(plan.json_keys),
    }
    with placing(plan.folder / PLAN) as file:
        file.write(json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n")


def load(folder: Path, overrides: Sequence[str] = (), *, cache: Path | None = None, threads: int = 1) -> Plan:
    """The plan that a folder was last run with; `overrides` as of `recipe_of`.

    Raises:
        DataError: there is none, or it is damaged.
        UnknownName: an override names what is not there.
    """
    path = Path(folder) / PLAN
    try:
        found = json.loads(path.read_bytes())
        if found["version"] != tables.VERSION:
            raise DataError(
                f"'{path}' is of version {found['version']}, {tables.VERSION} is read: use the release that wrote it."
            )
        entries = [dict(entry) for entry in found["recipe"]["stages"]]
        items = tuple(Item(name=str(name), place=str(place)) for name, place in found["shards"])
        name, json_keys = str(found["recipe"]["name"]), tuple(str(key) for key in found["json_keys"])
    except OSError as error:
        raise DataError(
            f"'{folder}' is no folder of caption work (no {PLAN}: {error.strerror}): give the folder that "
            "`mobileclip captions run` wrote."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"'{path}' is damaged ({error}): run `mobileclip captions run` again.") from error
    for line in overrides:
        override(entries, line)
    recipe = build(name, entries)
    return Plan(
        folder=Path(folder),
        recipe=recipe,
        hashes=recipe.hashes(),
        shards=items,
        waves=waves_of(recipe),
        json_keys=json_keys,
        cache=cache,
        threads=threads,
    )


def waves_of(recipe: Recipe) -> tuple[tuple[str, ...], ...]:
    """Names of stages by wave: a stage that looks at all shards comes in a wave behind those of all that it reads."""
    waves: list[list[str]] = [[]]
    for stage in recipe.stages:
        if stage.prepares and set(waves[-1]) & {other.name for other in recipe.before(stage)}:
            waves.append([])
        waves[-1].append(stage.name)
    return tuple(tuple(wave) for wave in waves)


def named(found: Sequence[str]) -> tuple[Item, ...]:
    """Shards and what their side-cars are called: the tar's name, with its folder's before it where that is not enough.

    Raises:
        DataError: two would have one name.
    """
    often = Counter(stem_of(place) for place in found)
    items = []
    for place in found:
        stem = stem_of(place)
        parent = place.rstrip("/").rsplit("/", 2)[-2] if place.count("/") else ""
        items.append(Item(name=stem if often[stem] == 1 else f"{parent}--{stem}", place=place))
    twice = [name for name, count in Counter(item.name for item in items).items() if count > 1]
    if twice:
        raise DataError(f"two shards would both be called '{twice[0]}': rename one, or its folder.")
    return tuple(items)


def blocked(plan: Plan, shard: str) -> dict[str, str]:
    """Keys of a shard that are not touched -> why."""
    try:
        found = json.loads((plan.folder / BLOCKED / f"{shard}.json").read_bytes())
        return {str(key): str(reason) for key, reason in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"the list of blocked keys of shard '{shard}' cannot be read ({error}): remove it.") from error


def block(plan: Plan, shard: str, key: str, reason: str) -> None:
    """Never touch a key again; its rows say "blocked: reason"."""
    known = blocked(plan, shard) | {key: reason}
    with placing(plan.folder / BLOCKED / f"{shard}.json") as file:
        file.write(json.dumps(dict(sorted(known.items())), ensure_ascii=False, indent=1).encode() + b"\n")


def _absolute(place: str) -> str:
    return place if places.is_remote(place) else str(Path(place).absolute())


def mark(place: str) -> list[int | None]:
    """Bytes and time of a tar: when they are as they were, it is not read again."""
    if places.is_remote(place):
        return [remote.remote_size(place), None]
    try:
        status = Path(place).stat()
    except OSError as error:
        raise DataError(f"'{place}' cannot be read ({error.strerror}): check the path.") from error
    return [status.st_size, status.st_mtime_ns]
