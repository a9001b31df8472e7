"""RoIAlign as two matrix products: what torchvision's `MultiScaleRoIAlign` (two samples a bin and axis) computes,
without gathering, `grid_sample` or an operator of its own.

Bilinear reading at position p is a sum over pixels g with the weights max(0, 1 - |p - g|), a hat; it factors into rows
and columns. So a bin's mean over its 2 x 2 samples is `Wy @ map @ Wx`, where a row of Wy is the mean of two hats. Each
region is read from the one level that fits its size (Lin et al., 2017, arXiv 1612.03144, equation 1); at all other
levels its weights are 0, and the levels are added.

The first product is the large one: K n W C numbers at stride 4, 92 MB in float32 for 100 regions of 7 bins on 256
channels and a picture of 512 pixels; half of everything makes a quarter.

Legend: K regions, n bins a side, C channels, H and W rows and columns of a level, L levels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CANONICAL = 224.0
"""Pixels of the side of a region that is read from the map at stride 16 (Lin et al., equation 1)."""


class MatmulRoiAlign(nn.Module):
    """Maps at strides 4, 8, ... and regions -> [K, C, n, n]; one picture.

    Attributes:
        levels: number of levels that regions of this picture size can reach; the others are not read.
        only: of the first level: maps' pixels for one of the picture's, rows, columns.
        limits: [1, L - 1], where the next level begins, as the region's area over 224 x 224.
        about: [3, L], the same of each level.
        samples: [2, 1, n, 1], where the two samples of each bin are, as shares of the region's side.
        grid: [1, 1, 1, G], 0, 1, 2, ...; its first numbers are the pixels of any axis.
        repeat: [1, n, 1, 1], ones.
    """

    limits: Tensor
    about: Tensor
    samples: Tensor
    grid: Tensor
    repeat: Tensor

    def __init__(self, size: tuple[int, int], bins: int, strides: Sequence[int] = (4, 8, 16, 32)) -> None:
        """For pictures of `size` (rows, columns), which the strides divide."""
        super().__init__()
        self.bins = bins
        # floor(4 + log2(side / 224) + 1e-6), as torchvision has it, squared so that no root or logarithm is needed
        limits = [4.0 ** (stride.bit_length() - 1 - 4 - 1e-6) for stride in strides[1:]]
        largest = size[0] * size[1] / CANONICAL**2
        self.levels = 1 + sum(limit <= largest for limit in limits)
        strides = strides[: self.levels]
        constants = {
            "limits": torch.tensor([limits[: self.levels - 1]]),
            "about": torch.tensor([[1 / stride, size[0] // stride, size[1] // stride] for stride in strides]).T,
            "samples": ((torch.arange(bins) + torch.tensor([[0.25], [0.75]])) / bins)[:, None, :, None],
            "grid": torch.arange(float(max(size) // strides[0]))[None, None, None],
            "repeat": torch.ones(1, bins, 1, 1),
        }
        self.only = (1 / strides[0], float(size[0] // strides[0]), float(size[1] // strides[0]))
        for name, value in constants.items():
            self.register_buffer(name, value.contiguous(), persistent=False)

    def forward(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Maps [1, H, W, C] and regions [K, 4] in pixels inside the picture -> [K, C, n, n]."""
        count, bins = boxes.shape[0], self.bins
        member = self._members(boxes) if self.levels > 1 else None  # [K, L]
        scale, rows, columns = self._about(member)
        ys = self._positions(boxes[:, 1:2], boxes[:, 3:4], scale, rows)
        xs = self._positions(boxes[:, 0:1], boxes[:, 2:3], scale, columns)
        total: Tensor | None = None
        for level, part in enumerate(maps[: self.levels]):
            _, down, across, channels = part.shape
            hats_y, hats_x = self._hats(*ys, down), self._hats(*xs, across)  # [1, K, n, H] and [1, K, n, W]
            here = self.repeat  # [1 or K, n, 1, 1]
            if member is not None:
                here = here * member[:, level : level + 1].reshape(count, 1, 1, 1)
            hats_x = (hats_x.reshape(count, 1, bins, across) * here).reshape(count * bins, bins, across)
            read = torch.bmm(hats_y.reshape(1, count * bins, down), part.reshape(1, down, across * channels))
            read = torch.bmm(hats_x, read.reshape(count * bins, across, channels))  # [K * n, n, C]
            total = read if total is None else total + read
        assert total is not None
        return total.reshape(count, bins, bins, -1).permute(0, 3, 1, 2)

    def _members(self, boxes: Tensor) -> Tensor:
        """[K, L], 1.0 at the level that each region is read from."""
        width, height = boxes[:, 2:3] - boxes[:, 0:1], boxes[:, 3:4] - boxes[:, 1:2]
        reached = ((width / CANONICAL) * (height / CANONICAL) >= self.limits).to(boxes.dtype)  # [K, L - 1]
        return F.pad(reached, (1, 0), value=1.0) - F.pad(reached, (0, 1))

    def _about(self, member: Tensor | None) -> Sequence[Tensor | float]:
        """Of each region's own map: scale, rows, columns, each [K, 1]; numbers where there is one map, since XNNPACK
        cannot slice a tensor of one row."""
        if member is None:
            return self.only
        about = F.linear(member, self.about)  # [K, 3]
        return [about[:, part : part + 1] for part in range(3)]

    def _positions(
        self, low: Tensor, high: Tensor, scale: Tensor | float, end: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Samples of both kinds along an axis, [2, K, n, 1]: positions in the region's own map, and weights: half each,
        or 0 beyond the end of the map, where torchvision reads 0. All arguments [K, 1] or numbers."""
        low, length = low * scale, ((high - low) * scale).clamp(min=1.0)
        places = low.reshape(1, -1, 1, 1) + self.samples * length.reshape(1, -1, 1, 1)
        if isinstance(end, Tensor):
            end = end.reshape(1, -1, 1, 1)
            return torch.minimum(places, end - 1), (places <= end).to(low.dtype) * 0.5
        return places.clamp(max=end - 1), (places <= end).to(low.dtype) * 0.5

    def _hats(self, places: Tensor, weights: Tensor, pixels: int) -> Tensor:
        """Bilinear weights of the pixels of an axis, [1, K, n, pixels]."""
        whole = pixels == self.grid.shape[-1]  # a slice of everything would be an alias, which coremltools cannot read
        grid = self.grid if whole else self.grid[..., :pixels]
        hats = F.relu(1 - (places - grid).abs()) * weights
        return hats[:1] + hats[1:]


def channels_last(maps: Sequence[Tensor]) -> list[Tensor]:
    """[1, C, H, W] each -> [1, H, W, C] each, the order that `MatmulRoiAlign` multiplies in."""
    return [part.permute(0, 2, 3, 1) for part in maps]
