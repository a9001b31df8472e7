"""Ranking: embeddings and the probabilities that follow from them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from makers.form import array, file
from mobileclip.evaluate.encoder import finite, unit

Floats = npt.NDArray[np.float32]


def cases() -> dict[str, Any]:
    """ranking.json."""
    rng = np.random.default_rng(8)
    image, texts = _normal(rng, 1, 16)[0], _normal(rng, 10, 16)
    long_image, long_texts = _normal(rng, 1, 512)[0], _normal(rng, 20, 512)
    twice = np.concatenate([texts[:3], texts[:3]])
    broken = texts.copy()
    broken[4, 2] = np.nan
    none = np.zeros(16, np.float32)
    tall = image * np.float32(1e30)
    small = image * np.float32(1e-30)
    found = [
        _case("scale 1", image, texts, 1.0),
        _case("learned scale at the start", image, texts, 14.285714149475098),
        _case("scale 100", image, texts, 100.0),
        _case("width 512", long_image, long_texts, 100.0),
        _case("unit length", unit(image[None])[0], unit(texts), 100.0),
        _case("lengths differ", image * 7, texts * np.arange(1, 11, dtype=np.float32)[:, None], 100.0),
        _case("squares overflow", tall, texts * np.float32(1e30), 100.0),
        _case("squares vanish", small, texts * np.float32(1e-30), 100.0),
        _case("ties keep their order", image, twice, 100.0),
        _case("one text", image, texts[:1], 100.0),
        _case("zero image", none, texts, 100.0),
        _case("zero text", image, np.concatenate([texts[:2], none[None]]), 100.0),
        _case("a text is not finite", image, broken, 100.0),
        _case("the image is not finite", np.full(16, np.inf, np.float32), texts, 100.0),
        _case("every text is not finite", image, np.full((2, 16), np.nan, np.float32), 100.0),
    ]
    ensembles = [_ensemble(rng, 3, 4, 16), _ensemble(rng, 2, 7, 64), _ensemble(rng, 1, 1, 8)]
    return file(found, ensembles=ensembles)


def rank(image: Floats, texts: Floats, scale: float) -> npt.NDArray[np.float64] | None:
    """Probabilities [N] in float64; None where the image or every text is not finite."""
    known = finite(texts)
    if not finite(image[None])[0] or not known.any():
        return None
    rows = np.where(known[:, None], unit(np.where(known[:, None], texts, 0)), 0)
    logits = scale * (rows.astype(np.float64) @ unit(image[None])[0].astype(np.float64))
    logits[~known] = -np.inf
    powers = np.exp(logits - logits.max())
    out: npt.NDArray[np.float64] = powers / powers.sum()
    return out


def _case(name: str, image: Floats, texts: Floats, scale: float) -> dict[str, Any]:
    case = {"name": name, "image": array(image), "texts": array(texts), "logit_scale": scale}
    found = rank(image, texts, scale)
    if found is None:
        return {**case, "refused": True}
    order = np.argsort(-found, kind="stable")
    told = [float(f"{value:.12g}") for value in found]  # the last bits of exp are the processor's
    return {**case, "probabilities": told, "order": order.tolist(), "tolerance": 2e-5}


def _ensemble(rng: np.random.Generator, classes: int, templates: int, width: int) -> dict[str, Any]:
    """Class embeddings from several texts of each class."""
    texts = _normal(rng, classes * templates, width) * np.float32(3)
    wanted = unit(unit(texts).reshape(classes, templates, width).mean(axis=1))
    return {"templates": templates, "texts": array(texts), "classes": array(wanted), "tolerance": 1e-6}


def _normal(rng: np.random.Generator, rows: int, width: int) -> Floats:
    return rng.standard_normal((rows, width)).astype(np.float32)
