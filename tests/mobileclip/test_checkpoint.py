"""`mobileclip.checkpoint` on tiny real models, on the key sets of the real sizes (meta device), and on files that lie.

Independent oracles: open_clip's `convert_mobile_clip_state_dict` and timm's `checkpoint_filter_fn` for Apple's names,
timm's `reparameterize_model` for merged branches.
"""

import io
import json
import os
import pickle
import resource
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import open_clip
import pytest
import torch
from open_clip.convert import convert_mobile_clip_state_dict
from safetensors.torch import load_file, save_file
from timm.models.fastvit import checkpoint_filter_fn
from timm.utils.model import reparameterize_model
from torch import Tensor

from mobileclip import checkpoint_keys as keys
from mobileclip.checkpoint import APPLE, PRESUMED, _config, _Found, _origin, _says_second, describe, load, save
from mobileclip.checkpoint_build import MergedMixer
from mobileclip.checkpoint_config import OWN
from mobileclip.checkpoint_files import read_weights
from mobileclip.config import MODELS, Origin
from mobileclip.errors import CheckpointError, OutputError, UnknownName
from mobileclip.fuse import fuse
from mobileclip.models import Clip, build, create
from mobileclip.models.branches import merge_mixer

NANO = ("nano", "nano_mct", "nano_vit", "nano_swin")
ROUND_TRIPS = [
    *((name, "toolkit", "") for name in NANO),
    ("nano", "apple", ".pt"),
    ("nano", "apple", ".safetensors"),
    ("nano_mct", "apple", ".pt"),
    ("nano_vit", "apple", ".safetensors"),
    ("nano", "open_clip", ".pt"),
    ("nano_swin", "timm", ".pth"),
    ("nano_image", "timm", ".bin"),
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Threads cost more than they bring on models this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@lru_cache
def model(name: str) -> Clip:
    """A seeded model; its image projection has no bias if Apple's form is to hold it."""
    if name == "nano_image":
        whole = model("nano")
        return Clip(replace(whole.config, text=None), whole.image, None)
    made = create(name, seed=1)
    for key, value in made.named_parameters():
        if keys.is_head_bias(key):
            value.data.zero_()
    return made


@lru_cache
def meta(name: str, merged: bool = False) -> Mapping[str, Tensor]:
    with torch.device("meta"):
        return build(MODELS[name], merged=merged).state_dict()


@lru_cache
def merged_nano() -> Clip:
    """`nano` as timm's own function leaves it."""
    whole = model("nano")
    return Clip(whole.config, reparameterize_model(whole.image), whole.text).eval()


def pixels() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def ids() -> Tensor:
    tokens = torch.zeros(2, 77, dtype=torch.long)
    tokens[:, :4] = torch.tensor([[49406, 320, 1929, 49407], [49406, 13, 14, 49407]])
    return tokens


def assert_same(one: Clip, other: Clip) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert set(first) == set(second)
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


def refused(path: Path | str, name: str | None = None) -> str:
    """The one sentence with which `load` refuses."""
    with pytest.raises(CheckpointError) as caught:
        load(path, name)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def write(path: Path, tensors: Mapping[str, Any]) -> Path:
    torch.save(dict(tensors), path)
    return path


@pytest.fixture(scope="session")
def apple(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano under Apple's names."""
    return save(model("nano"), tmp_path_factory.mktemp("apple") / "nano.pt", "apple")


@pytest.fixture(scope="session")
def toolkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image tower of nano in our folder (no text tower: it is small)."""
    return save(model("nano_swin"), tmp_path_factory.mktemp("toolkit") / "folder", record={"epochs": 3})


@pytest.fixture
def state(apple: Path) -> dict[str, Tensor]:
    return dict(torch.load(apple, weights_only=True))


# Forms


@pytest.mark.parametrize(("name", "form", "suffix"), ROUND_TRIPS)
def test_what_is_saved_comes_back_bit_for_bit(name: str, form: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    assert save(model(name), path, form) == path
    wanted = "nano" if name == "nano_image" else name
    if name == "nano_image":
        message = refused(path)  # an image tower of that size alone is in no table
        assert "embedding 32, no text tower (its image tower looks like that of nano)" in message
        return
    loaded = load(path)
    assert_same(model(name), loaded)
    assert not loaded.training
    assert loaded.config == MODELS[wanted]
    assert loaded.origin is not None
    assert (loaded.origin.form, loaded.origin.source) == (form, str(path))


@pytest.mark.parametrize("name", NANO)
def test_a_fused_model_comes_back_with_its_outputs(name: str, tmp_path: Path) -> None:
    fused = fuse(model(name))
    assert isinstance(fused, Clip)
    loaded = load(save(fused, tmp_path / "fused"))
    assert_same(fused, loaded)
    assert torch.equal(fused.encode_image(pixels()), loaded.encode_image(pixels()))
    if loaded.text is not None:
        assert torch.equal(fused.encode_text(ids()), loaded.encode_text(ids()))
    assert not any(
        value.requires_grad for tower in (loaded.image, loaded.text) if tower for value in tower.parameters()
    )
    assert loaded.origin is not None
    assert loaded.origin.form == "toolkit, fused"
    assert loaded.origin.licence == "unknown"  # this copy came from `fuse` without an origin


@pytest.mark.parametrize(("form", "suffix"), [("apple", ".pt"), ("open_clip", ".safetensors"), ("toolkit", "")])
def test_timms_reparameterised_model_is_read_and_fuses_alike(form: str, suffix: str, tmp_path: Path) -> None:
    path = save(merged_nano(), tmp_path / f"merged{suffix}", form)
    if form == "apple":
        names = torch.load(path, weights_only=True)
        assert "image_encoder.model.network.1.proj.0.lkb_reparam.weight" in names
        assert "image_encoder.model.network.6.reparam_conv.weight" in names
    loaded = load(path)
    assert loaded.origin is not None
    assert loaded.origin.form == f"{form}, reparameterised"
    assert_same(merged_nano(), loaded)
    expected, got = fuse(model("nano")), fuse(loaded)
    assert isinstance(expected, Clip)
    assert isinstance(got, Clip)
    torch.testing.assert_close(got.encode_image(pixels()), expected.encode_image(pixels()), rtol=1e-4, atol=1e-5)


def test_the_merged_text_tower_of_s0_is_read(tmp_path: Path) -> None:
    source = model("nano_mct")
    merged = create("nano_mct")
    merged.load_state_dict(source.state_dict())
    text: Any = merged.text
    for block in (text.transformer.resblocks[0], text.transformer.resblocks[-1]):
        mixer = MergedMixer(64)
        mixer.reparam_conv.load_state_dict(merge_mixer(block.token_mixer, block.token_mixer.layer_scale).state_dict())
        block.token_mixer = mixer
    path = save(merged, tmp_path / "s0.pt", "apple")
    assert "text_encoder.transformer.0.token_mixer.reparam_conv.weight" in torch.load(path, weights_only=True)
    loaded = load(path)
    assert_same(merged, loaded)
    expected = source.encode_text(ids())
    torch.testing.assert_close(loaded.encode_text(ids()), expected, rtol=1e-4, atol=1e-5)
    fused = fuse(loaded)
    assert isinstance(fused, Clip)
    torch.testing.assert_close(fused.encode_text(ids()), expected, rtol=1e-4, atol=1e-5)


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
def test_open_clip_converts_our_apple_file_to_our_open_clip_file(name: str, tmp_path: Path) -> None:
    ours = torch.load(save(model(name), tmp_path / "a.pt", "apple"), weights_only=True)
    other = torch.load(save(model(name), tmp_path / "o.pt", "open_clip"), weights_only=True)
    stub = SimpleNamespace(visual=SimpleNamespace(trunk=model(name).image))
    converted = convert_mobile_clip_state_dict(stub, ours, fastvit=name == "nano")
    assert set(converted) == set(other)
    assert [key for key in other if not torch.equal(converted[key], other[key])] == []


def test_timm_converts_the_image_tower_of_s0() -> None:
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


# Which model it is


def _recognise(path: str) -> str:
    return _config(_Found(weights=Path(path), source=path), meta("mobileclip_s2"), "", None).name


def test_equal_shapes_are_told_apart_by_the_name_of_the_file() -> None:
    assert _recognise("mobileclip_s2.pt") == "mobileclip_s2"
    assert _recognise("weights.pt") == "mobileclip_s2"
    assert _recognise("MobileCLIP2_S2.pt") == "mobileclip2_s2"
    assert (
        _recognise("models--timm--MobileCLIP2-S2-OpenCLIP/snapshots/1/open_clip_model.safetensors") == "mobileclip2_s2"
    )
    assert not _says_second(Path("mobileclip2/mobileclip_s2.pt"))
    assert _says_second(Path("MobileCLIP2-B/open_clip_model.safetensors"))


def test_a_tag_says_which_model_it_is() -> None:
    found = _Found(weights=Path("x"), source="MobileCLIP2-S2:dfndr2b", name="mobileclip2_s2", released=True)
    assert _config(found, meta("mobileclip_s2"), "", None).name == "mobileclip2_s2"


def test_another_model_than_asked_for(apple: Path) -> None:
    assert load(apple, "nano").config.name == "nano"
    message = refused(apple, "nano_mct")
    assert "holds a FastViT of 1+1+2+1 blocks and 16 channels, embedding 32, and a transformer text tower" in message
    assert "(looks like nano), you asked for nano_mct: a FastViT" in message
    with pytest.raises(UnknownName, match=r"unknown model 'nan': did you mean 'nano'\?"):
        load(apple, "nan")


def test_a_size_that_nobody_has(state: dict[str, Tensor], tmp_path: Path) -> None:
    state = {key.replace("network.7.0.", "network.7.1."): value for key, value in state.items()} | state
    message = refused(write(tmp_path / "x.pt", state))
    assert "holds a FastViT of 1+1+2+2 blocks and 16 channels" in message
    assert "(like no known model); known are mobileclip_s0," in message


def test_part_of_a_model(state: dict[str, Tensor], tmp_path: Path) -> None:
    text = {key: value for key, value in state.items() if key.startswith("text")}
    assert "holds part of a model, or one of another architecture; known are" in refused(write(tmp_path / "x.pt", text))


# Strictness


def test_what_does_not_fit_is_counted_and_named_as_in_the_file(state: dict[str, Tensor], tmp_path: Path) -> None:
    stem = "image_encoder.model.patch_embed.0"
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        del state[f"{stem}.rbr_scale.bn.{leaf}"]
    state["extra.weight"] = torch.zeros(1)
    state["text_encoder.final_layer_norm.bias"] = torch.zeros(3)
    message = refused(write(tmp_path / "x.pt", state))
    assert (
        f"'{tmp_path / 'x.pt'}' does not fit nano: of 314 tensors there are 4 missing ({stem}.rbr_scale.bn.weight, "
        f"{stem}.rbr_scale.bn.bias, {stem}.rbr_scale.bn.running_mean, ...), 1 unexpected (extra.weight), 1 of "
        "another shape (text_encoder.final_layer_norm.bias [3] for [64]); give the file of that model."
    ) == message


def test_counters_may_be_absent_and_not_invented(state: dict[str, Tensor], tmp_path: Path) -> None:
    bare = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert_same(model("nano"), load(write(tmp_path / "bare.pt", bare)))
    state["text_encoder.final_layer_norm.num_batches_tracked"] = torch.tensor(0)
    assert "1 unexpected (text_encoder.final_layer_norm.num_batches_tracked)" in refused(
        write(tmp_path / "x.pt", state)
    )


def test_wrappers_are_taken_off(tmp_path: Path) -> None:
    own = model("nano").state_dict()
    names = keys.foreign("open_clip", own)
    wrapped = {f"module.{names[key]}": value for key, value in own.items()}
    inside = {"epoch": 3, "optimizer": {"state": {}, "param_groups": []}, "state_dict": wrapped}
    for file in (write(tmp_path / "a.pt", wrapped), write(tmp_path / "b.pt", inside)):
        loaded = load(file)
        assert_same(model("nano"), loaded)
        assert loaded.origin is not None
        assert loaded.origin.form == "open_clip"


def test_a_name_twice(state: dict[str, Tensor], tmp_path: Path) -> None:
    state["module.logit_scale"] = torch.tensor(1.0)
    message = refused(write(tmp_path / "x.pt", state))
    assert "names 1 of its 318 tensors twice, in two ways: save it again." in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype, state: dict[str, Tensor], tmp_path: Path) -> None:
    half = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    loaded = load(write(tmp_path / "half.pt", half)).state_dict()
    key = "text.token_embedding.weight"
    assert loaded[key].dtype == torch.float32
    assert torch.equal(loaded[key], model("nano").state_dict()[key].to(dtype).float())


def test_large_finite_weights_are_finite(state: dict[str, Tensor], tmp_path: Path) -> None:
    state["text_encoder.final_layer_norm.bias"] = torch.full((64,), 3e38)
    assert load(write(tmp_path / "x.pt", state)).state_dict()["text.ln_final.bias"].max() > 1e38


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value: float, state: dict[str, Tensor], tmp_path: Path) -> None:
    state["text_encoder.final_layer_norm.bias"] = torch.full((64,), value)
    message = refused(write(tmp_path / "x.pt", state))
    assert (
        "has a value that is not finite in text_encoder.final_layer_norm.bias: take an earlier or undamaged" in message
    )


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (torch.zeros(64, dtype=torch.int32), "int32"),
        (torch.zeros(64).to_sparse(), "sparse_coo"),
        (torch.zeros(64) * 1j, "complex64"),
    ],
)
def test_weights_of_another_type(value: Tensor, kind: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    state["text_encoder.final_layer_norm.bias"] = value
    assert f"stores text_encoder.final_layer_norm.bias as {kind}, where float32" in refused(
        write(tmp_path / "x.pt", state)
    )


# Files that are something else


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.target}'",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_does_not_run(zipped: bool, tmp_path: Path) -> None:
    path, proof = tmp_path / "evil.pt", tmp_path / "ran"
    torch.save({"a": torch.zeros(2), "b": Evil(proof)}, path, _use_new_zipfile_serialization=zipped)
    message = refused(path)
    assert not proof.exists()
    if zipped:
        assert (
            "holds Python objects other than tensors (posix.system), which are not read because unpickling" in message
        )
    else:
        assert "is a bare pickle (PyTorch's format before 1.6, or another program's), which is not read" in message
    torch.load(path, weights_only=False)
    assert proof.exists()  # the file would have done it


def test_a_whole_model_in_a_pickle(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    assert "(torch.nn.modules.linear.Linear)" in refused(tmp_path / "x.pt")


def _cut(path: Path, apple: Path) -> None:
    path.write_bytes(apple.read_bytes()[:200_000])


def _bomb(path: Path, apple: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(50_000_000))


def _overlapping(path: Path, apple: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"x")
    data = path.read_bytes()
    at = data.index(b"PK\x01\x02")
    huge = struct.pack("<II", 4_000_000_000, 4_000_000_000)
    path.write_bytes(data[: at + 20] + huge + data[at + 28 :])


def _script(path: Path, apple: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"x")
        archive.writestr("x/code/model.py", b"pass")


def _other_zip(path: Path, apple: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", b"x")


def _large_index(path: Path, apple: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", bytes(64_000_001))


def _bad_index(path: Path, apple: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"a": 1}, 2)[:-3])
        archive.writestr("x/version", b"3\n")


def _lying_header(path: Path, apple: Path) -> None:
    header = json.dumps({"image.a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))


HOSTILE: list[tuple[Callable[[Path, Path], object], str]] = [
    (lambda path, apple: path.touch(), "is empty: download or copy it again."),
    (lambda path, apple: path.write_bytes(b"\n<!DOCTYPE html><p>404"), "is a web page saved under that name"),
    (
        lambda path, apple: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "is a git-lfs pointer, a text in place of the weights: fetch them with `git lfs pull`",
    ),
    (lambda path, apple: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "is no file of weights: it begins with b'\\x89PNG"),
    (lambda path, apple: path.write_bytes(pickle.dumps({"a": 1})), "is a bare pickle"),
    (_cut, "is cut short or damaged (File is not a zip file)"),
    (_bomb, "has compressed records that claim 50,000,000 bytes in a file of"),
    (_overlapping, "has overlapping records that claim 4,000,000,000 bytes in a file of"),
    (_script, "is a TorchScript program and not a file of weights"),
    (_other_zip, "is a zip archive of another program"),
    (_large_index, "has an index of more than 64,000,000 bytes"),
    (_bad_index, "is damaged ("),
    (_lying_header, "is cut short or has a false header ("),
    (lambda path, apple: write(path, {"a": 1}), "holds 'a', a int, where only tensors belong"),
    (lambda path, apple: write(path, {}), "holds nothing where only tensors belong"),
    (lambda path, apple: torch.save(torch.zeros(2), path), "holds a Tensor and no state dict"),
    (
        lambda path, apple: torch.save(
            {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}, path
        ),
        "holds the state of an optimizer and no weights",
    ),
    (
        lambda path, apple: write(path, {f"layer1.{i}.conv1.weight": torch.zeros(1) for i in range(5)}),
        "holds another model: its 5 tensors are called layer1.0.conv1.weight, layer1.1.conv1.weight, "
        "layer1.2.conv1.weight, ..., which is none of the forms apple, open_clip, timm, toolkit",
    ),
]


@pytest.mark.parametrize(("make", "verdict"), HOSTILE, ids=[verdict[:30] for _, verdict in HOSTILE])
def test_files_that_are_something_else(
    make: Callable[[Path, Path], object], verdict: str, apple: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mobileclip_s2.pt"
    make(path, apple)
    message = refused(path)
    assert f"'{path}' {verdict}" in message


def test_a_shape_larger_than_its_file_costs_no_memory(state: dict[str, Tensor], tmp_path: Path) -> None:
    state["text_encoder.final_layer_norm.bias"] = torch.zeros(1).expand(10**15)
    message = refused(write(tmp_path / "x.pt", state))
    assert "1 of another shape (text_encoder.final_layer_norm.bias [1000000000000000] for [64])" in message


def test_places_that_are_no_file(tmp_path: Path) -> None:
    assert "there is no file or folder 'nowhere.pt': give a path" in refused("nowhere.pt")
    assert "(mobileclip_s2 names an architecture: `mobileclip.create` builds it" in refused("mobileclip_s2")
    os.mkfifo(tmp_path / "pipe")
    assert "is neither a file nor a folder" in refused(tmp_path / "pipe")
    assert f"the folder '{tmp_path}' holds no weights (open_clip_model.safetensors," in refused(tmp_path)
    (tmp_path / "a.pt").touch()
    assert f"'{tmp_path / 'a.pt'}' is empty" in refused(tmp_path)  # one file is unambiguous
    (tmp_path / "b.pt").touch()
    assert "holds 2 files of weights (a.pt, b.pt): give one file" in refused(tmp_path)


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(self: Path, *args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x.pt").write_bytes(b"x")
    monkeypatch.setattr(Path, "open", deny)  # the tests may run as root, whom no mode denies
    assert "cannot be read (Permission denied): see that it is a file of yours." in refused(tmp_path / "x.pt")


# Our config.json


def test_the_record_and_the_licence_of_our_folder(toolkit: Path) -> None:
    loaded = load(toolkit)
    assert loaded.origin is not None
    assert loaded.origin.record == {"epochs": 3}
    assert (loaded.origin.licence, loaded.origin.licence_research_only) == (OWN, False)
    document = json.loads((toolkit / "config.json").read_text())
    assert document["sha256"] == loaded.origin.sha256
    assert sorted(item.name for item in toolkit.iterdir()) == ["config.json", "model.safetensors"]
    assert load(toolkit / "model.safetensors").origin == replace(
        loaded.origin, source=str(toolkit / "model.safetensors")
    )


def test_our_weights_without_their_config(toolkit: Path, tmp_path: Path) -> None:
    shutil.copy(toolkit / "model.safetensors", tmp_path / "model.safetensors")
    loaded = load(tmp_path)
    assert loaded.config.name == "nano_swin"
    assert loaded.origin is not None
    assert (loaded.origin.form, loaded.origin.licence) == ("toolkit", "unknown")
    fused = fuse(loaded)
    assert isinstance(fused, Clip)
    save(fused, tmp_path / "fused")
    (tmp_path / "fused" / "config.json").unlink()
    assert "holds fused weights and its config.json is not there: give the whole folder." in refused(tmp_path / "fused")


def test_weights_that_their_config_was_not_written_for(toolkit: Path, tmp_path: Path) -> None:
    shutil.copytree(toolkit, tmp_path / "x")
    tensors = load_file(tmp_path / "x" / "model.safetensors")
    save_file({key: value + 1 for key, value in tensors.items()}, tmp_path / "x" / "model.safetensors")
    assert "is not the file that its config.json was written for (sha256" in refused(tmp_path / "x")


def _set(*path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        place = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


DOCUMENTS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (_set("format", value="mobileclip-toolkit/9"), "has the format 'mobileclip-toolkit/9' where this version reads"),
    (_set("colour", value=1), "has the unknown key 'colour' (allowed: format, model,"),
    (lambda document: document.pop("record"), "has no key 'record'"),
    (_set("licence", value=3), "has a int as 'licence'"),
    (
        lambda document: [document.pop(key) for key in list(document)],
        "is the configuration of another program (its keys: none)",
    ),
    (_set("model", "colour", value=1), "the model configuration cannot be read (unknown key 'colour' for ModelConfig)"),
    (_set("model", "preprocess", value="x"), "dictionary update sequence"),
    (_set("model", "image", "timm", value="hf-hub:a/b"), "its image tower is 'hf-hub:a/b' (allowed: fastvit_mci0,"),
    (_set("model", "image", "args", "checkpoint_path", value="x"), "its image tower has arguments other than"),
    (_set("model", "image", "args", "img_size", value=10**6), "img_size is 1000000 (allowed: 0 to 512)"),
    (_set("model", "image", "args", "depths", value=[1] * 9), "depths has 9 values (at most 8)"),
    (_set("model", "image", "args", "depths", value=[1, 2, 94, 1]), "it has 98 blocks"),
    (_set("model", "image", "args", "depths", value=2), "the arguments of its image tower are of the wrong kind"),
    (_set("model", "image", "pool", value="max"), "its pool is 'max' (allowed: avg, token)"),
    (_set("model", "name", value=[]), "its name is no text"),
    (_set("model", "embed_dim", value="x"), "embed_dim is x (allowed: 0 to 2048)"),
    (_set("model", "preprocess", "std", value=[1, 1, 0]), "mean and std are not three numbers each, std above zero"),
    (
        _set("model", "preprocess", "interpolation", value="area"),
        "its interpolation is 'area' (allowed: bilinear, bicubic)",
    ),
    (_set("model", "text", value={"context": 10**9}), "its text tower is not one of 77 tokens out of 49408"),
    (_set("tokenizer", value={"kind": "other"}), "its tokenizer is not the one that its text tower needs"),
    (
        _set("state", value="fused"),
        "speaks of weights in the state 'fused', those beside it are in the state 'training'",
    ),
    (
        _set("model", "embed_dim", value=33),
        "embedding 32, no text tower (looks like nano_swin), where it should be nano_swin",
    ),
    (_set("model", "image", "args", "num_heads", value=[0, 2, 4, 8]), "builds no model ("),
    (
        _set("model", "image", "args", "window_size", value=2),
        "of another shape (image.layers.0.blocks.0.attn.relative_pos",
    ),
]


@pytest.mark.parametrize(("change", "verdict"), DOCUMENTS, ids=[verdict[:30] for _, verdict in DOCUMENTS])
def test_a_config_that_is_not_ours(
    change: Callable[[dict[str, Any]], object], verdict: str, toolkit: Path, tmp_path: Path
) -> None:
    shutil.copytree(toolkit, tmp_path / "x")
    document = json.loads((toolkit / "config.json").read_text())
    change(document)
    (tmp_path / "x" / "config.json").write_text(json.dumps(document))
    assert verdict in refused(tmp_path / "x")


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (b"{", "is not JSON ("),
        (b"\xff\xfe{}", "is not JSON ("),
        (b"[" * 100_000, "is not JSON ("),
        (b"[1]", "holds a JSON list where an object is expected"),
        (b" " * 1_000_001, "has more than 1,000,000 bytes, which no configuration needs"),
    ],
)
def test_a_config_that_is_no_json(data: bytes, verdict: str, toolkit: Path, tmp_path: Path) -> None:
    shutil.copytree(toolkit, tmp_path / "x")
    (tmp_path / "x" / "config.json").write_bytes(data)
    assert verdict in refused(tmp_path / "x")


# Other people's folders


def test_a_snapshot_of_open_clip_that_asks_for_other_pixels(tmp_path: Path) -> None:
    save(model("nano"), tmp_path / "open_clip_pytorch_model.bin", "open_clip")
    config = {
        "model_cfg": {},
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [1, 1.0, 1], "interpolation": "bicubic"},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    expected = (
        "open_clip_config.json asks for mean [0.5, 0.5, 0.5], interpolation bicubic, where nano takes mean "
        "(0.0, 0.0, 0.0), interpolation bilinear: the latter is used, as in the code that the weights were released "
        "with."
    )
    with pytest.warns(UserWarning, match="the latter is used") as caught:
        loaded = load(tmp_path)
    assert [str(warning.message) for warning in caught] == [expected]
    assert loaded.origin is not None
    assert loaded.origin.warnings == (expected,)
    config["preprocess_cfg"] = {"mean": [0.0, 0.0, 0.0], "interpolation": "bilinear", "resize_mode": "squash"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match="asks for resize_mode squash, where nano takes resize_mode shortest"):
        load(tmp_path)


def test_a_snapshot_of_timm(tmp_path: Path) -> None:
    save(model("nano_swin"), tmp_path / "model.safetensors", "timm")
    pixels = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "interpolation": "bicubic", "crop_pct": 0.95}
    config = {"architecture": "swin_tiny_patch4_window7_224", "pretrained_cfg": pixels}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match=r"config.json asks for crop_pct 0.95, where nano_swin takes crop_pct 1.0"):
        loaded = load(tmp_path)
    assert loaded.origin is not None
    assert loaded.origin.form == "timm"
    pixels["crop_pct"] = 1.0
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_same(model("nano_swin"), load(tmp_path))


def test_a_folder_of_another_program(tmp_path: Path) -> None:
    save(model("nano_swin"), tmp_path / "model.safetensors", "timm")
    (tmp_path / "config.json").write_text('{"model_type": "clip", "architectures": []}')
    message = refused(tmp_path)
    assert "is the configuration of another program (its keys: model_type, architectures)" in message


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's client, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _snapshot(cache: Path, repository: str) -> Path:
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    return folder / "snapshots" / ("0" * 40)


def test_names_that_need_a_network(cache: Path) -> None:
    for name, repository in (
        ("MobileCLIP-S2:datacompdr", "apple/MobileCLIP-S2-OpenCLIP"),
        ("hf-hub:apple/MobileCLIP-S2", "apple/MobileCLIP-S2"),
    ):
        message = refused(name)
        assert f"'{name}' could not be fetched: the repository {repository} was not reached and is not in" in message
        assert message.endswith("; go online, or give a local file of the weights.")
    assert "names no repository: write hf-hub:owner/name" in refused("hf-hub:no")
    with pytest.raises(UnknownName, match=r"unknown tag of MobileCLIP-S2 'x': Known: datacompdr\."):
        load("MobileCLIP-S2:x")
    with pytest.raises(UnknownName, match=r"unknown path, or open_clip model 'MobileCLIP-S9': did you mean"):
        load("MobileCLIP-S9:datacompdr")


@pytest.mark.parametrize("owner", ["apple", "someone"])
def test_a_repository_in_the_cache(owner: str, cache: Path) -> None:
    save(model("nano"), _snapshot(cache, f"{owner}/nano") / "open_clip_pytorch_model.bin", "open_clip")
    loaded = load(f"hf-hub:{owner}/nano")
    assert loaded.origin is not None
    assert loaded.origin.source == f"hf-hub:{owner}/nano"
    assert loaded.origin.licence == (APPLE if owner == "apple" else "unknown")


def test_a_tag_in_the_cache_that_holds_another_model(cache: Path) -> None:
    save(model("nano"), _snapshot(cache, "apple/MobileCLIP-S2-OpenCLIP") / "open_clip_model.safetensors", "open_clip")
    assert "(looks like nano), where it should be mobileclip_s2: a FastViT of 4+12+24+4" in refused(
        "MobileCLIP-S2:datacompdr"
    )


# Licences


def test_licences_follow_the_weights(apple: Path, tmp_path: Path) -> None:
    loaded = load(apple)
    assert loaded.origin is not None
    assert (loaded.origin.licence, loaded.origin.licence_research_only) == (APPLE, True)
    again = load(save(loaded, tmp_path / "tuned", record={"epochs": 1})).origin
    assert again is not None
    assert (again.licence, again.licence_research_only) == (APPLE, True)
    begun = {"form": "apple", "source": str(apple), "sha256": loaded.origin.sha256}
    assert again.record == {"begun_from": begun, "epochs": 1}


@pytest.mark.parametrize("form", ["open_clip", "timm, reparameterised"])
def test_apples_architectures_are_presumed_apples(form: str) -> None:
    origin = _origin(_Found(weights=Path("x"), source="x"), MODELS["mci0"], form, "")
    assert (origin.licence, origin.licence_research_only) == (PRESUMED, True)
    assert origin.licence == "Apple ML Research Model License (research only), presumed from the architecture"
    toolkit = _origin(_Found(weights=Path("x"), source="x"), MODELS["mci0"], "toolkit", "")
    assert (toolkit.licence, toolkit.licence_research_only) == ("unknown", False)


def test_describe_is_one_sentence() -> None:
    origin = Origin(form="apple, reparameterised", source="s2.pt", sha256="0123456789abcdef", licence=APPLE)
    assert describe(origin) == (
        "'s2.pt' holds weights under Apple's names, reparameterised (sha256 0123456789ab); licence of the weights: "
        "Apple ML Research Model License (research only)."
    )


def test_weights_from_a_seed() -> None:
    loaded = load("seeded:nano_swin:1")
    assert torch.equal(
        loaded.state_dict()["image.norm.weight"], create("nano_swin", seed=1).state_dict()["image.norm.weight"]
    )
    assert loaded.origin is not None
    assert describe(loaded.origin) == (
        "'seeded:nano_swin:1' holds weights drawn from a seed (sha256 none); licence of the weights: "
        "MIT (weights of this project)."
    )
    assert "has no whole number for its seed: write seeded:nano:0." in refused("seeded:nano:x")
    assert "'seeded:nano' draws a nano, you asked for nano_vit" in refused("seeded:nano", "nano_vit")


# Saving


def _half_fused() -> Clip:
    return Clip(MODELS["nano"], fuse(model("nano").image), model("nano").text)


def _with_bias() -> Clip:
    whole = create("nano")
    whole.image.get_parameter("head.fc.bias").data.fill_(1.0)
    return whole


@pytest.mark.parametrize(
    ("make", "form", "verdict"),
    [
        (
            _half_fused,
            "toolkit",
            "holds no model with one tower fused and the other not: save nano in a form that holds it",
        ),
        (lambda: fuse(model("nano")), "open_clip", "the form open_clip holds no fused model"),
        (lambda: model("nano"), "timm", "the form timm holds an image tower alone, and this model has a text tower"),
        (lambda: model("nano_swin"), "apple", "the form apple holds two towers, and this model has no text tower"),
        (lambda: model("nano_mct"), "open_clip", "the form open_clip has no names for the text tower mct"),
        (
            lambda: Clip(MODELS["mobileclip2_s3"], model("nano").image, model("nano").text),
            "apple",
            "the form apple has no names for the image tower fastvit_mci3",
        ),
        (_with_bias, "apple", "has no bias in the image projection, and this model's is not zero"),
    ],
)
def test_forms_that_cannot_hold_a_model(make: Callable[[], Clip], form: str, verdict: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        save(make(), tmp_path / ("x" if form == "toolkit" else "x.pt"), form)
    assert verdict in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    swin = model("nano_swin")
    with pytest.raises(UnknownName, match=r"unknown form of a checkpoint 'appel': did you mean 'apple'\?"):
        save(swin, tmp_path / "x.pt", "appel")
    with pytest.raises(CheckpointError, match="the form timm has no place for a training record"):
        save(swin, tmp_path / "x.pt", "timm", record={})
    with pytest.raises(CheckpointError, match=r"the training record cannot be written as JSON \(Object of type set"):
        save(swin, tmp_path / "x", record={"a": {1}})
    with pytest.raises(CheckpointError, match="the training record cannot be written as JSON"):
        save(swin, tmp_path / "x", record={"loss": float("nan")})
    with pytest.raises(
        CheckpointError, match=r"the training record takes 1,000,\d+ bytes of JSON, 1,000,000 are allowed"
    ):
        save(swin, tmp_path / "x", record={"a": "x" * 1_000_000})
    broken = create("nano_swin")
    broken.image.get_parameter("norm.bias").data[0] = float("nan")
    with pytest.raises(
        CheckpointError, match=r"the nano_swin to be saved has a value that is not finite in image\.norm\.bias"
    ):
        save(broken, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    swin = model("nano_swin")
    file, folder = tmp_path / "x.pt", tmp_path / "x"
    save(swin, file, "timm")
    save(swin, folder)
    before = file.read_bytes()
    with pytest.raises(
        OutputError, match=r"x\.pt' exists already: remove it, give another name, or ask for replacement"
    ):
        save(swin, file, "timm")
    with pytest.raises(OutputError, match="x' holds something already: give another, or ask for replacement"):
        save(swin, folder)
    (tmp_path / "d" / "x.pt").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"x\.pt' exists already"):
        save(swin, tmp_path / "d" / "x.pt", "timm", force=True)
    with pytest.raises(OutputError, match=r"the form toolkit is a folder and '.*x\.pt' names a file: leave out \.pt"):
        save(swin, file)
    with pytest.raises(OutputError, match=r"x\.onnx' names no file of weights: end it with one of \.safetensors, \.pt"):
        save(swin, tmp_path / "x.onnx", "timm")
    (tmp_path / "taken").touch()
    with pytest.raises(OutputError, match="taken' is a file where a folder is to be written"):
        save(swin, tmp_path / "taken", force=True)
    assert file.read_bytes() == before
    (folder / "notes.txt").write_text("keep")
    other = create("nano_swin", seed=2)
    save(other, file, "timm", force=True)
    save(other, folder, force=True)
    assert_same(other, load(file))
    assert_same(other, load(folder))
    assert (folder / "notes.txt").read_text() == "keep"


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "x"])
def test_a_full_disk_leaves_nothing(name: str, tmp_path: Path) -> None:
    form = "timm" if "." in name else "toolkit"
    path = tmp_path / name
    save(model("nano_swin"), path, form)
    kept = {item: item.read_bytes() for item in tmp_path.rglob("*") if item.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot be written \(.*\): give a place that exists and has room\."):
            save(model("nano_swin"), path, form, force=True)
        with pytest.raises(OutputError, match="cannot be written"):
            save(model("nano_swin"), tmp_path / "new" / name, form)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {item: item.read_bytes() for item in tmp_path.rglob("*") if item.is_file()} == kept


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, form in (("file/x.pt", "timm"), ("file/x", "toolkit")):
        with pytest.raises(OutputError, match=r"cannot be written \(.*\): give a place"):
            save(model("nano_swin"), tmp_path / name, form)


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    """One safetensors file in 32 begins with the byte that begins a pickle."""
    for length in range(64):
        save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors", metadata={"note": "n" * length})
        head = (tmp_path / "x.safetensors").read_bytes()[:1]
        assert list(read_weights(tmp_path / "x.safetensors")) == ["x"], head
