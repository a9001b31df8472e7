"""Dense models in bundles: every head's outputs, one delegate, the host's part, verification, refusals."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import benchmarks
import export
from export import recipe
from export.bundle import answers_of, read_array
from export.dense import bundle_predictor
from export.dense_views import dense_view
from export.encoder import BundleEncoder
from export.manifest import Bundle
from export.parity import compare_labels, compare_objects, compare_outputs, worst
from export.rewrites import rewrite
from export.runtimes import open_artifact
from export.subjects import at_size
from export.targets import FP16, FP32, TARGETS, output_of
from export.to_executorch import lower_coreml, lower_xnnpack
from mobileclip.config import config_of
from mobileclip.dense import host
from mobileclip.dense.checkpoint import load
from mobileclip.dense.config import DenseConfig
from mobileclip.dense.model import DenseModel, build_head
from mobileclip.dense.predictor import predictor
from mobileclip.dense.samples import Depths, Detected, Segmented
from mobileclip.errors import ArtifactError, BundleError, MobileClipError, UnknownName
from mobileclip.fuse import fuse

PHONE = ("semfpn_phone", "uper_phone", "depth_phone", "onestage")
NAMES = {
    "semfpn_phone": ("labels",),
    "uper_phone": ("labels",),
    "depth_phone": ("depth",),
    "onestage": ("boxes", "scores", "coeffs", "protos"),
    "mask_rcnn_phone": ("boxes", "scores", "labels", "masks"),
}


def picture(height: int = 70, width: int = 90) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 2 % 256, columns * 2 % 256, (rows + columns) * 5 % 256], -1).astype(np.uint8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dense") / "seg"
    return export.export("seeded:nano+semfpn_phone@64", ["onnx", "coreml"], out)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export.export("seeded:nano+onestage@64", ["onnx"], tmp_path_factory.mktemp("dense") / "det")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export.export("seeded:nano+mask_rcnn_phone@64", ["onnx"], tmp_path_factory.mktemp("dense") / "rcnn")


class Steps(nn.Module):
    """The least that is a pyramid, so that lowering a head is not lowering an encoder."""

    channels = (8, 12, 16, 24)

    def __init__(self) -> None:
        super().__init__()
        sides = (3, *self.channels)
        self.steps = nn.ModuleList(
            nn.Conv2d(a, b, k, k) for a, b, k in zip(sides, sides[1:], (4, 2, 2, 2), strict=False)
        )

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        maps = []
        for step in self.steps:
            x = step(x)
            maps.append(x)
        return maps


def small(head: str, size: tuple[int, int] = (64, 64)) -> DenseModel:
    torch.manual_seed(0)
    labels = () if head.startswith("depth") else ("a", "b", "c")
    config = DenseConfig(encoder=config_of("nano"), head=head, size=size, labels=labels)
    encoder = Steps()
    made: nn.Module = build_head(config, encoder.channels).eval()
    return DenseModel(config, encoder, made.deployed()).eval()  # type: ignore[operator]


@pytest.mark.parametrize("target", ["executorch-xnnpack", "executorch-coreml"])
@pytest.mark.parametrize("head", PHONE)
def test_phone_heads_are_one_delegate(head: str, target: str, tmp_path: Path) -> None:
    """And what the delegate gives is right, with the argmax behind it."""
    view, path = dense_view(small(head)), tmp_path / "m.pte"
    changed = rewrite(view, TARGETS[target].rewrites)
    with torch.no_grad():
        found = (lower_xnnpack if "xnnpack" in target else lower_coreml)(changed, path, "apple")  # type: ignore[arg-type]
    assert found.delegates == 1
    outside = {"aten_argmax_default": 1, "dim_order_ops__to_dim_order_copy_default": 1}
    assert dict(found.loose) == (outside if view.wide == "argmax" else {})
    outputs = open_artifact(path, target).run([view.example.numpy()])
    judged = compare_outputs(outputs, view.answer(view.example), [item.as_dict() for item in view.outputs])
    assert all(item.passes(TARGETS[target].gate) for item in judged), judged


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
@pytest.mark.parametrize("head", [*PHONE, "mask_rcnn_phone"])
def test_rewrites_are_exact_on_heads(head: str, size: tuple[int, int]) -> None:
    view = dense_view(small(head, size), "logits_quarter").double()
    x = view.example.double()
    changed = rewrite(view, TARGETS["executorch-xnnpack"].rewrites)
    for after, before in zip(changed.answer(x), view.answer(x), strict=True):  # type: ignore[operator]
        np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("head", NAMES)
def test_outputs_of_every_head(head: str) -> None:
    view = dense_view(small(head, (64, 96)))
    assert tuple(item.name for item in view.outputs) == NAMES[head]
    assert view.inputs[0].shape == (1, 3, 64, 96)
    assert all(min(item.shape) > 0 and item.meaning for item in view.outputs)
    rule = "keep the ratio, at most 64 rows and 96 columns" if view.kind == "detection" else "stretch to 64 rows"
    assert rule in str(view.inputs[0].resize)


def test_outputs_of_segmentation() -> None:
    model = small("semfpn_phone")
    shapes = {name: dense_view(model, name).outputs[0].shape for name in ("logits_quarter", "logits_full")}
    assert shapes == {"logits_quarter": (1, 3, 16, 16), "logits_full": (1, 3, 64, 64)}
    logits, labels = dense_view(model, "logits_quarter"), dense_view(model)
    (best,), (values,) = labels.answer(labels.example), logits.answer(logits.example)
    np.testing.assert_array_equal(best[0, 0], values[0].argmax(0))
    assert best.dtype == np.int32


def test_targets_agree(bundle: Path) -> None:
    for entry in Bundle.open(bundle).manifest["artifacts"]:
        assert entry["gate"]["passed"] is True
        assert entry["parity"]["equal"] >= FP16.equal


def test_manifest_tells_what_an_app_needs(bundle: Path, detector: Path, objects: Path) -> None:
    about = Bundle.open(bundle).manifest
    assert about["model"]["name"] == "nano+semfpn_phone"
    assert DenseConfig.from_dict(about["model"]["config"]) == load("seeded:nano+semfpn_phone@64").config
    assert about["dense"]["input"] == {
        "size": [64, 64],
        "resize": "stretch",
        "interpolation": "bilinear",
        "antialias": True,
    }
    (head,) = about["dense"]["heads"]
    assert (head["task"], head["outputs"], head["classes"]) == ("segmentation", ["labels"], 150)
    words = json.loads((bundle / about["labels"]).read_text())
    assert len(words["labels"]) == len(words["palette"]) == 150
    assert all(0 <= part <= 255 for colour in words["palette"] for part in colour)
    points = Bundle.open(detector).manifest["dense"]
    assert (points["input"]["resize"], points["input"]["pad"]) == ("letterbox", 0)
    assert points["heads"][0]["postprocess"] == {
        "kind": "points",
        "score_threshold": 0.05,
        "top_k": 100,
        "branch": "one",
        "nms_iou": None,
        "candidates": 1000,
    }
    assert points["heads"][0]["category_ids"][-1] == 90
    (found,) = Bundle.open(objects).manifest["dense"]["heads"]
    assert found["postprocess"]["kind"] == "objects"


def test_parity_of_every_output(detector: Path) -> None:
    (entry,) = Bundle.open(detector).manifest["artifacts"]
    parts = entry["parity"]["outputs"]
    assert list(parts) == ["boxes", "scores", "coeffs", "protos"]
    assert entry["parity"]["db"] == min(item["db"] for item in parts.values())
    answer = Bundle.open(detector).manifest["known_answer"]["detection"]
    view = dense_view(load("seeded:nano+onestage@64"))
    for held, made in zip(answers_of(detector, answer), view.answer(view.example), strict=True):
        np.testing.assert_array_equal(held, made)


@pytest.mark.parametrize("target", ["onnx", "coreml"])
def test_a_segmentation_as_a_predictor(bundle: Path, target: str) -> None:
    see = bundle_predictor(bundle, target)
    assert (see.task, len(see.labels), see.category_ids[:2]) == ("segmentation", 150, (0, 1))
    found = see(picture())
    assert isinstance(found, Segmented)
    view = dense_view(load("seeded:nano+semfpn_phone@64"))
    pixels = host.stretch(picture(), (64, 64)).transpose(2, 0, 1)[None].astype(np.float32) / 255
    wanted = host.segmented_labels(view.answer(torch.from_numpy(pixels))[0], (70, 90)).labels
    assert (found.labels == wanted).mean() > 0.97


def test_depth_as_a_predictor_is_the_models(tmp_path: Path) -> None:
    out = export.export("seeded:nano+depth_phone@64", ["onnx"], tmp_path / "out")
    found, wanted = bundle_predictor(out)(picture()), predictor(load("seeded:nano+depth_phone@64"), "fixed")(picture())
    assert isinstance(found, Depths)
    assert isinstance(wanted, Depths)
    np.testing.assert_allclose(found.metres, wanted.metres, atol=1e-4)


def test_detectors_as_predictors(detector: Path, objects: Path) -> None:
    for path, least in ((detector, 0.3), (objects, 0.0)):
        see = bundle_predictor(path, score=least)
        found = see(picture())
        assert isinstance(found, Detected)
        assert found.masks.shape == (len(found.boxes), 70, 90)
        assert set(found.classes) <= set(range(80))
        assert (found.scores > least).all()
    assert len(bundle_predictor(detector, score=0.0)(picture()).boxes) > 0  # type: ignore[union-attr]


def test_bundles_are_verified_on_photos(bundle: Path, detector: Path, photos: Path) -> None:
    report = export.verify(bundle, images=photos, limit=2)
    assert report.passed, report.as_dict()
    assert {(row.inputs, row.output) for row in report.rows} == {(3, "")}
    assert all(row.equal is not None and row.equal >= FP16.equal for row in report.rows)
    report = export.verify(detector, images=photos, limit=2)
    assert report.passed
    assert [row.output for row in report.rows] == ["boxes", "scores", "coeffs", "protos"]
    assert "in training form" in report.reference


def test_another_size_and_statistics(tmp_path: Path) -> None:
    """Mean and std of the encoder are in the graph: a view of pixels 0..1 is the model on normalised ones."""
    model = load("seeded:nano_vit+depth_linear@64")
    view = dense_view(model)
    mean, std = (
        torch.tensor(v).reshape(1, 3, 1, 1)
        for v in (model.config.encoder.preprocess.mean, model.config.encoder.preprocess.std)
    )
    with torch.no_grad():
        np.testing.assert_allclose(view.answer(view.example)[0], model((view.example - mean) / std), rtol=1e-4)
    wider = at_size(load("seeded:nano+semfpn_phone@64"), (64, 96))
    assert dense_view(wider).outputs[0].shape == (1, 1, 16, 24)


def test_labels_are_judged_by_their_share() -> None:
    found = compare_labels(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]))
    assert (found.equal, found.cosine, found.max_error) == (0.75, 0.75, 1.0)
    assert found.db == pytest.approx(10 * np.log10(4))
    assert not found.passes(FP16)
    assert compare_labels(np.zeros(3, np.int32), np.zeros(3, np.int64)).passes(FP32)


def test_objects_are_matched_whatever_their_order() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 0, 0]], np.float32)
    parts = [boxes, np.array([0.9, 0.8, 0.0]), np.array([1, 2, 0]), np.zeros((3, 2, 2))]
    swapped = [part[[1, 0, 2]] for part in parts]
    assert all(item.found == 1 and item.passes(FP32) for item in compare_objects(swapped, parts))
    other = [boxes, parts[1], np.array([1, 3, 0]), parts[3]]
    assert [(item.found, item.passes(FP16)) for item in compare_objects(other, parts)] == [(0.5, False)] * 4
    specs = [{"name": name, "compare": "matched"} for name in ("boxes", "scores", "labels", "masks")]
    assert worst(compare_outputs(other, parts, specs)).found == 0.5


def test_mistakes(bundle: Path, nano_bundle: Path, tmp_path: Path) -> None:
    dense = load("seeded:nano+semfpn_phone@64")
    with pytest.raises(UnknownName, match="unknown output 'argmax': did you mean 'argmax_quarter'"):
        export.export(dense, ["onnx"], tmp_path / "out", output="argmax")
    with pytest.raises(UnknownName, match="unknown output"):
        output_of("labels")
    with pytest.raises(MobileClipError, match="a picture of 60 x 64 cannot be exported: both sides must be multiples"):
        export.export(dense, ["onnx"], tmp_path / "out", size=(60, 64))
    with pytest.raises(MobileClipError, match=r"has its head already: give heads and views to a CLIP"):
        export.export(dense, ["onnx"], tmp_path / "out", heads=[dense])
    with pytest.raises(MobileClipError, match="takes pictures of 64 x 64: a size is chosen for dense models"):
        export.export("seeded:nano", ["onnx"], tmp_path / "out", size=(96, 96))
    with pytest.raises(MobileClipError, match=r"was made for pictures of 64 x 64 and has weights for that size alone"):
        at_size(load("seeded:nano_vit+semfpn_phone@64"), (96, 96))
    with pytest.raises(BundleError, match="holds no dense head: export a dense checkpoint"):
        bundle_predictor(nano_bundle)
    with pytest.raises(BundleError, match="has no head for depth: it has segmentation"):
        bundle_predictor(bundle, task="depth")
    with pytest.raises(BundleError, match="has nothing for executorch-vulkan: it holds onnx"):
        bundle_predictor(bundle, "executorch-vulkan")
    with pytest.raises(ArtifactError, match="no image view"):
        BundleEncoder(bundle)
    with pytest.raises(MobileClipError, match=r"has a dense view \(segmentation\), which the encoder swin-l has not"):
        benchmarks.measure(bundle, against="swin-l", targets=["onnx"])
    assert not list(tmp_path.iterdir())


def test_an_artifact_that_gives_something_else(detector: Path, objects: Path, tmp_path: Path) -> None:
    import shutil

    from export.manifest import sha256_of

    copy = tmp_path / "copy"
    shutil.copytree(detector, copy)
    shutil.copy(objects / "detection.onnx", copy / "detection.onnx")
    content = json.loads((copy / "manifest.json").read_text())
    content["artifacts"][0]["sha256"] = sha256_of(copy / "detection.onnx")
    (copy / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"where its manifest says .* export again"):
        bundle_predictor(copy)(picture())
    content["dense"]["heads"][0]["outputs"] = ["boxes", "nothing"]
    (copy / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match="gives boxes, scores, coeffs, protos, its head boxes, nothing: export again"):
        bundle_predictor(copy)


def test_a_wrong_label_map_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from export import to_onnx

    lower = to_onnx.lower

    def wrong(view: nn.Module, path: Path, preset: str, module: None) -> None:
        view.tower.head.classify.bias.data += torch.randn(150)  # type: ignore[union-attr, operator]
        lower(view, path, preset, module)  # type: ignore[arg-type]

    monkeypatch.setattr(to_onnx, "lower", wrong)
    with pytest.raises(recipe.GateFailed, match=r"does not agree with the model: .* % equal \(gate .* Nothing was wri"):
        export.export("seeded:nano+semfpn_phone@64", ["onnx"], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_known_answer_is_the_models(bundle: Path) -> None:
    answer = Bundle.open(bundle).manifest["known_answer"]["segmentation"]
    x = read_array(bundle, answer["input"])
    model = load("seeded:nano+semfpn_phone@64")
    with torch.no_grad():
        np.testing.assert_array_equal(answers_of(bundle, answer)[0][:, 0], model(torch.from_numpy(x)).argmax(1))
    assert fuse(model) is not model
