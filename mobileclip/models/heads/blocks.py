"""What several dense heads are made of: convolutions with BatchNorm, the FPN neck's top-down path, and their deployed
forms.

Legend: B pictures, C channels, H and W rows and columns.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobileclip.models.blocks import fold_bn_into_conv
from mobileclip.models.branches import affine_of


def conv_bn_relu(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Convolution that keeps the size, BatchNorm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def classifier(inputs: int, outputs: int) -> nn.Conv2d:
    """1x1 convolution to one map a class, drawn close to zero (standard deviation 0.01)."""
    conv = nn.Conv2d(inputs, outputs, 1)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def bilinear(x: Tensor, size: Sequence[int]) -> Tensor:
    """To `size` (rows, columns), corners not aligned."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def doubled(x: Tensor) -> Tensor:
    """Twice the size, bilinear, corners not aligned: what every target has."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def folded(layers: nn.Module) -> nn.Sequential:
    """New layers equal to a `Sequential` in evaluation: BatchNorms are in the convolutions before them, no dropout."""
    assert isinstance(layers, nn.Sequential)
    out: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            before = out.pop()
            assert isinstance(before, nn.Conv2d | nn.ConvTranspose2d), "a BatchNorm folds into a convolution before it"
            out.append(fold_bn_into(before, layer))
        elif not isinstance(layer, nn.Dropout | nn.Dropout2d | nn.Identity):
            out.append(copy.deepcopy(layer))
    return nn.Sequential(*out).eval().requires_grad_(False)


def fold_bn_into(conv: nn.Conv2d | nn.ConvTranspose2d, bn: nn.BatchNorm2d) -> nn.Conv2d | nn.ConvTranspose2d:
    """`bn(conv(x))` in evaluation as one new layer with a bias; computed in float64."""
    if isinstance(conv, nn.Conv2d):
        return fold_bn_into_conv(conv, bn)
    assert conv.groups == 1, "the outputs of a grouped transposed convolution lie elsewhere"
    scale, shift = affine_of(bn)
    weight = conv.weight.detach().double() * scale.reshape(1, -1, 1, 1)  # [in, out, k, k]
    if conv.bias is not None:
        shift = shift + conv.bias.detach().double() * scale
    new = copy.deepcopy(conv)
    new.weight = nn.Parameter(weight.to(conv.weight), requires_grad=False)
    new.bias = nn.Parameter(shift.to(conv.weight), requires_grad=False)
    return new


class Doubled(nn.Module):
    """`doubled` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return doubled(x)


class FpnNeck(nn.Module):
    """Feature pyramid (Lin et al., 2017, arXiv 1612.03144): 1x1 laterals, nearest top-down path, 3x3 outputs; maps
    [B, C_i, H_i, W_i] -> maps [B, width, H_i, W_i]."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in channels)
        self.output = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        for conv in (*self.lateral, *self.output):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        path = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for index in range(len(path) - 1, 0, -1):
            finer = path[index - 1]
            path[index - 1] = finer + F.interpolate(path[index], size=finer.shape[2:], mode="nearest")
        return [output(x) for output, x in zip(self.output, path, strict=True)]


class Nearest2(nn.Module):
    """Each pixel as 2x2 equal ones."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class FusedFpnNeck(nn.Module):
    """`FpnNeck` as it is deployed: every map has twice the sides of the next."""

    def __init__(self, neck: FpnNeck) -> None:
        super().__init__()
        self.lateral, self.output = copy.deepcopy(neck.lateral), copy.deepcopy(neck.output)
        self.enlarge = Nearest2()
        self.eval().requires_grad_(False)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        path = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for index in range(len(path) - 1, 0, -1):
            path[index - 1] = path[index - 1] + self.enlarge(path[index])
        return [output(x) for output, x in zip(self.output, path, strict=True)]


class Pooled(nn.Module):
    """Adaptive average pooling of maps [B, C, H, W] of one size to [B, C, bins, bins], as two products with constants.

    Exact for every size, also one that the bins do not divide, where phones have no pooling.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, size: tuple[int, int], bins: int, like: Tensor) -> None:
        super().__init__()
        self.bins = bins
        self.register_buffer("rows", pooling_matrix(size[0], bins, like)[None, None])  # [1, 1, bins, H]
        self.register_buffer("columns", pooling_matrix(size[1], bins, like).T[None, None].contiguous())

    def forward(self, x: Tensor) -> Tensor:
        if self.bins == 1:
            return x.mean((2, 3), keepdim=True)
        return torch.matmul(self.rows.expand(x.shape[0], x.shape[1], -1, -1), torch.matmul(x, self.columns))


def segmentation_loss(logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """Cross-entropy, mean over the pixels that count, of logits [B, K, h, w] resized to labels [B, H, W]; 0 where no
    pixel counts."""
    logits = bilinear(logits.float(), labels.shape[1:])
    total = F.cross_entropy(logits, labels, ignore_index=ignore, reduction="sum")
    return total / (labels != ignore).sum().clamp(min=1)


def pooling_matrix(size: int, bins: int, like: Tensor) -> Tensor:
    """[bins, size]: adaptive average pooling of `size` values to `bins` as a product with a constant."""
    eye = torch.eye(size, dtype=torch.float64, device=like.device)
    return F.adaptive_avg_pool1d(eye[None], bins)[0].T.to(like.dtype)
