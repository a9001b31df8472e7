"""The page: everything of a run is on it, nothing foreign is obeyed, and a browser draws it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mobileclip.config import config_of
from mobileclip.dense.checkpoint import save
from mobileclip.dense.config import DenseConfig
from mobileclip.dense.evaluation import Report, evaluate, read_report
from mobileclip.dense.model import build
from mobileclip.dense.page import write, write_report
from mobileclip.dense.page_curves import curves, read_log
from mobileclip.dense.page_parts import _reduced
from mobileclip.dense.predictor import predictor
from mobileclip.dense.samples import Depths, Detected, Objects, Sample, Segmented
from mobileclip.errors import DataError

HOSTILE = "<script>alert(1)</script>"
NAMES = ("wall", HOSTILE, *(f"class {place}" for place in range(2, 50)))


class Truth:
    """A set in memory, and noise around it as a predictor."""

    category_ids = ()
    fingerprint = "0"

    def __init__(self, task: str) -> None:
        self.task, self.name = task, f"set of {task}"
        self.labels = () if task == "depth" else NAMES

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        generator = np.random.default_rng(index)
        image = generator.integers(0, 256, (40, 60, 3), np.uint8)
        mask = np.zeros((1, 40, 60), bool)
        mask[0, 5:30, 10 : 20 + index] = True
        things = Objects(
            boxes=np.array([[10, 5, 20 + index, 30]], np.float32),
            classes=np.array([index]),
            masks=mask,
            crowd=np.array([False]),
            area=mask.sum((1, 2)).astype(np.float32),
        )
        return Sample(
            name=f"{index}{HOSTILE}.jpg",
            image=image,
            image_id=index,
            labels=image[..., 0] % 50 if self.task == "segmentation" else None,
            depth=image[..., 0] / np.float32(40) if self.task == "depth" else None,
            objects=things if self.task == "detection" else None,
        )

    def __call__(self, image: np.ndarray) -> Segmented | Detected | Depths:
        if self.task == "segmentation":
            labels = image[..., 0] % 50
            return Segmented(labels=np.where(image[..., 1] < 60, (labels + 1) % 50, labels).astype(np.uint8))
        if self.task == "depth":
            return Depths(metres=image[..., 0] / np.float32(50))
        mask = np.zeros((1, 40, 60), bool)
        mask[0, 5:30, 10:20] = True
        return Detected(
            boxes=np.array([[10, 5, 20, 30]], np.float32),
            scores=np.array([0.75], np.float32),
            classes=np.array([0]),
            masks=mask,
        )


def measured(task: str) -> Report:
    truth = Truth(task)
    return evaluate(truth, truth, keep=(0, 3))


class Read(HTMLParser):
    """Tags that were opened and not closed, and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.addresses, self.images = [], [], 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.images += tag == "img"
        self.addresses += [value for name, value in attrs if name in ("src", "href")]


@pytest.mark.parametrize(
    ("task", "files", "images", "words"),
    [
        (
            "segmentation",
            ["confusion.csv", "per_class.csv", "report.html", "report.json"],
            9,
            ["mIoU", "The largest confusions", "50 × 50 classes", "The worst 10", "All 50 classes"],
        ),
        ("depth", ["per_picture.csv", "report.html", "report.json"], 11, ["rmse", "50% and more", "Worst pictures"]),
        (
            "detection",
            ["bbox.json", "per_class.csv", "report.html", "report.json", "segm.json"],
            6,
            ["box_ap", "masks", "ap_small"],
        ),
    ],
)
def test_a_page_for_each_task(task: str, files: list, images: int, words: list, tmp_path: Path) -> None:
    report = measured(task)
    path = write_report(report, tmp_path / "out")
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == files
    text = path.read_text()
    assert all(word in text for word in words)
    read = Read(text)
    assert read.images == images
    assert "script" not in read.tags
    assert all(address.startswith(("data:image/", "#")) for address in read.addresses)
    assert HOSTILE not in text
    again = read_report(tmp_path / "out")
    assert again.as_dict() == report.as_dict()
    assert again.tables.get("confusion") == report.tables.get("confusion")
    assert again.tables.get("per_picture") == report.tables.get("per_picture")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder as `finetune` leaves it, with a real checkpoint of a small model."""
    folder = tmp_path_factory.mktemp("run")
    recipe = {"name": "scenes-segmentation", "head": "semfpn", "data": "nowhere", "val": "", "layout": ""}
    (folder / "run.json").write_text(json.dumps({"recipe": recipe, "corpus": "0"}))
    lines = [{"step": step, "loss": 3 / step, "lr": 1e-4, "images_s": 50.0, "epoch": 1.0} for step in range(1, 1200)]
    lines += [{"step": 600, "val/mIoU": 0.25}, {"step": 1200, "val/mIoU": 0.5, "val/aAcc": float("nan")}]
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 7, "lo')
    config = DenseConfig(encoder=config_of("nano"), head="semfpn", size=(64, 64), labels=NAMES)
    checkpoint = folder / "checkpoints" / "step_00001200"
    save(build(config), checkpoint)
    (folder / "best").symlink_to(checkpoint)
    truth = Truth("segmentation")
    evaluate(predictor(build(config), name="run"), truth).write(checkpoint / "evaluation")
    return folder


def test_a_run_has_curves_figures_and_its_recipe(run: Path) -> None:
    text = write(run).read_text()
    assert "best 0.5 at step 1,200" in text
    assert "No pictures are shown: 'nowhere' does not exist: give the folder of a data set." in text
    assert "scenes-segmentation" in text
    assert Read(text).tags.count("polyline") == 4
    assert (run / "confusion.csv").is_file()
    longest = max(len(points.split()) for points in re.findall(r'points="([^"]*)"', text))
    assert longest == 400, "long logs are thinned out"


def test_a_run_with_pictures(run: Path) -> None:
    report = measured("segmentation")
    assert Read(write(run, report=report).read_text()).images == 9


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"recipe": {"head": "depth"}}))
    text = write(tmp_path).read_text()
    assert "Nothing is measured yet" in text
    with pytest.raises(DataError, match=r"is no folder of a finetuning: it has no run\.json with a recipe"):
        write(tmp_path / "elsewhere")
    with pytest.raises(
        DataError, match=r"holds no evaluation that can be read \(.*\): evaluate the checkpoint again\.$"
    ):
        read_report(tmp_path)


def test_curves_of_little(tmp_path: Path) -> None:
    assert read_log(tmp_path / "missing") == {}
    assert curves({}, "mIoU", "higher") == ""
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": NaN}\n[]\n')
    series = read_log(tmp_path / "log.jsonl")
    assert series["loss"][1].tolist() == [2.0]
    assert "NaN" not in curves(series, "mIoU", "higher")
    nothing = curves({"loss": (np.array([1.0]), np.array([0.0]))}, "mIoU", "higher")
    assert ">0.5</text>" in nothing, "of a figure that is 0 everywhere the axis goes to 1"
    assert "e−" not in nothing


def test_curves_of_many_figures() -> None:
    """A set's own figure and three more are seen at once; what COCO calls -1 is no curve."""
    names = ["box_ap", "mask_ap", "box_ap50", "box_ap75", "box_ar1", "box_ar10"]
    series = {f"val/{name}": (np.array([1.0, 2.0]), np.array([0.1, 0.2])) for name in names}
    series |= {"val/box_ap_large": (np.array([1.0, 2.0]), np.array([-1.0, -1.0]))}
    text = curves(series | {"loss": (np.array([1.0]), np.array([2.0]))}, "box_ap", "higher")
    seen, _, folded = text.partition("<details>")
    assert (seen.count("<polyline"), folded.count("<polyline")) == (5, 2)
    assert "2 further figures" in folded
    assert "ap_large" not in text


def test_large_pictures_are_drawn_small() -> None:
    """Every third pixel of 5,000: the truth, the boxes and the masks stay where they are in the picture."""
    image = np.zeros((30, 5000, 3), np.uint8)
    mask = np.zeros((1, 30, 5000), bool)
    mask[0, 6:24, 1200:3000] = True
    things = Objects(
        boxes=np.array([[1200, 6, 3000, 24]], np.float32),
        classes=np.array([1]),
        masks=mask,
        crowd=np.array([False]),
        area=mask.sum((1, 2)).astype(np.float32),
    )
    said = Detected(boxes=things.boxes, scores=np.array([0.5], np.float32), classes=things.classes, masks=mask)
    small, answer = _reduced(Sample(name="a", image=image, objects=things), said)
    assert small.image.shape == (10, 1667, 3)
    assert small.objects is not None
    assert isinstance(answer, Detected)
    for one in (small.objects, answer):
        assert one.boxes.tolist() == [[400, 2, 1000, 8]]
        assert one.masks[0, 2:8, 400:1000].all()
        assert one.masks.sum() == 6 * 600
    labels, metres = np.zeros((30, 5000), np.uint8), np.zeros((30, 5000), np.float32)
    labels[:, 3000:], metres[:, 3000:] = 1, 2
    sample, seen = _reduced(Sample(name="a", image=image, labels=labels), Segmented(labels=labels))
    assert isinstance(seen, Segmented)
    assert sample.labels is not None
    assert (sample.labels[0, 999:1001].tolist(), seen.labels[0, 999:1001].tolist()) == ([0, 1], [0, 1])
    deep, far = _reduced(Sample(name="a", image=image, depth=metres), Depths(metres=metres))
    assert isinstance(far, Depths)
    assert deep.depth is not None
    assert (deep.depth[0, 1000], far.metres[0, 1000]) == (2, 2)
    plain = Sample(name="a", image=image[:, :2048], labels=labels[:, :2048])
    assert _reduced(plain, seen) == (plain, seen)


def test_a_browser_draws_it(run: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    page = write(run, report=measured("segmentation"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command = [browser, *options, f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0"]
    done = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=60)
    assert "Refused to" not in done.stderr, "the page's own policy must let its parts pass"
    assert done.stdout.count("<polyline") == 4
