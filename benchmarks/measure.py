"""`mobileclip bench` as one function: bundles, a device, what they are held against -> results.

    benchmarks.measure(["out/s2"], against=["swin_l"], out="runs/results")
    benchmarks.measure(["out/s2"], device="adb", against=[])

Every pair is one run of the protocol on the device: two artifacts in turns, or one alone where nothing is named to hold
it against. The result is written whatever became of it: complete, cut short, or a wrong known answer.
"""

import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from benchmarks import protocol, results
from benchmarks.protocol import Device, Plan, Subject, percentiles
from benchmarks.sides import CACHE, device_of, kind_of
from benchmarks.subjects import rival, subjects_of
from export.manifest import Bundle
from export.runtimes import tool_versions
from export.targets import Kind
from mobileclip.errors import MobileClipError


def measure(
    bundles: str | Path | Sequence[str | Path],
    *,
    device: str = "host",
    against: str | Sequence[str] = ("swin_l",),
    targets: Sequence[str] | None = None,
    views: Sequence[Kind] = ("image",),
    plan: Plan | None = None,
    by_operator: bool = False,
    out: str | Path | None = None,
    cache: Path = CACHE,
    progress: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Time artifacts of bundles on a device; one result a run, also written to `out`.

    Args:
        bundles: folders that `export` wrote.
        device: `host`, `adb`, `adb:SERIAL`, `iphone`, `iphone:NAME`, `browser` or `browser:webgpu`.
        against: each a model's name (exported by our rules for the same target), `naive` (the plain export of the same
            weights), a target of the same bundle (`onnx`), or the folder of another bundle; none: each artifact alone.
        targets: of the bundles; those that the device runs when None.
        views: of the bundles; a dense bundle's own view is timed where it has none of these.
        plan: how much; the whole protocol when None.
        by_operator: whether time is told by operator and block as well (on the host).

    Raises:
        MobileClipError: nothing to time, no device, or a baseline that is not there. What a device measured before it
            was lost is no error: the result's state says so.
    """
    plan = plan or Plan()
    kind, name = device_of(device)
    rivals = [against] if isinstance(against, str) else list(against)
    for item in rivals:
        kind_of(item)
    paths = [bundles] if isinstance(bundles, str | Path) else list(bundles)
    opened = [Bundle.open(path) for path in paths]
    pairs = [
        (mine, against_it)
        for bundle in opened
        for mine in subjects_of(bundle, kind, targets, views, cache)
        for against_it in rivals or [""]
    ]
    with ExitStack() as stack:
        runner = _device(kind, name, progress)
        if isinstance(runner, AbstractContextManager):  # it removes what it pushed
            stack.enter_context(runner)
        return _measured(runner, kind, pairs, plan, by_operator=by_operator, out=out, cache=cache, progress=progress)


def _measured(
    runner: Device,
    kind: str,
    pairs: Sequence[tuple[Subject, str]],
    plan: Plan,
    *,
    by_operator: bool,
    out: str | Path | None,
    cache: Path,
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:
    """One run of the protocol for each artifact and what it is held against; empty: nothing."""
    found = []
    for mine, against_it in pairs:
        subjects = [mine]
        if against_it:
            assert mine.bundle is not None
            other = rival(Bundle.open(mine.bundle, hashes=False), mine, against_it, cache, progress)
            if other is None:  # itself
                continue
            subjects.append(other)
        progress(f"measuring {' and '.join(one.name for one in subjects)}")
        result = completed(runner.measure(subjects, plan), subjects, plan)
        if kind == "host" and result["state"] != "wrong":
            from benchmarks import operators, roofline  # load models again

            result["roofline"] = roofline.add(result["sides"], subjects, plan.threads)
            if by_operator:
                views = [roofline.view_of(subject) for subject in subjects]
                operators.add(result["sides"], subjects, views, plan.threads)
        found.append(protocol.checked(result, f"what the {kind} measured"))
        progress(told(result))
        if out is not None:
            results.write(Path(out), _file(result), result)
    if not found:
        named = dict.fromkeys(against_it for _, against_it in pairs)
        raise MobileClipError(f"{' and '.join(named)} is all that was to be timed: name another baseline.")
    return found


def completed(result: dict[str, Any], subjects: Sequence[Subject], plan: Plan) -> dict[str, Any]:
    """What a device handed back, with what the driver and the manifests know."""
    for side, subject in zip(result["sides"], subjects, strict=True):
        entry = subject.entry
        side |= {
            "name": subject.name,
            "model": subject.name.split(" ")[0],
            "view": entry["view"],
            "target": entry["target"],
            "precision": entry.get("precision", "fp32"),
            "delegates": entry["delegates"],
            "loose": entry["loose"],
            "ms": percentiles(side["steady_ms"]),
            "accuracy": accuracy(entry),
        }
    result["ratios"] = protocol.ratios([side["steady_ms"] for side in result["sides"]])
    result["protocol"]["whole"] = plan.whole
    return result | {"run": secrets.token_hex(6), "commit": results.commit(), "tools": dict(tool_versions())}


def accuracy(entry: Any) -> dict[str, Any] | None:
    """What the export measured of an artifact: parity, and of what is quantised what its users keep."""
    told: dict[str, Any] = {}
    if entry.get("parity"):
        told |= {name: entry["parity"][name] for name in ("db", "cosine", "equal") if name in entry["parity"]}
    kept = (entry.get("quantisation") or {}).get("kept") or {}
    told |= {item["name"]: item["value"] for item in kept.get("numbers", ())}
    return told or None


def told(result: dict[str, Any]) -> str:
    """A result as one line."""
    sides = result["sides"]
    if result["state"] == "wrong":
        return str(result["problem"])
    if result["ratios"]:
        ratio = result["ratios"][0]
        line = (
            f"{sides[ratio['a']]['name']}: {ratio['value']:.2f} times as fast as {sides[ratio['b']]['name']} "
            f"({ratio['low']:.2f}–{ratio['high']:.2f})"
        )
    else:
        line = ", ".join(f"{side['name']}: p50 {side['ms'].get('p50', float('nan')):.2f} ms" for side in sides)
    return line if result["state"] == "complete" else f"{line}; {result['problem']}"


def _device(kind: str, name: str | None, progress: Callable[[str], None]) -> Device:
    if kind == "host":
        from benchmarks.host import Host

        return Host()
    if kind == "adb":
        from benchmarks import android

        return android.find(name)
    if kind == "browser":
        from benchmarks import browser

        return browser.find(name, progress)
    from benchmarks import iphone

    return iphone.find(name)


def _file(result: dict[str, Any]) -> str:
    """Name of a result's file: the device, the sides, the threads."""
    device, threads = result["device"]["kind"], result["protocol"]["threads"]
    where = device if device == "host" else f"{device}-{result['device']['name']}"
    names = "-against-".join(side["name"] for side in result["sides"])
    text = f"{where}-{names}-{threads if threads else 'any'}-threads"
    return "".join(char if char.isalnum() or char in "-_.+@" else "-" for char in text)[:200]
