"""Views: names, types and normalisation of every preset; the same embedding as the model; safe in fp16."""

import pytest
import torch

import mobileclip
from export.parity import LARGEST_DB, compare
from export.targets import FP16, FP32, PRESETS, TARGETS, preset_of, targets_of
from export.views import card, make_views
from mobileclip.config import MODELS
from mobileclip.errors import UnknownName
from mobileclip.models import Clip, create

EXPECTED = {  # facts of the existing apps, written out a second time on purpose
    "apple": (("image", "final_emb_1"), ("text", "final_emb_1"), "int32", False),
    "queryable": (("colorImage", "embOutput"), ("prompt", "embOutput"), "int32", False),
    "transformers.js": (("pixel_values", "image_embeds"), ("input_ids", "text_embeds"), "int64", False),
    "ente": (("input", "output"), ("input", "output"), "int32", False),
    "open_clip": (("image", "image_features"), ("text", "text_features"), "int64", True),
}


@pytest.mark.parametrize("preset", PRESETS)
@torch.no_grad()
def test_preset(preset: str, nano: Clip) -> None:
    image_names, text_names, ids, normalised = EXPECTED[preset]
    views = make_views(mobileclip.fuse(nano), preset)
    image, text = views["image"], views["text"]
    assert [(v.inputs[0].name, v.outputs[0].name) for v in (image, text)] == [image_names, text_names]
    assert (image.inputs[0].dtype, image.inputs[0].shape) == ("float32", (1, 3, 64, 64))
    assert (text.inputs[0].dtype, text.inputs[0].shape) == (ids, (1, 77))
    assert text.example.dtype == getattr(torch, ids)
    for view, encode in ((image, nano.encode_image), (text, nano.encode_text)):
        got, want = view(view.example), encode(view.example, normalize=normalised)
        assert view.outputs[0].shape == tuple(got.shape) == (1, 32)
        assert view.outputs[0].normalised is normalised
        assert compare(got, want).db > 100
        assert (abs(float(got.norm()) - 1) < 1e-5) is normalised


@torch.no_grad()
def test_statistics_are_in_the_graph() -> None:
    """A model with mean and std takes 0..1 from the app like every other."""
    model = create("nano_swin", seed=0)
    view = make_views(model)["image"]
    mean, std = (
        torch.tensor(v).reshape(1, 3, 1, 1) for v in (model.config.preprocess.mean, model.config.preprocess.std)
    )
    assert compare(view(view.example), model.encode_image((view.example - mean) / std)).db > 100


@torch.no_grad()
def test_text_view_picks_the_first_end(nano: Clip) -> None:
    view = make_views(mobileclip.fuse(nano))["text"]
    for text in ("", "a cat", "x " * 100, "one <end_of_text> two <end_of_text>"):
        ids = mobileclip.tokenize([text])
        assert compare(view(ids), nano.encode_text(ids)).db > 100


def test_text_graph_has_nothing_that_breaks_in_fp16(nano: Clip) -> None:
    view = make_views(mobileclip.fuse(create("nano_vit", seed=0)))["text"]  # the causal one
    names = {str(node.target) for node in torch.export.export(view, (view.example,)).graph.nodes}
    assert not [name for name in names if any(word in name for word in ("argmax", "topk", "scaled_dot", "masked_fill"))]
    constants = [value for value in view.state_dict().values() if value.is_floating_point()]
    assert max(float(value.abs().max()) for value in constants) < 65504


def test_card_is_made_of_eight_bit_values() -> None:
    pixels = card(64) * 255
    assert torch.allclose(pixels, pixels.round(), atol=1e-4)
    assert float(pixels.std()) > 40


def test_unknown_names() -> None:
    with pytest.raises(UnknownName, match="unknown preset 'aple': did you mean 'apple'"):
        preset_of("aple")
    with pytest.raises(UnknownName, match="unknown target 'corml': did you mean 'coreml'"):
        targets_of(["onnx", "corml"])
    assert list(targets_of(["onnx", "onnx"])) == ["onnx"]


def test_tables_are_complete() -> None:
    assert set(EXPECTED) == set(PRESETS)
    assert {target.precision for target in TARGETS.values()} == {"fp32", "fp16"}
    assert all(target.gate == (FP32 if target.precision == "fp32" else FP16) for target in TARGETS.values())
    assert MODELS["mobileclip_s2"].preprocess.size == 256


def test_parity_figures() -> None:
    equal = compare([1.0, 2.0], [1.0, 2.0])
    assert (equal.db, equal.max_error) == (LARGEST_DB, 0)
    assert equal.cosine == pytest.approx(1)
    off = compare([1.0, 0.0], [1.0, 0.1])
    assert off.db == pytest.approx(10 * torch.log10(torch.tensor(1.01 / 0.01)).item(), abs=1e-4)
    assert off.max_error == pytest.approx(0.1)
    broken = compare([1.0, float("nan")], [1.0, 1.0])
    assert broken.db == -LARGEST_DB
    assert not broken.passes(FP16)
