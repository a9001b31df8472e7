"""The studies of dense models in 8 bits and of a trained MCi2: a tiny run of each."""

from pathlib import Path

import pytest

from benchmarks import quantised_dense, trained
from benchmarks.__main__ import main
from benchmarks.results import read
from mobileclip.checkpoint import load
from mobileclip.data.scenes import write_scenes
from mobileclip.dense.finetune import finetune
from mobileclip.dense.recipes import recipe_of


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, count=24, size=64, val_count=8)
    return folder


def test_a_figure_is_that_of_the_artifact(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_of("scenes-depth", {"steps": 2, "warmup": 1, "batch": 4, "size": (64, 64), "threads": 1})
    checkpoint = finetune(recipe, out=tmp_path / "run", checkpoint="scratch", data=scenes, say=lambda line: None)
    sets = ["--calibration", str(scenes / "train"), "--set", str(scenes), "--out", str(tmp_path / "out")]
    assert main(["quantised_dense", str(checkpoint), *sets]) == 0
    (result,) = read([tmp_path / "out"])
    (row,) = result["rows"]
    numbers = row["numbers"]
    assert numbers["rmse_rise"] == pytest.approx(numbers["rmse_after"] / numbers["rmse_before"] - 1)
    assert row["by"].startswith("onnxruntime")
    told = capsys.readouterr().out
    assert f"| depth | onnx | w8a8 | rmse | {numbers['rmse_before']:.4f} | {numbers['rmse_after']:.4f} |" in told
    assert quantised_dense.table([result]) in told


def test_a_trained_checkpoint(scenes: Path, tmp_path: Path) -> None:
    arguments = ["--shards", str(scenes / "train"), "--out", str(tmp_path / "x"), "--config", "nano_scenes"]
    assert trained.main([*arguments, "--steps", "2", "--batch", "8"]) == 0
    model = load(tmp_path / "x")
    assert model.origin is not None
    assert model.origin.record["loss"]["first"] > 0
    assert trained.CONFIG.name not in {"mci2", "mobileclip_s2"}
