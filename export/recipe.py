"""`export(model, targets, out)`: a checkpoint becomes a bundle of artifacts, each compared with the model it was made
from. What can be exported is in subjects.py.

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
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export import manifest
from export.bundle import finish, write_known_answers
from export.gates import slowdown
from export.parity import compare_outputs
from export.pictures import LEAST, Calibration, held_apart, pictures, write_inputs
from export.quantise import quantised
from export.rewrites import REWRITES, rewrite
from export.runtimes import NotHere, open_artifact, tool_versions
from export.subjects import Size, Subject, restored, subject_of
from export.targets import (
    FP32,
    LABELS,
    TARGETS,
    Kind,
    Request,
    Target,
    output_of,
    precision_of,
    quantised_of,
    targets_of,
)
from export.to_executorch import OUTSIDE, Delegation, loose_operators
from export.views import View
from mobileclip.dense.model import DenseModel
from mobileclip.errors import GateFailed, MobileClipError, OutputError, UnknownName
from mobileclip.models import Clip

REWRITE_TOLERANCE = 1e-5
"""Largest relative error of a rewritten view against the view, in float32."""
RUNS = 20
"""Rounds of four runs that times are taken of."""
LABELS_TOLERANCE = 1e-3
"""Largest share of labels that a rewrite may change; near-ties fall either way."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One artifact to make."""

    view: Kind
    target: str
    preset: str
    rewrites: tuple[str, ...]
    file: str
    precision: Request | None = None
    """None: the floats of the target."""
    gate_set: str = ""
    """Set that what is quantised is judged on."""
    timed: bool = False
    """Whether it may not be slower than floats."""


def export(
    model: Clip | DenseModel | str | Path,
    targets: Iterable[str],
    out: str | Path,
    *,
    preset: str = "apple",
    without_rewrites: Iterable[str] = (),
    labels: Sequence[str] = LABELS,
    output: str = "argmax_quarter",
    size: Size | None = None,
    heads: Sequence[DenseModel | str | Path] = (),
    views: Sequence[Kind] | None = None,
    precision: str | None = None,
    calibration: str | Path | None = None,
    gate: str | Path | None = None,
    timed: bool = False,
    accept: bool = False,
    jobs: int = 1,
    force: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write a bundle and return its path.

    Args:
        model: a model, or what `mobileclip.load` or `mobileclip.dense.load` takes.
        targets: keys of `TARGETS`.
        out: folder of the bundle; must not exist without `force`.
        preset: key of `PRESETS`.
        without_rewrites: names in `REWRITES` to leave out, to see what they are good for.
        labels: for `labels.json` of a CLIP; a dense model brings its own.
        output: of segmentation, one of `OUTPUTS`.
        size: rows and columns of a dense model's picture; its own where left out.
        heads: dense models that were trained on the frozen encoder of `model`: one pass answers for all (`multitask`).
        views: of a CLIP: `image`, `text`, `dense`; both towers where left out.
        precision: one of `REQUESTS` that all targets can hold; the floats of each where left out. Views of texts have
            no pictures to set ranges with: `_of_text` says what they have then.
        calibration: pictures that set the ranges of activations and, a quarter of them held out, judge what comes out;
            w8a8, mixed and auto need them, for other precisions they make the weights better.
        gate: set with classes, captions or annotations, none of it in calibration, that what is quantised is judged on.
        timed: what is quantised may not be slower than floats on this machine.
        accept: write artifacts that miss their gates as well; the manifest says which.
        jobs: processes that lower at the same time; each holds the model once.
        progress: called with a line whenever something was made.

    Raises:
        UnknownName: no such target, preset, output, rewrite or precision.
        OutputError: `out` exists or cannot be written.
        MobileClipError: a size, head or view that the model does not have, a precision that a target cannot hold, or
            pictures that cannot calibrate.
        GateFailed: an artifact disagrees with its model; nothing is written.
    """
    chosen_targets = targets_of(targets)
    request = None if precision is None else quantised_of(chosen_targets, precision)
    pictured = calibrated(request, calibration)
    if pictured is not None and gate is not None:
        _apart_from(pictured, Path(gate))
    form = output_of(output)
    skipped = set(without_rewrites)
    for name in skipped - set(REWRITES):
        raise UnknownName("rewrite", name, REWRITES)
    out = Path(out)
    if out.exists() and not force:
        raise OutputError(f"{out} exists already: choose another folder, or pass --force to replace it.")
    subject = subject_of(model, preset=preset, output=form, size=size, heads=heads, views=views)
    reference = subject.views()
    plan = [
        replace(_job(kind, name, target, preset, skipped, request), gate_set=str(gate or ""), timed=timed)
        for kind in reference
        for name, target in chosen_targets.items()
    ]
    plan.sort(key=lambda job: list(_SLOWEST).index(job.target) if job.target in _SLOWEST else len(_SLOWEST))
    ranges = {} if pictured is None else _ranges(pictured, subject, reference)
    with _partial_folder(out, _fingerprint(subject, reference, plan, pictured)) as partial:
        write_known_answers(reference, partial)
        for kind, inputs in ranges.items():
            write_inputs(inputs, _calibration_file(partial, kind))
        entries = _make_all(subject, plan, partial, jobs, progress)
        failed = [entry for entry in entries if entry["gate"]["passed"] is False]
        if failed and not accept:
            from export.judged import failure

            advice = "" if request is None else " Choose another precision, or --accept to write them all the same."
            raise GateFailed("; ".join(failure(entry) for entry in failed) + ". Nothing was written." + advice)
        recipe: dict[str, Any] = {"jobs": [asdict(job) for job in plan]}
        if pictured is not None:
            recipe["calibration"] = {"pictures": len(pictured.images), "sha256": pictured.digest()}
        finish(subject, reference, partial, entries=entries, recipe=recipe, preset=preset, labels=labels)
        _replace(partial, out)
    return out


_SLOWEST = ("executorch-vulkan", "executorch-xnnpack", "executorch-coreml")


def calibrated(request: Request | None, folder: str | Path | None) -> Calibration | None:
    """The pictures for a precision; None where there are none and it needs none.

    Raises:
        MobileClipError: they are missing, too few, or not needed.
    """
    if folder is not None and request is None:
        raise MobileClipError("--calibration is for what is quantised, and floats need no pictures: leave it out.")
    if folder is None and request in ("w8a8", "mixed", "auto"):
        raise MobileClipError(
            f"{request} needs pictures that set the ranges of activations and judge what comes out: give --calibration "
            "FOLDER."
        )
    found = None if folder is None else Calibration.of(folder)
    if found is not None and request == "auto" and len(found.images) < 2 * LEAST:
        raise MobileClipError(
            f"{folder} holds {len(found.images)} pictures: auto holds a quarter of them out to search on, and needs "
            f"{2 * LEAST} or more. Give more, or choose another precision."
        )
    return found


def _apart_from(pictured: Calibration, gate: Path) -> None:
    """Calibration may not touch what is evaluated."""
    judged_on = gate / "val" if (gate / "val").is_dir() else gate
    if shared := pictured.shared(judged_on):
        raise MobileClipError(
            f"{len(shared)} picture(s) of the calibration are in {judged_on} too, {shared[0]} first: a gate needs "
            "pictures that set no ranges. Give others to one of the two."
        )


def _ranges(found: Calibration, subject: Subject, views: Mapping[Kind, View]) -> dict[Kind, list[Tensor]]:
    """Inputs of each view of pictures."""
    seen = [kind for kind, view in views.items() if view.inputs[0].kind == "image"]
    return {kind: found.inputs(pictures(subject.about(), kind)) for kind in seen}


def _calibration_file(partial: Path, kind: Kind) -> Path:
    return partial / "calibration" / f"{kind}.pt"


def _job(kind: Kind, name: str, target: Target, preset: str, skipped: set[str], request: Request | None) -> Job:
    rewrites = tuple(item for item in target.rewrites if item not in skipped)
    held = _of_text(target, request) if kind == "text" else request
    return Job(view=kind, target=name, preset=preset, rewrites=rewrites, file=kind + target.suffix, precision=held)


def _of_text(target: Target, request: Request | None) -> Request | None:
    """What a view of texts has where the others have `request`: pictures set no ranges for it, so Core ML has weights
    of 8 bits alone, and other runtimes quantise activations as they come."""
    if request in ("w8a8", "mixed", "auto"):
        return "w8" if "w8" in target.quantised else "w8a8"
    return request


def _fingerprint(
    subject: Subject, views: Mapping[Kind, View], plan: Sequence[Job], calibration: Calibration | None
) -> str:
    """Tells whether half-finished work belongs to this very export."""
    import hashlib

    specs = [spec.as_dict() for view in views.values() for spec in view.inputs]
    specs += [spec.as_dict() for view in views.values() for spec in view.outputs]
    digest = hashlib.sha256(json.dumps([[asdict(job) for job in plan], specs, dict(tool_versions())]).encode())
    if calibration is not None:
        digest.update(calibration.digest().encode())
    for name, value in subject.tensors():
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
    subject: Subject, plan: Sequence[Job], partial: Path, jobs: int, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    done = {job: _finished(job, partial) for job in plan}
    missing = [job for job in plan if done[job] is None]
    if missing:
        kept = partial / "subject"
        if not (kept / "subject.json").exists():
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir()
            subject.keep(kept)
        if jobs <= 1 or len(missing) == 1:
            _deployed_views.cache_clear()  # another export may have worked in a folder of this name
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
    from export.judged import judged

    target = TARGETS[job.target]
    view = _deployed_views(partial / "subject")[job.view]
    changed = rewrite(view, job.rewrites)
    assert isinstance(changed, View)
    _check_rewrite(view, changed, job)
    path = partial / job.file
    shutil.rmtree(path, ignore_errors=True)
    module, function = target.lower.split(":")
    lower = getattr(import_module(module), function)
    if job.precision is None:
        delegation, told = lower(changed, path, job.preset, None), None
        found = judged(path, job.target, partial, view)
    else:
        delegation, told, found = _make_small(view, changed, job, partial, lower)
    entry = {
        "file": job.file,
        "sha256": manifest.sha256_of(path),
        "bytes": manifest.size_of(path),
        "view": job.view,
        "target": job.target,
        "precision": job.precision or precision_of(job.target, view.wide),
        "quantisation": told,
        "inputs": [_input(spec, job.target).as_dict() for spec in view.inputs],
        "outputs": [spec.as_dict() for spec in view.outputs],
        "rewrites": list(job.rewrites),
        "delegates": None if delegation is None else delegation.delegates,
        "loose": [] if delegation is None else loose_operators(delegation),
        **found,
    }
    (partial / f"{job.file}.json").write_text(json.dumps(entry))
    return entry


def _make_small(
    view: View, changed: View, job: Job, partial: Path, lower: Callable[..., Any]
) -> tuple[Delegation | None, dict[str, Any], dict[str, Any]]:
    """(how it was divided, what the manifest tells of the choice, what it reached) of a quantised artifact; a search
    that misses the gate is made once more with less error."""
    from export.assign import SHARES, chosen
    from export.judged import judged_small, label_rows

    assert job.precision is not None
    inputs, held_out = held_apart(_calibration_file(partial, job.view))
    path = partial / job.file
    texts = label_rows(partial, view) if job.precision == "auto" else None
    for share in SHARES if job.precision == "auto" and held_out else SHARES[:1]:
        quantisation, blocks = chosen(changed, job.target, job.precision, inputs, held_out, texts, share)
        told: dict[str, Any] = {"calibration": len(inputs), "held_out": len(held_out), **blocks}
        small = quantised(changed, quantisation)
        shutil.rmtree(path, ignore_errors=True)
        delegation: Delegation | None = lower(changed, path, job.preset, small)
        loose = [] if delegation is None else loose_operators(delegation)
        found = judged_small(
            path,
            job.target,
            job.precision,
            partial,
            view,
            small,
            told,
            loose=[item["operator"] for item in loose if item["compute"] and item["operator"] not in OUTSIDE],
            gate_set=job.gate_set,
            times=_times(path, changed, job, lower) if job.timed else None,
        )
        if found["gate"]["passed"] is not False:
            break
    return delegation, told, found


def _times(path: Path, view: View, job: Job, lower: Callable[..., Any]) -> tuple[float, float, float] | None:
    """The artifact's time over that in floats, in turns in one run; None where neither runs here."""
    if job.target == "coreml":
        return None  # the interpreter's time says nothing of Core ML's
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        floats = Path(folder) / path.name
        lower(view, floats, job.preset, None)
        try:
            sessions = [open_artifact(item, job.target) for item in (path, floats)]
        except NotHere:
            return None
        taken: tuple[list[float], list[float]] = ([], [])
        feed = view.example.numpy()
        for turn in range(RUNS + 2):
            for which in (0, 1, 1, 0):
                start = time.perf_counter()
                sessions[which].run([feed])
                if turn > 1:
                    taken[which].append(1e3 * (time.perf_counter() - start))
    return slowdown(*taken)


@cache
def _deployed_views(folder: Path) -> dict[Kind, View]:
    return restored(folder)


def _check_rewrite(view: View, changed: View, job: Job) -> None:
    """Floats stay within the tolerance, what is discrete stays."""
    specs = [spec.as_dict() for spec in view.outputs]
    found = compare_outputs(changed.answer(view.example), view.answer(view.example), specs)
    for spec, item in zip(specs, found, strict=True):
        error = 1 - item.equal if item.equal is not None else 10 ** (-item.db / 20)
        tolerance = REWRITE_TOLERANCE if item.equal is None else LABELS_TOLERANCE
        if not error < tolerance or not (item.found is None or item.found >= FP32.found):
            names = ", ".join(job.rewrites)
            raise GateFailed(
                f"the rewrites {names} change {spec['name']} of the {job.view} view by {error:.1e} (at most "
                f"{tolerance})"
            )


def _input(spec: Any, target: str) -> Any:
    """An input as this target has it: Core ML packages take 8-bit pixels and 32-bit ids."""
    from dataclasses import replace

    if target != "coreml":
        return spec
    return replace(spec, dtype="image", scale=1.0) if spec.kind == "image" else replace(spec, dtype="int32")


def _told(entry: Mapping[str, Any] | None) -> str:
    from export.judged import proof_of

    assert entry is not None
    delegates = "" if entry["delegates"] is None else f", {entry['delegates']} delegate(s)"
    return f"{entry['file']}: {entry['bytes'] / 1e6:.1f} MB{delegates}, {proof_of(entry)}"


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
