"""A checkpoint becomes a bundle: every target, its manifest, its refusals; nothing half-written."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import export
from export import manifest, recipe
from export.depthwise import SplitDepthwise, split_depthwise, split_multiplier
from export.manifest import Bundle
from export.rewrites import REWRITES, rewrite
from export.targets import TARGETS
from export.views import make_views
from mobileclip.checkpoint import load, save
from mobileclip.errors import BundleError, GateFailed, OutputError, UnknownName
from mobileclip.fuse import fuse
from mobileclip.models import Clip, create


def changed(bundle: Path, tmp_path: Path, **values: object) -> Path:
    """A copy of a bundle with other values in its manifest."""
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    content = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(content | values))
    return copy


def test_all_targets(nano_bundle: Path) -> None:
    entries = Bundle.open(nano_bundle).manifest["artifacts"]
    assert {(entry["view"], entry["target"]) for entry in entries} == {
        (v, t) for v in ("image", "text") for t in TARGETS
    }
    for entry in entries:
        if entry["target"].startswith("executorch"):
            assert entry["delegates"] == 1, entry["file"]
            assert not [item for item in entry["loose"] if item["compute"]], entry["loose"]
            assert all(item["reason"] for item in entry["loose"])
        vulkan = entry["target"] == "executorch-vulkan"
        assert entry["gate"]["passed"] is (None if vulkan else True), entry
        assert (entry["parity"] is None) is vulkan
    assert not list(nano_bundle.parent.glob(".*")), "something half-made was left"


def test_manifest_tells_what_an_app_needs(nano_bundle: Path) -> None:
    about = Bundle.open(nano_bundle).manifest
    assert about["model"]["checkpoint"]["source"] == "seeded:nano:0"
    assert about["model"]["checkpoint"]["research_only"] is False
    assert about["model"]["logit_scale"] == pytest.approx(1 / 0.07, rel=1e-4)
    assert about["tokenizer"]["context"] == 77
    files = {entry["file"]: entry for entry in about["artifacts"]}
    assert files["image.onnx"]["inputs"][0] == {
        "name": "image",
        "kind": "image",
        "shape": [1, 3, 64, 64],
        "dtype": "float32",
        "colour": "RGB",
        "scale": pytest.approx(1 / 255),
        "resize": "shortest side to 64, bilinear, antialias",
        "crop": "centre",
    }
    assert files["image.mlpackage"]["inputs"][0]["dtype"] == "image"
    assert files["text.mlpackage"]["inputs"][0]["dtype"] == "int32"
    assert files["image.onnx"]["outputs"][0]["normalised"] is False
    labels = json.loads((nano_bundle / about["labels"]).read_text())
    assert "dog" in labels["labels"]
    assert "MIT" in (nano_bundle / "LICENSES").read_text()


def test_known_answer_is_the_models(nano_bundle: Path, nano: Clip) -> None:
    from export.bundle import read_array

    answers = Bundle.open(nano_bundle).manifest["known_answer"]
    x, y = (read_array(nano_bundle, answers["image"][side]) for side in ("input", "output"))
    picture = np.asarray(Image.open(nano_bundle / answers["image"]["picture"]))
    np.testing.assert_allclose(picture.transpose(2, 0, 1)[None] / 255, x, atol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(nano.encode_image(torch.from_numpy(x)).numpy(), y, rtol=1e-4, atol=1e-5)


def test_interfaces_of_the_files(nano_bundle: Path) -> None:
    """The names in the files themselves, read by their own runtimes."""
    import onnxruntime

    from export.mil import Program

    session = onnxruntime.InferenceSession(nano_bundle / "image.onnx")
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [("image", "tensor(float)", [1, 3, 64, 64])]
    assert [o.name for o in session.get_outputs()] == ["final_emb_1"]
    program = Program.load(nano_bundle / "image.mlpackage")
    feature = program.inputs[0]
    assert (feature.name, feature.kind, feature.colour) == ("image", "image", "RGB")
    assert feature.scale == pytest.approx(1 / 255, rel=1e-3)
    assert program.max_rank <= 4
    assert [(o.name, o.dtype) for o in program.outputs] == [("final_emb_1", "float32")]
    text = Program.load(nano_bundle / "text.mlpackage")
    assert [(i.name, i.dtype, i.shape) for i in text.inputs] == [("text", "int32", (1, 77))]


@pytest.mark.parametrize("preset", ["transformers.js", "open_clip"])
def test_other_presets_in_onnx(preset: str, tmp_path: Path) -> None:
    import onnxruntime

    out = export.export("seeded:nano", ["onnx"], tmp_path / "out", preset=preset)
    session = onnxruntime.InferenceSession(out / "text.onnx")
    assert session.get_inputs()[0].type == "tensor(int64)"
    entry = next(e for e in Bundle.open(out).manifest["artifacts"] if e["view"] == "text")
    assert entry["inputs"][0]["name"] == session.get_inputs()[0].name
    assert entry["outputs"][0]["normalised"] is (preset == "open_clip")


@pytest.mark.parametrize("name", ["nano_mct", "nano_vit", "nano_swin"])
def test_other_towers_on_xnnpack(name: str, tmp_path: Path) -> None:
    out = export.export(f"seeded:{name}", ["executorch-xnnpack"], tmp_path / "out")
    for entry in Bundle.open(out).manifest["artifacts"]:
        assert entry["delegates"] == 1, entry
        assert not [item for item in entry["loose"] if item["compute"]]
        assert entry["gate"]["passed"] is True


def test_licence_goes_into_the_manifest(tmp_path: Path) -> None:
    model = create("nano", seed=0)
    torch.nn.init.zeros_(model.image.head.fc.bias)  # Apple's form has no such bias
    save(model, tmp_path / "mobileclip_nano.pt", form="apple")
    out = export.export(tmp_path / "mobileclip_nano.pt", ["onnx"], tmp_path / "out")
    checkpoint = Bundle.open(out).manifest["model"]["checkpoint"]
    assert checkpoint["form"] == "apple"
    assert checkpoint["research_only"] is True
    assert "research only" in (out / "LICENSES").read_text()


def test_existing_output_is_kept(nano_bundle: Path) -> None:
    before = manifest.sha256_of(nano_bundle)
    with pytest.raises(OutputError, match="exists already: choose another folder, or pass --force"):
        export.export("seeded:nano", ["onnx"], nano_bundle)
    assert manifest.sha256_of(nano_bundle) == before


def test_another_model_in_the_place_of_one(tmp_path: Path) -> None:
    for seed in (0, 1):
        out = export.export(f"seeded:nano:{seed}", ["onnx"], tmp_path / "out", views=["image"], force=True)
        assert export.verify(out).passed


def test_unwritable_output(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/out cannot be written .* choose another folder"):
        export.export("seeded:nano", ["onnx"], tmp_path / "file" / "out")


def test_unknown_names_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown target 'onxx': did you mean 'onnx'"):
        export.export("seeded:nano", ["onxx"], tmp_path / "out")
    with pytest.raises(UnknownName, match="unknown preset 'apples': did you mean 'apple'"):
        export.export("seeded:nano", ["onnx"], tmp_path / "out", preset="apples")
    with pytest.raises(UnknownName, match="unknown rewrite 'split': did you mean 'split-"):
        export.export("seeded:nano", ["onnx"], tmp_path / "out", without_rewrites=["split"])
    assert not list(tmp_path.iterdir())


def test_interrupted_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made before an interruption is not made again; nothing is at the output until all of it is."""
    made: list[str] = []
    make = recipe.make

    def interrupted(job: recipe.Job, partial: Path) -> dict[str, object]:
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(job.file)
        return make(job, partial)

    monkeypatch.setattr(recipe, "make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export.export("seeded:nano", ["onnx"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    finished: list[str] = []
    monkeypatch.setattr(recipe, "make", lambda job, partial: (finished.append(job.file), make(job, partial))[1])
    out = export.export("seeded:nano", ["onnx"], tmp_path / "out")
    assert finished == [file for file in ("image.onnx", "text.onnx") if file not in made]
    Bundle.open(out)
    assert sorted(os.listdir(tmp_path)) == ["out"]


def test_a_wrong_artifact_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A converter that goes wrong is caught by the comparison, here by exporting another view than the model's."""
    from export import to_onnx

    lower = to_onnx.lower

    def wrong(view: torch.nn.Module, path: Path, preset: str, module: None) -> None:
        view.tower.head.weight.data += 0.01
        lower(view, path, preset, module)

    monkeypatch.setattr(to_onnx, "lower", wrong)
    with pytest.raises(GateFailed, match=r"image.onnx does not agree with the model: .* Nothing was written"):
        export.export("seeded:nano", ["onnx"], tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["nano", "mci2"])
@torch.no_grad()
def test_rewrites_are_exact(name: str) -> None:
    view = make_views(fuse(create(name, seed=1).double()))["image"]
    x = view.example.double()
    got, want = rewrite(view, REWRITES)(x), view(x)
    assert float((got - want).norm() / want.norm()) < 1e-12
    kernels = [m for m in rewrite(view, REWRITES).modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1]
    assert all(m.weight[0, 0].numel() <= 25 for m in kernels), "XNNPACK has no kernel for more than 25 taps"
    assert all(m.out_channels == m.in_channels for m in kernels)


@pytest.mark.parametrize(("size", "stride"), [(7, 1), (8, 1), (13, 1), (16, 2), (9, 2), (3, 1)])
@torch.no_grad()
def test_split_depthwise(size: int, stride: int) -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(6, 6, 7, stride, 3, groups=6).double()
    split = split_depthwise(conv)
    assert isinstance(split, SplitDepthwise)
    x = torch.randn(2, 6, size, size + 4, dtype=torch.float64)
    torch.testing.assert_close(split(x), conv(x), rtol=1e-12, atol=1e-12)


def test_depthwise_rewrites_leave_the_rest() -> None:
    for conv in (
        torch.nn.Conv2d(6, 6, 3, 1, 1, groups=6),
        torch.nn.Conv2d(6, 6, 7, 1, 3),
        torch.nn.Conv2d(6, 6, 7, groups=6),
    ):
        assert split_depthwise(conv) is None
        assert split_multiplier(conv) is None


@pytest.mark.parametrize(
    ("break_it", "text"),
    [
        (lambda b: (b / "manifest.json").unlink(), "is no bundle: it has no manifest.json"),
        (lambda b: (b / "manifest.json").write_text("{"), "is not JSON"),
        (lambda b: (b / "manifest.json").write_text("[]"), "is of schema version None, this version reads 1"),
        (lambda b: (b / "image.onnx").unlink(), "is incomplete: image.onnx is missing"),
        (lambda b: (b / "image.onnx").write_bytes(b"x"), "image.onnx was changed after export"),
        (lambda b: (b / "labels.json").write_text("{}"), "labels.json was changed after export"),
        (lambda b: (b / "manifest.json").write_text(" " * (9 << 20)), "is larger than 8 MB"),
    ],
)
def test_broken_bundles(nano_bundle: Path, tmp_path: Path, break_it: object, text: str) -> None:
    copy = changed(nano_bundle, tmp_path)
    break_it(copy)  # type: ignore[operator]
    with pytest.raises(BundleError, match=text):
        Bundle.open(copy)


def test_bundle_of_another_version(nano_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is of schema version 2, this version reads 1"):
        Bundle.open(changed(nano_bundle, tmp_path, schema=2))


def test_bundle_that_breaks_the_schema(nano_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="breaks the schema at preset"):
        Bundle.open(changed(nano_bundle, tmp_path, preset=7))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b"])
def test_bundle_that_points_outside(nano_bundle: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="which lies outside of it; do not use this bundle"):
        Bundle.open(changed(nano_bundle, tmp_path, files={name: "0" * 64}))


def test_bundle_with_a_link_to_outside(nano_bundle: Path, tmp_path: Path) -> None:
    copy = changed(nano_bundle, tmp_path)
    (copy / "labels.json").unlink()
    (copy / "labels.json").symlink_to("/etc/hostname")
    with pytest.raises(BundleError, match="lies outside of it"):
        Bundle.open(copy)


def test_export_of_a_model_in_memory(tmp_path: Path) -> None:
    out = export.export(load("seeded:nano_swin"), ["onnx"], tmp_path / "out")
    assert [entry["view"] for entry in Bundle.open(out).manifest["artifacts"]] == ["image"]
