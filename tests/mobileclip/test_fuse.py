"""The deployed form equals the form that trains, on every tower, and has nothing left to fold."""

import copy

import pytest
import torch
from timm.layers import LayerScale
from timm.models.fastvit import LayerScale2d, MobileOneBlock
from timm.utils.model import reparameterize_model
from torch import nn

import mobileclip
from mobileclip.errors import MobileClipError
from mobileclip.fuse import is_fused
from mobileclip.models import Clip, create
from mobileclip.models.text import Branches

TINY = ("nano", "nano_mct", "nano_vit", "nano_swin")
LEFTOVERS = (
    nn.BatchNorm2d,
    nn.BatchNorm1d,
    LayerScale,
    LayerScale2d,
    MobileOneBlock,
    Branches,
    nn.Dropout,
    nn.LayerNorm,
)


def inputs(model: Clip, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    size = model.config.preprocess.size
    texts = ["", "a photo of a dog", "x " * 90, "one <end_of_text> two"]
    return torch.rand(2, 3, size, size, dtype=dtype), mobileclip.tokenize(texts)


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@torch.no_grad()
def test_fused_equals_training_form(name: str, dtype: torch.dtype, limit: float) -> None:
    model = create(name, seed=3).to(dtype)
    before = copy.deepcopy(model.state_dict())
    fused = mobileclip.fuse(model)
    x, ids = inputs(model, dtype)
    assert error(fused.encode_image(x), model.encode_image(x)) < limit
    if model.text is not None:
        assert error(fused.encode_text(ids), model.encode_text(ids)) < limit
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "fuse changed its input"


@torch.no_grad()
def test_full_mci2() -> None:
    """The published model: its parameters (35,702,480 after timm's merging, with the projection) and its parity."""
    model = create("mobileclip_s2", seed=0)
    fused = mobileclip.fuse(model)
    x, ids = inputs(model, torch.float32)
    assert error(fused.encode_image(x), model.encode_image(x)) < 1e-5
    assert error(fused.encode_text(ids), model.encode_text(ids)) < 1e-5
    # less the BatchNorms and layer scales that tools leave behind, plus biases of the queries, keys and values
    assert sum(p.numel() for p in fused.image.parameters()) == 35_678_032
    kernels = [m.kernel_size for m in fused.image.modules() if isinstance(m, nn.Conv2d)]
    assert kernels.count((7, 7)) == 48
    assert not [m for m in fused.modules() if isinstance(m, LEFTOVERS)]


@pytest.mark.parametrize("name", TINY)
def test_nothing_is_left_to_fold(name: str) -> None:
    fused = mobileclip.fuse(create(name))
    allowed = (nn.LayerNorm,) if name == "nano_swin" else ()  # Swin's patch embedding ends in an affine LayerNorm
    assert not [m for m in fused.modules() if isinstance(m, LEFTOVERS) and not isinstance(m, allowed)]
    assert not [m for m in fused.modules() if type(m).__module__.startswith("timm.models")]
    assert is_fused(fused)
    assert not is_fused(create(name))


@pytest.mark.parametrize("name", TINY)
def test_fusing_twice_is_a_copy(name: str) -> None:
    once = mobileclip.fuse(create(name, seed=0))
    twice = mobileclip.fuse(once)
    assert twice is not once
    a, b = once.state_dict(), twice.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


@torch.no_grad()
def test_branches_that_timm_merged_already() -> None:
    model = create("nano", seed=5).double()
    merged = copy.deepcopy(model)
    merged.image = reparameterize_model(merged.image.float()).double()
    x, _ = inputs(model, torch.float64)
    assert error(mobileclip.fuse(merged).encode_image(x), model.encode_image(x)) < 1e-5  # timm merges in float32


@torch.no_grad()
def test_pyramid_equals_timm_features() -> None:
    model = create("nano", seed=0)
    x, _ = inputs(model, torch.float32)
    wanted, y = [], model.image.stem(x)
    for stage in model.image.stages:
        y = stage(y)
        wanted.append(y)
    for got, want in zip(mobileclip.fuse(model).image.pyramid(x), wanted, strict=True):
        assert error(got, want) < 1e-5


def test_origin_and_scale_stay() -> None:
    model = mobileclip.load("seeded:nano")
    fused = mobileclip.fuse(model)
    assert fused.origin == model.origin
    assert torch.equal(fused.logit_scale, model.logit_scale)


def test_a_foreign_module_is_refused() -> None:
    with pytest.raises(MobileClipError, match="a Linear has no deployed form: fuse takes FastVit, MctText"):
        mobileclip.fuse(nn.Linear(2, 2))
