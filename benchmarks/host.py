"""Latency on this machine: a bundle's artifacts against a baseline, interleaved, each proved right before it is timed.

Figures of a host say how two files compare on this processor. They do not predict a phone.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import baselines, limits, results
from benchmarks.sides import RUNNABLE, kind_of, model_name
from benchmarks.timing import Samples, interleave, ratio_of_medians, timed
from export.bundle import answers_of, read_array
from export.manifest import Bundle
from export.parity import compare_outputs, worst
from export.reference import reference_subject
from export.runtimes import NotHere, Session, open_artifact, tool_versions
from export.targets import TARGETS, Kind
from mobileclip.errors import GateFailed, MobileClipError, UnknownName


def measure(
    bundle: str | Path,
    *,
    device: str = "host",
    against: str = "swin_l",
    targets: Sequence[str] | None = None,
    views: Sequence[Kind] = ("image",),
    runs: int = 40,
    threads: int = 0,
    out: str | Path | None = None,
    cache: Path = baselines.CACHE,
    progress: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Time artifacts of a bundle against a baseline; one result each, also written to `out`.

    Args:
        bundle: folder that `export` wrote.
        against: a model's name (exported by our rules for the same target), `naive` (the plain export of the same
        weights),
            a target of the same bundle (`onnx`), or the folder of another bundle.
        targets: of the bundle; those that run on a host when None.
        views: of the bundle; a dense bundle's own view is timed where it has none of these.
        runs: timed runs of each side.
        threads: of both runtimes; 0 is one for each core.

    Raises:
        MobileClipError: nothing to time, or a baseline that is not there.
        GateFailed: an artifact gives a wrong known answer; a wrong artifact has no latency.
    """
    if device != "host":
        raise UnknownName("device", device, ["host"])
    kind_of(against)
    opened = Bundle.open(bundle)
    count = threads or os.cpu_count() or 1
    held = list(dict.fromkeys(entry["view"] for entry in opened.manifest["artifacts"]))
    views = [kind for kind in held if kind in views] or [kind for kind in held if kind not in ("image", "text")]
    if kind_of(against) == "model" and not set(views) <= {"image", "text"}:
        raise MobileClipError(
            f"{bundle} has a dense view ({', '.join(views)}), which the encoder {against} has not: compare it with "
            "naive, a target, or the bundle of another dense model."
        )
    chosen = [
        entry
        for entry in opened.manifest["artifacts"]
        if entry["target"] in (targets or RUNNABLE)
        and entry["target"] in set(RUNNABLE) - {against}
        and entry["view"] in views
    ]
    if not chosen:
        raise MobileClipError(
            f"{bundle} holds nothing to time on a host for {', '.join(targets or RUNNABLE)}: export it for "
            f"{' or '.join(RUNNABLE)}."
        )
    floors = _floors(opened, {entry["view"] for entry in chosen}, count)
    found = []
    for entry in chosen:
        other = _baseline(opened, entry, against, cache, progress)
        result = _compare(opened, entry, other, runs, count) | {"against": against, **floors[entry["view"]]}
        found.append(result)
        ratio = result["ratio"]
        progress(f"{result['a']['name']}: {ratio['value']:.2f} times as fast as {result['b']['name']}")
        if out is not None:
            name = f"{result['a']['name']}-against-{result['b']['name']}-{count}-threads".replace(" ", "-")
            results.write(Path(out), name, result)
    return found


Side = tuple[str, Path, Mapping[str, Any], Bundle | None]
"""(name, artifact, entry of its manifest, bundle with its known answer)."""


def _baseline(
    bundle: Bundle, entry: Mapping[str, Any], against: str, cache: Path, progress: Callable[[str], None]
) -> Side:
    kind = kind_of(against)
    if kind == "naive":
        path, other = baselines.naive(bundle, entry["view"], entry["target"], cache)
        return f"{_model(bundle)} {entry['view']} {entry['target']} naive", path, other, None
    if kind == "target":
        return _side(bundle, entry["view"], against)
    if kind == "model":
        exported = baselines.exported(model_name(against), entry["target"], cache, progress)
        return _side(exported, entry["view"], entry["target"])
    return _side(Bundle.open(against), entry["view"], entry["target"])


def _model(bundle: Bundle) -> str:
    name: str = bundle.manifest["model"]["name"]
    return name


def _side(bundle: Bundle, view: Kind, target: str) -> Side:
    for entry in bundle.manifest["artifacts"]:
        if (entry["view"], entry["target"]) == (view, target):
            return f"{_model(bundle)} {view} {target}", bundle.file(entry["file"]), entry, bundle
    raise MobileClipError(
        f"{bundle.path} holds no {view} artifact for {target} to compare with: export it with --to {target}."
    )


def _compare(bundle: Bundle, entry: Mapping[str, Any], other: Side, runs: int, threads: int) -> dict[str, Any]:
    mine: Side = (f"{_model(bundle)} {entry['view']} {entry['target']}", bundle.file(entry["file"]), entry, bundle)
    sessions = [_open(side, threads) for side in (mine, other)]
    calls = []
    firsts = []
    parities = []
    for side, (session, _) in zip((mine, other), sessions, strict=True):
        feed, expected = _known(side, bundle, session)
        firsts.append(timed(lambda session=session, feed=feed: session.run([feed])))  # type: ignore[misc]
        parities.append(_proved(side, session, feed, expected))
        calls.append(lambda session=session, feed=feed: session.run([feed]))
    a, b = interleave(calls[0], calls[1], runs=runs)
    sides = [
        Samples(name=side[0], load_ms=load_ms, first_ms=first, steady_ms=tuple(steady))
        for side, (_, load_ms), first, steady in zip((mine, other), sessions, firsts, (a, b), strict=True)
    ]
    return results.stamp() | {
        "threads": threads,
        "protocol": {"order": "ABBA", "runs": runs, "process": "one"},
        "tools": dict(tool_versions()),
        "a": _told(sides[0], mine, sessions[0][0], parities[0]),
        "b": _told(sides[1], other, sessions[1][0], parities[1]),
        "ratio": asdict(ratio_of_medians(sides[0].steady_ms, sides[1].steady_ms)),
    }


def _open(side: Side, threads: int) -> tuple[Session, float]:
    start = time.perf_counter_ns()
    try:
        session = open_artifact(side[1], side[2]["target"], threads)
    except NotHere as reason:
        raise MobileClipError(f"{side[0]} cannot be timed on this host: it needs {reason}.") from reason
    return session, (time.perf_counter_ns() - start) / 1e6


def _known(side: Side, bundle: Bundle, session: Session) -> tuple[npt.NDArray[Any], list[npt.NDArray[Any]] | None]:
    """The known answer of a side; the naive export of a bundle's weights answers for the same input."""
    view, owner = side[2]["view"], side[3] or bundle
    answer = owner.manifest["known_answer"][view]
    feed = read_array(owner.path, answer["input"]).astype(session.inputs[0].dtype)
    expected = None if owner.manifest["preset"] == "open_clip" and side[3] is None else answers_of(owner.path, answer)
    return feed, expected


def _proved(
    side: Side, session: Session, feed: npt.NDArray[Any], expected: list[npt.NDArray[Any]] | None
) -> Mapping[str, Any] | None:
    if expected is None:
        return None
    outputs = compare_outputs(session.run([feed]), expected, side[2]["outputs"])
    found = worst(outputs)
    if not all(item.passes(TARGETS[side[2]["target"]].gate) for item in outputs):
        raise GateFailed(
            f"{side[0]} gives a wrong known answer here ({found.db:.1f} dB): a wrong artifact has no latency"
        )
    return found.as_dict()


def _told(samples: Samples, side: Side, session: Session, parity: Mapping[str, Any] | None) -> dict[str, Any]:
    entry = side[2]
    return {
        "name": samples.name,
        "runtime": session.runtime,
        "sha256": entry["sha256"],
        "bytes": entry["bytes"],
        "delegates": entry["delegates"],
        "loose": entry["loose"],
        "parity": parity,
        "load_ms": samples.load_ms,
        "first_ms": samples.first_ms,
        "p50_ms": samples.percentile(50),
        "p90_ms": samples.percentile(90),
        "p99_ms": samples.percentile(99),
        "min_ms": float(np.min(samples.steady_ms)),
        "steady_ms": list(samples.steady_ms),
    }


def _floors(bundle: Bundle, kinds: set[Kind], threads: int) -> dict[Kind, dict[str, Any]]:
    """The GEMM floor of each view, measured in this very run."""
    views = reference_subject(bundle, bundle.manifest["model"]["checkpoint"]["source"]).deployed()
    floors: dict[Kind, dict[str, Any]] = {}
    for kind in kinds:
        found = limits.products(views[kind])
        floors[kind] = {"gemm_ms": limits.gemm_floor_ms(found, threads), "gemm_macs": limits.macs(found)}
    return floors
