"""Our config.json, read with nothing in it believed; other people's folders; repositories in the hub's cache."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from safetensors.torch import load_file, save_file
from weight_files import assert_same

from mobileclip.checkpoint import APPLE, load, save
from mobileclip.checkpoint_config import OWN
from mobileclip.errors import UnknownName
from mobileclip.fuse import fuse
from mobileclip.models import Clip

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="session")
def toolkit(tmp_path_factory: pytest.TempPathFactory, model: Callable[[str], Clip]) -> Path:
    """The image tower of nano in our folder (no text tower: it is small)."""
    return save(model("nano_swin"), tmp_path_factory.mktemp("toolkit") / "folder", record={"epochs": 3})


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


def test_our_weights_without_their_config(toolkit: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
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


def test_weights_that_their_config_was_not_written_for(
    toolkit: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
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
    change: Callable[[dict[str, Any]], object], verdict: str, toolkit: Path, tmp_path: Path, refused: Callable[..., str]
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
def test_a_config_that_is_no_json(
    data: bytes, verdict: str, toolkit: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    shutil.copytree(toolkit, tmp_path / "x")
    (tmp_path / "x" / "config.json").write_bytes(data)
    assert verdict in refused(tmp_path / "x")


# Other people's folders


def test_a_snapshot_of_open_clip_that_asks_for_other_pixels(tmp_path: Path, model: Callable[[str], Clip]) -> None:
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


def test_a_snapshot_of_timm(tmp_path: Path, model: Callable[[str], Clip]) -> None:
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


def test_a_folder_of_another_program(tmp_path: Path, model: Callable[[str], Clip], refused: Callable[..., str]) -> None:
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


def test_names_that_need_a_network(cache: Path, refused: Callable[..., str]) -> None:
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
def test_a_repository_in_the_cache(owner: str, cache: Path, model: Callable[[str], Clip]) -> None:
    save(model("nano"), _snapshot(cache, f"{owner}/nano") / "open_clip_pytorch_model.bin", "open_clip")
    loaded = load(f"hf-hub:{owner}/nano")
    assert loaded.origin is not None
    assert loaded.origin.source == f"hf-hub:{owner}/nano"
    assert loaded.origin.licence == (APPLE if owner == "apple" else "unknown")


def test_a_tag_in_the_cache_that_holds_another_model(
    cache: Path, model: Callable[[str], Clip], refused: Callable[..., str]
) -> None:
    save(model("nano"), _snapshot(cache, "apple/MobileCLIP-S2-OpenCLIP") / "open_clip_model.safetensors", "open_clip")
    assert "(looks like nano), where it should be mobileclip_s2: a FastViT of 4+12+24+4" in refused(
        "MobileCLIP-S2:datacompdr"
    )
