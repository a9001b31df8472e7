"""Retrieval with several captions an image: R@1, R@5, R@10 and the median rank, both ways.

An image is right at k when any of its captions is among the k nearest texts; a text is right at k when any image that
it belongs to is among the k nearest images.

Rules that decide the doubtful cases:
- Ties count against: an item that scores the same as the right one (within 1e-6, the rounding of float32 products)
  comes before it. So an encoder that gives one embedding for everything finds nothing. What is not finite comes first.
- Equal captions are one text: it is asked once, and every image that has it is a right answer.
- R@k is not told (None) where some query has fewer than k wrong answers to avoid.

Scores are made in blocks, so 100,000 images against 500,000 texts need 64 MB, not 200 GB.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mobileclip.evaluate.encoder import Embeddings, finite
from mobileclip.evaluate.intervals import clustered

KS = (1, 5, 10)
EQUAL = 1e-6
"""Cosines closer than this are equal."""
LOST = np.iinfo(np.int64).max
"""Rank of what cannot be found: its own embedding is not finite."""
ROWS, COLUMNS = 2048, 8192
"""Of a block of scores: 64 MB."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Which image belongs to which text; each pair once, in order of image."""

    image: npt.NDArray[np.int64]
    text: npt.NDArray[np.int64]
    images: int
    texts: int


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """How many wrong answers come before the best right one."""

    image_to_text: npt.NDArray[np.int64]
    """[images]"""
    text_to_image: npt.NDArray[np.int64]
    """[texts]"""


def pairs_of(captions: Sequence[Sequence[str]]) -> tuple[Pairs, list[str]]:
    """Captions of every image -> the pairs, and the distinct texts."""
    place: dict[str, int] = {}
    found = [
        (image, place.setdefault(text, len(place)))
        for image, texts in enumerate(captions)
        for text in dict.fromkeys(texts)
    ]
    image, text = np.array(found, np.int64).reshape(-1, 2).T
    return Pairs(image=image, text=text, images=len(captions), texts=len(place)), list(place)


def ranks(
    images: Embeddings, texts: Embeddings, pairs: Pairs, progress: Callable[[str], None] = lambda line: None
) -> Ranks:
    """Rank the right answers among all: images [N, E] and texts [T, E] of unit length."""
    own = _own(images, texts, pairs)
    best_image, best_text = _best(own, pairs.image, pairs.images), _best(own, pairs.text, pairs.texts)
    before_image, before_text = np.zeros(pairs.images, np.int64), np.zeros(pairs.texts, np.int64)
    for top in range(0, pairs.images, ROWS):
        rows = slice(top, min(top + ROWS, pairs.images))
        first, last = np.searchsorted(pairs.image, (rows.start, rows.stop))
        mine, theirs = pairs.image[first:last] - top, pairs.text[first:last]
        for left in range(0, pairs.texts, COLUMNS):
            columns = slice(left, min(left + COLUMNS, pairs.texts))
            with np.errstate(invalid="ignore"):
                scores = images[rows] @ texts[columns].T
            here = (theirs >= columns.start) & (theirs < columns.stop)
            scores[mine[here], theirs[here] - left] = -np.inf  # a right answer does not stand in another's way
            # "not less" and not "more or equal": what is not finite comes first
            before_image[rows] += (~(scores < best_image[rows, None] - EQUAL)).sum(axis=1)
            before_text[columns] += (~(scores < best_text[None, columns] - EQUAL)).sum(axis=0)
        if pairs.images > ROWS:
            progress(f"ranked {rows.stop:,} of {pairs.images:,} pictures")
    before_image[~np.isfinite(best_image)] = LOST
    before_text[~np.isfinite(best_text)] = LOST
    return Ranks(image_to_text=before_image, text_to_image=before_text)


def metrics(found: Ranks, pairs: Pairs) -> dict[str, Any]:
    """R@k with 95 % intervals and the median rank (1 is best), for both directions."""
    texts_of, images_of = np.bincount(pairs.image), np.bincount(pairs.text)
    _, first = np.unique(pairs.text, return_index=True)
    return {
        "texts": pairs.texts,
        "image_to_text": _direction(found.image_to_text, pairs.texts, texts_of, np.arange(pairs.images)),
        "text_to_image": _direction(found.text_to_image, pairs.images, images_of, pairs.image[first]),
    }


def nearest(images: Embeddings, texts: Embeddings) -> npt.NDArray[np.int64]:
    """[N]: the text nearest to each image, the first of equal ones; -1 where the image is not finite."""
    best = np.full(len(images), -np.inf, np.float32)
    chosen = np.full(len(images), -1, np.int64)
    broken = ~finite(texts)
    usable = np.where(broken[:, None], 0, texts)
    for left in range(0, len(texts), COLUMNS):
        for top in range(0, len(images), ROWS):
            rows = slice(top, top + ROWS)
            scores = images[rows] @ usable[left : left + COLUMNS].T
            scores[:, broken[left : left + COLUMNS]] = -np.inf
            place = scores.argmax(axis=1)
            value = np.take_along_axis(scores, place[:, None], axis=1)[:, 0]
            better = value > best[rows]
            best[rows][better] = value[better]
            chosen[rows][better] = left + place[better]
    return chosen


def _direction(
    rank: npt.NDArray[np.int64], gallery: int, own: npt.NDArray[np.int64], cluster: npt.NDArray[np.int64]
) -> dict[str, Any]:
    """One way; `own` is how many right answers each query has, `cluster` which queries go together."""
    out: dict[str, Any] = {"n": len(rank), "gallery": gallery}
    for k in KS:
        right = rank < k
        told = gallery - int(own.max()) >= k
        out[f"R@{k}"] = float(right.mean()) if told else None
        out[f"R@{k}_interval"] = list(clustered(right, cluster)) if told else None
    out["median_rank"] = float(np.median(np.minimum(rank, gallery - 1))) + 1
    out["not_finite"] = int((rank == LOST).sum())
    return out


def _own(images: Embeddings, texts: Embeddings, pairs: Pairs) -> npt.NDArray[np.float32]:
    """The cosine of every pair."""
    out = np.empty(len(pairs.image), np.float32)
    for start in range(0, len(out), COLUMNS):
        some = slice(start, start + COLUMNS)
        np.einsum("ij,ij->i", images[pairs.image[some]], texts[pairs.text[some]], out=out[some])
    return out


def _best(own: npt.NDArray[np.float32], of: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float32]:
    """The best right answer of each query; minus infinity where none is finite."""
    out = np.full(count, -np.inf, np.float32)
    np.fmax.at(out, of, own)
    return out
