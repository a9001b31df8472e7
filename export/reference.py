"""What a bundle's artifacts are held against: views of its checkpoints, loaded again in training form."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from export.manifest import Bundle
from export.subjects import MultitaskSubject, Subject, subject_of
from export.targets import Kind, Output
from export.views import View
from mobileclip.config import Origin
from mobileclip.dense.model import DenseModel
from mobileclip.errors import BundleError
from mobileclip.models import Clip

Source = str | Path | Clip | DenseModel
"""A model, or where one is."""


def reference_views(bundle: Bundle, source: Source, heads: Sequence[Source] | None = None) -> dict[Kind, View]:
    """Views of what the bundle was exported from, loaded again.

    Args:
        heads: those of a multi-task bundle, where they are no longer where the manifest says.

    Raises:
        BundleError: a checkpoint is another one now.
        MobileClipError: a checkpoint cannot be read.
    """
    return reference_subject(bundle, source, heads).views()


def reference_subject(bundle: Bundle, source: Source, heads: Sequence[Source] | None = None) -> Subject:
    """As `reference_views`, before views are made."""
    manifest = bundle.manifest
    kinds: list[Kind] = list(manifest["known_answer"])
    dense: Mapping[str, Any] = manifest.get("dense", {})
    told = dense.get("heads", []) if "multitask" in kinds else []
    size = dense["input"]["size"] if dense else None
    clip_views = [kind for kind in kinds if kind in ("image", "text", "dense")]
    subject = subject_of(
        source,
        preset=manifest["preset"],
        output=_output(bundle),
        size=None if size is None else (size[0], size[1]),
        heads=[head["checkpoint"]["source"] for head in told] if heads is None else heads,
        views=clip_views if told else clip_views or None,
    )
    _require_same(bundle, subject.origin, manifest["model"]["checkpoint"], source)
    if isinstance(subject, MultitaskSubject):
        for head, about in zip(subject.heads, told, strict=True):
            _require_same(bundle, head.origin, about["checkpoint"], about["checkpoint"]["source"])
    return subject


def _output(bundle: Bundle) -> Output:
    """What a segmentation of the bundle gives, found in the shapes of its artifacts."""
    for entry in bundle.manifest["artifacts"]:
        sides = entry["inputs"][0]["shape"][2:]
        for output in entry["outputs"]:
            if output["name"] == "logits":
                return "logits_full" if output["shape"][2:] == sides else "logits_quarter"
    return "argmax_quarter"


def _require_same(bundle: Bundle, origin: Origin | None, told: Mapping[str, Any], source: Any) -> None:
    found = origin.sha256 if origin else None
    if told["sha256"] and found != told["sha256"]:
        raise BundleError(
            f"'{source}' is not the checkpoint that {bundle.path} was made from (its sha256 differs): "
            "name the right one with --checkpoint."
        )
