"""Smaller weights for Core ML: linear 8 bits by channel, or k-means palettes; what coremltools is told about them."""

import copy

import torch
from torch import Tensor, nn

from export.blocks import blocks_of
from export.targets import Precision, Quantisation
from export.views import View

GROUP = 16
"""Output channels that share a palette."""
SMALLEST = 2048
"""Weights of a tensor: fewer are not worth a palette."""
_BITS = {"w4p": 4, "w6p": 6}


def compressed(view: View, quantisation: Quantisation) -> nn.Module:
    """A copy of `view` with compressed weights, as values and as the buffers by which coremltools keeps them so."""
    from coremltools.optimize.torch._utils.metadata_utils import register_metadata_version

    small = copy.deepcopy(view)
    for block, path in blocks_of(view).items():
        for module in small.get_submodule(path).modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding)):
                _compress(module, quantisation.of(block))
    register_metadata_version(small)
    return small


@torch.no_grad()
def _compress(module: nn.Module, precision: Precision) -> None:
    from coremltools.optimize.torch._utils.metadata_utils import CompressionMetadata

    weight = module.weight
    assert isinstance(weight, Tensor)
    if precision in ("fp16", "fp32") or weight.numel() < SMALLEST:
        return
    if precision == "w8":
        scale = (weight.flatten(1).abs().amax(1) / 127).clamp(min=1e-12)
        shape = [-1] + [1] * (weight.dim() - 1)
        module.weight = nn.Parameter((weight / scale.view(shape)).round() * scale.view(shape), requires_grad=False)
        told = CompressionMetadata(
            param_name="weight",
            quantization_n_bits=8,
            quantization_scale=scale.view(-1, 1),
            zero_point=torch.zeros(len(scale), 1, dtype=torch.int8),
            compression_type=["quantization"],
        )
    else:
        luts, groups = [], []
        for group in torch.split(weight, GROUP):
            lut, values = _palette(group, _BITS[precision])
            luts.append(lut)
            groups.append(values)
        module.weight = nn.Parameter(torch.cat(groups), requires_grad=False)
        shape = [len(luts)] + [1] * (weight.dim() - 1) + [-1, 1]
        told = CompressionMetadata(
            param_name="weight", lut=torch.stack(luts).reshape(shape), compression_type=["palettization"]
        )
    told.register(module)


def _palette(values: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(2^bits values, `values` as the nearest of them), by k-means."""
    flat = values.flatten()
    lut = torch.quantile(flat, torch.linspace(0, 1, 2**bits))
    for _ in range(20):
        nearest = torch.bucketize(flat, (lut[1:] + lut[:-1]) / 2)
        total = torch.zeros_like(lut).index_add_(0, nearest, flat)
        count = torch.zeros_like(lut).index_add_(0, nearest, torch.ones_like(flat))
        lut = torch.where(count > 0, total / count.clamp(min=1), lut).sort().values
    nearest = torch.bucketize(flat, (lut[1:] + lut[:-1]) / 2)
    return lut, lut[nearest].reshape(values.shape)
