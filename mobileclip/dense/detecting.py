"""Detection in torch: a picture of any size to objects, for the head that trains and for the deployed one.

    Detecting(size=(800, 1344), fixed=False)(model, image)

Whole: the ratio is kept, the short side is `min(size)` unless the long one would pass `max(size)` (800 and 1333 in
mmdetection's and torchvision's protocol; 1344 is the multiple of 32 that both pad 1333 to), and the picture is padded
with black to the right and below up to multiples of 32. Fixed: letterboxed into `size`, as a bundle takes it. What
follows the raw outputs is the host part that apps have (host_detection.py).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mobileclip.data.augment import normalise
from mobileclip.dense.host import stretch
from mobileclip.dense.host_detection import THRESHOLD, content, detected, detected_regions
from mobileclip.dense.inference import aligned, kept_ratio, tensor
from mobileclip.dense.samples import Detected

if TYPE_CHECKING:
    from mobileclip.dense.model import DenseModel


@dataclass(frozen=True, kw_only=True)
class Detecting:
    """How detection looks at a picture."""

    size: tuple[int, int]
    """Rows and columns; of `whole` only the short and the long side count."""
    fixed: bool
    """Letterboxed into exactly this size."""
    score: float = THRESHOLD
    """Least score."""

    def __call__(self, model: "DenseModel", image: npt.NDArray[np.uint8]) -> Detected:
        """RGB uint8 [H, W, 3] -> its objects."""
        original = (image.shape[0], image.shape[1])
        if self.fixed:
            inside, padded = content(original, self.size), self.size
        else:
            inside = kept_ratio(original, min(self.size), max(self.size))
            padded = (aligned(inside[0]), aligned(inside[1]))
        pixels = np.zeros((*padded, 3), np.uint8)
        pixels[: inside[0], : inside[1]] = stretch(image, inside)
        device = next(model.parameters()).device
        x = normalise(tensor(pixels).to(device), model.config.encoder.preprocess)
        head: Any = model.head
        maps = model.encoder(x)
        if hasattr(head, "detect"):  # Mask R-CNN in training form
            raw, dense = head.detect(maps, [inside])[0], False
        else:
            raw = head(maps)
            dense = raw[0].ndim == 3  # a box for each point of a grid, not a list of boxes
        parts = [_array(part) for part in raw]
        if dense:
            nms = getattr(head, "nms", None)
            boxes, scores, coeffs, protos = parts
            return detected(boxes, scores, coeffs, protos, original, inside=inside, threshold=self.score, nms=nms)
        boxes, scores, classes, masks = parts
        return detected_regions(boxes, scores, classes, masks, original, padded, inside=inside, threshold=self.score)


def _array(part: Tensor) -> npt.NDArray[Any]:
    return (part.float() if part.is_floating_point() else part).cpu().numpy()
