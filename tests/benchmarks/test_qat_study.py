"""The study of training with rounding, small."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from mobileclip.data.scenes import write_scenes
from mobileclip.recipes import recipe_of
from mobileclip.train import train


def test_a_small_study_of_training_with_rounding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = write_scenes(tmp_path / "scenes", count=32, val_count=16, size=64)
    values = {"shards": (str(scenes / "train"),), "steps": 2, "warmup": 1, "batch": 16, "tensorboard": False}
    floats = train(recipe_of("nano-scenes", values), tmp_path / "floats", say=lambda line: None)
    which = ["--checkpoint", str(floats), "--shards", str(scenes / "train"), "--val", str(scenes / "val")]
    sizes = ["--set", "steps=2", "warmup=0", "batch=16", "threads=1", "--calibration", "8", "--limit", "8"]
    assert main(["qat", *which, *sizes, "--out", str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out" / "qat.json").read_text())["rows"]
    assert [row["form"] for row in rows] == ["calibrated", "trained"]
    assert all(0.5 < row["cosine_mean"] <= 1 and row["pictures"] == 8 for row in rows)
    assert "| `train --qat` |" in capsys.readouterr().out
