"""The study, small: all its parts run for real, and what it says follows from figures that are known."""

import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import study, study_page
from benchmarks.__main__ import main
from benchmarks.study_figures import Saving, compared, mean_of, saving, told
from benchmarks.study_jobs import ARMS, BUDGETS, COMMON, SCRATCH, Job, known, ordered
from benchmarks.study_plots import curves, dots, round_marks
from benchmarks.study_runs import counted, done, scenes_of
from mobileclip.config import config_of
from mobileclip.data import tars
from mobileclip.data.problems import Tally
from mobileclip.data.shards import read
from mobileclip.dense import load

SMALL = (
    *("--seeds", "1", "--pair-seeds", "2", "--shares", "0.5", "1", "--count", "96", "--val", "8", "--steps", "2"),
    *("--batch", "8", "--scorer-steps", "2", "--labelled", "0.25", "--finetune-steps", "2", "--finetune-batch", "4"),
)
TINY = replace(
    BUDGETS["nano"],
    count=96,
    val=8,
    steps=2,
    batch=8,
    scorer_steps=2,
    labelled=0.25,
    finetune_steps=2,
    finetune_batch=4,
)
"""The budget of `SMALL`."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small study: `work` and `out`."""
    home = tmp_path_factory.mktemp("study")
    assert main(["study", *SMALL, "--jobs", "1", "--work", str(home / "work"), "--out", str(home / "out")]) == 0
    return home


def rows_of(home: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((home / "out" / "study.json").read_text())["rows"]
    return rows


def test_every_part_is_run(folder: Path) -> None:
    rows = rows_of(folder)
    pretrained = {(row["arm"], row["seed"]) for row in rows if row["kind"] == "pretrained"}
    assert pretrained == {(arm, 0) for arm in ARMS} | {("quality", 1), ("alt", 1)}
    curve = {(row["arm"], row["pictures"]) for row in rows if row["kind"] == "finetuned" and row["share"] < 1}
    assert curve == {(arm, 12) for arm in study.STARTS}
    for task in ("detection", "depth"):
        whole = {row["arm"] for row in rows if row["kind"] == "finetuned" and row["task"] == task}
        assert whole == {*study.CAPTIONS, *study.STARTS, *study.TOWERS}
    assert all(row["seconds"] > 0 and row["commit"] for row in rows)
    assert all(0 <= value <= 1 for row in rows if row["kind"] == "pretrained" for value in row["figures"].values())
    depth = [row for row in rows if row["kind"] == "finetuned" and row["task"] == "depth"]
    assert all(row["figure"] == row["figures"]["rmse"] > 0 for row in depth)


def test_the_page_and_the_drawings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder / "out")]) == 0
    page = capsys.readouterr().out
    assert page.count("| segmentation, mIoU | 2 |") == 2  # in one screen, and on the page
    for line in ("| alt | 2 |", "| scratch | 1 |", "| Swin | 1 |", "| `multi(3)` | 1 |", "| segmentation, mIoU | 2 |"):
        assert line in page
    assert "kept; wrong" in page
    assert not re.search(r"\bnan\b", page)
    drawn = sorted(path.name for path in (folder / "out").glob("*.svg"))
    assert drawn == ["captions.svg", "labels.svg", "policies.svg", "towers.svg"]
    for path in (folder / "out").glob("*.svg"):
        assert "nan" not in path.read_text()
        ET.fromstring(path.read_text())


def test_what_is_finished_is_told_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rows_of(folder)
    where = ["--work", str(folder / "work"), "--out", str(folder / "out")]
    assert main(["study", *SMALL, "--jobs", "2", *where]) == 0
    assert rows_of(folder) == before
    assert main(["study", *SMALL, "--steps", "3", "--only-finished", *where[:2], "--out", str(folder / "less")]) == 0
    less = json.loads((folder / "less" / "study.json").read_text())
    assert {
        row["arm"] for row in less["rows"] if row["kind"] != "scorer" and row["kind"] in ("pretrained", "finetuned")
    } == {SCRATCH}
    assert less["settings"]["unfinished"] == len(before) - len(less["rows"])


def test_results_are_put_together(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = folder / "out" / "study.json"
    part = json.loads(whole.read_text())
    part["rows"] = [row for row in part["rows"] if row["kind"] == "finetuned"]
    (tmp_path / "part.json").write_text(json.dumps(part))
    where = ["--work", str(folder / "work"), "--out", str(tmp_path / "out")]
    assert main(["study", *SMALL, "--add", str(tmp_path / "part.json"), *where]) == 0
    assert json.loads((tmp_path / "out" / "study.json").read_text())["rows"] == rows_of(folder)
    nowhere = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "other")]
    assert main(["study", *SMALL, "--add", str(whole), *nowhere]) == 0
    assert json.loads((tmp_path / "other" / "study.json").read_text())["rows"] == rows_of(folder)
    assert not (tmp_path / "work").exists()  # nothing was left to do
    assert main(["study", *SMALL, "--steps", "3", "--add", str(whole), *nowhere]) == 2
    assert "was made with another steps: its rows say nothing of this one." in capsys.readouterr().err
    other = whole.read_text().replace('"study": "study"', '"study": "step"')
    (tmp_path / "step.json").write_text(other)
    assert main(["study", *SMALL, "--add", str(tmp_path / "step.json"), *nowhere]) == 2
    assert "this is no result of `python -m benchmarks study`: name a study.json." in capsys.readouterr().err


def test_arms_of_a_seed_see_the_same_pictures(folder: Path) -> None:
    work = folder / "work"
    keys = {}
    for kind in ("scenes", "classes", "scored", "filtered"):
        home = Job(kind=kind, seed=0).folder(TINY, work) / "scenes"
        samples = []
        for path in sorted((home / "train" if kind == "scenes" else home).glob("*.tar")):
            with tars.opened(path) as data:
                samples += [(one.key, one.texts) for one in read(data, tars.walk(data, str(path)), Tally())]
        keys[kind] = dict(samples)
    assert list(keys["scenes"]) == list(keys["classes"]) == list(keys["scored"])
    assert keys["filtered"].keys() < keys["scenes"].keys()
    assert all(len(texts) == 1 and texts[0].text.startswith("a photo of a ") for texts in keys["classes"].values())
    scored = [text for texts in keys["scored"].values() for text in texts]
    assert {text.source for text in scored} == {"alt", "syn_text_short", "syn_text_quality"}
    assert all(-1 <= text.clip <= 1 for text in scored)
    assert (scenes_of(COMMON, TINY, work) / "val").is_dir()


def test_a_finetuned_tower_is_that_of_its_arm(folder: Path) -> None:
    for arm in ("swin", "vit"):
        run = Job(kind="finetuned", seed=0, arm=arm, task="depth").folder(TINY, folder / "work") / "run"
        (newest,) = (run / "checkpoints").glob("step_*")
        assert load(newest).config.encoder.name == f"nano_scenes_{arm}"


def test_a_folder_is_called_after_all_that_decides_it(tmp_path: Path) -> None:
    job = Job(kind="finetuned", seed=0, arm="quality", task="depth")
    first = job.folder(TINY, tmp_path)
    assert first == job.folder(replace(TINY, scorer_steps=9), tmp_path)  # quality captions are not judged
    for change in ({"steps": 9}, {"count": 9}, {"finetune_steps": 9}, {"model": "nano"}, {"pixels": 64}, {"lr": 1.0}):
        assert first != job.folder(replace(TINY, **change), tmp_path)
    judged = Job(kind="pretrained", seed=0, arm="filtered")
    assert judged.folder(TINY, tmp_path) != judged.folder(replace(TINY, scorer_steps=9), tmp_path)
    assert known(job, TINY, tmp_path) is None


def test_jobs_come_behind_what_they_need() -> None:
    jobs = ordered(
        [Job(kind="finetuned", seed=0, arm="filtered", task="depth"), Job(kind="pretrained", seed=0, arm="alt")]
    )
    assert len(jobs) == len(set(jobs))
    for place, job in enumerate(jobs):
        assert set(job.needs) <= set(jobs[:place])
    assert [job.kind for job in jobs].count("scorer") == 1


def test_towers_have_as_many_flops() -> None:
    budget = BUDGETS["nano"]
    macs = [counted(getattr(budget, tower))["macs"] for tower in ("model", "vit", "swin")]
    assert max(macs) < 1.1 * min(macs)
    texts = {config_of(getattr(budget, tower)).text for tower in ("model", "vit", "swin")}
    assert len(texts) == 1


def test_mci2_itself_takes_the_same_way(tmp_path: Path) -> None:
    budget = replace(
        BUDGETS["mci2"], count=4, val=2, steps=1, batch=2, labelled=1.0, finetune_steps=2, finetune_batch=1, pixels=64
    )
    jobs = ordered([Job(kind="finetuned", seed=0, arm=SCRATCH, task="segmentation")])
    found = [done(job, budget, tmp_path) for job in jobs][-1]
    assert 0 <= found["figure"] <= 1
    run = jobs[-1].folder(budget, tmp_path) / "run"
    (newest,) = (run / "checkpoints").glob("step_*")
    config = load(newest).config
    assert (config.encoder.name, config.size) == ("mobileclip_s2", (256, 256))


def test_a_mean_has_students_interval() -> None:
    found = mean_of([1.0, 2.0, 4.0])
    assert found.mean == pytest.approx(7 / 3)
    assert found.high - found.mean == pytest.approx(4.303 * np.std([1, 2, 4], ddof=1) / math.sqrt(3))
    assert (found.least, found.most, found.seeds) == (1.0, 4.0, 3)
    assert mean_of([1.0]).low == -math.inf
    assert mean_of([2.0] * 40).high == 2.0


@pytest.mark.parametrize(
    ("first", "second", "lower", "says"),
    [
        ([0.10, 0.11, 0.105], [0.06, 0.061, 0.062], False, "better"),
        ([0.10, 0.11, 0.105], [0.06, 0.061, 0.062], True, "worse"),
        ([1.30, 1.35, 1.40], [1.31, 1.36, 1.411], True, "better in pairs, intervals touch"),
        ([1.31, 1.36, 1.411], [1.30, 1.35, 1.40], True, "worse in pairs, intervals touch"),
        ([0.1, 0.3, 0.2], [0.2, 0.1, 0.3], False, "no difference shown"),
        ([0.9], [0.1], False, "one seed: nothing"),
    ],
)
def test_a_comparison_says_what_intervals_allow(
    first: list[float], second: list[float], lower: bool, says: str
) -> None:
    found = compared(dict(enumerate(first)), dict(enumerate(second)) | {9: 5.0}, lower=lower)
    assert found.says == says
    assert found.first.seeds == len(first)
    assert found.apart == (says in ("better", "worse"))


def test_labels_that_a_curve_saves() -> None:
    curve = {10: 0.05, 100: 0.08, 1000: 0.10}
    assert saving(curve, 0.08, lower=False).times == pytest.approx(10)
    assert saving(curve, 0.09, lower=False).times == pytest.approx(math.sqrt(10))
    assert saving(curve, 0.10, lower=False).times == pytest.approx(1)
    assert saving(curve, 0.11, lower=False) == Saving(times=0.0)
    assert saving(curve, 0.04, lower=False) == Saving(times=100.0, bound=True)
    mirrored = {count: 2 - value for count, value in curve.items()}
    assert saving(mirrored, 2 - 0.09, lower=True).times == pytest.approx(math.sqrt(10))


def test_a_curve_that_falls_back_has_not_reached_it() -> None:
    curve = {10: 0.09, 100: 0.05, 1000: 0.10}
    needed = 1000 / saving(curve, 0.08, lower=False).times
    assert 100 < needed < 1000
    assert not saving({10: 0.2, 100: 0.05}, 0.1, lower=False).reached


def test_savings_in_words() -> None:
    assert told([Saving(times=10.0), Saving(times=40.0)]) == "20 × (10–40)"
    assert told([Saving(times=2.0), Saving(times=0.0)]) == "2.0 × (2.0–2.0); not reached in 1 of 2 seeds"
    assert told([Saving(times=100.0, bound=True)]) == "≥ 100 × (100–100)"
    assert told([Saving(times=0.0)] * 3) == "not reached with all labels (3 seeds)"


def made(quality: list[float], alt: list[float]) -> dict[str, Any]:
    """A result in which segmentation came out as it says."""
    rows = [
        {"kind": "finetuned", "arm": arm, "task": "segmentation", "share": 1.0, "seed": seed, "pictures": 100}
        | {"figure": value, "figures": {}, "seconds": 36.0}
        for arm, values in (("quality", quality), ("alt", alt))
        for seed, value in enumerate(values)
    ]
    settings = {"unfinished": 3, "budget": {"steps": 1, "batch": 2, "count": 3, "finetune_steps": 4, "val": 5}}
    return {"rows": rows, "settings": settings}


def test_the_page_says_where_it_holds_and_where_not() -> None:
    page = study_page.page(made([0.10, 0.11, 0.105], [0.06, 0.061, 0.062]))
    assert "Quality captions beat web texts in segmentation: intervals apart." in page
    assert "does not hold" not in page
    assert "3 runs were not finished" in page
    page = study_page.page(made([0.10, 0.11, 0.105], [0.09, 0.12, 0.10]))
    assert "It does not hold, by that measure, in segmentation (no difference shown; by +0.002 [" in page
    assert "beat" not in page


def test_drawings_show_every_mean() -> None:
    lines = {"quality": {10: [0.1, 0.2], 100: [0.3, 0.3]}, "alt": {10: [0.1], 100: [0.1]}}
    drawing = curves("segmentation: mIoU", lines)
    assert (drawing.count("<circle"), drawing.count("<polyline")) == (4, 2)
    drawing = dots({"mIoU": {"quality": [0.1, 0.2], "alt": [0.1]}, "RMSE": {"quality": [1.0, 1.1]}})
    assert drawing.count("<circle") == 3
    assert "nan" not in drawing
    assert "inf" not in drawing


@pytest.mark.parametrize(("low", "high"), [(0.0455, 0.1215), (0.0, 1.0), (1.301, 1.412), (0.007, 0.028)])
def test_marks_of_a_curve_are_the_numbers_that_they_say(low: float, high: float) -> None:
    found = round_marks(low, high)
    assert 3 <= len(found) <= 8
    assert all(float(text) == pytest.approx(value, rel=1e-9) for value, text in found)
    assert low <= found[0][0] < found[-1][0] <= high
