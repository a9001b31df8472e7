"""`fuse(model)`: from the form that trains to the form that is deployed, exactly equal.

Tools that stop at merging branches leave 48 BatchNorms, 48 layer scales and attention with an unfolded scale in MCi2.
Here a tower becomes another module, plain code that one can read (models/mci.py, vit.py, swin.py, text.py), with
nothing left to fold. The input is never changed; what is fused already is returned as a copy; gradients do not flow
through a fused model.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from open_clip.transformer import TextTransformer
from timm.models.fastvit import FastVit
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mobileclip.errors import MobileClipError
from mobileclip.models.clip import Clip
from mobileclip.models.mci import FusedMCi
from mobileclip.models.swin import FusedSwin
from mobileclip.models.text import FusedText, MctText
from mobileclip.models.vit import FusedViT

TOWERS: Mapping[type[nn.Module], Callable[[Any], nn.Module]] = {
    FastVit: FusedMCi.from_timm,
    VisionTransformer: FusedViT.from_timm,
    SwinTransformer: FusedSwin.from_timm,
    TextTransformer: FusedText.from_open_clip,
    MctText: FusedText.from_open_clip,
}
"""Class of a tower in training form -> what makes its deployed form."""

FUSED = (FusedMCi, FusedViT, FusedSwin, FusedText)
"""The deployed forms."""


@runtime_checkable
class Deployable(Protocol):
    """A module that makes its own deployed form: a `DenseModel`, its encoder, its head."""

    def deployed(self) -> nn.Module: ...


def is_fused(model: nn.Module) -> bool:
    """Whether every tower of `model` is in its deployed form."""
    if isinstance(model, Clip):
        return all(isinstance(tower, FUSED) for tower in (model.image, model.text) if tower is not None)
    if isinstance(model, Deployable):
        return bool(getattr(model, "is_deployed", False))
    return isinstance(model, FUSED)


def fuse(model: nn.Module) -> nn.Module:
    """The deployed form of a `Clip`, a `DenseModel` or a part of one, in evaluation mode; same inputs, same outputs.

    Raises:
        MobileClipError: a tower of a class that has no deployed form.
    """
    if isinstance(model, Clip):
        fused = Clip(model.config, fuse(model.image), None if model.text is None else fuse(model.text))
        fused.logit_scale.data = model.logit_scale.detach().clone()
        fused.origin = model.origin
        return fused.eval().requires_grad_(False)
    if isinstance(model, Deployable):
        new = copy.deepcopy(model) if is_fused(model) else model.deployed()
        return new.eval().requires_grad_(False)
    if isinstance(model, FUSED):
        return copy.deepcopy(model).eval()
    for tower, make in TOWERS.items():
        if isinstance(model, tower):
            return make(model).eval().requires_grad_(False)
    known = ", ".join(sorted(tower.__name__ for tower in TOWERS))
    raise MobileClipError(f"a {type(model).__name__} has no deployed form: fuse takes {known}, or a Clip of them.")
