"""A quantised artifact or module on a set, by the same readers and metrics as models and bundles, before a bundle is.

after = ViewEncoder(session, pictures(about, "image"), ModelEncoder(clip))
numbers, seen = measure_set(after, ModelEncoder(clip), "scenes/val")
verdict = judge(numbers, LIMITS["w8a8"], pictures=seen)
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from export.gates import Runs, embeddings, run
from export.pictures import pictures
from mobileclip.dense import host, host_detection
from mobileclip.dense.config import Task
from mobileclip.dense.evaluation import Report as DenseReport
from mobileclip.dense.evaluation import evaluate as evaluate_dense
from mobileclip.dense.samples import DenseSet, Prediction, Predictor
from mobileclip.errors import DataError
from mobileclip.evaluate.classification_sets import open_classification
from mobileclip.evaluate.encoder import Embeddings, Encoder, unit
from mobileclip.evaluate.evaluation import compare, evaluate
from mobileclip.evaluate.retrieval_sets import open_retrieval


class ViewEncoder:
    """An image artifact or module as an `Encoder` (mobileclip/evaluate): its pictures, and the float model's texts,
    which quantised pictures are compared with in apps too.

    Args:
        what: gives embeddings.
        fit: an upright picture -> what it takes (`export.pictures.pictures`).
        texts: of the model in floats, usually its `ModelEncoder`.
    """

    def __init__(
        self, what: Runs, fit: Callable[[Image.Image], Tensor], texts: Encoder, name: str = "quantised"
    ) -> None:
        self.what, self.fit, self.texts = what, fit, texts
        self.name, self.logit_scale = name, float(texts.logit_scale)

    def encode_images(self, images: Iterable[Image.Image]) -> Embeddings:
        """Upright pictures -> float32 [N, E], of unit length."""
        rows = [run(self.what, self.fit(image))[0].reshape(1, -1) for image in images]
        return unit(np.concatenate(rows).astype(np.float32))

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        """Texts -> float32 [N, E], of unit length."""
        return self.texts.encode_texts(texts)


class ViewPredictor:
    """A dense artifact or module as a `Predictor` (mobileclip/dense), with the host part that apps have.

    Args:
        what: gives the view's outputs.
        about: parts of the manifest (`Subject.about`): how a picture is fitted, and what follows the outputs.
        words: classes (`Subject.words`).
        outputs: names of the view's outputs, in order.
        task: which head; may be left out where there is one.
    """

    def __init__(
        self,
        what: Runs,
        about: Mapping[str, Any],
        words: Mapping[str, Any],
        outputs: Sequence[str],
        task: Task | None = None,
        name: str = "quantised",
    ) -> None:
        head = next(head for head in about["dense"]["heads"] if task in (None, head["task"]))
        self.what, self.head, self.name = what, head, name
        self.task: Task = head["task"]
        self.labels: tuple[str, ...] = () if self.task == "depth" else tuple(words["labels"])
        self.category_ids = tuple(head.get("category_ids", ())) or tuple(range(len(self.labels)))
        self._fit = pictures(about, self.task)
        self._size = (int(about["dense"]["input"]["size"][0]), int(about["dense"]["input"]["size"][1]))
        self._places = [list(outputs).index(output) for output in head["outputs"]]

    def __call__(self, image: npt.NDArray[np.uint8]) -> Prediction:
        """RGB uint8 [H, W, 3] of any size up to `host.MOST_PIXELS`."""
        size, after = (image.shape[0], image.shape[1]), self.head["postprocess"]
        found = run(self.what, self._fit(Image.fromarray(host.checked(image))))
        first, *others = [found[place] for place in self._places]
        if self.task == "depth":
            return host.depths(first, size)
        if self.task == "segmentation":
            return (host.segmented_labels if self.head["outputs"][0] == "labels" else host.segmented)(first, size)
        limits = {"threshold": after["score_threshold"], "most": after["top_k"]}
        if after["kind"] == "objects":
            scores, labels, masks = others
            return host_detection.detected_regions(first, scores, labels, masks, size, self._size, **limits)
        scores, coeffs, protos = others
        return host_detection.detected(first, scores, coeffs, protos, size, nms=after["nms_iou"], **limits)


def measure_set(
    after: Encoder, before: Encoder, folder: str | Path, *, limit: int | None = None
) -> tuple[dict[str, float], int]:
    """Numbers on a set with classes or captions, and how many pictures were measured.

    Args:
        after: quantised (`ViewEncoder`, or a bundle's).
        before: in floats.
        folder: what `mobileclip.evaluate` opens: classes, captions, or both.
        limit: at most so many pictures.

    Raises:
        DataError: it is neither.
    """
    kinds: dict[str, Any] = {}
    faults = []
    for kind, opened in (("zero_shot", open_classification), ("retrieval", open_retrieval)):
        try:
            kinds[kind] = opened(folder)
        except DataError as error:
            faults.append(str(error))
    if not kinds:
        raise DataError(f"{folder} is no set to judge with: {' '.join(faults)}")
    reports = [evaluate(encoder, **kinds, limit=limit) for encoder in (before, after)]
    found: dict[str, float] = {}
    for row, was, now in zip(compare(*reports), *(report.results for report in reports), strict=True):
        kept = embeddings(now.images, was.images)
        if row["task"] == "zero-shot":
            found |= kept | {"zero_shot_before": row["right_before"], "zero_shot_after": row["right_after"]}
            found |= {"zero_shot_lost": -row["difference"], "agreement": row["agreement"]}
            continue
        found |= {"caption_agreement": row["agreement"], **kept, **found}
        for way in ("image_to_text", "text_to_image"):
            told = [result.metrics[way]["R@1"] for result in (was, now)]
            if None not in told:
                found |= {f"{way}_before": told[0], f"{way}_after": told[1], f"{way}_lost": told[0] - told[1]}
    return found, max(result.n for result in reports[0].results)


def measure_dense(
    after: Predictor, before: Predictor, dense_set: DenseSet, *, limit: int | None = None
) -> tuple[dict[str, float], int]:
    """Numbers on a set with annotations (`mobileclip.dense.open_set`), and how many pictures were measured.

    Args:
        after: quantised (`ViewPredictor`, or `export.dense.bundle_predictor`).
        before: in floats, of the same protocol (`predictor(model, "fixed")`).
        limit: at most so many pictures.

    Raises:
        DataError: the set is of another task or other classes.
    """
    was, now = (evaluate_dense(predictor, dense_set, limit=limit) for predictor in (before, after))
    return lost(now, was), was.n


def lost(after: DenseReport, before: DenseReport) -> dict[str, float]:
    """What of a task's figures was lost, and the figures; RMSE as a share of what it was."""
    was, now = before.figures, after.figures
    found: dict[str, float] = {}
    for figure, name in (("mIoU", "miou_lost"), ("box_ap", "box_ap_lost"), ("mask_ap", "mask_ap_lost")):
        if figure in was:
            found |= {f"{figure}_before": was[figure], f"{figure}_after": now[figure], name: was[figure] - now[figure]}
    if "rmse" in was:
        found |= {"rmse_before": was["rmse"], "rmse_after": now["rmse"], "rmse_rise": now["rmse"] / was["rmse"] - 1}
    return found
