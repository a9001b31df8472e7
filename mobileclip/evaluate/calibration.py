"""Is the softmax to be believed? Fit of the logit scale on half of a set, and what it changes on the other half.

Temperature scaling after Guo et al. (2017), section 4.2; expected calibration error after its section 2, with 15 bins
of equal width on the largest probability. The negative log-likelihood is convex in the scale, so its minimum is where
the derivative, mean of E_p[cosine] minus the true cosine, is zero.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mobileclip.evaluate.encoder import Embeddings, finite
from mobileclip.evaluate.zero_shot import chunks

BINS = 15
LOWEST, HIGHEST = 1e-2, 1e4
"""Scales that are searched; a set on which the model is always right, or never, ends at a border."""
_STEPS = 24  # halvings of log(HIGHEST / LOWEST): to 1e-6


def calibrate(
    images: Embeddings, classes: Embeddings, labels: npt.NDArray[np.int64], scale: float, *, seed: int = 0
) -> Mapping[str, Any] | None:
    """Fit the scale on a random half, judge the model's own and the fitted one on the other half.

    Returns:
        JSON values, or None where fewer than two images are finite.
    """
    usable = np.flatnonzero(finite(images) & finite(classes)[labels])
    if len(usable) < 2:
        return None
    order = np.random.default_rng(seed).permutation(usable)
    fit, held = order[: len(order) // 2], order[len(order) // 2 :]
    fitted = fit_scale(images[fit], classes, labels[fit])
    before, after = (judge(images[held], classes, labels[held], value) for value in (scale, fitted))
    return {
        "logit_scale": scale,
        "fitted_logit_scale": fitted,
        "fitted_on": len(fit),
        "judged_on": len(held),
        "nll": before["nll"],
        "nll_fitted": after["nll"],
        "ece": before["ece"],
        "ece_fitted": after["ece"],
        "at_border": not LOWEST * 1.01 < fitted < HIGHEST / 1.01,
    }


def fit_scale(images: Embeddings, classes: Embeddings, labels: npt.NDArray[np.int64]) -> float:
    """The factor on cosines with the least negative log-likelihood, within LOWEST..HIGHEST."""

    def slope(scale: float) -> float:
        total = 0.0
        for rows, scores in chunks(images, classes):
            cosines = scores.astype(np.float64)
            p = _softmax(scale * cosines)
            own = np.take_along_axis(cosines, labels[rows, None], axis=1)
            # as differences, so that a model that is always right has a slope of exactly zero at last
            total += float((p * np.where(p > 0, cosines - own, 0)).sum())
        return total

    low, high = np.log(LOWEST), np.log(HIGHEST)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(float(np.exp(middle))) <= 0 else (low, middle)
    return float(np.exp((low + high) / 2))


def judge(images: Embeddings, classes: Embeddings, labels: npt.NDArray[np.int64], scale: float) -> dict[str, float]:
    """Mean negative log-likelihood and expected calibration error at one scale."""
    loss, confidence, right = 0.0, np.empty(len(images)), np.empty(len(images), np.bool_)
    for rows, scores in chunks(images, classes):
        logits = scale * scores.astype(np.float64)
        top = logits.max(axis=1, keepdims=True)
        log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
        own = np.take_along_axis(logits, labels[rows, None], axis=1)[:, 0]
        loss += float((log_sum - own).sum())
        confidence[rows] = np.exp(top[:, 0] - log_sum)
        right[rows] = logits.argmax(axis=1) == labels[rows]
    return {"nll": loss / len(images), "ece": expected_error(confidence, right)}


def expected_error(confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], bins: int = BINS) -> float:
    """Mean over images of |accuracy - mean confidence| of the bin ((i - 1)/bins, i/bins] that each is in."""
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(which, right.astype(np.float64) - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    p: npt.NDArray[np.float64] = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return p
