"""The deployed form of a dense model equals the form that trains, on every encoder and head, with nothing to fold."""

import copy
from dataclasses import replace

import pytest
import torch
from timm.layers import LayerScale
from timm.models.fastvit import MobileOneBlock
from torch import nn

import mobileclip
from mobileclip.dense.config import DenseConfig
from mobileclip.dense.encoders import encoder_named
from mobileclip.dense.model import DenseModel, build
from mobileclip.fuse import is_fused
from mobileclip.models import seed_weights
from mobileclip.models.heads.blocks import Nearest2, Pooled

CASES = [
    *(("nano", head) for head in ("semfpn", "uper_phone", "seg_linear", "depth", "depth_phone", "depth_linear")),
    ("vit_tiny_patch16_224", "semfpn_phone"),
    ("nano_vit", "depth_phone"),
    ("nano_swin", "semfpn_phone"),
]
LEFTOVERS = (nn.BatchNorm2d, LayerScale, MobileOneBlock, nn.Dropout, nn.Dropout2d, nn.AdaptiveAvgPool2d)


def model_of(name: str, head: str, dtype: torch.dtype) -> DenseModel:
    labels = () if head.startswith("depth") else tuple("abcde")
    args = {"neck": 32, "width": 16} if head.startswith("semfpn") else {"width": 32} if "uper" in head else {}
    encoder = encoder_named(name)
    if name.startswith("vit"):
        encoder = replace(encoder, image=replace(encoder.image, args={"depth": 5}))
    model = build(DenseConfig(encoder=encoder, head=head, size=(64, 96), labels=labels, args=args))
    seed_weights(model, 3)
    return model.to(dtype)


@torch.no_grad()
@pytest.mark.parametrize(("encoder", "head"), CASES)
def test_fused_equals_training_form(encoder: str, head: str) -> None:
    both = ((torch.float64, 1e-10), (torch.float32, 1e-5))
    for dtype, limit in both[:1] if encoder == "nano_vit" else both:
        model = model_of(encoder, head, dtype)
        before = copy.deepcopy(model.state_dict())
        fused = mobileclip.fuse(model)
        x = torch.rand(2, 3, 64, 96, dtype=dtype)
        want, got = model(x), fused(x)
        assert float((got - want).norm() / want.norm()) < limit
        assert float(want.std()) > 1e-3, "an output that hardly varies shows no error"
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), (
            "fuse changed its input"
        )
        assert not [name for name, module in fused.named_modules() if isinstance(module, LEFTOVERS)]
        assert is_fused(fused)
        assert not is_fused(model)
        again = mobileclip.fuse(fused)
        assert again is not fused
        assert torch.equal(again(x), got)


@torch.no_grad()
@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_pooling_by_products_is_adaptive_pooling(bins: int) -> None:
    x = torch.randn(2, 5, 16, 13, dtype=torch.float64)
    got = Pooled((16, 13), bins, x)(x)
    torch.testing.assert_close(got, nn.functional.adaptive_avg_pool2d(x, bins))


@torch.no_grad()
def test_nearest_by_layers_is_nearest() -> None:
    x = torch.randn(2, 5, 3, 4)
    assert torch.equal(Nearest2()(x), nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))
