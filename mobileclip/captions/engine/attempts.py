"""What went wrong with shards, beside their side-cars: a few lines a shard, removed when it is finished.

    attempts/00012.jsonl        {"what": "begun", ...} {"what": "ended", "why": "SIGSEGV", ...}

A line is written when work on a shard begins, and when its process ends over it. So the next run knows what this one
could not finish, also if a shard took the whole machine down with it; and `status` can say which shards have failed.
"""

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from mobileclip.captions.plan import Plan
from mobileclip.data.arrays import writing

FOLDER = "attempts"
"""Beside the stages' folders."""
ENDS, BEGINNINGS = 2, 4
"""Ends of processes, or beginnings that came to no end, after which a shard is searched before it is tried again."""

What = Literal["begun", "ended", "searched", "failed"]
"""Begun; its process ended over it; rows were looked for; given up."""
_LIMIT = 100_000  # bytes of a log that are read: its end


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What is known of a shard that is not finished."""

    ends: int
    """Processes that ended over it since it was last searched."""
    beginnings: int
    """Beginnings since then."""
    failed: str
    """Why it was given up; "" if it was not, or was begun again."""
    why: str
    """The last reason that was written."""

    @property
    def suspect(self) -> bool:
        """Whether it should be searched for rows that end a process before it is tried again."""
        return self.ends >= ENDS or self.beginnings >= BEGINNINGS


def note(plan: Plan, shard: str, what: What, why: str = "") -> None:
    """Add a line.

    Raises:
        OutputError: it cannot be written.
    """
    path = _path(plan, shard)
    entry = {
        "what": what,
        "why": why[:300],
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "pid": os.getpid(),
    }
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")


def clear(plan: Plan, shard: str) -> None:
    """The shard is finished."""
    _path(plan, shard).unlink(missing_ok=True)


def trouble(plan: Plan, shard: str) -> Trouble | None:
    """What the log of a shard says; None without one."""
    try:
        with _path(plan, shard).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LIMIT))
            lines = file.read(_LIMIT).splitlines()
    except OSError:
        return None
    ends = beginnings = 0
    failed = why = ""
    for line in lines:
        try:
            entry = json.loads(line)
            what, said = str(entry["what"]), str(entry.get("why", ""))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # a line that was cut off, with the machine
        failed = said or "it failed" if what == "failed" else "" if what == "begun" else failed
        ends, beginnings = (0, 0) if what == "searched" else (ends + (what == "ended"), beginnings + (what == "begun"))
        why = said or why
    return Trouble(ends=ends, beginnings=beginnings, failed=failed, why=why)


def troubled(plan: Plan) -> Iterator[tuple[str, Trouble]]:
    """Shards with a log, and what it says."""
    folder = plan.folder / FOLDER
    if not folder.is_dir():
        return
    for path in sorted(folder.glob("*.jsonl")):
        shard = path.name.removesuffix(".jsonl")
        found = trouble(plan, shard)
        if found is not None:
            yield shard, found


def _path(plan: Plan, shard: str) -> Path:
    return plan.folder / FOLDER / f"{shard}.jsonl"
