"""A dense model in torch as a `Predictor`: a picture of any size in, what the model says of each pixel out.

    predictor(model)(image)                                  # the whole picture, once: the papers' "single scale"
    predictor(model, mode="slide", stride=341)               # windows of the size that it was trained on
    predictor(model, scales=MULTI_SCALE, flip=True)          # "ms + flip"
    predictor(model, mode="fixed")                           # what an exported bundle computes

The protocols are in `inference`. The model may be in the middle of training: it is in evaluation mode while it
predicts, and every module is then put back into the mode it was in.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mobileclip.data.augment import normalise
from mobileclip.dense.config import Task
from mobileclip.dense.detecting import Detecting
from mobileclip.dense.host import checked
from mobileclip.dense.host_detection import THRESHOLD
from mobileclip.dense.inference import Fixed, Mirrored, View, Whole, Windows, best_class, mean_depth
from mobileclip.dense.samples import Depths, Prediction, Segmented
from mobileclip.errors import MobileClipError, UnknownName
from mobileclip.models.heads.static_rcnn import StaticRcnn

if TYPE_CHECKING:
    from mobileclip.dense.model import DenseModel


Mode = Literal["whole", "slide", "fixed"]
MODES: tuple[Mode, ...] = ("whole", "slide", "fixed")
MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""Sizes of the papers' "ms", with `flip`."""
LONGEST = 4
"""The long side is at most so many times the short one's target (2048 of 512)."""


class ModelPredictor:
    """A `DenseModel` as a `Predictor`; made by `predictor`."""

    def __init__(
        self, model: "DenseModel", views: Sequence[View] | Detecting, *, name: str, protocol: str, bf16: bool
    ) -> None:
        self.model = model
        self.name = name
        self.protocol = protocol
        self.task: Task = model.config.task
        self.labels = model.config.labels
        self.category_ids = model.config.category_ids or tuple(range(len(model.config.labels)))
        self.max_depth = model.config.max_depth
        self._views = views
        self._bf16 = bf16

    def __call__(self, image: npt.NDArray[np.uint8]) -> Prediction:
        """RGB uint8 [H, W, 3] of any size that `host.checked` takes.

        Raises:
            ImageError: another shape or type, or too many pixels.
        """
        image = checked(image, self.task)
        size = (image.shape[0], image.shape[1])
        with self._computing():
            if isinstance(self._views, Detecting):
                return self._views(self.model, image)
            maps = [view(self._net, image) for view in self._views]
            if self.task == "segmentation":
                return Segmented(labels=best_class(maps, size))
            return Depths(metres=mean_depth(maps, size))

    def _net(self, pixels: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> the head's maps in float32 [B, C, h, w]."""
        device = next(self.model.parameters()).device
        out: Tensor = self.model(normalise(pixels.to(device), self.model.config.encoder.preprocess))
        return out.float()

    @contextmanager
    def _computing(self) -> Iterator[None]:
        modes: list[tuple[Any, bool]] = [(module, module.training) for module in self.model.modules()]
        device = next(self.model.parameters()).device
        self.model.eval()
        try:
            # not inference_mode: what a module keeps of such a pass could not be used in training again
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
                yield
        finally:
            for module, training in modes:
                module.training = training


def predictor(
    model: "DenseModel",
    mode: Mode = "whole",
    *,
    size: tuple[int, int] | None = None,
    crop: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    score: float | None = None,
    device: str | torch.device | None = None,
    bf16: bool = False,
    name: str | None = None,
) -> ModelPredictor:
    """The model as a predictor.

    Args:
        mode: "whole": the picture at once, its short side that of `size`; "slide": windows of `crop` every `stride`
            pixels; "fixed": stretched (detection: letterboxed) to `size`, as a bundle does.
        size: rows and columns; the model's own if left out.
        crop: of a window; `size` if left out, and of depth a square of its short side.
        stride: of windows; half of the crop if left out, and of depth two windows along the long side.
        scales: of the picture, averaged; `MULTI_SCALE` is the papers'.
        flip: average with the mirrored picture.
        score: least score of a detection; the head's own if left out.
        device: where to compute; None leaves the model where it is.
        bf16: compute in bfloat16 where torch's autocast does.
        name: for reports; made of the model's name and origin if left out.

    Raises:
        UnknownName: no such mode.
        MobileClipError: an option that the task or the mode does not have, or a number out of range.
    """
    if mode not in MODES:
        raise UnknownName("mode", mode, MODES)
    config = model.config
    size = size or config.size
    views: list[View] | Detecting
    if config.task == "detection":
        if mode == "slide" or flip or tuple(scales) != (1.0,):
            raise MobileClipError(
                "detection looks at a picture once: mode 'whole' or 'fixed' is allowed, without scales and flip."
            )
        if mode != "fixed" and isinstance(model.head, StaticRcnn):
            raise MobileClipError("a deployed Mask R-CNN has one size: take mode 'fixed', or the model before `fuse`.")
        views = Detecting(size=size, fixed=mode == "fixed", score=THRESHOLD if score is None else score)
    else:
        views = _views(config.task, mode, size, _pair(crop), _pair(stride), tuple(scales), flip)
    origin = "" if model.origin is None else f" ({model.origin.source})"
    model = model if device is None else model.to(device)
    protocol = mode + (" + multi-scale" if len(scales) > 1 else "") + (" + flip" if flip else "")
    return ModelPredictor(model, views, name=name or config.name + origin, protocol=protocol, bf16=bf16)


def _views(
    task: Task,
    mode: Mode,
    size: tuple[int, int],
    crop: tuple[int, int] | None,
    stride: tuple[int, int] | None,
    scales: tuple[float, ...],
    flip: bool,
) -> list[View]:
    short = min(size)
    if mode != "slide" and (crop or stride):
        raise MobileClipError(f"crop and stride are of mode 'slide', not of '{mode}': leave them out, or take 'slide'.")
    if mode == "fixed" and scales != (1.0,):
        raise MobileClipError("mode 'fixed' has one size: leave the scales out, or take 'whole' or 'slide'.")
    if not scales or not all(0.1 <= scale <= 4 for scale in scales):
        raise MobileClipError(f"scales are {list(scales)}: one or more from 0.1 to 4 are allowed.")
    if crop is None:
        crop = (short, short) if task == "depth" else size
    if stride is None and task == "segmentation":
        stride = (max(crop[0] // 2, 1), max(crop[1] // 2, 1))
    if min(crop) < 32 or any(side % 32 for side in crop) or (stride and not 0 < min(stride) <= max(stride)):
        raise MobileClipError(
            f"windows of {crop[0]} x {crop[1]} every {stride} pixels: sides must be multiples of 32, and strides at "
            "least 1."
        )
    if stride and (stride[0] > crop[0] or stride[1] > crop[1]):
        raise MobileClipError(
            f"windows of {crop[0]} x {crop[1]} every {stride[0]} and {stride[1]} pixels leave gaps: strides may be at "
            "most the window's sides."
        )
    out: list[View] = []
    for scale in scales:
        small, long = max(round(short * scale), 1), max(round(LONGEST * short * scale), 1)
        view: View = Whole(short=small, long=long)
        if mode == "slide":
            view = Windows(short=small, long=long, crop=crop, stride=stride)
        elif mode == "fixed":
            view = Fixed(size=size)
        out += [view, Mirrored(view=view)] if flip else [view]
    return out


def _pair(value: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (value, value) if isinstance(value, int) else value
