"""Segmentation and depth: outputs of an artifact, and what an app shows of them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from makers.form import array, file
from mobileclip.dense import host
from mobileclip.dense.colours import depth_colours, distances, palette

Floats = npt.NDArray[np.float32]
MARGIN = 1e-4
"""By how much the best logit of each pixel is ahead, so that every order of float32 arithmetic gives the same class."""


def cases() -> dict[str, Any]:
    """segmentation.json."""
    rng = np.random.default_rng(800)
    found = [
        _logits(rng, "larger", (5, 4, 6), (11, 17)),
        _logits(rng, "as large", (3, 8, 8), (8, 8)),
        _logits(rng, "smaller", (4, 16, 16), (5, 7)),
        _logits(rng, "one pixel of output", (6, 1, 1), (4, 3)),
        _logits(rng, "a picture of one pixel", (7, 9, 5), (1, 1)),
        _logits(rng, "150 classes", (150, 4, 4), (9, 10)),
        _equal_logits(rng),
        _labels(rng, "labels, larger", (4, 6), (11, 17), np.uint8),
        _labels(rng, "labels, smaller", (16, 16), (5, 7), np.int32),
        _labels(rng, "labels, one", (1, 1), (3, 2), np.int64),
        _depth(rng, "depth, larger", (4, 6), (11, 17)),
        _depth(rng, "depth, smaller", (12, 9), (5, 4)),
        _depth(rng, "depth, one", (1, 1), (2, 3)),
    ]
    metres = np.array([[0, 0.5, 1, 2], [3, 4, np.inf, np.nan], [5, 6, 7, 8]], np.float32)
    rgb, (low, high) = depth_colours(metres)
    fixed, _ = depth_colours(metres, 1.0, 6.0)
    colours = [
        {"name": "palette", "count": 40, "rgb": array(palette(40))},
        {"name": "distances", "rgb": array(distances())},
        {"name": "depth", "metres": array(metres), "low": low, "high": high, "rgb": array(rgb)},
        {"name": "depth between given ends", "metres": array(metres), "low": 1.0, "high": 6.0, "rgb": array(fixed)},
    ]
    return file(found, colours=colours)


def _logits(rng: np.random.Generator, name: str, shape: tuple[int, int, int], size: tuple[int, int]) -> dict[str, Any]:
    while True:
        logits = rng.standard_normal((1, *shape)).astype(np.float32)
        whole = np.concatenate([band for _, band in host.enlarged(logits[0], size)], axis=1)
        ahead = np.sort(whole, axis=0)
        if (ahead[-1] - ahead[-2] > MARGIN).all():
            break
    labels = host.segmented(logits, size).labels
    return {"name": name, "kind": "logits", "output": array(logits), "size": list(size), "labels": array(labels)}


def _equal_logits(rng: np.random.Generator) -> dict[str, Any]:
    """Two classes that are equal everywhere: the first is shown."""
    one = rng.standard_normal((1, 1, 3, 3)).astype(np.float32)
    logits = np.concatenate([one - 9, one, one], axis=1)
    labels = host.segmented(logits, (6, 5)).labels
    assert (labels == 1).all()
    return {"name": "equal", "kind": "logits", "output": array(logits), "size": [6, 5], "labels": array(labels)}


def _labels(
    rng: np.random.Generator, name: str, small: tuple[int, int], size: tuple[int, int], dtype: type
) -> dict[str, Any]:
    output = rng.integers(0, 150, (1, 1, *small)).astype(dtype)
    labels = host.segmented_labels(output, size).labels
    return {"name": name, "kind": "labels", "output": array(output), "size": list(size), "labels": array(labels)}


def _depth(rng: np.random.Generator, name: str, small: tuple[int, int], size: tuple[int, int]) -> dict[str, Any]:
    output = (rng.random((1, 1, *small)) * 10).astype(np.float32)
    metres = host.depths(output, size).metres
    case = {"name": name, "kind": "depth", "output": array(output), "size": list(size)}
    return {**case, "metres": array(metres), "tolerance": 1e-5}
