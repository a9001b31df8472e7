"""From a picture to maps and back: whole, in windows, or at the one size of an export; enlarged in bands of rows.

    view = Whole(short=512, long=2048)(net, image)        # [K, h, w]
    best_class([view], image.shape[:2])                   # uint8 [H, W]

The protocols (mmsegmentation's, which the published figures of ADE20K use; MIM-Depth-Estimation's for NYUv2):

- whole: the short side to `short` unless the long one would pass `long`, then each side up to a multiple of 32, so that
  the picture is stretched by a few pixels instead of padded (PVT's and PoolFormer's AlignResize).
- windows: the same resize without the rounding, then crops every `stride` pixels whose answers are averaged where they
  overlap; a picture smaller than the crop is padded with black to the right and below, which is cut off the answer.
- fixed: stretched to one size, as exported artifacts take it (host.py).

`net` takes uint8 [B, 3, H, W] and gives float [B, C, h, w]. Legend: C channels (classes, or 1 of depth); h, w rows and
columns of a map; H, W of the picture.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from mobileclip.dense.host import BAND, places, stretch

ALIGN = 32
"""Sides that a pyramid takes are multiples of this."""
AT_ONCE = 4
"""Windows of one forward pass."""

Pixels = npt.NDArray[np.uint8]
Net = Callable[[Tensor], Tensor]


class View(Protocol):
    """A way to look at a picture."""

    def __call__(self, net: Net, image: Pixels) -> Tensor:
        """RGB [H, W, 3] -> [C, h, w], which covers the whole picture."""
        ...


@dataclass(frozen=True, kw_only=True)
class Whole:
    """The whole picture, ratio kept but for the rounding up."""

    short: int
    """Of the short side, in pixels."""
    long: int
    """At most, of the long side."""

    def __call__(self, net: Net, image: Pixels) -> Tensor:
        height, width = kept_ratio((image.shape[0], image.shape[1]), self.short, self.long)
        return net(tensor(stretch(image, (aligned(height), aligned(width)))))[0]


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """The whole picture, stretched to one size."""

    size: tuple[int, int]

    def __call__(self, net: Net, image: Pixels) -> Tensor:
        return net(tensor(stretch(image, self.size)))[0]


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Crops of one size."""

    short: int
    """Of the picture's short side, in pixels."""
    long: int
    """At most, of its long side."""
    crop: tuple[int, int]
    """Rows and columns of a window."""
    stride: tuple[int, int] | None
    """Down and to the right; None: two windows along each side that is longer than the crop, or as many as cover it."""

    def __call__(self, net: Net, image: Pixels) -> Tensor:
        height, width = kept_ratio((image.shape[0], image.shape[1]), self.short, self.long)
        pixels = tensor(stretch(image, (height, width)))
        rows, columns = self.crop
        pixels = pad(pixels, (0, max(columns - width, 0), 0, max(rows - height, 0)))
        strides = self.stride or tuple(
            min(max(side - crop, 1), crop) for side, crop in zip(pixels.shape[2:], self.crop, strict=True)
        )
        starts = [
            (top, left)
            for top in window_starts(pixels.shape[2], rows, strides[0])
            for left in window_starts(pixels.shape[3], columns, strides[1])
        ]
        total: Tensor | None = None
        times = torch.zeros(pixels.shape[2:])
        for first in range(0, len(starts), AT_ONCE):
            some = starts[first : first + AT_ONCE]
            crops = torch.cat([pixels[..., top : top + rows, left : left + columns] for top, left in some])
            for (top, left), said in zip(some, net(crops), strict=True):
                if total is None:
                    total = said.new_zeros((said.shape[0], *pixels.shape[2:]))
                    times = times.to(said.device)
                place = (slice(top, top + rows), slice(left, left + columns))
                total[(slice(None), *place)] += _resized(said, self.crop)
                times[place] += 1
        assert total is not None
        return (total / times)[:, :height, :width]


@dataclass(frozen=True, kw_only=True)
class Mirrored:
    """What another view says of the mirrored picture, mirrored back."""

    view: View

    def __call__(self, net: Net, image: Pixels) -> Tensor:
        return self.view(net, np.ascontiguousarray(image[:, ::-1])).flip(-1)


def kept_ratio(size: tuple[int, int], short: int, long: int) -> tuple[int, int]:
    """Rows and columns of a picture of `size` whose short side becomes `short`, or whose long side becomes `long` where
    that makes it smaller; at least 1."""
    scale = min(short / min(size), long / max(size))
    height, width = (max(int(side * scale + 0.5), 1) for side in size)
    return height, width


def aligned(side: int) -> int:
    """The next multiple of 32."""
    return max(math.ceil(side / ALIGN), 1) * ALIGN


def window_starts(side: int, crop: int, stride: int) -> list[int]:
    """First pixels of windows that cover a side of at least `crop` pixels; the last one ends with the side."""
    count = max(math.ceil((side - crop) / stride), 0) + 1
    return [min(place * stride, side - crop) for place in range(count)]


def tensor(image: Pixels) -> Tensor:
    """[H, W, 3] -> uint8 [1, 3, H, W]."""
    return torch.from_numpy(image.transpose(2, 0, 1).copy())[None]


def best_class(maps: Sequence[Tensor], size: tuple[int, int]) -> Pixels:
    """Logits [K, h, w] of one or several views -> uint8 [H, W].

    Logits are enlarged before the best class is taken; of several views the probabilities (softmax at the picture's own
    size) are added, as mmsegmentation's test-time augmentation does.
    """
    out = np.empty(size, np.uint8)
    for top, *bands in zip(_tops(maps[0].shape[0], size), *(_enlarged(one, size) for one in maps), strict=True):
        if len(bands) == 1:
            best = bands[0].argmax(0)
        else:
            total = bands[0].softmax(0)
            for band in bands[1:]:
                total += band.softmax(0)
            best = total.argmax(0)
        out[top : top + best.shape[0]] = best.to(torch.uint8).cpu().numpy()
    return out


def mean_depth(maps: Sequence[Tensor], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Depths [1, h, w] of one or several views -> metres float32 [H, W], the mean of the views."""
    out = np.zeros(size, np.float32)
    for one in maps:
        for top, band in zip(_tops(1, size), _enlarged(one, size), strict=True):
            out[top : top + band.shape[1]] += band[0].cpu().numpy()
    out /= len(maps)
    return out


def _tops(channels: int, size: tuple[int, int]) -> range:
    return range(0, size[0], max(BAND // (channels * size[1]), 1))


def _enlarged(maps: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """[C, h, w] -> [C, rows, W] from top to bottom; together what `interpolate(maps, size, mode="bilinear")` gives."""
    below, above, share = (torch.from_numpy(part).to(maps.device) for part in places(maps.shape[1], size[0]))
    tops = _tops(maps.shape[0], size)
    for top in tops:
        part = slice(top, top + tops.step)
        rows = torch.lerp(maps[:, below[part]].float(), maps[:, above[part]].float(), share[part, None])  # [C, rows, w]
        yield _resized(rows, (rows.shape[1], size[1]))


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """[C, h, w] -> [C, H, W], bilinear."""
    if maps.shape[1:] == size:
        return maps
    return interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
