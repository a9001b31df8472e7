"""Views in 8 bits: near their floats, with blocks in floats where asked, corrected, one delegate on XNNPACK."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from export.biases import Means
from export.blocks import blocks_of
from export.integers import BEST, int8_module
from export.parity import compare
from export.ranges import ActivationRange
from export.rewrites import rewrite
from export.runtimes import open_artifact
from export.targets import TARGETS, Kind, Quantisation
from export.to_executorch import lower_xnnpack
from export.views import View, make_views
from mobileclip.checkpoint import load
from mobileclip.fuse import fuse
from mobileclip.models import Clip


def deployed(name: str, kind: Kind) -> View:
    model = fuse(load(name))
    assert isinstance(model, Clip)
    return make_views(model)[kind]


@pytest.fixture(scope="module")
def view() -> View:
    return deployed("seeded:nano", "image")


@pytest.fixture(scope="module")
def inputs(view: View) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(12, 3, 8, 8, generator=generator)
    large = nn.functional.interpolate(small, view.example.shape[-2:], mode="bilinear")
    return [x[None] for x in large]


def int8(view: View, inputs: list[Tensor], floats: tuple[str, ...] = ()) -> fx.GraphModule:
    kept = dict.fromkeys(floats, "fp32")
    module = int8_module(view, Quantisation(precision="w8a8", inputs=inputs, blocks=kept))  # type: ignore[arg-type]
    assert isinstance(module, fx.GraphModule)
    return module


@torch.no_grad()
def test_near_its_floats_and_one_delegate(view: View, inputs: list[Tensor], tmp_path: Path) -> None:
    form = rewrite(view, TARGETS["executorch-xnnpack"].rewrites)
    assert isinstance(form, View)
    before = {name: value.clone() for name, value in form.state_dict().items()}
    small = int8(form, inputs[:8])
    assert all(torch.equal(value, before[name]) for name, value in form.state_dict().items())
    found = lower_xnnpack(form, tmp_path / "int8.pte", "apple", small)
    assert (found.delegates, dict(found.loose)) == (1, {})
    assert not re.search(rb"[0-9a-f]{17}", (tmp_path / "int8.pte").read_bytes())  # names of constants are short
    session = open_artifact(tmp_path / "int8.pte", "executorch-xnnpack", 1)
    for x in inputs[8:]:
        (got,) = session.run([x.numpy()])
        assert compare(got, small(x)).cosine > 0.995
        assert compare(got, view(x)).cosine > 0.97


@torch.no_grad()
def test_every_block_can_stay_in_floats(view: View, inputs: list[Tensor]) -> None:
    blocks = list(blocks_of(view))
    counts = {block: _quantised(int8(view, inputs[:1], (block,))) for block in (blocks[0], "stages.2.5")}
    every = _quantised(int8(view, inputs[:1]))
    assert all(set(counts[block]) <= set(every) for block in counts)
    assert len(counts[blocks[0]]) < len(every)
    none = int8(view, inputs[:1], tuple(blocks))
    assert not _quantised(none)
    assert compare(none(inputs[9]), view(inputs[9])).db > 120


def _quantised(module: fx.GraphModule) -> list[str]:
    """Layers with weights in integers."""
    weights = [node for node in module.graph.nodes if "dequantize_per_channel" in str(node.target)]
    return [user.name for node in weights for user in node.users]


@torch.no_grad()
def test_biases_take_the_mean_error(view: View, inputs: list[Tensor]) -> None:
    wanted = Means(torch.export.export(view, (view.example,)).module())
    quantisation = Quantisation(precision="w8a8", inputs=inputs)
    errors = []
    for corrected in (False, True):
        module = int8_module(view, quantisation, replace(BEST, corrected=corrected))
        assert isinstance(module, fx.GraphModule)
        found = Means(module)
        for runner in (wanted, found):
            runner.sums, runner.runs = {}, 0
            for x in inputs:
                runner.run(x)
        names = _quantised(module)
        assert names
        assert set(names) <= set(wanted.found())
        errors.append([float((found.found()[n] - wanted.found()[n]).norm() / wanted.found()[n].norm()) for n in names])
    assert max(errors[1]) < 5e-3  # a value in the middle of two steps may fall otherwise
    assert max(errors[0]) > 2 * max(errors[1])


def observer(**options: Any) -> ActivationRange:
    return ActivationRange(dtype=torch.int8, quant_min=-128, quant_max=127, qscheme=torch.per_tensor_affine, **options)


def test_a_range_leaves_rare_values_out() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.cat([torch.randn(1 << 18, generator=generator), torch.tensor([-8.0, 8.0])])
    ends, best = observer(search=False), observer()
    for part in values.chunk(4):
        ends(part)
        best(part)
    errors = []
    for seen in (ends, best):
        step, zero = (float(item) for item in seen.calculate_qparams())
        errors.append(((((values / step).round() + zero).clamp(-128, 127) - zero) * step - values).square().mean())
    assert errors[1] < 0.8 * errors[0]


def test_a_range_in_front_of_a_gelu_has_few_steps_below_zero() -> None:
    values = torch.linspace(-12, 12, 1 << 14)
    plain, behind = observer(), observer(behind=nn.functional.gelu)
    plain(values)
    behind(values)
    assert plain.best()[0] < -11
    assert -6 < behind.best()[0] < -2
    assert behind.best()[1] > 11


def test_a_range_of_zeros() -> None:
    zeros = observer()
    zeros(torch.zeros(4))
    step, zero = zeros.calculate_qparams()
    assert float(step) > 0
    assert int(zero) == -128
