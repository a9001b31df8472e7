"""Names of weights: four published forms, one canonical form, and what the shapes say about the model.

Canonical names are those of `Clip.state_dict()`: `image.` before timm's names, `text.` before open_clip's (or
`MctText`'s), and `logit_scale`. `canonical` and `foreign` are inverses; both rename whole segments between dots by the
same tables, read in one direction or the other. `sizes_of` and `sizes_in` say in a few numbers what a configuration
asks for and what a file holds, without building anything, so that a model is named in milliseconds.

Sources of the names: apple/ml-mobileclip (mobileclip/models/mci.py, models/vit.py, text_encoder.py, modules/), and
timm/models/fastvit.py and vision_transformer_hybrid.py, open_clip/model.py for the other two.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from mobileclip.config import ModelConfig

Pairs = tuple[tuple[str, str], ...]
Shapes = Mapping[str, tuple[int, ...]]

FORMS = ("apple", "open_clip", "timm", "toolkit")
"""Forms that `save` writes and `load` reads."""
PREFIXES: Mapping[str, tuple[str, str]] = {
    "apple": ("image_encoder.model.", "text_encoder."),
    "open_clip": ("visual.trunk.", "text."),
    "timm": ("", ""),
    "toolkit": ("image.", "text."),
}
"""Form -> what its names of the image tower and of the text tower begin with."""
PREFIXED = ("image_encoder.", "text_encoder.", "visual.", "image.", "text.")
"""What names of an image-text model begin with; those of a tower alone do not."""
WRAPPERS = ("module.", "_orig_mod.")
"""Put before every name by DistributedDataParallel and torch.compile."""

_BRANCHES: Pairs = (("rbr_conv", "conv_kxk"), ("rbr_skip", "identity"))
_FASTVIT: Pairs = (
    ("conv_exp", "final_conv"),
    ("final_conv.se.reduce", "final_conv.se.fc1"),
    ("final_conv.se.expand", "final_conv.se.fc2"),
    ("patch_embed", "stem"),
    ("downsample.proj.0.lkb_reparam", "downsample.proj.0.reparam_conv"),
    ("lkb_origin", "large_conv"),
    ("pos_emb.pe", "pos_emb.pos_enc"),
    ("rbr_scale", "conv_scale"),
    *_BRANCHES,
    ("convffn", "mlp"),
    ("layer_scale", "layer_scale.gamma"),
    ("layer_scale_1", "layer_scale_1.gamma"),
    ("layer_scale_2", "layer_scale_2.gamma"),
    ("head.proj", "head.fc.weight"),
)
_VIT: Pairs = (
    ("patch_emb", "patch_embed.backbone"),
    ("block.conv", "conv"),
    ("block.norm", "bn"),
    ("pos_embed.pos_embed.pos_embed", "pos_embed"),
    ("transformer", "blocks"),
    ("pre_norm_mha.0", "norm1"),
    ("pre_norm_mha.1.qkv_proj", "attn.qkv"),
    ("pre_norm_mha.1.out_proj", "attn.proj"),
    ("pre_norm_ffn.0", "norm2"),
    ("pre_norm_ffn.1", "mlp.fc1"),
    ("pre_norm_ffn.4", "mlp.fc2"),
    ("post_transformer_norm", "norm"),
    ("classifier.proj", "head.weight"),
)
_TEXT: Pairs = (
    ("embedding_layer", "token_embedding"),
    ("positional_embedding.pos_embed.pos_embed", "positional_embedding"),
    ("transformer", "transformer.resblocks"),
    *_BRANCHES,
    ("convffn", "mlp"),
    ("pre_norm_mha.0", "ln_1"),
    ("pre_norm_mha.1.qkv_proj.weight", "attn.in_proj_weight"),
    ("pre_norm_mha.1.qkv_proj.bias", "attn.in_proj_bias"),
    ("pre_norm_mha.1.out_proj", "attn.out_proj"),
    ("pre_norm_ffn.0", "ln_2"),
    ("pre_norm_ffn.1", "mlp.c_fc"),
    ("pre_norm_ffn.4", "mlp.c_proj"),
    ("final_layer_norm", "ln_final"),
    ("projection_layer", "text_projection"),
)
_PARTS = (
    "downsample",
    "pos_emb",
    "blocks",
)  # of one of timm's stages, in the order in which Apple's `network` counts them

ARCHITECTURES: Mapping[str, tuple[str, tuple[int, ...], int]] = {
    "fastvit_mci0": ("FastViT", (2, 6, 10, 2), 64),
    "fastvit_mci1": ("FastViT", (4, 12, 20, 4), 64),
    "fastvit_mci2": ("FastViT", (4, 12, 24, 4), 80),
    "fastvit_mci3": ("FastViT", (2, 12, 24, 4, 2), 96),
    "fastvit_mci4": ("FastViT", (2, 12, 24, 4, 4), 128),
    "vit_base_mci_224": ("ViT", (12,), 768),
    "vit_tiny_patch16_224": ("ViT", (12,), 192),
    "swin_tiny_patch4_window7_224": ("Swin", (2, 2, 6, 2), 96),
    "swin_base_patch4_window7_224": ("Swin", (2, 2, 18, 2), 128),
    "swin_large_patch4_window7_224": ("Swin", (2, 2, 18, 2), 192),
    "swin_large_patch4_window12_384": ("Swin", (2, 2, 18, 2), 192),
}
"""timm's name -> family, blocks a stage, channels of the first stage (timm/models/fastvit.py, swin_transformer.py). A
test holds it against models built."""


class TextSizes(NamedTuple):
    """A text tower in numbers."""

    kind: str
    layers: int
    width: int
    context: int
    vocabulary: int


class Sizes(NamedTuple):
    """A model in numbers; two models of equal sizes differ in finer shapes only, or not at all."""

    family: str
    depths: tuple[int, ...]
    width: int
    out: int
    text: TextSizes | None

    def __str__(self) -> str:
        blocks = "+".join(map(str, self.depths))
        image = f"a {self.family} of {blocks} blocks and {self.width} channels, embedding {self.out}"
        if self.text is None:
            return f"{image}, no text tower"
        return f"{image}, and a {self.text.kind} text tower of {self.text.layers} layers and {self.text.width} channels"


def form_of(keys: Iterable[str]) -> str | None:
    """The form whose names these are, or None; wrappers must be stripped already."""
    names = set(keys)
    starts = {name.split(".")[0] for name in names}
    if {"image_encoder", "text_encoder"} & starts:
        return "apple"
    if any(name.startswith("visual.trunk.") for name in names):
        return "open_clip"
    if "image" in starts:
        return "toolkit"
    if ("stem" in starts and "stages" in starts) or ("patch_embed" in starts and {"blocks", "layers"} & starts):
        return "timm"
    return None


def unwrapped(name: str) -> str:
    """`name` without what DistributedDataParallel and torch.compile put before it."""
    while name.startswith(WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def is_reparameterised(keys: Iterable[str]) -> bool:
    """Whether the branches of a training form (canonical names) have been merged by Apple's or timm's function."""
    return any(".reparam_conv." in key for key in keys)


def is_deployed(keys: Iterable[str]) -> bool:
    """Whether canonical names are those of `mobileclip.fuse`'s towers."""
    marks = {"image.stem.0.weight", "image.patch.weight", "image.prefix", "text.tokens.weight"}
    return not marks.isdisjoint(keys)


def state_of(keys: Iterable[str]) -> str:
    """`training`, `reparameterised` or `fused`, from canonical names."""
    names = list(keys)
    if is_deployed(names):
        return "fused"
    return "reparameterised" if is_reparameterised(names) else "training"


def canonical(form: str, keys: Iterable[str]) -> dict[str, str]:
    """Foreign name -> canonical name; a name that belongs to neither tower stays as it is."""
    names = list(keys)
    image, text = PREFIXES[form]
    layout = _apple_network(names) if form == "apple" else {}
    out = {}
    for name in names:
        if name == "logit_scale":
            out[name] = name
        elif name.startswith(image):
            rest = name.removeprefix(image)
            out[name] = "image." + (_image_from_apple(rest, layout) if form == "apple" else rest)
        elif name.startswith(text):
            rest = name.removeprefix(text)
            out[name] = "text." + (_rename(rest, _TEXT, 0) if form == "apple" else rest)
        else:
            out[name] = name
    return out


def foreign(form: str, keys: Iterable[str]) -> dict[str, str]:
    """Canonical name -> the name in `form`: inverse of `canonical`."""
    names = list(keys)
    image, text = PREFIXES[form]
    layout = _timm_stages(names) if form == "apple" else {}
    out = {}
    for name in names:
        tower, _, rest = name.partition(".")
        if tower == "image":
            out[name] = image + (_image_to_apple(rest, layout) if form == "apple" else rest)
        elif tower == "text":
            out[name] = text + (_rename(rest, _TEXT, 1) if form == "apple" else rest)
        else:
            out[name] = name
    return out


def value_in(form: str, name: str, value: Tensor) -> Tensor:
    """A foreign tensor as the canonical `name` stores it (a view)."""
    if form == "apple" and name in ("image.head.fc.weight", "image.head.weight") and value.ndim == 2:
        return value.T
    if form == "apple" and name == "text.positional_embedding" and value.ndim == 4:
        return value[0, 0] if value.shape[:2] == (1, 1) else value
    if form == "apple" and name == "image.pos_embed" and value.ndim == 4:
        return value[0] if value.shape[:1] == (1,) else value
    return value


def value_out(form: str, name: str, value: Tensor) -> Tensor:
    """Inverse of `value_in`."""
    if form != "apple":
        return value
    if name in ("image.head.fc.weight", "image.head.weight"):
        return value.T
    if name == "text.positional_embedding":
        return value[None, None]
    return value[None] if name == "image.pos_embed" else value


def may_be_absent(form: str, name: str) -> bool:
    """Whether a canonical tensor that a file lacks has one obvious value: a counter, or what the form leaves out."""
    return name.endswith(".num_batches_tracked") or is_left_out(form, name)


def is_left_out(form: str, name: str) -> bool:
    """Whether `form` has no place for a canonical tensor: Apple's for a zero bias, timm's for the scale of cosines."""
    return (form == "apple" and is_head_bias(name)) or (form == "timm" and name == "logit_scale")


def is_head_bias(name: str) -> bool:
    """Whether `name` is the bias of the image projection, which Apple's models do not have."""
    return name in ("image.head.fc.bias", "image.head.bias")


def sizes_of(config: ModelConfig) -> Sizes:
    """What a configuration asks for. Raises KeyError for an architecture of timm that `ARCHITECTURES` lacks."""
    family, depths, width = ARCHITECTURES[config.image.timm]
    args = config.image.args
    if family == "FastViT":
        depths, width = tuple(args.get("layers", depths)), args.get("embed_dims", [width])[0]
    elif family == "ViT":
        depths, width = (args.get("depth", depths[0]),), args.get("embed_dim", width)
    else:
        depths, width = tuple(args.get("depths", depths)), args.get("embed_dim", width)
    text = config.text
    numbers = text and TextSizes(text.kind, text.layers, text.width, text.context, text.vocabulary)
    return Sizes(family, depths, width, config.embed_dim, numbers or None)


def sizes_in(shapes: Shapes) -> Sizes | None:
    """What canonical names and shapes hold, or None where they are no model of this project in its training form."""
    try:
        if "image.final_conv.se.fc1.weight" in shapes:
            stem = shapes.get("image.stem.0.reparam_conv.weight") or shapes["image.stem.0.conv_kxk.0.conv.weight"]
            image = ("FastViT", _counts(shapes, r"image\.stages\.(\d+)\.blocks\.(\d+)\."), stem[0])
        elif "image.cls_token" in shapes:
            image = ("ViT", _counts(shapes, r"image\.(blocks)\.(\d+)\."), shapes["image.cls_token"][-1])
        else:
            depths = _counts(shapes, r"image\.layers\.(\d+)\.blocks\.(\d+)\.")
            image = ("Swin", depths, shapes["image.patch_embed.proj.weight"][0])
        head = shapes.get("image.head.fc.weight") or shapes["image.head.weight"]
        text = _text_sizes(shapes) if any(name.startswith("text.") for name in shapes) else None
        return Sizes(*image, head[0], text)
    except (KeyError, IndexError, ValueError):
        return None


def _text_sizes(shapes: Shapes) -> TextSizes:
    (layers,) = _counts(shapes, r"text\.transformer\.(resblocks)\.(\d+)\.")
    mct = any(name.startswith("text.transformer.resblocks.0.token_mixer.") for name in shapes)
    context, width = shapes["text.positional_embedding"]
    vocabulary, _ = shapes["text.token_embedding.weight"]
    return TextSizes("mct" if mct else "transformer", layers - 2 * mct, width, context, vocabulary)


def _counts(shapes: Shapes, pattern: str) -> tuple[int, ...]:
    """Number of different second groups for each first group, in the order of the first."""
    seen: dict[str, set[str]] = {}
    for name in shapes:
        match = re.match(pattern, name)
        if match:
            seen.setdefault(match[1], set()).add(match[2])
    return tuple(len(seen[key]) for key in sorted(seen, key=lambda text: (len(text), text)))


@lru_cache(maxsize=256)
def _segments(text: str) -> re.Pattern[str]:
    """Matches `text` as whole segments between dots."""
    return re.compile(rf"(?<![^.]){re.escape(text)}(?![^.])")


def _rename(name: str, pairs: Pairs, side: int) -> str:
    """Apple's name -> ours (`side` 0), or back: the same replacements from the last to the first (`side` 1)."""
    for pair in reversed(pairs) if side else pairs:
        name = _segments(pair[side]).sub(pair[1 - side], name)
    return name


def _image_from_apple(name: str, layout: Mapping[str, str]) -> str:
    if not layout:
        return _rename(name, _VIT, 0)
    head, _, rest = name.partition(".")
    if head == "network":
        index, _, rest = rest.partition(".")
        name = f"{layout.get(index, 'network.' + index)}.{rest}"
    return _rename(name, _FASTVIT, 0)


def _image_to_apple(name: str, layout: Mapping[str, str]) -> str:
    if not layout:
        return _rename(name, _VIT, 1)
    name = _rename(name, _FASTVIT, 1)
    parts = name.split(".")
    if parts[0] == "stages":
        return ".".join([layout[".".join(parts[:3])], *parts[3:]])
    return name


def _apple_network(names: Iterable[str]) -> dict[str, str]:
    """Index in Apple's flat `network` -> timm's place: `0` -> `stages.0.blocks`, `1` -> `stages.1.downsample`."""
    parts: dict[str, str] = {}
    for name in names:
        match = re.match(r"image_encoder\.model\.network\.(\d+)\.(\w+)\.", name)
        if match:
            parts[match[1]] = match[2]
    layout, stage = {}, 0
    for index in sorted(parts, key=lambda text: (len(text), text)):
        if parts[index] == "proj":
            stage += 1
            layout[index] = f"stages.{stage}.downsample"
        else:
            layout[index] = f"stages.{stage}.{'blocks' if parts[index].isdecimal() else 'pos_emb'}"
    return layout


def _timm_stages(names: Iterable[str]) -> dict[str, str]:
    """timm's place -> Apple's: `stages.1.downsample` -> `network.1`."""
    places = {tuple(name.split(".")[1:4]) for name in names if name.startswith("image.stages.")}
    order = sorted(places, key=lambda place: (int(place[1]), _PARTS.index(place[2])))
    return {".".join(place): f"network.{index}" for index, place in enumerate(order)}
