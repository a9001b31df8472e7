"""Quantised artifacts: smaller, near their model, refused where a target, a folder or a gate says no."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import export
from export.gates import Limits
from export.manifest import Bundle
from export.pictures import LEAST, MOST, Calibration
from export.targets import QUANTISED, TARGETS, held, quantised_of
from mobileclip.cli import main
from mobileclip.data.scenes import write_scenes
from mobileclip.errors import GateFailed, ImageError, MobileClipError, UnknownName


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, count=1, size=64, val_count=24, dense=False)
    return folder / "val" / "images"


def entries(bundle: Path) -> dict[str, dict]:  # type: ignore[type-arg]
    return {entry["file"]: entry for entry in Bundle.open(bundle).manifest["artifacts"]}


@pytest.fixture(scope="module")
def floats(nano_bundle: Path) -> dict[str, dict]:  # type: ignore[type-arg]
    return entries(nano_bundle)


def test_int8_on_two_runtimes(scenes: Path, floats: dict[str, dict], tmp_path: Path) -> None:  # type: ignore[type-arg]
    targets = ["onnx", "executorch-xnnpack"]
    out = export.export(
        "seeded:nano",
        targets,
        tmp_path / "int8",
        views=["image"],
        precision="w8a8",
        calibration=scenes,
        timed=True,
        accept=True,
    )
    found = entries(out)
    for name in ("image.onnx", "image.xnnpack.pte"):
        entry = found[name]
        assert entry["precision"] == "w8a8"
        told = entry["quantisation"]
        assert (told["calibration"], told["held_out"]) == (18, 6)
        assert told["made"]["db"] > 25
        assert told["kept"]["pictures"] == 6
        judged = {number["name"]: number for number in told["kept"]["numbers"]}
        assert judged["slower_low"]["value"] > 0
        assert judged["slower_low"]["passed"] == (judged["slower_low"]["value"] <= 1)
        assert {"cosine_mean", "cosine_p1", "index", "agreement", "new_loose"} < set(judged)
        assert entry["bytes"] < 0.45 * floats[name]["bytes"]
        assert entry["gate"]["cosine"] == QUANTISED["w8a8"].cosine
        assert entry["parity"]["cosine"] > 0.97
    assert found["image.xnnpack.pte"]["delegates"] == 1
    assert not [item for item in found["image.xnnpack.pte"]["loose"] if item["compute"]]
    recipe = json.loads((out / "manifest.json").read_text())["recipe"]
    assert recipe["calibration"] == {"pictures": 24, "sha256": Calibration.of(scenes).digest()}
    assert not (out / "calibration").exists()
    rows = {row.file: row for row in export.verify(out, images=scenes, limit=4).rows}
    assert rows["image.onnx"].note == "means, gate 15 dB, cosine 0.99"
    assert rows["image.onnx"].cosine is not None
    assert rows["image.onnx"].cosine > 0.95


@pytest.mark.parametrize("precision", ["w8", "w6p", "w4p"])
def test_compressed_weights_of_core_ml(precision: str, floats: dict[str, dict], tmp_path: Path) -> None:  # type: ignore[type-arg]
    out = export.export(
        "seeded:nano", ["coreml"], tmp_path / "out", views=["image"], precision=precision, accept=precision == "w4p"
    )
    (entry,) = entries(out).values()
    assert entry["precision"] == precision
    assert entry["parity"]["runtime"] == "Core ML interpreter, fp16"
    assert 0.1 < entry["bytes"] / floats["image.mlpackage"]["bytes"] < 0.75
    assert entry["parity"]["cosine"] > 0.9


def test_a_missed_gate_writes_nothing_unless_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.judged.LIMITS", {"w4p": Limits(cosine_mean=1.1)})
    options = {"views": ["image"], "precision": "w4p"}
    with pytest.raises(
        GateFailed, match=r"image\.mlpackage does not keep .* mean cosine .* Choose another precision, or --accept"
    ):
        export.export("seeded:nano", ["coreml"], tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
    out = export.export("seeded:nano", ["coreml"], tmp_path / "out", accept=True, **options)  # type: ignore[arg-type]
    (entry,) = entries(out).values()
    assert entry["gate"]["passed"] is False


def test_what_targets_hold() -> None:
    assert held(TARGETS["coreml"]) == ("fp16", "w8", "w8a8", "w8p", "w6p", "w4p", "w6pj", "w4pj", "mixed", "auto")
    assert held(TARGETS["executorch-vulkan"]) == ("fp16",)
    assert quantised_of(["onnx"], "fp32") is None
    assert quantised_of(["onnx", "executorch-xnnpack"], "w8a8") == "w8a8"
    told = r"executorch-vulkan cannot hold w8a8; what each target can:\n  onnx +fp32, w8a8, mixed, auto\n"
    with pytest.raises(MobileClipError, match=told):
        quantised_of(["onnx", "executorch-vulkan"], "w8a8")
    with pytest.raises(UnknownName, match=r"unknown precision 'w8a9': did you mean 'w8a8'\?"):
        quantised_of(["onnx"], "w8a9")


def pictures(folder: Path, count: int, value: int | None) -> Path:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(count):
        pixels = generator.integers(0, 256, (8, 8, 3)) if value is None else np.full((8, 8, 3), value)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:04d}.png")
    return folder


def test_pictures_that_cannot_calibrate(tmp_path: Path) -> None:
    with pytest.raises(MobileClipError, match=r"holds 1 picture\(s\): calibration needs 8 or more"):
        Calibration.of(pictures(tmp_path / "one", 1, None))
    with pytest.raises(ImageError, match="no picture in"):
        Calibration.of(pictures(tmp_path / "none", 0, None))
    options = {"views": ["image"], "precision": "w8a8"}
    with pytest.raises(MobileClipError, match=r"every picture of .*black is of one colour alone"):
        export.export(
            "seeded:nano",
            ["onnx"],
            tmp_path / "out",
            calibration=pictures(tmp_path / "black", LEAST, 0),
            **options,  # type: ignore[arg-type]
        )
    with pytest.raises(MobileClipError, match="give --calibration FOLDER"):
        export.export("seeded:nano", ["onnx"], tmp_path / "out", **options)  # type: ignore[arg-type]
    few = {"views": ["image"], "precision": "auto", "calibration": pictures(tmp_path / "few", 2 * LEAST - 1, None)}
    with pytest.raises(MobileClipError, match=r"few holds 15 pictures: auto holds a quarter .* needs 16 or more"):
        export.export("seeded:nano", ["onnx"], tmp_path / "out", **few)  # type: ignore[arg-type]
    with pytest.raises(MobileClipError, match="floats need no pictures: leave it out"):
        export.export("seeded:nano", ["coreml"], tmp_path / "out", calibration=tmp_path / "one")
    assert not (tmp_path / "out").exists()


def test_pictures_are_spread_over_a_folder(tmp_path: Path) -> None:
    found = Calibration.of(pictures(tmp_path / "many", MOST + 72, 7))
    assert len(set(found.images)) == len(found.images) == MOST
    assert found.images[-1].name > "0195"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", "seeded:nano", "--out", str(tmp_path / "out"), "--precision"]
    assert main([*arguments, "w8a8"]) == 2
    told = capsys.readouterr().err
    assert "executorch-vulkan cannot hold w8a8; what each target can:\n" in told
    assert re.search(r"^  executorch-vulkan +fp16$", told, re.MULTILINE)
    assert main([*arguments, "w8a8", "--to", "onnx"]) == 2
    assert "give --calibration FOLDER" in capsys.readouterr().err


def test_what_judges_may_not_calibrate(scenes: Path, tmp_path: Path) -> None:
    options = {"views": ["image"], "precision": "w8a8", "calibration": scenes, "gate": scenes.parent}
    with pytest.raises(MobileClipError, match=r"24 picture\(s\) of the calibration are in .* a gate needs pictures"):
        export.export("seeded:nano", ["onnx"], tmp_path / "out", **options)  # type: ignore[arg-type]


def test_a_bundle_is_no_checkpoint(nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(nano_bundle), "--to", "onnx", "--out", str(tmp_path / "out")]) == 2
    assert "is a bundle: what it holds is lowered, and perhaps quantised, already" in capsys.readouterr().err


def test_sensitivity_is_shown_and_drawn(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = ["sensitivity", "seeded:nano", "--calibration", str(scenes)]
    assert main([*arguments, "--to", "executorch-vulkan"]) == 2
    assert "holds floats alone" in capsys.readouterr().err
    assert main([*arguments, "--to", "coreml", "--out", str(tmp_path / "out")]) == 0
    assert "stages.2.5" in capsys.readouterr().out
    monkeypatch.setattr("export.variants.quantised", None)  # the second time nothing is quantised: the table is kept
    assert main([*arguments, "--to", "coreml"]) == 0
    assert "stages.2.5" in capsys.readouterr().out
    told = json.loads((tmp_path / "out" / "sensitivity.json").read_text())
    assert told["inputs"] == 6
    assert (tmp_path / "out" / "sensitivity.svg").read_text().count("<rect") == len(told["rows"])
