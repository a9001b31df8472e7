"""Parts of dense heads in forms that XNNPACK has.

Nearest enlargement by two is a product with two ones, first along the columns, then along the rows. XNNPACK knows
bilinear enlargement and no nearest one, so each step of a feature pyramid's top-down path splits the graph (semantic
FPN: 4 delegates instead of 1). It broadcasts in products: with channels last, [.., pixel, 1, channel] x [2, 1] is each
pixel twice, and the same of whole rows is each row twice. Exact; concatenation and `expand` are not taken.

Pooling by products with constants is two linear layers: a product whose constant is the same for every channel is
lowered to copies of it, one a channel, that no delegate takes. The mean of a whole map is given at the map's own size,
since the `expand` that would enlarge it is not taken either.
"""

import copy
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

from mobileclip.models.heads.blocks import FusedFpnNeck, Pooled


class Doubling(nn.Module):
    """[B, C, H, W] -> [B, C, 2H, 2W], each pixel as four equal ones."""

    twice: Tensor

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("twice", torch.ones(1, 1, 2, 1, dtype=like.dtype, device=like.device))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.permute(0, 2, 3, 1).reshape(1, b * h * w, 1, c) * self.twice
        x = x.reshape(1, b * h, 1, 2 * w * c) * self.twice
        return x.reshape(b, 2 * h, 2 * w, c).permute(0, 3, 1, 2)


class DoublingFpn(nn.Module):
    """torchvision's `FeaturePyramidNetwork` for maps that each have twice the sides of the next."""

    def __init__(self, fpn: FeaturePyramidNetwork) -> None:
        super().__init__()
        self.inner, self.layer = copy.deepcopy(fpn.inner_blocks), copy.deepcopy(fpn.layer_blocks)
        self.extra = copy.deepcopy(fpn.extra_blocks)
        self.enlarge = Doubling(fpn.layer_blocks[0][0].weight)

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        names = list(maps)
        path = [block(x) for block, x in zip(self.inner, maps.values(), strict=True)]
        for index in range(len(path) - 1, 0, -1):
            path[index - 1] = path[index - 1] + self.enlarge(path[index])
        found: Sequence[Tensor] = [block(x) for block, x in zip(self.layer, path, strict=True)]
        if self.extra is not None:
            found, names = self.extra(list(found), list(maps.values()), names)
        return OrderedDict(zip(names, found, strict=True))


def nearest_products(module: nn.Module) -> nn.Module | None:
    """Feature pyramids whose top-down path is nearest, with `Doubling` in it."""
    if isinstance(module, FusedFpnNeck):
        new = copy.deepcopy(module)
        weight = new.output[0].weight
        assert isinstance(weight, Tensor)
        new.enlarge = Doubling(weight)  # type: ignore[assignment]
        return new
    return DoublingFpn(module) if isinstance(module, FeaturePyramidNetwork) else None


class LinearPooling(nn.Module):
    """`Pooled` as a linear layer over the columns and one over the rows; to one bin, the mean at every pixel."""

    rows: Tensor
    columns: Tensor

    def __init__(self, pooled: Pooled) -> None:
        super().__init__()
        rows, columns = pooled.rows[0, 0], pooled.columns[0, 0].t()  # [bins, H], [bins, W]
        if pooled.bins == 1:
            rows, columns = (part.expand(part.shape[1], -1) for part in (rows, columns))
        self.register_buffer("rows", rows.clone())
        self.register_buffer("columns", columns.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.columns).transpose(2, 3)  # [B, C, bins, H]
        return F.linear(x, self.rows).transpose(2, 3)


def linear_pooling(module: nn.Module) -> nn.Module | None:
    """The pools of a deployed UPerNet, which enlarges what is not of its last map's size, as `LinearPooling`."""
    return LinearPooling(module) if isinstance(module, Pooled) else None
