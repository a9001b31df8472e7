"""Dense bundles at work: an exported artifact as a predictor on pictures of any size.

    predictor = bundle_predictor("out/ade", "executorch-xnnpack")
    prediction = predictor(pixels)                   # uint8 RGB [H, W, 3] -> Segmented, Depths or Detected

All that is known of the artifact is read from the manifest, as an app does: how a picture is fitted into its input,
names and meaning of its outputs, labels, thresholds. What follows the artifact is the host part that the apps have too
(mobileclip/dense/host.py and host_detection.py).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.manifest import Bundle
from export.pictures import fitted
from export.runtimes import NotHere, Session, open_artifact
from export.targets import targets_of
from mobileclip.dense import host, host_detection
from mobileclip.dense.config import Task, task_of
from mobileclip.dense.samples import Array, Detected, Prediction, Predictor
from mobileclip.errors import ArtifactError, BundleError, MobileClipError

PREFERRED = ("onnx", "executorch-xnnpack", "coreml", "executorch-coreml")
"""Which target is taken where none is named: the first that the bundle has."""
VIEWS = ("segmentation", "depth", "detection", "multitask")
"""Views whose outputs are a task's."""


def bundle_predictor(
    path: str | Path | Bundle,
    target: str | None = None,
    *,
    task: Task | None = None,
    score: float | None = None,
    threads: int = 0,
) -> Predictor:
    """One task of a dense bundle as a predictor.

    Args:
        path: folder that `export` wrote (its hashes are checked), or a bundle that was opened.
        target: key of `export.targets.TARGETS`; the first that runs here if left out.
        task: which head of a multi-task bundle; may be left out where there is one.
        score: least score of a detection; the manifest's own if left out.
        threads: of the CPU runtimes; 0 leaves it to them.

    Raises:
        UnknownName: no such target or task.
        BundleError: broken or changed, or without an artifact of this task and target.
        ArtifactError: this machine cannot run the target.
    """
    bundle = path if isinstance(path, Bundle) else Bundle.open(path)
    if task is not None:
        task_of(task)
    head = _head(bundle, task)
    entry = _entry(bundle, target)
    return BundlePredictor(bundle, entry, head, score=score, threads=threads)


class BundlePredictor:
    """One artifact and one head of it as a `Predictor`; made by `bundle_predictor`."""

    protocol = "fixed"

    def __init__(
        self,
        bundle: Bundle,
        entry: Mapping[str, Any],
        head: Mapping[str, Any],
        *,
        score: float | None = None,
        threads: int = 0,
        session: Session | None = None,
    ) -> None:
        words = json.loads(bundle.file(bundle.manifest["labels"]).read_text(encoding="utf-8"))
        self.task: Task = head["task"]
        self.labels: tuple[str, ...] = () if self.task == "depth" else tuple(words["labels"])
        self.category_ids = tuple(head.get("category_ids", ())) or tuple(range(len(self.labels)))
        self.path = bundle.file(entry["file"])
        self.name = f"{bundle.path.resolve().name} ({entry['target']})"
        self._input: Mapping[str, Any] = entry["inputs"][0]
        self._fit: Mapping[str, Any] = bundle.manifest["dense"]["input"]
        names = [item["name"] for item in entry["outputs"]]
        self._places = [names.index(name) for name in head["outputs"] if name in names]
        self._outputs: Sequence[str] = head["outputs"]
        self._shapes = [tuple(item["shape"]) for item in entry["outputs"]]
        if len(self._places) != len(self._outputs):
            raise BundleError(
                f"{self.path} gives {', '.join(names)}, its head {', '.join(self._outputs)}: export again."
            )
        self._after: Mapping[str, Any] = head["postprocess"]
        self._score: float = self._after.get("score_threshold", 0.0) if score is None else score
        self.session = session or _open(self.path, entry["target"], threads)

    def __call__(self, image: npt.NDArray[np.uint8]) -> Prediction:
        """RGB uint8 [H, W, 3] of any size that `host.checked` takes.

        Raises:
            ImageError: another shape or type, or too many pixels.
            ArtifactError: the artifact gives something else than the manifest says.
        """
        image = host.checked(image, self.task)
        return self.finish(self.raw(image), (image.shape[0], image.shape[1]))

    def finish(self, outputs: Sequence[Array], size: tuple[int, int]) -> Prediction:
        """The head's own outputs -> what is shown of a picture of `size`, rows and columns."""
        if self.task == "depth":
            return host.depths(outputs[0], size)
        if self.task == "segmentation":
            return (host.segmented_labels if self._outputs[0] == "labels" else host.segmented)(outputs[0], size)
        return self._objects(outputs, size)

    def raw(self, image: npt.NDArray[np.uint8]) -> list[Array]:
        """The head's own outputs for a picture of any size, as the artifact gives them."""
        return self.forward(self.feed(image))

    def forward(self, x: Array) -> list[Array]:
        """The head's own outputs for an input of the artifact."""
        found = self.session.run([x])
        shapes = [tuple(item.shape) for item in found]
        if [int(np.prod(shape)) for shape in shapes] != [int(np.prod(shape)) for shape in self._shapes]:
            raise ArtifactError(f"{self.path} gives {shapes} where its manifest says {self._shapes}: export again.")
        return [found[place].reshape(self._shapes[place]) for place in self._places]

    def feed(self, image: npt.NDArray[np.uint8]) -> Array:
        """A picture of any size as the artifact takes it."""
        rows, columns = self._fit["size"]
        pixels: Array = fitted(image, (rows, columns), self._fit["resize"])
        if self._input["dtype"] == "image":  # the runtime scales, and orders the channels
            return pixels
        scale = np.float32(self._input["scale"])
        return np.ascontiguousarray((pixels.astype(np.float32) * scale).transpose(2, 0, 1)[None])

    def _objects(self, outputs: Sequence[Array], size: tuple[int, int]) -> Detected:
        after, threshold = self._after, float(self._score)
        rows, columns = self._fit["size"]
        if after["kind"] == "objects":
            boxes, scores, labels, masks = outputs
            return host_detection.detected_regions(
                boxes, scores, labels, masks, size, (rows, columns), threshold=threshold, most=after["top_k"]
            )
        boxes, scores, coeffs, protos = outputs
        return host_detection.detected(
            boxes, scores, coeffs, protos, size, threshold=threshold, most=after["top_k"], nms=after["nms_iou"]
        )


def _head(bundle: Bundle, task: Task | None) -> Mapping[str, Any]:
    heads = bundle.manifest.get("dense", {}).get("heads", [])
    held = [head["task"] for head in heads]
    if not heads:
        raise BundleError(
            f"{bundle.path} holds no dense head: export a dense checkpoint, or a CLIP with heads, to predict with it."
        )
    if task is None and len(heads) > 1:
        raise MobileClipError(f"{bundle.path} has heads for {', '.join(held)}: name one task of them.")
    chosen = [head for head in heads if task in (None, head["task"])]
    if not chosen:
        raise BundleError(f"{bundle.path} has no head for {task}: it has {', '.join(held)}.")
    found: Mapping[str, Any] = chosen[0]
    return found


def _entry(bundle: Bundle, target: str | None) -> Mapping[str, Any]:
    entries = {entry["target"]: entry for entry in bundle.manifest["artifacts"] if entry["view"] in VIEWS}
    if target is not None:
        targets_of([target])
        if target not in entries:
            raise BundleError(f"{bundle.path} has nothing for {target}: it holds {', '.join(entries)}.")
        found: Mapping[str, Any] = entries[target]
        return found
    chosen = next((name for name in PREFERRED if name in entries), None)
    if chosen is None:
        raise ArtifactError(
            f"{bundle.path} holds {', '.join(entries)}, which does not run here: export it for one of "
            f"{', '.join(PREFERRED)} too."
        )
    found = entries[chosen]
    return found


def _open(path: Path, target: str, threads: int) -> Session:
    try:
        return open_artifact(path, target, threads)
    except NotHere as reason:
        raise ArtifactError(f"{path} cannot run here: it needs {reason}; choose another target.") from reason
