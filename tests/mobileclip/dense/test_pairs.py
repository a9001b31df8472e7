"""ADE20K and plain folders: pairs of files, read by their listing, broken ones named."""

import time
from pathlib import Path

import made
import numpy as np
import pytest
from PIL import Image
from refusals import refused

from mobileclip.dense import open_set
from mobileclip.dense.data import files, reading
from mobileclip.dense.data.skipping import Skipped
from mobileclip.dense.labels import ADE20K


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    makers = {"ade": made.ade, "folder": made.folder}
    return {name: maker(tmp_path_factory.mktemp(name)) for name, maker in makers.items()}


def test_ade_reduces_the_zero_label(roots: dict[str, Path]) -> None:
    opened = open_set(roots["ade"], "segmentation", "train")
    assert (len(opened), len(open_set(roots["ade"], "segmentation", "val"))) == (4, 3)
    labels = opened[0].labels
    assert labels is not None
    assert labels[0].tolist() == [255, *range(150), *[255] * 9]
    assert opened.labels[:2] == ("thing 1", "thing 2")
    assert (len(opened.labels), opened.name, opened[1].name) == (
        150,
        "ade20k/train",
        "images/training/ADE_train_00000002.jpg",
    )
    assert [opened[index].image.shape[0] for index in range(4)] == [50, 60, 70, 80]


def test_ade_listing_and_names(tmp_path: Path) -> None:
    """Pictures without a label map, maps without a picture and empty files are left out, counted."""
    outer = tmp_path / "downloads"
    base = made.ade(outer / "ADEChallengeData2016")
    (base / "annotations" / "training" / "ADE_train_00000001.png").unlink()
    (base / "images" / "training" / "ADE_train_00000002.jpg").unlink()
    (base / "images" / "training" / "ADE_train_00000003.jpg").write_bytes(b"")
    made.save(made.picture(0, 8, 8), base / "images" / "training" / "ADE_train_00000004.jpeg")
    (base / "images" / "training" / "._ADE_train_00000004.jpg").write_bytes(b"junk")
    opened = open_set(outer, "segmentation", "train")
    assert len(opened) == 1
    assert opened.skipped == {
        "image without a label map": 1,
        "label map without an image": 1,
        "empty file": 1,
        "second file of the same stem": 1,
    }
    assert opened.skipped.first["image without a label map"].endswith("ADE_train_00000001.jpg")
    (base / "objectInfo150.txt").unlink()
    assert open_set(base, "segmentation", "val").labels == ADE20K
    (base / "objectInfo150.txt").write_text("Idx\tName\n1\twall\n")
    text = refused(lambda: open_set(base, "segmentation", "val"))
    assert "objectInfo150.txt' lists 1 classes: a header and 150 lines" in text
    (base / "objectInfo150.txt").write_bytes(b"\xff\xfe\x00")
    assert "is no UTF-8 text" in refused(lambda: open_set(base, "segmentation", "val"))
    for path in (base / "images" / "validation").iterdir():
        path.unlink()
    text = refused(lambda: open_set(base, "segmentation", "val", "ade"))
    assert "holds nothing that can be used (3 x label map without an image (first '" in text


def test_ade_broken_files_are_named(tmp_path: Path) -> None:
    base = made.ade(tmp_path / "ade", train=1, val=1)
    truth = base / "annotations" / "validation" / "ADE_val_00000001.png"
    image = base / "images" / "validation" / "ADE_val_00000001.jpg"

    def reading_it() -> str:
        return refused(lambda: open_set(base, "segmentation", "val")[0])

    made.save(np.full((50, 160), 151, np.uint8), truth)
    assert (
        f"'{truth}' holds the label 151 (8,000 pixels): allowed are 0 to 150, of which 0 is everything" in reading_it()
    )
    made.save(np.zeros((50, 161), np.uint8), truth)
    text = reading_it()
    assert f"'{image}' has 160 x 50 pixels and '{truth}' 161 x 50: a picture and its truth must have the same" in text
    made.save(np.zeros((50, 160, 3), np.uint8), truth)
    assert f"'{truth}' is in colour: a label map has one channel of class ids" in reading_it()
    made.save(np.full((50, 160), 300, np.uint16), truth)
    assert f"'{truth}' holds the label 300: ids of 0 to 255 are allowed" in reading_it()
    truth.write_bytes(b"not a picture")
    assert f"'{truth}' cannot be read (" in reading_it()
    made.save(np.zeros((50, 160), np.uint8), truth)
    image.write_bytes(image.read_bytes()[:200])
    assert f"'{image}' " in reading_it()
    assert "damaged or cut short" in reading_it()
    opened = open_set(base, "segmentation", "val")
    image.unlink()
    assert f"'{image}' cannot be opened (No such file" in refused(lambda: opened[0])


def test_opening_decodes_nothing(tmp_path: Path) -> None:
    """A quarter of ADE20K by names and sizes alone: the files hold nothing that could be decoded."""
    images, maps = tmp_path / "images" / "training", tmp_path / "annotations" / "training"
    for folder in (images, maps):
        folder.mkdir(parents=True)
    (tmp_path / "one").write_bytes(b"x")
    for number in range(1, 5_001):  # links are made faster than files
        (images / f"ADE_train_{number:08d}.jpg").hardlink_to(tmp_path / "one")
        (maps / f"ADE_train_{number:08d}.png").hardlink_to(tmp_path / "one")
    began = time.process_time()
    opened = open_set(tmp_path, "segmentation", "train")
    assert time.process_time() - began < 0.5
    assert len(opened) == 5_000


def test_a_picture_of_12000_by_9000(tmp_path: Path) -> None:
    """Is read; one pixel more than the limit is refused by its header."""
    import simplejpeg

    image = tmp_path / "images" / "validation" / "a.jpg"
    image.parent.mkdir(parents=True)
    image.write_bytes(simplejpeg.encode_jpeg(np.zeros((9000, 12_000, 1), np.uint8), 50, colorspace="GRAY"))
    truth = tmp_path / "annotations" / "validation" / "a.png"
    truth.parent.mkdir(parents=True)
    Image.new("1", (12_000, 9000), 1).save(truth, compress_level=1)
    sample = open_set(tmp_path, "segmentation", "val")[0]
    assert sample.image.shape == (9000, 12_000, 3)
    assert sample.labels is not None
    assert sample.labels[8999, 11_999] == 0


def test_too_large_pictures_of_truth_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = made.save(np.zeros((9, 9), np.uint8), tmp_path / "a.png")
    monkeypatch.setattr(reading, "MAX_PIXELS", 80)
    text = refused(lambda: reading.class_ids(path.read_bytes(), "a.png"))
    assert text == "'a.png' holds more than 80 pixels: that many are allowed."
    text = refused(lambda: reading.content_of(path, 10))
    assert f"'{path}' has {path.stat().st_size} bytes: 10 are allowed; make it smaller or leave it out." in text
    assert refused(lambda: reading.content_of(tmp_path)).startswith(f"'{tmp_path}' ")


def test_other_kinds_of_truth(tmp_path: Path) -> None:
    palette = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3), "P")
    palette.putpalette([7] * 768)
    palette.save(tmp_path / "p.png")
    assert reading.class_ids((tmp_path / "p.png").read_bytes(), "p").tolist() == [[0, 1, 2], [3, 4, 5]]
    Image.fromarray(np.eye(2, dtype=bool)).save(tmp_path / "b.png")
    assert reading.class_ids((tmp_path / "b.png").read_bytes(), "b").tolist() == [[1, 0], [0, 1]]
    wide = made.save(np.full((2, 2), 65_535, np.uint16), tmp_path / "d.png").read_bytes()
    assert reading.millimetres(wide, "d").tolist() == [[65.535] * 2] * 2 or np.allclose(
        reading.millimetres(wide, "d"), 65.535
    )
    text = refused(lambda: reading.millimetres((tmp_path / "b.png").read_bytes(), "b.png"))
    assert text.startswith("'b.png' is no 16-bit grey picture: depth is stored as 16 bits of millimetres")
    Image.fromarray(np.full((2, 2), -5, np.int32)).save(tmp_path / "n.tif")
    negative = (tmp_path / "n.tif").read_bytes()
    assert "'n.tif' holds the depth -5: 0 to 65,535 millimetres" in refused(
        lambda: reading.millimetres(negative, "n.tif")
    )
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "f.tif")
    real = (tmp_path / "f.tif").read_bytes()
    assert "'f.tif' has pixels of kind float32: pictures of truth are" in refused(
        lambda: reading.class_ids(real, "f.tif")
    )


def test_folder(roots: dict[str, Path], tmp_path: Path) -> None:
    opened = open_set(roots["folder"], "segmentation", "train")
    assert (opened.labels, len(opened), opened.notes) == (("ground", "box", "wall"), 3, ())
    labels = opened[0].labels
    assert labels is not None
    assert np.unique(labels).tolist() == [0, 1, 2, 255]
    depth = open_set(roots["folder"], "depth", "val")[2].depth
    assert depth is not None
    assert np.allclose(depth, 1.502)
    near = open_set(roots["folder"], "depth", "val", max_depth=1.5015)[2].depth
    assert near is not None
    assert not near.any()  # farther than max_depth: none
    (made.folder(tmp_path / "n") / "labels.txt").unlink()
    unnamed = open_set(tmp_path / "n", "segmentation", "val")
    assert unnamed.labels == ("class 0", "class 1", "class 2")
    assert "has no labels.txt: 3 classes were found by reading 3 masks" in unnamed.notes[0]


def test_folder_without_splits(tmp_path: Path) -> None:
    root = made.folder(tmp_path / "f", splits=())
    whole = open_set(root, "segmentation", "val")
    assert len(whole) == 3
    assert "so every split is all of it" in whole.notes[0]
    (root / "val.txt").write_text("c\na.png\n\n")
    assert [open_set(root, "depth", "val")[index].name for index in range(2)] == ["images/c.png", "images/a.png"]
    (root / "val.txt").write_text("nothere\n")
    assert "val.txt' names 'nothere', which has no picture with truth" in refused(
        lambda: open_set(root, "depth", "val")
    )
    (root / "labels.txt").write_text("\n")
    assert "labels.txt' names 0 classes: 1 to 255 are allowed" in refused(
        lambda: open_set(root, "segmentation", "train")
    )
    (root / "labels.txt").write_text("one\ntwo\n")
    text = refused(lambda: open_set(root, "segmentation", "train")[0])
    assert "masks/a.png' holds the label 2 (572 pixels): allowed are 0 to 1, and 255 for none" in text


def test_folder_of_other_names(tmp_path: Path) -> None:
    """`{train,valid}/images`, as some tools write it."""
    source = made.folder(tmp_path / "f", splits=())
    for split in ("training", "valid"):
        for kind in ("images", "masks"):
            target = tmp_path / "g" / split / kind
            target.mkdir(parents=True)
            for path in (source / kind).iterdir():
                (target / path.name).write_bytes(path.read_bytes())
    assert len(open_set(tmp_path / "g", "segmentation", "train")) == 3
    assert len(open_set(tmp_path / "g", "segmentation", "val")) == 3


def test_listing_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = refused(lambda: files.listed(tmp_path / "no", (".png",), Skipped()))
    assert text.endswith("no' cannot be read (No such file or directory): check the path and its permissions.")
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(b"x")
    monkeypatch.setattr(files, "MAX_FILES", 1)
    assert "holds more than 1 files: split it." in refused(lambda: files.listed(tmp_path, (".png",), Skipped()))
