"""Looking at a dense data set before training: what is counted, what is drawn, what is wrong, and the exit codes."""

import json
from pathlib import Path

import made
import numpy as np
import pytest
from PIL import Image

from mobileclip import cli
from mobileclip.dense.data import checking
from mobileclip.dense.data.checking import check, lines, spread, tables
from mobileclip.dense.data.sheet import sheet
from mobileclip.errors import DataError


def test_ade(tmp_path: Path) -> None:
    """All classes once, each in one column; the published count; 16 samples, or as many as there are."""
    root = made.ade(tmp_path / "ade")
    report = check(root, "segmentation", "train", out=tmp_path / "look")
    assert (report.count, report.published, report.read, report.usable) == (4, 20_210, 4, 4)
    assert (report.rows, report.columns) == ((50, 65, 80), (160, 160, 160))
    assert report.classes[149] == {"id": 149, "name": "thing 150", "samples": 4, "pixels": 50 + 60 + 70 + 80}
    assert report.ranges == {"without_truth": round(10 / 160, 4)}
    assert report.problems == []
    with Image.open(tmp_path / "look" / "samples.png") as drawn:
        assert drawn.size == (4 * 496 + 8, 266 + 8)
        pixels = np.asarray(drawn)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    said = json.loads((tmp_path / "look" / "report.json").read_text())
    assert said["usable"] == 4
    assert said["layout"] == "ade"
    assert "4 samples (published: 20,210), layout 'ade', segmentation" in lines(report)[0]
    title, columns, rows = tables(report)[0]
    assert title == "classes: the 15 most and 10 least frequent of 150"
    assert columns == ("id", "name", "samples", "pixels", "share")
    assert len(rows) == 25


def test_problems_are_counted_by_kind(tmp_path: Path) -> None:
    root = made.folder(tmp_path / "f", names=("a", "b", "c", "d", "e", "g", "h"))
    truth = root / "masks" / "train"
    made.save(np.full((48, 64), 7, np.uint8), truth / "a.png")
    made.save(np.full((48, 64), 9, np.uint8), truth / "b.png")
    made.save(np.full((48, 64), 255, np.uint8), truth / "c.png")
    made.save(np.zeros((8, 8), np.uint8), truth / "d.png")
    (truth / "e.png").unlink()
    made.save(made.picture(0, 20, 30), root / "images" / "train" / "g.png")
    made.save(np.zeros((20, 30), np.uint8), truth / "g.png")
    report = check(root, "segmentation", "train", out=tmp_path / "look")
    assert (report.count, report.usable) == (6, 3)
    found = {problem.what: (problem.count, Path(problem.first).name) for problem in report.problems}
    assert found == {
        "a file holds the label N (N pixels)": (2, "a.png"),
        "a file has N x N pixels and a file N x N": (1, "d.png"),
        "no pixel that counts": (1, "c.png"),
        "left out: image without a mask": (1, "e.png"),
        "a side of less than 32 pixels": (1, "g.png"),
    }
    assert tables(report)[1][2][0] == ["a file holds the label N (N pixels)", "2", str(truth / "a.png")]


def test_detection_and_depth(tmp_path: Path) -> None:
    coco = check(made.coco(tmp_path / "coco"), "detection", "val", out=tmp_path / "a")
    assert coco.published == 5_000
    assert [row["objects"] for row in coco.classes] == [3, 1, 1]
    assert coco.ranges == {"objects_mean": 1.67, "objects_most": 3}
    what = {problem.what: problem.count for problem in coco.problems}
    assert what["left out: image that is not there"] == 1
    assert what["no object"] == 1
    assert "1 of 6 objects have no mask; their boxes are taken." in lines(coco)
    root = made.nyu_tree(tmp_path / "nyu")
    made.save(np.zeros((480, 640), np.uint16), root / "sync" / "room_0000" / "sync_depth_00045.png")
    depth = check(root, "depth", "train", out=tmp_path / "b")
    assert depth.published == 24_231
    assert [(problem.what, problem.first) for problem in depth.problems] == [
        ("no depth at all: it counts nowhere", "sync/room_0000/rgb_00045.png")
    ]
    assert depth.ranges["nearest"] == 1.125
    assert depth.ranges["farthest"] == pytest.approx(3.12, abs=0.01)
    assert depth.ranges["without_truth"] == pytest.approx((1 + 3000 / 307_200) / 2, abs=1e-4)


def test_limit_and_spread(tmp_path: Path) -> None:
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 4) == spread(3, None) == [0, 1, 2]
    told: list[tuple[int, int]] = []
    root = made.scenes(tmp_path / "scenes")
    report = check(root, "depth", "train", limit=2, progress=lambda *said: told.append(said))
    assert (report.count, report.read) == (6, 2)
    assert told == [(1, 2), (2, 2)]
    rare = check(root, "detection", "val", "scenes")
    assert rare.problems[0].what == "class of which nothing was seen"


def test_a_sheet_of_any_pictures() -> None:
    """Narrow, tiny and without objects; more samples than fit in a row."""
    samples = [made.ramp(1, 1), made.ramp(2, 300), made.ramp(300, 2, objects=True), *[made.ramp(30, 40)] * 14]
    content = sheet(samples, ("a", "b", "c"))
    assert content[:4] == b"\x89PNG"
    assert sheet([], ())[:4] == b"\x89PNG"


def run(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    code = cli.main(["inspect", *map(str, args)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = made.folder(tmp_path / "f")
    code, out, _ = run(capsys, root, "--task", "segmentation", "--out", tmp_path / "look")
    assert code == 0
    assert "f/train: 3 samples, layout 'folder', segmentation" in out
    assert "samples.png: look at it before training" in out
    assert "ground" in out
    assert (tmp_path / "look" / "samples.png").exists()
    code, out, _ = run(capsys, root, "--task", "depth", "--split", "val", "--json", "--decode")
    assert code == 0
    assert json.loads(out)["ranges"]["nearest"] == 1.5
    for path in (root / "masks" / "train").iterdir():
        path.write_bytes(b"junk")
    code, out, _ = run(capsys, root, "--task", "segmentation", "--layout", "folder")
    assert code == 1
    assert "cannot be read" in out


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["x", "--task", "dept"], "unknown task 'dept': did you mean 'depth'?"),
        (["x", "y", "--task", "depth"], "2 paths were given with --task: give one, of one data set."),
        (["x", "--out", "y"], "--out is of data sets with truth for each pixel: give their --task too."),
        (["x", "--layout", "ade"], "--layout is of data sets with truth for each pixel: give their --task too."),
        (["nowhere", "--task", "depth"], "'nowhere' does not exist: give the folder of a data set."),
    ],
)
def test_mistakes(args: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, *args)
    assert code == 2
    assert text in err


def test_published_counts() -> None:
    """ADE20K, COCO 2017 and NYUv2 as their protocols give them."""
    assert checking.PUBLISHED == {
        ("ade", "train"): 20_210,
        ("ade", "val"): 2_000,
        ("coco", "train"): 118_287,
        ("coco", "val"): 5_000,
        ("nyu", "train"): 24_231,
        ("nyu", "train795"): 795,
        ("nyu", "val"): 654,
    }


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no data set for depth with the split 'train'"):
        check(tmp_path, "depth")
