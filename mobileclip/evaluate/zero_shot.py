"""Zero-shot classification: an image belongs to the class whose texts are nearest.

A class is the mean over templates of its unit-length text embeddings, scaled to unit length again (CLIP, Radford et al.
2021, section 3.1.4); `open_clip.build_zero_shot_classifier` makes the same.

The rule for ties: classes with equal scores are ordered by their number, which does not look at the answer; so an
encoder that gives one embedding for everything scores what "always class 0" scores. An image whose embedding is not
finite is wrong, a class whose embedding is not finite is never chosen.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mobileclip.evaluate.encoder import Embeddings, Encoder, encode_distinct, finite, unit
from mobileclip.evaluate.intervals import wilson
from mobileclip.evaluate.templates import filled

CONFUSED = 10
"""So many pairs of classes are reported."""
_CHUNK = 1 << 24  # scores that are held at a time
_TEXTS = 4096  # texts that are held at a time: 80 templates of 1,000 classes need not be


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What was predicted for each image."""

    labels: npt.NDArray[np.int64]
    """[N]: the true classes."""
    predicted: npt.NDArray[np.int64]
    """[N]: the nearest classes; -1 where the embedding is not finite."""
    rank: npt.NDArray[np.int64]
    """[N]: how many classes come before the true one."""


def class_embeddings(
    encoder: Encoder,
    classes: Sequence[str],
    templates: Sequence[str],
    progress: Callable[[str], None] = lambda line: None,
) -> Embeddings:
    """float32 [C, E], of unit length; `templates` have the class's name where `{}` or `{c}` stands."""
    at_once = max(1, _TEXTS // len(templates))
    rows = []
    for start in range(0, len(classes), at_once):
        some = classes[start : start + at_once]
        texts = [filled(template, name) for name in some for template in templates]
        found = encode_distinct(encoder, texts).reshape(len(some), len(templates), -1)
        rows.append(unit(found.mean(axis=1)))
        if len(classes) > at_once:
            progress(f"texts of {min(start + at_once, len(classes)):,} of {len(classes):,} classes")
    return np.concatenate(rows)


def answer(images: Embeddings, classes: Embeddings, labels: npt.NDArray[np.int64]) -> Answers:
    """Predict the class of each image: [N, E] against [C, E]."""
    predicted = np.full(len(images), -1, np.int64)
    rank = np.full(len(images), len(classes), np.int64)
    number = np.arange(len(classes))
    for rows, scores in chunks(images, classes):
        known = finite(images[rows])
        truth = labels[rows, None]
        own = np.take_along_axis(scores, truth, axis=1)
        before = (scores > own) | ((scores == own) & (number < truth))
        usable = known & finite(own)
        rank[rows] = np.where(usable, before.sum(axis=1), len(classes))
        predicted[rows] = np.where(known & np.isfinite(scores).any(axis=1), scores.argmax(axis=1), -1)
    return Answers(labels=labels, predicted=predicted, rank=rank)


def chunks(images: Embeddings, classes: Embeddings) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
    """(rows, their cosines [n, C]); a class that is not finite gets minus infinity."""
    step = max(1, _CHUNK // max(1, len(classes)))
    broken = ~finite(classes)
    usable = np.where(broken[:, None], 0, classes)
    for start in range(0, len(images), step):
        rows = slice(start, min(start + step, len(images)))
        scores = np.nan_to_num(images[rows]) @ usable.T
        scores[:, broken] = -np.inf
        yield rows, scores


def metrics(answers: Answers, classes: Sequence[str]) -> dict[str, Any]:
    """Top-1 and top-5 with 95 % intervals, accuracy by class and its mean, and what is confused with what."""
    n = len(answers.labels)
    right = answers.rank == 0
    per_class = _per_class(answers, len(classes))
    found: dict[str, Any] = {"classes": len(classes), "top1": _share(right), "top1_interval": _interval(right)}
    top5 = answers.rank < 5
    found["top5"] = _share(top5) if len(classes) > 5 else None
    found["top5_interval"] = _interval(top5) if len(classes) > 5 else None
    found["mean_per_class"] = float(np.mean(list(per_class.values())))
    found["chance"] = 1 / len(classes)
    found["not_finite"] = int((answers.predicted < 0).sum())
    found["per_class"] = [
        {"class": classes[index], "accuracy": share, "n": int((answers.labels == index).sum())}
        for index, share in per_class.items()
    ]
    found["confused"] = confused(answers, classes)
    assert n, "a set without images"
    return found


def confused(answers: Answers, classes: Sequence[str], most: int = CONFUSED) -> list[dict[str, Any]]:
    """The most frequent mistakes, as a share of the images of the true class."""
    wrong = (answers.predicted != answers.labels) & (answers.predicted >= 0)
    pairs, counts = np.unique(answers.labels[wrong] * len(classes) + answers.predicted[wrong], return_counts=True)
    of_class = np.bincount(answers.labels, minlength=len(classes))
    order = np.argsort(-counts, kind="stable")[:most]
    return [
        {
            "true": classes[int(pairs[i]) // len(classes)],
            "predicted": classes[int(pairs[i]) % len(classes)],
            "count": int(counts[i]),
            "share": float(counts[i] / of_class[int(pairs[i]) // len(classes)]),
        }
        for i in order
    ]


def _per_class(answers: Answers, classes: int) -> Mapping[int, float]:
    """Top-1 accuracy of every class that has images."""
    of_class = np.bincount(answers.labels, minlength=classes)
    right = np.bincount(answers.labels[answers.rank == 0], minlength=classes)
    return {index: float(right[index] / of_class[index]) for index in range(classes) if of_class[index]}


def _share(right: npt.NDArray[np.bool_]) -> float:
    return float(right.mean())


def _interval(right: npt.NDArray[np.bool_]) -> list[float]:
    return list(wilson(float(right.sum()), len(right)))
