"""The dense twin: features of each pixel whose mean is the image embedding, exactly, in torch and in artifacts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import export
from export.dense_views import twin_view
from export.manifest import Bundle
from export.rewrites import REWRITES, rewrite
from export.runtimes import open_artifact
from mobileclip import cli
from mobileclip.checkpoint import load
from mobileclip.dense.zero_shot import zero_shot_predictor
from mobileclip.errors import MobileClipError
from mobileclip.fuse import fuse
from mobileclip.models import Clip
from mobileclip.models.twin import twin_of


@pytest.mark.parametrize("name", ["nano", "nano_mct", "nano_swin"])
@torch.no_grad()
def test_mean_of_the_features_is_the_embedding(name: str) -> None:
    model = load(f"seeded:{name}")
    x = torch.rand(2, 3, model.config.preprocess.size, model.config.preprocess.size)
    for form in (model, fuse(model)):
        assert isinstance(form, Clip)
        features, embedding = twin_of(form.image)(x), form.image(x)
        assert features.shape[:2] == embedding.shape
        assert features.shape[2] > 1
        assert float(features.std((2, 3)).mean()) > 1e-3, "every pixel says the same"
        error = (features.mean((2, 3)) - embedding).norm() / embedding.norm()
        assert float(error) < 1e-6


@torch.no_grad()
def test_any_size_of_an_mci() -> None:
    model = load("seeded:nano")
    view = twin_view(fuse(model), (96, 160))  # type: ignore[arg-type]
    assert view.outputs[0].shape == (1, 32, 3, 5)
    (features,) = view.answer(view.example)
    np.testing.assert_allclose(features.mean((2, 3)), model.image(view.example), rtol=1e-5, atol=1e-6)
    (changed,) = rewrite(view, REWRITES).answer(view.example)  # type: ignore[operator]
    np.testing.assert_allclose(changed, features, rtol=1e-4, atol=1e-5)


def test_artifacts(tmp_path: Path) -> None:
    out = export.export("seeded:nano", ["onnx", "executorch-xnnpack"], tmp_path / "out", views=["dense"])
    about = Bundle.open(out).manifest
    assert [entry["view"] for entry in about["artifacts"]] == ["dense", "dense"]
    assert about["dense"]["heads"] == []
    model = load("seeded:nano")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        embedding = model.image(x).numpy()
    for entry in about["artifacts"]:
        assert entry["delegates"] in (1, None)
        assert not entry["loose"]
        (features,) = open_artifact(out / entry["file"]).run([x.numpy()])
        error = np.linalg.norm(features.mean((2, 3)) - embedding) / np.linalg.norm(embedding)
        assert error < 1e-6
    report = export.verify(out)
    assert report.passed


def test_zero_shot_segmentation_is_the_nearest_text() -> None:
    """The class whose text is that pixel's own features wins there."""
    model = load("seeded:nano")
    labels = ("sky", "road", "tree", "cat")
    see = zero_shot_predictor(model, labels, short=128, centre=True)
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    found = see(pixels)
    assert found.labels.shape == (96, 128)
    assert len(set(found.labels.ravel().tolist())) > 1
    assert (see.task, see.labels, see.category_ids) == ("segmentation", labels, (0, 1, 2, 3))
    swin = zero_shot_predictor(load("seeded:nano"), labels, ("a {}.", "the {}"), name="x")
    assert swin.name == "x"
    assert swin(pixels).labels.max() < 4


def test_texts_are_measured_on_a_dense_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`mobileclip evaluate CLIP --dense SET --templates FILE`"""
    generator = np.random.default_rng(0)
    for kind, ending in (("images", "jpg"), ("annotations", "png")):
        (tmp_path / kind / "validation").mkdir(parents=True)
        for index in range(2):
            shape = (48, 64, 3) if kind == "images" else (48, 64)
            pixels = generator.integers(0, 151, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / "validation" / f"ADE_val_{index:08d}.{ending}")
    (tmp_path / "templates.txt").write_text("a photo of the {}.\n")
    args = ["--dense", str(tmp_path), "--templates", str(tmp_path / "templates.txt"), "--json"]
    assert cli.main(["evaluate", "seeded:nano", *args]) == 0
    (report,) = json.loads(capsys.readouterr().out)["results"]
    assert (report["subject"], report["task"], report["n"]) == ("seeded:nano, by texts", "segmentation", 2)
    assert 0 <= report["figures"]["mIoU"] < 0.05


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(MobileClipError, match="is pooled by its class token, so no features of its pixels average"):
        export.export("seeded:nano_vit", ["onnx"], tmp_path / "out", views=["dense"])
    with pytest.raises(MobileClipError, match="takes pictures of 64 x 64 alone: leave the size out"):
        twin_view(load("seeded:nano_swin"), (96, 96))
    with pytest.raises(MobileClipError, match="a CLIP has no depth view: choose image, text or dense"):
        export.export("seeded:nano", ["onnx"], tmp_path / "out", views=["depth"])
    with pytest.raises(MobileClipError, match="0 classes were given: 1 to 255 are allowed"):
        zero_shot_predictor(load("seeded:nano"), ())
    with pytest.raises(MobileClipError, match="has no text tower, so classes cannot be given by their names"):
        zero_shot_predictor(load("seeded:nano_swin"), ("a",))
    assert not list(tmp_path.iterdir())
