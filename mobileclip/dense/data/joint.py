"""A picture and its truth on the way through a transform: each step acts on all parts at once.

Geometry is torchvision's (the kernels of v2: pictures bilinear with antialias, everything else nearest, by the middles
of pixels); numbers are drawn by the callers, from their own generator, so nothing here depends on or changes a global
state.

Legend: H and W rows and columns, N objects.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from mobileclip.dense.config import IGNORE
from mobileclip.dense.samples import Item, Sample

Rng = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Joint:
    """One picture; the parts that its task does not have are None."""

    image: Tensor
    """uint8 [3, H, W]"""
    labels: Tensor | None = None
    """uint8 [H, W]"""
    depth: Tensor | None = None
    """float32 [H, W]: resized without mixing near and far"""
    boxes: Tensor | None = None
    """float32 [N, 4]"""
    masks: Tensor | None = None
    """uint8 [N, H, W]"""
    classes: Tensor | None = None
    """int64 [N]"""

    @property
    def size(self) -> tuple[int, int]:
        """H, W."""
        return int(self.image.shape[-2]), int(self.image.shape[-1])

    def moved(
        self,
        image: Callable[[Tensor], Tensor],
        truth: Callable[[Tensor, int], Tensor],
        boxes: Callable[[Tensor], Tensor],
    ) -> "Joint":
        """A step of geometry: `truth` gets each map [..., H, W] and what fills its outside."""

        def mapped(part: Tensor | None, fill: int) -> Tensor | None:
            return None if part is None else truth(part, fill)

        return replace(
            self,
            image=image(self.image),
            labels=mapped(self.labels, IGNORE),
            depth=mapped(self.depth, 0),
            masks=mapped(self.masks, 0),
            boxes=None if self.boxes is None else boxes(self.boxes),
        )


def joint(sample: Sample) -> Joint:
    """A sample's parts as tensors over the same memory; crowds are left out."""
    work = Joint(
        image=torch.from_numpy(_writable(sample.image)).permute(2, 0, 1),
        labels=None if sample.labels is None else torch.from_numpy(_writable(sample.labels)),
        depth=None if sample.depth is None else torch.from_numpy(_writable(sample.depth)),
    )
    if sample.objects is None:
        return work
    kept = ~sample.objects.crowd
    return replace(
        work,
        boxes=torch.from_numpy(sample.objects.boxes[kept].astype(np.float32)),
        masks=torch.from_numpy(sample.objects.masks[kept].view(np.uint8)),
        classes=torch.from_numpy(sample.objects.classes[kept].astype(np.int64)),
    )


def item(work: Joint, name: str) -> Item:
    """What a step trains on: boxes clipped to the picture; objects without a pixel left are dropped."""
    image = work.image.clone(memory_format=torch.contiguous_format)
    labels = None if work.labels is None else work.labels.to(torch.int64)
    depth = None if work.depth is None else work.depth.clone(memory_format=torch.contiguous_format)
    if work.boxes is None or work.masks is None or work.classes is None:
        return Item(name=name, image=image, labels=labels, depth=depth)
    height, width = work.size
    boxes = work.boxes.clone()
    boxes[:, 0::2].clamp_(0, width)
    boxes[:, 1::2].clamp_(0, height)
    masks = work.masks.to(torch.bool)
    there = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]) & masks.flatten(1).any(1)
    return Item(
        name=name,
        image=image,
        labels=labels,
        depth=depth,
        boxes=boxes[there],
        classes=work.classes[there],
        masks=masks[there],
    )


def fitted(size: tuple[int, int], short: float, long: float) -> tuple[int, int]:
    """H, W scaled as far as the shorter side stays within `short` and the longer within `long`; at least 1 each.

    Rounded half up, as mmcv's `rescale_size` does.
    """
    factor = min(long / max(size), short / min(size))
    return max(int(size[0] * factor + 0.5), 1), max(int(size[1] * factor + 0.5), 1)


def resize(work: Joint, size: tuple[int, int]) -> Joint:
    """To exactly H, W."""
    if size == work.size:
        return work
    sides = list(size)
    scale = torch.tensor([size[1] / work.size[1], size[0] / work.size[0]] * 2)
    return work.moved(
        lambda image: F.resize_image(image, sides, InterpolationMode.BILINEAR, antialias=True),
        lambda part, fill: _nearest(part, sides),
        lambda boxes: boxes * scale,
    )


def _nearest(part: Tensor, sides: list[int]) -> Tensor:
    """A map [..., H, W] at another size: each value is one that was there, from the middle of what it stands for."""
    if not part.numel():
        return part.new_zeros((*part.shape[:-2], *sides))
    planes = part[None] if part.ndim == 2 else part
    resized: Tensor = F.resize_image(planes, sides, InterpolationMode.NEAREST_EXACT, antialias=False)
    return resized.view(*part.shape[:-2], *sides)


def crop(work: Joint, top: int, left: int, height: int, width: int) -> Joint:
    """A window that lies inside the picture."""
    if (top, left, height, width) == (0, 0, *work.size):
        return work
    rows, columns = slice(top, top + height), slice(left, left + width)
    return work.moved(
        lambda image: image[:, rows, columns],
        lambda part, fill: part[..., rows, columns],
        lambda boxes: boxes - torch.tensor([left, top] * 2),
    )


def place(rng: Rng, size: tuple[int, int], window: tuple[int, int]) -> tuple[int, int, int, int]:
    """A window of at most that size anywhere in the picture: top, left, height, width."""
    height, width = min(window[0], size[0]), min(window[1], size[1])
    top, left = (int(rng.integers(0, have - want + 1)) for have, want in zip(size, (height, width), strict=True))
    return top, left, height, width


def random_crop(work: Joint, rng: Rng, window: tuple[int, int]) -> Joint:
    """A window of at most that size."""
    return crop(work, *place(rng, work.size, window))


def pad(work: Joint, size: tuple[int, int]) -> Joint:
    """To at least H, W, on the right and below: pictures, depth and masks with 0, labels with 255."""
    right, below = max(size[1] - work.size[1], 0), max(size[0] - work.size[0], 0)
    if not right and not below:
        return work
    edges = [0, right, 0, below]
    return work.moved(
        lambda image: torch.nn.functional.pad(image, edges),
        lambda part, fill: torch.nn.functional.pad(part, edges, value=fill),
        lambda boxes: boxes,
    )


def flip(work: Joint, rng: Rng, chance: float) -> Joint:
    """Left and right exchanged, sometimes."""
    if rng.random() >= chance:
        return work
    width = work.size[1]
    return work.moved(
        F.horizontal_flip_image,
        lambda part, fill: F.horizontal_flip_mask(part),
        lambda boxes: torch.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), 1),
    )


def rotate(work: Joint, degrees: float) -> Joint:
    """About the centre, the picture bilinear; what comes from outside is 0, of labels 255. Boxes are those of the
    turned boxes.
    """
    height, width = work.size
    return work.moved(
        lambda image: F.rotate_image(image, degrees, interpolation=InterpolationMode.BILINEAR),
        lambda part, fill: F.rotate_mask(part, degrees, fill=float(fill)) if part.numel() else part,
        lambda boxes: F.rotate_bounding_boxes(
            boxes, tv_tensors.BoundingBoxFormat.XYXY, (height, width), degrees, clamping_mode=None
        )[0],
    )


def recolour(work: Joint, change: Callable[[Tensor], Tensor]) -> Joint:
    """`change` takes and gives float32 [3, H, W] in 0..255; what leaves the range is clipped, the rest truncated."""
    changed = change(work.image.to(torch.float32)).clamp_(0, 255).to(torch.uint8)
    return replace(work, image=changed)


def saturate(image: Tensor, factor: float, shift: float = 0.0) -> Tensor:
    """HSV's saturation times `factor` plus `shift`, clipped to 0..1; hue and value stay, and grey stays grey."""
    value, low = image.amax(0), image.amin(0)
    saturation = (value - low) / value.clamp(min=1e-6)
    wanted = (saturation * factor + shift).clamp(0, 1)
    return value - (value - image) * (wanted / saturation.clamp(min=1e-6))


def turn_hue(work: Joint, turns: float) -> Joint:
    """HSV's hue moved by a share of the circle, -0.5 to 0.5."""
    return replace(work, image=F.adjust_hue_image(work.image, turns))


def _writable(array: Any) -> Any:
    """Over the same memory where torch takes it, else a copy."""
    return np.require(array, requirements=("C", "W"))
