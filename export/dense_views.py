"""Views of dense models: a fused encoder and head between pixels 0..1 and what a task needs.

The picture is of one size, multiples of 32; statistics that the encoder wants are arithmetic in the graph.
A view ends where every target still computes rightly: labels are taken in fp32 (a Neural Engine's argmax in fp16 picks
wrong classes), the one-stage detector's thresholds, top-k and overlap are the app's, and where a graph holds them (the
static Mask R-CNN) coordinates stay in fp32.

Legend: K classes, D objects, N places, E embedding, H and W rows and columns of the input, h and w of an output.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from timm.models.fastvit import FastVit
from torch import Tensor, nn
from torch.nn import functional as F

from export.targets import Kind, Output, Wide, output_of, preset_of
from export.views import InputSpec, OutputSpec, Statistics, View, card
from mobileclip.config import Preprocess
from mobileclip.dense.config import Task
from mobileclip.errors import MobileClipError
from mobileclip.models.heads.mask_rcnn import MaskRcnn
from mobileclip.models.heads.static_rcnn import StaticRcnn
from mobileclip.models.mci import FusedMCi
from mobileclip.models.twin import twin_of

if TYPE_CHECKING:
    from mobileclip.dense.model import DenseModel
    from mobileclip.models import Clip


STRETCH = "stretch to {0} rows and {1} columns, bilinear, antialias"
LETTERBOX = "keep the ratio, at most {0} rows and {1} columns, bilinear, antialias, then pad right and below with 0"
RAW_DETECTION = (
    OutputSpec(name="boxes", shape=(), dtype="float32", meaning="left, top, right, bottom of each place, in pixels"),
    OutputSpec(name="scores", shape=(), dtype="float32", meaning="score of each class at each place, 0..1"),
    OutputSpec(name="coeffs", shape=(), dtype="float32", meaning="weights of the prototype masks at each place"),
    OutputSpec(name="protos", shape=(), dtype="float32", meaning="prototype masks at a quarter of the input's sides"),
)
"""Outputs of the one-stage detector; shapes come from the model."""
OBJECTS = (
    OutputSpec(
        name="boxes", shape=(), dtype="float32", meaning="left, top, right, bottom in pixels, best object first"
    ),
    OutputSpec(name="scores", shape=(), dtype="float32", meaning="score of each object, 0..1; 0: an empty place"),
    OutputSpec(name="labels", shape=(), dtype="int32", meaning="class of each object, 0..K-1"),
    OutputSpec(name="masks", shape=(), dtype="float32", meaning="probability of the object inside its box"),
)
"""Outputs of the static Mask R-CNN."""


class DenseTower(nn.Module):
    """Encoder, head and what is made of the head's output, as tensors in the view's order."""

    def __init__(self, encoder: nn.Module, head: nn.Module, finish: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head, self.finish = encoder, head, finish

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        out: Tensor | tuple[Tensor, ...] = self.finish(self.head(self.encoder(x)))
        return out


class MultitaskTower(nn.Module):
    """One pass of an MCi for its embedding and several heads: pixels -> (embedding [1, E], the heads' outputs, …)."""

    def __init__(self, encoder: nn.Module, heads: Sequence[nn.Module], finishes: Sequence[nn.Module]) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads, self.finishes = nn.ModuleList(heads), nn.ModuleList(finishes)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps, embedding = _maps_and_embedding(self.encoder, x)
        found = [embedding]
        for head, finish in zip(self.heads, self.finishes, strict=True):
            found.append(finish(head(maps)))
        return tuple(found)


def _maps_and_embedding(encoder: nn.Module, x: Tensor) -> tuple[list[Tensor], Tensor]:
    if isinstance(encoder, FusedMCi):
        maps = encoder.pyramid(x)
        pooled = encoder.final(maps[-1]).mean((2, 3), keepdim=True)
        return maps, encoder.head(pooled.flatten(1))
    assert isinstance(encoder, FastVit)
    maps = [encoder.stem(x)]
    for stage in encoder.stages:
        maps.append(stage(maps[-1]))
    return maps[1:], encoder.forward_head(encoder.final_conv(maps[-1]))


class Labels(nn.Module):
    """Logits [1, K, h, w] -> the best class of each pixel, int32 [1, 1, h, w]."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.argmax(1, keepdim=True).to(torch.int32)


class Enlarged(nn.Module):
    """[1, K, h, w] -> [1, K, H, W], bilinear, corners not aligned."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, size=self.size, mode="bilinear", align_corners=False)


class Objects(nn.Module):
    """What the static Mask R-CNN gives, with labels as int32."""

    def forward(self, found: Sequence[Tensor]) -> tuple[Tensor, ...]:
        boxes, scores, labels, masks = found
        return boxes, scores, labels.to(torch.int32), masks


class AsTuple(nn.Module):
    """Several tensors as a tuple."""

    def forward(self, found: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(found)


def dense_view(model: "DenseModel", output: Output = "argmax_quarter", preset: str = "apple") -> View:
    """The view of a dense model at its configured size, fused or in training form.

    Args:
        output: what a segmentation gives; other tasks have one form.
        preset: key of `PRESETS`; names the input.

    Raises:
        UnknownName: no such output or preset.
        MobileClipError: the size is no multiple of 32.
    """
    task, size = model.config.task, checked_size(model.config.size)
    finish, specs, wide = _ending(model, output)
    spec = _picture(preset_of(preset).image[0], size, LETTERBOX if task == "detection" else STRETCH)
    tower = DenseTower(model.encoder, model.head, finish)
    return _view(task, tower, spec, specs, model.config.encoder.preprocess, wide)


def multitask_view(
    clip: "Clip", models: "Sequence[DenseModel]", output: Output = "argmax_quarter", preset: str = "apple"
) -> View:
    """Embedding and heads in one pass; all fused, or all in training form (`require_one_encoder` was asked)."""
    size = checked_size(models[0].config.size)
    names = preset_of(preset)
    embedding = OutputSpec(
        name=names.image[1], shape=(), dtype="float32", meaning="image embedding of the stretched picture"
    )
    endings = [_ending(model, output) for model in models]
    specs = [embedding, *(spec for _, found, _ in endings for spec in found)]
    tower = MultitaskTower(clip.image, [model.head for model in models], [finish for finish, _, _ in endings])
    wide: Wide = "argmax" if any(kind == "argmax" for _, _, kind in endings) else "nothing"
    picture = _picture(names.image[0], size, STRETCH)
    return _view("multitask", tower, picture, specs, clip.config.preprocess, wide)


def twin_view(model: "Clip", size: tuple[int, int] | None = None, preset: str = "apple") -> View:
    """The image tower pixel by pixel: features [1, E, h, w] whose mean is the image embedding (models/twin.py).

    Raises:
        MobileClipError: the tower has no twin, or not at this size.
    """
    pre = model.config.preprocess
    size = checked_size(size or (pre.size, pre.size))
    twin = twin_of(model.image)
    if size != (pre.size, pre.size) and not isinstance(model.image, FusedMCi | FastVit):
        raise MobileClipError(
            f"{model.config.name} takes pictures of {pre.size} x {pre.size} alone: leave the size out, or take a model "
            "with an MCi."
        )
    names = preset_of(preset)
    spec = OutputSpec(
        name="features", shape=(), dtype="float32", meaning="features of each pixel; their mean is the image embedding"
    )
    return _view("dense", twin, _picture(names.image[0], size, STRETCH), [spec], pre, "nothing")


def is_static(model: "DenseModel") -> bool:
    """Whether the deployed graph ends with objects (Mask R-CNN), not with what each place says."""
    return isinstance(model.head, MaskRcnn | StaticRcnn)


def checked_size(size: Sequence[int]) -> tuple[int, int]:
    """Rows and columns.

    Raises:
        MobileClipError: a side that is no multiple of 32.
    """
    rows, columns = size
    if min(rows, columns) < 32 or rows % 32 or columns % 32:
        raise MobileClipError(
            f"a picture of {rows} x {columns} cannot be exported: both sides must be multiples of 32, such as 512 640."
        )
    return rows, columns


def require_one_encoder(clip: "Clip", models: "Sequence[DenseModel]") -> None:
    """Heads share a pass with the embedding only if they were trained on this very encoder, tensor by tensor.

    Raises:
        MobileClipError: another encoder or size, a task or tower that cannot share the pass.
    """
    if not isinstance(clip.image, FastVit):
        raise MobileClipError(
            f"{clip.config.name} cannot share its pass with heads: its last map does not lead to the embedding as that "
            "of an MCi does; export the heads on their own."
        )
    state = dict(clip.image.state_dict())
    for model in models:
        if model.config.task == "detection":
            raise MobileClipError(
                f"{model.config.name} is fed a letterboxed picture and the other heads a stretched one: export "
                "detection on its own."
            )
        if model.config.size != models[0].config.size:
            raise MobileClipError(
                f"{models[0].config.name} was made for {_by(models[0].config.size)} and {model.config.name} for "
                f"{_by(model.config.size)}: name one size for both with --size."
            )
        trunk = getattr(model.encoder, "trunk", nn.Identity()).state_dict()
        other = [name for name, value in trunk.items() if not _counts(name) and not _same(value, state.get(name))]
        if other or not trunk:
            raise MobileClipError(
                f"{model.config.name} was not trained on the frozen encoder of this {clip.config.name} "
                f"({len(other)} of {len(trunk)} tensors differ, first {other[0] if other else 'none'}): one pass can "
                "serve both only if the encoder is the same; finetune the head with a frozen encoder."
            )
    tasks = [model.config.task for model in models]
    if len(set(tasks)) != len(tasks):
        raise MobileClipError(f"two heads of one task were given ({', '.join(tasks)}): give one head for each task.")


def _by(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"


def _counts(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _same(value: Tensor, other: Tensor | None) -> bool:
    return other is not None and value.shape == other.shape and torch.equal(value, other)


def _ending(model: "DenseModel", output: Output) -> tuple[nn.Module, list[OutputSpec], Wide]:
    """What follows the head, what it gives, and what of it may not be fp16."""
    task: Task = model.config.task
    labels = len(model.config.labels)
    if task == "depth":
        meaning = f"distance in metres, 0..{model.config.max_depth:g}"
        return nn.Identity(), [OutputSpec(name="depth", shape=(), dtype="float32", meaning=meaning)], "nothing"
    if task == "detection":
        if is_static(model):
            return Objects(), [replace(spec, compare="matched") for spec in OBJECTS], "coordinates"
        return AsTuple(), list(RAW_DETECTION), "nothing"
    logits = OutputSpec(name="logits", shape=(), dtype="float32", meaning=f"logits of {labels} classes")
    if output_of(output) == "logits_full":
        return Enlarged(model.config.size), [logits], "nothing"
    if output == "logits_quarter":
        return nn.Identity(), [logits], "nothing"
    meaning = f"class of each pixel, 0..{labels - 1}"
    return Labels(), [OutputSpec(name="labels", shape=(), dtype="int32", meaning=meaning, compare="equal")], "argmax"


def _picture(name: str, size: tuple[int, int], rule: str) -> InputSpec:
    return InputSpec(
        name=name,
        kind="image",
        shape=(1, 3, *size),
        dtype="float32",
        colour="RGB",
        scale=1 / 255,
        resize=rule.format(*size),
        crop="none",
    )


def _view(
    kind: Kind, tower: nn.Module, spec: InputSpec, outputs: Sequence[OutputSpec], pre: Preprocess, wide: Wide
) -> View:
    view = View(kind, tower, spec, outputs, card(*spec.shape[2:]))
    view.wide = wide
    if pre.normalises:
        view.statistics = Statistics(pre)
    view.eval().requires_grad_(False)
    shapes = [tuple(item.shape) for item in view.answer(view.example)]
    view.outputs = tuple(replace(item, shape=shape) for item, shape in zip(view.outputs, shapes, strict=True))
    return view
