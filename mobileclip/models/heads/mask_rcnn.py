"""Mask R-CNN on a pyramid, out of torchvision's own parts and with its numbers.

    model = build(DenseConfig(encoder=config_of("mci2"), head="mask_rcnn", size=(800, 1344), labels=COCO_80))
    parts = model.loss(pixels, targets)                    # five losses, weighted alike
    found = model.head.detect(model.encoder(pixels), sizes)  # boxes, scores, classes, masks of each picture

He et al., 2017 (arXiv 1703.06870) on the feature pyramid of Lin et al., 2017 (arXiv 1612.03144). Anchors, samplers,
matchers, losses and suppression are torchvision's (`torchvision/models/detection`), so its `MaskRCNN` with the same
weights gives the same losses and detections, and its checkpoints fit by name (`rpn.*`, `roi_heads.*`). Its transform
is not here: pictures arrive resized, normalised and padded.

Where this differs from mmdet, in which most published AP was measured; torchvision's side is taken throughout:

    what                            torchvision, here               mmdet, 1x schedule
    RoIAlign                        2 x 2 samples, not aligned      adaptive samples, aligned
    box losses, of RPN and RoI      smooth L1, beta 1/9             L1
    proposals after suppression     2000 in training, 1000 after    1000, 1000
    anchors' step                   padded size // map size         stride (differs where P6 is rounded up)
    classes                         0 is background                 background is last

Two samples a bin are also what Core ML and the static form (`static_rcnn.py`) can compute; adaptive samples they
cannot. Numbers go in float32 wherever boxes or scores are made, also under autocast: bfloat16 has 8 bits, which would
round a coordinate of 800 to 4 pixels.

`detect` speaks of classes 0..K-1 in the order of `config.labels`; background exists inside only, as class 0. So COCO
has 80 + 1 outputs, where torchvision's own models have 91 (ids 1 to 90 with gaps): 0.05 M parameters fewer.

Legend: B pictures, H and W rows and columns, K classes, N objects, D rows of the padded output.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import initLevelMapper

from mobileclip.dense.config import DenseConfig
from mobileclip.dense.samples import Targets
from mobileclip.errors import DataError, MobileClipError
from mobileclip.models.heads.static_rcnn import StaticRcnn

STRIDES = (4, 8, 16, 32)
"""Of the pyramid's maps, and of the levels that regions are read from."""
RATIOS = (0.5, 1.0, 2.0)
"""Height to width of the anchors."""

Found = tuple[Tensor, Tensor, Tensor, Tensor]
"""Boxes [N, 4] in pixels, scores [N], classes [N] in 0..K-1, mask probabilities [N, 28, 28] over each box."""


class MaskRcnn(nn.Module):
    """Four maps at strides 4, 8, 16 and 32 -> objects.

    Attributes:
        fpn: to five maps of one width, strides 4 to 64.
        rpn: to proposals.
        roi_heads: proposals to boxes, classes and masks.
    """

    def __init__(
        self,
        channels: Sequence[int],
        config: DenseConfig,
        width: int = 256,
        hidden: int = 1024,
        before: int = 256,
        proposals: int = 200,
        pairs: int = 256,
        detections: int = 20,
        steps: int = 10,
    ) -> None:
        """Fresh weights, drawn as torchvision draws them.

        Args:
            channels: of the four maps.
            config: its labels are the K classes, its size that of the deployed form.
            width: channels of the feature pyramid and of the mask branch; 256 in papers, 128 for phones.
            hidden: units of the two layers of the box branch.
            before: of the deployed form: anchors a level that enter suppression (torchvision, here: 1000).
            proposals: of the deployed form: regions that are classified (here: 1000). The count that costs accuracy
                first, the more the less the proposals are trained.
            pairs: of the deployed form: pairs of a region and a class that enter suppression (here: all above 0.05).
            detections: of the deployed form: rows D of the output (here: up to 100).
            steps: of the deployed form: Cluster-NMS steps (here: exact suppression).

        Raises:
            MobileClipError: there are no labels.
        """
        super().__init__()
        if not config.labels:
            raise MobileClipError(f"{config.name} has no labels: a detector needs the name of every class.")
        outputs = len(config.labels) + 1
        self.config = config
        self.static = {
            "before": before,
            "proposals": proposals,
            "pairs": pairs,
            "detections": detections,
            "steps": steps,
        }
        self.fpn = FeaturePyramidNetwork(list(channels), width, extra_blocks=LastLevelMaxPool())
        self.rpn = _proposer(width)
        self.roi_heads = _region_heads(width, hidden, outputs)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the deployed form gives, by torchvision's inference, for one picture that fills its maps.

        Returns:
            boxes [D, 4] in pixels, scores [D], labels [D] (int32, 0..K-1), masks [D, 28, 28] in 0..1; best first,
            rows without an object are zero. The deployed form has rows of scores below 0.05 too; drop those.
        """
        rows = self.static["detections"]
        (found,) = self.detect(maps, [_size(maps)])
        boxes, scores, labels, masks = (_padded(part, rows) for part in found)
        return boxes, scores, labels.to(torch.int32), masks

    def loss(self, maps: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """torchvision's five losses under its names: of the proposals `loss_objectness` and `loss_rpn_box_reg`, of the
        regions `loss_classifier`, `loss_box_reg` and `loss_mask`. Pictures without objects train as background.

        Raises:
            DataError: a box has no area; torchvision refuses it as well, since its logarithm is infinite.
        """
        assert self.training, "torchvision computes losses in training mode only"
        truth = _truth(targets)
        features = self._features(maps)
        images = _images(maps, targets.sizes)
        regions, proposal_losses = self.rpn(images, features, truth)
        _, region_losses = self.roi_heads(features, regions, images.image_sizes, truth)
        return {**proposal_losses, **region_losses}

    def detect(self, maps: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Found]:
        """Objects of every picture, best first: at most 100, with scores above 0.05.

        Args:
            maps: of B pictures that were padded to the right and below.
            sizes: rows and columns of each before it was padded; boxes end there.
        """
        assert not self.training, "call .eval() first: in training mode torchvision gives losses"
        features = self._features(maps)
        images = _images(maps, sizes)
        regions, _ = self.rpn(images, features)
        found, _ = self.roi_heads(features, regions, images.image_sizes)
        return [(one["boxes"], one["scores"], one["labels"] - 1, one["masks"][:, 0]) for one in found]

    def deployed(self) -> StaticRcnn:
        """The static form (`static_rcnn.py`) for one picture of the size in the configuration, with copied weights."""
        return StaticRcnn(self.fpn, self.rpn, self.roi_heads, self.config.size, **self.static)

    def _features(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        features: dict[str, Tensor] = self.fpn({str(level): part for level, part in enumerate(maps)})
        return features


class _ProposalHead(RPNHead):  # type: ignore[misc]
    """torchvision's, its outputs in float32."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [part.float() for part in logits], [part.float() for part in deltas]


class _BoxPredictor(FastRCNNPredictor):  # type: ignore[misc]
    """torchvision's, its outputs in float32."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, deltas = super().forward(x)
        return scores.float(), deltas.float()


class _MaskPredictor(MaskRCNNPredictor):  # type: ignore[misc]
    """torchvision's, its outputs in float32."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = super().forward(x)
        return logits.float()


def _proposer(width: int) -> RegionProposalNetwork:
    """Region proposals on five levels; the numbers are those of torchvision's `FasterRCNN`."""
    sides = tuple((8 * stride,) for stride in (*STRIDES, 64))
    anchors = AnchorGenerator(sides, (RATIOS,) * len(sides))
    return RegionProposalNetwork(
        anchors,
        _ProposalHead(width, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 2000, "testing": 1000},
        post_nms_top_n={"training": 2000, "testing": 1000},
        nms_thresh=0.7,
    )


def _region_heads(width: int, hidden: int, outputs: int) -> RoIHeads:
    """Box and mask branches; the numbers are those of torchvision's `MaskRCNN`."""
    return RoIHeads(
        _aligner(7),
        TwoMLPHead(width * 7 * 7, hidden),
        _BoxPredictor(hidden, outputs),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=512,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=100,
        mask_roi_pool=_aligner(14),
        mask_head=MaskRCNNHeads(width, (width,) * 4, 1),
        mask_predictor=_MaskPredictor(width, width, outputs),
    )


def _aligner(bins: int) -> MultiScaleRoIAlign:
    """RoIAlign on P2 to P5. The scales are set here: torchvision would guess them from the first pictures' sizes and
    keep its guess, which is wrong where those are much smaller than what they were padded to."""
    align = MultiScaleRoIAlign(featmap_names=["0", "1", "2", "3"], output_size=bins, sampling_ratio=2)
    align.scales = [1 / stride for stride in STRIDES]
    align.map_levels = initLevelMapper(2, 5)
    return align


def _size(maps: Sequence[Tensor]) -> tuple[int, int]:
    """Rows and columns of the padded pictures."""
    height, width = maps[0].shape[-2:]
    return height * STRIDES[0], width * STRIDES[0]


def _images(maps: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> ImageList:
    """What torchvision wants to know of the pictures: shapes. The tensor holds one number."""
    shape = (maps[0].shape[0], 3, *_size(maps))
    return ImageList(maps[0].new_empty(1).expand(shape), [(int(height), int(width)) for height, width in sizes])


def _truth(targets: Targets) -> list[dict[str, Tensor]]:
    """Targets in torchvision's form: background is class 0, masks end where their picture does."""
    assert targets.boxes is not None
    assert targets.classes is not None
    assert targets.masks is not None
    for index, boxes in enumerate(targets.boxes):
        empty = (boxes[:, 2:] <= boxes[:, :2]).any(1)
        if empty.any():
            row = int(empty.nonzero()[0])
            corners = ", ".join(f"{edge:g}" for edge in boxes[row].tolist())
            raise DataError(
                f"box {row} of picture {index} of the batch, ({corners}), has no area: left must be less than right and"
                " top less than bottom; leave such objects out of the annotations."
            )
    return [
        {"boxes": boxes, "labels": classes + 1, "masks": masks[:, :height, :width]}
        for boxes, classes, masks, (height, width) in zip(
            targets.boxes, targets.classes, targets.masks, targets.sizes, strict=True
        )
    ]


def _padded(rows: Tensor, count: int) -> Tensor:
    """The first `count` rows; zeros where there are fewer."""
    rows = rows[:count]
    return torch.cat([rows, rows.new_zeros(count - len(rows), *rows.shape[1:])])
