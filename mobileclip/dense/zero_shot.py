"""Segmentation from texts alone: an image-text model, no training, any classes.

    see = zero_shot_predictor(mobileclip.load("mobileclip_s2.pt"), ("sky", "road", "tree"))
    evaluate(see, open_set("ADEChallengeData2016", "segmentation"))

The dense twin of the image tower (models/twin.py) gives each place of its last map features in the space of the texts;
their mean is the image embedding, so they are what the model itself averages. A place belongs to the class whose text
is nearest: unit lengths, cosine, as in zero-shot classification. Coarse (stride 32), and a baseline: what a head must
beat to be worth its labels. CLIP's last map carries little place of its own, as others found who read it like this
(Zhou et al., MaskCLIP, 2022, arXiv 2112.01071); the mean of the picture can be taken out of the features (`centre`).

Legend: K classes, E length of the embedding, h and w of the last map.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from mobileclip.data.augment import normalise
from mobileclip.dense.config import Task
from mobileclip.dense.host import checked
from mobileclip.dense.inference import Fixed, Whole, best_class
from mobileclip.dense.samples import Segmented
from mobileclip.errors import MobileClipError
from mobileclip.evaluate.encoder import ModelEncoder
from mobileclip.evaluate.templates import PLAIN
from mobileclip.evaluate.zero_shot import class_embeddings
from mobileclip.fuse import fuse, is_fused
from mobileclip.models import Clip
from mobileclip.models.mci import FusedMCi
from mobileclip.models.twin import twin_of

SHORT = 448
"""Side that a picture's short one becomes, in pixels."""
LONGEST = 4
"""The long side is at most so many times that."""
Features = Callable[[Tensor], Tensor]
"""uint8 [1, 3, H, W] -> features [1, E, h, w]."""


class ZeroShotPredictor:
    """Classes given by their texts as a `Predictor`; made by `zero_shot_predictor`."""

    def __init__(
        self,
        features: Features,
        classes: npt.NDArray[np.float32],
        labels: Sequence[str],
        view: Whole | Fixed,
        *,
        name: str,
        centre: bool = False,
    ) -> None:
        """Args:
        features: the dense twin.
        classes: [K, E], of unit length.
        labels: names of the K classes.
        view: how a picture is shown to it.
        name: for reports.
        centre: take the mean of the picture out of the features, and of the classes out of theirs.
        """
        self.name, self.labels = name, tuple(labels)
        self.protocol = "fixed" if isinstance(view, Fixed) else "whole"
        self.task: Task = "segmentation"
        self.category_ids = tuple(range(len(self.labels)))
        self._features, self._view, self._centre = features, view, centre
        self._classes = torch.from_numpy(classes - classes.mean(0) if centre else classes)

    def __call__(self, image: npt.NDArray[np.uint8]) -> Segmented:
        """RGB uint8 [H, W, 3] of any size.

        Raises:
            ImageError: another shape or type, or too many pixels.
        """
        image = checked(image, self.task)
        with torch.no_grad():
            cosines = self._view(self._cosines, image)  # [K, h, w]
        return Segmented(labels=best_class([cosines], (image.shape[0], image.shape[1])))

    def _cosines(self, pixels: Tensor) -> Tensor:
        features = self._features(pixels).float()
        if self._centre:
            features = features - features.mean((2, 3), keepdim=True)
        return F.conv2d(F.normalize(features, dim=1), self._classes[:, :, None, None].to(features))


def zero_shot_predictor(
    clip: Clip,
    labels: Sequence[str],
    templates: Sequence[str] = PLAIN,
    *,
    short: int = SHORT,
    centre: bool = False,
    name: str | None = None,
) -> ZeroShotPredictor:
    """An image-text model as a predictor of the classes `labels`.

    Args:
        clip: with an MCi or a Swin as its image tower, and a text tower.
        labels: a name for each class.
        templates: texts with a place `{}` for the name; a class is the mean over them.
        short: what the short side of a picture becomes; a Swin takes its own size alone.
        centre: take the mean over the picture out of the features, and that over the classes out of theirs.
        name: for reports.

    Raises:
        MobileClipError: no labels, more than 255, or a model without texts or without a twin.
    """
    if not 0 < len(labels) < 256:
        raise MobileClipError(f"{len(labels)} classes were given: 1 to 255 are allowed.")
    if clip.text is None:
        raise MobileClipError(f"{clip.config.name} has no text tower, so classes cannot be given by their names.")
    fused = clip if is_fused(clip) else fuse(clip)
    assert isinstance(fused, Clip)
    twin = twin_of(fused.image)
    pre = clip.config.preprocess
    free = isinstance(fused.image, FusedMCi)
    view = Whole(short=short, long=LONGEST * short) if free else Fixed(size=(pre.size, pre.size))
    encoder = ModelEncoder(fused)
    classes = class_embeddings(encoder, labels, templates)

    def features(pixels: Tensor) -> Tensor:
        found: Tensor = twin(normalise(pixels.to(encoder.device), pre))
        return found

    return ZeroShotPredictor(features, classes, labels, view, name=name or f"{encoder.name}, zero-shot", centre=centre)
