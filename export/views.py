"""The graphs that are deployed: a fused tower with a named input and named outputs (dense ones: dense_views.py).

A view is a small module whose `forward` is exactly what runs on the device: pixels 0..1 or token ids in, an embedding
out. The names come from a preset, so that an artifact drops into an app that exists already. Shapes are static, the
batch is one.

Image views take RGB [1, 3, S, S] in 0..1; statistics that a model wants (OpenAI's, ImageNet's) are arithmetic in the
graph, so no app has to know them. Text views take int ids [1, 77], padded with zeros; a shorter or otherwise padded
input gives another embedding, because MobileCLIP's text towers attend to the padding.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from export.targets import Kind, Preset, Wide, preset_of
from mobileclip.config import Preprocess
from mobileclip.tokenizer import tokenize

if TYPE_CHECKING:
    from mobileclip.models import Clip


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """One input of an artifact, as the manifest tells it."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    """`float32`, `int32`, `int64`, or `image` where the runtime takes 8-bit pixels itself (Core ML)."""
    colour: str | None = None
    """Order of the channels, for images."""
    scale: float | None = None
    """What an 8-bit pixel is multiplied with before it enters (None: text). 1.0: the runtime does it."""
    resize: str | None = None
    crop: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, without what does not apply."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class OutputSpec:
    """One output of an artifact, as the manifest tells it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    meaning: str
    normalised: bool = False
    compare: str | None = None
    """How an artifact is judged by it: `equal` labels, objects that are `matched`; None: as floats."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, without what does not apply."""
        return {key: value for key, value in asdict(self).items() if value is not None}


class View(nn.Module):
    """A deployed graph: a tower between one named input and named outputs.

    Attributes:
        kind: what it is for.
        inputs, outputs: what `forward` takes and gives, in order.
        example: a valid input, also the known answer's.
        wide: what of it may not be computed in fp16.
    """

    def __init__(
        self, kind: Kind, tower: nn.Module, inputs: InputSpec, outputs: Sequence[OutputSpec], example: Tensor
    ) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.tower = tower
        self.inputs = (inputs,)
        self.outputs = tuple(outputs)
        self.example = example
        self.wide: Wide = "nothing"
        self.unit = UnitLength() if self.outputs[0].normalised else nn.Identity()
        self.statistics: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """[1, 3, H, W] or [1, 77] -> what the tower gives: an embedding [1, E], or one tensor an output."""
        out: Tensor | tuple[Tensor, ...] = self.unit(self.tower(self.statistics(x)))
        return out

    @torch.no_grad()
    def answer(self, x: Tensor) -> list[npt.NDArray[Any]]:
        """The outputs for one input, in order."""
        out = self(x)
        return [item.numpy() for item in (out if isinstance(out, tuple) else (out,))]


class Statistics(nn.Module):
    """`(x - mean) / std` per channel of [B, 3, S, S], as one multiplication and one addition."""

    scale: Tensor
    shift: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        mean, std = (
            torch.tensor(preprocess.mean, dtype=torch.float64),
            torch.tensor(preprocess.std, dtype=torch.float64),
        )
        self.register_buffer("scale", (1 / std).float().reshape(1, 3, 1, 1))
        self.register_buffer("shift", (-mean / std).float().reshape(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class UnitLength(nn.Module):
    """Scales [B, E] to unit length, safe in fp16: the sum of squares may pass 65,504, their mean does not."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt((x * x).mean(dim=-1, keepdim=True) + 1e-12)
        return x * float(x.shape[-1] ** -0.5)


def make_views(model: "Clip", preset: str = "apple") -> dict[Kind, View]:
    """The views of a model: `image`, and `text` where it has a text tower.

    Of a fused model they are what is deployed; of a model in training form, what artifacts are compared with.

    Raises:
        UnknownName: no such preset.
    """
    names = preset_of(preset)
    views: dict[Kind, View] = {"image": _image_view(model, names)}
    if model.text is not None:
        views["text"] = _text_view(model, names)
    return views


def _output(model: "Clip", name: str, kind: Kind, preset: Preset) -> OutputSpec:
    return OutputSpec(
        name=name,
        shape=(1, model.config.embed_dim),
        dtype="float32",
        meaning=f"{kind} embedding",
        normalised=preset.normalised,
    )


def _image_view(model: "Clip", preset: Preset) -> View:
    pre = model.config.preprocess
    spec = InputSpec(
        name=preset.image[0],
        kind="image",
        shape=(1, 3, pre.size, pre.size),
        dtype="float32",
        colour="RGB",
        scale=1 / 255,
        resize=f"shortest side to {pre.size}, {pre.interpolation}, antialias",
        crop="centre",
    )
    view = View("image", model.image, spec, [_output(model, preset.image[1], "image", preset)], card(pre.size))
    if pre.normalises:
        view.statistics = Statistics(pre)
    return view.eval().requires_grad_(False)


def _text_view(model: "Clip", preset: Preset) -> View:
    assert model.config.text is not None
    assert model.text is not None
    context = model.config.text.context
    ids = tokenize(["a photo of a cat"], context).to(getattr(torch, preset.ids))
    spec = InputSpec(name=preset.text[0], kind="text", shape=(1, context), dtype=preset.ids)
    view = View("text", model.text, spec, [_output(model, preset.text[1], "text", preset)], ids)
    return view.eval().requires_grad_(False)


def card(height: int, width: int | None = None) -> Tensor:
    """A picture [1, 3, H, W] of edges, gradients and fine texture, square without a width; every value is a multiple
    of 1/255."""
    width = height if width is None else width
    rows = torch.linspace(0, 1, height).reshape(height, 1).expand(height, width)
    columns = torch.linspace(0, 1, width).expand(height, width)
    disc = ((rows - 0.45) ** 2 + (columns - 0.55) ** 2 < 0.09).float()
    waves = 0.5 + 0.5 * torch.sin(40 * columns * (0.3 + rows))
    checks = ((rows * 8).floor() + (columns * 8).floor()) % 2
    picture = torch.stack([0.2 + 0.6 * rows + 0.2 * disc, 0.7 * waves + 0.3 * disc, 0.3 * checks + 0.5 * columns])
    return ((picture.clamp(0, 1) * 255).round() / 255).unsqueeze(0)
