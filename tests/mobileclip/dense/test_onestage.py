"""The one-stage detector: its outputs, its deployed form, which points train, and that it learns objects and masks."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mobileclip.config import config_of
from mobileclip.dense.coco_metrics import DetectionMetric
from mobileclip.dense.config import DenseConfig
from mobileclip.dense.host_detection import detected
from mobileclip.dense.model import DenseModel, build, build_head
from mobileclip.dense.samples import Objects, Sample, Targets
from mobileclip.errors import MobileClipError, UnknownName
from mobileclip.models.heads.onestage import OneStage, grid
from mobileclip.models.heads.onestage_loss import Answers, assign

SIZE = 64
CHANNELS = (8, 16, 24, 32)
LABELS = ("ball", "box", "bar")
STEPS = 80
"""That learning by heart takes; 50 are too few."""


def config(head: str = "onestage", labels: Sequence[str] = LABELS, **args: object) -> DenseConfig:
    return DenseConfig(
        encoder=config_of("nano"), head=head, size=(SIZE, SIZE), labels=tuple(labels), args={"width": 16, **args}
    )


def head_of(head: str = "onestage", labels: Sequence[str] = LABELS, **args: object) -> OneStage:
    """A head whose BatchNorms have seen something."""
    torch.manual_seed(0)
    made = build_head(config(head, labels, **args), CHANNELS)
    assert isinstance(made, OneStage)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return made.eval()


def maps_of(height: int = SIZE, width: int = SIZE, batch: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, channels, height // stride, width // stride, generator=generator)
        for channels, stride in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    ]


def scene(index: int) -> Sample:
    """A dark picture with 0 to 3 discs, boxes and bars of one colour each, which do not overlap."""
    generator = np.random.default_rng(index)
    image = generator.integers(40, 90, (SIZE, SIZE, 3)).astype(np.uint8)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    free, boxes, classes, masks = np.ones((SIZE, SIZE), bool), [], [], []
    while len(boxes) < index % 4:
        kind = int(generator.integers(0, 3))
        width, height = generator.uniform(14, 28, 2) if kind < 2 else (8, 30)
        left, top = generator.uniform(0, [SIZE - width, SIZE - height])
        mask = (x > left) & (x < left + width) & (y > top) & (y < top + height)
        if kind == 0:
            mask &= ((x - left) / width - 0.5) ** 2 + ((y - top) / height - 0.5) ** 2 < 0.25
        if not free[mask].all():
            continue
        free &= ~mask
        image[mask] = [[220, 40, 40], [40, 220, 40], [40, 40, 220]][kind]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        classes.append(kind)
        masks.append(mask)
    found = np.array(masks, bool).reshape(-1, SIZE, SIZE)
    objects = Objects(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        classes=np.array(classes, np.int64),
        masks=found,
        crowd=np.zeros(len(boxes), bool),
        area=found.sum((1, 2)).astype(np.float32),
    )
    return Sample(name=f"{index}.png", image=image, objects=objects, image_id=index)


def targets_of(samples: Sequence[Sample]) -> Targets:
    objects = [sample.objects for sample in samples if sample.objects is not None]
    return Targets(
        sizes=((SIZE, SIZE),) * len(objects),
        boxes=tuple(torch.from_numpy(own.boxes) for own in objects),
        classes=tuple(torch.from_numpy(own.classes) for own in objects),
        masks=tuple(torch.from_numpy(own.masks) for own in objects),
    )


def pixels_of(samples: Sequence[Sample]) -> Tensor:
    return torch.stack([torch.from_numpy(sample.image).permute(2, 0, 1) / 255 for sample in samples])


@pytest.mark.parametrize("labels", [("ball",), tuple(f"class {index}" for index in range(80))])
def test_outputs_are_what_the_host_takes(labels: tuple[str, ...]) -> None:
    for head, height, width in (("onestage", 64, 64), ("onestage", 96, 64), ("det_linear", 32, 64)):
        boxes, scores, coeffs, protos = head_of(head, labels)(maps_of(height, width, batch=2))
        points = height * width * 21 // 1024
        assert boxes.shape == (2, 4, points)
        assert scores.shape == (2, len(labels), points)
        assert coeffs.shape == (2, 32, points)
        assert protos.shape == (2, 32, height // 4, width // 4)
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert ((scores > 0) & (scores < 1)).all()


def test_points_go_by_level_then_by_row() -> None:
    points, strides = grid([torch.empty(1, 1, 4, 8), torch.empty(1, 1, 2, 4), torch.empty(1, 1, 1, 2)])
    assert points[0, :, :2].tolist() == [[4, 12], [4, 4]]
    assert points[0, :, 8].tolist() == [4, 12]
    assert points[0, :, 32].tolist() == [8, 8]
    assert points[0, :, -1].tolist() == [48, 16]
    assert strides[0, 0].tolist() == [8] * 32 + [16] * 8 + [32] * 2


@pytest.mark.parametrize("head", ["onestage", "det_linear"])
@pytest.mark.parametrize("branch", ["one", "many"])
def test_the_deployed_form_is_equal_and_has_no_batchnorm(head: str, branch: str) -> None:
    made = head_of(head, branch=branch)
    deployed = made.deployed()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in deployed.modules())
    assert deployed.nms == made.nms == (0.65 if branch == "many" else None)
    for maps in (maps_of(), maps_of(32, 96)):
        for plain, own in zip(made(maps), deployed(maps), strict=True):
            torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-4)
    assert any(isinstance(module, nn.BatchNorm2d) for module in made.modules())


def test_the_deployed_form_is_one_graph_of_plain_operators() -> None:
    """What XNNPACK takes as a whole, and Core ML as plain convolutions: nothing that selects, sorts or loops."""
    program = torch.export.export(head_of().deployed(), (tuple(maps_of()),))
    used = {str(node.target).split(".")[1] for node in program.graph.nodes if node.op == "call_function"}
    known = {"conv2d", "relu", "exp", "neg", "sigmoid", "add", "sub", "mul", "cat", "flatten", "upsample_bilinear2d"}
    assert used <= known
    ranks = [node.meta["val"].dim() for node in program.graph.nodes if isinstance(node.meta.get("val"), Tensor)]
    assert max(ranks) <= 4


def test_wrong_settings_are_told() -> None:
    with pytest.raises(UnknownName, match=r"unknown branch 'both': Known: many, one\."):
        head_of(branch="both")
    with pytest.raises(MobileClipError, match="a detector needs at least one label: give `labels` in its"):
        head_of(labels=())


def answers_for(points: Tensor, boxes: Tensor, logits: Tensor) -> Answers:
    return Answers(logits, boxes, torch.zeros(2, points.shape[1]))


def test_each_object_has_its_aligned_points_and_one_point_in_the_other_branch() -> None:
    points, strides = (part[0] for part in grid(maps_of()[1:]))
    boxes = torch.cat([points - 2 * strides, points + 2 * strides])  # [4, N], 32 px at stride 8, 64 at 16
    truth = torch.tensor([[4.0, 4, 34, 34], [28, 28, 62, 62], [8, 8, 10, 10]])  # the last lies between points
    classes = torch.tensor([0, 1, 1])
    answers = answers_for(points, boxes, torch.zeros(2, points.shape[1]))
    index, quality = assign(answers, points, truth, classes, 10)
    counts = [(index == number).sum().item() for number in range(3)]
    assert counts[0] <= 10
    assert counts[1] <= 10
    assert min(counts) >= 1
    for number in range(3):
        x, y = points[:, index == number]
        left, top, right, bottom = truth[number].tolist()
        assert ((x >= min(left, 5)) & (x <= max(right, 13)) & (y >= min(top, 5)) & (y <= max(bottom, 13))).all()
    assert (quality[index < 0] == 0).all()
    index, quality = assign(answers, points, truth, classes, 1)
    assert [(index == number).sum().item() for number in range(3)] == [1, 1, 1]
    assert points[:, index == 0][:, 0].tolist() == [20, 20]
    assert quality[index == 0].item() == pytest.approx(30 * 30 / 32**2)  # the IoU of the best box


def test_two_objects_that_want_one_point_both_get_one() -> None:
    points, strides = (part[0] for part in grid(maps_of()[1:]))
    boxes = torch.cat([points - 2 * strides, points + 2 * strides])
    truth = torch.tensor([[4.0, 4, 36, 36]]).repeat(4, 1)
    index, _ = assign(
        answers_for(points, boxes, torch.zeros(1, 84)), points, truth, torch.zeros(4, dtype=torch.int64), 1
    )
    assert sorted(index[index >= 0].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("head", ["onestage", "det_linear"])
def test_every_parameter_has_a_gradient_with_and_without_objects(head: str) -> None:
    made = head_of(head).train()
    for samples in ([scene(3), scene(0)], [scene(0), scene(4)]):
        parts = made.loss(maps_of(batch=2), targets_of(samples))
        assert list(parts) == ["class", "box", "mask", "class_one", "box_one", "mask_one"]
        made.zero_grad()
        torch.stack(list(parts.values())).sum().backward()
        assert all(own.grad is not None and own.grad.isfinite().all() for own in made.parameters())
        if not samples[1].objects or not len(samples[0].objects.classes if samples[0].objects else ()):
            assert parts["box"] == parts["mask"] == parts["box_one"] == 0
            assert parts["class"] > 0


def test_the_branch_one_teaches_nothing_but_itself() -> None:
    made = head_of().train()
    parts = made.loss(maps_of(batch=2), targets_of([scene(3), scene(2)]))
    (parts["class_one"] + parts["box_one"] + parts["mask_one"]).backward()
    assert all(own.grad is None or not own.grad.any() for own in made.neck.parameters())
    assert all(own.grad is None for own in made.many.parameters())
    assert all(own.grad is not None for own in made.one.parameters())


def average_precision(model: DenseModel, samples: Sequence[Sample], branch: str) -> dict[str, float]:
    assert isinstance(model.head, OneStage)
    model.head.branch = branch
    metric = DetectionMetric(LABELS)
    for sample in samples:
        with torch.inference_mode():
            raw = [part.numpy() for part in model(pixels_of([sample]))]
        metric.add(detected(*raw, sample.image.shape[:2], nms=0.65 if branch == "many" else None), sample)
    figures: dict[str, float] = metric.result()["figures"]
    return figures


def test_it_learns_scenes_by_heart() -> None:
    """Four pictures, the last without objects, on an encoder that was never trained and is not trained here."""
    torch.manual_seed(0)
    model = build(config())
    assert isinstance(model.head, OneStage)
    samples = [scene(index) for index in (1, 2, 3, 4)]
    before = average_precision(model, samples, "one")
    with torch.no_grad():
        maps = model.encoder(pixels_of(samples))
    model.head.train()
    optimiser = torch.optim.AdamW(model.head.parameters(), 6e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS):
        parts = model.head.loss(maps, targets_of(samples))
        optimiser.zero_grad()
        torch.stack(list(parts.values())).sum().backward()
        optimiser.step()
        schedule.step()
    model.eval()
    assert before["mask_ap50"] < 0.05
    for branch in ("one", "many"):
        after = average_precision(model, samples, branch)
        assert after["mask_ap50"] > 0.8
        assert after["mask_ap"] > 0.5
        assert after["box_ap"] > 0.35
