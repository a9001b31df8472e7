"""Augmentation: what is drawn for a sample, and how it is done to pixels, on the host or on the device.

    augment = Augment(scale=(0.9, 1.0), rand_augment=(2, 9))
    boxes = augment.boxes(keys, sizes)                 # RandomResizedCrop, as torchvision draws it
    resize(pixels, boxes[0], out)                      # host: uint8, antialiased, into a row of the batch
    images = resize_batch(canvas, extents, 256)        # device: the same bytes, as two matrix products a batch
    images = apply(images, augment.operations(keys, 256))

Parameters are hashes of a key (seed, epoch, uid), so that resuming, threads and ranks change nothing. Pixels stay uint8
from the decoder to `normalise`. RandAugment is grouped by (operation, magnitude), one call of torchvision a group; its
results are bit for bit those of torchvision's tensor operations, image by image (a test says so).

Stored parameters (DataCompDR's `param_aug`). One augmentation is a list with an entry for each transformation that has
parameters, in the fixed order resize, crop, flip, RandAugment; public data has
`[[top, left, height, width], [[operation, magnitude], [operation, magnitude]]]`. The crop is in pixels of the image as
it was decoded (not turned by EXIF). An operation is an index in `OPERATIONS`, its magnitude what torchvision's first
RandAugment hands to the operation: shear and factors as they are, rotation in degrees, translation in pixels,
posterize in bits, solarize as a threshold of 0..255. Translations are not scaled to another output size: Apple's
trainer does not. `null` is a transformation that was skipped. Apple's trainer replays on PIL images with a bicubic
crop; here it is tensor operations, whose rounding differs by a level in places.

Sources: torchvision 0.29 `transforms/transforms.py: RandomResizedCrop.get_params`, `transforms/autoaugment.py:
RandAugment, _apply_op`; apple/ml-mobileclip `training/dr/transforms.py: Compose.decompress, RandAugment.op_names`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mobileclip.config import Preprocess
from mobileclip.data.order import Ints, Words, hashed, uniform
from mobileclip.errors import DataError

OPERATIONS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
"""RandAugment's operations in the order of stored indices."""
BINS = 31
"""Magnitudes that RandAugment distinguishes."""
MAX_OPERATIONS = 16
"""Operations of one stored augmentation."""

_SIGNED = range(1, 10)  # ShearX to Sharpness
_AREA, _SHAPE, _TOP, _LEFT, _FLIP, _OP, _SIGN, _STORED = range(201, 209)  # streams of draws
_TRIES = 10  # of RandomResizedCrop

Operation = tuple[int, float]
"""(index in OPERATIONS, magnitude)."""
Box = tuple[int, int, int, int]
"""(top, left, height, width), in pixels."""
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What may be done to a picture in training."""

    scale: tuple[float, float] = (0.9, 1.0)
    """Least and most share of the picture's area that a crop keeps."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and most width / height of a crop."""
    flip: float = 0.0
    """Probability of a mirrored picture; captions name sides, so 0."""
    rand_augment: tuple[int, int] | None = None
    """Operations a picture and their magnitude (0 to 30); None: none."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Of the crop's resize; antialiased."""
    replay: bool = True
    """Where a sample has stored augmentations, replay one of them instead of drawing."""

    def __post_init__(self) -> None:
        for name, (low, high), most in (("scale", self.scale, 1.0), ("ratio", self.ratio, 100.0)):
            if not 0 < low <= high <= most:
                raise DataError(f"augmentation's {name} is {low} to {high}: 0 < least <= most <= {most:g} is allowed.")
        if not 0 <= self.flip <= 1:
            raise DataError(f"augmentation's flip is {self.flip}: a probability of 0 to 1 is allowed.")
        if self.rand_augment is not None:
            count, magnitude = self.rand_augment
            if not (0 <= count <= MAX_OPERATIONS and 0 <= magnitude < BINS):
                raise DataError(
                    f"augmentation's rand_augment is {count} operations of magnitude {magnitude}: 0 to "
                    f"{MAX_OPERATIONS} operations of magnitude 0 to {BINS - 1} are allowed."
                )
        if self.interpolation not in ("bilinear", "bicubic"):
            raise DataError(f"interpolation is '{self.interpolation}': 'bilinear' or 'bicubic' is allowed.")

    def boxes(self, keys: Words, sizes: Ints) -> Ints:
        """Crops int64 [N, 4] (top, left, height, width) of pictures of `sizes` int64 [N, 2] (height, width).

        Ten tries of a random area and shape, then the largest centred crop of an allowed shape.
        """
        height, width = sizes[:, 0, None], sizes[:, 1, None]
        tries = np.arange(_TRIES)
        low, high = self.scale
        area = height * width * (low + (high - low) * uniform(keys[:, None], _AREA, tries))
        narrow, wide = (math.log(ratio) for ratio in self.ratio)
        shape = np.exp(narrow + (wide - narrow) * uniform(keys[:, None], _SHAPE, tries))
        w = np.rint(np.sqrt(area * shape)).astype(np.int64)
        h = np.rint(np.sqrt(area / shape)).astype(np.int64)
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)  # [N, tries]
        first = fits.argmax(1)
        every = np.arange(len(keys))
        w, h, found = w[every, first], h[every, first], fits[every, first]
        high_side, wide_side = sizes[:, 0], sizes[:, 1]
        top = (uniform(keys, _TOP) * (high_side - h + 1)).astype(np.int64)
        left = (uniform(keys, _LEFT) * (wide_side - w + 1)).astype(np.int64)
        drawn = np.stack((top, left, h, w), 1)
        return drawn if found.all() else np.where(found[:, None], drawn, self._centred(high_side, wide_side))

    def _centred(self, height: Ints, width: Ints) -> Ints:
        shape, (low, high) = width / height, self.ratio
        w = np.where(shape > high, np.rint(height * high), width).astype(np.int64)
        h = np.where(shape < low, np.rint(width / low), height).astype(np.int64)
        return np.stack(((height - h) // 2, (width - w) // 2, h, w), 1)

    def flips(self, keys: Words) -> npt.NDArray[np.bool_]:
        """bool [N]: mirrored or not."""
        return np.asarray(uniform(keys, _FLIP) < self.flip)

    def operations(self, keys: Words, size: int) -> list[tuple[Operation, ...]]:
        """RandAugment's draws for pictures of `size` x `size`; empty tuples without `rand_augment`."""
        if self.rand_augment is None:
            return [()] * len(keys)
        count, magnitude = self.rand_augment
        table, turn = magnitudes(magnitude, size), np.arange(count)
        which = (hashed(keys[:, None], _OP, turn) % np.uint64(len(OPERATIONS))).astype(int)
        minus = (hashed(keys[:, None], _SIGN, turn) & np.uint64(1)).astype(bool)
        rows = zip(which.tolist(), minus.tolist(), strict=True)
        return [
            tuple((op, -table[op] if less and op in _SIGNED else table[op]) for op, less in zip(*row, strict=True))
            for row in rows
        ]


def pick_stored(keys: Words, counts: Ints) -> Ints:
    """Which of its `counts` int64 [N] stored augmentations each sample replays: int64 [N]."""
    return (uniform(keys, _STORED) * counts).astype(np.int64)


@lru_cache(maxsize=64)
def magnitudes(level: int, size: int) -> tuple[float, ...]:
    """What RandAugment at this magnitude hands to each operation, for pictures of `size` x `size`."""
    far = 150.0 / 331.0 * size
    tops = (0.0, 0.3, 0.3, far, far, 30.0, 0.9, 0.9, 0.9, 0.9)
    table = [float(torch.linspace(0.0, top, BINS)[level]) for top in tops]
    bits = 8 - (torch.arange(BINS) / ((BINS - 1) / 4)).round().int()
    return (*table, float(bits[level]), float(torch.linspace(255.0, 0.0, BINS)[level]), 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One stored augmentation, read and checked."""

    box: Box | None
    """Top, left, height, width; None: the whole picture."""
    flip: bool
    """Mirrored."""
    operations: tuple[Operation, ...]
    """RandAugment's."""


def read_stored(entry: Sequence[Any]) -> Stored:
    """One entry of `param_aug` -> what it says.

    Raises:
        DataError: an entry of another configuration (mixing, erasing), or one that makes no sense.
    """
    wrong = DataError(
        f"a stored augmentation is {str(entry)[:100]}: a crop [top, left, height, width], a flip and a list of "
        "[operation, magnitude] are allowed, in this order; store it again, or train with replay=False."
    )
    box, flip, stage = None, False, 0
    operations: tuple[Operation, ...] = ()
    for part in entry:
        if part is None:
            continue
        if isinstance(part, bool) and stage < 2:
            flip, stage = part, 2
        elif isinstance(part, list) and len(part) == 4 and all(map(_number, part)) and stage < 1:
            top, left, height, width = (round(value) for value in part)
            if min(top, left) < 0 or min(height, width) < 1 or max(part) > 1 << 20:
                raise wrong
            box, stage = (top, left, height, width), 1
        elif isinstance(part, list) and len(part) <= MAX_OPERATIONS and all(map(_is_operation, part)) and stage < 3:
            operations, stage = tuple((int(op), float(magnitude)) for op, magnitude in part), 3
        else:
            raise wrong
    return Stored(box=box, flip=flip, operations=operations)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_operation(part: object) -> bool:
    if not isinstance(part, list) or len(part) != 2 or not all(map(_number, part)):
        return False
    op, magnitude = part
    limits = {10: (0, 8), 11: (0, 256)}.get(op, (-1e4, 1e4))
    return op in range(len(OPERATIONS)) and limits[0] <= magnitude <= limits[1]


def scaled_box(box: Box, was: tuple[int, int], now: tuple[int, int]) -> Box:
    """A crop of a picture of size `was` (height, width), for the same picture at size `now`; inside it, not empty.

    Edges are rounded to pixels: at the same size the crop is the same.
    """
    top, left, height, width = box
    y, x = now[0] / was[0], now[1] / was[1]
    first, start = min(max(round(top * y), 0), now[0] - 1), min(max(round(left * x), 0), now[1] - 1)
    last, stop = round((top + height) * y), round((left + width) * x)
    return first, start, min(max(last - first, 1), now[0] - first), min(max(stop - start, 1), now[1] - start)


def resize(pixels: Pixels, box: Sequence[int], out: Tensor, interpolation: str = "bilinear") -> None:
    """Crop `pixels` [H, W, 3] to `box` and resize it into `out` uint8 [1, 3, S, S] (channels last), antialiased."""
    top, left, height, width = box
    crop = np.ascontiguousarray(pixels[top : top + height, left : left + width])
    image = torch.from_numpy(crop).permute(2, 0, 1)[None]  # [1, 3, h, w] over the same bytes
    size = list(out.shape[-2:])
    if size == [height, width]:
        out.copy_(image)
    elif interpolation == "bicubic":
        torch.ops.aten._upsample_bicubic2d_aa.out(image, size, False, None, None, out=out)
    else:
        torch.ops.aten._upsample_bilinear2d_aa.out(image, size, False, None, None, out=out)


def resize_batch(canvas: Tensor, extents: Tensor, size: int, interpolation: str = "bilinear") -> Tensor:
    """Crops of many sizes -> uint8 [B, 3, S, S] (channels last), on the canvas' device, as `resize` makes them.

    Args:
        canvas: uint8 [B, Hm, Wm, 3]; crop i is canvas[i, :extents[i, 0], :extents[i, 1]], the rest is anything.
        extents: int [B, 2], height and width of each crop.
        size: S.
        interpolation: `bilinear` or `bicubic`.

    The host's arithmetic is that of integers, and so is this: 15-bit weights, in two halves of 8 bits that even
    TensorFloat-32 holds exactly, and a byte between the passes. Equal bit for bit up to crops of about 4 S a side.
    """
    batch, rows, columns, channels = canvas.shape
    x = canvas.to(torch.float32).permute(0, 2, 1, 3).reshape(batch, columns, rows * channels)
    x = _pass(_weights(extents[:, 1], columns, size, interpolation), x)  # [B, S, Hm * 3]
    x = x.view(batch, size, rows, channels).permute(0, 2, 1, 3).reshape(batch, rows, size * channels)
    x = _pass(_weights(extents[:, 0], rows, size, interpolation), x)  # [B, S, S * 3]
    return x.to(torch.uint8).view(batch, size, size, channels).permute(0, 3, 1, 2)


def _pass(weights: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    """x float32 [B, L, N] of bytes -> bytes [B, S, N]."""
    whole, unit = weights
    high = (whole / 128).floor()
    products = torch.bmm(torch.cat((high, whole - 128 * high), 1), x)  # [B, 2 S, N]
    size = whole.shape[1]
    total = products[:, :size].mul_(128).add_(products[:, size:])
    return total.add_(unit / 2).div_(unit).floor_().clamp_(0, 255)


def _weights(lengths: Tensor, longest: int, size: int, interpolation: str) -> tuple[Tensor, Tensor]:
    """([B, S, longest], [B, 1, 1]): integers over a power of two that resize a line of lengths[i] pixels to S.

    Antialiased; zero beyond a line's end. Source: PyTorch 2.14, aten UpSampleKernel.cpp
    `_compute_indices_min_size_weights_aa`, `_compute_index_ranges_int16_weights`, which are Pillow's.
    """
    kernel, reach = (_cubic, 2.0) if interpolation == "bicubic" else (_triangle, 1.0)
    length = lengths.to(torch.float64)[:, None, None]
    scale = length / size
    wide = scale.clamp(min=1.0)
    centre = scale * (torch.arange(size, device=lengths.device, dtype=torch.float64)[None, :, None] + 0.5)
    place = torch.arange(longest, device=lengths.device, dtype=torch.float64)[None, None, :]
    first = (centre - reach * wide + 0.5).floor().clamp(min=0)
    last = torch.minimum((centre + reach * wide + 0.5).floor(), length)
    weight = kernel((place - centre + 0.5) / wide)
    weight = torch.where((place >= first) & (place < last), weight, 0.0)
    weight = weight / weight.sum(-1, keepdim=True)
    largest = weight.amax((1, 2), keepdim=True)
    bits = torch.arange(1, 23, device=lengths.device, dtype=torch.float64)
    unit = 2.0 ** ((largest * 2.0**bits + 0.5).floor() < 2**15).sum(-1, keepdim=True).to(torch.float64)
    whole = ((weight * unit).abs() + 0.5).floor() * weight.sign()
    return whole.to(torch.float32), unit.to(torch.float32)


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic with a = -0.5, as antialiased resizing has it."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def flip(images: Tensor, which: npt.NDArray[np.bool_]) -> Tensor:
    """Mirror those of `images` [B, 3, S, S] that `which` bool [B] says."""
    if not which.any():
        return images
    index = torch.from_numpy(np.flatnonzero(which)).to(images.device)
    images[index] = images[index].flip(-1)
    return images


def apply(images: Tensor, operations: Sequence[tuple[Operation, ...]]) -> Tensor:
    """RandAugment's operations, one after the other, to uint8 `images` [B, 3, S, S]; may change them in place."""
    for turn in range(max((len(row) for row in operations), default=0)):
        groups: dict[Operation, list[int]] = {}
        for index, row in enumerate(operations):
            if turn < len(row) and OPERATIONS[row[turn][0]] != "Identity":
                groups.setdefault(row[turn], []).append(index)
        for (op, magnitude), members in groups.items():
            where = torch.tensor(members, device=images.device)
            images[where] = operate(images[where], OPERATIONS[op], magnitude)
    return images


def operate(images: Tensor, name: str, magnitude: float) -> Tensor:
    """One of OPERATIONS on uint8 [N, 3, S, S]: nearest neighbour, black beyond the edge, as torchvision has it."""
    from torchvision.transforms.v2 import functional as F

    shear = math.degrees(math.atan(magnitude))
    still: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    match name:
        case "ShearX":
            out = F.affine(images, **still | {"shear": [shear, 0.0]}, center=[0, 0])
        case "ShearY":
            out = F.affine(images, **still | {"shear": [0.0, shear]}, center=[0, 0])
        case "TranslateX":
            out = F.affine(images, **still | {"translate": [int(magnitude), 0]})
        case "TranslateY":
            out = F.affine(images, **still | {"translate": [0, int(magnitude)]})
        case "Rotate":
            out = F.rotate(images, magnitude)
        case "Brightness":
            out = F.adjust_brightness(images, 1.0 + magnitude)
        case "Color":
            out = F.adjust_saturation(images, 1.0 + magnitude)
        case "Contrast":
            out = F.adjust_contrast(images, 1.0 + magnitude)
        case "Sharpness":
            out = F.adjust_sharpness(images, 1.0 + magnitude)
        case "Posterize":
            out = F.posterize(images, int(magnitude))
        case "Solarize":
            out = F.solarize(images, magnitude)
        case "AutoContrast":
            out = F.autocontrast(images)
        case "Equalize":
            out = F.equalize(images)
        case _:
            out = images
    done: Tensor = out
    return done


def normalise(images: Tensor, preprocess: Preprocess) -> Tensor:
    """uint8 [B, 3, S, S] -> float32, 0..1, or `(x - mean) / std` where the model wants it; on the images' device."""
    x = images.to(torch.float32).div_(255)
    if preprocess.normalises:
        mean, std = (torch.tensor(v, dtype=torch.float32).to(x.device) for v in (preprocess.mean, preprocess.std))
        x.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))
    return x
