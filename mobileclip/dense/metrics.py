"""How right segmentations and depths are (detection: `coco_metrics`).

    metric = SegmentationMetric(("sky", "road"))
    metric.add(predictor(sample.image), sample)
    metric.result()["figures"]                     # {"mIoU": 0.62, "aAcc": 0.91, "mAcc": 0.70}

mIoU is of the whole set: the counts of all pictures are added up before anything is divided, as the ADE20K benchmark
does, unlike a mean over pictures. Figures of depth are the opposite: each is of a picture, then the mean over pictures
(Eigen et al. 2014, arXiv 1406.2283, section 4.2), on the crop of that paper.

Legend: K classes; H, W rows and columns.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from mobileclip.dense.config import IGNORE
from mobileclip.dense.samples import Depths, Prediction, Sample, Segmented
from mobileclip.errors import DataError

EIGEN_CROP = (45, 471, 41, 601)
"""Rows and columns (first, behind the last) of 480 x 640 that count (BTS and its followers: `eigen_crop`)."""
EIGEN_SIZE = (480, 640)
"""The only size that the crop is defined for."""
AT_ONCE = 1 << 22
"""Pixels that are measured together: of a picture of 12,000 x 9,000 the numbers never all exist at once."""
DEPTH_FIGURES = ("rmse", "d1", "d2", "d3", "abs_rel", "sq_rel", "rmse_log", "log10", "silog")
"""What is said of a depth map. `d1` to `d3` are shares: higher is better; all others are errors."""


class Metric(Protocol):
    """Takes in what a model says of each picture, then says how right it was."""

    better: Literal["higher", "lower"]
    """Of the first figure."""

    def add(self, prediction: Any, sample: Sample) -> None:
        """Take in one picture."""
        ...

    def result(self) -> dict[str, Any]:
        """`figures` (name -> value, the task's own first), and tables."""
        ...


class SegmentationMetric:
    """Counts of (true class, predicted class) over all pixels whose truth is not 255."""

    better: Literal["higher", "lower"] = "higher"

    def __init__(self, labels: Sequence[str]) -> None:
        """`labels`: names of the K classes.

        Raises:
            DataError: there are none, or more than 255.
        """
        if not 0 < len(labels) <= IGNORE:
            raise DataError(f"{len(labels)} classes: 1 to {IGNORE} can be measured, since labels have 8 bits.")
        self.labels = tuple(labels)
        self.pictures = 0
        self.confusion: npt.NDArray[np.int64] = np.zeros((len(labels), len(labels)), np.int64)
        """[K, K] pixels: rows are the truth, columns the prediction."""

    def add(self, prediction: Prediction, sample: Sample) -> None:
        """Take in one picture.

        Raises:
            DataError: it has no labels, a class that there is not, or the two are of different sizes.
        """
        assert isinstance(prediction, Segmented), f"a segmentation was expected, not {type(prediction).__name__}"
        if sample.labels is None:
            raise DataError(f"{sample.name} has no labels: open the set for segmentation.")
        _same_size(sample.name, prediction.labels.shape, sample.labels.shape)
        found = np.zeros_like(self.confusion)
        for part in _parts(sample.labels.shape):
            found += self._counted(prediction.labels[part], sample.labels[part], sample.name)
        self.confusion += found
        self.pictures += 1

    def _counted(self, said: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.int64]:
        """Some rows of a picture as counts [K, K]."""
        count, counted = len(self.labels), truth != IGNORE
        truth, said = truth[counted], said[counted]
        for what, found in (("truth", truth), ("prediction", said)):
            if found.size and int(found.max()) >= count:
                raise DataError(
                    f"the {what} of {name} holds class {int(found.max())}: 0 to {count - 1} are allowed (and "
                    f"{IGNORE} in the truth); take the labels that belong to the set."
                )
        joint = truth.astype(np.int32) * count + said
        return np.bincount(joint, minlength=count * count).reshape(count, count)

    def merge(self, other: "SegmentationMetric") -> None:
        """Take in all that another one of the same classes has taken in."""
        assert self.labels == other.labels, "metrics of different classes cannot be added up"
        self.confusion += other.confusion
        self.pictures += other.pictures

    def result(self) -> dict[str, Any]:
        """`figures` mIoU, aAcc, mAcc (shares; NaN where no pixel counts); `per_class`, best first; `confusion`.

        A class that is neither in the truth nor predicted has no IoU (NaN, in tables None) and is left out of the mean.
        """
        right = np.diag(self.confusion).astype(np.float64)
        true, said = self.confusion.sum(1), self.confusion.sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = right / (true + said - right)
            accuracy = right / true
        total = int(self.confusion.sum())
        figures = {
            "mIoU": _mean_of_known(iou),
            "aAcc": float(right.sum() / total) if total else float("nan"),
            "mAcc": _mean_of_known(accuracy),
        }
        order = np.argsort(np.where(np.isnan(iou), -1.0, iou), kind="stable")[::-1]
        rows = [
            {
                "class": int(place),
                "label": self.labels[place],
                "iou": _known(iou[place]),
                "acc": _known(accuracy[place]),
                "pixels": int(true[place]),
                "predicted": int(said[place]),
            }
            for place in order
        ]
        return {
            "figures": figures,
            "pictures": self.pictures,
            "per_class": rows,
            "confusion": self.confusion.tolist(),
        }


class DepthMetric:
    """Errors of depth maps, a picture at a time."""

    better: Literal["higher", "lower"] = "lower"

    def __init__(
        self, crop: Literal["eigen"] | None = "eigen", min_depth: float = 1e-3, max_depth: float = 10.0
    ) -> None:
        """Args:
        crop: "eigen" counts only rows 45:471 and columns 41:601 of pictures of 480 x 640; others count whole.
        min_depth, max_depth: in metres; only truth strictly between them counts, and predictions are clipped to them
            (not finite ones to the nearer end) before they are compared.

        Raises:
            DataError: no such crop, or the range is empty.
        """
        if crop not in (None, "eigen"):
            raise DataError(f"crop is '{crop}': 'eigen' or none is allowed.")
        if not 0 < min_depth < max_depth < float("inf"):
            raise DataError(f"depths from {min_depth} to {max_depth} m: 0 < least < most is allowed.")
        self.crop = crop
        self.range = (min_depth, max_depth)
        self.rows: list[dict[str, Any]] = []
        self.skipped: list[str] = []

    def add(self, prediction: Prediction, sample: Sample) -> None:
        """Take in one picture; one whose truth has no depth that counts is skipped and counted.

        Raises:
            DataError: it has no depth, or the two are of different sizes.
        """
        assert isinstance(prediction, Depths), f"depths were expected, not {type(prediction).__name__}"
        if sample.depth is None:
            raise DataError(f"{sample.name} has no depth: open the set for depth.")
        _same_size(sample.name, prediction.metres.shape, sample.depth.shape)
        counted = self.counted(sample.depth)
        if not counted.any():
            self.skipped.append(sample.name)
            return
        said, truth = prediction.metres[counted], sample.depth[counted]
        self.rows.append({"name": sample.name, "pixels": truth.size, **_depth_figures(said, truth, self.range)})

    def counted(self, depth: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """[H, W]: which pixels of a truth count."""
        low, high = self.range
        out: npt.NDArray[np.bool_] = (depth > low) & (depth < high)
        if self.crop == "eigen" and depth.shape == EIGEN_SIZE:
            top, bottom, left, right = EIGEN_CROP
            inside = np.zeros_like(out)
            inside[top:bottom, left:right] = True
            out &= inside
        return out

    def merge(self, other: "DepthMetric") -> None:
        """Take in all that another one of the same crop and range has taken in."""
        assert (self.crop, self.range) == (other.crop, other.range), "metrics of different pixels cannot be joined"
        self.rows += other.rows
        self.skipped += other.skipped

    def result(self) -> dict[str, Any]:
        """`figures`, each the mean over pictures (NaN where there is none); `per_picture`, worst RMSE first;
        `skipped`, the names of pictures in whose truth nothing counts."""
        figures = {
            name: float(np.mean([row[name] for row in self.rows])) if self.rows else float("nan")
            for name in DEPTH_FIGURES
        }
        return {
            "figures": figures,
            "pictures": len(self.rows),
            "skipped": list(self.skipped),
            "per_picture": sorted(self.rows, key=lambda row: -row["rmse"]),
        }


def _depth_figures(
    said: npt.NDArray[np.float32], truth: npt.NDArray[np.float32], limits: tuple[float, float]
) -> dict[str, float]:
    """Of pixels [N], both in metres: Eigen et al. 2014, section 4.2; `silog` is KITTI's, times 100; `log10` the mean of
    |log10 p - log10 g| (Make3D)."""
    sums = dict.fromkeys(("off2", "d1", "d2", "d3", "abs_rel", "sq_rel", "log2", "log1", "log"), 0.0)
    for p, g in _within(said, truth, limits):
        ratio, off, logs = np.maximum(p / g, g / p), p - g, np.log(p) - np.log(g)
        for power in (1, 2, 3):
            sums[f"d{power}"] += float(np.sum(ratio < 1.25**power))
        for name, values in (("off2", off**2), ("abs_rel", np.abs(off) / g), ("sq_rel", off**2 / g)):
            sums[name] += float(np.sum(values))
        for name, values in (("log2", logs**2), ("log1", np.abs(logs)), ("log", logs)):
            sums[name] += float(np.sum(values))
    mean = {name: value / truth.size for name, value in sums.items()}
    spread = sum(float(np.sum((np.log(p) - np.log(g) - mean["log"]) ** 2)) for p, g in _within(said, truth, limits))
    return {
        "rmse": float(np.sqrt(mean["off2"])),
        **{name: mean[name] for name in ("d1", "d2", "d3", "abs_rel", "sq_rel")},
        "rmse_log": float(np.sqrt(mean["log2"])),
        "log10": float(mean["log1"] / np.log(10)),
        "silog": float(100 * np.sqrt(spread / truth.size)),
    }


def _within(
    said: npt.NDArray[np.float32], truth: npt.NDArray[np.float32], limits: tuple[float, float]
) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Predictions inside the limits, and their truth, `AT_ONCE` pixels at a time."""
    low, high = limits
    for first in range(0, truth.size, AT_ONCE):
        part = slice(first, first + AT_ONCE)
        known = np.nan_to_num(said[part].astype(np.float64), nan=low, posinf=high, neginf=low)
        yield np.clip(known, low, high), truth[part].astype(np.float64)


def _parts(size: tuple[int, ...]) -> Iterator[slice]:
    """Rows of a picture, about `AT_ONCE` pixels at a time."""
    step = max(AT_ONCE // size[1], 1)
    return (slice(top, top + step) for top in range(0, size[0], step))


def _same_size(name: str, said: tuple[int, ...], truth: tuple[int, ...]) -> None:
    if said != truth:
        raise DataError(
            f"the prediction of {name} has {said[0]} x {said[1]} pixels, its truth {truth[0]} x {truth[1]}: a "
            "prediction must have the picture's own size."
        )


def _mean_of_known(values: npt.NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
