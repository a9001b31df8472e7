"""`export(model, targets, out)`: a checkpoint becomes a bundle of artifacts, each compared with the model it was made
from.

For every view and target: rewrite for the target, check the rewritten view against the view, lower, run the file
where a runtime is at hand, compare, note. Work is kept in `.NAME.partial` beside the bundle: what was finished before
an interruption is not made again, and the bundle appears whole, with its manifest, or not at all.
"""

import contextlib
import io
import json
import logging
import multiprocessing
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from export import manifest
from export.bundle import finish, read_array, write_known_answers
from export.parity import Parity, compare
from export.rewrites import REWRITES, rewrite
from export.runtimes import NotHere, open_artifact, tool_versions
from export.targets import TARGETS, Kind, Target, targets_of
from export.to_executorch import Delegation
from export.views import View, make_views
from mobileclip.checkpoint import load, save
from mobileclip.errors import GateFailed, OutputError, UnknownName
from mobileclip.fuse import fuse, is_fused
from mobileclip.models import Clip

LABELS = ("person", "dog", "cat", "bird", "car", "bicycle", "food", "plant", "building", "screen")
"""Labels of the sample apps when none are given."""
REWRITE_TOLERANCE = 1e-5
"""Largest relative error of a rewritten view against the view, in float32."""

# Operators that a delegate leaves outside although nothing is computed in them, and why.
_HARMLESS = {
    "aten_embedding_default": "looks up rows of a table by integer ids; the delegate takes no integers",
    "aten_eq_scalar": "compares integer ids with the end-of-text id; the delegate takes no integers",
    "dim_order_ops__to_dim_order_copy_default": "casts ids or a comparison of them to float",
    "aten__to_copy_default": "casts ids or a comparison of them to float",
    "aten_view_copy_default": "renames dimensions",
    "aten_unsqueeze_copy_default": "renames dimensions",
    "aten_squeeze_copy_dims": "renames dimensions",
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One artifact to make."""

    view: Kind
    target: str
    preset: str
    rewrites: tuple[str, ...]
    file: str


def export(
    model: Clip | str | Path,
    targets: Iterable[str],
    out: str | Path,
    *,
    preset: str = "apple",
    without_rewrites: Iterable[str] = (),
    labels: Sequence[str] = LABELS,
    jobs: int = 1,
    force: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write a bundle and return its path.

    Args:
        model: a model, or what `mobileclip.load` takes.
        targets: keys of `TARGETS`.
        out: folder of the bundle; must not exist without `force`.
        preset: key of `PRESETS`.
        without_rewrites: names in `REWRITES` to leave out, to see what they are good for.
        labels: for `labels.json`.
        jobs: processes that lower at the same time; each holds the model once.
        progress: called with a line whenever something was made.

    Raises:
        UnknownName: no such target, preset or rewrite.
        OutputError: `out` exists or cannot be written.
        GateFailed: an artifact disagrees with its model; nothing is written.
    """
    chosen = targets_of(targets)
    skipped = set(without_rewrites)
    for name in skipped - set(REWRITES):
        raise UnknownName("rewrite", name, REWRITES)
    out = Path(out)
    if out.exists() and not force:
        raise OutputError(f"{out} exists already: choose another folder, or pass --force to replace it.")
    source = model if isinstance(model, Clip) else load(model)
    reference = make_views(source, preset)
    plan = [_job(kind, name, target, preset, skipped) for kind in reference for name, target in chosen.items()]
    plan.sort(key=lambda job: list(_SLOWEST).index(job.target) if job.target in _SLOWEST else len(_SLOWEST))
    with _partial_folder(out, _fingerprint(source, plan)) as partial:
        write_known_answers(reference, partial)
        entries = _make_all(source, plan, partial, jobs, progress)
        failed = [entry for entry in entries if entry["gate"]["passed"] is False]
        if failed:
            raise GateFailed("; ".join(_failure(entry) for entry in failed) + ". Nothing was written.")
        recipe = {"jobs": [asdict(job) for job in plan]}
        finish(source, reference, partial, entries=entries, recipe=recipe, preset=preset, labels=labels)
        _replace(partial, out)
    return out


_SLOWEST = ("executorch-vulkan", "executorch-xnnpack", "executorch-coreml")


def _job(kind: Kind, name: str, target: Target, preset: str, skipped: set[str]) -> Job:
    rewrites = tuple(item for item in target.rewrites if item not in skipped)
    return Job(view=kind, target=name, preset=preset, rewrites=rewrites, file=kind + target.suffix)


def _fingerprint(model: Clip, plan: Sequence[Job]) -> str:
    """Tells whether half-finished work belongs to this very export."""
    import hashlib

    digest = hashlib.sha256(json.dumps([asdict(job) for job in plan] + [dict(tool_versions())]).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _partial_folder(out: Path, fingerprint: str) -> Iterator[Path]:
    partial = out.parent / f".{out.name}.partial"
    mark = partial / "fingerprint"
    try:
        if partial.exists() and (not mark.is_file() or mark.read_text() != fingerprint):
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        mark.write_text(fingerprint)
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error.strerror or error}): choose another folder.") from error
    try:
        yield partial
    except GateFailed:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _make_all(
    model: Clip, plan: Sequence[Job], partial: Path, jobs: int, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    done = {job: _finished(job, partial) for job in plan}
    missing = [job for job in plan if done[job] is None]
    if missing:
        fused = partial / "fused"
        if not fused.exists():
            save(model if is_fused(model) else fuse(model), fused)  # type: ignore[arg-type]
        if jobs <= 1 or len(missing) == 1:
            for job in missing:
                done[job] = make(job, partial)
                progress(_told(done[job]))
        else:
            context = multiprocessing.get_context("spawn")
            workers = min(jobs, len(missing))
            # workers are told to be quiet before they import any converter
            with ProcessPoolExecutor(workers, context, logging.disable, (logging.WARNING,)) as pool:
                futures = {pool.submit(make, job, partial): job for job in missing}
                for future in as_completed(futures):
                    done[futures[future]] = future.result()
                    progress(_told(future.result()))
    order = {name: index for index, name in enumerate(TARGETS)}
    return sorted((entry for entry in done.values() if entry), key=lambda e: (e["view"], order[e["target"]]))


def _finished(job: Job, partial: Path) -> dict[str, Any] | None:
    note = partial / f"{job.file}.json"
    if not note.is_file():
        return None
    entry: dict[str, Any] = json.loads(note.read_text())
    return entry if (partial / job.file).exists() else None


def make(job: Job, partial: Path) -> dict[str, Any]:
    """Make one artifact in `partial` and return its entry of the manifest."""
    with _quiet():
        return _make(job, partial)


def _make(job: Job, partial: Path) -> dict[str, Any]:
    target = TARGETS[job.target]
    view = _deployed_views(partial / "fused", job.preset)[job.view]
    changed = rewrite(view, job.rewrites)
    assert isinstance(changed, View)
    _check_rewrite(view, changed, job)
    path = partial / job.file
    shutil.rmtree(path, ignore_errors=True)
    module, function = target.lower.split(":")
    delegation = getattr(import_module(module), function)(changed, path, job.preset)
    parity, reason = _run(path, job, partial)
    entry = {
        "file": job.file,
        "sha256": manifest.sha256_of(path),
        "bytes": manifest.size_of(path),
        "view": job.view,
        "target": job.target,
        "precision": target.precision,
        "quantisation": None,
        "inputs": [_input(spec, job.target).as_dict() for spec in view.inputs],
        "outputs": [spec.as_dict() for spec in view.outputs],
        "rewrites": list(job.rewrites),
        "delegates": None if delegation is None else delegation.delegates,
        "loose": [] if delegation is None else loose_operators(delegation),
        "parity": parity,
        "gate": asdict(target.gate)
        | ({"passed": None, "reason": reason} if parity is None else _verdict(parity, target)),
    }
    (partial / f"{job.file}.json").write_text(json.dumps(entry))
    return entry


@cache
def _deployed_views(fused: Path, preset: str) -> dict[Kind, View]:
    return make_views(load(fused), preset)


def _check_rewrite(view: View, changed: View, job: Job) -> None:
    with torch.no_grad():
        before, after = view(view.example), changed(view.example)
    error = float((after - before).norm() / before.norm())
    if not error < REWRITE_TOLERANCE:
        names = ", ".join(job.rewrites)
        raise GateFailed(
            f"the rewrites {names} change the {job.view} view by {error:.1e} (at most {REWRITE_TOLERANCE})"
        )


def _run(path: Path, job: Job, partial: Path) -> tuple[dict[str, Any] | None, str]:
    """(parity on the known answer, "") or (None, why it cannot run here)."""
    answer = json.loads((partial / "known_answer" / f"{job.view}.json").read_text())
    feed, expected = (read_array(partial, answer[side]) for side in ("input", "output"))
    try:
        session = open_artifact(path, job.target)
    except NotHere as reason:
        return None, f"not run here: needs {reason}"
    found = compare(session.run([feed])[0], expected)
    return {"runtime": session.runtime, **found.as_dict()}, ""


def _verdict(parity: Mapping[str, Any], target: Target) -> dict[str, Any]:
    values = {name: parity[name] for name in ("db", "cosine", "max_error")}
    return {"passed": Parity(**values).passes(target.gate)}


def _input(spec: Any, target: str) -> Any:
    """An input as this target has it: Core ML packages take 8-bit pixels and 32-bit ids."""
    from dataclasses import replace

    if target != "coreml":
        return spec
    return replace(spec, dtype="image", scale=1.0) if spec.kind == "image" else replace(spec, dtype="int32")


def loose_operators(delegation: Delegation) -> list[dict[str, Any]]:
    """What stayed outside of the delegates: how often, why, and whether anything is computed there."""
    return [
        {
            "operator": name,
            "count": count,
            "compute": name not in _HARMLESS,
            "reason": _HARMLESS.get(name, "the delegate's partitioner did not take it"),
        }
        for name, count in delegation.loose.items()
    ]


def _told(entry: Mapping[str, Any] | None) -> str:
    assert entry is not None
    delegates = "" if entry["delegates"] is None else f", {entry['delegates']} delegate(s)"
    parity = entry["parity"]
    proof = entry["gate"]["reason"] if parity is None else f"{parity['db']:.1f} dB"
    return f"{entry['file']}: {entry['bytes'] / 1e6:.1f} MB{delegates}, {proof}"


def _failure(entry: Mapping[str, Any]) -> str:
    parity, gate = entry["parity"], entry["gate"]
    return (
        f"{entry['file']} does not agree with the model: {parity['db']:.1f} dB, cosine {parity['cosine']:.6f} "
        f"(gate {gate['db']} dB, {gate['cosine']})"
    )


def _replace(partial: Path, out: Path) -> None:
    old = out.parent / f".{out.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(partial, out)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Converters talk a lot; what matters of it is in the manifest."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
