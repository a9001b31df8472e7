"""Integers on XNNPACK and onnxruntime: text towers small and near their floats, and what stays in floats for speed."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import mobileclip
from export.depthwise import floats_are_faster
from export.parity import compare
from export.rewrites import rewrite
from export.runtimes import open_artifact
from export.targets import TARGETS, Quantisation
from export.text_integers import Table, int8_text_module
from export.to_executorch import lower_xnnpack
from export.to_onnx import lower
from export.views import View, make_views
from mobileclip.fuse import fuse
from mobileclip.tokenizer import tokenize

CAPTIONS = ("a photo of a cat", "two dogs on a beach at sunset, one of them asleep", "x", "a red cube behind a ball")
INT8 = Quantisation(precision="w8a8")


def text_view(name: str) -> View:
    return make_views(fuse(mobileclip.load(name)))["text"]


@torch.no_grad()
def test_text_on_xnnpack(tmp_path: Path) -> None:
    view = text_view("seeded:nano_mct")
    form = rewrite(view, TARGETS["executorch-xnnpack"].rewrites)
    assert isinstance(form, View)
    small = int8_text_module(form, INT8)
    file = tmp_path / "int8.pte"
    found = lower_xnnpack(form, file, "apple", small)
    assert found.delegates == 1
    assert found.loose.keys() == {  # lookups and casts of ids, no arithmetic
        "aten_eq_scalar",
        "aten_embedding_default",
        "dim_order_ops__to_dim_order_copy_default",
    }
    assert file.stat().st_size < 0.29 * 4 * sum(value.numel() for value in view.parameters())
    session = open_artifact(file, "executorch-xnnpack", 1)
    for caption in CAPTIONS:
        ids = tokenize([caption]).to(torch.int32)
        (got,) = session.run([ids.numpy()])
        assert compare(got, view(ids)).cosine > 0.995
        assert compare(got, small(ids)).cosine > 0.998


@pytest.mark.parametrize("name", ["seeded:nano", "seeded:nano_mct"])
@torch.no_grad()
def test_text_on_onnxruntime(name: str, tmp_path: Path) -> None:
    view = text_view(name)
    small = int8_text_module(view, INT8)
    file = tmp_path / "int8.onnx"
    lower(view, file, "apple", small)
    assert file.stat().st_size < 0.3 * 4 * sum(value.numel() for value in view.parameters())
    nodes = onnx.load(file).graph.node
    kinds = Counter(node.op_type for node in nodes)
    assert {node.domain for node in nodes} == {""}
    assert kinds["MatMulInteger"] == kinds["DynamicQuantizeLinear"] == sum(_is_layer(m) for m in view.modules())
    assert not {"DequantizeLinear", "QuantizeLinear"} & set(kinds)
    session = open_artifact(file, "onnx", 1)
    for caption in CAPTIONS:
        ids = tokenize([caption]).to(torch.int32)
        (got,) = session.run([ids.numpy()])
        assert compare(got, view(ids)).cosine > 0.995
        assert compare(got, small(ids)).cosine > 0.998


def _is_layer(module: nn.Module) -> bool:
    dense = isinstance(module, nn.Conv2d) and module.groups == 1
    return dense or isinstance(module, nn.Linear)


@torch.no_grad()
def test_blocks_of_a_text_tower_in_floats() -> None:
    view = text_view("seeded:nano")
    kept = Quantisation(precision="w8a8", blocks={"tokens": "fp32", "blocks.0": "fp32", "head": "fp32"})
    some, every = int8_text_module(view, kept), int8_text_module(view, INT8)
    ids = tokenize(CAPTIONS[:1]).to(torch.int32)
    assert compare(some(ids), view(ids)).db > compare(every(ids), view(ids)).db
    assert [_count(module, "choose_qparams") for module in (some, every)] == [4, 9]
    assert not any(buffer.dtype == torch.int8 and len(buffer) > 9999 for buffer in some.buffers())


def _count(module: nn.Module, name: str) -> int:
    assert isinstance(module, torch.fx.GraphModule)
    return sum(name in str(node.target) for node in module.graph.nodes)


@torch.no_grad()
def test_rows_of_a_table() -> None:
    torch.manual_seed(0)
    words = nn.Embedding(50, 16)
    words.weight.data *= torch.logspace(-6, 2, 50).reshape(-1, 1)
    words.weight.data[7] = 0
    ids = torch.arange(50).reshape(1, -1)
    want, got = words(ids)[0], Table(words)(ids)[0]
    error = (got - want).abs().amax(1) / want.abs().amax(1).clamp(min=1e-30)
    assert float(error.max()) < 0.5 / 127 + 1e-6
    assert not got[7].any()


class Maps(nn.Module):
    """Depthwise convolutions on a large and on a small map, and a dense one."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 4, 3, stride=4, groups=4)
        self.dense = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(self.small(self.large(x)))


def test_depthwise_convolutions_of_large_maps_stay_in_floats() -> None:
    graph = torch.export.export(Maps().eval(), (torch.zeros(1, 4, 16, 16),)).module().graph
    convs = [node for node in graph.nodes if node.target == torch.ops.aten.conv2d.default]
    assert [floats_are_faster(node) for node in convs] == [True, False, False]
    assert [floats_are_faster(node, least=1) for node in convs] == [True, True, False]
    assert not any(floats_are_faster(node) for node in graph.nodes if node not in convs)


def test_an_integer_product_is_what_the_module_computes(tmp_path: Path) -> None:
    """One layer alone: integers, scale and zero point of onnxruntime are torch's, to the rounding of one float."""
    view = text_view("seeded:nano")
    every = dict.fromkeys(("tokens", "blocks.0", "blocks.1"), "fp32")
    small = int8_text_module(view, Quantisation(precision="w8a8", blocks=every))  # type: ignore[arg-type]
    lower(view, tmp_path / "head.onnx", "apple", small)
    (got,) = open_artifact(tmp_path / "head.onnx", "onnx", 1).run([view.example.numpy()])
    with torch.no_grad():
        np.testing.assert_allclose(got, small(view.example), atol=1e-5)
