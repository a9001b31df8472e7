"""Sensitivities, the rule and the search: a variant answers what the quantised module does, and what is found keeps its
limit at less cost."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from export.assign import automatic, chosen, mixed
from export.blocks import blocks_of
from export.gates import Limits
from export.parity import compare
from export.quantise import quantised
from export.rewrites import rewrite
from export.sensitivity import Table, macs_of, plot, sensitivities, weights_of
from export.targets import TARGETS, Quantisation, searched
from export.variants import Integers, Weights
from export.views import View, make_views
from mobileclip.checkpoint import load
from mobileclip.fuse import fuse
from mobileclip.models import Clip


@pytest.fixture(scope="module")
def view() -> View:
    """The image view of a model whose channels differ, as those of trained models do."""
    clip = fuse(load("seeded:nano"))
    assert isinstance(clip, Clip)
    fused = make_views(clip)["image"]
    changed = rewrite(fused, TARGETS["executorch-xnnpack"].rewrites)
    assert isinstance(changed, View)
    torch.manual_seed(0)
    for layer in changed.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (1, 1):
            layer.weight.data *= torch.rand(len(layer.weight), 1, 1, 1) * 1.5 + 0.5
    return changed


@pytest.fixture(scope="module")
def inputs(view: View) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8), view.example.shape[-2:]) for _ in range(6)]


def limits(cosine: float) -> Limits:
    return Limits(cosine_mean=cosine, cosine_p1=-1, agreement=0, index=0)


def test_every_weight_is_in_one_block(view: View) -> None:
    paths = list(blocks_of(view).values())
    for name, parameter in view.named_parameters():
        assert sum(f"{name}.".startswith(f"{path}.") for path in paths) == 1 or parameter.dim() <= 1
    names = list(blocks_of(view))
    assert (names[0], names[-1]) == ("stem.0", "head")


def test_costs_are_those_of_the_layers(view: View) -> None:
    assert sum(weights_of(view).values()) == sum(p.numel() for p in view.parameters() if p.dim() > 1)
    stem = view.get_submodule("tower.stem.0")
    assert isinstance(stem, torch.nn.Conv2d)
    side = view.example.shape[-1] // 2
    assert macs_of(view)["stem.0"] == side * side * stem.weight.numel()


def test_variants_answer_as_quantised_modules(view: View, inputs: list[Tensor]) -> None:
    variants = Integers(view, inputs[:4])
    blocks = blocks_of(view)
    (floats,) = variants.answer(inputs[5], dict.fromkeys(blocks, "fp32"))
    np.testing.assert_array_equal(floats, view.answer(inputs[5])[0])
    (integers,) = variants.answer(inputs[5], dict.fromkeys(blocks, "w8a8"))
    whole = quantised(view, Quantisation(precision="w8a8", inputs=inputs[:4]))
    np.testing.assert_array_equal(integers, whole(inputs[5]).detach().numpy())
    assert compare(integers, floats).db < 60


def test_weights_alone(view: View, inputs: list[Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    variants = Weights(view, searched(TARGETS["coreml"]))
    assert variants.options == ("w4p", "w6p", "w8", "fp16")
    table = sensitivities(view, variants, inputs[:3], key="test")
    assert len(table.rows) == 3 * len(blocks_of(view))
    assert table.whole["w4p"] > table.whole["w6p"] > table.whole["w8"] > 0
    (kept,) = tmp_path.rglob("*.json")
    kept.write_text(json.dumps({**table.as_dict(), "view": "from the cache"}))
    assert sensitivities(view, variants, inputs[:3], key="test").view == "from the cache"
    assert Table.from_dict(json.loads(json.dumps(table.as_dict()))) == table
    picture = plot(table, "a <title>")
    assert picture.count("<rect") == len(table.rows)
    assert "a &lt;title&gt;" in picture

    between = 1 - (table.whole["w4p"] * table.whole["w8"]) ** 0.5
    found = automatic(view, variants, table, inputs, limits(between))
    assert found.passed
    assert len(set(found.blocks.values())) > 1
    first, best = found.trace[0], min(step.cost for step in found.trace if step.passed)
    assert not first.passed
    assert first.cost < best < 0.5
    answers = [variants.answer(x, found.blocks)[0] for x in inputs]
    cosines = [compare(a, view.answer(x)[0]).cosine for a, x in zip(answers, inputs, strict=True)]
    assert np.mean(cosines) >= between
    assert not automatic(view, variants, table, inputs, limits(1.1)).passed


def test_mixed_is_a_rule_by_block(view: View, inputs: list[Tensor]) -> None:
    rule = mixed(view, "executorch-xnnpack")
    assert (rule["stem.0"], rule["stages.2.5"], rule["head"]) == ("fp32", "w8a8", "fp32")
    assert mixed(view, "coreml")["stages.2.5"] == "w6p"
    quantisation, told = chosen(view, "executorch-xnnpack", "mixed", inputs[:4], inputs[4:])
    assert told["blocks"] == rule
    assert quantisation.of("stem.0") == "fp32"
    assert quantisation.of("stages.2.5") == "w8a8"
