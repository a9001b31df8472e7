"""How latency is measured, on whatever device: one plan, one form of result.

Host, adb runner, browser page and both apps do the same: load by mmap where the runtime can, run once, hold the output
against the known answer (a wrong artifact has no latency), warm up, then time the sides in turns A B B A. Every sample
is kept. What they hand back is one JSON (`result.schema.json`, version 2); the driver adds what the manifest knows.

The protocol is the superset of ModelBench, MLPerf Mobile and executor_runner: at least 10 runs and 1 s of warm-up, at
least 200 runs and 10 s of each side, forward alone and end to end (decode, resize, forward, what the app makes of it).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.timing import ratio_of_medians
from export.targets import Gate
from mobileclip.errors import MobileClipError

SCHEMA_VERSION = 2
"""Of latency results. Version 1 had exactly two sides, measured on a host."""
MODEL_BENCH_RUNS, MODEL_BENCH_ROUNDS, MODEL_BENCH_DROPPED = 50, 20, 10
"""Apple's ModelBench (MobileOne, FastViT, MobileCLIP papers): rounds of 50 runs, each after a new load and one run that
does not count; the 10 lowest and 10 highest of a round are dropped; then the mean."""
State = Literal["complete", "partial", "wrong"]
"""Of a result: measured whole; cut short, what was measured is kept; a side gave a wrong known answer."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured. The defaults are the protocol; less is marked in the report as less."""

    runs: int = 200
    """Timed runs of each side, at least."""
    seconds: float = 10.0
    """Time of each side's timed runs, at least."""
    warmup_runs: int = 10
    """Runs of each side before, at least."""
    warmup_s: float = 1.0
    """Time of those, at least."""
    threads: int = 0
    """Of the runtime; 0 is the device's own choice."""
    end_to_end: bool = True
    """Whether decode, resize and what follows the forward pass are timed as well (a twentieth of the runs at least)."""
    sustained_s: float = 0.0
    """How long to run on without pause after the timed runs; the last tenth is the sustained figure: 300 gives
    the last 30 s of 5 minutes."""
    memory: bool = True
    """Whether each side's peak memory is measured in a process of its own, where sides share one."""
    model_bench: bool = False
    """Whether ModelBench's own rounds, with a new load each, are run as well (20 x 51 runs of each side)."""
    cool_s: float = 120.0
    """Longest wait for a warm device to cool before a side is timed."""

    def __post_init__(self) -> None:
        if self.runs < 2:
            raise MobileClipError(f"{self.runs} runs cannot give a median and an interval: take at least 2.")
        if self.threads < 0:
            raise MobileClipError(f"{self.threads} threads cannot be: take 1 or more, or 0 for the device's choice.")

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Plan":
        """What `protocol` of a result asked for."""
        names = ("runs", "seconds", "warmup_runs", "warmup_s")
        return cls(**{name: told[name] for name in names})

    @property
    def whole(self) -> bool:
        """Whether it asks for as much as the protocol does."""
        least = Plan()
        return self.runs >= least.runs and self.seconds >= least.seconds and self.warmup_runs >= least.warmup_runs


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An artifact to be timed, with what proves it right."""

    name: str
    """`model view target precision`, as tables show it."""
    file: Path
    """A file, or the folder of a Core ML package."""
    entry: Mapping[str, Any]
    """Its entry in the manifest."""
    feed: Array
    """The known input, in the type that the artifact takes."""
    expected: Sequence[Array]
    """The known outputs, in order; empty where there are none (a naive export of other names)."""
    gate: Gate
    """What the device's outputs must reach against `expected`."""
    bundle: Path | None = None
    """Its bundle's folder; None for a file without one (a naive export)."""
    picture: Path | None = None
    """An encoded picture for the end-to-end figure; None: it has none (a text view)."""


class Device(Protocol):
    """Something that measures. Its `measure` gives a result as in `result.schema.json`, less what only the bundle
    knows (`completed` adds it); a wrong known answer or a lost device is in it, not raised."""

    def measure(self, subjects: Sequence[Subject], plan: Plan) -> dict[str, Any]:
        """Time `subjects`, interleaved.

        Raises:
            MobileClipError: the device is not there, not allowed, or cannot run one of them.
        """
        ...


def percentiles(samples: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99, least, mean (ms) and number of samples."""
    if not samples:
        return {}
    p50, p90, p99 = np.percentile(samples, [50, 90, 99])
    return {
        "p50": float(p50),
        "p90": float(p90),
        "p99": float(p99),
        "min": float(np.min(samples)),
        "mean": float(np.mean(samples)),
        "n": len(samples),
    }


def added_memory(side: Mapping[str, Any]) -> int | None:
    """Bytes that a side needs: its peak, less what the process had before the artifact where that was told."""
    peak, start = side["memory"]["peak_bytes"], side["memory"].get("start_bytes")
    return None if peak is None else int(peak) - int(start or 0)


def model_bench(rounds: Sequence[Sequence[float]]) -> float | None:
    """ModelBench's mean, in ms: of each round of 50 the 10 lowest and 10 highest dropped; None for no whole round."""
    kept = [sorted(times)[MODEL_BENCH_DROPPED:-MODEL_BENCH_DROPPED] for times in rounds if len(times) >= 50]
    return float(np.mean([np.mean(times) for times in kept])) if kept else None


def in_rounds(samples: Sequence[float]) -> list[list[float]]:
    """Steady samples cut into rounds of 50, for ModelBench's statistic without its reloads."""
    count = len(samples) // MODEL_BENCH_RUNS
    return [list(samples[MODEL_BENCH_RUNS * i : MODEL_BENCH_RUNS * (i + 1)]) for i in range(count)]


def filled(result: dict[str, Any]) -> dict[str, Any]:
    """A checked result with what follows from its samples and names, where a device wrote it without a driver."""
    for side in result["sides"]:
        words = side["name"].split(" ")
        named = dict(zip(("model", "view", "target", "precision"), words, strict=True)) if len(words) == 4 else {}
        for key, value in {"ms": percentiles(side["steady_ms"]), "delegates": None, "loose": [], **named}.items():
            side.setdefault(key, value)
    if "ratios" not in result:
        result["ratios"] = ratios([side["steady_ms"] for side in result["sides"]])
    result["protocol"].setdefault("whole", Plan.of(result["protocol"]).whole)
    return result


def ratios(steady: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """How many times longer each further side takes than the first that was timed."""
    timed = [index for index, found in enumerate(steady) if len(found) > 1]
    return [
        {"a": timed[0], "b": index, **asdict(ratio_of_medians(steady[timed[0]], steady[index]))} for index in timed[1:]
    ]


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of results."""
    loaded: dict[str, Any] = json.loads((Path(__file__).parent / "result.schema.json").read_text(encoding="utf-8"))
    return loaded


def checked(result: Any, source: str) -> dict[str, Any]:
    """`result` as it must be; `source` says in an error where it came from.

    Raises:
        MobileClipError: another schema version, or not of the schema.
    """
    import jsonschema

    version = result.get("schema") if isinstance(result, dict) else None
    if version != SCHEMA_VERSION:
        raise MobileClipError(
            f"{source} is a result of schema version {version!r}, this version reads {SCHEMA_VERSION}: measure again"
            + (" with the runner, page or app of this version." if isinstance(version, int) else ".")
        )
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema()).iter_errors(result))
    if error is not None:
        where = "/".join(map(str, error.absolute_path)) or "its top"
        raise MobileClipError(
            f"{source} is no whole result: at {where}, {error.message[:200]}. Give files that `mobileclip bench`, the "
            "runner, the page or the apps wrote."
        )
    found: dict[str, Any] = result
    return found
