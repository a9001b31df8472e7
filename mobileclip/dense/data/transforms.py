"""Joint transforms of pictures and truth, by name, with the numbers of the published protocols; and `collate`.

    t = transform("ade", (512, 512))
    batch = collate([t(sample, seed) for sample, seed in ...])

`t(sample, seed)` is a pure function: it draws from a generator of its own and touches no global state, so threads,
processes and resumed runs see the same. `PIPELINES` holds every transform by name; its keyword arguments, with the
published values as defaults, are the options. `size` is the picture that the model trains on: the crop, where the
protocol crops; what a protocol says in pixels of its own crop is scaled with it.

Sources: mmsegmentation 1.2 `_base_/datasets/ade20k.py`, `datasets/transforms`; mmdetection 3.3
`_base_/datasets/coco_instance.py`, `configs/swin/*`; torchvision `references/detection` (LSJ; Ghiasi et al.,
arXiv:2012.07177); Kim et al., arXiv:2201.07436 (GLPDepth) and Ishii and Yamashita, arXiv:2107.07684 (CutDepth);
Lee et al., arXiv:1907.10326 (BTS).
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mobileclip.dense.config import IGNORE
from mobileclip.dense.data import joint as on
from mobileclip.dense.data.joint import Joint, Rng
from mobileclip.dense.samples import Batch, Item, Sample, Targets
from mobileclip.errors import DataError, UnknownName

Size = tuple[int, int]
Pipeline = Callable[..., Joint]

MULTIPLE = 32
"""Batches are padded to multiples of it: the stride of the last map."""
_MASK = (1 << 64) - 1


@dataclass(frozen=True, kw_only=True)
class Transform:
    """A pipeline with its size and options; can be pickled and compared."""

    name: str
    """Key of `PIPELINES`."""
    size: Size
    """Rows and columns."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the pipeline; what is missing is as published."""

    def __call__(self, sample: Sample, seed: int) -> Item:
        """Transform one; equal arguments give equal items."""
        rng = np.random.Generator(np.random.PCG64(seed & _MASK))
        return on.item(PIPELINES[self.name](on.joint(sample), rng, self.size, **self.options), sample.name)


def transform(name: str, size: Size, **options: Any) -> Transform:
    """The pipeline called `name` for pictures of `size` (rows, columns).

    Raises:
        UnknownName: no such pipeline, or no such option of it.
        DataError: a side is less than 1.
    """
    if name not in PIPELINES:
        raise UnknownName("transform", name, PIPELINES)
    known = [
        key for key, entry in inspect.signature(PIPELINES[name]).parameters.items() if entry.kind is entry.KEYWORD_ONLY
    ]
    for option in options:
        if option not in known:
            raise UnknownName(f"option of the transform '{name}'", option, known)
    height, width = size
    if height < 1 or width < 1:
        raise DataError(f"the size of the transform is {height} x {width}: at least 1 x 1 is allowed.")
    return Transform(name=name, size=(int(height), int(width)), options=options)


def collate(items: Sequence[Item]) -> Batch:
    """Items -> one batch, padded to the right and below to the largest height and width and to multiples of 32.

    Pictures and depth are padded with 0, labels with 255, masks with False.
    """
    sizes = tuple((int(one.image.shape[1]), int(one.image.shape[2])) for one in items)
    height, width = (-(-max(sides) // MULTIPLE) * MULTIPLE for sides in zip(*sizes, strict=True))

    def filled(parts: Sequence[Tensor], fill: int) -> Tensor:
        out = torch.full((len(parts), *parts[0].shape[:-2], height, width), fill, dtype=parts[0].dtype)
        for into, part in zip(out, parts, strict=True):
            into[..., : part.shape[-2], : part.shape[-1]] = part
        return out

    labels = [one.labels for one in items if one.labels is not None]
    depth = [one.depth for one in items if one.depth is not None]
    boxes = tuple(one.boxes for one in items if one.boxes is not None)
    classes = tuple(one.classes for one in items if one.classes is not None)
    masks = tuple(filled([one.masks], 0)[0] for one in items if one.masks is not None)
    return Batch(
        names=tuple(one.name for one in items),
        images=filled([one.image for one in items], 0),
        targets=Targets(
            sizes=sizes,
            labels=filled(labels, IGNORE) if labels else None,
            depth=filled(depth, 0) if depth else None,
            boxes=boxes or None,
            classes=classes or None,
            masks=masks or None,
        ),
    )


def _ade(
    work: Joint,
    rng: Rng,
    size: Size,
    *,
    ratio: tuple[float, float] = (0.5, 2.0),
    long: float = 4.0,
    cat_max_ratio: float = 0.75,
    tries: int = 10,
    flip: float = 0.5,
    distort: bool = True,
) -> Joint:
    """ADE20K: base (long x short side, short side) times a random ratio, a crop that no class fills, flip, colours."""
    short = min(size) * rng.uniform(*ratio)
    work = on.resize(work, on.fitted(work.size, math.floor(short), math.floor(short * long)))
    window = on.place(rng, work.size, size)
    for _ in range(tries if cat_max_ratio < 1 else 0):
        if work.labels is None or _varied(work.labels, window, cat_max_ratio):
            break
        window = on.place(rng, work.size, size)
    work = on.flip(on.crop(work, *window), rng, flip)
    return on.pad(_distorted(work, rng) if distort else work, size)


def _varied(labels: Tensor, window: tuple[int, int, int, int], most: float) -> bool:
    """Whether there are two classes in the window, and none has more than its share of the labelled pixels."""
    top, left, height, width = window
    inside = labels[top : top + height, left : left + width]
    counts = torch.bincount(inside.reshape(-1), minlength=IGNORE + 1)[:IGNORE]
    total = int(counts.sum())
    return int((counts > 0).sum()) > 1 and int(counts.max()) < most * total


def _distorted(work: Joint, rng: Rng) -> Joint:
    """mmseg's photometric distortion: each of brightness, contrast, saturation and hue in half of all cases."""
    shift, contrast, saturation = rng.uniform(-32, 32), rng.uniform(0.5, 1.5), rng.uniform(0.5, 1.5)
    turns = int(rng.integers(-18, 18)) / 180
    early, *which = (rng.random(5) < 0.5).tolist()
    if which[0]:
        work = on.recolour(work, lambda image: image + shift)
    if which[1] and early:
        work = on.recolour(work, lambda image: image * contrast)
    if which[2]:
        work = on.recolour(work, lambda image: on.saturate(image, saturation))
    if which[3]:
        work = on.turn_hue(work, turns)
    if which[1] and not early:
        work = on.recolour(work, lambda image: image * contrast)
    return work


_LONG = 1333 / 800  # COCO's longest side for its shortest


def _coco_1x(work: Joint, rng: Rng, size: Size, *, long: float = _LONG, flip: float = 0.5) -> Joint:
    """COCO, 12 epochs: short side 800 (the size's), long side at most 1333/800 of it; flip."""
    short = min(size)
    return on.flip(on.resize(work, on.fitted(work.size, short, round(short * long))), rng, flip)


def _coco_3x(
    work: Joint,
    rng: Rng,
    size: Size,
    *,
    shorts: Sequence[float] = tuple(range(480, 801, 32)),
    first: Sequence[float] = (400, 500, 600),
    window: tuple[float, float] = (384, 600),
    first_long: float = 4200,
    long: float = _LONG,
    flip: float = 0.5,
) -> Joint:
    """COCO, 36 epochs, as DETR: one of eleven short sides; in half of all cases resized and cropped before.

    The numbers are for a short side of 800 and are scaled to the size's.
    """
    unit = min(size) / 800
    work = on.flip(work, rng, flip)
    if rng.random() < 0.5:
        short = float(rng.choice(first)) * unit
        work = on.resize(work, on.fitted(work.size, round(short), round(first_long * unit)))
        low, high = (max(round(side * unit), 1) for side in window)
        sides = [int(rng.integers(min(side, low), min(side, high) + 1)) for side in work.size]
        work = on.random_crop(work, rng, (sides[0], sides[1]))
    short = float(rng.choice(shorts)) * unit
    return on.resize(work, on.fitted(work.size, round(short), round(min(size) * long)))


def _coco_lsj(
    work: Joint, rng: Rng, size: Size, *, scale: tuple[float, float] = (0.1, 2.0), flip: float = 0.5
) -> Joint:
    """Large-scale jitter: fitted into the size times 0.1..2, then cropped or padded to it; flip."""
    factor = rng.uniform(*scale) * min(size[0] / work.size[0], size[1] / work.size[1])
    height, width = (max(int(side * factor), 1) for side in work.size)
    work = on.random_crop(on.resize(work, (height, width)), rng, size)
    return on.flip(on.pad(work, size), rng, flip)


def _nyu(
    work: Joint,
    rng: Rng,
    size: Size,
    *,
    flip: float = 0.5,
    colour: float = 0.5,
    cut: float = 0.25,
    cut_width: float = 0.75,
    max_depth: float = 10.0,
) -> Joint:
    """NYUv2 as GLPDepth and MIM: a crop of 480 x 480, flip, and brightness/contrast, gamma and hue/saturation/value
    in half of all cases each; a quarter of all pictures get a vertical stripe of their depth, up to 0.75 of the rest
    wide. A picture whose short side is not the size's is resized first.
    """
    if rng.random() < cut and work.depth is not None:
        work = _cut_depth(work, work.depth, rng, cut_width, max_depth)
    work = on.flip(work, rng, flip)
    work = on.resize(work, on.fitted(work.size, min(size), 8 * min(size)))
    work = on.random_crop(work, rng, size)
    gain, bias = 1 + rng.uniform(-0.2, 0.2), 255 * rng.uniform(-0.2, 0.2)
    gamma = rng.uniform(0.8, 1.2)
    turns, more, lighter = rng.uniform(-20, 20) / 180, rng.uniform(-30, 30) / 255, rng.uniform(-20, 20)
    which = rng.random(3) < colour
    if which[0]:
        work = on.recolour(work, lambda image: image * gain + bias)
    if which[1]:
        work = on.recolour(work, lambda image: (image / 255).pow(gamma) * 255)
    if which[2]:
        work = on.turn_hue(on.recolour(work, lambda image: _more(image, more, lighter)), turns)
    return on.pad(work, size)


def _more(image: Tensor, saturation: float, value: float) -> Tensor:
    """HSV's saturation (0..1) and value (0..255) moved."""
    image = on.saturate(image, 1.0, saturation)
    high = image.amax(0)
    return image * ((high + value).clamp(0, 255) / high.clamp(min=1e-6))


def _cut_depth(work: Joint, depth: Tensor, rng: Rng, most: float, max_depth: float) -> Joint:
    """Vertical CutDepth: columns of the picture are replaced by the depth there, max_depth as white."""
    _, width = work.size
    start, share = rng.random(2)
    left, wide = int(start * width), int(max((width - start * width) * share * most, 1))
    image = work.image.clone()
    stripe = depth[:, left : left + wide] * (255 / max_depth)
    image[:, :, left : left + wide] = stripe.clamp(0, 255).to(torch.uint8)
    return replace(work, image=image)


def _nyu_bts(
    work: Joint,
    rng: Rng,
    size: Size,
    *,
    box: tuple[int, int, int, int] = (43, 45, 608, 472),
    degrees: float = 2.5,
    flip: float = 0.5,
    colour: float = 0.5,
) -> Joint:
    """NYUv2 as BTS: frames of 640 x 480 cropped to `box` (left, top, right, bottom), turned, cropped to 416 x 544,
    flipped, and in half of all cases gamma, brightness and colours changed; other sizes of frame and crop in
    proportion.
    """
    height, width = work.size
    left, top, right, bottom = (
        round(edge * side) for edge, side in zip(box, (width / 640, height / 480) * 2, strict=True)
    )
    work = on.crop(work, top, left, max(bottom - top, 1), max(right - left, 1))
    work = on.rotate(work, rng.uniform(-degrees, degrees))
    unit = max(size[0] / 416, size[1] / 544)
    inner = (max(round((box[3] - box[1]) * unit), size[0]), max(round((box[2] - box[0]) * unit), size[1]))
    work = on.random_crop(on.resize(work, inner), rng, size)
    work = on.flip(work, rng, flip)
    gamma, light = rng.uniform(0.9, 1.1), rng.uniform(0.75, 1.25)
    tint = torch.from_numpy(rng.uniform(0.9, 1.1, (3, 1, 1)).astype(np.float32))
    if rng.random() < colour:
        work = on.recolour(work, lambda image: (image / 255).pow(gamma) * 255 * light * tint)
    return work


def _scenes(
    work: Joint,
    rng: Rng,
    size: Size,
    *,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
) -> Joint:
    """Small pictures of any task: a crop of half the area or more, moderately stretched; flip."""
    height, width = work.size
    area = height * width * rng.uniform(*scale)
    shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]))) * size[1] / size[0]
    window = (max(round(math.sqrt(area / shape)), 1), max(round(math.sqrt(area * shape)), 1))
    return on.flip(on.resize(on.random_crop(work, rng, window), size), rng, flip)


def _plain(work: Joint, rng: Rng, size: Size) -> Joint:
    """Only the size: stretched to it; with objects fitted into it and padded to the right and below."""
    if work.boxes is None:
        return on.resize(work, size)
    factor = min(size[0] / work.size[0], size[1] / work.size[1])
    height, width = (max(min(round(have * factor), want), 1) for have, want in zip(work.size, size, strict=True))
    return on.pad(on.resize(work, (height, width)), size)


PIPELINES: Mapping[str, Pipeline] = {
    "ade": _ade,
    "coco_1x": _coco_1x,
    "coco_3x": _coco_3x,
    "coco_lsj": _coco_lsj,
    "nyu": _nyu,
    "nyu_bts": _nyu_bts,
    "scenes": _scenes,
    "plain": _plain,
}
"""Name -> (work, rng, size, **options)."""
