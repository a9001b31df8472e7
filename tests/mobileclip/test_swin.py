"""The deployed Swin equals timm's at every kind of window: shifted, as large as the grid, oblong, in batches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.swin_transformer import SwinTransformer, window_partition, window_reverse
from torch import nn

from mobileclip.models import swin
from mobileclip.models.blocks import Normalise
from mobileclip.models.swin import FusedSwin, SwinBlock, join, partition, roll

SHAPES = {
    "window 7, last stage whole": {"img_size": 56, "window_size": 7, "depths": (2, 2)},
    "window 8 at 128": {"img_size": 128, "window_size": 8, "depths": (2, 2, 1)},
    "window above the grid": {"img_size": 64, "window_size": 4, "depths": (2, 2, 2)},
    "oblong, shifted along one axis": {"img_size": (64, 128), "window_size": 4, "depths": (2, 2, 2)},
    "windows filled up": {"img_size": (128, 160), "window_size": 7, "depths": (2, 2, 2)},
    "odd grids filled up": {"img_size": (60, 84), "window_size": 4, "depths": (2, 2, 2)},
}


def tiny(classes: int = 10, **shape: object) -> SwinTransformer:
    """A small Swin whose LayerNorms, tables and biases are far from their defaults."""
    torch.manual_seed(0)
    heads = tuple(2**i for i in range(len(shape["depths"])))  # type: ignore[arg-type]
    model = SwinTransformer(embed_dim=16, num_heads=heads, num_classes=classes, drop_path_rate=0.2, **shape)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name:
                value.normal_(float(name.endswith("weight")), 0.3)
            elif value.ndim == 1 or "relative_position" in name:
                value.normal_(0, 0.5)
            else:
                value.normal_(0, value[0].numel() ** -0.5)
    return model.eval()


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@torch.no_grad()
def test_equals_timm(shape: dict[str, object], dtype: torch.dtype, limit: float, batch: int) -> None:
    model = tiny(**shape).to(dtype)
    x = torch.randn(batch, 3, *model.patch_embed.img_size, dtype=dtype)
    assert error(FusedSwin.from_timm(model)(x), model(x)) < limit


@torch.no_grad()
def test_shifts_are_exercised() -> None:
    shifts = [
        block.shift
        for block in FusedSwin.from_timm(tiny(**SHAPES["oblong, shifted along one axis"])).body
        if isinstance(block, SwinBlock)
    ]
    assert {(0, 0), (2, 2), (0, 2)} <= set(shifts)


@torch.no_grad()
def test_without_classifier_gives_pooled_features() -> None:
    model = tiny(classes=0, img_size=56, window_size=7, depths=(1, 1))
    x = torch.randn(2, 3, 56, 56)
    assert error(FusedSwin.from_timm(model)(x), model(x)) < 1e-5


def test_nothing_is_left_to_fold() -> None:
    fused = FusedSwin.from_timm(tiny(**SHAPES["window 8 at 128"]))
    kinds = [type(module) for module in fused.modules()]
    assert not {nn.BatchNorm2d, nn.Dropout} & set(kinds)
    assert not any("DropPath" in kind.__name__ for kind in kinds)
    assert kinds.count(nn.LayerNorm) == 1  # behind the patch embedding: its affine part enters the stream
    assert kinds.count(Normalise) == 2 * 5 + 2 + 1  # blocks, mergings, head


def test_trunk_is_left_as_it_is() -> None:
    model = tiny(**SHAPES["window 7, last stage whole"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fused = FusedSwin.from_timm(model)
    for parameter in fused.parameters():
        parameter.data.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_masks_have_plain_strides() -> None:
    """With one head, timm's bias keeps strides that ExecuTorch takes for channels-last: XNNPACK then refuses to run."""
    for block in FusedSwin.from_timm(tiny(**SHAPES["window 7, last stage whole"])).body:
        if isinstance(block, SwinBlock):
            mask = block.attn.mask
            assert mask.stride() == torch.empty(mask.shape).stride()


@torch.no_grad()
def test_large_shift_masks_stay_apart_from_the_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(**SHAPES["windows filled up"])
    monkeypatch.setattr(swin, "_ONE_MASK", 0)
    fused = FusedSwin.from_timm(model)
    masks = [block.attn.shifted for block in fused.body if isinstance(block, SwinBlock)]
    assert [mask is None for mask in masks] == [True, False] * 3
    assert masks[1] is not None
    assert masks[1].shape == (5 * 6, 1, 49, 49)
    x = torch.randn(2, 3, 128, 160)
    assert error(fused(x), model(x)) < 1e-5


@torch.no_grad()
def test_at_most_four_dimensions_and_no_index_arithmetic() -> None:
    fused = FusedSwin.from_timm(tiny(img_size=72, window_size=4, depths=(2, 1)))
    graph = torch.export.export(fused, (torch.zeros(1, 3, 72, 72),)).graph
    ranks = [node.meta["val"].ndim for node in graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)]
    names = {str(node.target).split(".")[1] for node in graph.nodes if node.op == "call_function"}
    assert max(ranks) == 4
    assert names <= {
        *("conv2d", "linear", "matmul", "layer_norm", "gelu", "softmax", "add", "mean", "cat", "slice", "pad"),
        *("permute", "transpose", "reshape", "view", "flatten"),
    }


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 2), st.data())
@settings(max_examples=40, deadline=None)
def test_windows_and_shifts_equal_timm(
    rows: int, columns: int, h: int, w: int, batch: int, data: st.DataObject
) -> None:
    size = (rows * h, columns * w)
    x = torch.arange(float(batch * size[0] * size[1] * 2)).reshape(batch, *size, 2)
    windows = partition(x, (h, w))
    assert torch.equal(windows, window_partition(x, (h, w)).flatten(1, 2))
    assert torch.equal(join(windows, size, (h, w)), window_reverse(windows.unflatten(1, (h, w)), (h, w), *size))
    down, right = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1))
    assert torch.equal(roll(x, down, right), torch.roll(x, (-down, -right), (1, 2)))
    assert torch.equal(roll(roll(x, down, right), -down, -right), x)
