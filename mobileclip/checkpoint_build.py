"""From names and tensors to a model: built without drawing random numbers, then filled strictly.

Shapes are compared before anything is computed with a tensor of a file: what it claims may be larger than the file.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mobileclip import checkpoint_keys as keys
from mobileclip.config import ModelConfig
from mobileclip.errors import CheckpointError, some
from mobileclip.fuse import fuse
from mobileclip.models import Clip, build
from mobileclip.models.text import KERNEL, MctText

_DTYPES = {
    True: (torch.float32, torch.float16, torch.bfloat16, torch.float64),
    False: (torch.int64, torch.int32),
}  # what may be stored, by whether the model's tensor is of floating point


class MergedMixer(nn.Module):
    """`TokenMixer` after Apple's reparameterisation: one 1x11 depthwise convolution, [B, C, 1, L] -> the same."""

    layer_scale = None  # merged too; fusing asks for it

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reparam_conv = nn.Conv2d(dim, dim, (1, KERNEL), padding=(0, KERNEL // 2), groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.reparam_conv(x)
        return out


class WithoutDrawing(TorchFunctionMode):
    """Parameters keep the memory that they are given: drawing 99 million numbers takes longer than loading them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        subject = args[0] if args else kwargs.get("tensor")
        name = getattr(func, "__name__", "")
        if (
            isinstance(subject, nn.Parameter)
            and name.endswith("_")
            and not name.endswith("__")
            and name != "requires_grad_"
        ):
            return subject
        return func(*args, **kwargs)


def empty(config: ModelConfig, names: Iterable[str]) -> Clip:
    """The model that holds these canonical names (training form, reparameterised or fused), its parameters not filled.

    Raises:
        CheckpointError: the configuration builds no model.
    """
    known = set(names)
    try:
        if keys.is_deployed(known):
            return _empty_fused(config)
        image = [name for name in known if name.startswith("image.")]
        merged = keys.sizes_of(config).family == "FastViT" and keys.is_reparameterised(image)
        with WithoutDrawing():
            model = build(config, merged=merged)
            if isinstance(model.text, MctText):
                for index, block in enumerate(model.text.transformer.resblocks):
                    if f"text.transformer.resblocks.{index}.token_mixer.reparam_conv.weight" in known:
                        block.token_mixer = MergedMixer(model.text.positional_embedding.shape[1])
    except (TypeError, ValueError, RuntimeError, AssertionError, LookupError, AttributeError, ArithmeticError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise CheckpointError(
            f"the configuration of {config.name} builds no model ({reason}): save it again."
        ) from error
    return model


@torch.no_grad()
def fill(model: Clip, tensors: Mapping[str, Tensor], form: str, labels: Mapping[str, str], where: str) -> None:
    """Copy every tensor to its place; `labels` are the file's names of canonical ones, `where` names the file.

    Raises:
        CheckpointError: one sentence on what is missing, unexpected, of another shape or type, or not finite.
    """
    places = model.state_dict()
    optional = frozenset(name for name in places if keys.may_be_absent(form, name))
    fill_state(places, tensors, model.config.name, where, labels=labels, optional=optional)
    for name in set(places) - set(tensors):
        if keys.is_head_bias(name):
            places[name].zero_()


@torch.no_grad()
def fill_state(
    places: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    name: str,
    where: str,
    *,
    labels: Mapping[str, str] | None = None,
    optional: Collection[str] = (),
) -> None:
    """`fill` for any state dict of the model called `name`; only `optional` names may be missing.

    Raises:
        CheckpointError: as `fill`.
    """
    labels = labels or {}
    both = [key for key in places if key in tensors]
    shaped = [key for key in both if tensors[key].shape != places[key].shape]
    misfits = {
        "missing": [key for key in places if key not in tensors and key not in optional],
        "unexpected": [key for key in tensors if key not in places],
        "of another shape": shaped,
    }
    if any(misfits.values()):
        notes = {key: f" {list(tensors[key].shape)} for {list(places[key].shape)}" for key in shaped}
        parts = [
            f"{len(found)} {what} ({some(labels.get(key, key) + notes.get(key, '') for key in found)})"
            for what, found in misfits.items()
            if found
        ]
        raise CheckpointError(
            f"{where} does not fit {name}: of {len(tensors)} tensors there are {', '.join(parts)}; give "
            "the file of that model."
        )
    for key in both:
        _copy(places[key], tensors[key], labels.get(key, key), where)


def require_finite(name: str, value: Tensor, where: str) -> None:
    """Raise CheckpointError if `value` has a NaN or an infinity."""
    if bool(torch.isfinite(value.sum())):  # one pass; a NaN or an infinity stays in the sum
        return
    if not bool(torch.isfinite(value).all()):  # large values may overflow the sum and be finite
        raise CheckpointError(f"{where} has a value that is not finite in {name}: take an earlier or undamaged one.")


def _copy(place: Tensor, value: Tensor, label: str, where: str) -> None:
    plain = value.layout == torch.strided and value.device.type == "cpu"
    if not plain or value.dtype not in _DTYPES[place.is_floating_point()]:
        kind = str(value.dtype if plain else value.layout).removeprefix("torch.")
        raise CheckpointError(
            f"{where} stores {label} as {kind}, where float32, float16 or bfloat16 is read (int64 for counters): "
            "convert it."
        )
    place.copy_(value)
    require_finite(label, place, where)


def _empty_fused(config: ModelConfig) -> Clip:
    with torch.device("meta"):  # folding nothing takes no time
        model = fuse(build(config))
    model = model.to_empty(device="cpu").eval()
    assert isinstance(model, Clip)
    loose = {name for name, _ in model.named_buffers()} - set(model.state_dict())
    assert not loose, f"buffers that no file fills: {loose}"
    return model
