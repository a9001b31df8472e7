"""The static form of Mask R-CNN against torchvision's own inference, part by part and whole, and on every runtime."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.utils.configs import get_transform_passes
from executorch.exir import to_edge_transform_and_lower
from torch import Tensor, nn
from torch.export import ExportedProgram
from torchvision.io import decode_image
from torchvision.ops import MultiScaleRoIAlign, batched_nms, nms
from torchvision.ops.poolers import initLevelMapper
from torchvision.transforms.v2.functional import resize

from export import mil
from export.runtimes import ExecuTorchSession, OnnxSession
from export.to_executorch import delegation_of
from mobileclip.config import config_of
from mobileclip.dense.config import DenseConfig
from mobileclip.dense.model import DenseModel, build
from mobileclip.errors import MobileClipError
from mobileclip.fuse import fuse
from mobileclip.models.heads.cluster_nms import ClusterNms
from mobileclip.models.heads.mask_rcnn import MaskRcnn
from mobileclip.models.heads.roi_matmul import MatmulRoiAlign, channels_last
from mobileclip.models.heads.static_rcnn import split

LABELS = ("disc", "box", "star", "ring")
COUNTS = {"before": 64, "proposals": 48, "pairs": 128, "detections": 12}


@pytest.fixture(autouse=True)
def one_seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def boxes_in(count: int, rows: float, columns: float) -> Tensor:
    """Of all sizes, some of them slim and at the border."""
    ends = torch.tensor([columns, rows] * 2)
    middle, half = torch.rand(count, 2) * ends[:2], torch.rand(count, 2) ** 3 * ends[:2]
    return torch.minimum(torch.cat([middle - half, middle + half], 1).clamp(min=0), ends)


def spread(model: DenseModel, picture: Tensor) -> DenseModel:
    """The model with last layers whose outputs lie on this picture as after training: far apart, most scores low."""
    head = model.head
    aims = {
        head.rpn.head.cls_logits: (-2.0, 3.0),
        head.rpn.head.bbox_pred: (0.0, 0.4),
        head.roi_heads.box_predictor.cls_score: (0.0, 2.0),
        head.roi_heads.box_predictor.bbox_pred: (0.0, 1.0),
    }

    def widen(layer: nn.Conv2d | nn.Linear, inputs: tuple[Tensor], out: Tensor) -> Tensor:
        if layer in aims:
            middle, width = aims.pop(layer)
            dims = (0, *range(2, out.dim()))
            gain = width / (out.std(dims) + 1e-6)
            layer.bias.copy_((layer.bias - out.mean(dims)) * gain + middle)
            layer.weight.mul_(gain.reshape(-1, *[1] * (layer.weight.dim() - 1)))
        return layer.forward(*inputs)

    hooks = [layer.register_forward_hook(widen) for layer in aims]
    with torch.no_grad():
        head.detect(model.encoder(picture), [tuple(picture.shape[2:])])
    for hook in hooks:
        hook.remove()
    return model


def detector(picture: Tensor, **args: int) -> DenseModel:
    config = DenseConfig(
        encoder=config_of("nano"),
        head="mask_rcnn",
        args={"width": 32, "hidden": 64, **COUNTS, **args},
        size=(picture.shape[2], picture.shape[3]),
        labels=LABELS,
    )
    return spread(build(config), picture)


def blobs(rows: int, columns: int) -> Tensor:
    """A picture with something to see: coloured rectangles on a slope."""
    picture = torch.linspace(0, 0.5, columns).expand(1, 3, rows, columns).clone()
    for left, top, right, bottom in boxes_in(12, rows, columns).int().tolist():
        picture[0, :, top:bottom, left:right] = torch.rand(3, 1, 1)
    return picture


def photo(folder: Path, index: int, size: tuple[int, int]) -> Tensor:
    path = sorted(folder.glob("*.jpg"))[index]
    return resize(decode_image(str(path)), list(size), antialias=True)[None, :3] / 255


def truncated(head: MaskRcnn, maps: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """torchvision's inference with the counts of the static form."""
    rpn, regions = head.rpn, head.roi_heads
    old = rpn._pre_nms_top_n, rpn._post_nms_top_n, regions.detections_per_img, regions.score_thresh
    rpn._pre_nms_top_n, rpn._post_nms_top_n = {"testing": COUNTS["before"]}, {"testing": COUNTS["proposals"]}
    regions.detections_per_img = COUNTS["detections"]
    (found,) = head.detect(maps, [size])
    rpn._pre_nms_top_n, rpn._post_nms_top_n, regions.detections_per_img, regions.score_thresh = old
    return found


@pytest.mark.parametrize("bins", [7, 14])
@pytest.mark.parametrize("size", [(128, 128), (512, 512), (96, 416)])
def test_products_are_roi_align(size: tuple[int, int], bins: int) -> None:
    rows, columns = size
    maps = [torch.randn(1, 8, rows // stride, columns // stride) for stride in (4, 8, 16, 32)]
    corner = [columns - 0.1, rows - 0.1, columns, rows]
    odd = [[0.0, 0, columns, rows], corner, [0, 0, 112, 96], [0, 0, 0, 0], [columns, rows, columns, rows]]
    boxes = torch.cat(
        [boxes_in(300, rows, columns), torch.minimum(torch.tensor(odd), torch.tensor([columns, rows] * 2))]
    )
    align = MultiScaleRoIAlign(["0", "1", "2", "3"], bins, 2)
    align.scales, align.map_levels = [1 / 4, 1 / 8, 1 / 16, 1 / 32], initLevelMapper(2, 5)
    expected = align({str(level): part for level, part in enumerate(maps)}, [boxes], [size])
    ours = MatmulRoiAlign(size, bins)(channels_last(maps), boxes)
    torch.testing.assert_close(ours, expected, rtol=0, atol=6e-5)  # of maps of noise, whose slopes are steep


def test_levels_that_no_region_reaches_are_not_read() -> None:
    assert [MatmulRoiAlign((side, side), 7).levels for side in (64, 128, 256, 512)] == [1, 2, 3, 4]


def wrong_share(steps: int) -> float:
    """Of decisions on 300 boxes at random, in 512 x 512, against torchvision's."""
    wrong = 0
    for seed in range(20):
        torch.manual_seed(seed)
        middle, half = torch.rand(300, 2) * 512, torch.rand(300, 2) * 120
        boxes = torch.cat([middle - half, middle + half], 1)
        expected = torch.zeros(300)
        expected[nms(boxes, torch.linspace(1, 0, 300), 0.5)] = 1
        wrong += int((ClusterNms(300, 0.5, steps, 512.0)(boxes[None])[0] != expected).sum())
    return wrong / (20 * 300)


def test_ten_steps_suppress_as_torchvision_does() -> None:
    assert wrong_share(10) == 0
    assert 0.01 < wrong_share(1) < 0.1  # so the boxes at random do ask for chains


def test_classes_are_suppressed_apart() -> None:
    boxes, scores = boxes_in(200, 128, 160), torch.linspace(1, 0, 200)
    classes = torch.randint(80, (200,)) % 3
    expected = torch.zeros(200)
    expected[batched_nms(boxes, scores, classes, 0.3)] = 1
    ours = ClusterNms(200, 0.3, 12, 256.0)(boxes[None], classes[None].float())
    assert torch.equal(ours[0], expected)


def test_boxes_without_area_neither_suppress_nor_fall() -> None:
    boxes = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 5], [0, 0, 9, 9], [0, 0, 9, 9]])
    assert ClusterNms(4, 0.5, 8)(boxes[None]).tolist() == [[1, 1, 1, 0]]


def check_whole(picture: Tensor, model: DenseModel) -> None:
    size = (picture.shape[2], picture.shape[3])
    maps = model.encoder(picture)
    boxes, scores, labels, masks = model.head.deployed()(maps)
    found, best, classes, shapes = truncated(model.head, maps, size)
    count = len(found)
    assert count == COUNTS["detections"]
    assert len(set(classes.tolist())) > 1
    torch.testing.assert_close(boxes[:count], found, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(scores[:count], best, rtol=1e-4, atol=1e-5)
    assert torch.equal(labels[:count], classes.int())
    torch.testing.assert_close(masks[:count], shapes, rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("size", [(96, 128), (256, 256)])
def test_the_same_counts_give_torchvisions_output(size: tuple[int, int]) -> None:
    picture = blobs(*size)
    check_whole(picture, detector(picture))


@torch.no_grad()
@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_same_counts_give_torchvisions_output_on_photos(photos: Path, index: int) -> None:
    picture = photo(photos, index, (192, 256))
    check_whole(picture, detector(picture))


@torch.no_grad()
def test_torchvisions_own_counts_give_torchvisions_output(photos: Path) -> None:
    """All 1023 anchors, all pairs, 100 detections; chains of suppression are longer among so many."""
    picture = photo(photos, 3, (64, 64))
    model = detector(picture, before=768, proposals=600, pairs=2000, detections=100, steps=24)
    maps = model.encoder(picture)
    boxes, scores, labels, masks = model.head.deployed()(maps)
    ((found, best, classes, shapes),) = model.head.detect(maps, [(64, 64)])
    count = len(found)
    assert count > 50
    torch.testing.assert_close(boxes[:count], found, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(scores[:count], best, rtol=1e-4, atol=1e-5)
    assert torch.equal(labels[:count], classes.int())
    torch.testing.assert_close(masks[:count], shapes, rtol=1e-3, atol=1e-4)
    assert not (scores[count:] > 0.05).any()


@torch.no_grad()
def test_rows_without_an_object_have_no_score() -> None:
    picture = blobs(64, 64)
    model = detector(picture, detections=100)
    boxes, scores, labels, masks = model.head.deployed()(model.encoder(picture))
    assert [tuple(part.shape) for part in (boxes, scores, labels, masks)] == [(100, 4), (100,), (100,), (100, 28, 28)]
    assert (scores.diff() <= 0).all()
    assert scores[0] > 0.3
    assert scores[-1] == 0  # of the pairs of 48 regions fewer than 100 survive
    assert ((labels >= 0) & (labels < len(LABELS))).all()
    for part in (boxes, masks):
        assert part.isfinite().all()


def test_another_size_is_refused() -> None:
    static = detector(blobs(64, 96)).head.deployed()
    wrong = [torch.zeros(2, 16, 16 // scale, 16 // scale) for scale in (1, 2, 4, 8)]
    with pytest.raises(MobileClipError) as caught:
        static(wrong)
    assert str(caught.value) == (
        "the deployed Mask R-CNN takes 1 picture of 64 x 96 pixels, not 2 of 64 x 64: give it one at a time, or deploy "
        "a model whose configuration has that size."
    )


@torch.no_grad()
def test_three_parts_and_a_suppression_between_are_the_whole() -> None:
    picture = blobs(128, 128)
    model = detector(picture)
    static = model.head.deployed()
    pyramid, propose, regions = split(model.encoder, static)
    maps = pyramid(picture)
    assert [part.shape[-1] for part in maps] == [32, 16, 8, 4, 2]
    candidates, scores = propose(*maps)
    assert candidates.shape == (5, 64, 4)
    kept = [
        (candidates[level][keep], scores[level][keep])
        for level in range(5)
        for keep in [nms(candidates[level], scores[level], 0.7)]
    ]
    boxes, best = (torch.cat(parts) for parts in zip(*kept, strict=True))
    best, order = best.topk(48)
    for ours, whole in zip(regions(boxes[order], best, *maps[:4]), static(model.encoder(picture)), strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-4)


class Whole(nn.Module):
    """Encoder and head as every exporter takes them."""

    def __init__(self, model: DenseModel) -> None:
        super().__init__()
        self.encoder, self.head = model.encoder, model.head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        found: tuple[Tensor, Tensor, Tensor, Tensor] = self.head(self.encoder(x))
        return found


@dataclass(frozen=True)
class Exported:
    """A small detector at the size of two levels for regions, and what it gives."""

    program: ExportedProgram
    picture: Tensor
    expected: tuple[Tensor, ...]


@pytest.fixture(scope="module")
def exported() -> Exported:
    torch.manual_seed(0)
    picture = blobs(128, 128)
    # few steps, since what is compared has as many
    counts = {"before": 32, "proposals": 16, "pairs": 32, "detections": 4, "steps": 2}
    module = Whole(fuse(detector(picture, **counts))).eval()
    with torch.no_grad():
        return Exported(torch.export.export(module, (picture,)), picture, module(picture))


def compare(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for ours, theirs in zip(outputs, expected, strict=True):
        torch.testing.assert_close(ours.to(theirs.dtype), theirs, rtol=1e-3, atol=2e-3)


def test_onnx_computes_it(exported: Exported, tmp_path: Path) -> None:
    program = torch.onnx.export(
        exported.program, (exported.picture,), dynamo=True, opset_version=20, verbose=False, optimize=False
    )
    assert program is not None
    program.save(str(tmp_path / "whole.onnx"))
    outputs = OnnxSession(tmp_path / "whole.onnx", 1).run([exported.picture.numpy()])
    assert [part.dtype.name for part in outputs] == ["float32", "float32", "int32", "float32"]
    compare([torch.from_numpy(part) for part in outputs], exported.expected)


def test_core_ml_computes_it(exported: Exported, tmp_path: Path) -> None:
    ct = pytest.importorskip("coremltools")
    package = ct.convert(
        exported.program.run_decompositions({}),
        inputs=[ct.TensorType("image", shape=exported.picture.shape)],
        outputs=[ct.TensorType(name) for name in ("boxes", "scores", "labels", "masks")],
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    package.save(str(tmp_path / "whole.mlpackage"))
    program = mil.Program.load(tmp_path / "whole.mlpackage")
    assert program.max_rank <= 4
    assert not {"non_maximum_suppression", "crop_resize", "resample"} & set(program.ops)
    outputs = program.run({"image": exported.picture.numpy()})
    compare([outputs[item.name] for item in program.outputs], exported.expected)


class NewParts(nn.Module):
    """What torchvision has operators of its own for: RoIAlign, here on one level, and suppression."""

    def __init__(self) -> None:
        super().__init__()
        self.align, self.nms = MatmulRoiAlign((64, 64), 7), ClusterNms(24, 0.5, 2, 64.0)

    def forward(self, part: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        return self.align(channels_last([part]), boxes), self.nms(boxes.reshape(1, -1, 4))


def test_xnnpack_computes_the_new_parts(tmp_path: Path) -> None:
    """It runs the whole too, but lowering that takes ExecuTorch a minute; `mobileclip verify` does it."""
    module, inputs = NewParts().eval(), (torch.randn(1, 8, 16, 16), boxes_in(24, 64, 64))
    edge = to_edge_transform_and_lower(
        torch.export.export(module, inputs), partitioner=[XnnpackPartitioner()], transform_passes=get_transform_passes()
    )
    (tmp_path / "parts.pte").write_bytes(edge.to_executorch().buffer)
    loose = [name for name, count in delegation_of(edge).loose.items() if count]
    assert not [name for name in loose if any(word in name for word in ("mm", "mul", "sub", "relu", "select", "index"))]
    outputs = ExecuTorchSession(tmp_path / "parts.pte").run([part.numpy() for part in inputs])
    compare([torch.from_numpy(part) for part in outputs], module(*inputs))
