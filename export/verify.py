"""Is an artifact right? Runs every artifact that can run here and compares it with the model it was made from.

For a bundle the reference is the checkpoint itself, in training form and in torch, on the same pixels and ids. For a
Core ML package from anywhere, `verify_package` compares it with another model file or with saved inputs and outputs:
on Linux, where Core ML does not run, through this project's interpreter (export/mil.py), which also tells whether
fp16 overflows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from export import mil
from export.bundle import read_array
from export.manifest import Bundle
from export.parity import Parity, compare
from export.runtimes import CoreMLSession, NotHere, Session, Slot, open_artifact
from export.targets import FP16, TARGETS, Gate, Kind
from export.views import View, card, make_views
from mobileclip.checkpoint import load
from mobileclip.config import ModelConfig, Preprocess
from mobileclip.errors import ArtifactError, BundleError, MobileClipError
from mobileclip.models import Clip
from mobileclip.preprocessing import load_images, preprocess, read_image
from mobileclip.tokenizer import CONTEXT, tokenize

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One artifact held against its reference on all inputs."""

    file: str
    target: str
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
    largest: float | None = None
    """Largest |x| inside a Core ML program over the inputs; fp16 holds up to 65,504."""
    overflows: tuple[str, ...] = ()
    """Operators of a Core ML program whose output left fp16's range."""
    passed: bool | None = None
    """None: not run here."""
    note: str = ""


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
    checkpoint: str | Path | Clip | None = None,
    limit: int = 32,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Compare every artifact of a bundle with the model that it was made from.

    Args:
        bundle: folder that `export` wrote.
        images: folder of photos; without it the image view is fed the known answer alone.
        text: file with one caption a line; without it the text view is fed the known answer alone.
        checkpoint: the model, when it is no longer where the manifest says.
        limit: at most so many photos and so many captions.

    Raises:
        BundleError: the bundle is incomplete or was changed, or its checkpoint is another one now.
    """
    opened = Bundle.open(bundle)
    about = opened.manifest["model"]["checkpoint"]
    views, reference = _reference(opened, checkpoint, needed=images is not None or text is not None)
    feeds = {kind: _known(opened, kind) for kind in opened.manifest["known_answer"]}
    if views is not None:
        feeds["image"] = feeds["image"] + _photos(opened, images, limit, views["image"])
        if "text" in views:
            feeds["text"] = feeds["text"] + _captions(opened, text, limit, views["text"])
    rows: list[Row] = []
    audits: dict[str, Sequence[mil.Row]] = {}
    for entry in opened.manifest["artifacts"]:
        row, audit = _verify_artifact(opened, entry, feeds[entry["view"]])
        rows.append(row)
        audits |= {entry["file"]: audit.table(20)} if audit else {}
        progress(f"{row.file}: " + (row.note if row.passed is None else f"{row.db:.1f} dB"))
    subject = f"{opened.path} ({opened.manifest['model']['name']}, {about['source']})"
    return Report(subject=subject, reference=reference, rows=tuple(rows), audit=audits)


Fed = tuple[list[Array], Array]
"""The inputs of one run and what the reference makes of them."""


def _reference(
    bundle: Bundle, checkpoint: str | Path | Clip | None, *, needed: bool
) -> tuple[dict[Kind, View] | None, str]:
    """Views of the checkpoint in training form; None where only the known answer can serve."""
    about = bundle.manifest["model"]["checkpoint"]
    source = checkpoint if checkpoint is not None else about["source"]
    try:
        model = source if isinstance(source, Clip) else load(source)
    except MobileClipError as error:
        if needed or checkpoint is not None:
            raise BundleError(
                f"the checkpoint of {bundle.path} is needed to judge other inputs than the known answer, and cannot be "
                f"read from '{source}' ({error}) Name it with --checkpoint."
            ) from error
        return None, "the known answer in the bundle"
    found = model.origin.sha256 if model.origin else None
    if about["sha256"] and found != about["sha256"]:
        raise BundleError(
            f"'{source}' is not the checkpoint that {bundle.path} was made from (its sha256 differs): "
            "name the right one with --checkpoint."
        )
    return make_views(model, bundle.manifest["preset"]), f"{source} in torch, in training form"


def _known(bundle: Bundle, kind: str) -> list[Fed]:
    answer = bundle.manifest["known_answer"][kind]
    for side in ("input", "output"):
        bundle.file(answer[side]["file"])
    return [([read_array(bundle.path, answer["input"])], read_array(bundle.path, answer["output"]))]


def _photos(bundle: Bundle, images: str | Path | None, limit: int, view: View) -> list[Fed]:
    if images is None:
        return []
    config = ModelConfig.from_dict(bundle.manifest["model"]["config"])
    # the view applies the model's statistics itself: it is fed 0..1
    transform = preprocess(replace(config.preprocess, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
    pixels = [transform(read_image(path)).unsqueeze(0) for path in load_images(images)[:limit]]
    return list(_answers(view, pixels))


def _captions(bundle: Bundle, text: str | Path | None, limit: int, view: View) -> list[Fed]:
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
    with torch.inference_mode():
        for x in inputs:
            yield [x.numpy()], view(x).numpy()


def _verify_artifact(bundle: Bundle, entry: Mapping[str, Any], feeds: Sequence[Fed]) -> tuple[Row, mil.Audit | None]:
    file, target = entry["file"], entry["target"]
    try:
        session = open_artifact(bundle.file(file), target)
    except NotHere as reason:
        note = f"not run here: needs {reason}"
        return Row(file=file, target=target, runtime="", inputs=0, note=note), None
    gate = TARGETS[target].gate if target in TARGETS else FP16
    return _judge(file, target, session, feeds, gate)


def _judge(file: str, target: str, session: Session, feeds: Sequence[Fed], gate: Gate) -> tuple[Row, mil.Audit | None]:
    audit = mil.Audit() if isinstance(session, CoreMLSession) else None
    if isinstance(session, CoreMLSession):
        session.audit = audit
    found: list[Parity] = []
    for x, expected in feeds:
        output = session.run(_fit(x, session))[0]
        if output.size != expected.size:
            raise ArtifactError(f"{file} gives {output.size} values where its reference gives {expected.size}.")
        found.append(compare(output, expected))
    overflows = tuple(audit.overflows) if audit else ()
    row = Row(
        file=file,
        target=target,
        runtime=session.runtime,
        inputs=len(found),
        db=min(item.db for item in found),
        db_mean=float(np.mean([item.db for item in found])),
        cosine=min(item.cosine for item in found),
        max_error=max(item.max_error for item in found),
        largest=audit.table(1)[0].largest if audit and audit.table(1) else None,
        overflows=overflows,
        passed=all(item.passes(gate) for item in found) and not overflows,
        note=f"gate {gate.db:g} dB, cosine {gate.cosine}",
    )
    return row, audit


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
        feeds = [(_fit(_arrays(Path(inputs), session.inputs), session), _arrays(Path(outputs))[0])]
        reference = str(outputs)
    else:
        other = _here(Path(against))
        given = [_arrays(Path(inputs), session.inputs)] if inputs else list(_examples(session, images, limit))
        feeds = [(_fit(x, session), other.run(_fit(x, other))[0]) for x in given]
        reference = f"{against} in {other.runtime}"
    row, audit = _judge(package.name, "any", session, feeds, gate)
    audits = {package.name: audit.table(20)} if audit else {}
    return Report(subject=str(package), reference=reference, rows=(row,), audit=audits)


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
        return card(shape[-1]).numpy()
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
