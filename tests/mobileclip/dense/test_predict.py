"""`mobileclip predict` and `evaluate --dense` on real small models: pictures, folders, videos, and what is broken."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobileclip import cli
from mobileclip.dense import host
from mobileclip.dense.predicting import described, fitted, list_sources, predict
from mobileclip.dense.samples import Depths, Detected, Segmented
from mobileclip.dense.video import frames, is_video
from mobileclip.errors import ImageError, MissingExtra, MobileClipError, OutputError

SEGMENTER = "seeded:nano+semfpn@64"


class Bright:
    """A predictor without a model: class 1 where it is bright; counts its calls."""

    name, task, labels, category_ids = "bright", "segmentation", ("dark", "bright"), ()

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, image: np.ndarray) -> Segmented:
        self.calls += 1
        return Segmented(labels=(image[..., 0] > 127).astype(np.uint8))


def picture(path: Path, height: int = 30, width: int = 40, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return path


def film(path: Path, count: int = 10) -> Path:
    """A video whose frame n is grey, 20 n, with a red upper left corner."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.bit_rate = 4_000_000
        for number in range(count):
            pixels = np.full((48, 64, 3), 20 * number, np.uint8)
            pixels[:16, :16] = (250, 0, 0)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    picture(folder / "a.png")
    picture(folder / "b.jpg", 20, 50, 1)
    (folder / "notes.txt").write_text("no picture")
    (folder / "poison.jpg").write_bytes((folder / "b.jpg").read_bytes()[:300])
    return folder


def test_pictures_become_files_and_poison_is_told(photos: Path, tmp_path: Path) -> None:
    out, see, told = tmp_path / "out", Bright(), []
    found = predict(see, [photos], out, server=True, progress=lambda *done: told.append(done))
    assert (found.done, found.kept) == (2, 0)
    assert told == [(1, 3), (2, 3), (3, 3)]
    ((source, why),) = found.failed
    assert source.endswith("poison.jpg")
    assert "poison.jpg is damaged or cut short" in why or "damaged" in why
    values = json.loads((out / "a.png.json").read_text())
    assert (values["width"], values["height"]) == (40, 30)
    assert {row["label"] for row in values["classes"]} == {"dark", "bright"}
    assert sum(row["pixels"] for row in values["classes"]) == 1200
    assert sorted(values["files"]) == ["labels", "overlay", "server"]
    assert Image.open(out / "a.png.overlay.jpg").size == (40, 30)
    labels = np.asarray(Image.open(out / "a.png.labels.png"))
    assert np.array_equal(labels, np.asarray(Image.open(photos / "a.png"))[..., 0] > 127)
    assert np.array_equal(np.asarray(Image.open(out / "a.png.server.png")), labels + 1)
    assert json.loads((out / "summary.json").read_text())["failed"][0]["why"] == why


def test_a_second_run_goes_on(photos: Path, tmp_path: Path) -> None:
    out, see = tmp_path / "out", Bright()
    predict(see, [photos], out, settings={"mode": "whole"})
    again = predict(see, [photos], out, settings={"mode": "whole"})
    assert (again.done, again.kept, see.calls) == (0, 2, 2)
    (out / "a.png.overlay.jpg").unlink()
    assert predict(see, [photos], out, settings={"mode": "whole"}).done == 1
    assert predict(see, [photos], out, settings={"mode": "slide"}).done == 2, "made in another way"
    picture(photos / "a.png", seed=5)
    assert predict(see, [photos], out, settings={"mode": "slide"}).done == 1, "another picture of the same name"
    (out / "b.jpg.json").write_text('{"source": ')
    assert predict(see, [photos], out, settings={"mode": "slide"}).done == 1, "cut short"


def test_files_of_the_same_name(tmp_path: Path) -> None:
    for place in "xy":
        picture(tmp_path / place / "a.png")
    sources = [tmp_path / "x", tmp_path / "y", tmp_path / "x" / "a.png"]
    assert list(list_sources(sources, tmp_path / "out")) == ["a.png", "2_a.png"]


def test_huge_pictures_are_made_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobileclip.dense.predicting.MOST_PIXELS", 100)
    assert fitted(np.zeros((9, 11, 3), np.uint8)).shape == (9, 11, 3)
    assert fitted(np.zeros((1, 5000, 3), np.uint8)).shape[0] == 1
    predict(Bright(), [picture(tmp_path / "a.png")], tmp_path / "out")
    values = json.loads((tmp_path / "out" / "a.png.json").read_text())
    assert values["scaled_from"] == [40, 30]
    assert values["width"] * values["height"] <= 100
    assert host.MOST_PIXELS == 25_000_000


def test_every_so_many_frames_of_a_video(tmp_path: Path) -> None:
    video = film(tmp_path / "walk.mp4")
    found = list(frames(video, every=4))
    assert [number for number, _ in found] == [0, 4, 8]
    assert [abs(int(image[40, 50, 0]) - 20 * number) < 8 for number, image in found] == [True] * 3
    done = predict(Bright(), [video], tmp_path / "out", every=5)
    assert done.done == 2
    names = {path.name for path in (tmp_path / "out").glob("*.json")}
    assert names == {"walk.mp4.000000.json", "walk.mp4.000005.json", "summary.json"}
    assert is_video(Path("a.MOV"))
    assert not is_video(Path("a.jpg"))


def test_a_phones_upright_video_is_upright(tmp_path: Path) -> None:
    video = film(tmp_path / "walk.mp4", 2)
    data = bytearray(video.read_bytes())
    # the matrix of the track's header (ISO 14496-12, 8.3.2), as a phone held upright writes it: 90 degrees clockwise
    at = data.index(b"tkhd") + 44
    one, minus = (1 << 16).to_bytes(4, "big"), (-(1 << 16)).to_bytes(4, "big", signed=True)
    zero = bytes(4)
    data[at : at + 36] = (
        zero + one + zero + minus + zero + zero + (48 << 16).to_bytes(4, "big") + zero + data[at + 32 : at + 36]
    )
    video.write_bytes(data)
    _, image = next(frames(video))
    assert image.shape == (64, 48, 3)
    assert image[5, 43, 0] > 180, "the corner that was upper left is upper right"
    assert image[5, 5, 0] < 60


def test_videos_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    av = pytest.importorskip("av")
    (tmp_path / "bad.mp4").write_bytes(b"no video at all" * 50)
    with pytest.raises(
        ImageError, match=r"^bad\.mp4 is no video that can be read \(.*\): convert it to H\.264 in MP4\.$"
    ):
        next(frames(tmp_path / "bad.mp4"))
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ImageError, match=r"^sound\.mp4 has no pictures: give a video file, or pictures\.$"):
        next(frames(tmp_path / "sound.mp4"))
    video = film(tmp_path / "walk.mp4", 2)
    found = predict(Bright(), [video, tmp_path / "bad.mp4"], tmp_path / "out")
    assert (found.done, len(found.failed)) == (1, 1)
    monkeypatch.setattr("mobileclip.dense.video.MAX_PIXELS", 100)
    with pytest.raises(ImageError, match=r"^walk\.mp4 has frames of more than 100 pixels: make it smaller first\.$"):
        next(frames(video))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        MissingExtra, match=r"^videos need PyAV: `pip install 'mobileclip-toolkit\[dense\]'`, or give pi"
    ):
        predict(Bright(), [video], tmp_path / "out")


def test_refusals(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nowhere does not exist: give pictures, videos, or folders of them\.$"):
        predict(Bright(), [tmp_path / "nowhere"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match=r"^no picture or video in .*empty: give some\.$"):
        predict(Bright(), [tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(OutputError, match=r"photos is also where pictures are read: give --out another folder\.$"):
        predict(Bright(), [photos], photos)
    with pytest.raises(
        MobileClipError, match=r"^every 0 frames is no distance: 1 takes each frame, 30 one a second\.$"
    ):
        predict(Bright(), [photos], tmp_path / "out", every=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        predict(Bright(), [photos], tmp_path / "file" / "out")


def test_predictions_in_numbers() -> None:
    said = described(Depths(metres=np.array([[1.0, 3.0, np.nan]], np.float32)), ())["depth"]
    assert (said["least"], said["most"], said["mean"], said["p50"]) == (1, 3, 2, 2)
    assert described(Depths(metres=np.full((1, 1), np.nan, np.float32)), ()) == {"depth": None}
    mask = np.zeros((1, 4, 5), bool)
    mask[0, 1:3, 2:4] = True
    found = Detected(
        boxes=np.array([[2, 1, 4, 3]], np.float32),
        scores=np.array([0.5], np.float32),
        classes=np.array([1]),
        masks=mask,
    )
    (row,) = described(found, ("cat", "dog"), (17, 18))["objects"]
    assert row == {
        "class": 1,
        "label": "dog",
        "category_id": 18,
        "score": 0.5,
        "box": [2, 1, 4, 3],
        "area": 4,
        "segmentation": {"size": [4, 5], "counts": [9, 2, 2, 2, 5]},
    }


@pytest.mark.parametrize(
    ("subject", "key"),
    [(SEGMENTER, "classes"), ("seeded:nano+depth@64", "depth"), ("seeded:nano+onestage@64", "objects")],
)
def test_the_command_predicts(
    subject: str, key: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["predict", subject, str(photos), "--out", str(tmp_path / "out"), "--json"]
    assert cli.main(args) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["done"], len(said["failed"])) == (2, 1)
    assert key in json.loads((tmp_path / "out" / "a.png.json").read_text())
    assert cli.main(args[:-1]) == 0
    shown = capsys.readouterr()
    assert "0 pictures predicted, 2 were there already, 1 could not be read." in shown.out
    assert "poison.jpg: " in shown.err


def scenes(folder: Path, count: int = 4) -> Path:
    """A set in the layout `folder`: pictures and palette masks of two classes."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for place in range(count):
            path = folder / "images" / split / f"{place}.png"
            picture(path, seed=place)
            mask = folder / "masks" / split / f"{place}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 2, (30, 40), np.uint8)).save(mask)
    return folder


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (
            ["evaluate", "seeded:nano", "--dense", "."],
            "seeded:nano does not exist: give a folder that `mobileclip finet",
        ),
        (
            ["evaluate", "seeded:nano", "--task", "depth"],
            "--task is of dense tasks: give their data set as --dense too.",
        ),
        (
            ["evaluate", "x", "--dense", ".", "--zero-shot", "."],
            "--zero-shot is of image-text models and --dense of de",
        ),
        (["evaluate", "x", "--dense", "nowhere"], "nowhere does not exist: give a folder or a file that does."),
        (["evaluate", SEGMENTER, "--dense", ".", "--task", "dept"], "unknown task 'dept': did you mean 'depth'?"),
        (
            ["evaluate", SEGMENTER, "--dense", ".", "--task", "depth"],
            "does segmentation, not depth: leave the task out",
        ),
        (
            ["predict", ".", ".", "--out", "x"],
            ". is no dense checkpoint and no bundle: give a folder that `mobileclip f",
        ),
        (
            ["predict", SEGMENTER, "nowhere", "--out", "x"],
            "nowhere does not exist: give pictures, videos, or folders of",
        ),
        (["predict", SEGMENTER, "--out", "x"], "nothing to predict: give pictures, videos, or folders of them."),
        (["predict", SEGMENTER, ".", "--target", "onxx", "--out", "x"], "unknown target 'onxx': did you mean 'onnx'?"),
    ],
)
def test_mistakes(args: list[str], text: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(args) == 2
    assert text in capsys.readouterr().err.replace("\n", " ")


def test_the_command_evaluates_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mobileclip.config import config_of
    from mobileclip.dense.checkpoint import save
    from mobileclip.dense.config import DenseConfig
    from mobileclip.dense.data.sets import open_set
    from mobileclip.dense.model import build

    truth = open_set(scenes(tmp_path / "set"), "segmentation", "val")
    config = DenseConfig(encoder=config_of("nano"), head="seg_linear", size=(64, 64), labels=truth.labels)
    subjects = [str(save(build(config), tmp_path / name)) for name in ("one", "two")]
    args = ["evaluate", *subjects, "--dense", str(tmp_path / "set"), "--out", str(tmp_path / "out")]
    assert cli.main([*args, "--json", "--mode", "slide", "--flip", "--limit", "3"]) == 0
    said = json.loads(capsys.readouterr().out)
    ways = ["slide", "slide + flip"]  # averages never stand alone
    assert [(row["subject"], row["protocol"]) for row in said["results"]] == [
        (subject, way) for subject in subjects for way in ways
    ]
    assert {row["n"] for row in said["results"]} == {3}
    figures = [row["figures"]["mIoU"] for row in said["results"]]
    assert [row["protocols"] for row in said["compared"]] == [ways, ["slide"] * 2, ["slide + flip"] * 2]
    assert [row["change"]["mIoU"] for row in said["compared"]] == pytest.approx(
        [figures[1] - figures[0], figures[2] - figures[0], figures[3] - figures[1]]
    )
    folders = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [(name[0], name.endswith("-flip")) for name in folders] == [
        ("1", False),
        ("1", True),
        ("2", False),
        ("2", True),
    ]
    for name, way in zip(folders, ways, strict=False):
        files = {path.name for path in (tmp_path / "out" / name).iterdir()}
        assert files == {"report.html", "report.json", "per_class.csv", "confusion.csv"}
        assert f"(segmentation; {way})" in (tmp_path / "out" / name / "report.html").read_text()
    (tmp_path / "set" / "masks" / "val" / "0.png").unlink()
    assert cli.main(args) == 0
    shown = capsys.readouterr().out
    assert "mIoU: higher is better" in shown
    assert "changes" in shown
    assert "report.html" in shown
    assert "left out of set/val: 1 x image without a mask (first '" in shown
    assert "left out of the set" in (tmp_path / "out" / folders[0] / "report.html").read_text()
