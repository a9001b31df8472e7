"""What is finished of caption work, from the notes beside the side-cars alone: no process is asked, no tar is opened.

found = status(plan)
found.stages[0].done, found.stages[0].counts, found.stages[0].seconds_left
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mobileclip.captions.engine import attempts
from mobileclip.captions.plan import BLOCKED, PREPARED, Plan, blocked
from mobileclip.captions.stage import Stage
from mobileclip.captions.tables import Done, committed

RECENT = 3_600.0
"""Seconds before the newest note from which the rate is taken."""


@dataclass(frozen=True, kw_only=True)
class StageStatus:
    """One stage."""

    name: str
    """In the recipe."""
    kind: str
    """What it is."""
    folder: str
    """Of its side-cars."""
    shards: int
    """That there are."""
    done: int
    """That are finished, and made from what lies in the folders of the stages before it now."""
    prepared: bool | None
    """Whether it has looked at all shards; None for a stage that need not."""
    rows: int
    """Of finished shards."""
    counts: Mapping[str, int]
    """Rows by status, most first."""
    flags: Mapping[str, int]
    """Captions by flag, most first."""
    bytes: int
    """Of finished side-cars."""
    seconds: float
    """That workers spent on them, summed; stages that look at pictures together share theirs."""
    rows_per_s: float | None
    """Of all workers, of late; None while fewer than two notes say so."""
    seconds_left: float | None
    """At that rate; 0 when all is finished."""
    newest: str
    """When the newest side-car was finished; "" without one."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """A folder of caption work."""

    folder: str
    """Of the work."""
    recipe: str
    """Name of the recipe."""
    stages: tuple[StageStatus, ...]
    """In their order."""
    blocked: Mapping[str, Mapping[str, str]]
    """Shard -> keys that are not touched -> why."""
    failed: Mapping[str, str]
    """Shards that were given up -> why."""
    troubled: Mapping[str, str]
    """Other shards that were begun and are not finished -> the last thing that went wrong, "" if nothing did."""

    @property
    def finished(self) -> bool:
        """Whether every shard is through every stage."""
        return all(stage.done == stage.shards for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "finished": self.finished}


def status(plan: Plan) -> Status:
    """Read all notes.

    Raises:
        DataError: one is of another version, or damaged.
    """
    made: dict[str, dict[str, str]] = {}
    stages = []
    for stage in plan.recipe.stages:
        found = _finished(plan, stage, made)
        made[stage.name] = {name: done.sha256 for name, done in found.items()}
        stages.append(_stage(plan, stage, found))
    troubled = dict(attempts.troubled(plan))
    return Status(
        folder=str(plan.folder),
        recipe=plan.recipe.name,
        stages=tuple(stages),
        blocked=_blocked(plan),
        failed={name: one.failed for name, one in troubled.items() if one.failed},
        troubled={name: one.why for name, one in troubled.items() if not one.failed},
    )


def _finished(plan: Plan, stage: Stage, made: Mapping[str, Mapping[str, str]]) -> dict[str, Done]:
    """Shard -> note, where it was made from what the stages before it have now."""
    before = [other.name for other in plan.recipe.before(stage)]
    prepared = committed(plan.stem(stage.name, PREPARED)) if stage.prepares else None
    found = {}
    for item in plan.shards:
        done = committed(plan.stem(stage.name, item.name))
        if done is None:
            continue
        wanted = {name: made[name].get(item.name) for name in before}
        if prepared is not None:
            wanted["prepared"] = prepared.sha256
        if done.inputs == wanted:
            found[item.name] = done
    return found


def _stage(plan: Plan, stage: Stage, found: Mapping[str, Done]) -> StageStatus:
    counts: Counter[str] = Counter()
    flags: Counter[str] = Counter()
    for done in found.values():
        counts.update(done.counts)
        flags.update(done.flags)
    times = sorted((_time(done), done.rows) for done in found.values())
    newest = times[-1][0] if times else 0.0
    late = [(at, rows) for at, rows in times if at > newest - RECENT]
    took = newest - late[0][0] if len(late) > 1 else 0.0
    left = len(plan.shards) - len(found)
    return StageStatus(
        name=stage.name,
        kind=stage.kind,
        folder=str(plan.home(stage.name)),
        shards=len(plan.shards),
        done=len(found),
        prepared=plan.prepared(stage.name) is not None if stage.prepares else None,
        rows=sum(done.rows for done in found.values()),
        counts=dict(counts.most_common()),
        flags=dict(flags.most_common()),
        bytes=sum(done.size for done in found.values()),
        seconds=sum(float(done.made.get("seconds", 0.0)) for done in found.values()),
        rows_per_s=sum(rows for _, rows in late[1:]) / took if took else None,
        seconds_left=0.0 if not left else left * took / (len(late) - 1) if took else None,
        newest=max((str(done.made.get("at", "")) for done in found.values()), default=""),
    )


def _time(done: Done) -> float:
    try:
        return datetime.fromisoformat(str(done.made.get("at"))).timestamp()
    except ValueError:
        return 0.0


def _blocked(plan: Plan) -> dict[str, dict[str, str]]:
    folder = Path(plan.folder) / BLOCKED
    names = sorted(path.name.removesuffix(".json") for path in folder.glob("*.json")) if folder.is_dir() else []
    return {name: blocked(plan, name) for name in names}
