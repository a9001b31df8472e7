"""Every form of weights comes back as it was saved; which model it is, its licence, and what cannot be saved.

Independent oracle: timm's `reparameterize_model` for merged branches.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.utils.model import reparameterize_model
from torch import Tensor
from weight_files import assert_same, meta, write

from mobileclip.checkpoint import APPLE, PRESUMED, _config, _Found, _origin, _says_second, describe, load, save
from mobileclip.checkpoint_build import MergedMixer
from mobileclip.config import MODELS, Origin
from mobileclip.errors import CheckpointError, OutputError, UnknownName
from mobileclip.fuse import fuse
from mobileclip.models import Clip, create
from mobileclip.models.branches import merge_mixer

pytestmark = pytest.mark.usefixtures("one_thread")

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


@pytest.fixture(scope="session")
def merged_nano(model: Callable[[str], Clip]) -> Clip:
    """`nano` as timm's own function leaves it."""
    whole = model("nano")
    return Clip(whole.config, reparameterize_model(whole.image), whole.text).eval()


def pixels() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def ids() -> Tensor:
    tokens = torch.zeros(2, 77, dtype=torch.long)
    tokens[:, :4] = torch.tensor([[49406, 320, 1929, 49407], [49406, 13, 14, 49407]])
    return tokens


# Forms


@pytest.mark.parametrize(("name", "form", "suffix"), ROUND_TRIPS)
def test_what_is_saved_comes_back_bit_for_bit(
    name: str, form: str, suffix: str, tmp_path: Path, model: Callable[[str], Clip], refused: Callable[..., str]
) -> None:
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
def test_a_fused_model_comes_back_with_its_outputs(name: str, tmp_path: Path, model: Callable[[str], Clip]) -> None:
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
def test_timms_reparameterised_model_is_read_and_fuses_alike(
    form: str, suffix: str, tmp_path: Path, model: Callable[[str], Clip], merged_nano: Clip
) -> None:
    path = save(merged_nano, tmp_path / f"merged{suffix}", form)
    if form == "apple":
        names = torch.load(path, weights_only=True)
        assert "image_encoder.model.network.1.proj.0.lkb_reparam.weight" in names
        assert "image_encoder.model.network.6.reparam_conv.weight" in names
    loaded = load(path)
    assert loaded.origin is not None
    assert loaded.origin.form == f"{form}, reparameterised"
    assert_same(merged_nano, loaded)
    expected, got = fuse(model("nano")), fuse(loaded)
    assert isinstance(expected, Clip)
    assert isinstance(got, Clip)
    torch.testing.assert_close(got.encode_image(pixels()), expected.encode_image(pixels()), rtol=1e-4, atol=1e-5)


def test_the_merged_text_tower_of_s0_is_read(tmp_path: Path, model: Callable[[str], Clip]) -> None:
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


def test_another_model_than_asked_for(apple: Path, refused: Callable[..., str]) -> None:
    assert load(apple, "nano").config.name == "nano"
    message = refused(apple, "nano_mct")
    assert "holds a FastViT of 1+1+2+1 blocks and 16 channels, embedding 32, and a transformer text tower" in message
    assert "(looks like nano), you asked for nano_mct: a FastViT" in message
    with pytest.raises(UnknownName, match=r"unknown model 'nan': did you mean 'nano'\?"):
        load(apple, "nan")


def test_a_size_that_nobody_has(state: dict[str, Tensor], tmp_path: Path, refused: Callable[..., str]) -> None:
    state = {key.replace("network.7.0.", "network.7.1."): value for key, value in state.items()} | state
    message = refused(write(tmp_path / "x.pt", state))
    assert "holds a FastViT of 1+1+2+2 blocks and 16 channels" in message
    assert "(like no known model); known are mobileclip_s0," in message


def test_part_of_a_model(state: dict[str, Tensor], tmp_path: Path, refused: Callable[..., str]) -> None:
    text = {key: value for key, value in state.items() if key.startswith("text")}
    assert "holds part of a model, or one of another architecture; known are" in refused(write(tmp_path / "x.pt", text))


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


def test_weights_from_a_seed(refused: Callable[..., str]) -> None:
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


def _half_fused(model: Callable[[str], Clip]) -> Clip:
    return Clip(MODELS["nano"], fuse(model("nano").image), model("nano").text)


def _with_bias(model: Callable[[str], Clip]) -> Clip:
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
        (lambda model: fuse(model("nano")), "open_clip", "the form open_clip holds no fused model"),
        (
            lambda model: model("nano"),
            "timm",
            "the form timm holds an image tower alone, and this model has a text tower",
        ),
        (
            lambda model: model("nano_swin"),
            "apple",
            "the form apple holds two towers, and this model has no text tower",
        ),
        (lambda model: model("nano_mct"), "open_clip", "the form open_clip has no names for the text tower mct"),
        (
            lambda model: Clip(MODELS["mobileclip2_s3"], model("nano").image, model("nano").text),
            "apple",
            "the form apple has no names for the image tower fastvit_mci3",
        ),
        (_with_bias, "apple", "has no bias in the image projection, and this model's is not zero"),
    ],
)
def test_forms_that_cannot_hold_a_model(
    make: Callable[[Callable[[str], Clip]], Clip], form: str, verdict: str, tmp_path: Path, model: Callable[[str], Clip]
) -> None:
    with pytest.raises(CheckpointError) as caught:
        save(make(model), tmp_path / ("x" if form == "toolkit" else "x.pt"), form)
    assert verdict in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_saved(tmp_path: Path, model: Callable[[str], Clip]) -> None:
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


def test_nothing_is_overwritten_unless_asked(tmp_path: Path, model: Callable[[str], Clip]) -> None:
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
