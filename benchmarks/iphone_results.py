"""Results of iPhones that were measured elsewhere, read into the one form: the app's, its XCTest's, coremltools'.

The app and its XCTest write results as in `result.schema.json` already. coremltools' `MLModelBenchmarker` returns
objects and writes no file; on a Mac this keeps what it returns:

    model = ct.models.MLModel("image.mlpackage", skip_model_load=True)
    benchmarker = MLModelBenchmarker(model, device)     # a device prepared for model debugging
    load = await benchmarker.benchmark_load(iterations=5)
    predict = await benchmarker.benchmark_predict(iterations=200, warmup=True)
    Path("iphone.json").write_text(benchmarker_json(name, entry, device, "CPU_AND_NE", load, predict))

It gives its model random numbers and compares nothing, so such a result is partial: fast, and not shown to be right.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import protocol
from benchmarks.protocol import in_rounds, model_bench
from mobileclip.errors import MobileClipError

MOST_BYTES = 64 << 20
"""Largest result that is read."""
PAUSES = (
    "coremltools sends each input by a file transfer: the phone rests about a second between runs, so its clocks are "
    "not those of an app that runs without pause"
)
UNPROVEN = (
    "coremltools' benchmarker compares no outputs: these times are of an artifact that was not shown to be right."
)
STATISTICS: Mapping[str, Callable[[list[float]], Any]] = {
    "minimum": np.min,
    "maximum": np.max,
    "average": np.mean,
    "std_dev": np.std,
    "median": np.median,
}
"""Fields of coremltools 9.0's MLModelBenchmarker.Statistics, and what they are of the samples."""
PROVIDERS = {
    "ALL": "all",
    "CPU_ONLY": "cpuOnly",
    "CPU_AND_GPU": "cpuAndGPU",
    "CPU_AND_NE": "cpuAndNeuralEngine",
}
"""coremltools' names of compute units -> Core ML's own."""
_DEVICE = ("name", "identifier", "udid", "os_version", "os_build_number")


def read_harness(path: str | Path) -> dict[str, Any]:
    """A result from the JSON of the app, of its XCTest, or of `benchmarker_json`.

    Raises:
        MobileClipError: no such file, too large, no JSON, of another device or schema, or figures that contradict
            themselves.
    """
    file = Path(path)
    try:
        if file.stat().st_size > MOST_BYTES:
            raise MobileClipError(f"{file} has more than {MOST_BYTES:,} bytes: that is no result of one run.")
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MobileClipError(f"{file} is no result ({error}): give the JSON that the phone's app shared.") from error
    if isinstance(said, dict) and "predict" in said and "schema" not in said:
        return protocol.checked(_benchmarker(said, str(file)), str(file))
    result = protocol.checked(said, str(file))
    kind, process = result["device"]["kind"], result["protocol"]["process"]
    if (kind, process) != ("iphone", "app"):
        raise MobileClipError(
            f"{file} was measured on {kind} by '{process}': what is read here is an iPhone's, by the app or its XCTest."
        )
    return result


def benchmarker_json(
    name: str, entry: Mapping[str, Any], device: Any, units: str, load: Any, predict: Any, *, version: str = "9.0"
) -> str:
    """What coremltools' benchmarker returned, as JSON that `read_harness` takes.

    Args:
        name: of the artifact, as tables show it.
        entry: of the artifact in its bundle's manifest.
        device: coremltools' `Device`.
        units: compute units, as coremltools names them.
        load: `Measurement` of loading.
        predict: `Measurement` of predictions after one that warms up.
        version: of coremltools.
    """
    told = {
        "coremltools": version,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": {field: getattr(device, field) for field in _DEVICE},
        "compute_units": units,
        "model": {"name": name, "sha256": entry["sha256"], "bytes": entry["bytes"]},
        "load": dataclasses.asdict(load),
        "predict": dataclasses.asdict(predict),
    }
    return json.dumps(told, indent=1) + "\n"


def _benchmarker(said: Mapping[str, Any], source: str) -> dict[str, Any]:
    try:
        device, model = said["device"], said["model"]
        phone = _Phone(**{field: str(device[field]) for field in _DEVICE})
        side = empty_side(str(model["name"]), model["sha256"], model["bytes"])
        load, predict = (_samples(said[what], what, source) for what in ("load", "predict"))
        provider = PROVIDERS[said["compute_units"]]
        version = str(said["coremltools"])
        date = str(said["date"])
    except (KeyError, TypeError, ValueError) as error:
        raise MobileClipError(
            f"{source} is not what coremltools' benchmarker gives ({type(error).__name__}: {error}): write it with "
            "benchmarks.iphone_results.benchmarker_json."
        ) from error
    side["load_ms"] = float(np.median(load)) if load else None
    side |= {"steady_ms": predict, "warmup": 1}
    side["model_bench"] = {"mean_ms": model_bench(in_rounds(predict)), "reloaded": False}
    side["runtime"]["provider"] = provider
    result = empty_result(phone, 1, runs=max(len(predict), 1), warmup=1)
    result["device"]["details"]["coremltools"] = version
    kept = {name: said[name] for name in ("recorded_from",) if name in said}
    return result | {"date": date, "sides": [side], "state": "partial", "problem": UNPROVEN} | kept


def _samples(measurement: Mapping[str, Any], what: str, source: str) -> list[float]:
    """The samples of a `Measurement`, whose statistics must be theirs."""
    samples, told = [float(value) for value in measurement["samples"]], measurement["statistics"]
    if not samples and told is None:
        return []
    for name, of in STATISTICS.items():
        found = float(of(samples)) if samples else float("nan")
        if not abs(found - told[name]) <= 1e-6 * max(abs(found), 1):
            raise MobileClipError(
                f"{source} contradicts itself: {name} of {what} is {told[name]}, its {len(samples)} samples give "
                f"{found:.6g}."
            )
    return samples


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Phone:
    """What is read of coremltools' `Device`."""

    name: str
    identifier: str
    udid: str
    os_version: str
    os_build_number: str


def empty_result(phone: Any, sides: int, *, runs: int, warmup: int) -> dict[str, Any]:
    """A result of coremltools on `phone`, without its sides."""
    return {
        "schema": protocol.SCHEMA_VERSION,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": {
            "kind": "iphone",
            "name": phone.name,
            "model": None,
            "soc": None,
            "os": f"iOS {phone.os_version} ({phone.os_build_number})",
            "cores": None,
            "memory_bytes": None,
            "details": {"udid": phone.udid, "pauses": PAUSES},
        },
        "protocol": {
            "order": "ABBA" if sides > 1 else "A",
            "runs": runs,
            "seconds": 0,
            "warmup_runs": warmup,
            "warmup_s": 0,
            "threads": None,
            "process": "coremltools",
            "fixed_performance": None,
        },
        "thermal": [],
        "sides": [],
        "state": "complete",
        "problem": None,
    }


def empty_side(name: str, sha256: str, size: int) -> dict[str, Any]:
    """A side that coremltools measures, before it does."""
    return {
        "name": name,
        "sha256": sha256,
        "bytes": size,
        "runtime": {"name": "coreml", "version": None, "provider": "cpuAndNeuralEngine", "threads": None},
        "known_answer": {"right": None},
        "load_ms": None,
        "first_ms": None,
        "warmup": None,
        "steady_ms": [],
        "end_to_end": {"ms": [], "reason": "coremltools sends arrays, not pictures; the app measures it."},
        "memory": {"peak_bytes": None},
    }
