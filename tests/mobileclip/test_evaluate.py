"""Whole evaluations on sets made here, by encoders that are right, blind or broken by construction."""

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from mobileclip.data.scenes import write_scenes
from mobileclip.errors import DataError
from mobileclip.evaluate import Report, compare, evaluate, run
from mobileclip.evaluate.encoder import ModelEncoder, encode_distinct, unit
from mobileclip.evaluate.pictures import Files
from mobileclip.evaluate.sets import Classification, Retrieval
from mobileclip.models import Clip

RED, GREEN, BLUE = (220, 30, 30), (30, 200, 40), (40, 40, 230)
COLOURS = {"red": RED, "green": GREEN, "blue": BLUE}


class ByColour:
    """An encoder that sees the mean colour of a picture, and the colours that a text names: right by construction."""

    name = "by colour"
    logit_scale = 10.0

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode_images(self, images: Iterable[Image.Image]) -> npt.NDArray[np.float32]:
        return unit([np.asarray(image, np.float32).mean(axis=(0, 1)) for image in images] or np.zeros((0, 3)))

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.texts += texts
        return unit([sum((np.array(c, np.float32) for n, c in COLOURS.items() if n in t), np.zeros(3)) for t in texts])


class Constant(ByColour):
    """Gives one embedding for everything."""

    value = 1.0

    def encode_images(self, images: Iterable[Image.Image]) -> npt.NDArray[np.float32]:
        return unit([[self.value, 0, 0] for _ in images])

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return unit([[self.value, 0, 0] for _ in texts])


class Broken(Constant):
    """Gives NaN for everything."""

    value = float("nan")


def picture(path: Path, colour: tuple[int, int, int], seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-20, 20, (20, 24, 3))
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 classes of 4 pictures; one green picture is among the red ones."""
    root = tmp_path_factory.mktemp("sets") / "colours"
    for name, colour in COLOURS.items():
        for index in range(4):
            odd = name == "red" and index == 3
            picture(root / name / f"{index}.png", GREEN if odd else colour, index)
    return root


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets") / "captioned"
    rows = []
    for index, (name, colour) in enumerate(COLOURS.items()):
        picture(root / "images" / f"{index}.png", colour, index)
        rows.append({"file": f"images/{index}.png", "captions": [f"something {name}", f"{name} paint"]})
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def test_equal_texts_are_encoded_once() -> None:
    encoder = ByColour()
    found = encode_distinct(encoder, ["red", "blue", "red", "red"])
    assert encoder.texts == ["red", "blue"]
    np.testing.assert_array_equal(found, ByColour().encode_texts(["red", "blue", "red", "red"]))


def test_zero_shot_from_a_folder(colours: Path) -> None:
    (found,) = evaluate(ByColour(), zero_shot=colours).rows()
    assert found["set"] == "colours"
    assert found["task"] == "zero-shot"
    assert found["encoder"] == "by colour"
    assert (found["n"], found["classes"], found["templates"], found["lost"]) == (12, 3, 1, 0)
    assert found["top1"] == pytest.approx(11 / 12)
    assert found["chance"] == pytest.approx(1 / 3)
    assert found["confused"] == [{"true": "red", "predicted": "green", "count": 1, "share": 0.25}]
    assert [entry["class"] for entry in found["per_class"]] == ["blue", "green", "red"]
    assert found["per_class"][2] == {"class": "red", "accuracy": 0.75, "n": 4}
    assert found["calibration"]["logit_scale"] == 10.0
    assert found["images_per_second"] > 0
    json.dumps(found, allow_nan=False)


def test_retrieval_from_a_folder(captioned: Path) -> None:
    (found,) = run(ByColour(), retrieval=captioned)
    assert (found["task"], found["n"], found["texts"]) == ("retrieval", 3, 6)
    assert found["image_to_text"]["R@1"] == found["text_to_image"]["R@1"] == 1
    assert found["image_to_text"]["R@5"] is None
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("encoder", [Constant(), Broken()])
def test_an_encoder_that_sees_nothing_scores_nothing(encoder: Constant, colours: Path, captioned: Path) -> None:
    classified, searched = evaluate(encoder, zero_shot=colours, retrieval=captioned).rows()
    assert classified["top1"] == (1 / 3 if encoder.value == 1 else 0)  # "always class 0"
    assert classified["not_finite"] == (0 if encoder.value == 1 else 12)
    assert (classified["calibration"] is None) is (encoder.value != 1)
    assert searched["image_to_text"]["R@1"] == searched["text_to_image"]["R@1"] == 0
    json.dumps([classified, searched], allow_nan=False)


def test_limits(colours: Path, captioned: Path) -> None:
    classified, searched = run(ByColour(), zero_shot=colours, retrieval=captioned, limit=2)
    assert (classified["n"], searched["n"], searched["texts"]) == (2, 2, 4)
    assert [entry["n"] for entry in classified["per_class"]] == [1, 1]  # of two classes, not two of one
    with pytest.raises(DataError, match="a limit of 0 leaves no picture: give at least 1, or leave it out"):
        evaluate(ByColour(), zero_shot=colours, limit=0)


def test_nothing_to_evaluate_on() -> None:
    with pytest.raises(
        DataError, match=r"nothing to evaluate on: give a set to classify \(zero-shot\), a set to search"
    ):
        evaluate(ByColour())


def test_broken_pictures_are_counted_up_to_a_share(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{index}.png", RED, index) for index in range(20)]
    paths[7].write_bytes(b"not a picture")
    what = Retrieval(name="few", pictures=Files(tuple(paths)), captions=tuple((f"red {i}",) for i in range(20)))
    (found,) = evaluate(ByColour(), retrieval=what, lost_share=0.05).rows()
    assert (found["n"], found["lost"], found["texts"]) == (19, 1, 19)
    with pytest.raises(
        DataError,
        match=r"few: 1 of 20 pictures are missing or cannot be read \(7\.png: 7\.png is not a picture .*\): at most "
        r"1\.0% may be; get them again, or allow a larger share",
    ):
        evaluate(ByColour(), retrieval=what)
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(DataError, match="few: 20 of 20 pictures"):
        evaluate(ByColour(), retrieval=what, lost_share=1.0)


def test_progress_is_told(tmp_path: Path) -> None:
    class Slow(Files):
        def read(self, index: int) -> Image.Image:
            time.sleep(0.6)
            return super().read(index)

    paths = tuple(picture(tmp_path / f"{index}.png", RED, index) for index in range(10))
    lines: list[str] = []
    what = Retrieval(name="slow", pictures=Slow(paths), captions=tuple((f"red {i}",) for i in range(10)))
    evaluate(ByColour(), retrieval=what, progress=lines.append)
    assert any(line.startswith("slow: ") and " of 10 pictures" in line for line in lines)
    assert "slow: 10 texts" in lines


def test_before_and_after(colours: Path, captioned: Path) -> None:
    class Colder(ByColour):
        name = "colder"

        def encode_images(self, images: Iterable[Image.Image]) -> npt.NDArray[np.float32]:
            return unit(super().encode_images(images) * [0, 1, 1])  # blind to red

    sets = {"zero_shot": colours, "retrieval": captioned}
    before, after = evaluate(ByColour(), **sets), evaluate(Colder(), **sets)
    for same in compare(before, before):
        assert (same["difference"], same["agreement"], same["p"]) == (0, 1, 1)
        assert same["cosine_min"] == pytest.approx(1)
    classified, searched = compare(before, after)
    assert classified["before"] == "by colour"
    assert classified["after"] == "colder"
    assert classified["right_before"] - classified["right_after"] == pytest.approx(-classified["difference"])
    assert classified["only_before"] == 3
    assert classified["only_after"] == 0
    assert classified["agreement"] == pytest.approx(9 / 12)
    assert classified["p"] == pytest.approx(0.25)
    assert classified["cosine_mean"] < 1
    assert searched["task"] == "retrieval"
    json.dumps([classified, searched], allow_nan=False)


def test_reports_that_cannot_be_compared(colours: Path, captioned: Path) -> None:
    whole, part = evaluate(ByColour(), zero_shot=colours), evaluate(ByColour(), zero_shot=colours, limit=3)
    with pytest.raises(
        DataError, match="colours: 'by colour' and 'by colour' saw other pictures: give both the same limit"
    ):
        compare(whole, part)
    with pytest.raises(DataError, match="were measured on other sets: measure both on the same ones"):
        compare(whole, evaluate(ByColour(), retrieval=captioned))
    wide = Report(encoder="x", results=())
    assert compare(wide, wide) == []


def test_other_lengths_have_no_cosine(colours: Path, nano: Clip) -> None:
    what = Classification(
        name="one",
        pictures=Files((colours / "red" / "0.png",)),
        labels=np.zeros(1, np.int64),
        classes=("red", "blue"),
        templates=("{}",),
    )
    (found,) = compare(evaluate(ByColour(), zero_shot=what), evaluate(ModelEncoder(nano), zero_shot=what))
    assert found["cosine_mean"] is found["cosine_min"] is None


def test_real_photos_are_at_chance_for_a_seeded_model(photos: Path, nano: Clip) -> None:
    (found,) = run(ModelEncoder(nano), retrieval=photos.parent)
    assert (found["n"], found["lost"], found["set"]) == (111, 0, "photos")
    assert found["text_to_image"]["n"] == found["texts"] == 555
    for way in ("image_to_text", "text_to_image"):
        assert found[way]["R@1"] < 0.06
        assert found[way]["R@1"] <= found[way]["R@5"] <= found[way]["R@10"] < 0.25
        assert found[way]["not_finite"] == 0
    assert 35 < found["text_to_image"]["median_rank"] < 75  # 56 by chance


def test_scenes_are_a_set_of_both_kinds(nano: Clip, tmp_path: Path) -> None:
    val = write_scenes(tmp_path / "scenes", count=4, val_count=12, size=48, dense=False) / "val"
    classified, searched = run(ModelEncoder(nano), zero_shot=val, retrieval=val)
    assert classified["n"] == searched["n"] == 12
    assert classified["classes"] == len((val / "classes.txt").read_text().split("\n")) - 1
    assert classified["templates"] == len((val / "templates.txt").read_text().split("\n")) - 1
    assert classified["lost"] == searched["lost"] == searched["left_out"] == 0
