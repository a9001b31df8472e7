"""What an artifact reached, as its entry of the manifest tells it: parity, gate, operators outside of delegates."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from export.bundle import answers_of, read_array, write_outputs
from export.gates import LIMITS, Runs, judge, measure, run
from export.parity import Parity, compare_outputs, worst
from export.pictures import held_apart, pictures
from export.runtimes import NotHere, Session, open_artifact
from export.subjects import TEMPLATE, ClipSubject, DenseSubject, kept_subject
from export.targets import LABELS, QUANTISED, TARGETS, Gate, Request, made_gate
from export.views import View
from mobileclip.evaluate.encoder import ModelEncoder

MOST_JUDGED = 512
"""Pictures of a set that an artifact is judged on."""


def judged(path: Path, target: str, partial: Path, view: View) -> dict[str, Any]:
    """`parity` on the known answer and `gate`, of an artifact in floats."""
    gate = TARGETS[target].gate
    answer = json.loads((partial / "known_answer" / f"{view.kind}.json").read_text())
    try:
        session = open_artifact(path, target)
    except NotHere as reason:
        return {"parity": None, "gate": _not_here(gate, reason)}
    parity, found = _parity(session, partial, answer, view)
    return {"parity": parity, "gate": asdict(gate) | {"passed": all(item.passes(gate) for item in found)}}


def judged_small(
    path: Path,
    target: str,
    request: Request,
    partial: Path,
    view: View,
    small: nn.Module,
    told: dict[str, Any],
    *,
    loose: Sequence[str],
    gate_set: str = "",
    times: tuple[float, float, float] | None = None,
) -> dict[str, Any]:
    """`parity` on the known answer and `gate`, of what is quantised; what it was judged by is added to `told`.

    It must be near its own eager module on the known answer (`made`), and near the view in floats in the terms of its
    users (`kept`), on held-out inputs and on a set where one is given. Where the artifact does not run here, its eager
    module is judged in its place and says so.

    Args:
        small: the eager module with the same integers.
        loose: operators that compute outside of the delegates.
        gate_set: a set with classes, captions or annotations, none of it in calibration.
        times: of the artifact over that in floats (`gates.slowdown`).
    """
    gate = QUANTISED[request]
    answer = json.loads((partial / "known_answer" / f"{view.kind}.json").read_text())
    specs = [spec.as_dict() for spec in view.outputs]
    own = run(small, view.example)
    told["known_answer"] = write_outputs(partial, path.name, own)
    session: Session | None = None
    reason = ""
    try:
        session = open_artifact(path, target)
    except NotHere as error:
        reason = str(error)
    subject: Runs = session or small
    held_out = held_apart(partial / "calibration" / f"{view.kind}.pt")[1] or [view.example]
    numbers = measure(subject, view, held_out, specs, texts=label_rows(partial, view))
    seen = len(held_out)
    if gate_set and view.kind != "text":
        more, seen_there = _on_set(subject, view, partial, gate_set)
        numbers, seen = numbers | more, seen + seen_there
    verdict = judge(numbers, LIMITS[request], pictures=seen, loose=loose, slower=times)
    told["kept"] = verdict.as_dict() | {"by": session.runtime if session else "the eager module with the same integers"}
    if session is None:
        return {"parity": None, "gate": _not_here(gate, reason) | ({} if verdict.passed else {"passed": False})}
    parity, _ = _parity(session, partial, answer, view)
    exact = made_gate(told, target, request)
    made = compare_outputs(session.run([view.example.numpy()]), own, specs)
    told["made"] = worst(made).as_dict() | {"passed": all(item.passes(exact) for item in made)}
    passed = bool(told["made"]["passed"] and verdict.passed)
    return {"parity": parity, "gate": asdict(gate) | {"passed": passed}}


def _parity(
    session: Session, partial: Path, answer: Mapping[str, Any], view: View
) -> tuple[dict[str, Any], list[Parity]]:
    feed, expected = read_array(partial, answer["input"]), answers_of(partial, answer)
    specs = [spec.as_dict() for spec in view.outputs]
    found = compare_outputs(session.run([feed]), expected, specs)
    parity: dict[str, Any] = {"runtime": session.runtime, **worst(found).as_dict()}
    if len(found) > 1:
        parity["outputs"] = {spec["name"]: item.as_dict() for spec, item in zip(specs, found, strict=True)}
    return parity, found


def _not_here(gate: Gate, reason: object) -> dict[str, Any]:
    return asdict(gate) | {"passed": None, "reason": f"not run here: needs {reason}"}


def label_rows(partial: Path, view: View) -> Any:
    """Embeddings of the sample apps' labels [T, E], where the model has words."""
    subject = kept_subject(partial / "subject")
    if not isinstance(subject, ClipSubject) or view.kind == "text" or subject.model.text is None:
        return None
    words = [TEMPLATE.format(label) for label in LABELS]
    return ModelEncoder(subject.model).encode_texts(words)


def _on_set(what: Runs, view: View, partial: Path, folder: str) -> tuple[dict[str, float], int]:
    from export.gate_sets import ViewEncoder, ViewPredictor, measure_dense, measure_set
    from mobileclip.dense.data.sets import open_set
    from mobileclip.dense.predictor import predictor

    subject = kept_subject(partial / "subject")
    if isinstance(subject, ClipSubject) and view.kind == "image":
        floats = ModelEncoder(subject.model)
        fit = pictures(subject.about(), "image")
        return measure_set(ViewEncoder(what, fit, floats), floats, folder, limit=MOST_JUDGED)
    if isinstance(subject, DenseSubject):
        model = subject.model
        outputs = [item.name for item in view.outputs]
        after = ViewPredictor(what, subject.about(), subject.words(()), outputs)
        truth = open_set(folder, model.config.task, max_depth=model.config.max_depth)
        return measure_dense(after, predictor(model, "fixed"), truth, limit=MOST_JUDGED)
    return {}, 0


def proof_of(entry: Mapping[str, Any]) -> str:
    """What an entry of the manifest proves, in few words: parity of floats, what users keep of what is quantised."""
    told, gate = entry["quantisation"], entry["gate"]
    if told is None:
        return gate["reason"] if entry["parity"] is None else figure(entry["parity"])
    numbers = {item["name"]: item["value"] for item in told["kept"]["numbers"]}
    shown = [f"{name.replace('_', ' ')} {numbers[name]:.4f}" for name in _SHOWN if name in numbers]
    made = f"{told['made']['db']:.1f} dB from its integers" if "made" in told else gate.get("reason", "")
    return ", ".join([*shown, made]) + ("" if gate["passed"] is not False else ", FAILED")


_SHOWN = ("cosine_mean", "miou_lost", "rmse_rise", "labels", "depth", "objects")


def figure(parity: Mapping[str, Any]) -> str:
    """The one figure that tells most: equal labels or objects in percent, else decibels."""
    return f"{parity['db']:.1f} dB" if parity.get("equal") is None else f"{100 * parity['equal']:.2f} % equal"


def failure(entry: Mapping[str, Any]) -> str:
    parity, gate = entry["parity"], entry["gate"]
    quantised = entry["quantisation"]
    if quantised is not None:
        return _failure_of_small(entry["file"], quantised)
    parts = parity.get("outputs", {})
    if parity.get("equal") is not None or parts:
        told = ", ".join(f"{name} {figure(item)}" for name, item in parts.items()) or figure(parity)
        wanted = f"gate {gate['db']} dB, {gate['cosine']}, {100 * gate['equal']:g} % equal"
        return f"{entry['file']} does not agree with the model: {told} ({wanted})"
    return (
        f"{entry['file']} does not agree with the model: {parity['db']:.1f} dB, cosine {parity['cosine']:.6f} "
        f"(gate {gate['db']} dB, {gate['cosine']})"
    )


def _failure_of_small(file: str, told: Mapping[str, Any]) -> str:
    if not told.get("made", {"passed": True})["passed"]:
        return f"{file} is not what was quantised: {told['made']['db']:.1f} dB from the same integers in torch"
    return f"{file} does not keep what its users need: " + " ".join(told["kept"]["failures"]).rstrip(".")
