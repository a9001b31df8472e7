"""This machine as a device: the runtimes' Python interfaces in one process, in turns.

Figures of a host say how two files compare on this processor. They do not predict a phone.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import protocol, results
from benchmarks.end_to_end import whole
from benchmarks.protocol import MODEL_BENCH_ROUNDS, MODEL_BENCH_RUNS, Plan, Subject, in_rounds, model_bench
from benchmarks.timing import alternate, timed
from export.parity import compare_outputs, worst
from export.runtimes import NotHere, Session, open_artifact
from mobileclip.errors import MobileClipError

THERMAL_EVERY_S = 1.0
"""Pause between two readings of the thermometer while sides are timed."""


class Host:
    """The machine that this runs on, as a `Device`."""

    def measure(self, subjects: Sequence[Subject], plan: Plan) -> dict[str, Any]:
        """Time `subjects`, interleaved, in this process.

        Raises:
            MobileClipError: one of them needs a runtime that is not here.
        """
        clock = _Thermometer()
        result: dict[str, Any] = {
            "schema": protocol.SCHEMA_VERSION,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": about(),
            "protocol": {
                "order": "ABBA" if len(subjects) > 1 else "A",
                "runs": plan.runs,
                "seconds": plan.seconds,
                "warmup_runs": plan.warmup_runs,
                "warmup_s": plan.warmup_s,
                "threads": plan.threads or os.cpu_count(),
                "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
                "process": "python",
                "fixed_performance": None,
                "sustained_s": plan.sustained_s,
            },
            "thermal": clock.readings,
            "state": "complete",
            "problem": None,
        }
        clock.read("before")
        opened = [_Opened(subject, plan) for subject in subjects]
        result["sides"] = [item.side for item in opened]
        wrong = [item.subject.name for item in opened if item.side["known_answer"]["right"] is False]
        if wrong:
            told = "; ".join(
                f"{item.subject.name} gives a wrong known answer here ({item.side['known_answer']['db']:.1f} dB)"
                for item in opened
                if item.subject.name in wrong
            )
            return result | {"state": "wrong", "problem": f"{told}: a wrong artifact has no latency."}
        try:
            self._time(opened, plan, clock)
        except KeyboardInterrupt:
            clock.read("after")
            return result | {"state": "partial", "problem": "Interrupted: what was measured until then is kept."}
        clock.read("after")
        return result

    def _time(self, opened: "Sequence[_Opened]", plan: Plan, clock: "_Thermometer") -> None:
        """Fill in the sides' samples, as far as it comes."""
        times = alternate(
            [item.forward for item in opened],
            runs=plan.runs,
            seconds=plan.seconds,
            warmup_s=plan.warmup_s,
            warmup_runs=plan.warmup_runs,
            between=lambda: clock.read("during"),
        )
        for item, found in zip(opened, times, strict=True):
            item.side["steady_ms"] = found
            item.side["model_bench"] = {"mean_ms": model_bench(in_rounds(found)), "reloaded": False}
        for item in opened:
            if plan.end_to_end:
                item.side["end_to_end"] = whole(item.subject, item.session, plan)
            if plan.sustained_s:
                item.side["sustained_ms"] = _sustained(item, plan.sustained_s, clock)
            if plan.model_bench:
                item.side["model_bench"] = _rounds(item, plan)
            if plan.memory:
                item.side["memory"] = memory_of(item.subject, plan.threads)


class _Opened:
    """A subject that is loaded and was held against its known answer."""

    def __init__(self, subject: Subject, plan: Plan) -> None:
        self.subject = subject
        self.threads = plan.threads or os.cpu_count() or 1
        start = time.perf_counter_ns()
        self.session = load(subject, self.threads)
        load_ms = (time.perf_counter_ns() - start) / 1e6
        self.feed = fed(subject, self.session)
        outputs: list[Any] = []
        first_ms = timed(lambda: outputs.extend(self.session.run([self.feed])))
        name, _, version = self.session.runtime.partition(" ")
        self.side: dict[str, Any] = {
            "name": subject.name,
            "sha256": subject.entry["sha256"],
            "bytes": subject.entry["bytes"],
            "runtime": {
                "name": name,
                "version": version,
                "provider": "xnnpack" if name == "executorch" else "cpu",
                "threads": self.threads,
            },
            "known_answer": judged(subject, outputs),
            "load_ms": load_ms,
            "first_ms": first_ms,
            "steady_ms": [],
            "end_to_end": {"ms": [], "reason": "it was not asked for."},
            "memory": {"peak_bytes": None},
        }

    def forward(self) -> object:
        """One run of what is timed."""
        return self.session.run([self.feed])


def judged(subject: Subject, outputs: Sequence[Any]) -> dict[str, Any]:
    """A device's outputs for the known input as `known_answer` of a side."""
    hashes = [hashlib.sha256(np.ascontiguousarray(item).tobytes()).hexdigest() for item in outputs]
    if not subject.expected:
        return {"right": None, "sha256": hashes}
    if len(outputs) != len(subject.expected) or any(
        item.size != known.size for item, known in zip(outputs, subject.expected, strict=True)
    ):
        return {"right": False, "db": -400.0, "cosine": 0.0, "max_error": 0.0, "sha256": hashes}
    shaped = [item.reshape(known.shape) for item, known in zip(outputs, subject.expected, strict=True)]
    found = compare_outputs(shaped, list(subject.expected), subject.entry["outputs"])
    right = all(item.passes(subject.gate) for item in found)
    return {"right": right, **worst(found).as_dict(), "sha256": hashes}


def load(subject: Subject, threads: int) -> Session:
    """The artifact in its runtime here.

    Raises:
        MobileClipError: its runtime is not on this machine.
    """
    try:
        return open_artifact(subject.file, subject.entry["target"], threads)
    except NotHere as reason:
        raise MobileClipError(f"{subject.name} cannot be timed on this host: it needs {reason}.") from reason


def fed(subject: Subject, session: Session) -> Any:
    """The known input in the type that the session takes."""
    return subject.feed.astype(session.inputs[0].dtype)


def memory_of(subject: Subject, threads: int) -> dict[str, int | None]:
    """Resident memory of a process of its own that loads the artifact and runs it twice, in bytes: `start` is what the
    runtime needs without any artifact."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "input.npy"
        np.save(file, subject.feed)
        command = [sys.executable, "-m", "benchmarks.peak", str(subject.file.absolute()), str(file)]
        command += [subject.entry["target"], str(threads or os.cpu_count() or 1)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {"start_bytes": int(found["runtime"] * 2**20), "peak_bytes": int(found["peak"] * 2**20)}


def about() -> dict[str, Any]:
    """This machine as `device` of a result."""
    memory = Path("/proc/meminfo")
    flags = [flag for flag in results.cpuinfo().get("flags", "").split() if flag.startswith(("avx", "amx", "fma"))]
    total = int(memory.read_text().split()[1]) * 1024 if memory.exists() else None
    return {
        "kind": "host",
        "name": f"host, {platform.system()} {platform.machine()}",
        "model": results.machine()["cpu"],
        "soc": None,
        "os": platform.platform(),
        "cores": os.cpu_count(),
        "memory_bytes": total,
        "details": {"isa": flags, "load": list(os.getloadavg())},
    }


class _Thermometer:
    """Readings of this machine, at most one in `THERMAL_EVERY_S` while sides are timed."""

    def __init__(self) -> None:
        self.start = self.last = time.monotonic()
        self.readings: list[dict[str, Any]] = []

    def read(self, when: str) -> None:
        now = time.monotonic()
        if when == "during" and now - self.last < THERMAL_EVERY_S:
            return
        self.last = now
        hottest = max((value for value in map(_celsius, _ZONES.glob("thermal_zone*/temp")) if value), default=None)
        clocks = [
            float(line.split(":")[1])
            for line in (_CPUINFO.read_text().splitlines() if _CPUINFO.exists() else ())
            if line.startswith("cpu MHz")
        ]
        if hottest is not None or clocks:
            reading = {"when": when, "at_s": round(now - self.start, 3), "status": None, "headroom": None}
            self.readings.append(reading | {"celsius": hottest, "mhz": max(clocks, default=None)})


_ZONES, _CPUINFO = Path("/sys/class/thermal"), Path("/proc/cpuinfo")


def _celsius(file: Path) -> float | None:
    try:
        return int(file.read_text()) / 1000
    except (OSError, ValueError):
        return None


def _sustained(item: _Opened, seconds: float, clock: _Thermometer) -> list[float]:
    """Runs without pause for `seconds`; those of the last tenth."""
    start, found = time.perf_counter(), list[tuple[float, float]]()
    while (now := time.perf_counter() - start) < seconds:
        found.append((now, timed(item.forward)))
        clock.read("during")
    return [ms for at, ms in found if at >= 0.9 * seconds]


def _rounds(item: _Opened, plan: Plan) -> dict[str, Any]:
    """ModelBench as it is: a new load for each round, one run that does not count, then 50."""
    rounds = []
    for _ in range(MODEL_BENCH_ROUNDS):
        session = load(item.subject, item.threads)
        session.run([item.feed])
        rounds.append([timed(lambda session=session: session.run([item.feed])) for _ in range(MODEL_BENCH_RUNS)])  # type: ignore[misc]
    return {"mean_ms": model_bench(rounds), "reloaded": True, "rounds_ms": rounds}
