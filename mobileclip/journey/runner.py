"""Runs the steps of a journey in one folder; what is done and unchanged is skipped, whatever ended the run before.

    done = build(recipe_of("quickstart"), "runs/quickstart")
    done.ran, done.skipped                        # names of steps

    RUN/steps/train.json       what made a step: its command, its key, a hash of what came out, seconds, its answer
    RUN/train/ ...             what came out, one folder a step
    RUN/replaced/train-1a2b…   what a changed recipe or input has put aside
    RUN/log.txt                every line that a step said, with its time
    RUN/report.html            the page of all of it

A step's key is a hash of its arguments, of the products of the steps that it reads and of the user's files. It is
skipped when its key is the one that it was made with and its product is what came out then. A step that was begun
under the same key goes on where its verb can. Nothing is deleted that was finished: it is put aside.

Unusual: each step is a process of its own, in the run's folder. Its memory is gone when it ends; one that loses this
process ends too, and what a killed process leaves behind is ended before anything is started again.
"""

import os
import shlex
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from mobileclip.data.arrays import writing
from mobileclip.errors import GateFailed, MobileClipError
from mobileclip.journey.process import Say, alone, run, terminable
from mobileclip.journey.products import hash_of, seen
from mobileclip.journey.recipes import Journey
from mobileclip.journey.records import FORMAT, LOG, STEPS, fits, key_of, read
from mobileclip.journey.records import write as record_to
from mobileclip.journey.steps import Step, steps_of

JOURNEY, REPLACED = "journey.json", "replaced"
"""Names in the run's folder."""


@dataclass(kw_only=True)
class Done:
    """What a run did."""

    folder: Path
    """Of the run."""
    ran: list[str] = field(default_factory=list)
    """Steps that were run, in order."""
    skipped: list[str] = field(default_factory=list)
    """Steps that were done already, and unchanged."""


def build(
    journey: Journey, folder: str | os.PathLike[str], *, until: str = "", say: Say = print, watch: Say = lambda _: None
) -> Done:
    """Run what is not done, up to the step `until` (all if empty); write the page, whatever happens.

    Args:
        say: takes a line for each step that begins or ends.
        watch: takes each line that a step says.

    Raises:
        MobileClipError: the journey cannot begin, or a step met a mistake of the user's, which it names.
        GateFailed: a step's artifact disagrees with its reference, or a step failed by a fault of ours.
        OutputError: another build works in the folder, or it cannot be written.
    """
    from mobileclip.journey.page import write

    root = Path(folder)
    steps = steps_of(journey)
    if until and until not in [step.name for step in steps]:
        raise MobileClipError(f"no step '{until}': this journey has {', '.join(step.name for step in steps)}.")
    done = Done(folder=root)
    with writing(root):
        (root / STEPS).mkdir(parents=True, exist_ok=True)
    with alone(root, say) as hold, terminable():
        record_to(root / JOURNEY, asdict(journey))
        runner = _Run(root, hold, say, watch)
        try:
            for place, step in enumerate(steps, 1):
                made = runner.step(step, f"{place}/{len(steps)}")
                (done.ran if made else done.skipped).append(step.name)
                if step.name == until:
                    break
        finally:
            write(root, steps)
    return done


class _Run:
    """What all steps of a run share."""

    def __init__(self, root: Path, hold: BinaryIO, say: Say, watch: Say) -> None:
        self.root, self.hold, self.say, self.watch = root, hold, say, watch

    def step(self, step: Step, place: str) -> bool:
        """Skip a step or run it, and keep its record; whether it was run."""
        from mobileclip.journey.told import told

        key, record = key_of(self.root, step), read(self.root, step.name)
        if fits(self.root, step, record, key):
            self.say(f"{place} {step.name}: done already")
            return False
        spent = self._cleared(step, key, record)
        base = {"format": FORMAT, "name": step.name, "key": key, "command": list(step.command)}
        self._keep(step, {**base, "state": "begun", "seconds": spent})
        self.say(f"{place} {step.name}: {shlex.join(step.command)}")
        start = time.monotonic()
        code, answer, last = run(self.root, step, self.hold, self.watch)
        spent += time.monotonic() - start
        if step.args[0] == "report":
            answer = None  # the results that it read lie in the folders of other steps
        ended = {**base, "seconds": round(spent, 3), "ended": datetime.now(UTC).isoformat(timespec="seconds")}
        if code == 0 and cut_short(answer):
            code, last = 130, "stopped by a signal before its last step"
        if code != 0:
            self._keep(step, {**ended, "state": "failed", "code": code, "said": last, "answer": answer})
            if code in (130, -signal.SIGINT):
                raise KeyboardInterrupt
            raise self._failure(step, code, last)
        own = self.root / step.name
        product = own / step.product
        made = {"product": hash_of(product), "seen": seen(product)} if own.exists() else {"product": "", "seen": ""}
        self._keep(step, {**ended, "state": "done", **made, "answer": answer})
        self.say(f"{place} {step.name}: {told(step, answer)} ({spent:.0f} s)")
        return True

    def _cleared(self, step: Step, key: str, record: Mapping[str, Any]) -> float:
        """Make room for a step, or leave what it goes on with; seconds that were spent on it already."""
        own = self.root / step.name
        if record.get("key") == key and record["state"] != "done":
            if not step.resumed and own.is_dir():
                with writing(own):
                    shutil.rmtree(own)
            return float(record["seconds"])
        if own.exists():
            self._put_aside(step, str(record.get("key", "unknown")))
        return 0.0

    def _put_aside(self, step: Step, key: str) -> None:
        """Move a step's folder and record away, together."""
        target, number = self.root / REPLACED / f"{step.name}-{key[:12]}", 1
        while target.exists():
            number += 1
            target = target.with_name(f"{step.name}-{key[:12]}-{number}")
        with writing(target):
            target.mkdir(parents=True)
            for path in (self.root / step.name, self.root / STEPS / f"{step.name}.json"):
                if path.exists():
                    path.rename(target / path.name)
        self.say(f"{step.name}: its recipe, its inputs or what it made have changed; what was there is in {target}")

    def _keep(self, step: Step, record: Mapping[str, Any]) -> None:
        record_to(self.root / STEPS / f"{step.name}.json", record)

    def _failure(self, step: Step, code: int, last: str) -> Exception:
        """What is raised for a step's exit code."""
        said = last.partition(": ")[2] if last.startswith("mobileclip ") else last
        if code == 2:
            return MobileClipError(f"step '{step.name}': {said}")
        how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
        why = said.rstrip(".") or "it said nothing"
        return GateFailed(f"step '{step.name}' failed ({how}): {why}; see {self.root / LOG}")


def cut_short(answer: Any) -> bool:
    """Whether a training answers that it was stopped: a signal ends it in order, with what it has."""
    if not isinstance(answer, dict) or "step" not in answer or "recipe" not in answer:
        return False
    return int(answer["step"]) < int(answer["recipe"].get("steps") or 0)
