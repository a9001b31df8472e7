"""The host part of detection against torchvision's suppression and pasting, torch's resizing, and pictures by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import batched_nms

from mobileclip.dense.host_detection import (
    best,
    content,
    detected,
    detected_regions,
    letterbox,
    paste,
    suppressed,
    to_original,
)


def boxes_of(generator: np.random.Generator, count: int, height: float, width: float) -> np.ndarray:
    corner = generator.uniform(0, [width * 0.9, height * 0.9], (count, 2))
    size = np.exp(generator.uniform(0, np.log([width, height]), (count, 2)))
    return np.concatenate([corner, np.minimum(corner + size, [width, height])], 1).astype(np.float32)


def points_of(boxes: list[list[float]], scores: list[list[float]], size: int = 64) -> tuple[np.ndarray, ...]:
    """Raw outputs with prototype 0 = 1 everywhere, prototype 1 = 1 on the left half and -1 on the right."""
    count = len(boxes)
    protos = np.ones((1, 2, size // 4, size // 4), np.float32)
    protos[0, 1, :, size // 8 :] = -1
    coeffs = np.zeros((1, 2, count), np.float32)
    coeffs[0, 0] = 1
    return np.array(boxes, np.float32).T[None], np.array(scores, np.float32).T[None], coeffs, protos


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 20), st.integers(1, 20))
def test_content_fits_and_touches_one_side(height: int, width: int, down: int, right: int) -> None:
    rows, columns = content((height, width), (32 * down, 32 * right))
    assert 1 <= rows <= 32 * down
    assert 1 <= columns <= 32 * right
    assert rows == 32 * down or columns == 32 * right
    scale = min(32 * down / height, 32 * right / width)
    assert abs(rows - max(height * scale, 1)) <= 0.5
    assert abs(columns - max(width * scale, 1)) <= 0.5


def test_letterbox_keeps_the_ratio_and_pads_right_and_below() -> None:
    photo = np.full((50, 100, 3), 200, np.uint8)
    pixels, scale = letterbox(photo, (64, 64))
    assert (pixels.shape, pixels.dtype, scale) == ((64, 64, 3), np.uint8, 0.64)
    assert (pixels[:32] == 200).all()
    assert (pixels[32:] == 0).all()
    same, one = letterbox(photo, (64, 100))
    assert one == 1
    assert (same[:50] == photo).all()
    upright, _ = letterbox(photo.transpose(1, 0, 2), (64, 64))
    assert (upright == pixels.transpose(1, 0, 2)).all()


def test_boxes_go_back_to_the_picture() -> None:
    boxes = np.array([[0, 0, 64, 32], [6.4, 3.2, 12.8, 6.4], [-5, -5, 100, 100]], np.float32)
    back = to_original(boxes, (50, 100), content((50, 100), (64, 64)))
    np.testing.assert_allclose(back, [[0, 0, 100, 50], [10, 5, 20, 10], [0, 0, 100, 50]], rtol=1e-6)


def test_the_best_pairs_come_first_and_ties_by_class_then_point() -> None:
    scores = np.array([[0.5, 0.9, 0.01], [0.5, 0.5, 0.7]], np.float32)
    classes, points = best(scores, 0.05, 4)
    assert (classes.tolist(), points.tolist()) == ([0, 1, 0, 1], [1, 2, 0, 0])
    assert [len(part) for part in best(scores, 0.95, 4)] == [0, 0]
    generator = np.random.default_rng(0)
    many = generator.random((7, 900)).astype(np.float32)
    classes, points = best(many, 0.2, 100)
    assert many[classes, points].tolist() == sorted(many.ravel().tolist(), reverse=True)[:100]


@pytest.mark.parametrize("overlap", [0.3, 0.65])
def test_suppression_is_torchvisions(overlap: float) -> None:
    generator = np.random.default_rng(1)
    boxes = boxes_of(generator, 400, 100, 100)
    classes = generator.integers(0, 3, 400)
    scores = -np.sort(-generator.random(400)).astype(np.float32)
    ours = suppressed(boxes, classes, overlap)
    theirs = batched_nms(
        torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(classes), iou_threshold=overlap
    )
    assert 10 < len(ours) < 400
    assert ours.tolist() == theirs.tolist()


def test_masks_are_pasted_as_torchvision_does() -> None:
    generator = np.random.default_rng(2)
    boxes = boxes_of(generator, 60, 90, 120)
    boxes[0] = [0, 0, 120, 90]
    boxes[1] = [100, 70, 120, 90]
    coarse = torch.from_numpy(generator.normal(0, 3, (60, 1, 5, 5)).astype(np.float32))
    masks = interpolate(coarse, (28, 28), mode="bicubic").sigmoid()
    theirs = paste_masks_in_image(masks, torch.from_numpy(boxes), (90, 120))[:, 0].numpy()
    ours = paste(masks[:, 0].numpy(), boxes, (90, 120))
    clear = abs(theirs - 0.5) > 1e-5
    assert clear.mean() > 0.999
    assert (ours == (theirs > 0.5))[clear].all()
    assert 0.01 < ours.mean() < 0.9


def test_one_stage_masks_are_the_resized_logits_inside_the_box() -> None:
    """Input 64 x 64, picture of twice that size: against torch's bilinear resize of the logits to the picture."""
    generator = np.random.default_rng(3)
    boxes = boxes_of(generator, 30, 64, 64)
    protos, coeffs = generator.normal(0, 1, (1, 8, 16, 16)), generator.normal(0, 1, (1, 8, 30))
    scores = generator.random((1, 4, 30)).astype(np.float32)
    found = detected(boxes.T[None], scores, coeffs, protos, (128, 128), threshold=0.6)
    logits = torch.einsum("pn,phw->nhw", torch.from_numpy(coeffs[0]), torch.from_numpy(protos[0]))
    wide = interpolate(logits[None], (128, 128), mode="bilinear", align_corners=False)[0].numpy()
    y, x = np.mgrid[:128, :128] + 0.5
    assert len(found.scores) == (scores > 0.6).sum() > 20
    assert (np.diff(found.scores) <= 0).all()
    for box, score, kind, mask in zip(found.boxes, found.scores, found.classes, found.masks, strict=True):
        point = int((scores[0, kind] == score).nonzero()[0][0])
        np.testing.assert_allclose(box, boxes[point] * 2, rtol=1e-6)
        inside = (x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])
        assert (mask == (inside & (wide[point] > 0))).all()


def test_masks_end_with_the_picture_not_with_the_padding() -> None:
    """A picture of 100 x 50 lies in the upper half of the input; an object covers all of it and the padding."""
    raw = points_of([[-3, -3, 70, 70]], [[0.9, 0.1]])
    found = detected(*raw, (50, 100), threshold=0.5)
    assert found.boxes.tolist() == [[0, 0, 100, 50]]
    assert found.classes.tolist() == [0]
    assert found.masks.shape == (1, 50, 100)
    assert found.masks.all()
    half = raw[2].copy()
    half[0, :, 0] = [0, 1]
    found = detected(raw[0], raw[1], half, raw[3], (50, 100), threshold=0.5)
    assert found.masks[0, :, :50].all()
    assert not found.masks[0, :, 50:].any()


def test_duplicates_go_with_suppression_only_within_a_class() -> None:
    raw = points_of([[0, 0, 30, 30], [1, 1, 31, 31], [40, 40, 60, 60]], [[0.9, 0.2], [0.8, 0.7], [0.6, 0]])
    plain = detected(*raw, (64, 64), threshold=0.5)
    assert plain.scores.round(1).tolist() == [pytest.approx(value) for value in (0.9, 0.8, 0.7, 0.6)]
    lean = detected(*raw, (64, 64), threshold=0.5, nms=0.65)
    assert lean.scores.tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert lean.classes.tolist() == [0, 1, 0]
    assert len(detected(*raw, (64, 64), threshold=0.5, nms=0.65, most=2).scores) == 2


def test_nothing_is_found_where_nothing_is() -> None:
    raw = points_of([[0, 0, 30, 30], [20, 20, 20, 40], [70, 70, 90, 90]], [[0.01], [0.9], [0.9]])
    for nms in (None, 0.65):
        found = detected(*raw, (64, 64), nms=nms)  # too weak; no width; in the padding
        assert found.boxes.shape == (0, 4)
        assert found.masks.shape == (0, 64, 64)
    zeros = np.zeros(3, np.float32)
    found = detected_regions(np.zeros((3, 4)), zeros, zeros, np.zeros((3, 28, 28)), (40, 60), (64, 64))
    assert found.masks.shape == (0, 40, 60)


def test_regions_are_sorted_scaled_and_pasted() -> None:
    boxes = np.array([[0, 0, 16, 16], [16, 16, 48, 32], [0, 0, 0, 0]], np.float16)
    masks = np.ones((3, 28, 28), np.float16)
    masks[1, :, 14:] = 0
    found = detected_regions(
        boxes, np.array([0.5, 0.75, 0]), np.array([2, 0, 0], np.int32), masks, (100, 200), (64, 64)
    )
    assert found.scores.tolist() == [0.75, 0.5]
    assert found.classes.tolist() == [0, 2]
    assert found.boxes.tolist() == [[50, 50, 150, 100], [0, 0, 50, 50]]
    assert found.masks[0, 75, 60]
    assert not found.masks[0, 75, 140]
    assert found.masks[1, 1:50, 1:50].all()  # torchvision rounds the corner towards the middle of the box
    assert found.masks[1].sum() <= 52 * 52
    assert len(detected_regions(boxes, np.array([0.5, 0.75, 0]), np.zeros(3), masks, (64, 64), (64, 64), most=1).scores)
