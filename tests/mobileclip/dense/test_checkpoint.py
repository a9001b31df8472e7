"""Dense checkpoints in and out, what is refused, and where a model begins."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import mobileclip
from mobileclip.checkpoint import APPLE, PRESUMED
from mobileclip.checkpoint import save as save_clip
from mobileclip.checkpoint_config import OWN
from mobileclip.config import Origin, config_of
from mobileclip.dense.checkpoint import encoder_of, is_dense, load, save, start
from mobileclip.dense.config import DenseConfig
from mobileclip.dense.encoders import encoder_named
from mobileclip.dense.labels import ADE20K, COCO, COCO_IDS, default_labels, require_labels
from mobileclip.dense.model import DenseModel
from mobileclip.digests import sha256_of
from mobileclip.errors import CheckpointError, MobileClipError, OutputError, UnknownName
from mobileclip.fuse import is_fused
from mobileclip.models import create

NANO = DenseConfig(encoder=config_of("nano"), head="depth_phone", size=(64, 96))


@pytest.fixture(scope="module")
def model() -> DenseModel:
    return load("seeded:nano+depth_phone@64x96:2")


@pytest.fixture
def folder(model: DenseModel, tmp_path: Path) -> Path:
    return save(model, tmp_path / "model", record={"steps": 3})


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """What is said about the folder after `change` was done to its config.json."""
    values = json.loads((folder / "config.json").read_text())
    change(values)
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(MobileClipError) as caught:
        load(folder)
    return str(caught.value)


@torch.no_grad()
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ["nano+depth_linear@64x96", "nano_swin+uper_phone@64", "test_vit+seg_linear@32x64"])
def test_what_was_saved_comes_back(name: str, fused: bool, tmp_path: Path) -> None:
    built = load(f"seeded:{name}")
    if fused:
        built = mobileclip.fuse(built)
    back = load(save(built, tmp_path / "x"))
    want = built.state_dict()
    assert list(back.state_dict()) == list(want)
    assert all(torch.equal(value, want[key]) for key, value in back.state_dict().items())
    assert back.config == built.config
    assert is_fused(back) == fused
    x = torch.rand(1, 3, *built.config.size)
    assert torch.equal(back(x), built(x))
    assert back.origin is not None
    assert (back.origin.form, back.origin.licence) == ("toolkit, fused" if fused else "toolkit", OWN)


def test_records_and_licences_are_inherited(model: DenseModel, folder: Path, tmp_path: Path) -> None:
    first = load(folder)
    assert first.origin is not None
    assert first.origin.record["steps"] == 3
    assert first.origin.record["begun_from"]["source"].startswith("seeded:nano+depth_phone@")
    clip = create("nano", seed=1)
    clip.origin = Origin(form="apple", source="x.pt", sha256="", licence=APPLE, licence_research_only=True)
    begun = start(NANO, save_clip(clip, tmp_path / "clip"))
    back = load(save(mobileclip.fuse(begun), tmp_path / "dense"))
    assert back.origin is not None
    assert (back.origin.licence, back.origin.licence_research_only) == (APPLE, True)
    assert back.origin.record["begun_from"]["source"] == "x.pt"


def test_names_are_told_apart_without_torch(folder: Path, tmp_path: Path) -> None:
    assert is_dense(folder)
    assert is_dense("seeded:mci2+semfpn@512")
    assert not is_dense("seeded:mci2")
    assert not is_dense(tmp_path)
    assert not is_dense("timm:x")
    code = "import sys; from mobileclip.dense.checkpoint import is_dense; is_dense('x'); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"


def test_seeded_models_are_drawn_from_their_name(model: DenseModel) -> None:
    again, other = load("seeded:nano+depth_phone@64x96:2"), load("seeded:nano+depth_phone@64x96")
    assert again.config.size == (64, 96)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    assert not torch.equal(next(other.parameters()), next(model.parameters()))
    assert load("seeded:nano+seg_linear@64").config.labels == ADE20K
    for name in ("seeded:nano+depth@", "seeded:nano+depth", "seeded:nano+depth@64:x"):
        with pytest.raises(CheckpointError, match=r"names no dense model: write seeded:MODEL\+HEAD@SIZE"):
            load(name)
    with pytest.raises(CheckpointError, match="asks for 9000 x 9000 pixels: at most 4096 a side are allowed"):
        load("seeded:nano+depth@9000")
    with pytest.raises(UnknownName, match=r"unknown head 'dept': did you mean 'depth'\?"):
        load("seeded:nano+dept@64")
    with pytest.raises(UnknownName, match=r"unknown encoder \(or architecture of timm\) 'nanu': did you mean 'nano'"):
        load("seeded:nanu+depth@64")


def test_folders_that_hold_something_else(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is no folder with model\.safetensors and config\.json: give one that"):
        load(tmp_path / "nothing")
    clip = save_clip(create("nano"), tmp_path / "clip")
    with pytest.raises(CheckpointError, match=r"holds no dense model: .* or read an image-text model with"):
        load(clip)
    with pytest.raises(CheckpointError, match=r"describes a dense model: read it with `mobileclip\.dense\.load`"):
        mobileclip.load(folder)


def test_a_changed_file_is_found(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["head.predict.2.bias"] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"is not the file that its config\.json was written for"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda v: v["model"].update(size=[64, 100]), r"its size is 64 x 100 (allowed: multiples of 32 up to 4096)"),
        (lambda v: v["model"].update(max_depth=-1), "its largest depth is -1 (allowed: above 0, to 100,000)"),
        (lambda v: v["model"].update(labels=["a" * 300]), "it has 1 classes, or one of a long name"),
        (lambda v: v["model"].update(labels=["a"], category_ids=[1, 2]), "it has 2 ids for 1 classes"),
        (lambda v: v["model"].update(args={"width": 1e9}), "its head's argument 'width' is 1000000000.0 (allowed"),
        (lambda v: v["model"].update(args=[]), "its head's arguments are no object"),
        (lambda v: v["model"].update(args={"depht": 1}), "builds no model"),
        (lambda v: v["model"].update(head="x"), "unknown head 'x'"),
        (lambda v: v["model"]["encoder"]["image"].update(timm="os.system"), "its image tower is 'os.system'"),
        (lambda v: v["model"].pop("size"), "the configuration of a dense model cannot be read ('size')"),
        (lambda v: v.update(state="new"), "its state is 'new' (allowed: training, fused)"),
        (
            lambda v: v.update(format="mobileclip-dense/9"),
            "has the format 'mobileclip-dense/9' where this version reads",
        ),
        (lambda v: v.update(extra=1), "has the unknown key 'extra'"),
        (lambda v: v.update(record=1), "has a int as 'record': write it with `mobileclip.dense.save`"),
        (lambda v: v["model"].update(args={"width": 16}), "does not fit nano+depth_phone: of "),
    ],
)
def test_configurations_are_not_believed(change: Callable[[dict[str, Any]], object], text: str, folder: Path) -> None:
    assert text in edited(folder, change)


def test_another_number_of_classes(tmp_path: Path) -> None:
    built = load("seeded:nano+seg_linear@64")
    folder = save(built, tmp_path / "x")
    text = edited(folder, lambda v: v["model"].update(labels=["a", "b"]))
    assert "does not fit nano+seg_linear" in text
    assert "of another shape (head.classify.weight [150, 128, 1, 1] for [2, 128, 1, 1], head.classify.bias" in text
    with pytest.raises(
        CheckpointError, match=r"^'x' has 150 classes \(wall, .*\), the data 2 \(a, b\): give data of the"
    ):
        require_labels(built.config.labels, ("a", "b"), "'x'")


def test_what_cannot_be_written(model: DenseModel, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds something already: give another, or ask for replacement"):
        save(model, folder)
    assert save(model, folder, force=True) == folder
    with pytest.raises(OutputError, match="names a file where a folder is to be written"):
        save(model, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="the training record cannot be written as JSON"):
        save(model, tmp_path / "y", record={"x": object()})
    assert not (tmp_path / "y").exists()
    broken = load(folder)
    next(broken.parameters()).data[0] = torch.nan
    with pytest.raises(CheckpointError, match=r"the nano\+depth_phone to be saved has a value that is not finite in"):
        save(broken, tmp_path / "z")


# Where a model begins


def test_an_encoder_takes_all_weights_of_an_image_text_model(tmp_path: Path) -> None:
    clip = create("nano", seed=5)
    begun = start(NANO, save_clip(clip, tmp_path / "clip"))
    state = clip.image.state_dict()
    assert begun.config.encoder == clip.config
    own = begun.encoder.trunk.state_dict()
    assert own
    assert all(torch.equal(value, state[key]) for key, value in own.items())
    other = replace(NANO, encoder=config_of("mci2"))
    assert start(other, tmp_path / "clip").config.name == "nano+depth_phone"
    assert encoder_of(tmp_path / "clip", config_of("mci2")) == clip.config
    assert encoder_of("scratch", config_of("mci2")) == config_of("mci2")


def test_scratch_is_drawn_by_torchs_generator() -> None:
    def first(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return next(start(NANO, "scratch").parameters())

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))
    assert start(NANO, "").origin is None


def test_fused_weights_cannot_be_trained(folder: Path, tmp_path: Path) -> None:
    fused = save(mobileclip.fuse(load(folder)), tmp_path / "fused")
    clip = save_clip(mobileclip.fuse(create("nano", seed=1)), tmp_path / "clip")
    for name in (fused, clip):
        with pytest.raises(CheckpointError, match="is fused or reparameterised, which cannot be trained any more"):
            start(NANO, name)


def test_a_dense_model_gives_its_encoder_and_its_head(folder: Path, model: DenseModel) -> None:
    torch.manual_seed(0)
    fresh = start(replace(NANO, size=(96, 96)), folder)
    kept = start(NANO, folder, head=True)
    theirs = model.head.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in kept.head.state_dict().items())
    assert not torch.equal(fresh.head.state_dict()["predict.0.weight"], theirs["predict.0.weight"])
    assert fresh(torch.rand(1, 3, 96, 96)).shape == (1, 1, 24, 24)
    with pytest.raises(CheckpointError, match="holds the head depth_phone where depth is to be kept"):
        start(replace(NANO, head="depth"), folder, head=True)
    with pytest.raises(CheckpointError, match="holds no head where depth_phone is to be kept"):
        start(NANO, "seeded:nano", head=True)


@pytest.mark.parametrize("name", ["test_vit", "nano_swin"])
def test_a_dense_model_at_another_size_keeps_its_neck(name: str, tmp_path: Path) -> None:
    first = load(f"seeded:{name}+depth_phone@64")
    other = start(replace(first.config, size=(64, 96)), save(first, tmp_path / "x"))
    assert first.encoder.fresh() if name == "test_vit" else first.encoder.norms
    own = {key: value for key, value in first.encoder.state_dict().items() if not key.startswith("trunk.")}
    assert own
    assert all(torch.equal(other.encoder.state_dict()[key], value) for key, value in own.items())


def vit_file(path: Path) -> dict[str, torch.Tensor]:
    """timm's own file of its smallest ViT, with a classifier of 1000 classes."""
    torch.manual_seed(0)
    state = timm.create_model("test_vit").state_dict()
    save_file(state, path)
    return dict(state)


def test_a_file_of_timm_loses_its_classifier(tmp_path: Path) -> None:
    state = vit_file(tmp_path / "vit.safetensors")
    config = replace(NANO, encoder=encoder_named("test_vit"), size=(64, 96))
    begun = start(config, tmp_path / "vit.safetensors")
    own = begun.encoder.trunk.state_dict()
    assert own["pos_embed"].shape[1] == 1 + 4 * 6
    assert all(torch.equal(value, state[key]) for key, value in own.items() if key != "pos_embed")
    assert begun.origin is not None
    assert begun.origin.sha256 == sha256_of(tmp_path / "vit.safetensors")
    assert not begun.origin.licence_research_only
    with pytest.raises(CheckpointError, match=r"vit\.safetensors' does not fit nano: of .* there are .* missing"):
        start(NANO, tmp_path / "vit.safetensors")
    torch.save(timm.create_model("fastvit_mci0", num_classes=10).state_dict(), tmp_path / "mci0.pth")
    begun = start(replace(NANO, encoder=config_of("mci0")), tmp_path / "mci0.pth")
    assert begun.origin is not None
    assert (begun.origin.licence, begun.origin.licence_research_only) == (PRESUMED, True)


def test_weights_that_timm_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"'timm:test_vit\.r160_in1k' could not be fetched and is not in"):
        start(NANO, "timm:test_vit.r160_in1k")
    snapshot = tmp_path / "models--timm--test_vit.r160_in1k" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    state = vit_file(snapshot / "model.safetensors")
    begun = start(NANO, "timm:test_vit.r160_in1k")
    assert torch.equal(begun.encoder.trunk.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"])
    assert begun.config.name == "test_vit+depth_phone"
    assert begun.config.encoder.preprocess.mean == (0.5, 0.5, 0.5)
    assert begun.origin is not None
    assert begun.origin.licence == "apache-2.0"
    with pytest.raises(CheckpointError, match=r"timm has no model 'test_vot': did you mean 'test_vit'\."):
        start(NANO, "timm:test_vot")
    with pytest.raises(CheckpointError, match=r"timm has no weights 'test_vit\.x': known for test_vit are .*r160_in1k"):
        start(NANO, "timm:test_vit.x")


def test_labels_of_public_sets() -> None:
    assert (len(ADE20K), len(set(ADE20K)), ADE20K[0], ADE20K[12], ADE20K[149]) == (150, 150, "wall", "person", "flag")
    assert (len(COCO), len(set(COCO)), len(COCO_IDS), COCO_IDS[-1]) == (80, 80, 80, 90)
    assert dict(zip(COCO_IDS, COCO, strict=True))[18] == "dog"
    assert default_labels("depth") == ((), ())
