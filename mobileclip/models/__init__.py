"""Every model by name: `create(name)` gives it with random weights, in the form that trains.

A model is an image tower of timm and a text tower of open_clip (or `mct`, models/text.py) side by side, so that
released weights fit without arithmetic. A new model is one entry in `config.MODELS`, and one in `fuse.TOWERS` if its
tower is of a new class.
"""

import timm
import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from mobileclip.config import MODELS as MODELS
from mobileclip.config import ModelConfig, TextTower, config_of
from mobileclip.models.clip import Clip as Clip
from mobileclip.models.text import MctText

SEED_GAIN = 0.7
"""Gain of seeded matrices. At 0.7 the largest activation of MCi2 is near 1,500 (well inside fp16) and fp32 agrees
with fp64 to 1e-6; from 0.85 on its last attention saturates and amplifies any rounding a thousandfold."""


def create(name: str | ModelConfig, *, seed: int | None = None) -> Clip:
    """Build a model with random weights, in evaluation mode, in the form that trains.

    Args:
        name: key of `MODELS`, or a configuration.
        seed: with it, `seed_weights` draws every weight, so that no block is close to the identity.

    Raises:
        UnknownName: no such model.
    """
    model = build(config_of(name) if isinstance(name, str) else name)
    if seed is not None:
        seed_weights(model, seed)
    return model.eval()


def build(config: ModelConfig, *, merged: bool = False) -> Clip:
    """`create` from a configuration; `merged` builds timm's reparameterised layers (to read such checkpoints)."""
    args = dict(config.image.args)
    if merged:
        args["inference_mode"] = True
    image = timm.create_model(
        config.image.timm, pretrained=False, num_classes=config.embed_dim, global_pool=config.image.pool, **args
    )
    return Clip(config, image, None if config.text is None else _build_text(config.text, config.embed_dim))


def _build_text(text: TextTower, out: int) -> nn.Module:
    if text.kind == "mct":
        return MctText(
            context=text.context,
            vocabulary=text.vocabulary,
            width=text.width,
            heads=text.heads,
            layers=text.layers,
            out=out,
        )
    tower: nn.Module = TextTransformer(
        context_length=text.context,
        vocab_size=text.vocabulary,
        width=text.width,
        heads=text.heads,
        layers=text.layers,
        output_dim=out,
        no_causal_mask=not text.causal,
    )
    return tower


@torch.no_grad()
def seed_weights(model: nn.Module, seed: int) -> None:
    """Draw all weights and statistics from `seed`, in place, so that an error in any block shows in the output.

    A fresh model hides its blocks behind layer scales of 1e-5 and BatchNorms that do nothing. Here layer scales lie in
    0.2..0.6, BatchNorm statistics are random, and matrices keep the variance of what passes through them.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(t: Tensor, low: float, high: float) -> None:
        t.copy_(torch.rand(t.shape, generator=generator) * (high - low) + low)

    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            if "scale" in name and p.ndim == 0:
                continue  # logit_scale keeps CLIP's initial value
            if "gamma" in name or "layer_scale" in name:
                uniform(p, 0.2, 0.6)
            elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm) and name == "weight":
                uniform(p, 0.5, 1.5)
            elif p.ndim < 2:
                uniform(p, -0.1, 0.1)
            else:
                # a projection stored as [in, out] has its fan-in first, every other matrix has it behind
                fan_in = p.shape[0] if name.endswith("projection") else p[0].numel()
                std = 1.0 if isinstance(module, nn.Embedding) else SEED_GAIN * fan_in**-0.5
                p.copy_(torch.randn(p.shape, generator=generator) * std)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            uniform(module.running_mean, -0.2, 0.2)
            uniform(module.running_var, 0.5, 1.5)
