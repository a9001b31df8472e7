"""Every model by name: `create(name)` gives it with random weights, in the form that trains.

A model is an image tower of timm and a text tower of open_clip (or `mct`, models/text.py) side by side, so that released
weights fit without arithmetic. `MODELS` is the one table; a new model is one entry here, and one entry in `fuse.TOWERS` if
its tower is of a new class.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import timm
import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from mobileclip.config import OPENAI_MEAN, OPENAI_STD, ImageTower, ModelConfig, Preprocess, TextTower
from mobileclip.errors import UnknownName
from mobileclip.models.text import MctText


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
    ModelConfig(
        name="mobileclip_s0", image=_mci(0), text=replace(_TEXT, kind="mct", layers=4), preprocess=_PLAIN_256
    ),
    ModelConfig(
        name="mobileclip_s1", image=_mci(1), text=_TEXT, preprocess=_PLAIN_256, open_clip="MobileCLIP-S1"
    ),
    ModelConfig(
        name="mobileclip_s2", image=_mci(2), text=_TEXT, preprocess=_PLAIN_256, open_clip="MobileCLIP-S2"
    ),
    ModelConfig(
        name="mobileclip_b",
        image=_VIT,
        text=replace(_TEXT, causal=True),
        preprocess=_PLAIN_224,
        open_clip="MobileCLIP-B",
    ),
    ModelConfig(
        name="mobileclip2_s0", image=_mci(0), text=_TEXT, preprocess=_PLAIN_256, open_clip="MobileCLIP2-S0"
    ),
    ModelConfig(
        name="mobileclip2_s2", image=_mci(2), text=_TEXT, preprocess=_PLAIN_256, open_clip="MobileCLIP2-S2"
    ),
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
    ModelConfig(
        name="nano",
        image=ImageTower(timm="fastvit_mci0", pool="avg", args=_NANO_MCI),
        text=_NANO_TEXT,
        preprocess=Preprocess(size=64),
        embed_dim=32,
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
        image=ImageTower(
            timm="vit_base_mci_224", pool="token", args={"depth": 2, "img_size": 64}
        ),
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
)
"""Name -> configuration. `mci*`, `vit_b16`, `swin_*` are image towers alone; `nano*` are the same classes, small."""


SEED_GAIN = 0.7
"""Gain of seeded matrices. At 0.7 the largest activation of MCi2 is near 1,500 (well inside fp16) and fp32 agrees with fp64
to 1e-6; from 0.85 on its last attention saturates and amplifies any rounding a thousandfold."""


class Clip(nn.Module):
    """An image tower and, perhaps, a text tower that share an embedding space.

    Attributes:
        image: [B, 3, S, S] (preprocessed) -> [B, E].
        text: int ids [B, 77] -> [B, E], or None.
        logit_scale: natural logarithm of the factor on cosines; its exponential is held below 100 in training.
        config: what was built.
    """

    def __init__(self, config: ModelConfig, image: nn.Module, text: nn.Module | None) -> None:
        super().__init__()
        self.config = config
        self.image = image
        self.text = text
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # CLIP (Radford et al., 2021), section 2.5

    def encode_image(self, x: Tensor, normalize: bool = False) -> Tensor:
        """Pixels [B, 3, S, S] from `mobileclip.preprocess` -> embedding [B, E], of unit length if `normalize`."""
        out: Tensor = self.image(x)
        return F.normalize(out, dim=-1) if normalize else out

    def encode_text(self, ids: Tensor, normalize: bool = False) -> Tensor:
        """Ids [B, 77] from `mobileclip.tokenize` -> embedding [B, E], of unit length if `normalize`."""
        assert self.text is not None, f"{self.config.name} has no text tower"
        out: Tensor = self.text(ids)
        return F.normalize(out, dim=-1) if normalize else out

    def forward(self, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(image [B, E], text [B, E], factor on cosines); embeddings of unit length."""
        return self.encode_image(x, True), self.encode_text(ids, True), self.logit_scale.exp()


def config_of(name: str) -> ModelConfig:
    """The configuration called `name`.

    Raises:
        UnknownName: no entry of `MODELS`; the nearest is offered.
    """
    if name not in MODELS:
        raise UnknownName("model", name, MODELS)
    return MODELS[name]


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
