"""Encoders by name: those of `MODELS`, and any architecture of timm with the pixels that its weights were made for."""

from dataclasses import replace
from typing import Any

import timm

from mobileclip.config import MODELS, ImageTower, ModelConfig, Preprocess
from mobileclip.errors import UnknownName


def encoder_named(name: str) -> ModelConfig:
    """The configuration of an encoder by its name in `MODELS`, or by timm's.

    Raises:
        UnknownName: neither.
    """
    if name in MODELS:
        return MODELS[name]
    if not timm.is_model(name):
        raise UnknownName("encoder (or architecture of timm)", name, MODELS)
    return config_from_timm(name)


def config_from_timm(name: str) -> ModelConfig:
    """An encoder by timm's name, with the mean and std of timm's own weights."""
    architecture = name.partition(".")[0]
    for config in MODELS.values():
        if config.image.timm == architecture and not config.image.args and config.text is None:
            return with_timms_pixels(config, name)
    config = ModelConfig(
        name=architecture,
        image=ImageTower(timm=architecture, pool="avg"),
        preprocess=Preprocess(size=256),
        embed_dim=512,
    )
    return with_timms_pixels(config, name)


def with_timms_pixels(config: ModelConfig, name: str) -> ModelConfig:
    """`config` with the mean, std and size of the weights that timm has under `name`."""
    found = timm.get_pretrained_cfg(name)
    if found is None:
        return config
    kind: Any = "bicubic" if found.interpolation == "bicubic" else "bilinear"
    mean, std = tuple(map(float, found.mean)), tuple(map(float, found.std))
    pixels = Preprocess(size=found.input_size[-1], mean=mean, std=std, interpolation=kind)  # type: ignore[arg-type]
    return replace(config, preprocess=pixels)
