"""Equal channels: the same output, and ranges that are nearer to one another."""

import pytest
import torch
from torch import Tensor, nn

from export.equalise import WIDEST, Range, equalised, ranges
from export.rewrites import rewrite
from export.targets import TARGETS, Kind
from export.views import View, make_views
from mobileclip.checkpoint import load
from mobileclip.fuse import fuse
from mobileclip.models import Clip


def deployed(name: str, kind: Kind) -> View:
    model = fuse(load(name))
    assert isinstance(model, Clip)
    return make_views(model)[kind]


def spread(seen: Range) -> float:
    """Largest channel against the geometric mean."""
    return float(seen.reach.max() / seen.reach.log().mean().exp())


@pytest.mark.parametrize("target", ["onnx", "executorch-xnnpack"])
@torch.no_grad()
def test_outputs_stay_and_channels_are_more_equal(target: str) -> None:
    view = deployed("seeded:nano", "image")
    form = rewrite(view, TARGETS[target].rewrites)
    assert isinstance(form, View)
    inputs = picture(view, 6)
    new = equalised(form, inputs)
    for x in picture(view, 9)[6:]:
        assert float((new(x) - form(x)).norm() / form(x).norm()) < 1e-6
    before, after = ranges(form, inputs), ranges(new, inputs)
    for path in ("tower.stages.2.5.mlp.conv", "tower.stages.2.5.mixer", "tower.stages.2.5", "tower.stages.3.6"):
        assert spread(after[path]) < 0.95 * spread(before[path]), path


@torch.no_grad()
def test_texts() -> None:
    view = deployed("seeded:nano_mct", "text")
    new = equalised(view, [view.example])
    assert float((new(view.example) - view(view.example)).norm() / view(view.example).norm()) < 1e-6


@torch.no_grad()
def test_a_channel_that_is_never_used_gets_no_endless_factor() -> None:
    view = deployed("seeded:nano", "image")
    conv = view.get_submodule("tower.stages.0.0.mlp.conv")
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    conv.weight[3], conv.bias[3] = 0, 0
    new = equalised(view, picture(view, 2))
    assert all(torch.isfinite(value).all() for value in new.state_dict().values())
    before, after = (v.get_parameter("tower.stages.0.0.mlp.fc1.weight") for v in (view, new))
    assert float((after / before)[:, 3].abs().max()) <= WIDEST * (1 + 1e-6)


def picture(view: View, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    small = torch.rand(count, 3, 8, 8, generator=generator)
    return [x[None] for x in nn.functional.interpolate(small, view.example.shape[-2:], mode="bilinear")]
