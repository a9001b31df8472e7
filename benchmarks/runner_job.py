"""What the C++ runner is told and what it tells: the job of several artifacts, and the lines of its log.

The log comes from a device and is foreign: its size is bounded, a line that is no object of the known form is left out,
and figures that are no times are too.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.protocol import MODEL_BENCH_ROUNDS, Plan, Subject, in_rounds, model_bench
from mobileclip.errors import MobileClipError

PROVIDERS = {"executorch-xnnpack": "xnnpack", "executorch-vulkan": "vulkan"}
"""Target -> delegate that an Android runner can hold."""
STATUS = ("nominal", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Android's thermal states by number."""
MOST_LOG = 64 << 20
"""Bytes of a log that are read."""
MOST_OUTPUT = 256 << 20
"""Bytes of one output."""
_PARTS = {"whole": "ms", "decode": "decode_ms", "resize": "resize_ms", "forward": "forward_ms", "after": "after_ms"}
_DTYPES = ("float32", "float16", "int32", "int64", "int8", "uint8", "bool")
_FIT = re.compile(
    r"^(?:shortest side to (?P<side>\d+)|(?P<rule>stretch to|keep the ratio, at most) (?P<h>\d+) rows and (?P<w>\d+) "
    r"columns), (?P<filter>bilinear|bicubic), antialias"
)
"""The manifest's three rules (`export.views`, `export.dense_views`)."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """What a side's files are called on the device."""

    program: str
    input: str
    picture: str | None


def job_text(subjects: Sequence[Subject], names: Sequence[Names], plan: Plan, *, wait_s: float, bare: bool) -> str:
    """The runner's job file.

    Args:
        wait_s: how long it waits for a word on its outputs.
        bare: whether Method::execute() alone is timed as well.
    """
    lines = [
        f"threads {plan.threads}",
        f"runs {plan.runs}",
        f"seconds {plan.seconds}",
        f"warmup_runs {plan.warmup_runs}",
        f"warmup_s {plan.warmup_s}",
        f"wait_s {wait_s}",
        f"end_to_end {max(-(-plan.runs // 20), 2) if plan.end_to_end else 0}",
        f"sustained_s {plan.sustained_s}",
        f"model_bench {MODEL_BENCH_ROUNDS if plan.model_bench else 0}",
        f"bare {int(bare)}",
    ]
    for index, (subject, name) in enumerate(zip(subjects, names, strict=True)):
        shape = ",".join(map(str, subject.feed.shape))
        lines += ["side", f"program {name.program}", f"input {subject.feed.dtype} {shape} {name.input}"]
        lines.append(f"outputs out{index}")
        fit = fit_of(subject.entry)
        if name.picture is not None and fit is not None:
            scale = float(subject.entry["inputs"][0].get("scale", 1))
            lines += [
                f"picture {name.picture}",
                f"fit {fit}",
                f"scale {scale:.12g}",
                f"after {after_of(subject.entry)}",
            ]
    return "\n".join(lines) + "\n"


def fit_of(entry: Mapping[str, Any]) -> str | None:
    """How a picture becomes the input, in the runner's words; None where the manifest's rule is not known here."""
    inputs = entry.get("inputs") or [{}]
    match = _FIT.match(inputs[0].get("resize") or "")
    if match is None or inputs[0].get("dtype") != "float32":
        return None
    if match["side"]:
        return f"shortest {match['side']} {match['side']} {match['filter']}"
    rule = "stretch" if match["rule"] == "stretch to" else "letterbox"
    return f"{rule} {match['h']} {match['w']} {match['filter']}"


def after_of(entry: Mapping[str, Any]) -> str:
    """What an app does with the first output."""
    first = entry["outputs"][0]
    if "embedding" in first.get("meaning", ""):
        return "normalise"
    if first["name"] == "labels" and first["dtype"] == "int32":
        return "labels"
    return "argmax" if first["name"] == "logits" and first["dtype"] == "float32" else "none"


@dataclass(kw_only=True)
class Side:
    """What the log says of one artifact."""

    load_ms: float | None = None
    first_ms: float | None = None
    outputs: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    """Type and shape of each file that the runner wrote."""
    start_bytes: int | None = None
    loaded_bytes: int | None = None
    warmup: int | None = None
    picture: list[int] | None = None
    no_picture: str | None = None
    samples: dict[str, list[float]] = field(default_factory=dict)
    """Part of the run -> times in ms."""
    rounds: list[list[float]] = field(default_factory=list)


@dataclass(kw_only=True)
class Told:
    """A log so far."""

    sides: list[Side]
    hello: dict[str, Any] = field(default_factory=dict)
    thermal: list[dict[str, Any]] = field(default_factory=list)
    peak_bytes: int | None = None
    loop: tuple[float, float] | None = None
    """Wall time of the timed part, and the sum of what was timed in it; ms."""
    cpu_ms: float | None = None
    """Processor time of the timed part, of all threads."""
    proved: bool = False
    """Whether the first runs are over."""
    done: bool = False
    error: str | None = None
    size: int = 0
    """Bytes that were read."""
    _rest: bytes = b""

    def read(self, data: bytes) -> None:
        """Take the next piece of the log.

        Raises:
            MobileClipError: it is longer than any run writes.
        """
        self.size += len(data)
        if self.size > MOST_LOG:
            raise MobileClipError(
                f"the runner's log is longer than {MOST_LOG:,} bytes: this is no run of the protocol."
            )
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        name, index = event.get("event"), event.get("side", 0)
        if not isinstance(index, int) or not 0 <= index < len(self.sides):
            return
        side = self.sides[index]
        if name == "hello":
            self.hello = event
        elif name == "proved":
            self.proved = True
        elif name == "done":
            self.done = True
        elif name == "error":
            self.error = _words(event.get("text"))
        elif name == "memory":
            self.peak_bytes = _bytes(event.get("peak_bytes"))
        elif name == "loop":
            self.loop = (_time(event.get("wall_ms")) or 0.0, _time(event.get("timed_ms")) or 0.0)
            self.cpu_ms = _time(event.get("cpu_ms"))
        elif name == "thermal":
            self.thermal.append(_reading(event))
        elif name == "first":
            side.load_ms, side.first_ms = _time(event.get("load_ms")), _time(event.get("first_ms"))
            side.start_bytes, side.loaded_bytes = _bytes(event.get("start_bytes")), _bytes(event.get("loaded_bytes"))
            side.outputs = _outputs(event.get("outputs"))
        elif name == "warm":
            side.warmup = _bytes(event.get("runs"))
        elif name == "picture":
            side.picture = [int(value) for value in _times(event.get("size"))][:2]
        elif name == "no_picture":
            side.no_picture = _words(event.get("reason"))
        elif name == "samples":
            side.samples.setdefault(_words(event.get("part")), []).extend(_times(event.get("ms")))
        elif name == "round":
            side.rounds.append(_times(event.get("ms")))


def side_result(subject: Subject, side: Side, told: Told, answer: Mapping[str, Any], plan: Plan, size: int) -> Any:
    """A side as the result's schema has it.

    Args:
        answer: what the outputs were against the known ones.
        size: bytes of the artifact.
    """
    steady = side.samples.get("steady", [])
    rounds = side.rounds if plan.model_bench else in_rounds(steady)
    threads = told.hello.get("threads")
    ends = {key: side.samples.get(part, []) for part, key in _PARTS.items()}
    reason = None if ends["ms"] else _why_not(subject, side, plan)
    return {
        "name": subject.name,
        "sha256": subject.entry["sha256"],
        "bytes": size,
        "runtime": {
            "name": "executorch",
            "version": _words(told.hello.get("executorch")) or None,
            "provider": PROVIDERS[subject.entry["target"]],
            "threads": threads if isinstance(threads, int) else None,
        },
        "known_answer": dict(answer),
        "load_ms": side.load_ms,
        "first_ms": side.first_ms,
        "warmup": side.warmup,
        "steady_ms": steady,
        "end_to_end": {**ends, "picture": side.picture, "reason": reason},
        "sustained_ms": side.samples.get("sustained", []),
        "model_bench": {
            "mean_ms": model_bench(rounds),
            "reloaded": plan.model_bench,
            "rounds_ms": rounds if plan.model_bench else [],
        },
        "memory": {
            "start_bytes": side.start_bytes,
            "loaded_bytes": side.loaded_bytes,
            "peak_bytes": told.peak_bytes,
        },
    }


def array_of(data: bytes, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any] | None:
    """An output that the runner wrote; None where its size is not what it said."""
    kind = np.dtype(dtype).newbyteorder("<")
    return np.frombuffer(data, kind).reshape(shape) if len(data) == kind.itemsize * math.prod(shape) else None


def _why_not(subject: Subject, side: Side, plan: Plan) -> str:
    if not plan.end_to_end:
        return "it was not asked for"
    if subject.picture is None:
        return "it takes no picture"
    if side.no_picture == "no picture was given":  # there is one, and it was left out of the job
        return "the runner does not know its rule to resize a picture"
    return side.no_picture or "the run ended before"


def _reading(event: Mapping[str, Any]) -> dict[str, Any]:
    status = event.get("status")
    known = isinstance(status, int) and 0 <= status < len(STATUS)
    figures = {key: _time(event.get(key)) for key in ("headroom", "celsius", "mhz")}
    when = event.get("when")
    return {
        "when": when if when in ("before", "during", "after") else "during",
        "at_s": _time(event.get("at_s")) or 0.0,
        "status": STATUS[status] if known and isinstance(status, int) else None,
        **figures,
    }


def _outputs(told: Any) -> list[tuple[str, tuple[int, ...]]]:
    found = []
    for line in told[:64] if isinstance(told, list) else []:
        dtype, _, sides = _words(line).partition(" ")
        shape = tuple(int(side) for side in sides.split(",") if side.isdigit() and len(side) < 10)
        if dtype in _DTYPES and np.dtype(dtype).itemsize * math.prod(shape) <= MOST_OUTPUT:
            found.append((dtype, shape))
    return found


def _words(value: Any) -> str:
    return re.sub(r"[^\x20-\x7e]", "?", value)[:300] if isinstance(value, str) else ""


def _time(value: Any) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return float(value) if good else None


def _times(values: Any) -> list[float]:
    found = [_time(value) for value in values] if isinstance(values, list) else []
    return [value for value in found if value is not None]


def _bytes(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62 else None
