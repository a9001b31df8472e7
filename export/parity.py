"""How close the outputs of an artifact are to their reference, as one number each way of asking.

Floats: signal to error and cosine. Labels: the share of equal pixels. Objects (boxes, scores, labels and masks that
belong together): the share that is found again, and the floats of those that are. A share is told as decibels too, so
that one artifact has one figure: 10 log10(values / values that differ).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from export.targets import Gate

LARGEST_DB = 400.0
"""What is said of two equal arrays: more than float64 can tell apart."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """One output held against its reference."""

    db: float
    """10 log10(sum reference^2 / sum (output - reference)^2), in dB."""
    cosine: float
    max_error: float
    """Largest |output - reference|."""
    equal: float | None = None
    """Share of equal labels; None where the output is no labels."""
    found: float | None = None
    """Share of objects that were found again, of which the others speak; None where the output is no objects."""

    def passes(self, gate: Gate) -> bool:
        """Whether the figures reach the gate (NaN does not): labels by their share, all else by both others, and
        objects by the share that was found as well."""
        if self.equal is not None:
            return self.equal >= gate.equal
        return self.db >= gate.db and self.cosine >= gate.cosine and (self.found is None or self.found >= gate.found)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, without a share where there is none."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def compare(output: npt.ArrayLike, reference: npt.ArrayLike) -> Parity:
    """Compare two arrays of the same number of values; anything not finite in `output` gives -inf dB and cosine 0."""
    a = np.asarray(output, dtype=np.float64).ravel()
    b = np.asarray(reference, dtype=np.float64).ravel()
    assert a.shape == b.shape, f"{a.shape} against {b.shape}"
    if not np.isfinite(a).all():
        return Parity(db=-LARGEST_DB, cosine=0.0, max_error=float(np.finfo(np.float32).max))
    error, signal = float(((a - b) ** 2).sum()), float((b**2).sum())
    db = LARGEST_DB if error == 0 else -LARGEST_DB if signal == 0 else 10 * float(np.log10(signal / error))
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / lengths if lengths else float(error == 0)
    return Parity(db=min(db, LARGEST_DB), cosine=min(cosine, 1.0), max_error=float(np.abs(a - b).max(initial=0.0)))


def compare_labels(output: npt.ArrayLike, reference: npt.ArrayLike) -> Parity:
    """Compare two arrays of as many integers: `equal` is the share that agrees, and so is `cosine`."""
    a, b = np.asarray(output).ravel(), np.asarray(reference).ravel()
    assert a.shape == b.shape, f"{a.shape} against {b.shape}"
    wrong = int((a != b).sum())
    share = 1 - wrong / max(a.size, 1)
    db = LARGEST_DB if not wrong else 10 * float(np.log10(a.size / wrong))
    error = np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0)
    return Parity(db=db, cosine=share, max_error=float(error), equal=share)


def compare_outputs(
    outputs: Sequence[npt.NDArray[Any]], references: Sequence[npt.NDArray[Any]], specs: Sequence[Mapping[str, Any]]
) -> list[Parity]:
    """Compare all outputs of a run with their references, one `Parity` each.

    Args:
        specs: what the manifest says of each output; its `compare` chooses: `equal` (labels), `matched` (all outputs
            so marked describe the same objects: boxes, scores, labels and masks, rows in no certain order), or floats.
    """
    matched = [index for index, spec in enumerate(specs) if spec.get("compare") == "matched"]
    found: dict[int, Parity] = {}
    if matched:
        judged = compare_objects([outputs[i] for i in matched], [references[i] for i in matched])
        found = dict(zip(matched, judged, strict=True))
    for index, spec in enumerate(specs):
        if index not in found:
            judge = compare_labels if spec.get("compare") == "equal" else compare
            found[index] = judge(outputs[index], references[index])
    return [found[index] for index in range(len(specs))]


def compare_objects(
    outputs: Sequence[npt.NDArray[Any]], references: Sequence[npt.NDArray[Any]], overlap: float = 0.9
) -> list[Parity]:
    """Compare boxes [D, 4], scores [D], labels [D] and masks [D, h, w], whose rows may come in another order.

    An object of the reference is found again by an object of the same label that no other has claimed and whose box
    overlaps by at least `overlap` (intersection over union). Rows without area are empty places and count nowhere.
    """
    there = [row for row in range(len(references[0])) if _area(references[0][row]) > 0]
    free = [row for row in range(len(outputs[0])) if _area(outputs[0][row]) > 0]
    total = max(len(there), len(free), 1)
    pairs: list[tuple[int, int]] = []
    for row in there:
        same = [other for other in free if outputs[2][other] == references[2][row]]
        best = max(same, key=lambda other: _overlap(outputs[0][other], references[0][row]), default=None)
        if best is not None and _overlap(outputs[0][best], references[0][row]) >= overlap:
            free.remove(best)
            pairs.append((best, row))
    share = len(pairs) / total if there or free else 1.0
    judged = []
    for output, reference in zip(outputs, references, strict=True):
        mine = output[[a for a, _ in pairs]]
        theirs = reference[[b for _, b in pairs]]
        floats = compare(mine, theirs) if pairs else compare([0.0], [0.0] if share == 1 else [1.0])
        judged.append(Parity(db=floats.db, cosine=floats.cosine, max_error=floats.max_error, found=share))
    return judged


def mean(found: Sequence[Parity]) -> Parity:
    """One `Parity` of the means, with the largest error."""
    shares = [item.equal for item in found if item.equal is not None]
    kept = [item.found for item in found if item.found is not None]
    return Parity(
        db=float(np.mean([item.db for item in found])),
        cosine=float(np.mean([item.cosine for item in found])),
        max_error=max(item.max_error for item in found),
        equal=float(np.mean(shares)) if len(shares) == len(found) else None,
        found=float(np.mean(kept)) if kept else None,
    )


def worst(found: Sequence[Parity]) -> Parity:
    """One `Parity` no better than any of `found`."""
    shares = [item.equal for item in found if item.equal is not None]
    kept = [item.found for item in found if item.found is not None]
    return Parity(
        db=min(item.db for item in found),
        cosine=min(item.cosine for item in found),
        max_error=max(item.max_error for item in found),
        equal=min(shares) if len(shares) == len(found) else None,
        found=min(kept) if kept else None,
    )


def _area(box: npt.NDArray[Any]) -> float:
    return float(max(box[2] - box[0], 0) * max(box[3] - box[1], 0))


def _overlap(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    inside = np.concatenate([np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])])
    both = _area(inside)
    return both / (_area(a) + _area(b) - both) if both else 0.0
