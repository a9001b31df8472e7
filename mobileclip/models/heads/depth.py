"""Depth from the coarsest map: three doublings by transposed convolution, a convolution, two bilinear doublings, two
convolutions, and a sigmoid times the largest depth.

Xie et al., Revealing the Dark Secrets of Masked Image Modeling, 2022 (arXiv 2205.13543), appendix (the head), Eigen et
al., 2014 (arXiv 1406.2283), section 3.2 (the loss). Written from these descriptions.

Legend: B pictures, C_i channels of map i, H and W rows and columns of the picture.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mobileclip.dense.config import DenseConfig
from mobileclip.dense.samples import Targets
from mobileclip.models.heads.blocks import Doubled, bilinear, conv_bn_relu, doubled, folded

DECONVS, DECONV_WIDTH = 3, 32
"""Transposed convolutions (stride 32 to 4), and their channels."""
VARIANCE = 0.5
"""Share of the squared mean that the loss forgives (lambda)."""
NEAREST = 1e-6
"""Depth in metres below which a prediction counts as this one: its logarithm stays finite."""


class DepthHead(nn.Module):
    """Maps -> depth in metres, [B, 1, H, W], or [B, 1, H/4, W/4] if `quarter`.

    Args:
        channels: C_i of the maps; only the last map is used.
        config: of the model; `max_depth` is the largest output.
        width: channels of the last convolutions; those of the finest map if left out.
        quarter: predict at a quarter of the picture, which costs a fiftieth.
    """

    def __init__(
        self, channels: tuple[int, ...], config: DenseConfig, width: int | None = None, quarter: bool = False
    ) -> None:
        super().__init__()
        self.max_depth, self.quarter = config.max_depth, quarter
        width = width or channels[0]
        layers: list[nn.Module] = []
        for index in range(DECONVS):
            inputs = DECONV_WIDTH if index else channels[-1]
            deconv = nn.ConvTranspose2d(inputs, DECONV_WIDTH, 2, stride=2, bias=False)
            nn.init.normal_(deconv.weight, std=0.001)
            layers += [deconv, nn.BatchNorm2d(DECONV_WIDTH), nn.ReLU()]
        self.grow = nn.Sequential(*layers, *conv_bn_relu(DECONV_WIDTH, width, 3))
        self.predict = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 3, padding=1)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = self.grow(maps[-1])
        if not self.quarter:
            x = doubled(doubled(x))
        depth: Tensor = self.predict(x).sigmoid() * self.max_depth
        return depth

    def loss(self, maps: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """`depth`: `silog` at the size of the truth."""
        assert targets.depth is not None
        return {"depth": silog(bilinear(self(maps).float(), targets.depth.shape[1:])[:, 0], targets.depth)}

    def deployed(self) -> nn.Module:
        """New modules with the same `forward` in evaluation."""
        return FusedDepthHead(self)


class FusedDepthHead(nn.Module):
    """`DepthHead` as it is deployed."""

    def __init__(self, head: DepthHead) -> None:
        super().__init__()
        self.max_depth = head.max_depth
        enlarge = () if head.quarter else (Doubled(), Doubled())
        self.layers = nn.Sequential(*folded(head.grow), *enlarge, *folded(head.predict), nn.Sigmoid())
        self.eval().requires_grad_(False)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        depth: Tensor = self.layers(maps[-1]) * self.max_depth
        return depth


def silog(predicted: Tensor, truth: Tensor) -> Tensor:
    """sqrt(mean(d^2) - 0.5 mean(d)^2) with d = log truth - log predicted, over the pixels whose truth is above zero.

    Zero, with a gradient of zero, where there is no such pixel or none is wrong.
    """
    valid = truth > 0
    count = valid.sum().clamp(min=1)
    difference = torch.where(valid, truth, 1).log() - torch.where(valid, predicted, 1).clamp(min=NEAREST).log()
    square = difference.square().sum() / count - VARIANCE * (difference.sum() / count).square()
    least = 1e-12  # the root has no slope at zero
    return torch.where(square > least, square.clamp(min=least).sqrt(), square)
