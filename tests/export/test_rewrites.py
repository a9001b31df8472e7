"""Rewrites compute what they replace, leave the model that they are given, and name what they know."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.rewrites import REWRITES, LinearLayerNorm, rewrite
from export.runtimes import open_artifact
from export.to_executorch import lower_xnnpack
from export.views import InputSpec, OutputSpec, View
from mobileclip.errors import UnknownName
from mobileclip.models.blocks import Normalise, centre


class Small(nn.Module):
    """One of each LayerNorm that a deployed form holds: bare, centred, affine, affine without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.bare, self.centred = Normalise(24, 1e-5), Normalise(24, 1e-6, centred=True)
        self.affine = nn.Sequential(nn.LayerNorm(24), nn.LayerNorm(24, bias=False))
        for value in self.affine.parameters():
            nn.init.normal_(value, 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.affine(self.bare(x) + self.centred(centre(x)))


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("shape", [(2, 24), (1, 5, 24), (1, 3, 4, 24)])
@torch.no_grad()
def test_linear_layernorm_equals_layernorm(shape: tuple[int, ...], dtype: torch.dtype, limit: float) -> None:
    torch.manual_seed(0)
    model, x = Small().to(dtype), 3 + 5 * torch.randn(*shape, dtype=dtype)
    rewritten = rewrite(model, ["linear-layernorm"]).to(dtype)
    got, want = rewritten(x), model(x)
    assert float((got - want).norm() / want.norm()) < limit
    kinds = [type(module) for module in rewritten.modules()]
    assert kinds.count(LinearLayerNorm) == 4
    assert not {Normalise, nn.LayerNorm} & set(kinds)


@pytest.mark.parametrize(
    ("channels", "kernel", "bias", "parts"),
    [(768, 3, True, None), (769, 3, True, 2), (2048, 3, False, 4), (300, 5, True, 2)],
)
@torch.no_grad()
def test_long_convolutions_are_summed(channels: int, kernel: int, bias: bool, parts: int | None) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 8, kernel, stride=2, padding=kernel // 2, bias=bias).double()
    model = nn.Sequential(conv, nn.Conv2d(8, 8 * 900, 3, groups=8).double())
    rewritten = rewrite(model, ["split-inputs"])
    x = torch.randn(2, channels, 9, 7, dtype=torch.float64)
    want = model(x)
    assert float((rewritten(x) - want).norm() / want.norm()) < 1e-12
    assert len([m for m in rewritten.modules() if isinstance(m, nn.Conv2d)]) == (parts or 1) + 1
    assert sum(p.numel() for p in rewritten.parameters()) == sum(p.numel() for p in model.parameters())


def test_split_convolutions_stay_in_one_delegate(tmp_path: Path) -> None:
    model = rewrite(nn.Sequential(nn.Conv2d(800, 4, 3), nn.ReLU()), ["split-inputs"]).eval()
    x, file = torch.randn(1, 800, 5, 4), tmp_path / "m.pte"
    out = OutputSpec(name="map", shape=(), dtype="float32", meaning="sums")
    view = View("dense", model, InputSpec(name="image", kind="image", shape=(1, 800, 5, 4), dtype="float32"), [out], x)
    found = lower_xnnpack(view.eval(), file, "apple")
    assert (found.delegates, dict(found.loose)) == (1, {})
    (got,) = open_artifact(file, "executorch-xnnpack").run([x.numpy()])
    np.testing.assert_allclose(got, model(x).detach(), atol=1e-5)


@torch.no_grad()
def test_large_means_do_not_cost_precision() -> None:
    """Centring comes before squaring: with mean 100 and deviation 1, E[x^2] - E[x]^2 would lose four digits."""
    x = 100 + torch.randn(8, 64)
    norm = Normalise(64, 1e-6)
    want = norm(x.double())
    assert float((rewrite(norm, ["linear-layernorm"])(x) - want).norm() / want.norm()) < 2e-5


@pytest.mark.parametrize("name", REWRITES)
def test_model_is_left_as_it_is(name: str) -> None:
    model = Small()
    kinds = [type(module) for module in model.modules()]
    assert rewrite(model, [name]) is not model
    assert [type(module) for module in model.modules()] == kinds


def test_no_names_is_a_copy() -> None:
    model = Small()
    assert torch.equal(rewrite(model, [])(torch.ones(1, 24)), model(torch.ones(1, 24)))


def test_unknown_name() -> None:
    with pytest.raises(
        UnknownName, match=r"unknown rewrite 'linear-layer-norm': did you mean 'linear-layernorm'\? Known"
    ):
        rewrite(Small(), ["linear-layer-norm"])
