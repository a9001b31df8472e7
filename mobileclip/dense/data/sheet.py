"""A contact sheet: pictures beside their truth, for a look before training."""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from mobileclip.dense.data import joint as on
from mobileclip.dense.overlays import overlay
from mobileclip.dense.samples import Objects, Sample

SIDE = 240
"""Pixels of the longer side of a picture on the sheet."""
ACROSS = 4
"""Samples in a row."""
_GAP, _TEXT = 8, 18


def sheet(samples: Sequence[Sample], labels: Sequence[str]) -> bytes:
    """A PNG of samples, each as its picture and its truth over it, with its name; crowds are not drawn."""
    across = max(min(ACROSS, len(samples)), 1)
    down = max(-(-len(samples) // across), 1)
    wide, high = 2 * SIDE + 2 * _GAP, SIDE + _TEXT + _GAP
    page = Image.new("RGB", (across * wide + _GAP, down * high + _GAP), (250, 250, 250))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for number, sample in enumerate(samples):
        left, top = _GAP + number % across * wide, _GAP + number // across * high
        small = resized(sample, SIDE)
        for place, pixels in enumerate((small.image, overlay(small.image, small, labels))):
            page.paste(Image.fromarray(np.ascontiguousarray(pixels)), (left + place * (SIDE + 2), top + _TEXT))
        draw.text((left, top), _fitting(sample.name, font), fill=(40, 40, 40), font=font)
    file = io.BytesIO()
    page.save(file, "PNG")
    return file.getvalue()


def resized(sample: Sample, longest: int) -> Sample:
    """The sample with its longer side at `longest`, larger or smaller than it was."""
    work = on.joint(sample)
    work = on.resize(work, on.fitted(work.size, longest, longest))
    item = on.item(work, sample.name)
    objects = None
    if item.boxes is not None and item.masks is not None and item.classes is not None:
        objects = Objects(
            boxes=item.boxes.numpy(),
            classes=item.classes.numpy(),
            masks=item.masks.numpy(),
            crowd=np.zeros(len(item.classes), np.bool_),
            area=item.masks.numpy().sum((1, 2)).astype(np.float32),
        )
    return Sample(
        name=sample.name,
        image=_pixels(item.image.permute(1, 2, 0).numpy()),
        labels=None if item.labels is None else item.labels.numpy().astype(np.uint8),
        objects=objects,
        depth=None if item.depth is None else item.depth.numpy(),
        image_id=sample.image_id,
    )


def _pixels(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(image)


def _fitting(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The end of a name that fits over two pictures."""
    while len(name) > 8 and font.getlength(name) > 2 * SIDE:
        name = "…" + name[4:]
    return name
