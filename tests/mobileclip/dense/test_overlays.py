"""What is drawn and written: colours by formula, truth and prediction alike, files that others read."""

import json

import numpy as np
import pytest
from PIL import Image

from mobileclip.dense.colours import depth_colours, distances, palette
from mobileclip.dense.files import (
    run_lengths,
    write_depth,
    write_labels,
    write_picture,
    write_server_labels,
)
from mobileclip.dense.overlays import errors, overlay
from mobileclip.dense.samples import Depths, Detected, Objects, Sample, Segmented
from mobileclip.errors import DataError

LABELS = ("sky", "road", "otter")
GREY = np.full((90, 120, 3), 120, np.uint8)


def sample(**truth: object) -> Sample:
    return Sample(name="a.jpg", image=GREY, **truth)


def boxed(mask: np.ndarray, kind: int = 2) -> Detected:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    return Detected(
        boxes=np.array([box], np.float32),
        scores=np.array([0.9], np.float32),
        classes=np.array([kind]),
        masks=mask[None],
    )


def test_every_class_has_its_own_colour() -> None:
    assert len(np.unique(palette(255), axis=0)) == 255
    assert np.array_equal(palette(150), palette(255)[:150]), "more classes leave the colours of the first ones"
    near = np.abs(palette(20)[:, None].astype(int) - palette(20)[None]).sum(-1) + 999 * np.eye(20, dtype=int)
    assert near.min() > 40


def test_distances_fall_in_lightness() -> None:
    light = distances() @ np.array([0.2126, 0.7152, 0.0722])  # luma of ITU-R BT.709
    assert (np.diff(light) < 0.5).all()
    assert light[0] > 220
    assert light[-1] < 40


def test_depth_colours() -> None:
    metres = np.array([[1.0, 2.0, 3.0, 0.0, np.nan, 50.0]], np.float32)
    colours, ends = depth_colours(metres, 1.0, 3.0)
    assert ends == (1.0, 3.0)
    assert colours[0, 3:5].tolist() == [[0, 0, 0], [0, 0, 0]], "what has no depth is black"
    assert colours[0, [0, 1, 2, 5]].tolist() == distances()[[0, 128, 255, 255]].tolist()
    nothing, ends = depth_colours(np.zeros((2, 2), np.float32))
    assert not nothing.any()
    assert ends == (0.0, 1.0)


def test_segmentation_is_tinted_and_what_counts_nowhere_is_not() -> None:
    labels = np.zeros((90, 120), np.uint8)
    labels[:, 60:] = 1
    labels[80:] = 255
    drawn = overlay(GREY, Segmented(labels=labels), LABELS)
    assert (drawn.shape, drawn.dtype) == ((90, 120, 3), np.uint8)
    tints = (120 + 0.55 * (palette(3).astype(float) - 120)).round()
    assert np.abs(drawn[5, 5] - tints[0]).max() <= 1
    assert np.abs(drawn[5, 115] - tints[1]).max() <= 1
    assert (drawn[85, 5] == 120).all()
    assert np.array_equal(drawn, overlay(GREY, sample(labels=labels), LABELS)), "the truth is drawn alike"
    assert np.array_equal(GREY, np.full((90, 120, 3), 120)), "the picture itself stays"


def test_names_are_written_into_their_region() -> None:
    labels = np.zeros((90, 120), np.uint8)
    labels[20:70, 30:90] = 1
    named, plain = (
        overlay(GREY, Segmented(labels=labels), LABELS),
        overlay(GREY, Segmented(labels=labels), ("", "", "")),
    )
    changed = (named != plain).any(-1)
    assert changed[20:70, 30:90].sum() > 50


def test_objects_have_masks_boxes_and_scores() -> None:
    mask = np.zeros((90, 120), bool)
    mask[30:80, 40:100] = True
    mask[50:60, 60:70] = False
    found = boxed(mask)
    drawn = overlay(GREY, found, LABELS)
    assert (drawn[70, 80] != 120).any()
    assert (drawn[85, 110] == 120).all()
    assert (drawn[55, 65] == 120).all(), "a hole stays"
    things = Objects(
        boxes=found.boxes,
        classes=found.classes,
        masks=found.masks,
        crowd=np.array([True]),
        area=np.array([5.0], np.float32),
    )
    assert (overlay(GREY, sample(objects=things), LABELS)[70, 80] == drawn[70, 80]).all()
    none = Detected(
        boxes=np.zeros((0, 4), np.float32),
        scores=np.zeros(0, np.float32),
        classes=np.zeros(0, np.int64),
        masks=np.zeros((0, 90, 120), bool),
    )
    assert np.array_equal(overlay(GREY, none, LABELS), GREY)


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (3, 2)])
def test_tiny_pictures_are_drawn_too(shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    assert overlay(image, Segmented(labels=np.ones(shape, np.uint8)), LABELS).shape == (*shape, 3)
    assert overlay(image, boxed(np.ones(shape, bool)), LABELS).shape == (*shape, 3)
    assert overlay(image, Depths(metres=np.ones(shape, np.float32)), LABELS).shape == (*shape, 3)


def test_errors() -> None:
    truth = np.zeros((90, 120), np.uint8)
    truth[:, 100:] = 255
    said = truth.copy()
    said[:, :10] = 1
    drawn = errors(Segmented(labels=np.where(said == 255, 0, said)), sample(labels=truth))
    assert drawn is not None
    assert (drawn[:, :10] == (205, 40, 35)).all()
    assert not drawn[:, 100:].any()
    assert (drawn[:, 10:100] == 190).all()
    deep = np.full((90, 120), 2.0, np.float32)
    deep[0] = 0
    off = errors(Depths(metres=np.where(deep > 0, deep * 1.5, 9).astype(np.float32)), sample(depth=deep))
    assert off is not None
    assert not off[0].any()
    assert (off[1:] == distances()[255]).all()
    assert errors(boxed(truth == 0), sample()) is None


def test_a_sample_without_truth() -> None:
    with pytest.raises(DataError, match=r"^a\.jpg holds no truth: open its set for a task\.$"):
        overlay(GREY, sample(), LABELS)


def test_files_that_others_read(tmp_path) -> None:
    labels = np.array([[0, 1, 149], [2, 2, 255]], np.uint8)
    write_labels(tmp_path / "labels.png", labels)
    with Image.open(tmp_path / "labels.png") as read:
        assert read.mode == "P"
        assert np.array_equal(np.asarray(read), labels)
        assert np.array_equal(np.asarray(read.convert("RGB"))[0, 2], palette(255)[149])
    write_server_labels(tmp_path / "server.png", labels)
    assert np.asarray(Image.open(tmp_path / "server.png")).tolist() == [[1, 2, 150], [3, 3, 0]]
    write_depth(tmp_path / "depth.png", np.array([[1.2344, 0.0, np.nan, np.inf, -1.0, 99.0]], np.float32))
    with Image.open(tmp_path / "depth.png") as read:
        assert np.asarray(read).tolist() == [[1234, 0, 0, 65535, 0, 65535]]
        assert read.mode.startswith("I;16")
    for ending in ("png", "jpg"):
        write_picture(tmp_path / f"picture.{ending}", GREY)
        assert Image.open(tmp_path / f"picture.{ending}").size == (120, 90)


def test_run_lengths_are_cocos() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    generator = np.random.default_rng(0)
    masks = [generator.random((7, 9)) < share for share in (0.0, 0.3, 0.8, 1.1)]
    for mask in masks:
        code = json.loads(json.dumps(run_lengths(mask)))
        assert np.array_equal(coco.decode(coco.frPyObjects(code, 7, 9)).astype(bool), mask)
