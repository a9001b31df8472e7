"""Mask R-CNN in training form: torchvision's own model with the same weights is the oracle."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from mobileclip.config import config_of
from mobileclip.dense.config import DenseConfig
from mobileclip.dense.model import DenseModel, build
from mobileclip.dense.samples import Targets
from mobileclip.errors import DataError, MobileClipError

LABELS = ("disc", "box", "star")
SIZES = ((96, 128), (96, 112))
WIDTH, HIDDEN = 32, 64


@pytest.fixture(autouse=True)
def one_seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def detector(size: tuple[int, int] = (96, 128), **args: object) -> DenseModel:
    """A small one whose scores and boxes are spread as after training."""
    args = {"width": WIDTH, "hidden": HIDDEN, **args}
    model = build(DenseConfig(encoder=config_of("nano"), head="mask_rcnn", args=args, size=size, labels=LABELS))
    for name, weight in model.head.named_parameters():
        if name.endswith(("cls_logits.weight", "cls_score.weight", "bbox_pred.weight")):
            nn.init.normal_(weight, std=4 / weight[0].numel() ** 0.5)
    return model


class Body(nn.Module):
    """Encoder and feature pyramid of a detector, as torchvision wants a backbone."""

    def __init__(self, model: DenseModel) -> None:
        super().__init__()
        self.encoder, self.fpn, self.out_channels = model.encoder, model.head.fpn, WIDTH

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features: dict[str, Tensor] = self.fpn({str(level): part for level, part in enumerate(self.encoder(x))})
        return features


def torchvisions(model: DenseModel) -> MaskRCNN:
    """torchvision's model with the same weights and its own numbers; it leaves pictures of 96 rows as they are."""
    outputs = len(LABELS) + 1
    theirs = MaskRCNN(
        Body(model),
        min_size=96,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        box_head=TwoMLPHead(WIDTH * 49, HIDDEN),
        box_predictor=FastRCNNPredictor(HIDDEN, outputs),
        mask_head=MaskRCNNHeads(WIDTH, (WIDTH,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(WIDTH, WIDTH, outputs),
    )
    for part in ("rpn", "roi_heads"):
        getattr(theirs, part).load_state_dict(getattr(model.head, part).state_dict())
    return theirs


def pictures() -> list[Tensor]:
    return [torch.rand(3, *size) for size in SIZES]


def padded(images: Sequence[Tensor]) -> Tensor:
    batch = torch.zeros(len(images), 3, 96, 128)
    for row, image in zip(batch, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    return batch


def targets(*boxes: Sequence[Sequence[float]]) -> Targets:
    """Filled boxes as masks, classes in turn, for a batch of 96 x 128."""
    corners = [torch.tensor(rows).reshape(-1, 4) for rows in boxes]
    masks = [torch.zeros(len(rows), 96, 128, dtype=torch.bool) for rows in corners]
    for picture, rows in zip(masks, corners, strict=True):
        for mask, (left, top, right, bottom) in zip(picture, rows.int().tolist(), strict=True):
            mask[top : bottom + 1, left : right + 1] = True
    classes = tuple(torch.arange(len(rows)) % len(LABELS) for rows in corners)
    return Targets(sizes=SIZES, boxes=tuple(corners), classes=classes, masks=tuple(masks))


TWO = ([[8.0, 8, 60, 70], [50, 20, 120, 90]], [[5.5, 40, 90, 95.5]])


def test_losses_are_torchvisions() -> None:
    model, images, truth = detector(), pictures(), targets(*TWO)
    theirs = torchvisions(model).train()
    theirs.backbone.eval()
    model.train()
    model.encoder.eval()
    for proposer in (model.head.rpn, theirs.rpn):  # torchvision's transform draws numbers too, before
        proposer.register_forward_pre_hook(lambda *_: torch.manual_seed(7) and None)
    ours = model.loss(padded(images), truth)
    assert truth.boxes
    assert truth.classes
    assert truth.masks
    expected = [
        {"boxes": box, "labels": kind + 1, "masks": mask[:, :height, :width]}
        for box, kind, mask, (height, width) in zip(truth.boxes, truth.classes, truth.masks, SIZES, strict=True)
    ]
    reference = theirs(images, expected)
    assert set(ours) == set(reference)
    assert ours["loss_mask"] > 0
    for name, value in ours.items():
        torch.testing.assert_close(value, reference[name], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_detections_are_torchvisions() -> None:
    model, images = detector(), pictures()
    reference = torchvisions(model).eval()
    kept = []  # torchvision pastes its masks; they are taken before
    reference.transform.postprocess = lambda found, *_: kept.extend(found) or found
    reference(images)
    ours = model.head.detect(model.encoder(padded(images)), SIZES)
    for (boxes, scores, classes, masks), their, (height, width) in zip(ours, kept, SIZES, strict=True):
        assert len(boxes) > 10
        assert len(set(classes.tolist())) > 1
        torch.testing.assert_close(boxes, their["boxes"], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(scores, their["scores"], rtol=1e-5, atol=1e-6)
        assert torch.equal(classes, their["labels"] - 1)
        torch.testing.assert_close(masks, their["masks"][:, 0], rtol=1e-5, atol=1e-5)
        assert (boxes[:, 2] <= width).all()
        assert (boxes[:, 3] <= height).all()


@torch.no_grad()
def test_forward_is_detect_in_so_many_rows() -> None:
    model = detector(detections=30)
    maps = model.encoder(torch.rand(1, 3, 96, 128))
    boxes, scores, labels, masks = model.head(maps)
    assert [tuple(part.shape) for part in (boxes, scores, labels, masks)] == [(30, 4), (30,), (30,), (30, 28, 28)]
    assert labels.dtype == torch.int32
    ((found, best, classes, shapes),) = model.head.detect(maps, [(96, 128)])
    count = min(30, len(found))
    for ours, theirs in ((boxes, found), (scores, best), (labels, classes.int()), (masks, shapes)):
        assert torch.equal(ours[:count], theirs[:count])
        assert not ours[count:].any()


@pytest.mark.parametrize(
    "boxes",
    [
        pytest.param(([], []), id="no objects at all"),
        pytest.param((TWO[0], []), id="one picture without objects"),
        pytest.param(([[10.0, 10, 10.01, 90]], [[3.0, 3, 3.2, 3.1]]), id="boxes much smaller than a pixel"),
        pytest.param(([[0.0, 0, 128, 96]] * 40, [[0.0, 0, 112, 96]]), id="forty times the whole picture"),
    ],
)
def test_what_has_nothing_to_see_trains(boxes: tuple[list[list[float]], list[list[float]]]) -> None:
    model = detector().train()
    parts = model.loss(padded(pictures()), targets(*boxes))
    sum(parts.values(), torch.tensor(0.0)).backward()
    assert all(value.isfinite() for value in parts.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_box_without_area_is_refused() -> None:
    model = detector().train()
    with pytest.raises(DataError) as caught:
        model.loss(padded(pictures()), targets(TWO[0], [[1.0, 2, 3, 4], [10, 20, 10, 44.5]]))
    assert str(caught.value) == (
        "box 1 of picture 1 of the batch, (10, 20, 10, 44.5), has no area: left must be less than right and top less "
        "than bottom; leave such objects out of the annotations."
    )


def test_a_detector_without_labels_is_refused() -> None:
    with pytest.raises(MobileClipError) as caught:
        build(DenseConfig(encoder=config_of("nano"), head="mask_rcnn", size=(64, 64)))
    assert str(caught.value) == "nano+mask_rcnn has no labels: a detector needs the name of every class."


def test_training_lowers_the_loss() -> None:
    model, images, truth = detector().train(), padded(pictures()), targets(*TWO)
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    totals = []
    for _ in range(6):
        loss = sum(model.loss(images, truth).values(), torch.tensor(0.0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        totals.append(float(loss.detach()))
    assert np.mean(totals[-2:]) < 0.8 * np.mean(totals[:2])


@torch.no_grad()
def test_autocast_keeps_boxes_in_float32() -> None:
    model = detector()
    images = padded(pictures())
    exact = model.head.detect(model.encoder(images), SIZES)
    with torch.autocast("cpu", torch.bfloat16):
        maps = model.encoder(images)
        assert model.head.fpn({str(level): part for level, part in enumerate(maps)})["0"].dtype == torch.bfloat16
        boxes, scores, _, masks = model.head.detect(maps, SIZES)[0]
        parts = model.train().loss(images, targets(*TWO))
    assert {part.dtype for part in (boxes, scores, masks, *parts.values())} == {torch.float32}
    assert all(value.isfinite() for value in parts.values())
    assert len(torch.unique(boxes)) > 0.5 * len(torch.unique(exact[0][0]))  # not rounded to 8 bits


def test_a_first_batch_of_small_pictures_changes_nothing_later() -> None:
    """torchvision's pooling guesses its scales from the first pictures and keeps them."""
    model, other = detector(), detector()
    other.load_state_dict(model.state_dict())
    images = padded(pictures())
    with torch.no_grad():
        other.head.detect(other.encoder(images), [(3, 3), (1, 1)])
        first, second = (one.head.detect(one.encoder(images), SIZES)[0] for one in (model, other))
    assert torch.equal(first[0], second[0])


def test_mci2_has_the_published_count() -> None:
    """55.0 M (MobileCLIP2, table 14) with its branches merged, as the paper counts; 91 outputs as torchvision has."""
    labels = tuple(str(number) for number in range(90))
    with torch.device("meta"):
        model = build(DenseConfig(encoder=config_of("mci2"), head="mask_rcnn", size=(800, 800), labels=labels))
    head = sum(parameter.numel() for parameter in model.head.parameters())
    merged = 34.83e6  # of the deployed encoder without its last convolution
    assert abs(head + merged - 55.0e6) < 0.03 * 55.0e6
    small = DenseConfig(encoder=config_of("nano"), head="mask_rcnn", size=(64, 64), labels=labels[:80])
    large = DenseConfig(encoder=config_of("nano"), head="mask_rcnn", size=(64, 64), labels=labels)
    counts = [sum(parameter.numel() for parameter in build(one).head.parameters()) for one in (small, large)]
    assert counts[1] - counts[0] == 10 * (
        5 * 1025 + 257
    )  # a score and four codes of 1024 units, a mask of 256 channels
