"""Verification: real photos, real runtimes; a changed artifact fails; any Core ML package can be compared."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import export
from export import manifest
from export.manifest import Bundle
from export.runtimes import NotHere, open_artifact
from export.verify import verify_package
from mobileclip.errors import ArtifactError, BundleError, MobileClipError
from mobileclip.models import create


def test_bundle_on_the_known_answer(nano_bundle: Path) -> None:
    report = export.verify(nano_bundle)
    assert report.passed
    rows = {row.file: row for row in report.rows}
    assert len(rows) == 10
    assert rows["image.onnx"].runtime.startswith("onnxruntime")
    assert rows["image.xnnpack.pte"].runtime.startswith("executorch")
    assert rows["image.mlpackage"].runtime == "Core ML interpreter, fp16"
    assert rows["image.coreml.pte"].runtime == "Core ML interpreter, fp16"
    assert rows["image.vulkan.pte"].passed is None
    assert "needs a Vulkan device" in rows["image.vulkan.pte"].note
    assert rows["image.mlpackage"].largest is not None
    assert rows["image.mlpackage"].largest < 65504
    assert json.loads(json.dumps(report.as_dict()))["passed"] is True


def test_bundle_on_photos_and_captions(nano_bundle: Path, photos: Path, tmp_path: Path) -> None:
    captions = tmp_path / "captions.txt"
    captions.write_text("a cat on a mat\n\nzwei Hunde 🐕🐕\n" + "word " * 200)
    report = export.verify(nano_bundle, images=photos, text=captions, limit=3)
    assert report.passed
    assert {row.inputs for row in report.rows if row.passed} == {4}
    assert "in torch, in training form" in report.reference


def test_wrong_weights_fail_the_gate(nano_bundle: Path, tmp_path: Path) -> None:
    """An artifact of another model under the right name and with the right hash does not pass."""
    other = export.export("seeded:nano:1", ["onnx"], tmp_path / "other")
    copy = tmp_path / "copy"
    shutil.copytree(nano_bundle, copy)
    shutil.copy(other / "image.onnx", copy / "image.onnx")
    content = json.loads((copy / "manifest.json").read_text())
    for entry in content["artifacts"]:
        entry["sha256"] = manifest.sha256_of(copy / entry["file"])
    (copy / "manifest.json").write_text(json.dumps(content))
    report = export.verify(copy)
    assert not report.passed
    assert [row.file for row in report.rows if row.passed is False] == ["image.onnx"]


def test_another_checkpoint_is_refused(nano_bundle: Path, tmp_path: Path) -> None:
    from mobileclip.checkpoint import save

    path = save(create("nano", seed=1), tmp_path / "a")
    out = export.export(path, ["onnx"], tmp_path / "out")
    save(create("nano", seed=2), path, force=True)
    with pytest.raises(BundleError, match=r"is not the checkpoint that .*out was made from"):
        export.verify(out)
    shutil.rmtree(path)
    assert export.verify(out).reference == "the known answer in the bundle"
    with pytest.raises(BundleError, match="Name it with --checkpoint"):
        export.verify(out, images=tmp_path)


def test_text_file_without_captions(nano_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "t").write_text("\n \n")
    with pytest.raises(MobileClipError, match="holds no caption: put one a line"):
        export.verify(nano_bundle, text=tmp_path / "t")
    (tmp_path / "t").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(MobileClipError, match="cannot be read as UTF-8 text"):
        export.verify(nano_bundle, text=tmp_path / "t")


def test_package_against_onnx(nano_bundle: Path, photos: Path) -> None:
    for images in (None, photos):
        report = verify_package(
            nano_bundle / "image.mlpackage", against=nano_bundle / "image.onnx", images=images, limit=2
        )
        assert report.passed
        assert report.rows[0].inputs == (1 if images is None else 2)
    assert verify_package(nano_bundle / "text.mlpackage", against=nano_bundle / "text.xnnpack.pte").passed
    assert report.audit["image.mlpackage"][0].largest > 1


def test_package_against_saved_arrays(nano_bundle: Path, tmp_path: Path) -> None:
    about = Bundle.open(nano_bundle).manifest["known_answer"]["text"]
    from export.bundle import read_array

    np.savez(tmp_path / "in.npz", text=read_array(nano_bundle, about["input"]))
    np.save(tmp_path / "out.npy", read_array(nano_bundle, about["output"]))
    package = nano_bundle / "text.mlpackage"
    assert verify_package(package, inputs=tmp_path / "in.npz", outputs=tmp_path / "out.npy").passed
    np.save(tmp_path / "out.npy", read_array(nano_bundle, about["output"])[:, ::-1])
    assert not verify_package(package, inputs=tmp_path / "in.npz", outputs=tmp_path / "out.npy").passed


def test_overflow_is_found(tmp_path: Path) -> None:
    """A layer whose output leaves fp16's range fails although fp32 runtimes are content with it."""
    import coremltools as ct

    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)).eval()
    torch.nn.init.constant_(model[0].weight, 3e4)
    program = torch.export.export(model, (torch.ones(1, 8),)).run_decompositions({})
    for precision in (ct.precision.FLOAT16, ct.precision.FLOAT32):
        package = ct.convert(
            program,
            minimum_deployment_target=ct.target.iOS16,
            compute_precision=precision,
            skip_model_load=True,
        )
        package.save(str(tmp_path / f"{precision.name}.mlpackage"))
    np.save(tmp_path / "in.npy", np.ones((1, 8), np.float32))
    with torch.no_grad():
        np.save(tmp_path / "out.npy", model(torch.ones(1, 8)).numpy())
    report = verify_package(tmp_path / "FLOAT16.mlpackage", inputs=tmp_path / "in.npy", outputs=tmp_path / "out.npy")
    assert not report.passed
    assert report.rows[0].overflows


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "nothing to compare image.mlpackage with: give either --against MODEL, or --inputs and --outputs"),
        ({"outputs": "missing.npy"}, "--outputs needs the --inputs that they belong to"),
        ({"inputs": "missing.npy", "outputs": "x.npy"}, "missing.npy cannot be read: give a .npy"),
        ({"against": "missing.onnx"}, "missing.onnx does not exist"),
    ],
)
def test_package_mistakes(nano_bundle: Path, options: dict[str, str], text: str) -> None:
    with pytest.raises(MobileClipError, match=text):
        verify_package(nano_bundle / "image.mlpackage", **options)  # type: ignore[arg-type]


def test_inputs_that_do_not_fit(nano_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 76), np.int32))
    with pytest.raises(ArtifactError, match=r"input 'text' takes \[1, 77\], \[1, 76\] was given"):
        verify_package(nano_bundle / "text.mlpackage", inputs=tmp_path / "x.npy", outputs=tmp_path / "x.npy")
    with pytest.raises(ArtifactError, match=r"input '.*' takes .* was given"):
        verify_package(nano_bundle / "image.mlpackage", against=nano_bundle / "text.onnx")


def test_arrays_with_objects_are_not_unpickled(nano_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(MobileClipError, match=r"give a \.npy, or a \.npz of arrays without objects"):
        verify_package(nano_bundle / "text.mlpackage", inputs=tmp_path / "x.npy", outputs=tmp_path / "x.npy")


def test_what_cannot_run_here_says_so(nano_bundle: Path) -> None:
    with pytest.raises(NotHere, match="a Vulkan device"):
        open_artifact(nano_bundle / "image.vulkan.pte")
    with pytest.raises(ArtifactError, match=r"image.vulkan.pte cannot run here: it needs a Vulkan device"):
        verify_package(nano_bundle / "image.vulkan.pte", against=nano_bundle / "image.onnx")


@pytest.mark.parametrize("suffix", [".onnx", ".pte"])
def test_files_that_are_no_models(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"not a model at all" * 10)
    with pytest.raises(ArtifactError, match=r"is no (model|ExecuTorch program) "):
        open_artifact(path)
    with pytest.raises(ArtifactError, match="is no artifact that can be run"):
        open_artifact(Path(__file__))
