"""Swin as a pyramid: equal to timm's stages at any size, in the form that trains and in the one that is deployed."""

import copy
import warnings
from typing import Any

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from mobileclip.config import MODELS
from mobileclip.models import create
from mobileclip.models.pyramid import build_pyramid
from mobileclip.models.swin_pyramid import FusedSwinPyramid, SwinPyramid

DEPTHS = {"depths": (2, 2, 2, 1), "num_heads": (1, 2, 4, 8)}
CASES = {
    "window 12 of 384 at 512, filled up to 132, 72, 36 and 24": (384, 12, (512, 512)),
    "window 12 of 384 at 640, filled up to 168, 84, 48 and 24": (384, 12, (640, 640)),
    "window 8 of 256 at 512, nothing to fill up": (256, 8, (512, 512)),
    "window 7 of 224 at 480x640": (224, 7, (480, 640)),
    "window 12 where the last grid is smaller": (384, 12, (256, 320)),
}


def trained(size: int, window: int) -> SwinTransformer:
    """A small Swin for classification whose LayerNorms, tables and biases are far from their defaults."""
    torch.manual_seed(0)
    model = SwinTransformer(img_size=size, window_size=window, embed_dim=8, num_classes=3, **DEPTHS)
    drawn(model)
    return model.eval()


@torch.no_grad()
def drawn(model: nn.Module) -> None:
    for name, value in model.named_parameters():
        if "norm" in name:
            value.normal_(float(name.endswith("weight")), 0.3)
        elif value.ndim == 1 or "relative_position" in name:
            value.normal_(0, 0.5)
        else:
            value.normal_(0, value[0].numel() ** -0.5)


def timm_maps(trunk: SwinTransformer, norms: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """timm's own intermediates, then the norms."""
    maps: Any = trunk.forward_intermediates(x, intermediates_only=True)
    return [norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for norm, y in zip(norms, maps, strict=True)]


def error(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize(("size", "window", "at"), CASES.values(), ids=CASES)
@torch.no_grad()
def test_both_forms_equal_timm(size: int, window: int, at: tuple[int, int]) -> None:
    trunk = trained(size, window).double()
    theirs = copy.deepcopy(trunk)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm's own interpolation of tables
        theirs.set_input_size(at, window_size=window)
        pyramid = SwinPyramid(trunk, at).double().eval()
    drawn(pyramid.norms)
    x = torch.randn(1, 3, *at, dtype=torch.float64)
    wanted = timm_maps(theirs, pyramid.norms, x)
    assert [tuple(y.shape) for y in wanted] == [(1, 8 << i, at[0] // (4 << i), at[1] // (4 << i)) for i in range(4)]
    for form in (pyramid, pyramid.deployed()):
        maps = form(x)
        assert [y.shape for y in maps] == [y.shape for y in wanted]
        assert max(error(y, want) for y, want in zip(maps, wanted, strict=True)) < 1e-12


@torch.no_grad()
def test_other_sizes_and_batches() -> None:
    """Pictures of another size than the pyramid's are what they would be to a pyramid of theirs."""
    pyramid = SwinPyramid(trained(256, 4), (256, 256)).eval()
    other = SwinPyramid(trained(256, 4), (160, 192)).eval()
    x = torch.randn(2, 3, 160, 192)
    for got, want in zip(pyramid(x), other(x), strict=True):
        assert error(got, want) < 1e-5
    for got, want in zip(other.deployed()(x), other(x), strict=True):
        assert error(got, want) < 1e-5


def test_levels_hold_every_parameter_once() -> None:
    pyramid = SwinPyramid(trained(256, 4), (256, 256))
    wanted = sorted(id(p) for p in pyramid.parameters())
    for fine, count in ((False, 5), (True, 1 + 7)):
        levels = pyramid.levels(fine)
        assert len(levels) == count
        modules = [*(module for level in levels for module in level), *pyramid.fresh()]
        assert sorted(id(p) for module in modules for p in module.parameters()) == wanted


def test_every_parameter_learns() -> None:
    pyramid = SwinPyramid(trained(64, 4), (64, 64)).train()
    sum(y.square().sum() for y in pyramid(torch.randn(1, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in pyramid.parameters())


@torch.no_grad()
def test_weights_of_a_classifier_at_another_size() -> None:
    """At 64 px timm shrinks nano's last window to 2; the table is interpolated for the 4 that 128 px hold."""
    tower = create("nano_swin", seed=0).image
    pyramid = build_pyramid(MODELS["nano_swin"], (128, 128))
    state = {name: value for name, value in tower.state_dict().items() if not name.startswith(("head.", "norm."))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = pyramid.adapted(state)
        pyramid.trunk.load_state_dict(adapted, strict=True)
        wanted = SwinPyramid(copy.deepcopy(tower), (128, 128)).trunk.state_dict()
    changed = [name for name, value in adapted.items() if value.shape != state[name].shape]
    assert changed == ["layers.3.blocks.0.attn.relative_position_bias_table"]
    assert adapted[changed[0]].shape == (49, 8)
    assert all(torch.equal(value, wanted[name]) for name, value in adapted.items())


@torch.no_grad()
def test_deployed_graph_is_plain_and_leaves_the_pyramid_alone() -> None:
    pyramid = SwinPyramid(trained(384, 12), (128, 128))
    before = {name: value.clone() for name, value in pyramid.state_dict().items()}
    fused = pyramid.deployed()
    assert isinstance(fused, FusedSwinPyramid)
    assert not any(p.requires_grad for p in fused.parameters())
    assert sum("Dropout" in type(m).__name__ or "DropPath" in type(m).__name__ for m in fused.modules()) == 0
    graph = torch.export.export(fused, (torch.zeros(1, 3, 128, 128),)).graph
    ranks = [node.meta["val"].ndim for node in graph.nodes if isinstance(node.meta.get("val"), Tensor)]
    names = {str(node.target).split(".")[1] for node in graph.nodes if node.op == "call_function"}
    assert max(ranks) == 4
    assert names <= {
        *("conv2d", "linear", "matmul", "layer_norm", "gelu", "softmax", "add", "cat", "slice", "pad"),
        *("permute", "transpose", "reshape", "view", "flatten"),
    }
    for parameter in fused.parameters():
        parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in pyramid.state_dict().items())


def test_swin_l_is_the_published_encoder() -> None:
    with torch.device("meta"):
        pyramid = build_pyramid(MODELS["swin_l_384"], (640, 640))
    assert pyramid.channels == (192, 384, 768, 1536)
    assert sum(p.numel() for p in pyramid.parameters()) / 1e6 == pytest.approx(195.2, abs=0.1)
    assert {block.window_size for stage in pyramid.trunk.layers for block in stage.blocks} == {(12, 12)}
