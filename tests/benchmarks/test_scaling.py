"""Ranks share one batch and learn the same; our loop and open_clip's compute the same; arithmetic of both studies."""

import json
import math
from pathlib import Path

import pytest

from benchmarks import loop, scaling
from benchmarks.__main__ import SECTIONS, STUDIES
from benchmarks.loader import Case, write_tars
from benchmarks.step import synthetic
from mobileclip.errors import GateFailed, MobileClipError, UnknownName

KEPT = Path(scaling.__file__).parent / "results" / "train"


def test_both_are_studies() -> None:
    assert {"loop", "scaling"} <= set(STUDIES)
    assert "loop" in SECTIONS["training"]
    assert SECTIONS["scaling"] == ("scaling",)


def test_the_plan_is_that_of_scale() -> None:
    from benchmarks import plan
    from mobileclip.scale import stage_costs

    told = plan.table()
    for row in stage_costs(plan.SEEN, plan.PAIRS, 64, "h100", plan.PRICE):
        assert f"| {row.stage} | {row.work:,} {row.unit} | " in told
        assert row.source in told
    assert told.count("\n| ") == len(stage_costs(plan.SEEN, plan.PAIRS, 64, "h100")) + 1 + len(plan.CLUSTERS)


def test_two_ranks_learn_what_one_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real processes by gloo; the study itself refuses where a loss differs."""
    args = ["--ranks", "1", "2", "--steps", "2", "--batch", "16", "--out", str(tmp_path)]
    assert scaling.main(args) == 0
    (path,) = tmp_path.glob("scaling_*.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    one, two = result["rows"]
    assert (one["ranks"], two["ranks"], one["batch"], two["batch"]) == (1, 2, 16, 8)
    assert one["losses"] == pytest.approx(two["losses"], rel=1e-4)
    assert len(one["losses"]) == scaling.WARM + 2
    assert one["communication"] == 0
    assert 0 < two["communication"] <= 1
    assert all(row["per_second"] > 0 and row["peak_mib"] > 0 for row in result["rows"])
    assert len(two["raw"]) == 2, "there and back"
    told = scaling.table([result])
    assert told in capsys.readouterr().out
    assert len(told.splitlines()) == 4


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--batch", "10", "--ranks", "1", "4"], "a batch of 10 cannot be divided over 4 ranks: give numbers of ranks"),
        (["--ranks", "2", "1"], "--ranks begins with 2: begin with the fewest"),
        (["--ranks", "0"], "cannot be divided over 0 ranks"),
    ],
)
def test_mistakes(args: list[str], text: str) -> None:
    with pytest.raises(MobileClipError, match=text):
        scaling.main(args)
    with pytest.raises(UnknownName, match="unknown model 'nana'"):
        scaling.main(["--model", "nana"])


def test_another_loss_is_refused() -> None:
    rows = [{"ranks": n, "losses": [2.0, 1.5], "statistics": False, "raw": []} for n in (1, 2)]
    rows[1]["raw"] = [[{"losses": [2.0, 1.51]}]]
    with pytest.raises(GateFailed, match="2 ranks learn otherwise than 1"):
        scaling._require_one_result(rows)
    rows[1]["statistics"] = True  # BatchNorm sees a rank's rows
    scaling._require_one_result(rows)


def test_covered() -> None:
    assert scaling.covered([]) == 0
    assert scaling.covered([(0, 2), (1, 3), (5, 6), (5.5, 5.6)]) == 4


def test_rows_of_one_rank_are_the_batch() -> None:
    batch = synthetic(6, 8)
    own = scaling.rows_of_rank(batch)
    assert own.images.equal(batch.images)
    assert own.keys == batch.keys
    assert (own.teacher_image, own.step) == (None, 0)


def test_the_whole_loop(tmp_path: Path) -> None:
    """Both trainers learn from the same tars, from the same weights, and say the same loss of the same batch."""
    import torch

    from benchmarks.loader import pictures_of

    case = Case(name="pictures", size=64, short=72, quality=92)
    write_tars(tmp_path, case, pictures_of(None, 4), 32)
    found = loop.measured(tmp_path, "nano_scenes", case, 8, 2, 2, torch.device("cpu"))
    assert found["loss"]["ours"] == pytest.approx(found["loss"]["open_clip"], rel=1e-4)
    assert {name: len(times) for name, times in found["us"].items()} == dict.fromkeys(loop.SIDES, 2)
    assert all(value > 0 for times in found["us"].values() for value in times)
    assert math.isfinite(found["ratio"]["value"])
    settings = {"model": "nano_scenes", "batch": 8, "case": {"size": 64}}
    told = loop.table([{"device": "cpu", "settings": settings, **found}])
    assert told.splitlines()[-1].startswith("| CPU, one core | nano_scenes | 64 | 8 | ")


def test_sides_that_differ_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(loop, "_losses", lambda *args: (2.0, 2.1))
    case = Case(name="pictures", size=64, short=72, quality=92)
    with pytest.raises(GateFailed, match=r"the losses 2\.00000 and 2\.10000 differ"):
        loop.measured(tmp_path, "nano_scenes", case, 8, 2, 2, torch.device("cpu"))


@pytest.mark.parametrize("path", sorted(KEPT.glob("scaling_*.json")), ids=lambda path: path.stem)
def test_kept_results(path: Path) -> None:
    result = json.loads(path.read_text(encoding="utf-8"))
    scaling._require_one_result(result["rows"])
    assert result["rows"][0]["ranks"] == 1
    assert len(scaling.table([result]).splitlines()) == 2 + len(result["rows"])
