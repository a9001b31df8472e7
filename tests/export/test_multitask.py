"""One pass of the encoder for the embedding, a segmentation and depth: equal to each alone, and only if it is one."""

from pathlib import Path

import numpy as np
import pytest
import torch

import export
import mobileclip
from export.bundle import answers_of
from export.dense import bundle_predictor
from export.dense_views import dense_view
from export.manifest import Bundle
from export.runtimes import open_artifact
from mobileclip.checkpoint import load
from mobileclip.dense import checkpoint as dense
from mobileclip.dense.config import DenseConfig
from mobileclip.dense.model import DenseModel
from mobileclip.dense.samples import Depths, Segmented
from mobileclip.errors import BundleError, MobileClipError
from mobileclip.models import Clip

SIZE = (64, 96)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("multi") / "clip"
    mobileclip.save(load("seeded:nano"), folder)
    return folder


def head(clip: Path, name: str, labels: tuple[str, ...], size: tuple[int, int] = SIZE) -> DenseModel:
    """A head as finetuning with a frozen encoder leaves it."""
    torch.manual_seed(len(name))
    config = DenseConfig(encoder=load(clip).config, head=name, size=size, labels=labels)
    model = dense.start(config, clip).eval()
    for value in model.head.parameters():
        torch.nn.init.normal_(value, std=0.2)
    return model


@pytest.fixture(scope="module")
def heads(clip: Path) -> list[Path]:
    folders = []
    for name, labels in (("semfpn_phone", tuple("abcde")), ("depth_phone", ())):
        folders.append(clip.parent / name)
        dense.save(head(clip, name, labels), folders[-1])
    return folders


@pytest.fixture(scope="module")
def bundle(clip: Path, heads: list[Path]) -> Path:
    return export.export(clip, ["onnx"], clip.parent / "bundle", heads=heads, output="logits_quarter", views=())


def test_each_output_is_that_of_its_own_export(bundle: Path, clip: Path, heads: list[Path], nano: Clip) -> None:
    about = Bundle.open(bundle).manifest
    assert {entry["view"] for entry in about["artifacts"]} == {"multitask"}
    entry = next(entry for entry in about["artifacts"] if entry["view"] == "multitask")
    assert [item["name"] for item in entry["outputs"]] == ["final_emb_1", "logits", "depth"]
    x = np.random.default_rng(0).uniform(0, 1, (1, 3, *SIZE)).astype(np.float32)
    embedding, *others = open_artifact(bundle / entry["file"]).run([x])
    with torch.no_grad():
        np.testing.assert_allclose(embedding, nano.image(torch.from_numpy(x)), rtol=1e-4, atol=1e-5)
    alone = export.export(heads[0], ["onnx"], clip.parent / "alone", output="logits_quarter")
    wanted = [open_artifact(alone / "segmentation.onnx").run([x])[0]]
    wanted += dense_view(dense.load(heads[1])).answer(torch.from_numpy(x))
    for made, expected in zip(others, wanted, strict=True):
        np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)
        assert float(np.std(expected)) > 1e-3


def test_manifest_and_predictors_of_each_task(bundle: Path) -> None:
    about = Bundle.open(bundle).manifest
    assert [(item["task"], item["outputs"]) for item in about["dense"]["heads"]] == [
        ("segmentation", ["logits"]),
        ("depth", ["depth"]),
    ]
    assert all(item["checkpoint"]["sha256"] and item["config"]["size"] == [64, 96] for item in about["dense"]["heads"])
    assert len(answers_of(bundle, about["known_answer"]["multitask"])) == 3
    pixels = np.full((50, 40, 3), 90, np.uint8)
    seen = bundle_predictor(bundle, task="segmentation")(pixels)
    assert isinstance(seen, Segmented)
    assert seen.labels.shape == (50, 40)
    assert isinstance(bundle_predictor(bundle, task="depth")(pixels), Depths)
    with pytest.raises(MobileClipError, match="has heads for segmentation, depth: name one task of them"):
        bundle_predictor(bundle)


def test_verification_loads_all_checkpoints_again(bundle: Path, heads: list[Path], photos: Path) -> None:
    report = export.verify(bundle, images=photos, limit=1)
    assert report.passed
    assert [row.output for row in report.rows if row.file == "multitask.onnx"] == ["final_emb_1", "logits", "depth"]
    with pytest.raises(BundleError, match="is not the checkpoint that"):
        export.verify(bundle, heads=[heads[0], "seeded:nano+depth_phone@64"])


def test_only_one_frozen_encoder(clip: Path, tmp_path: Path) -> None:
    base = load(clip)
    trained = head(clip, "depth_phone", ())
    next(iter(trained.encoder.parameters())).data += 1e-6
    seg = head(clip, "semfpn_phone", ("a", "b"))
    cases: list[tuple[object, list[object], str]] = [
        (base, [trained], r"was not trained on the frozen encoder of this nano \(1 of \d+ tensors differ, first stem"),
        (base, [head(clip, "onestage", ("a",))], "is fed a letterboxed picture and the other heads a stretched one"),
        (base, [seg, head(clip, "depth_phone", (), (64, 64))], "name one size for both with --size"),
        (base, [seg, seg], "two heads of one task were given"),
        (base, [base], "is a CLIP and no head: give dense models as heads"),
        (load("seeded:nano_vit"), [seg], "cannot share its pass with heads"),
    ]
    for model, given, text in cases:
        with pytest.raises(MobileClipError, match=text):
            export.export(model, ["onnx"], tmp_path / "out", heads=given)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
