"""Is an artifact right? Runs every artifact that can run here and compares it with the model it was made from.

For a bundle the reference is the checkpoint itself, in training form and in torch, on the same pixels and ids. For a
Core ML package from anywhere, `verify_package` compares it with another model file or with saved inputs and outputs:
on Linux, where Core ML does not run, through this project's interpreter (export/mil.py), which also tells whether
fp16 overflows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from export import mil
from export.bundle import answers_of, read_array
from export.manifest import Bundle
from export.parity import Parity, compare_outputs, mean
from export.pictures import pictures
from export.reference import Source, reference_views
from export.runtimes import CoreMLSession, NotHere, Session, Slot, open_artifact
from export.targets import FP16, QUANTISED, TARGETS, Gate, Kind, made_gate
from export.views import View, card
from mobileclip.config import Preprocess
from mobileclip.errors import ArtifactError, BundleError, MobileClipError
from mobileclip.images import load_images, read_image
from mobileclip.preprocessing import preprocess
from mobileclip.tokenizer import CONTEXT, tokenize

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One output of an artifact held against its reference on all inputs."""

    file: str
    target: str
    output: str
    """Name of the output; empty where the artifact has one alone."""
    runtime: str
    """What ran it; empty where nothing here can."""
    inputs: int
    """How many inputs were compared."""
    db: float | None = None
    """Lowest over the inputs, in dB."""
    db_mean: float | None = None
    cosine: float | None = None
    """Lowest over the inputs."""
    max_error: float | None = None
    """Largest |difference| over the inputs."""
    equal: float | None = None
    """Lowest share of equal labels over the inputs; None where the output is no labels."""
    found: float | None = None
    """Lowest share of objects found again over the inputs; None where the output is no objects."""
    largest: float | None = None
    """Largest |x| inside a Core ML program over the inputs; fp16 holds up to 65,504."""
    overflows: tuple[str, ...] = ()
    """Operators of a Core ML program whose output left fp16's range."""
    passed: bool | None = None
    """None: not run here."""
    note: str = ""
    against: str = ""
    """What it was held against, of what is quantised: its own integers in torch, or the model in floats."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `verify` found."""

    subject: str
    reference: str
    rows: tuple[Row, ...]
    audit: Mapping[str, Sequence[mil.Row]] = field(default_factory=dict)
    """Core ML artifact -> its operators by largest |x|."""

    @property
    def passed(self) -> bool:
        """No artifact that ran has failed its gate, and at least one ran."""
        verdicts = [row.passed for row in self.rows]
        return False not in verdicts and True in verdicts

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        rows = [asdict(row) for row in self.rows]
        return {"subject": self.subject, "reference": self.reference, "passed": self.passed, "artifacts": rows}


def verify(
    bundle: str | Path,
    *,
    images: str | Path | None = None,
    text: str | Path | None = None,
    checkpoint: Source | None = None,
    heads: Sequence[Source] | None = None,
    limit: int = 32,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Compare every artifact of a bundle with the model that it was made from.

    Args:
        bundle: folder that `export` wrote.
        images: folder of photos; without it the views of pictures are fed the known answer alone.
        text: file with one caption a line; without it the text view is fed the known answer alone.
        checkpoint: the model, when it is no longer where the manifest says.
        heads: the heads of a multi-task bundle, likewise.
        limit: at most so many photos and so many captions.

    Raises:
        BundleError: the bundle is incomplete or was changed, or its checkpoint is another one now.
    """
    opened = Bundle.open(bundle)
    about = opened.manifest["model"]["checkpoint"]
    views, reference = _reference(opened, checkpoint, heads, needed=images is not None or text is not None)
    feeds: dict[str, list[Fed]] = {kind: _known(opened, kind) for kind in opened.manifest["known_answer"]}
    for kind, view in (views or {}).items():
        more = _captions(text, limit, view) if kind == "text" else _photos(opened, kind, images, limit, view)
        feeds[kind] = feeds[kind] + more
    rows: list[Row] = []
    audits: dict[str, Sequence[mil.Row]] = {}
    for entry in opened.manifest["artifacts"]:
        found, audit = _verify_artifact(opened, entry, feeds[entry["view"]])
        rows += found
        audits |= {entry["file"]: audit.table(20)} if audit else {}
        for row in found:
            progress(f"{row.file} {row.output}".rstrip() + ": " + (row.note if row.passed is None else figure(row)))
    subject = f"{opened.path} ({opened.manifest['model']['name']}, {about['source']})"
    return Report(subject=subject, reference=reference, rows=tuple(rows), audit=audits)


Fed = tuple[list[Array], list[Array]]
"""The inputs of one run and what the reference makes of them."""


def figure(row: Row) -> str:
    """The one figure of a row that tells most."""
    if row.equal is not None:
        return f"{100 * row.equal:.2f} % equal"
    return f"{row.db:.1f} dB" + ("" if row.found is None else f", {100 * row.found:.0f} % found")


def _reference(
    bundle: Bundle, checkpoint: Source | None, heads: Sequence[Source] | None, *, needed: bool
) -> tuple[dict[Kind, View] | None, str]:
    """Views of the checkpoint; None where only the known answer can serve."""
    source = checkpoint if checkpoint is not None else bundle.manifest["model"]["checkpoint"]["source"]
    try:
        return reference_views(bundle, source, heads), f"{source} in torch, in training form"
    except BundleError:
        raise
    except MobileClipError as error:
        if needed or checkpoint is not None:
            raise BundleError(
                f"the checkpoint of {bundle.path} is needed to judge other inputs than the known answer, and cannot be "
                f"read from '{source}' ({error}) Name it with --checkpoint."
            ) from error
        return None, "the known answer in the bundle"


def _known(bundle: Bundle, kind: str) -> list[Fed]:
    answer = bundle.manifest["known_answer"][kind]
    for item in (answer["input"], answer["output"], *answer.get("others", ())):
        bundle.file(item["file"])
    return [([read_array(bundle.path, answer["input"])], answers_of(bundle.path, answer))]


def _photos(bundle: Bundle, kind: Kind, images: str | Path | None, limit: int, view: View) -> list[Fed]:
    """The view applies the model's statistics itself: it is fed 0..1."""
    if images is None:
        return []
    fit = pictures(bundle.manifest, kind)
    return list(_answers(view, [fit(read_image(path)) for path in load_images(images)[:limit]]))


def _captions(text: str | Path | None, limit: int, view: View) -> list[Fed]:
    if text is None:
        return []
    try:
        lines = [line.strip() for line in Path(text).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise MobileClipError(f"{text} cannot be read as UTF-8 text with one caption a line ({error}).") from error
    captions = [line for line in lines if line][:limit]
    if not captions:
        raise MobileClipError(f"{text} holds no caption: put one a line.")
    return list(_answers(view, [tokenize([line]).to(view.example.dtype) for line in captions]))


def _answers(view: View, inputs: Sequence[torch.Tensor]) -> Iterator[Fed]:
    for x in inputs:
        yield [x.numpy()], view.answer(x)


Judged = tuple[list[Row], mil.Audit | None]


def _verify_artifact(bundle: Bundle, entry: Mapping[str, Any], feeds: Sequence[Fed]) -> Judged:
    file, target = entry["file"], entry["target"]
    try:
        session = open_artifact(bundle.file(file), target)
    except NotHere as reason:
        note = f"not run here: needs {reason}"
        return [Row(file=file, target=target, output="", runtime="", inputs=0, note=note)], None
    if entry["quantisation"] is None:
        gate = TARGETS[target].gate if target in TARGETS else FP16
        return _judge(file, target, session, feeds, gate, entry["outputs"])
    own = entry["quantisation"]["known_answer"]
    for item in (own["output"], *own.get("others", ())):
        bundle.file(item["file"])
    known = [(feeds[0][0], answers_of(bundle.path, own))]
    gate = made_gate(entry["quantisation"], target, entry["precision"])
    exact, audit = _judge(file, target, session, known, gate, entry["outputs"], against="the same integers in torch")
    if len(feeds) == 1:  # the drawn picture of the known answer says little of photos
        return exact, audit
    gate = QUANTISED[entry["precision"]]
    kept, _ = _judge(
        file, target, session, feeds[1:], gate, entry["outputs"], against="the model in floats", means=True
    )
    return [*exact, *kept], audit


def _judge(
    file: str,
    target: str,
    session: Session,
    feeds: Sequence[Fed],
    gate: Gate,
    specs: Sequence[Mapping[str, Any]],
    *,
    against: str = "",
    means: bool = False,
) -> Judged:
    """A row for each output. `means`: the gate is held against the means over the inputs, not against each."""
    audit = mil.Audit() if isinstance(session, CoreMLSession) else None
    if isinstance(session, CoreMLSession):
        session.audit = audit
    found: list[list[Parity]] = []
    for x, expected in feeds:
        outputs = session.run(_fit(x, session))
        for output, wanted in zip(outputs, expected, strict=False):
            if output.size != wanted.size:
                raise ArtifactError(f"{file} gives {output.size} values where its reference gives {wanted.size}.")
        if len(outputs) < len(specs):
            raise ArtifactError(f"{file} gives {len(outputs)} outputs where its manifest says {len(specs)}.")
        found.append(compare_outputs(outputs, expected, specs))
    overflows = tuple(audit.overflows) if audit and isinstance(session, CoreMLSession) and session.fp16 else ()
    table = audit.table(1) if audit else []
    rows = []
    for spec, items in zip(specs, zip(*found, strict=True), strict=True):
        shares = [item.equal for item in items if item.equal is not None]
        kept = [item.found for item in items if item.found is not None]
        row = Row(
            file=file,
            target=target,
            output=spec["name"] if len(specs) > 1 else "",
            runtime=session.runtime,
            inputs=len(items),
            db=min(item.db for item in items),
            db_mean=float(np.mean([item.db for item in items])),
            cosine=min(item.cosine for item in items),
            max_error=max(item.max_error for item in items),
            equal=min(shares) if shares else None,
            found=min(kept) if kept else None,
            largest=table[0].largest if table else None,
            overflows=overflows,
            passed=all(item.passes(gate) for item in ([mean(items)] if means else items)) and not overflows,
            note=("means, " if means else "") + _told(gate, equal=bool(shares), found=bool(kept)),
            against=against,
        )
        rows.append(row)
    return rows, audit


def _told(gate: Gate, *, equal: bool, found: bool) -> str:
    if equal:
        return f"gate {100 * gate.equal:g} % equal"
    return f"gate {gate.db:g} dB, cosine {gate.cosine}" + (f", {100 * gate.found:g} % found" if found else "")


def verify_package(
    package: str | Path,
    *,
    against: str | Path | None = None,
    inputs: str | Path | None = None,
    outputs: str | Path | None = None,
    images: str | Path | None = None,
    limit: int = 8,
    gate: Gate = FP16,
) -> Report:
    """Compare any model file that runs here (a Core ML package above all) with another one, or with saved arrays.

    Args:
        package: .mlpackage, .onnx or .pte.
        against: another such file, fed the same values in the same order of inputs.
        inputs: .npz of named inputs (or one .npy); without it, seeded noise (and `images`, for a picture input).
        outputs: .npz or .npy of what `package` should give for `inputs`.
        images: photos for the first input, when it is a picture.

    Raises:
        ArtifactError: a file cannot be run, or inputs do not fit.
        MobileClipError: neither `against` nor `outputs` is given.
    """
    package = Path(package)
    if (against is None) == (outputs is None):
        raise MobileClipError(
            f"nothing to compare {package.name} with: give either --against MODEL, or --inputs and --outputs."
        )
    session = _here(package)
    if against is None:
        if inputs is None:
            raise MobileClipError("--outputs needs the --inputs that they belong to.")
        assert outputs is not None
        feeds = [(_fit(_arrays(Path(inputs), session.inputs), session), _arrays(Path(outputs)))]
        reference = str(outputs)
    else:
        other = _here(Path(against))
        given = [_arrays(Path(inputs), session.inputs)] if inputs else list(_examples(session, images, limit))
        feeds = [(_fit(x, session), other.run(_fit(x, other))) for x in given]
        reference = f"{against} in {other.runtime}"
    specs = [_compared(index, item) for index, item in enumerate(feeds[0][1])]
    rows, audit = _judge(package.name, "any", session, feeds, gate, specs)
    audits = {package.name: audit.table(20)} if audit else {}
    return Report(subject=str(package), reference=reference, rows=tuple(rows), audit=audits)


def _compared(index: int, expected: Array) -> dict[str, Any]:
    """How an output that no manifest describes is judged: integers by their equal share."""
    return {"name": f"output {index}", "compare": "equal" if expected.dtype.kind in "iu" else None}


def _here(path: Path) -> Session:
    try:
        return open_artifact(path)
    except NotHere as reason:
        raise ArtifactError(f"{path.name} cannot run here: it needs {reason}.") from reason


def _arrays(path: Path, slots: Sequence[Slot] = ()) -> list[Array]:
    """Arrays of an .npy (one) or .npz (by the names of `slots` where they fit, else in the file's order)."""
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise MobileClipError(f"{path} cannot be read: give a .npy, or a .npz of arrays without objects.") from error
    if isinstance(loaded, np.ndarray):
        return [loaded]
    with loaded:
        names = [slot.name for slot in slots]
        order = names if names and set(names) <= set(loaded.files) else loaded.files
        try:
            return [loaded[name] for name in order]
        except (ValueError, OSError) as error:
            raise MobileClipError(f"{path} holds objects or is cut short: save plain arrays with np.savez.") from error


def _examples(session: Session, images: str | Path | None, limit: int) -> Iterator[list[Array]]:
    """Inputs for a session that nobody gave inputs for: photos where it takes a picture, else seeded values."""
    generator = np.random.default_rng(0)
    if images is not None:
        for path in load_images(images)[:limit]:
            pixels = preprocess(Preprocess(size=session.inputs[0].shape[-1]))(read_image(path)).unsqueeze(0).numpy()
            yield [pixels, *(_noise(slot, generator) for slot in session.inputs[1:])]
        return
    yield [_noise(slot, generator) for slot in session.inputs]


def _noise(slot: Slot, generator: np.random.Generator) -> Array:
    shape = tuple(max(size, 1) for size in slot.shape)
    if slot.picture:
        return card(*shape[-2:]).numpy()
    if slot.dtype.startswith("int"):
        if shape[-1] == CONTEXT:
            return np.broadcast_to(tokenize(["a photo of a cat"]).numpy(), shape).astype(slot.dtype)
        return np.zeros(shape, slot.dtype)
    return generator.uniform(0, 1, shape).astype(np.float32)


def _fit(values: Sequence[Array], session: Session) -> list[Array]:
    """The values in the types that a session takes; shapes must fit."""
    if len(values) != len(session.inputs):
        names = ", ".join(slot.name for slot in session.inputs)
        raise ArtifactError(f"{len(values)} inputs were given, the model takes {len(session.inputs)}: {names}.")
    fitted = []
    for slot, value in zip(session.inputs, values, strict=True):
        right = len(slot.shape) == value.ndim and all(
            want in (-1, have) for want, have in zip(slot.shape, value.shape, strict=True)
        )
        if not right and not (slot.picture and value.dtype == np.uint8):
            raise ArtifactError(f"input '{slot.name}' takes {list(slot.shape)}, {list(value.shape)} was given.")
        fitted.append(value if slot.picture else value.astype(slot.dtype))
    return fitted
