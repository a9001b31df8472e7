"""What can be exported: a CLIP (its two towers, its dense twin), a dense model, or a CLIP with heads in one pass.

A subject knows its views in training form, how workers get the deployed ones (`keep` writes weights into the working
folder, `restored` reads them there), and what a manifest says about it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

import mobileclip
from export import dense_views
from export.targets import Kind, Output
from export.views import View, make_views
from mobileclip.config import Origin
from mobileclip.dense import checkpoint as dense_checkpoint
from mobileclip.dense import host_detection
from mobileclip.dense.colours import palette
from mobileclip.dense.model import DenseModel, build
from mobileclip.errors import MobileClipError
from mobileclip.fuse import fuse, is_fused
from mobileclip.models import Clip
from mobileclip.tokenizer import END, PAD, START, tokenizer_hash

CLIP_VIEWS: tuple[Kind, ...] = ("image", "text")
"""Views of a CLIP that are exported unless others are asked for."""
TEMPLATE = "a photo of a {}"
"""What a label is put into before it is tokenised."""
Size = tuple[int, int]


class Subject(Protocol):
    """A thing that is exported."""

    @property
    def origin(self) -> Origin | None:
        """Where the weights come from; their licence is the bundle's."""
        ...

    def views(self) -> dict[Kind, View]:
        """In training form: what artifacts are compared with."""
        ...

    def deployed(self) -> dict[Kind, View]:
        """Fused: what is lowered."""
        ...

    def keep(self, folder: Path) -> None:
        """Write what `restored` needs."""
        ...

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All weights by name."""
        ...

    def about(self) -> dict[str, Any]:
        """Parts of the manifest: `model`, `tokenizer`, and `dense` where a task is dense."""
        ...

    def words(self, labels: Sequence[str]) -> dict[str, Any]:
        """What labels.json holds; `labels` are what the caller gave."""
        ...


@dataclass(frozen=True)
class ClipSubject:
    """A CLIP, with some of its views."""

    model: Clip
    preset: str = "apple"
    kinds: tuple[Kind, ...] = CLIP_VIEWS
    size: Size | None = None
    """Of the dense view; None: that of the image view."""

    @property
    def origin(self) -> Origin | None:
        return self.model.origin

    def views(self) -> dict[Kind, View]:
        return _clip_views(self.model, self.preset, self.kinds, self.size)

    def deployed(self) -> dict[Kind, View]:
        return _clip_views(_fused_clip(self.model), self.preset, self.kinds, self.size)

    def keep(self, folder: Path) -> None:
        mobileclip.save(_fused_clip(self.model), folder / "clip")
        _note(folder, kind="clip", preset=self.preset, kinds=self.kinds, size=self.size)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.model.state_dict().items()

    def about(self) -> dict[str, Any]:
        found = _clip_model(self.model)
        if "dense" in self.kinds:
            size = self.size or (self.model.config.preprocess.size,) * 2
            found["dense"] = {"input": fitted(size, letterbox=False), "heads": []}
        return found

    def words(self, labels: Sequence[str]) -> dict[str, Any]:
        return {"labels": list(labels), "template": TEMPLATE}


@dataclass(frozen=True)
class DenseSubject:
    """A dense model, at its configured size."""

    model: DenseModel
    output: Output = "argmax_quarter"
    preset: str = "apple"

    @property
    def origin(self) -> Origin | None:
        return self.model.origin

    def views(self) -> dict[Kind, View]:
        return {self.model.config.task: dense_views.dense_view(self._reference(), self.output, self.preset)}

    def deployed(self) -> dict[Kind, View]:
        return {self.model.config.task: dense_views.dense_view(_fused_dense(self.model), self.output, self.preset)}

    def _reference(self) -> DenseModel:
        """Mask R-CNN is held against its static form in torch: torchvision's drops low scores and keeps more rows."""
        return _fused_dense(self.model) if dense_views.is_static(self.model) else self.model

    def keep(self, folder: Path) -> None:
        dense_checkpoint.save(_fused_dense(self.model), folder / "dense")
        _note(folder, kind="dense", preset=self.preset, output=self.output)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.model.state_dict().items()

    def about(self) -> dict[str, Any]:
        config = self.model.config
        view = self.views()[config.task]
        return {
            "model": {"name": config.name, "config": plain(config.as_dict()), "checkpoint": told(self.origin)},
            "tokenizer": None,
            "dense": {
                "input": fitted(config.size, letterbox=config.task == "detection"),
                "heads": [about_head(self.model, [item.name for item in view.outputs])],
            },
        }

    def words(self, labels: Sequence[str]) -> dict[str, Any]:
        return words_of(self.model)


@dataclass(frozen=True)
class MultitaskSubject:
    """A CLIP and heads that were trained on its frozen encoder."""

    clip: Clip
    heads: tuple[DenseModel, ...]
    output: Output = "argmax_quarter"
    preset: str = "apple"
    kinds: tuple[Kind, ...] = field(default=("text",))
    """Views of the CLIP that are exported beside."""

    @property
    def origin(self) -> Origin | None:
        return self.clip.origin

    def views(self) -> dict[Kind, View]:
        return _multitask_views(self.clip, self.heads, self.output, self.preset, self.kinds)

    def deployed(self) -> dict[Kind, View]:
        heads = [_fused_dense(head) for head in self.heads]
        return _multitask_views(_fused_clip(self.clip), heads, self.output, self.preset, self.kinds)

    def keep(self, folder: Path) -> None:
        mobileclip.save(_fused_clip(self.clip), folder / "clip")
        for index, head in enumerate(self.heads):
            dense_checkpoint.save(_fused_dense(head), folder / f"head{index}")
        options = {"preset": self.preset, "output": self.output, "kinds": self.kinds}
        _note(folder, kind="multitask", heads=len(self.heads), **options)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.clip.state_dict().items()
        for head in self.heads:
            yield from head.state_dict().items()

    def about(self) -> dict[str, Any]:
        outputs = [item.name for item in self.views()["multitask"].outputs][1:]
        heads = [
            about_head(head, [name]) | {"checkpoint": told(head.origin), "config": plain(head.config.as_dict())}
            for head, name in zip(self.heads, outputs, strict=True)
        ]
        dense = {"input": fitted(self.heads[0].config.size, letterbox=False), "heads": heads}
        return _clip_model(self.clip) | {"dense": dense}

    def words(self, labels: Sequence[str]) -> dict[str, Any]:
        named = [head for head in self.heads if head.config.labels]
        return words_of(named[0]) if named else {"labels": []}


def subject_of(
    model: Clip | DenseModel | str | Path,
    *,
    preset: str,
    output: Output,
    size: Size | None,
    heads: Sequence[Clip | DenseModel | str | Path],
    views: Sequence[Kind] | None,
) -> Subject:
    """What `export` was asked to export.

    Raises:
        MobileClipError: a head for a dense model, a view that no CLIP has, a size where there is none to choose.
    """
    if isinstance(model, str | Path):
        dense = dense_checkpoint.is_dense(model)
        model = dense_checkpoint.load(model) if dense else mobileclip.load(model)
    if isinstance(model, DenseModel):
        if heads or views:
            raise MobileClipError(
                f"{model.config.name} has its head already: give heads and views to a CLIP, not to a dense model."
            )
        return DenseSubject(at_size(model, size), output, preset)
    if heads:
        found = tuple(at_size(_head(head), size) for head in heads)
        dense_views.require_one_encoder(model, found)
        return MultitaskSubject(model, found, output, preset, tuple(views) if views is not None else ("text",))
    kinds = tuple(views or CLIP_VIEWS)
    if size is not None and "dense" not in kinds:
        raise MobileClipError(
            f"{model.config.name} takes pictures of {model.config.preprocess.size} x {model.config.preprocess.size}: a "
            "size is chosen for dense models and for --view dense."
        )
    return ClipSubject(model, preset, kinds, size)


def _head(source: Clip | DenseModel | str | Path) -> DenseModel:
    if isinstance(source, Clip):
        raise MobileClipError(f"{source.config.name} is a CLIP and no head: give dense models as heads.")
    return source if isinstance(source, DenseModel) else dense_checkpoint.load(source)


def at_size(model: DenseModel, size: tuple[int, int] | None) -> DenseModel:
    """The model for pictures of another size, with the same weights; the model itself where nothing changes.

    Raises:
        MobileClipError: no multiple of 32, or the encoder is made for one size.
    """
    if size is None or tuple(size) == tuple(model.config.size):
        return model
    other = build(replace(model.config, size=dense_views.checked_size(size)))
    state = {name: value.shape for name, value in model.state_dict().items()}
    if {name: value.shape for name, value in other.state_dict().items()} != state:
        rows, columns = model.config.size
        raise MobileClipError(
            f"{model.config.name} was made for pictures of {rows} x {columns} and has weights for that size alone: "
            "export it without a size."
        )
    other.load_state_dict(model.state_dict())
    other.origin = model.origin
    return other


def kept_subject(folder: Path) -> Subject:
    """What a subject kept in `folder`, fused."""
    note = json.loads((folder / "subject.json").read_text())
    size = None if note.get("size") is None else (int(note["size"][0]), int(note["size"][1]))
    if note["kind"] == "clip":
        return ClipSubject(mobileclip.load(folder / "clip"), note["preset"], tuple(note["kinds"]), size)
    if note["kind"] == "dense":
        return DenseSubject(dense_checkpoint.load(folder / "dense"), note["output"], note["preset"])
    clip = mobileclip.load(folder / "clip")
    heads = tuple(dense_checkpoint.load(folder / f"head{index}") for index in range(note["heads"]))
    return MultitaskSubject(clip, heads, note["output"], note["preset"], tuple(note["kinds"]))


def restored(folder: Path) -> dict[Kind, View]:
    """The deployed views of what a subject kept in `folder`."""
    return kept_subject(folder).deployed()


def about_head(model: DenseModel, outputs: Sequence[str]) -> dict[str, Any]:
    """One head as a manifest tells it: task, outputs, classes, and what the host does with the outputs."""
    config = model.config
    about: dict[str, Any] = {"task": config.task, "head": config.head, "outputs": list(outputs)}
    if config.task == "depth":
        return about | {"max_depth": config.max_depth, "postprocess": {"resize": "bilinear"}}
    about |= {"classes": len(config.labels), "category_ids": list(config.category_ids)}
    if config.task == "detection":
        return about | {"postprocess": detection_settings(model)}
    return about | {"postprocess": {"resize": "nearest" if "labels" in outputs else "bilinear, then argmax"}}


def detection_settings(model: DenseModel) -> dict[str, Any]:
    """How the host turns a detector's outputs into objects (mobileclip/dense/host_detection.py)."""
    limits = {"score_threshold": host_detection.THRESHOLD, "top_k": host_detection.MOST}
    if dense_views.is_static(model):
        return {"kind": "objects", **limits, "mask_threshold": 0.5}
    overlap = model.head.nms
    return {
        "kind": "points",
        **limits,
        "branch": "one" if overlap is None else "many",
        "nms_iou": overlap,
        "candidates": host_detection.CANDIDATES,
    }


def words_of(model: DenseModel) -> dict[str, Any]:
    """labels.json of a dense model: names, colours and the data set's own ids of the classes, in their order."""
    labels = list(model.config.labels)
    return {
        "labels": labels,
        "palette": palette(len(labels)).tolist(),
        "category_ids": list(model.config.category_ids),
    }


def fitted(size: Size, *, letterbox: bool) -> dict[str, Any]:
    """How a picture of any size becomes the input."""
    rule = {"resize": "letterbox" if letterbox else "stretch", "interpolation": "bilinear", "antialias": True}
    return {"size": list(size), **rule, **({"pad": 0} if letterbox else {})}


def told(origin: Origin | None) -> dict[str, Any]:
    """Where weights come from, as a manifest tells it."""
    if origin is None:
        return {
            "form": "made here",
            "source": "a model in memory",
            "sha256": None,
            "licence": "unknown",
            "research_only": False,
        }
    return {
        "form": origin.form,
        "source": origin.source,
        "sha256": origin.sha256 or None,
        "licence": origin.licence,
        "research_only": origin.licence_research_only,
        "warnings": list(origin.warnings),
        "record": dict(origin.record),
    }


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values as JSON has them."""
    result: dict[str, Any] = json.loads(json.dumps(values))
    return result


def _clip_model(model: Clip) -> dict[str, Any]:
    tokenizer = None
    if model.config.text is not None:
        tokenizer = {
            "kind": "CLIP byte-pair encoding",
            "sha256": tokenizer_hash(),
            "context": model.config.text.context,
            "start": START,
            "end": END,
            "pad": PAD,
        }
    return {
        "model": {
            "name": model.config.name,
            "config": model.config.as_dict(),
            "embed_dim": model.config.embed_dim,
            "logit_scale": float(np.float32(model.logit_scale.detach().exp())),
            "checkpoint": told(model.origin),
        },
        "tokenizer": tokenizer,
    }


def _multitask_views(
    clip: Clip, heads: Sequence[DenseModel], output: Output, preset: str, kinds: Sequence[str]
) -> dict[Kind, View]:
    shared = dense_views.multitask_view(clip, heads, output, preset)
    return {"multitask": shared, **_clip_views(clip, preset, kinds, None)}


def _clip_views(model: Clip, preset: str, kinds: Sequence[str], size: Size | None) -> dict[Kind, View]:
    towers = make_views(model, preset)
    found: dict[Kind, View] = {}
    for kind in kinds:
        if kind == "dense":
            found["dense"] = dense_views.twin_view(model, size, preset)
        elif kind == "image":
            found["image"] = towers["image"]
        elif kind == "text":
            if "text" in towers:
                found["text"] = towers["text"]
        else:
            raise MobileClipError(f"a CLIP has no {kind} view: choose image, text or dense.")
    return found


def _fused_clip(model: Clip) -> Clip:
    fused = model if is_fused(model) else fuse(model)
    assert isinstance(fused, Clip)
    return fused


def _fused_dense(model: DenseModel) -> DenseModel:
    fused = model if is_fused(model) else fuse(model)
    assert isinstance(fused, DenseModel)
    return fused


def _note(folder: Path, **options: Any) -> None:
    (folder / "subject.json").write_text(json.dumps(options))
