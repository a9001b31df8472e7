"""A bundle as an encoder: equal to the model within the artifacts' parity; told from the manifest alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import export
from export.encoder import PREFERRED, BundleEncoder, encoder_of
from export.manifest import Bundle
from export.targets import PRESETS, TARGETS
from mobileclip.errors import ArtifactError, BundleError, MobileClipError, UnknownName
from mobileclip.evaluate import compare, evaluate
from mobileclip.evaluate.encoder import ModelEncoder
from mobileclip.models import Clip

TEXTS = ["a cat", "zwei Hunde 🐕", "word " * 100]
RUNS_HERE = ("onnx", "executorch-xnnpack", "coreml", "executorch-coreml")


def pictures(count: int) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (count, 6, 8, 3), np.uint8)
    return [Image.fromarray(pixels).resize((90 + index, 70)) for index, pixels in enumerate(coarse)]


def edited(bundle: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a bundle whose manifest says something else."""
    copy = tmp_path / "edited"
    shutil.copytree(bundle, copy)
    content = json.loads((copy / "manifest.json").read_text())
    edit(content)
    (copy / "manifest.json").write_text(json.dumps(content))
    return copy


def image_input(content: dict[str, Any], target: str = "onnx") -> dict[str, Any]:
    (entry,) = [e for e in content["artifacts"] if e["view"] == "image" and e["target"] == target]
    found: dict[str, Any] = entry["inputs"][0]
    return found


@pytest.mark.parametrize("target", RUNS_HERE)
def test_artifacts_encode_as_the_model_does(target: str, nano_bundle: Path, nano: Clip) -> None:
    count = 2 if "coreml" in target else 5
    model, images, texts = ModelEncoder(nano), pictures(count), TEXTS[:count]
    lines: list[str] = []
    encoder = BundleEncoder(nano_bundle, target, progress=lines.append)
    assert encoder.name == f"nano ({target})"
    assert encoder.logit_scale == pytest.approx(model.logit_scale)
    least = 1 - 1e-6 if TARGETS[target].precision == "fp32" else TARGETS[target].gate.cosine
    for found, expected in (
        (encoder.encode_images(iter(images)), model.encode_images(images)),
        (encoder.encode_texts(texts), model.encode_texts(texts)),
    ):
        assert found.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
        assert (found * expected).sum(axis=1).min() >= least
    slow = [line for line in lines if "runs in the Core ML interpreter, which is right and slow: " in line]
    assert len(slow) == (2 if "coreml" in target else 0), lines
    assert encoder.encode_images([]).shape == (0, 32)
    assert encoder.encode_texts([]).shape == (0, 32)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "apple"])
def test_every_preset(preset: str, nano: Clip, tmp_path: Path) -> None:
    out = export.export("seeded:nano", ["onnx"], tmp_path / preset, preset=preset)
    encoder, model = BundleEncoder(out), ModelEncoder(nano)
    assert encoder.target == "onnx"
    np.testing.assert_allclose(encoder.encode_images(pictures(2)), model.encode_images(pictures(2)), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), model.encode_texts(TEXTS), atol=1e-5)


def test_statistics_and_filter_of_another_tower(tmp_path: Path) -> None:
    """ImageNet's statistics are in the graph, bicubic is in the manifest; there is no text tower."""
    from mobileclip.checkpoint import load

    out = export.export("seeded:nano_swin", ["onnx"], tmp_path / "swin")
    encoder, model = BundleEncoder(out), ModelEncoder(load("seeded:nano_swin"))
    np.testing.assert_allclose(encoder.encode_images(pictures(3)), model.encode_images(pictures(3)), atol=1e-5)
    with pytest.raises(BundleError, match="swin is of an image tower alone, without texts: evaluate a model with both"):
        encoder.encode_texts(TEXTS)


def test_colours_in_another_order(nano_bundle: Path, nano: Clip, tmp_path: Path) -> None:
    bundle = edited(nano_bundle, tmp_path, lambda content: image_input(content).update(colour="BGR"))
    swapped = [Image.fromarray(np.asarray(image)[..., ::-1]) for image in pictures(2)]
    found = BundleEncoder(bundle, "onnx").encode_images(pictures(2))
    np.testing.assert_allclose(found, ModelEncoder(nano).encode_images(swapped), atol=1e-5)


def test_accuracy_after_export_is_a_number(nano_bundle: Path, nano: Clip, tmp_path: Path) -> None:
    for index, image in enumerate(pictures(8)):
        folder = tmp_path / ("cat", "dog")[index % 2]
        folder.mkdir(exist_ok=True)
        image.save(folder / f"{index}.png")
    before = evaluate(ModelEncoder(nano), zero_shot=tmp_path)
    (found,) = compare(before, evaluate(BundleEncoder(nano_bundle), zero_shot=tmp_path))
    assert found["after"] == "nano (onnx)"
    assert found["agreement"] == 1
    assert found["difference"] == 0
    assert found["cosine_min"] > 1 - 1e-6


def test_targets(nano_bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(nano_bundle)
    assert BundleEncoder(opened).target == PREFERRED[0]
    with pytest.raises(UnknownName, match="unknown target 'onxx': did you mean 'onnx'"):
        BundleEncoder(opened, "onxx")
    with pytest.raises(
        ArtifactError, match=r"image\.vulkan\.pte cannot run here: it needs a Vulkan device.*; choose another target"
    ):
        BundleEncoder(opened, "executorch-vulkan")

    def keep(*targets: str) -> Callable[[dict[str, Any]], object]:
        def edit(content: dict[str, Any]) -> None:
            content["artifacts"] = [entry for entry in content["artifacts"] if entry["target"] in targets]

        return edit

    some = edited(nano_bundle, tmp_path, keep("coreml", "executorch-vulkan"))
    assert BundleEncoder(some).target == "coreml"
    with pytest.raises(BundleError, match="edited has nothing for onnx: it holds executorch-vulkan, coreml"):
        BundleEncoder(some, "onnx")
    shutil.rmtree(some)
    vulkan = edited(nano_bundle, tmp_path, keep("executorch-vulkan"))
    with pytest.raises(
        ArtifactError, match="edited holds executorch-vulkan, which does not run here: export it for one of onnx, exec"
    ):
        BundleEncoder(vulkan)


def test_changed_files_are_refused(nano_bundle: Path, tmp_path: Path) -> None:
    copy = edited(nano_bundle, tmp_path, lambda content: None)
    with (copy / "image.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"image\.onnx was changed after export"):
        BundleEncoder(copy)
    with pytest.raises(BundleError, match="is no bundle: it has no manifest"):
        BundleEncoder(tmp_path)


def _without_text(content: dict[str, Any]) -> None:
    content["artifacts"] = [entry for entry in content["artifacts"] if entry["view"] == "image"]


def _two_inputs(content: dict[str, Any]) -> None:
    (entry,) = [e for e in content["artifacts"] if e["view"] == "image" and e["target"] == "onnx"]
    entry["inputs"] *= 2


def _short_output(content: dict[str, Any]) -> None:
    for entry in content["artifacts"]:
        entry["outputs"][0]["shape"] = [1, 31]


@pytest.mark.parametrize(
    ("edit", "kind", "text"),
    [
        (
            _without_text,
            BundleError,
            r"edited has no text artifact for onnx: export a model with that tower, or choose",
        ),
        (
            _two_inputs,
            BundleError,
            r"image\.onnx has 2 inputs and 1 outputs: one image in and an embedding out is known",
        ),
        (_short_output, ArtifactError, r"image\.onnx gives 32 values where its manifest says 31: export again"),
        (
            lambda content: image_input(content).update(name="picture"),
            ArtifactError,
            r"image\.onnx takes image, its manifest says picture: export it again",
        ),
        (
            lambda content: image_input(content).update(resize="both sides to 64"),
            BundleError,
            r"image\.onnx takes pictures in a way that this version does not know \(\{'shape': .*'both sides to 64'",
        ),
        (
            lambda content: image_input(content).update(colour="YUV"),
            BundleError,
            r"takes pictures in a way that this version does not know",
        ),
        (
            lambda content: image_input(content).pop("scale"),
            BundleError,
            r"takes pictures in a way that this version does not know .*'scale': None",
        ),
        (
            lambda content: content["tokenizer"].update(sha256="0" * 64),
            BundleError,
            r"edited was made for another tokenizer \(sha256 000000000000, here [0-9a-f]{12}\): its texts cannot be",
        ),
        (lambda content: content["tokenizer"].update(pad=49407), BundleError, "was made for another tokenizer"),
        (
            lambda content: next(e for e in content["artifacts"] if e["file"] == "text.onnx")["inputs"][0].update(
                shape=[77]
            ),
            BundleError,
            r"text\.onnx takes ids of shape \[77\]: \[1, 77\] is known",
        ),
    ],
)
def test_manifests_that_do_not_fit(
    edit: Callable[[dict[str, Any]], object], kind: type[Exception], text: str, nano_bundle: Path, tmp_path: Path
) -> None:
    bundle = edited(nano_bundle, tmp_path, edit)

    def use() -> None:
        encoder = BundleEncoder(bundle, "onnx")
        encoder.encode_images(pictures(1))
        encoder.encode_texts(TEXTS)

    with pytest.raises(kind, match=text):
        use()


def test_what_a_user_names(nano_bundle: Path) -> None:
    assert isinstance(encoder_of(nano_bundle, "executorch-xnnpack"), BundleEncoder)
    assert encoder_of("seeded:nano", device="cpu").name == "nano (seeded:nano:0)"
    with pytest.raises(MobileClipError, match=r"'seeded:nano' is a model, not a bundle: a target \('onnx'\) is chosen"):
        encoder_of("seeded:nano", "onnx")
    with pytest.raises(
        MobileClipError, match="is a bundle, whose runtimes compute as they were exported: leave the device"
    ):
        encoder_of(nano_bundle, device="cpu")
