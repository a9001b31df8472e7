"""The studies, small: both sides compute the same, the table and the JSON are there."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import learning
from benchmarks.__main__ import main, marks
from benchmarks.captions_study import ARMS, FIGURES, auroc
from benchmarks.dense_study import round_marks


def test_the_step_of_both_trainers_has_one_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["step", "--size", "32", "--batch", "2", "--rounds", "1", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("step_*.json")
    result = json.loads(path.read_text())
    assert result["loss"]["ours"] == pytest.approx(result["loss"]["open_clip"], rel=1e-4)
    assert len(result["ours_ms"]) == len(result["open_clip_ms"]) == 2
    assert result["tflop"] > 0
    assert "times as fast" in capsys.readouterr().out


def test_a_small_study_of_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--seeds", "1", "--count", "200", "--steps", "5", "--batch", "16", "--out", str(tmp_path)]
    assert main(["learning", *args, "--captions", "alt", "quality"]) == 0
    rows = json.loads((tmp_path / "learning.json").read_text())["rows"]
    assert [row["captions"] for row in rows] == ["alt", "quality"]
    assert all(0 <= row[figure] <= 1 for row in rows for figure in learning.FIGURES)
    assert "| quality |" in capsys.readouterr().out


def test_a_small_study_of_selection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--count", "150", "--steps", "3", "--scorer-steps", "3", "--batch", "16", "--jobs", "1", "--seeds", "1"]
    assert main(["captions_study", *sizes, "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "captions_study.json").read_text())["rows"]
    assert [row["arm"] for row in rows] == list(ARMS)
    assert all(0 <= row[figure] <= 1 for row in rows for figure in FIGURES)
    assert rows[1]["samples"] == rows[2]["samples"] <= rows[0]["samples"]
    assert 0.3 < rows[0]["judge"]["wrong"] < 0.7
    assert "| selected |" in capsys.readouterr().out


def test_a_small_study_of_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [
        "--count",
        "128",
        "--size",
        "64",
        "--pretrain-steps",
        "2",
        "--labelled",
        "0.5",
        "--steps",
        "3",
        "--val",
        "8",
    ]
    which = ["--seeds", "1", "--tasks", "segmentation", "depth", "--curves", "segmentation", "--shares", "0.25", "1"]
    again = ["dense_study", *sizes, *which, "--work", str(tmp_path / "work"), "--out", str(tmp_path)]
    assert main(again) == 0
    written = (tmp_path / "dense_study.json").read_text()
    rows = json.loads(written)["rows"]
    assert [(row["task"], row["pictures"]) for row in rows[::3]] == [
        ("segmentation", 64),
        ("depth", 64),
        ("segmentation", 16),
    ]
    assert [row["start"] for row in rows[:3]] == ["quality", "alt", "scratch"]
    assert all(0 <= row["figure"] <= 1 for row in rows if row["task"] == "segmentation")
    assert all(row["figure"] == row["figures"]["rmse"] > 0 for row in rows if row["task"] == "depth")
    drawing = (tmp_path / "labels.svg").read_text()
    assert "nan" not in drawing
    assert drawing.count("<polyline") == 3
    assert drawing.count("<circle") == 6
    assert "| segmentation, mIoU | 16 |" in capsys.readouterr().out
    assert main(again) == 0
    assert json.loads((tmp_path / "dense_study.json").read_text())["rows"] == rows


@pytest.mark.parametrize(("low", "high"), [(0.0455, 0.1215), (0.0, 1.0), (1.301, 1.412), (0.007, 0.028)])
def test_marks_of_a_curve_are_the_numbers_that_they_say(low: float, high: float) -> None:
    found = round_marks(low, high)
    assert 3 <= len(found) <= 8
    assert all(float(text) == pytest.approx(value, rel=1e-9) for value, text in found)
    assert low <= found[0][0] < found[-1][0] <= high


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    generator = np.random.default_rng(0)
    score, good = generator.integers(0, 20, 300), generator.random(300) < 0.3
    pairs = score[good][:, None] - score[~good][None]
    assert auroc(score, good) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def test_an_unknown_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lerning"]) == 2
    assert "unknown study 'lerning': did you mean 'learning'?" in capsys.readouterr().err
    assert main([]) == 0
    assert "loader,step,learning" in capsys.readouterr().out


def test_the_report_of_kept_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = Path(__file__).parents[2] / "benchmarks" / "results" / "train"
    file = tmp_path / "README.md"
    start, end = marks("training")
    file.write_text(f"before\n{start}\nold\n{end}\nafter\n")
    assert main(["report", str(kept), "--into", str(file)]) == 0
    text = file.read_text()
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "µs a sample" in text
    file.write_text("no marks")
    assert main(["report", str(kept), "--into", str(file)]) == 2
    assert "has no lines" in capsys.readouterr().err
