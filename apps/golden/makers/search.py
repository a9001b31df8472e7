"""Search among embeddings: in fp16, in int8, and by sign codes first. README.md states the rules; here they are in
numpy."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from makers.form import array, file

Floats = npt.NDArray[np.float32]


def cases() -> dict[str, Any]:
    """search.json."""
    rng = np.random.default_rng(88)
    found = [
        _case("small", rng, 12, 8, 5, 6),
        _case("width 512", rng, 40, 512, 10, 20),
        _case("width that fills no byte", rng, 20, 13, 4, 8),
        _case("more asked for than there is", rng, 3, 16, 10, 10),
        _case("many near the question", rng, 300, 64, 10, 40, near=True),
    ]
    rows = rng.standard_normal((6, 16)).astype(np.float32)
    found.append(_made("ties keep their order", np.concatenate([rows, rows, rows]), rows[2], 6, 9))
    rows = rows.copy()
    rows[3] = 0
    found.append(_made("a zero vector is last but kept", rows, rows[0], 6, 6))
    found.append(_made("a zero question", rows, rows[3], 4, 4))
    halves = np.array([[127, 0.5, 1.5, -0.5, -1.5, 2.5, -127, 0.49]] * 2, np.float32)
    found.append(_made("halves are rounded away from zero", halves, halves[0], 2, 2))
    return file(found)


def unit(rows: Floats) -> Floats:
    """Rows of unit length, to the last bit: w = float32(v / max|v|), then float32(w / sqrt(sum w^2)), sums float64."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    scaled = rows / np.where(largest == 0, 1, largest)
    wide = scaled.astype(np.float64)
    lengths = np.array([[math.sqrt(math.fsum(row * row)) or 1.0] for row in wide])
    return (wide / lengths).astype(np.float32)


def quantised(rows: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Unit rows [N, E] -> integers [N, E] and scales [N]: scale = max|v| / 127 in float32; the integer is
    sign(v) floor(|v| 127 / max|v| + 1/2) in float64; a row of zeros has scale 0."""
    largest = np.abs(rows).max(axis=1, keepdims=True).astype(np.float64)
    share = np.abs(rows).astype(np.float64) * 127 / np.where(largest == 0, 1, largest)
    integers = np.sign(rows) * np.floor(share + 0.5)
    return integers.astype(np.int8), (largest[:, 0] / 127).astype(np.float32)


def codes(rows: Floats) -> npt.NDArray[np.uint8]:
    """Sign codes [N, ceil(E / 8)]: bit i % 8 (the lowest is 0) of byte i // 8 is v[i] > 0; unused bits are 0."""
    return np.packbits(rows > 0, axis=1, bitorder="little")


def best(scores: npt.NDArray[Any], most: int) -> list[int]:
    """The `most` highest, best first, equal ones in their order."""
    return [int(place) for place in np.argsort(-scores, kind="stable")[:most]]


def _case(
    name: str, rng: np.random.Generator, count: int, width: int, most: int, candidates: int, near: bool = False
) -> dict[str, Any]:
    rows = rng.standard_normal((count, width)).astype(np.float32)
    question = rng.standard_normal(width).astype(np.float32)
    if near:
        rows += question
    return _made(name, rows, question, most, candidates)


def _made(name: str, rows: Floats, question: Floats, most: int, candidates: int) -> dict[str, Any]:
    stored, asked = unit(rows), unit(question[None])
    halves = stored.astype(np.float16)
    exact = halves.astype(np.float64) @ asked[0].astype(np.float64)
    integers, scales = quantised(stored)
    asked_integers, asked_scale = quantised(asked)
    dots = integers.astype(np.int64) @ asked_integers[0].astype(np.int64)
    scores = dots.astype(np.float64) * scales.astype(np.float64)
    signs = codes(stored)
    distance = np.unpackbits(signs ^ codes(asked), axis=1).sum(axis=1).astype(np.int64)
    first = sorted(best(-distance, candidates))
    again = [first[place] for place in best(scores[first], most)]
    order = best(exact, most)
    _check_gaps(name, exact)
    return {
        "name": name,
        "rows": array(rows),
        "question": array(question),
        "most": most,
        "candidates": candidates,
        "fp16": {"stored": array(halves), "order": order, "scores": exact[order].tolist(), "tolerance": 1e-5},
        "int8": {
            "stored": array(integers),
            "scales": array(scales),
            "question": array(asked_integers[0]),
            "question_scale": float(asked_scale[0]),
            "dots": array(dots.astype(np.int32)),
            "order": best(scores, most),
            "scores": (scores[best(scores, most)] * float(asked_scale[0])).tolist(),
            "tolerance": 1e-6,
        },
        "binary": {"codes": array(signs), "distances": array(distance.astype(np.int32)), "order": again},
    }


def _check_gaps(name: str, scores: npt.NDArray[np.float64]) -> None:
    """Different scores lie so far apart that float32 sums give the same order."""
    gaps = np.diff(np.sort(scores))
    assert not ((gaps > 0) & (gaps < 2e-7)).any(), f"{name}: choose another seed"
