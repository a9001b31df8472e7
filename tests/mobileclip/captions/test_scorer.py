"""Scorers: this project's models and open_clip's as one thing, whose rows do not depend on their neighbours."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import mobileclip
from mobileclip.captions.pictures import scorer
from mobileclip.captions.pictures.scorer import Scorer, points_at, scorer_of
from mobileclip.data.decode import Pixels
from mobileclip.errors import CheckpointError, ImageError, MobileClipError, UnknownName
from mobileclip.models import Clip

TEXTS = ["a red wall", "a dog", "", "a photo of a cat beside a car", "zwölf Boxkämpfer", "x" * 700] + [
    f"number {n}" for n in range(15)
]
SMALL = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


def pictures(count: int) -> list[Pixels]:
    generator = np.random.default_rng(0)
    sizes = generator.integers(20, 200, (count, 2))
    return [generator.integers(0, 256, (height, width, 3)).astype(np.uint8) for height, width in sizes]


def squash(folder: Path, mode: str) -> Path:
    """A folder as open_clip's hub has them, with small random weights."""
    folder.mkdir(parents=True)
    pre = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic", "resize_mode": mode}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": SMALL, "preprocess_cfg": pre}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return squash(tmp_path_factory.mktemp("foreign") / "small", "shortest")


@pytest.fixture(scope="module", params=["own", "open_clip"])
def either(request: pytest.FixtureRequest, foreign: Path) -> Scorer:
    return scorer_of("seeded:nano" if request.param == "own" else f"open_clip:local-dir:{foreign}")


def embedded(found: Scorer, pixels: list[Pixels], batch: int = 8) -> Any:
    return found.images(found.squares(pixels), batch)


def test_rows_are_those_of_the_model(nano: Clip) -> None:
    pixels = pictures(5)
    found = scorer_of("seeded:nano")
    transform = mobileclip.preprocess(nano)
    with torch.inference_mode():
        images = nano.encode_image(torch.stack([transform(Image.fromarray(one)) for one in pixels]), normalize=True)
        texts = nano.encode_text(mobileclip.tokenize(TEXTS), normalize=True)
    assert np.abs(embedded(found, pixels) - images.numpy()).max() < 1e-4
    assert np.abs(found.texts(TEXTS, 8) - texts.numpy()).max() < 1e-4


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
def test_rows_are_those_of_open_clip(tmp_path: Path, mode: str) -> None:
    folder = squash(tmp_path / "other", mode)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")
    found = scorer_of(f"open_clip:local-dir:{folder}")
    pixels = pictures(5)
    with torch.inference_mode():
        images = model.eval().encode_image(torch.stack([transform(Image.fromarray(p)) for p in pixels]), normalize=True)
        texts = model.encode_text(tokens(TEXTS), normalize=True)
    assert found.dim == 48
    assert len(found.weights) > 64
    assert np.abs(embedded(found, pixels) - images.numpy()).max() < 1e-5
    assert np.abs(found.texts(TEXTS, 8) - texts.numpy()).max() < 1e-5


def test_a_file_of_weights_by_name(tmp_path: Path, foreign: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny-test.json").write_text(json.dumps(SMALL))
    open_clip.add_model_config(tmp_path / "configs")
    name = f"open_clip:tiny-test:{foreign / 'open_clip_model.safetensors'}"
    assert points_at(name) == mobileclip.checkpoint_files.sha256_of(foreign / "open_clip_model.safetensors")
    assert (scorer_of(name).texts(TEXTS, 8) == scorer_of(f"open_clip:local-dir:{foreign}").texts(TEXTS, 8)).all()


def test_rows_do_not_depend_on_their_neighbours(either: Scorer) -> None:
    """The same float16 bytes whole, halved, alone, and in any place of a pass."""
    pixels = pictures(21)
    squares = either.squares(pixels)
    images, texts = (rows.astype(np.float16) for rows in (either.images(squares, 8), either.texts(TEXTS, 8)))
    for first, last in ((0, 10), (10, 21), (3, 4), (20, 21), (0, 1)):
        assert (either.images(squares[first:last], 8).astype(np.float16) == images[first:last]).all()
        assert (either.texts(TEXTS[first:last], 8).astype(np.float16) == texts[first:last]).all()
    with_holes = [None if place % 3 == 1 else square for place, square in enumerate(squares)]
    rows = either.images(with_holes, 8).astype(np.float16)
    assert (np.isnan(rows).all(axis=1) == [one is None for one in with_holes]).all()
    assert (rows[::3] == images[::3]).all()


def test_memory_that_runs_out_divides_a_pass(either: Scorer) -> None:
    ids = either.tokens(TEXTS[:8]).numpy()
    whole, sizes = either.texts(TEXTS[:8], 8), []

    def run(block: Any) -> Any:
        sizes.append(len(block))
        if len(block) > 3:
            raise torch.OutOfMemoryError("none left")
        return either._ids(block)

    assert np.abs(scorer._whole(run, ids, 8) - whole).max() < 1e-5
    assert sizes == [8, 4, 2, 2, 4, 2, 2]
    with pytest.raises(MemoryError):
        scorer._whole(lambda block: (_ for _ in ()).throw(MemoryError), ids, 8)


def test_a_picture_far_too_long_has_no_square(either: Scorer) -> None:
    thin = np.zeros((1, 200_000, 3), np.uint8)
    (found,) = either.squares([thin])
    assert isinstance(found, ImageError)
    assert "the picture is 200000 x 1: a side may be at most" in str(found)


def test_loaded_once_unless_the_file_has_changed(tmp_path: Path, nano: Clip) -> None:
    assert scorer_of("seeded:nano") is scorer_of("seeded:nano")
    mobileclip.save(nano, tmp_path / "model")
    found = scorer_of(str(tmp_path / "model"))
    assert scorer_of(str(tmp_path / "model")) is found
    mobileclip.save(mobileclip.load("seeded:nano:1"), tmp_path / "model", force=True)
    assert scorer_of(str(tmp_path / "model")).weights != found.weights


def test_open_clip_tokens_are_made_by_ours_where_they_are_the_same() -> None:
    theirs = open_clip.get_tokenizer("ViT-B-32")
    ours = scorer._tokens(theirs)
    assert ours is not theirs
    assert torch.equal(ours(TEXTS), theirs(TEXTS))
    other = open_clip.tokenizer.SimpleTokenizer(clean="whitespace")
    assert scorer._tokens(other) is other


def test_what_a_name_points_at(tmp_path: Path, nano: Clip) -> None:
    mobileclip.save(nano, tmp_path / "model")
    before = points_at(str(tmp_path / "model"))
    assert points_at("seeded:nano") == points_at("MobileCLIP-S2:datacompdr") == ""
    (tmp_path / "model" / "log.txt").write_text("says nothing of the weights")
    (tmp_path / "model" / "training.safetensors").write_bytes(b"nor does the optimiser's state")
    assert points_at(str(tmp_path / "model")) == before
    other = mobileclip.load("seeded:nano:1")
    mobileclip.save(other, tmp_path / "model", force=True)
    assert points_at(str(tmp_path / "model")) != before


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        ("/nowhere/model", CheckpointError, "points at '/nowhere/model', which is not there: give a file or folder"),
        ("open_clip:ViT-B-33:x.pt", UnknownName, "unknown open_clip model 'ViT-B-33': did you mean"),
        ("open_clip:ViT-B-32", CheckpointError, "has no weights: write open_clip:ViT-B-32:FILE or open_clip:ViT-B-32:"),
        ("open_clip:ViT-B-32:none.pt", CheckpointError, "points at 'none.pt', which is not there"),
        ("seeded:nanno", UnknownName, "unknown model 'nanno': did you mean 'nano'?"),
    ],
)
def test_names_that_say_nothing(model: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        points_at(model)


def test_weights_that_do_not_fit(tmp_path: Path, foreign: Path) -> None:
    weights = foreign / "open_clip_model.safetensors"
    with pytest.raises(
        CheckpointError, match=r"cannot be loaded \(.*\): give weights that fit, as a file on this disk"
    ):
        scorer_of(f"open_clip:ViT-S-32-alt:{weights}")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "open_clip_config.json").write_text((foreign / "open_clip_config.json").read_text())
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        scorer_of(f"open_clip:local-dir:{tmp_path / 'bare'}")
    with pytest.raises(CheckpointError, match="the scorer 'seeded:nano_swin' has no text tower"):
        scorer_of("seeded:nano_swin")


def test_options_that_stages_share() -> None:
    with pytest.raises(UnknownName, match="unknown device 'gpu'"):
        scorer.check("gpu", False, 1, "embed")
    with pytest.raises(MobileClipError, match=r"embed.batch is 0: at least 1 row of a pass is needed"):
        scorer.check("cpu", False, 0, "embed")
    with pytest.raises(MobileClipError, match=r"embed.bf16 is not for the device mps"):
        scorer.check("mps", True, 1, "embed")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(MobileClipError, match="the device cuda is not there: take device"):
        scorer_of("seeded:nano", "cuda")


def test_bf16_is_near() -> None:
    rough, exact = scorer_of("seeded:nano", bf16=True), scorer_of("seeded:nano")
    pixels = pictures(4)
    cosines = (embedded(rough, pixels) * embedded(exact, pixels)).sum(axis=1)
    assert rough.bf16
    assert 0.99 < cosines.min() < 0.9999999
