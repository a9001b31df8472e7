"""What can be exported, by name: runtimes (`TARGETS`) and the interfaces of existing apps (`PRESETS`). Imports
nothing heavy.

A new target is one entry here and one function in a `to_*.py`; a new preset is one entry.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mobileclip.errors import MobileClipError, UnknownName

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["image", "text", "segmentation", "depth", "detection", "multitask", "dense"]
"""What a view is: one of the two towers, a dense task, several tasks at once, or the image tower pixel by pixel."""
Wide = Literal["nothing", "argmax", "coordinates"]
"""What of a view may not be computed in fp16: an index, or everything that says where boxes are and which are kept."""
Precision = Literal["fp32", "fp16", "w8", "w8a8", "w8p", "w6p", "w4p", "w6pj", "w4pj"]
"""What numbers are: floats; weights of 8 bits; weights and activations of 8 bits; weights as places in a palette of
256, 64 or 16 values; the same with palettes of 8 bits themselves (joint compression)."""
Request = Precision | Literal["mixed", "auto"]
"""What can be asked for: one precision, a rule by block that holds for this family, or what a search finds."""
REQUESTS: tuple[Request, ...] = ("fp32", "fp16", "w8", "w8a8", "w8p", "w6p", "w4p", "w6pj", "w4pj", "mixed", "auto")
FLOATS: frozenset[Precision] = frozenset({"fp32", "fp16"})
"""Precisions that are not quantised."""
LABELS = ("person", "dog", "cat", "bird", "car", "bicycle", "food", "plant", "building", "screen")
"""Labels of the sample apps when none are given."""
Output = Literal["argmax_quarter", "logits_quarter", "logits_full"]
OUTPUTS: tuple[Output, ...] = ("argmax_quarter", "logits_quarter", "logits_full")
"""What a segmentation view gives: labels or logits at a quarter of its input's sides, or logits at all of them."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What an artifact must reach against the eager view on each input."""

    db: float
    """Signal to error, 10 log10(sum reference^2 / sum error^2), in dB."""
    cosine: float
    """Cosine of the two outputs."""
    equal: float
    """Share of equal labels, where an output is labels."""
    found: float
    """Share of objects that are found again, where outputs are objects; which of two nearly equal scores is the last
    to be kept is chance, and untrained models have many of them."""


FP32 = Gate(db=90.0, cosine=0.999999, equal=0.9995, found=0.95)
FP16 = Gate(db=40.0, cosine=0.9999, equal=0.98, found=0.8)
QUANTISED: Mapping[Request, Gate] = {
    "w8": Gate(db=25.0, cosine=0.999, equal=0.97, found=0.8),
    "w8a8": Gate(db=15.0, cosine=0.99, equal=0.95, found=0.7),
    "w8p": Gate(db=25.0, cosine=0.999, equal=0.97, found=0.8),
    "w6p": Gate(db=18.0, cosine=0.995, equal=0.95, found=0.7),
    "w4p": Gate(db=8.0, cosine=0.95, equal=0.9, found=0.5),
    "w6pj": Gate(db=18.0, cosine=0.995, equal=0.95, found=0.7),
    "w4pj": Gate(db=8.0, cosine=0.95, equal=0.9, found=0.5),
    "mixed": Gate(db=18.0, cosine=0.99, equal=0.95, found=0.7),
    "auto": Gate(db=20.0, cosine=0.995, equal=0.97, found=0.7),
}
"""What a quantised artifact must reach against the view in floats: means over held-out inputs where there are some."""
MADE = Gate(db=20.0, cosine=0.995, equal=0.97, found=0.7)
"""What an artifact with integer activations must reach against the eager module with the same integers. Runtimes round
sums of 32 bits in their own ways, and a value that falls to the next integer moves what follows; weights alone leave
nothing to round, and keep the gate of their target."""


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """How a view is quantised."""

    precision: Precision
    """Of every block that `blocks` does not name."""
    blocks: Mapping[str, Precision] = field(default_factory=dict)
    """Block (`export.blocks.blocks_of`) -> its own precision; `fp32` or `fp16` leaves it in floats."""
    inputs: "Sequence[Tensor]" = ()
    """Inputs of the view whose activations set the ranges; none where only weights are quantised."""
    dynamic: bool = False
    """Whether the runtime can quantise activations as they come, which suits layers that see one position."""

    def of(self, block: str) -> Precision:
        """The precision of a block."""
        return self.blocks.get(block, self.precision)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One runtime that artifacts are made for."""

    lower: str
    """`module:function` that writes a view: (view, path, preset, quantised module or None) -> Delegation or None."""
    suffix: str
    """Of the file or package."""
    precision: Literal["fp32", "fp16"]
    gate: Gate
    quantised: tuple[Precision, ...] = ()
    """What else it can hold."""
    rewrites: tuple[str, ...]
    """Names in `rewrites.REWRITES` that are applied before lowering, in order."""


COREML: tuple[Precision, ...] = ("w8", "w8a8", "w8p", "w6p", "w4p", "w6pj", "w4pj")
"""What Core ML holds beside fp16."""
TARGETS: Mapping[str, Target] = {
    "onnx": Target(
        lower="export.to_onnx:lower",
        suffix=".onnx",
        precision="fp32",
        quantised=("w8a8",),
        gate=FP32,
        rewrites=(),
    ),
    "executorch-xnnpack": Target(
        lower="export.to_executorch:lower_xnnpack",
        suffix=".xnnpack.pte",
        precision="fp32",
        quantised=("w8a8",),
        gate=FP32,
        rewrites=(
            "linear-layernorm",
            "split-inputs",
            "split-multiplier",
            "split-depthwise",
            "nearest-products",
            "linear-pooling",
        ),
    ),
    "executorch-coreml": Target(
        lower="export.to_executorch:lower_coreml",
        suffix=".coreml.pte",
        precision="fp16",
        quantised=COREML,
        gate=FP16,
        rewrites=(),
    ),
    "executorch-vulkan": Target(
        lower="export.to_executorch:lower_vulkan", suffix=".vulkan.pte", precision="fp16", gate=FP16, rewrites=()
    ),
    "coreml": Target(
        lower="export.to_coreml:lower",
        suffix=".mlpackage",
        precision="fp16",
        quantised=COREML,
        gate=FP16,
        rewrites=(),
    ),
}
"""Name -> what is written and what it must reach."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Names and types that an existing app expects (its source beside each entry of `PRESETS`)."""

    image: tuple[str, str]
    """Names of the image view's input and output."""
    text: tuple[str, str]
    """Names of the text view's input and output."""
    ids: Literal["int32", "int64"] = "int32"
    """Type of the token ids."""
    normalised: bool = False
    """Whether the graph ends by scaling the embedding to unit length."""
    ios: str = "iOS16"
    """Oldest system that a Core ML package of this preset runs on, as coremltools names it."""


PRESETS: Mapping[str, Preset] = {
    # Apple's released packages, read by its demo app and by others: mobileclip_s2_image.mlpackage, iOS 15
    "apple": Preset(image=("image", "final_emb_1"), text=("text", "final_emb_1"), ios="iOS15"),
    # Queryable: ImageEncoder_mobileCLIP_s2 and TextEncoder_mobileCLIP_s2
    "queryable": Preset(image=("colorImage", "embOutput"), text=("prompt", "embOutput")),
    # transformers.js and the ONNX exports that it loads
    "transformers.js": Preset(image=("pixel_values", "image_embeds"), text=("input_ids", "text_embeds"), ids="int64"),
    # ente's desktop and mobile apps
    "ente": Preset(image=("input", "output"), text=("input", "output")),
    # open_clip's own names, of unit length as its users compare them
    "open_clip": Preset(
        image=("image", "image_features"), text=("text", "text_features"), ids="int64", normalised=True
    ),
}
"""Name -> what its apps expect."""


def preset_of(name: str) -> Preset:
    """The preset called `name`.

    Raises:
        UnknownName: no entry of `PRESETS`; the nearest is offered.
    """
    if name not in PRESETS:
        raise UnknownName("preset", name, PRESETS)
    return PRESETS[name]


def targets_of(names: Iterable[str]) -> dict[str, Target]:
    """The targets called `names`, in their order, each once.

    Raises:
        UnknownName: no entry of `TARGETS`; the nearest is offered.
    """
    found = {}
    for name in names:
        if name not in TARGETS:
            raise UnknownName("target", name, TARGETS)
        found[name] = TARGETS[name]
    return found


def output_of(name: str) -> Output:
    """What a segmentation view gives, by name.

    Raises:
        UnknownName: none of `OUTPUTS`.
    """
    for output in OUTPUTS:
        if name == output:
            return output
    raise UnknownName("output", name, OUTPUTS)


def precision_of(target: str, wide: Wide) -> Literal["fp32", "fp16"]:
    """In what an artifact computes: coordinates in fp16 would be boxes that are pixels off, so a target that has no
    fp32 for some operators alone computes all of them in fp32."""
    if wide == "coordinates" and target in ("executorch-coreml", "executorch-vulkan"):
        return "fp32"
    return TARGETS[target].precision


def quantised_of(targets: Iterable[str], precision: str) -> Request | None:
    """The precision called `precision`; None where it is each target's own floats.

    Raises:
        UnknownName: no such precision.
        MobileClipError: a target that cannot hold it; what each can is told.
    """
    known = next((item for item in REQUESTS if item == precision), None)
    if known is None:
        raise UnknownName("precision", precision, REQUESTS)
    unable = [name for name, target in targets_of(targets).items() if known not in held(target)]
    if unable:
        raise MobileClipError(f"{' and '.join(unable)} cannot hold {precision}; what each target can:\n{holdings()}")
    return known if known in QUANTISED else None


def holdings() -> str:
    """A line for each target: what it can be asked for."""
    wide = max(map(len, TARGETS))
    return "\n".join(f"  {name:{wide}}  {', '.join(held(target))}" for name, target in TARGETS.items())


def held(target: Target) -> tuple[Request, ...]:
    """All that a target can be asked for, its own floats first."""
    chosen: tuple[Request, ...] = ("mixed", "auto") if target.quantised else ()
    return (target.precision, *target.quantised, *chosen)


def searched(target: Target) -> tuple[Precision, ...]:
    """What a search may give a block of a target, the cheapest first; floats are always among it."""
    return tuple(item for item in ("w4p", "w6p", "w8") if item in target.quantised) or target.quantised


def made_gate(told: Mapping[str, Any], target: str, request: str | None) -> Gate:
    """What an artifact must reach against its own eager module."""
    precisions = {request, *told.get("blocks", {}).values()}
    return MADE if "w8a8" in precisions else TARGETS[target].gate
