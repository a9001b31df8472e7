"""Names and sizes of weights, on tiny models and on the key sets of the real sizes (meta device).

Independent oracles: open_clip's `convert_mobile_clip_state_dict` and timm's `checkpoint_filter_fn` for Apple's names.
"""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
import torch
from open_clip.convert import convert_mobile_clip_state_dict
from timm.models.fastvit import checkpoint_filter_fn
from torch import Tensor
from weight_files import meta

from mobileclip import checkpoint_keys as keys
from mobileclip.checkpoint import save
from mobileclip.config import MODELS
from mobileclip.models import Clip

pytestmark = pytest.mark.usefixtures("one_thread")


def test_counts_of_names_of_s2() -> None:
    own = meta("mobileclip_s2")
    assert len(keys.foreign("open_clip", own)) == 1722
    assert len(_apple_names(own)) == 1721
    assert sum(name.startswith("image_encoder.model.") for name in _apple_names(own).values()) == 1571
    assert sum(name.startswith("text_encoder.") for name in _apple_names(own).values()) == 149
    assert sum(name.startswith("image.") for name in own) == 1572
    merged = meta("mobileclip_s2", True)
    assert len(_apple_names(merged)) == 785
    assert sum(name.startswith("image.") for name in merged) == 636


def _apple_names(own: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: new for name, new in keys.foreign("apple", own).items() if not keys.is_head_bias(name)}


def test_apples_names_of_s2_are_those_that_open_clip_converts() -> None:
    own = meta("mobileclip_s2")
    stored = {new: keys.value_out("apple", name, own[name]) for name, new in _apple_names(own).items()}
    assert stored["image_encoder.model.head.proj"].shape == (1280, 512)
    assert stored["text_encoder.positional_embedding.pos_embed.pos_embed"].shape == (1, 1, 77, 512)
    settings = {
        key: value for key, value in open_clip.get_model_config("MobileCLIP-S2").items() if key != "custom_text"
    }
    with torch.device("meta"):
        theirs = open_clip.CustomTextCLIP(**settings)
        converted = convert_mobile_clip_state_dict(theirs, stored)
    expected = theirs.state_dict()
    assert {name: value.shape for name, value in converted.items()} == {n: v.shape for n, v in expected.items()}
    assert set(keys.foreign("open_clip", own).values()) == set(expected)
    assert keys.canonical("apple", stored) == {new: name for name, new in _apple_names(own).items()}


@pytest.mark.parametrize("name", ["nano", "nano_vit"])
def test_open_clip_converts_our_apple_file_to_our_open_clip_file(
    name: str, tmp_path: Path, model: Callable[[str], Clip]
) -> None:
    ours = torch.load(save(model(name), tmp_path / "a.pt", "apple"), weights_only=True)
    other = torch.load(save(model(name), tmp_path / "o.pt", "open_clip"), weights_only=True)
    stub = SimpleNamespace(visual=SimpleNamespace(trunk=model(name).image))
    converted = convert_mobile_clip_state_dict(stub, ours, fastvit=name == "nano")
    assert set(converted) == set(other)
    assert [key for key in other if not torch.equal(converted[key], other[key])] == []


def test_timm_converts_the_image_tower_of_s0(model: Callable[[str], Clip]) -> None:
    ours = torch.load(io.BytesIO(_bytes(model("nano_mct"))), weights_only=True)
    converted = checkpoint_filter_fn(ours, model("nano_mct").image)
    expected = model("nano_mct").image.state_dict()
    assert set(converted) == set(expected)
    assert [key for key in expected if not torch.equal(converted[key], expected[key])] == []


def _bytes(source: Clip) -> bytes:
    own = source.state_dict()
    buffer = io.BytesIO()
    torch.save({new: keys.value_out("apple", name, own[name]) for name, new in _apple_names(own).items()}, buffer)
    return buffer.getvalue()


def test_apples_names_of_the_text_tower_of_s0() -> None:
    names = set(_apple_names(meta("mobileclip_s0")).values())
    for block in (0, 5):
        for leaf in (
            "token_mixer.norm.rbr_skip.weight",
            "token_mixer.mixer.rbr_skip.running_var",
            "token_mixer.mixer.rbr_conv.0.conv.weight",
            "token_mixer.mixer.rbr_conv.0.bn.bias",
            "token_mixer.layer_scale",
            "convffn.conv.conv.weight",
            "convffn.conv.bn.running_mean",
            "convffn.fc1.weight",
            "convffn.fc2.bias",
            "layer_scale",
        ):
            assert f"text_encoder.transformer.{block}.{leaf}" in names
    assert "text_encoder.transformer.4.pre_norm_ffn.4.weight" in names
    assert not any("rbr_scale" in name for name in names if name.startswith("text_encoder."))


@pytest.mark.parametrize(
    "name",
    sorted({config.image.timm + str(config.image.args): n for n, config in reversed(list(MODELS.items()))}.values()),
)
def test_the_table_of_sizes_is_true(name: str) -> None:
    own = {key: tuple(value.shape) for key, value in meta(name).items() if not key.startswith("text.")}
    assert keys.sizes_in(own) == keys.sizes_of(MODELS[name])._replace(text=None)


@pytest.mark.parametrize("form", keys.FORMS)
@pytest.mark.parametrize("name", ["nano", "nano_mct", "nano_vit"])
def test_renaming_is_undone_by_its_inverse(form: str, name: str) -> None:
    own = meta(name)
    there = keys.foreign(form, own)
    if form == "timm":
        own = {key: value for key, value in own.items() if key.startswith("image.")}
        there = keys.foreign(form, own)
    assert len(set(there.values())) == len(own)
    assert keys.canonical(form, there.values()) == {new: key for key, new in there.items()}
    assert keys.form_of(there.values()) == form
