"""What a model is, as frozen data, and every model by name (`MODELS`). Imports nothing heavy.

A `ModelConfig` is everything that is needed to build a model without its weights; it is what `config.json` of a
checkpoint holds. `as_dict` and `from_dict` are exact inverses, and `from_dict` refuses a key that it does not know.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

from mobileclip.errors import CheckpointError, UnknownName

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Pixels in: shortest side to `size` (antialiased), centre crop to a square, 0..1, then `(x - mean) / std`."""

    size: int
    """Side of the square that the image tower takes, in pixels."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Subtracted per channel (RGB) after scaling to 0..1."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Divides per channel after the mean is subtracted."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Filter of the resize, with antialias."""

    @property
    def normalises(self) -> bool:
        """Whether mean and std do anything."""
        return self.mean != (0.0, 0.0, 0.0) or self.std != (1.0, 1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class ImageTower:
    """An image tower, built by timm."""

    timm: str
    """Name of timm's architecture."""
    pool: str
    """timm's `global_pool`: `avg` or `token`."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of timm's constructor, as JSON values."""


@dataclass(frozen=True, kw_only=True)
class TextTower:
    """A text tower over 77 CLIP tokens, pooled at the end-of-text token."""

    kind: Literal["transformer", "mct"] = "transformer"
    """`transformer` is open_clip's; `mct` has a convolutional RepMixer block before and after it (MobileCLIP-S0)."""
    width: int = 512
    """Channels."""
    heads: int = 8
    """Attention heads a layer."""
    layers: int = 12
    """Transformer layers (without the two RepMixer blocks of `mct`)."""
    causal: bool = False
    """Whether a token attends to the earlier ones only (MobileCLIP-B) or to all 77 (S0, S1, S2)."""
    context: int = 77
    """Tokens."""
    vocabulary: int = 49408
    """Rows of the embedding."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One model: an image tower, perhaps a text tower, and how pixels reach it."""

    name: str
    """Key in `mobileclip.models.MODELS`."""
    image: ImageTower
    preprocess: Preprocess
    text: TextTower | None = None
    """None for an image-only encoder (a baseline)."""
    embed_dim: int = 512
    """Length of the embedding."""
    open_clip: str | None = None
    """open_clip's name of the same architecture, where it has one."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "ModelConfig":
        """Inverse of `as_dict`.

        Raises:
            CheckpointError: a key is missing, unknown or of the wrong kind.
        """
        parts = dict(values)
        try:
            parts["image"] = _build(ImageTower, parts["image"])
            pre = dict(parts["preprocess"])
            pre["mean"], pre["std"] = tuple(pre["mean"]), tuple(pre["std"])
            parts["preprocess"] = _build(Preprocess, pre)
            parts["text"] = None if parts.get("text") is None else _build(TextTower, parts["text"])
            return _build(ModelConfig, parts)
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"the model configuration cannot be read ({error}); write it with `mobileclip.save`."
            ) from error


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the weights of a loaded model come from, and what may be done with them."""

    form: str
    """`apple`, `open_clip`, `timm` or `toolkit`, then `, reparameterised` or `, fused` where that is their state."""
    source: str
    """The file, folder or name that was given."""
    sha256: str
    """Of the weights file, hexadecimal."""
    licence: str = "unknown"
    """Of the weights."""
    licence_research_only: bool = False
    """Whether that licence forbids products; whatever is made from the weights inherits it."""
    warnings: tuple[str, ...] = ()
    """What was found odd, a sentence each."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """How the weights were trained, as `config.json` tells it."""


def _build(cls: type[_T], values: Mapping[str, Any]) -> _T:
    known = {item.name for item in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise TypeError(f"unknown key {unknown[0]!r} for {cls.__name__}")
    return cls(**values)


def _mci(index: int) -> ImageTower:
    return ImageTower(timm=f"fastvit_mci{index}", pool="avg")


_VIT = ImageTower(timm="vit_base_mci_224", pool="token")
_TEXT = TextTower()
_PLAIN_256, _PLAIN_224 = Preprocess(size=256), Preprocess(size=224)
_OPENAI_256 = Preprocess(size=256, mean=OPENAI_MEAN, std=OPENAI_STD)
_IMAGENET_256 = Preprocess(size=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), interpolation="bicubic")
_NANO_MCI = {
    "layers": [1, 1, 2, 1],
    "embed_dims": [16, 32, 64, 128],
    "mlp_ratios": [2, 2, 2, 2],
    "se_downsamples": [False, False, True, True],
}
_NANO_TEXT = TextTower(width=64, heads=2, layers=2)


def _swin(size: str) -> ImageTower:
    return ImageTower(timm=f"swin_{size}_patch4_window7_224", pool="avg", args={"img_size": 256, "window_size": 8})


def _table(*configs: ModelConfig) -> Mapping[str, ModelConfig]:
    return {config.name: config for config in configs}


MODELS: Mapping[str, ModelConfig] = _table(
    ModelConfig(name="mobileclip_s0", image=_mci(0), text=replace(_TEXT, kind="mct", layers=4), preprocess=_PLAIN_256),
    ModelConfig(name="mobileclip_s1", image=_mci(1), text=_TEXT, preprocess=_PLAIN_256, open_clip="MobileCLIP-S1"),
    ModelConfig(name="mobileclip_s2", image=_mci(2), text=_TEXT, preprocess=_PLAIN_256, open_clip="MobileCLIP-S2"),
    ModelConfig(
        name="mobileclip_b",
        image=_VIT,
        text=replace(_TEXT, causal=True),
        preprocess=_PLAIN_224,
        open_clip="MobileCLIP-B",
    ),
    ModelConfig(name="mobileclip2_s0", image=_mci(0), text=_TEXT, preprocess=_PLAIN_256, open_clip="MobileCLIP2-S0"),
    ModelConfig(name="mobileclip2_s2", image=_mci(2), text=_TEXT, preprocess=_PLAIN_256, open_clip="MobileCLIP2-S2"),
    ModelConfig(
        name="mobileclip2_b",
        image=_VIT,
        text=replace(_TEXT, causal=True),
        preprocess=_PLAIN_224,
        open_clip="MobileCLIP2-B",
    ),
    *(
        ModelConfig(
            name=f"mobileclip2_s{index}",
            image=_mci(index),
            text=replace(_TEXT, width=768, heads=12),
            preprocess=_OPENAI_256,
            embed_dim=768,
            open_clip=f"MobileCLIP2-S{index}",
        )
        for index in (3, 4)
    ),
    *(ModelConfig(name=f"mci{index}", image=_mci(index), preprocess=_PLAIN_256) for index in (0, 1, 2)),
    ModelConfig(name="vit_b16", image=_VIT, preprocess=_PLAIN_224),
    ModelConfig(name="swin_l", image=_swin("large"), preprocess=_IMAGENET_256),
    ModelConfig(name="swin_b", image=_swin("base"), preprocess=_IMAGENET_256),
    ModelConfig(  # of the published UPerNet at 640 px
        name="swin_l_384",
        image=ImageTower(timm="swin_large_patch4_window12_384", pool="avg"),
        preprocess=replace(_IMAGENET_256, size=384),
    ),
    ModelConfig(
        name="nano",
        image=ImageTower(timm="fastvit_mci0", pool="avg", args=_NANO_MCI),
        text=_NANO_TEXT,
        preprocess=Preprocess(size=64),
        embed_dim=32,
    ),
    ModelConfig(
        name="nano_scenes",
        image=ImageTower(timm="fastvit_mci0", pool="avg", args=_NANO_MCI),
        text=replace(_NANO_TEXT, causal=True),
        preprocess=Preprocess(size=64),
        embed_dim=64,
    ),
    ModelConfig(
        name="nano_mct",
        image=ImageTower(timm="fastvit_mci0", pool="avg", args=_NANO_MCI),
        text=replace(_NANO_TEXT, kind="mct"),
        preprocess=Preprocess(size=64),
        embed_dim=32,
    ),
    ModelConfig(
        name="nano_vit",
        image=ImageTower(timm="vit_base_mci_224", pool="token", args={"depth": 2, "img_size": 64}),
        text=replace(_NANO_TEXT, causal=True),
        preprocess=Preprocess(size=64),
        embed_dim=32,
    ),
    ModelConfig(
        name="nano_swin",
        image=ImageTower(
            timm="swin_tiny_patch4_window7_224",
            pool="avg",
            args={"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": [1, 2, 2, 1], "num_heads": [1, 2, 4, 8]},
        ),
        preprocess=replace(_IMAGENET_256, size=64),
        embed_dim=32,
    ),
    ModelConfig(  # as many FLOPs a picture as nano_scenes, within 5 %, and all else alike
        name="nano_scenes_vit",
        image=ImageTower(
            timm="vit_tiny_patch16_224",
            pool="token",
            args={"img_size": 64, "embed_dim": 56, "depth": 4, "num_heads": 2},
        ),
        text=replace(_NANO_TEXT, causal=True),
        preprocess=Preprocess(size=64),
        embed_dim=64,
    ),
    ModelConfig(  # the same
        name="nano_scenes_swin",
        image=ImageTower(
            timm="swin_tiny_patch4_window7_224",
            pool="avg",
            args={"img_size": 64, "window_size": 4, "embed_dim": 12, "depths": [1, 2, 2, 1], "num_heads": [1, 2, 4, 8]},
        ),
        text=replace(_NANO_TEXT, causal=True),
        preprocess=Preprocess(size=64),
        embed_dim=64,
    ),
)
"""Name -> configuration. `mci*`, `vit_b16`, `swin_*` are image towers alone; `nano*` are the same classes, small."""


def config_of(name: str) -> ModelConfig:
    """The configuration called `name`.

    Raises:
        UnknownName: no entry of `MODELS`; the nearest is offered.
    """
    if name not in MODELS:
        raise UnknownName("model", name, MODELS)
    return MODELS[name]
