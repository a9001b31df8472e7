"""COCO's average precision of boxes and of masks, and the result files that COCO's own tools take.

    metric = DetectionMetric(labels, category_ids)
    for sample in truth:
        metric.add(predictor(sample.image), sample)
    metric.result()["figures"]                      # box_ap, mask_ap, then the twelve numbers of each
    metric.write("results")                         # bbox.json, segm.json: `COCO.loadRes` of pycocotools takes them

Masks are kept as run lengths, so memory grows with objects, not with pixels. The matching is done by faster_coco_eval
(extra `dense`), or by pycocotools where only that is installed; both give the same numbers.
"""

import contextlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mobileclip.dense.samples import Detected, Objects, Sample
from mobileclip.errors import DataError, MissingExtra, OutputError

Kind = Literal["bbox", "segm"]
KINDS: Mapping[Kind, str] = {"bbox": "box", "segm": "mask"}
"""COCO's name -> the name in figures."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class CocoTools:
    """The parts of a package that speaks COCO."""

    name: str
    coco: Any
    """Class `COCO`."""
    evaluator: Any
    """Class `COCOeval`."""
    mask: Any
    """Module of run lengths."""


class DetectionMetric:
    """Average precision over pairs of prediction and truth.

    Args:
        labels: name of each class, in the order of `Detected.classes`.
        category_ids: the data set's own id of each class, for the result files; empty: 0, 1, 2, …

    Raises:
        MissingExtra: neither faster_coco_eval nor pycocotools is installed.
    """

    better: Literal["higher", "lower"] = "higher"

    def __init__(self, labels: Sequence[str], category_ids: Sequence[int] = ()) -> None:
        self.labels = tuple(labels)
        self.category_ids = tuple(category_ids) or tuple(range(len(self.labels)))
        assert len(self.category_ids) == len(self.labels), "a category id for each label"
        self.tools = coco_tools()
        self._images: dict[int, dict[str, Any]] = {}
        self._truth: Rows = []
        self._found: dict[Kind, Rows] = {"bbox": [], "segm": []}

    def add(self, prediction: Detected, sample: Sample) -> None:
        """Take one picture; `prediction` is in the pixels of `sample.image`.

        Raises:
            DataError: a picture of the same id was taken before.
        """
        height, width = sample.image.shape[:2]
        if sample.image_id in self._images:
            raise DataError(
                f"{sample.name} has the image id {sample.image_id} of {self._images[sample.image_id]['file_name']}: "
                "ids must differ; give each picture its own."
            )
        self._images[sample.image_id] = {
            "id": sample.image_id,
            "file_name": sample.name,
            "height": height,
            "width": width,
        }
        assert sample.objects is not None, f"{sample.name} has no objects, not even none"
        assert prediction.masks.shape[1:] == (height, width), "masks of the size of the picture"
        self._add_truth(sample.objects, sample.image_id)
        boxes, codes = _xywh(prediction.boxes), self._encode(prediction.masks)
        for place in range(len(prediction.scores)):
            shared = {
                "image_id": sample.image_id,
                "category_id": self.category_ids[int(prediction.classes[place])],
                "score": float(prediction.scores[place]),
            }
            self._found["bbox"].append(shared | {"bbox": boxes[place]})
            self._found["segm"].append(shared | {"segmentation": codes[place]})

    def result(self) -> dict[str, Any]:
        """All numbers, as JSON values.

        Returns:
            `figures`: `box_ap` (the metric of the task), `mask_ap`, and for `box` and `mask` each the rest of COCO's
            twelve: ap50, ap75, ap_small, ap_medium, ap_large, ar1, ar10, ar100, ar_small, ar_medium, ar_large; all
            0..1, or -1 where the truth has no such object. `per_class`: a row for each class with `label`,
            `category_id`, `objects` (without crowds), and the AP, AP50 and AP75 of boxes and masks. `bbox` and `segm`:
            the result rows in COCO's formats. `images`: how many. `tools`: the package that matched.
        """
        curves = {kind: self._match(kind) for kind in KINDS}
        each = {kind: summary(curve) for kind, curve in curves.items()}
        figures = {f"{KINDS[kind]}_ap": each[kind]["ap"] for kind in KINDS}
        for kind, own in KINDS.items():
            figures |= {f"{own}_{name}": value for name, value in each[kind].items() if name != "ap"}
        return {
            "figures": figures,
            "per_class": self._per_class(curves),
            "bbox": self._found["bbox"],
            "segm": self._found["segm"],
            "images": len(self._images),
            "tools": self.tools.name,
        }

    def write(self, folder: str | Path) -> None:
        """`bbox.json` (boxes as left, top, width, height) and `segm.json` (run lengths) in `folder`, as COCO's server
        and `loadRes` of pycocotools take them.

        Raises:
            OutputError: the files cannot be written.
        """
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            for kind, rows in self._found.items():
                (Path(folder) / f"{kind}.json").write_text(json.dumps(rows), encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"the detections cannot be written to {folder} ({error.strerror}): give a folder that can be written."
            ) from error

    def _add_truth(self, objects: Objects, image_id: int) -> None:
        boxes, codes = _xywh(objects.boxes), self._encode(objects.masks)
        for place, code in enumerate(codes):
            self._truth.append(
                {
                    "id": len(self._truth) + 1,
                    "image_id": image_id,
                    "category_id": int(objects.classes[place]),
                    "bbox": boxes[place],
                    "segmentation": code,
                    "area": float(objects.area[place]),
                    "iscrowd": int(objects.crowd[place]),
                }
            )

    def _encode(self, masks: npt.NDArray[np.bool_]) -> Rows:
        """[N, H, W] -> COCO's compressed run lengths."""
        size = [int(side) for side in masks.shape[1:]]
        codes = []
        for mask in masks:
            code = self.tools.mask.frPyObjects({"size": size, "counts": run_lengths(mask)}, *size)
            codes.append({"size": size, "counts": code["counts"].decode()})
        return codes

    def _match(self, kind: Kind) -> dict[str, Any]:
        """COCO's `precision` [T, R, K, A, M] and `recall` [T, K, A, M] with T overlaps, R recalls, K classes, A areas
        (all, small, medium, large) and M counts of detections (1, 10, 100); -1 where the truth has nothing."""
        numbers = {category: place for place, category in enumerate(self.category_ids)}
        found = []
        for number, row in enumerate(self._found[kind], start=1):
            size = row["bbox"][2] * row["bbox"][3] if kind == "bbox" else self.tools.mask.area(row["segmentation"])
            own = {"id": number, "area": float(size), "iscrowd": 0, "category_id": numbers[row["category_id"]]}
            found.append(row | own)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluator = self.tools.evaluator(self._index(self._truth), self._index(found), kind)
            evaluator.evaluate()
            evaluator.accumulate()
        shape = tuple(int(count) for count in evaluator.eval["counts"])  # T, R, K, A, M
        return {
            "precision": np.asarray(evaluator.eval["precision"], np.float64).reshape(shape),
            "recall": np.asarray(evaluator.eval["recall"], np.float64).reshape(shape[0], *shape[2:]),
        }

    def _index(self, rows: Rows) -> Any:
        """A `COCO` of these annotations; matching writes into them, so it gets its own."""
        coco = self.tools.coco()
        coco.dataset = {
            "images": [dict(image) for image in self._images.values()],
            "categories": [{"id": place, "name": label} for place, label in enumerate(self.labels)],
            "annotations": [dict(row) for row in rows],
        }
        coco.createIndex()
        return coco

    def _per_class(self, curves: Mapping[Kind, Mapping[str, Any]]) -> Rows:
        counts = [0] * len(self.labels)
        for thing in self._truth:
            counts[thing["category_id"]] += not thing["iscrowd"]
        rows = []
        for place, label in enumerate(self.labels):
            row: dict[str, Any] = {
                "label": label,
                "category_id": self.category_ids[place],
                "objects": counts[place],
            }
            for kind, own in KINDS.items():
                curve = curves[kind]["precision"][:, :, place, 0, -1]
                parts = {"ap": curve, "ap50": curve[0], "ap75": curve[5]}
                row |= {f"{own}_{name}": _mean(part) for name, part in parts.items()}
            rows.append(row)
        return rows


def coco_tools() -> CocoTools:
    """faster_coco_eval, or pycocotools where only that is there.

    Raises:
        MissingExtra: neither is installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster, mask

        logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)
        return CocoTools(name="faster_coco_eval", coco=COCO, evaluator=COCOeval_faster, mask=mask)
    except ModuleNotFoundError as error:
        if error.name != "faster_coco_eval":
            raise
    try:
        import pycocotools.mask
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ModuleNotFoundError as error:
        if error.name not in ("pycocotools", "pycocotools.mask"):
            raise
        raise MissingExtra(
            "COCO's average precision needs faster_coco_eval: pip install 'mobileclip-toolkit[dense]'"
        ) from error
    return CocoTools(name="pycocotools", coco=COCO, evaluator=COCOeval, mask=pycocotools.mask)


def run_lengths(mask: npt.NDArray[np.bool_]) -> list[int]:
    """How many pixels of [H, W] are out, then in, then out, …, column by column.

    Only the columns between the first and the last pixel that is in are put in COCO's order, which for 100 objects in
    a picture of 640 x 480 takes less than half the time of COCO's own encoder.
    """
    height, width = mask.shape
    columns = np.flatnonzero(mask.any(0))
    if not len(columns):
        return [height * width]
    first, last = columns[0] * height, (columns[-1] + 1) * height
    flat = mask[:, columns[0] : columns[-1] + 1].T.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1 + first
    starts, ends = [first] * bool(flat[0]), [last] * bool(flat[-1])
    counts: list[int] = np.diff(np.concatenate([[0], starts, edges, ends, [height * width]]).astype(np.int64)).tolist()
    return counts if counts[-1] else counts[:-1]


def summary(curves: Mapping[str, Any]) -> dict[str, float]:
    """COCO's twelve numbers from `precision` and `recall`, as `COCOeval.summarize` defines them."""
    precision, recall = curves["precision"], curves["recall"]
    found = {"ap": precision[..., 0, -1], "ap50": precision[0, ..., 0, -1], "ap75": precision[5, ..., 0, -1]}
    areas = ("small", "medium", "large")
    found |= {f"ap_{area}": precision[..., place, -1] for place, area in enumerate(areas, start=1)}
    found |= {f"ar{count}": recall[..., 0, place] for place, count in enumerate((1, 10, 100))}
    found |= {f"ar_{area}": recall[..., place, -1] for place, area in enumerate(areas, start=1)}
    return {name: _mean(part) for name, part in found.items()}


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Over what is defined; -1 where nothing is."""
    there = values[values > -1]
    return float(there.mean()) if there.size else -1.0


def _xywh(boxes: npt.NDArray[np.float32]) -> list[list[float]]:
    """Corners [N, 4] -> COCO's left, top, width, height, to a thousandth of a pixel."""
    wide = boxes.astype(np.float64).reshape(-1, 4)
    return np.round(np.concatenate([wide[:, :2], wide[:, 2:] - wide[:, :2]], axis=1), 3).tolist()  # type: ignore[no-any-return]
