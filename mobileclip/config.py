"""What a model is, as frozen data: its towers, its preprocessing, its place in other people's tables.

A `ModelConfig` is everything that is needed to build a model without its weights; it is what `config.json` of a checkpoint
holds. `as_dict` and `from_dict` are exact inverses, and `from_dict` refuses a key that it does not know.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar

from mobileclip.errors import CheckpointError

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


def _build(cls: type[_T], values: Mapping[str, Any]) -> _T:
    known = {item.name for item in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise TypeError(f"unknown key {unknown[0]!r} for {cls.__name__}")
    return cls(**values)
