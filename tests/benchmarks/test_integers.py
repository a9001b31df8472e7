"""The studies of int8: a tiny run of each, and what they refuse."""

from pathlib import Path

import pytest

from benchmarks import calibration_count, int8_ablation, int8_coreml, quantised
from benchmarks.results import read
from mobileclip.data.scenes import write_scenes
from mobileclip.errors import MobileClipError


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, count=8, size=64, val_count=8, dense=False)
    return folder


def options(scenes: Path, out: Path) -> list[str]:
    held = str(scenes / "val" / "images")
    paths = ["--calibration", str(scenes), "--held", held, "--out", str(out)]
    return ["seeded:nano", *paths, "--count", "2", "--forms", "plain"]


def test_counts(scenes: Path, tmp_path: Path) -> None:
    arguments = [*options(scenes, tmp_path), "--pictures", "1", "8", "--draws", "1"]
    assert calibration_count.main(arguments) == 0
    (result,) = read([tmp_path])
    assert [row["pictures"] for row in result["rows"]] == [1, 8]
    assert all(0.9 < row["mean"] <= 1 for row in result["rows"])
    assert "| seeded:nano | plain | 8 | " in calibration_count.table([result])


def test_ablation(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = dict(list(int8_ablation.STEPS.items())[:1])
    monkeypatch.setattr(int8_ablation, "STEPS", first)
    assert int8_ablation.main([*options(scenes, tmp_path), "--pictures", "2"]) == 0
    (result,) = read([tmp_path])
    assert result["settings"]["pictures"] == 2
    assert "| seeded:nano | plain | least to greatest value | " in int8_ablation.table([result])


def test_eight_bits_against_floats(scenes: Path, tmp_path: Path) -> None:
    paths = ["--calibration", str(scenes), "--heldout", str(scenes / "val" / "images"), "--cache", str(tmp_path / "c")]
    sizes = ["--targets", "onnx", "--threads", "1", "--runs", "2", "--limit", "2", "--out", str(tmp_path / "out")]
    assert quantised.main(["--checkpoint", "seeded:nano", *paths, *sizes]) == 0
    (result,) = read([tmp_path / "out"])
    assert result["integers"]["bytes"] < 0.45 * result["floats"]["bytes"]
    assert 0.97 < result["cosine"]["min"] <= result["cosine"]["mean"] <= 1
    assert result["ratio"]["low"] <= result["ratio"]["value"] <= result["ratio"]["high"]
    assert "| seeded:nano | onnx | w8a8 | " in quantised.table([result])


def test_against_coremltools(scenes: Path, tmp_path: Path) -> None:
    assert int8_coreml.main([*options(scenes, tmp_path), "--pictures", "4"]) == 0
    (result,) = read([tmp_path])
    assert [row["by"].partition(",")[0] for row in result["rows"]] == ["ours"] * 2 + ["LinearQuantizer"] * 2
    assert all(row["mean"] < 1 for row in result["rows"])
    assert "| nano | LinearQuantizer, affine | " in int8_coreml.table([result])


def test_what_calibrates_may_not_judge(scenes: Path, tmp_path: Path) -> None:
    images = str(scenes / "val" / "images")
    arguments = ["seeded:nano", "--calibration", images, "--held", images, "--out", str(tmp_path)]
    with pytest.raises(MobileClipError, match=r"8 picture\(s\) of .* what calibrates may not judge"):
        int8_ablation.main(arguments)
