"""What a measured figure must tell besides itself: pictures of any size, those in no figure, and how it was taken."""

import json
from pathlib import Path

import made
import numpy as np
import pytest
from PIL import Image

from mobileclip import cli
from mobileclip.config import config_of
from mobileclip.dense.checkpoint import save
from mobileclip.dense.config import DenseConfig
from mobileclip.dense.data.sets import open_set
from mobileclip.dense.evaluation import evaluate, read_report
from mobileclip.dense.metrics import DepthMetric, SegmentationMetric
from mobileclip.dense.model import DenseModel, build
from mobileclip.dense.page import write_report
from mobileclip.dense.predictor import predictor
from mobileclip.dense.samples import Depths, Sample, Segmented
from mobileclip.errors import DataError


def model(head: str, labels: tuple[str, ...] = ()) -> DenseModel:
    return build(DenseConfig(encoder=config_of("nano"), head=head, size=(64, 64), labels=labels)).eval()


@pytest.fixture(scope="module")
def extremes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures of 1 x 1 and of 12,000 x 9,000, their label maps and depth; one map is all holes."""
    root = tmp_path_factory.mktemp("extremes")
    for name, size in (("large", (9000, 12_000)), ("one", (1, 1)), ("plain", (40, 50))):
        made.save(np.full((*size, 3), 90, np.uint8), root / "images" / "val" / f"{name}.jpg")
        for folder in ("masks", "depth"):
            (root / folder / "val").mkdir(parents=True, exist_ok=True)
        Image.new("L", size[::-1], 1).save(root / "masks" / "val" / f"{name}.png", compress_level=1)
        metres = np.zeros(size, np.uint16)
        metres[-1] = 0 if name == "plain" else 2000
        Image.fromarray(metres).save(root / "depth" / "val" / f"{name}.png", compress_level=1)
    (root / "labels.txt").write_text("ground\nthing\n")
    return root


def test_pictures_of_1_by_1_and_of_12000_by_9000_are_measured(extremes: Path, tmp_path: Path) -> None:
    """Whole and at their own size, and drawn small; a map of holes is in no figure, and told."""
    truth = open_set(extremes, "segmentation", "val")
    report = evaluate(predictor(model("seg_linear", truth.labels)), truth, keep=(0, 1))
    assert (report.n, report.lost) == (3, ())
    assert sum(map(sum, report.tables["confusion"])) == 9000 * 12_000 + 1 + 40 * 50
    page = write_report(report, tmp_path / "seg")
    assert page.stat().st_size < 1 << 20
    depth = evaluate(predictor(model("depth_phone")), open_set(extremes, "depth", "val"))
    assert (depth.n, depth.skipped) == (2, ("images/val/plain.jpg",))
    assert sorted(row["pixels"] for row in depth.tables["per_picture"]) == [1, 12_000]
    text = write_report(depth, tmp_path / "depth").read_text()
    assert "without truth" in text
    assert "1 pictures: images/val/plain.jpg" in text
    again = read_report(tmp_path / "depth")
    assert again.as_dict() == depth.as_dict()


def test_the_command_tells_what_is_in_no_figure(
    extremes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "few"
    for folder in ("images", "depth"):
        (root / folder / "val").mkdir(parents=True)
        for name in ("one", "plain"):
            (file,) = (extremes / folder / "val").glob(f"{name}.*")
            (root / folder / "val" / file.name).symlink_to(file)
    subject = str(save(model("depth_phone"), tmp_path / "model"))
    assert cli.main(["evaluate", subject, "--dense", str(root), "--out", str(tmp_path / "out")]) == 0
    assert "without truth, in no figure: 1 pictures (first 'images/val/plain.jpg')" in capsys.readouterr().out
    (said,) = (tmp_path / "out").glob("*/report.json")
    assert json.loads(said.read_text())["skipped"] == ["images/val/plain.jpg"]


def test_objects_of_pictures_that_are_too_large_are_not_measured(tmp_path: Path) -> None:
    """12,000 x 9,000 is left out of what detection is measured on, and counted; it can be trained on."""
    root = made.coco(tmp_path / "coco")
    for split in ("train", "val"):
        path = root / "annotations" / f"instances_{split}2017.json"
        values = json.loads(path.read_text())
        (entry,) = (one for one in values["images"] if one["file_name"] == "one.jpg")
        entry["width"], entry["height"] = 12_000, 9_000
        values["annotations"] = [
            {key: value for key, value in one.items() if key != "segmentation"} for one in values["annotations"]
        ]
        path.write_text(json.dumps(values))
    opened = open_set(root, "detection", "val")
    what = "image of more than 25,000,000 pixels, whose objects are not predicted"
    assert opened.skipped[what] == 1
    assert opened.skipped.first[what] == "one.jpg"
    assert what not in open_set(root, "detection", "train").skipped


def test_a_picture_that_cannot_be_predicted_is_named(monkeypatch: pytest.MonkeyPatch, extremes: Path) -> None:
    monkeypatch.setattr("mobileclip.dense.host.MAX_PIXELS", 1000)
    truth = open_set(extremes, "segmentation", "val")
    see = predictor(model("seg_linear", truth.labels))
    with pytest.raises(DataError) as caught:
        evaluate(see, truth)
    assert str(caught.value).startswith(
        f"{truth.name}: 1 of 3 pictures are missing or cannot be read "
        "(images/val/large.jpg: the picture is 12000 x 9000: at most 1,000 pixels are predicted at once; make it"
    )
    report = evaluate(see, truth, lost_share=0.9)
    assert (report.n, [text.split(":")[0] for text in report.lost]) == (
        1,
        ["images/val/large.jpg", "images/val/plain.jpg"],
    )


@pytest.mark.parametrize(
    ("options", "protocol"),
    [
        ({}, "whole"),
        ({"mode": "slide", "flip": True}, "slide + flip"),
        ({"scales": (0.5, 1.0)}, "whole + multi-scale"),
        ({"scales": (0.5, 1.0), "flip": True}, "whole + multi-scale + flip"),
        ({"mode": "fixed"}, "fixed"),
    ],
)
def test_a_predictor_says_how_it_looks(options: dict, protocol: str) -> None:
    assert predictor(model("depth_phone"), **options).protocol == protocol


def test_parts_of_a_picture_are_measured_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    image = np.zeros((50, 70, 3), np.uint8)
    labels = Sample(name="a", image=image, labels=generator.integers(0, 5, (50, 70)).astype(np.uint8))
    depth = Sample(name="a", image=image, depth=generator.uniform(0, 12, (50, 70)).astype(np.float32))
    said = Segmented(labels=generator.integers(0, 5, (50, 70)).astype(np.uint8))
    metres = Depths(metres=generator.uniform(-1, 12, (50, 70)).astype(np.float32))

    def figures() -> list[dict[str, float]]:
        segmentation, deep = SegmentationMetric("abcde"), DepthMetric()
        segmentation.add(said, labels)
        deep.add(metres, depth)
        return [segmentation.result()["figures"], deep.result()["figures"]]

    whole = figures()
    for few in (33, 70, 1000):
        monkeypatch.setattr("mobileclip.dense.metrics.AT_ONCE", few)
        parts = figures()
        assert parts[0] == whole[0]
        assert parts[1] == pytest.approx(whole[1], rel=1e-12)
