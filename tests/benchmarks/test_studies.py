"""The studies, small: both sides compute the same, the table and the JSON are there."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main, marks
from benchmarks.captions_judged import auroc
from benchmarks.captions_study import ARMS, FIGURES


def test_the_step_of_both_trainers_has_one_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["step", "--size", "32", "--batch", "2", "--rounds", "1", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("step_*.json")
    result = json.loads(path.read_text())
    assert result["loss"]["ours"] == pytest.approx(result["loss"]["open_clip"], rel=1e-4)
    assert len(result["ours_ms"]) == len(result["open_clip_ms"]) == 2
    assert result["tflop"] > 0
    assert "times as fast" in capsys.readouterr().out


def test_a_small_study_of_selection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--count", "150", "--steps", "3", "--scorer-steps", "3", "--batch", "16", "--jobs", "1", "--seeds", "1"]
    assert main(["captions_study", *sizes, "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "captions_study.json").read_text())["rows"]
    assert [row["arm"] for row in rows] == list(ARMS)
    assert all(0 <= row[figure] <= 1 for row in rows for figure in FIGURES)
    assert rows[1]["samples"] == rows[2]["samples"] <= rows[0]["samples"]
    assert 0.3 < rows[0]["judge"]["wrong"] < 0.7
    assert "| selected |" in capsys.readouterr().out


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    generator = np.random.default_rng(0)
    score, good = generator.integers(0, 20, 300), generator.random(300) < 0.3
    pairs = score[good][:, None] - score[~good][None]
    assert auroc(score, good) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def test_an_unknown_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lodaer"]) == 2
    assert "unknown study 'lodaer': did you mean 'loader'?" in capsys.readouterr().err
    assert main([]) == 0
    assert "loader,step,loop,scaling,captions_text" in capsys.readouterr().out


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
