"""Detection: raw outputs of both kinds of head, and the objects that an app shows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from makers.form import array, file
from mobileclip.dense.host_detection import detected, detected_regions
from mobileclip.dense.samples import Detected

Floats = npt.NDArray[np.float32]


def cases() -> dict[str, Any]:
    """detection.json."""
    rng = np.random.default_rng(8000)
    found = [
        _points(rng, "points", (48, 64), (24, 20), {}),
        _points(rng, "points, threshold 0.5", (48, 64), (24, 20), {"threshold": 0.5}),
        _points(rng, "points, the best three", (48, 64), (31, 50), {"most": 3}),
        _points(rng, "points, overlap 0.5", (48, 64), (60, 80), {"nms": 0.5}),
        _points(rng, "points, overlap 0.3, the best four", (64, 48), (20, 33), {"nms": 0.3, "most": 4}),
        _points(rng, "points, equal scores", (32, 32), (16, 16), {"most": 7}, levels=3),
        _points(rng, "points, a picture of one pixel", (32, 32), (1, 1), {"nms": 0.5}),
        _points(rng, "points, none above the threshold", (32, 32), (9, 9), {"threshold": 1.0}),
        _regions(rng, "regions", (48, 64), (24, 20), {}),
        _regions(rng, "regions, threshold 0.5, the best two", (48, 64), (70, 50), {"threshold": 0.5, "most": 2}),
        _regions(rng, "regions, a picture of one pixel", (32, 32), (1, 1), {}),
        _regions(rng, "regions, none above the threshold", (32, 32), (9, 9), {"threshold": 1.0}),
    ]
    return file(found)


def _points(
    rng: np.random.Generator,
    name: str,
    size: tuple[int, int],
    original: tuple[int, int],
    options: dict[str, Any],
    levels: int = 0,
) -> dict[str, Any]:
    """Outputs of a one-stage head: K classes, N points, P prototypes on a grid of a quarter of the input."""
    classes, points, prototypes = 3, 14, 4

    def made() -> dict[str, Floats]:
        scores = rng.random((1, classes, points)) ** 2
        if levels:
            scores = (rng.integers(1, levels + 1, scores.shape)) / (levels + 1)
        return {
            "boxes": _boxes(rng, points, size).T[None],
            "scores": scores.astype(np.float32),
            "coeffs": rng.standard_normal((1, prototypes, points)).astype(np.float32),
            "protos": rng.standard_normal((1, prototypes, size[0] // 4, size[1] // 4)).astype(np.float32),
        }

    def run(parts: dict[str, Floats]) -> Detected:
        return detected(parts["boxes"], parts["scores"], parts["coeffs"], parts["protos"], original, **options)

    return _case(name, "points", made, run, size, original, options)


def _regions(
    rng: np.random.Generator, name: str, size: tuple[int, int], original: tuple[int, int], options: dict[str, Any]
) -> dict[str, Any]:
    """Outputs of a static Mask R-CNN: D rows, some of them empty."""
    rows, side = 8, 7

    def made() -> dict[str, npt.NDArray[Any]]:
        scores = np.sort(rng.random(rows))[::-1].astype(np.float32)
        scores[-2:] = 0
        return {
            "boxes": _boxes(rng, rows, size),
            "scores": scores,
            "labels": rng.integers(0, 5, rows).astype(np.int32),
            "masks": rng.random((rows, side, side)).astype(np.float32),
        }

    def run(parts: dict[str, npt.NDArray[Any]]) -> Detected:
        boxes, scores, labels, masks = (parts[key] for key in ("boxes", "scores", "labels", "masks"))
        return detected_regions(boxes, scores, labels, masks, original, size, **options)

    return _case(name, "objects", made, run, size, original, options)


def _case(
    name: str,
    kind: str,
    made: Callable[[], dict[str, Any]],
    run: Callable[[dict[str, Any]], Detected],
    size: tuple[int, int],
    original: tuple[int, int],
    options: dict[str, Any],
) -> dict[str, Any]:
    """A case whose masks do not hang on the last bit: a little more or less gives the same."""
    shifted = "coeffs" if kind == "points" else "masks"
    for _ in range(1000):
        parts = made()
        found = run(parts)
        near = [run({**parts, shifted: parts[shifted] * np.float32(1 + share)}) for share in (-1e-5, 1e-5)]
        if kind == "objects" and all((item.masks == found.masks).all() for item in near):
            break
        if kind == "points" and _certain(parts, run, found):
            break
    else:
        raise AssertionError(f"{name}: no certain case in 1,000")
    return {
        "name": name,
        "kind": kind,
        "outputs": {key: array(value) for key, value in parts.items()},
        "size": list(size),
        "original": list(original),
        **options,
        "boxes": array(found.boxes),
        "scores": array(found.scores),
        "classes": array(found.classes),
        "masks": array(found.masks.astype(np.uint8)),
        "tolerance": 1e-4,
    }


def _certain(parts: dict[str, Any], run: Callable[[dict[str, Any]], Detected], found: Detected) -> bool:
    """Whether no pixel's logit is near 0: prototypes and coefficients with one more term of +-1e-4 change nothing."""
    for shift in (-1e-4, 1e-4):
        coeffs = np.concatenate([parts["coeffs"], np.full_like(parts["coeffs"][:, :1], shift)], axis=1)
        protos = np.concatenate([parts["protos"], np.ones_like(parts["protos"][:, :1])], axis=1)
        if (run({**parts, "coeffs": coeffs, "protos": protos}).masks != found.masks).any():
            return False
    return True


def _boxes(rng: np.random.Generator, count: int, size: tuple[int, int]) -> Floats:
    """[count, 4], left, top, right, bottom; some reach beyond the input, one is empty."""
    height, width = size
    middle = rng.random((count, 2)) * (width, height)
    half = (rng.random((count, 2)) * 0.4 + 0.05) * (width, height)
    boxes = np.concatenate([middle - half, middle + half], axis=1).astype(np.float32)
    boxes[count // 2, 2] = boxes[count // 2, 0]
    return boxes
