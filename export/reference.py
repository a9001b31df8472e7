"""What a bundle's artifacts are held against: views of its checkpoints in training form, and pictures that fit them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from export.manifest import Bundle
from export.subjects import MultitaskSubject, Subject, subject_of
from export.targets import Kind, Output
from export.views import View
from mobileclip.config import ModelConfig, Origin
from mobileclip.dense import host, host_detection
from mobileclip.dense.model import DenseModel
from mobileclip.errors import BundleError
from mobileclip.models import Clip
from mobileclip.preprocessing import preprocess

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


def pictures(bundle: Bundle, kind: Kind) -> Callable[[Image.Image], Tensor]:
    """What makes the input of a view, float32 [1, 3, H, W] in 0..1, of an upright picture of any size."""
    if kind == "image":
        config = ModelConfig.from_dict(bundle.manifest["model"]["config"])
        transform = preprocess(replace(config.preprocess, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
        return lambda image: transform(image).unsqueeze(0)
    about = bundle.manifest["dense"]["input"]
    size = (int(about["size"][0]), int(about["size"][1]))

    def fit(image: Image.Image) -> Tensor:
        pixels = fitted(np.asarray(image.convert("RGB")), size, about["resize"])
        return torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32) * np.float32(1 / 255))

    return fit


def fitted(image: Any, size: tuple[int, int], rule: str) -> Any:
    """RGB uint8 [H, W, 3] -> uint8 [*size, 3], stretched or letterboxed as the manifest says."""
    return host_detection.letterbox(image, size)[0] if rule == "letterbox" else host.stretch(image, size)


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
