"""What a quantised artifact must keep, in its users' terms: may it search an index of the float model, does it find the
same classes, are its maps as right, is it slower.

    numbers = measure(session, view, held_out, texts=rows)            # without a set: against the float view
    numbers |= measure_set(mine, theirs, "scenes/val")[0]             # with one (gate_sets.py): what users ask
    verdict = judge(numbers, LIMITS["w8a8"], pictures=len(held_out))
    verdict.failures                                                  # a plain sentence for each limit that is missed

Measuring gives numbers by name and judges nothing; `judge` compares those that there are with their limits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from export.parity import compare_objects
from export.runtimes import Session
from mobileclip.evaluate.encoder import finite, unit

Array = npt.NDArray[Any]
Runs = Session | nn.Module
SAME = 1e-6
"""Float embeddings whose cosine is this near to 1 are of one picture: either may be found."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What must be reached; a number that was not measured is not judged. Shares and cosines are 0..1."""

    cosine_mean: float = 0.99
    """Least mean cosine between quantised and float embeddings."""
    cosine_p1: float = 0.97
    """Least cosine that all but one picture in a hundred reach."""
    agreement: float = 0.95
    """Least share of pictures for which both choose the same text."""
    index: float = 0.98
    """Least R@1 of quantised queries in an index of float embeddings of the same pictures."""
    zero_shot: float = 0.01
    """Most of zero-shot top-1 that may be lost."""
    retrieval: float = 0.01
    """Most of R@1 that may be lost, each way."""
    labels: float = 0.9
    """Least mIoU of quantised labels against the float model's."""
    miou: float = 0.01
    """Most of mIoU that may be lost."""
    ap: float = 0.01
    """Most of the average precision of boxes or masks that may be lost."""
    objects: float = 0.8
    """Least share of the float model's objects that are found again."""
    depth: float = 0.05
    """Most RMS of the difference of depths over the RMS of the float model's."""
    rmse: float = 0.03
    """Most that RMSE may rise, as a share of it."""


_TIGHT = Limits(cosine_mean=0.995, cosine_p1=0.985, agreement=0.97, index=0.99, labels=0.93, objects=0.85, depth=0.03)
LIMITS: Mapping[str, Limits] = {
    "w8": _TIGHT,
    "w8a8": Limits(),
    "w8p": _TIGHT,
    "w6p": _TIGHT,
    "w4p": Limits(cosine_mean=0.95, cosine_p1=0.9, agreement=0.9, index=0.9, labels=0.8, objects=0.7, depth=0.1),
    "w6pj": _TIGHT,
    "w4pj": Limits(cosine_mean=0.95, cosine_p1=0.9, agreement=0.9, index=0.9, labels=0.8, objects=0.7, depth=0.1),
    "mixed": Limits(),
    "auto": _TIGHT,
}
"""Precision -> its limits; 4 bits are only held to what a gallery can still be searched with."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """One number and its limit."""

    name: str
    value: float
    limit: float
    better: "Better"
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was measured and whether it is enough."""

    passed: bool
    pictures: int
    """That were measured."""
    numbers: tuple[Number, ...]
    failures: tuple[str, ...]
    """A sentence for each number beyond its limit."""
    told: Mapping[str, float]
    """Further numbers, without a limit."""

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **asdict(self),
            "numbers": [asdict(number) for number in self.numbers],
            "failures": list(self.failures),
            "told": dict(self.told),
        }


Better = Literal["higher", "lower"]
_RULES: Mapping[str, tuple[str, Better, str]] = {
    "cosine_mean": (
        "cosine_mean",
        "higher",
        "embeddings have a mean cosine of {value:.4f} to the float model's where {limit} is needed",
    ),
    "cosine_p1": (
        "cosine_p1",
        "higher",
        "one embedding in a hundred has a cosine of {value:.4f} or less to the float model's where {limit} is needed",
    ),
    "agreement": (
        "agreement",
        "higher",
        "{value:.1%} of the pictures get the text that the float model gives them where {limit:.1%} must",
    ),
    "index": (
        "index",
        "higher",
        "{value:.1%} of the pictures are found first in an index of float embeddings where {limit:.1%} must be",
    ),
    "zero_shot_lost": ("zero_shot", "lower", "zero-shot top-1 falls by {value:.1%} where {limit:.1%} is allowed"),
    "image_to_text_lost": ("retrieval", "lower", "R@1 of pictures falls by {value:.1%} where {limit:.1%} is allowed"),
    "text_to_image_lost": ("retrieval", "lower", "R@1 of texts falls by {value:.1%} where {limit:.1%} is allowed"),
    "labels": (
        "labels",
        "higher",
        "labels have an mIoU of {value:.3f} with the float model's where {limit} is needed",
    ),
    "miou_lost": ("miou", "lower", "mIoU falls by {value:.1%} where {limit:.1%} is allowed"),
    "box_ap_lost": ("ap", "lower", "the AP of boxes falls by {value:.1%} where {limit:.1%} is allowed"),
    "mask_ap_lost": ("ap", "lower", "the AP of masks falls by {value:.1%} where {limit:.1%} is allowed"),
    "objects": (
        "objects",
        "higher",
        "{value:.1%} of the float model's objects are found again where {limit:.1%} must be",
    ),
    "depth": ("depth", "lower", "depths are {value:.1%} away from the float model's where {limit:.1%} is allowed"),
    "rmse_rise": ("rmse", "lower", "the RMSE of depths rises by {value:.1%} where {limit:.1%} is allowed"),
}
"""Number -> the field of its limit, which way is better, and what is said where it is missed."""


def judge(
    numbers: Mapping[str, float],
    limits: Limits,
    *,
    pictures: int,
    loose: Sequence[str] = (),
    slower: tuple[float, float, float] | None = None,
) -> Verdict:
    """Numbers against their limits.

    Args:
        numbers: what `measure` and `measure_set` gave; those without a rule are told and not judged.
        limits: of the precision (`LIMITS`), or the user's own.
        pictures: that were measured.
        loose: operators that left the delegates with quantisation (`new_loose`).
        slower: (ratio, low, high) of `slowdown`; missed only if all of the interval is above 1.

    Returns:
        What is not finite fails.
    """
    judged: list[Number] = []
    failures: list[str] = []

    def note(name: str, value: float, limit: float, better: Better, sentence: str) -> None:
        passed = bool(value >= limit if better == "higher" else value <= limit)  # a NaN is neither
        judged.append(Number(name=name, value=value, limit=limit, better=better, passed=passed))
        if not passed:
            failures.append(sentence)

    for name, (field, better, sentence) in _RULES.items():
        if name in numbers:
            value, limit = float(numbers[name]), float(getattr(limits, field))
            note(name, value, limit, better, sentence.format(value=value, limit=limit) + ".")
    listed = f"outside of the delegates, unlike in floats, are {', '.join(loose)}."
    note("new_loose", float(len(loose)), 0.0, "lower", listed)
    if slower is not None:
        ratio, low, high = slower
        told = f"it takes {ratio:.2f} times as long as in floats (95 % interval {low:.2f} to {high:.2f})."
        note("slower_low", low, 1.0, "lower", told)
    rest = {name: float(value) for name, value in numbers.items() if name not in _RULES}
    return Verdict(passed=not failures, pictures=pictures, numbers=tuple(judged), failures=tuple(failures), told=rest)


# Numbers of arrays


def embeddings(after: Array, before: Array, texts: Array | None = None) -> dict[str, float]:
    """Quantised against float embeddings [N, E] of the same pictures, of any length.

    `cosine_mean`, `cosine_p1` (1st hundredth), `index` (R@1 of quantised queries among all float ones) and, with
    embeddings of texts [T, E], `agreement` (same nearest text). A picture without a finite embedding has a cosine of 0
    and is found nowhere.
    """
    good = finite(after) & finite(before)
    a, b = (unit(np.where(good[:, None], rows, 0).astype(np.float32)) for rows in (after, before))
    a, b = (np.where(good[:, None], rows, 0) for rows in (a, b))
    cosines = (a.astype(np.float64) * b).sum(axis=1)
    scores = a @ b.T
    same = b @ b.T > 1 - SAME
    np.fill_diagonal(same, True)
    own = np.where(same, scores, -np.inf).max(axis=1)
    others = np.where(same, -np.inf, scores).max(axis=1)
    found = {
        "cosine_mean": float(cosines.mean()),
        "cosine_p1": float(np.percentile(cosines, 1)),
        "index": float(((own > others) & good).mean()),
    }
    if texts is not None:
        t = unit(np.asarray(texts, np.float32))
        found["agreement"] = float((((a @ t.T).argmax(axis=1) == (b @ t.T).argmax(axis=1)) & good).mean())
    return found


def labels(after: Sequence[Array], before: Sequence[Array]) -> dict[str, float]:
    """Quantised against float labels, arrays of integers of equal shapes: `labels`, the mIoU over the classes that
    either has, and `labels_equal`, the share of equal pixels."""
    a, b = (np.concatenate([np.asarray(item).ravel() for item in rows]).astype(np.int64) for rows in (after, before))
    count = int(max(a.max(initial=0), b.max(initial=0))) + 1
    joint = np.bincount(b * count + a, minlength=count * count).reshape(count, count)
    union = joint.sum(0) + joint.sum(1) - np.diag(joint)
    return {
        "labels": float((np.diag(joint)[union > 0] / union[union > 0]).mean()),
        "labels_equal": float((a == b).mean()),
    }


def depths(after: Sequence[Array], before: Sequence[Array]) -> dict[str, float]:
    """Quantised against float depths, any shapes: `depth`, RMS of the difference over RMS of the float ones."""
    a, b = (np.concatenate([np.asarray(item, np.float64).ravel() for item in rows]) for rows in (after, before))
    return {"depth": float(np.sqrt(((a - b) ** 2).mean() / max(float((b**2).mean()), 1e-30)))}


def objects(after: Sequence[Sequence[Array]], before: Sequence[Sequence[Array]]) -> dict[str, float]:
    """Quantised against float boxes, scores, labels and masks of each picture: `objects`, the mean share found again
    with an overlap of a half."""
    shares = [compare_objects(mine, theirs, overlap=0.5)[0].found for mine, theirs in zip(after, before, strict=True)]
    return {"objects": float(np.mean([share for share in shares if share is not None]))}


def new_loose(entry: Mapping[str, Any], floats: Mapping[str, Any]) -> list[str]:
    """Operators that compute outside of the delegates of a manifest's entry and not, or not as often, in the one in
    floats."""
    before = {item["operator"]: item["count"] for item in floats["loose"] if item["compute"]}
    return [
        item["operator"]
        for item in entry["loose"]
        if item["compute"] and item["count"] > before.get(item["operator"], 0)
    ]


def slowdown(after_ms: Sequence[float], before_ms: Sequence[float], draws: int = 2000) -> tuple[float, float, float]:
    """Median time quantised over median time in floats, with the ends of its 95 % bootstrap interval; take the times
    in turns in one run."""
    generator = np.random.default_rng(0)
    medians = [np.median(generator.choice(np.asarray(x), (draws, len(x))), axis=1) for x in (after_ms, before_ms)]
    low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5])
    return float(np.median(after_ms) / np.median(before_ms)), float(low), float(high)


# Measuring


def measure(
    after: Runs,
    before: Runs,
    inputs: Sequence[Tensor],
    outputs: Sequence[Mapping[str, Any]],
    *,
    texts: Array | None = None,
) -> dict[str, float]:
    """Numbers of a quantised artifact or module against one in floats, picture by picture.

    Args:
        after: a session (`export.runtimes.open_artifact`) or an eager module, of a batch of one.
        before: likewise, in floats: the view, or its artifact.
        inputs: what the view takes, [1, 3, H, W] in 0..1.
        outputs: the view's outputs as the manifest tells them (`OutputSpec.as_dict`); meaning and `compare` decide what
            is measured, and of a view with several tasks each is.
        texts: embeddings of texts [T, E] to choose among, for views that give embeddings.
    """
    rows = [(run(after, x), run(before, x)) for x in inputs]
    found: dict[str, float] = {}
    matched = [place for place, spec in enumerate(outputs) if spec.get("compare") == "matched"]
    if matched:
        found |= objects(*([[row[side][place] for place in matched] for row in rows] for side in (0, 1)))
    for place, spec in enumerate(outputs):
        if place in matched:
            continue
        mine, theirs = ([row[side][place] for row in rows] for side in (0, 1))
        meaning = str(spec.get("meaning", ""))
        if spec.get("compare") == "equal":
            found |= labels(mine, theirs)
        elif meaning.startswith("logits"):
            found |= labels(*([item.argmax(axis=1) for item in side] for side in (mine, theirs)))
        elif spec["name"] == "depth":
            found |= depths(mine, theirs)
        elif meaning.startswith("features of each pixel"):
            pooled = [np.stack([item.reshape(item.shape[1], -1).mean(1) for item in side]) for side in (mine, theirs)]
            found |= embeddings(pooled[0], pooled[1], texts)
        elif "embedding" in meaning:
            rows_of = [np.concatenate([item.reshape(1, -1) for item in side]) for side in (mine, theirs)]
            found |= embeddings(rows_of[0], rows_of[1], texts)
    return found


def run(what: Runs, x: Tensor) -> list[Array]:
    """Outputs of a session or an eager module for one input."""
    if isinstance(what, nn.Module):
        with torch.no_grad():
            out = what(x)
        return [item.numpy() for item in (out if isinstance(out, list | tuple) else [out])]
    return what.run([x.numpy()])
