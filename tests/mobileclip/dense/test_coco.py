"""COCO's objects: boxes, masks against pycocotools, what is left out, hostile annotations."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from refusals import refused

from mobileclip.dense import open_set
from mobileclip.dense.data import coco, coco_json, masks, reading


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    makers = {"coco": made.coco}
    return {name: maker(tmp_path_factory.mktemp(name)) for name, maker in makers.items()}


def test_coco(roots: dict[str, Path]) -> None:
    opened = open_set(roots["coco"], "detection", "val")
    assert (opened.labels, opened.category_ids) == (("person", "dog", "toothbrush"), (1, 18, 90))
    assert opened.skipped == {
        "object of a picture that is not listed": 1,
        "object of a category that is not listed": 1,
        "object whose box has no area inside the picture": 1,
        "image that is not there": 1,
    }
    assert opened.skipped.first["object whose box has no area inside the picture"] == "two.jpg"
    assert [(opened[index].name, opened[index].image_id) for index in range(3)] == [
        ("two.jpg", 3),
        ("one.jpg", 7),
        ("empty.jpg", 9),
    ]
    two, one, empty = (opened[index].objects for index in range(3))
    assert two is not None
    assert one is not None
    assert empty is not None
    assert two.boxes.tolist() == [[70, 50, 80, 60], [10, 10, 30, 30]]  # cut at the edge
    assert two.classes.tolist() == [2, 0]
    assert two.masks[1].sum() == 400  # without a mask, its box
    assert "1 of 6 objects have no mask; their boxes are taken." in opened.notes
    assert one.crowd.tolist() == [False, False, True]
    assert one.area.tolist() == [3250, 1600, 4800]
    assert one.masks[2].sum() == 1200
    assert empty.boxes.shape == (0, 4)
    train = open_set(roots["coco"], "detection", "train")
    assert len(train) == 2
    assert train.skipped["image without an object"] == 1
    assert len(open_set(roots["coco"], "detection", "val", keep_empty=False)) == 2


def test_coco_masks_are_those_of_pycocotools(roots: dict[str, Path], photos: Path) -> None:
    small = roots["coco"] / "annotations" / "instances_val2017.json"
    for path, root in ((small, roots["coco"]), (photos.parent / "instances.json", photos.parent)):
        judge, opened = COCO(path), open_set(root, "detection", "val")
        for index in range(min(len(opened), 24)):
            sample = opened[index]
            wanted = [
                judge.annToMask(entry)
                for entry in judge.loadAnns(judge.getAnnIds(imgIds=[sample.image_id]))
                if entry["segmentation"] and entry["bbox"][2] > 0 and entry["category_id"] in opened.category_ids
            ]
            assert sample.objects is not None
            found = sample.objects.masks if root != roots["coco"] else sample.objects.masks[: len(wanted)]
            assert len(found) == len(wanted)
            for mask, other in zip(found, wanted, strict=True):
                assert np.array_equal(mask, other)


NUMBERS = st.one_of(st.integers(-20, 90), st.floats(-20, 90, allow_nan=False).map(lambda x: round(x, 2)))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=3, max_size=9), st.integers(1, 70), st.integers(1, 70))
def test_any_polygon(points: list[tuple[float, float]], height: int, width: int) -> None:
    flat = [float(number) for point in points for number in point]
    wanted = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([flat], height, width)))
    assert np.array_equal(masks.polygon(masks.vertices(flat, "x"), (height, width), "x"), wanted)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 40))
def test_any_run_lengths(seed: int, height: int, width: int) -> None:
    generator = np.random.default_rng(seed)
    wanted = generator.random((height, width)) < generator.random()
    packed = coco_mask.encode(np.asfortranarray(wanted.astype(np.uint8)))["counts"].decode()
    counts = masks.unpacked(packed, "x")
    assert np.array_equal(masks.run_lengths(counts, (height, width), "x"), wanted)
    assert np.array_equal(masks.unpacked(counts.tolist(), "x"), counts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "~~~",
        "0",
        "P",
        "PPPPPPPPPPPPPPPP0",
        "oooooooooooooo",
        "ab\u2603",
        [1, -2],
        [1.5, "x"],
        [[1]],
        None,
        7,
        [2**40],
    ],
)
def test_broken_run_lengths(text: Any) -> None:
    """Refused, or lengths that then do not cover the picture: never a crash."""

    def both() -> None:
        masks.run_lengths(masks.unpacked(text, "a.json"), (60, 80), "a.json")

    assert refused(both).startswith("'a.json' has run lengths ")


def test_broken_polygons() -> None:
    for numbers in ([1, 2, 3], [], ["a", "b"], [1, float("nan")], None, {"a": 1}, [[1, 2], [3]], [float("inf"), 1]):
        text = refused(lambda numbers=numbers: masks.vertices(numbers, "a.json"))  # type: ignore[misc]
        assert text.startswith("'a.json' has a polygon ")
        assert text.endswith("a list of x, y, x, y … in pixels is allowed.")
    far = masks.vertices([-1e300, 1e300, 1e300, -1e300, 5, 5], "x")
    assert masks.polygon(far, (30, 40), "x").shape == (30, 40)
    long = masks.vertices([0, 0, 8000, 0] * 1000, "x")
    assert "pixels long: simplify it." in refused(lambda: masks.polygon(long, (9000, 12_000), "x"))


def coco_of(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> str:
    """What is said of annotations after a change: at opening, or when the samples are read."""
    said = made.objects_json()
    changed = change(said)
    root = made.coco(tmp_path / "c")
    path = root / "annotations" / "instances_val2017.json"
    path.write_text(changed if isinstance(changed, str) else json.dumps(said))

    def whole() -> None:
        opened = open_set(root, "detection", "val")
        for index in range(len(opened)):
            opened[index]

    return refused(whole)


def put(place: str, key: str, value: Any, index: int = 0) -> Callable[[dict[str, Any]], None]:
    def change(said: dict[str, Any]) -> None:
        said[place][index][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda said: "[1, 2]", "is no JSON of COCO's instances (it does not begin with an object): an object with"),
        (lambda said: '{"images": [], "annotations": []}', "(it has no list 'categories')"),
        (lambda said: '{"images": [], "annotations": [], "categories": []}', "lists no category: it is empty."),
        (lambda said: json.dumps(said)[:-30], "is no JSON of COCO's instances ("),
        (lambda said: '{"images": ' + "[" * 100_000, "is no JSON of COCO's instances ("),
        (lambda said: '{"images" 5}', "no key at character"),
        (lambda said: '{"info": {} "images": []}', "no ',' or '}' at character"),
        (lambda said: said.update(images=[]), "lists no picture: it is empty."),
        (lambda said: said.update(annotations=[]), "has no object that can be used"),
        (
            put("images", "file_name", "../../etc/passwd"),
            "names the picture '../../etc/passwd': a path that stays below",
        ),
        (put("images", "file_name", "/etc/passwd"), "a path that stays below the folder of pictures is allowed."),
        (put("images", "file_name", ""), "names the picture '': a path that stays below"),
        (put("images", "file_name", "\ud800"), "is no JSON of COCO's instances ("),
        (put("images", "file_name", 5), "has an image whose file_name is '5': a text is allowed."),
        (put("images", "height", 0), "says that 'one.jpg' has 80 x 0 pixels: 1 to 178,956,970 are allowed."),
        (put("images", "width", 10**9), "says that 'one.jpg' has 1000000000 x 60 pixels"),
        (put("images", "height", 61), "one.jpg' has 80 x 60 pixels, and 80 x 61 in"),
        (put("images", "id", 3), "has two pictures with the id 3: ids must differ."),
        (put("images", "id", "7"), "has an image whose id is '7': a number is allowed."),
        (put("images", "id", 10**30), "has an image whose id is '1"),
        (put("categories", "name", None), "has a category whose name is nothing: a text is allowed."),
        (put("annotations", "image_id", None), "has an annotation whose image_id is nothing: a number is allowed."),
        (put("annotations", "bbox", [1, 2, 3]), "annotation 100' has the box [1, 2, 3]: left, top, width and height"),
        (put("annotations", "bbox", [1, 2, 3, float("nan")]), "annotation 100' has the box [1, 2, 3, nan]"),
        (put("annotations", "segmentation", [[1, 2, 3]]), "annotation 100' has a polygon [1, 2, 3]"),
        (put("annotations", "segmentation", {"counts": [5]}), "has run lengths without a size: [height, width]"),
        (put("annotations", "segmentation", {"size": [60, 80], "counts": [5]}), "has run lengths of 5 pixels for a"),
        (
            put("annotations", "segmentation", {"size": [6, 8], "counts": [48]}),
            "has a mask of 8 x 6 pixels and is 80 x 60",
        ),
    ],
)
def test_coco_mistakes(tmp_path: Path, change: Callable[[dict[str, Any]], Any], text: str) -> None:
    said = coco_of(tmp_path, change)
    assert text in said
    assert "json" in said or "one.jpg" in said


def test_coco_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other places of the same JSON; pictures that are not there; masks too large to be held."""
    root = made.coco(tmp_path / "c")
    path = root / "annotations" / "instances_val2017.json"
    alone = tmp_path / "mine.json"
    alone.write_text(path.read_text())
    text = refused(lambda: open_set(alone, "detection"))
    assert "has no picture that can be used (" in text
    assert "image that is not there" in text
    assert "give the folder of pictures as `images`." in text
    assert len(open_set(alone, "detection", images=root / "val2017")) == 3
    assert len(open_set(path, "detection")) == 3
    other = tmp_path / "r" / "valid"
    other.mkdir(parents=True)
    (other / "_annotations.coco.json").write_text(path.read_text())
    for picture in (root / "val2017").iterdir():
        (other / picture.name).write_bytes(picture.read_bytes())
    assert len(open_set(tmp_path / "r", "detection", "val")) == 3
    assert "is no data set for detection" in refused(lambda: open_set(root / "val2017" / "one.jpg", "detection"))
    monkeypatch.setattr(coco, "MAX_MASKS", 2 * 60 * 80)
    assert open_set(root, "detection").skipped["image too large for masks of all its objects"] == 1
    monkeypatch.setattr(coco_json, "MAX_JSON", 100)
    assert "bytes: 100 are allowed" in refused(lambda: open_set(root, "detection"))
    assert "cannot be opened (No such file" in refused(lambda: coco_json.annotations(tmp_path / "no.json"))
    path.write_bytes(b'{"\xff": 1}')
    monkeypatch.undo()
    assert "is no UTF-8 text" in refused(lambda: open_set(root, "detection"))


def test_coco_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a size on, arrays are kept and mapped; a changed file, or a damaged cache, is read again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = made.coco(tmp_path / "c")
    plain = open_set(root, "detection")
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(coco_json, "KEEP", 1)
    first, second = open_set(root, "detection"), open_set(root, "detection")
    (kept,) = (tmp_path / "cache" / "mobileclip" / "dense").iterdir()
    for opened in (first, second):
        assert opened.fingerprint == plain.fingerprint
        assert opened.skipped == plain.skipped
        for index in range(3):
            one, other = opened[index].objects, plain[index].objects
            assert one is not None
            assert other is not None
            assert np.array_equal(one.masks, other.masks)
            assert np.array_equal(one.boxes, other.boxes)
    kept.write_bytes(b"damaged")
    assert open_set(root, "detection").fingerprint == plain.fingerprint
    path = root / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text().replace('"iscrowd": 1', '"iscrowd": 0 '))
    assert open_set(root, "detection").fingerprint != plain.fingerprint
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    assert len(open_set(root, "detection")) == 3


def test_turned_pictures(tmp_path: Path) -> None:
    """Upright, unless the truth was drawn on the pixels as they lie."""
    image = Image.fromarray(made.picture(0, 60, 80))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    content = (tmp_path / "a.jpg").read_bytes()
    assert reading.rgb(content, "a").shape == (80, 60, 3)
    assert reading.rgb(content, "a", (80, 60)).shape == (80, 60, 3)
    assert reading.rgb(content, "a", (60, 80)).shape == (60, 80, 3)
