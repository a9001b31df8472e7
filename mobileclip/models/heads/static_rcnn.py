"""Mask R-CNN as it is deployed: one picture of one size, every shape fixed, no operator that a target lacks.

    static = model.head.deployed()
    boxes, scores, labels, masks = static(maps)        # [D, 4], [D], [D], [D, 28, 28]
    pyramid, proposals, regions = split(model)         # three parts for an app with its own suppression

torchvision's inference with three things replaced: suppression by Cluster-NMS (`cluster_nms.py`), RoIAlign by matrix
products (`roi_matmul.py`), and lists of changing length by the best so many:

    1. of each level, the `before` best anchors (top-k a level, as torchvision does), decoded and suppressed together;
    2. of what is kept, the `proposals` best regions: RoIAlign, box branch, softmax;
    3. of all pairs of a region and a class, the `pairs` best, suppressed within their class;
    4. of what is kept, the `detections` best: RoIAlign, mask branch, the class's own mask.

Step 3 takes pairs, not the best class of each region: it costs nothing, and is what torchvision does. So with these
counts given to torchvision, the outputs are equal; with torchvision's own counts (1000, 1000, all, 100) they differ
where the picture holds more than the counts let through.

Rows that nothing was left for have the score 0. Scores below torchvision's 0.05 are not dropped, and boxes end at the
picture as it was padded: both are left to the host. A score that ties with another may change places with it.

The mask of one class out of K needs no product with all K: the class's row of the last layer's weights is taken out
by a product with a one-hot row first, 1/K of the work.

Legend: C channels, H and W rows and columns, K classes, A anchors a place, N rows that go on, D rows of the output.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from mobileclip.errors import MobileClipError
from mobileclip.models.heads.cluster_nms import ClusterNms
from mobileclip.models.heads.roi_matmul import MatmulRoiAlign, channels_last

LEVELS = (4, 8, 16, 32, 64)
"""Strides of the maps that proposals come from; regions are read from the first four."""

Detections = tuple[Tensor, Tensor, Tensor, Tensor]
_M = TypeVar("_M", bound=nn.Module)


class StaticRcnn(nn.Module):
    """Four maps of one picture -> `boxes [D, 4]` in pixels, `scores [D]`, `labels [D]` int32, `masks [D, 28, 28]`.

    Attributes:
        fpn: four maps to five of one width.
        propose: five maps to candidates.
        suppress: candidates to regions.
        regions: maps and regions to detections.
    """

    def __init__(
        self,
        fpn: nn.Module,
        rpn: RegionProposalNetwork,
        heads: RoIHeads,
        size: tuple[int, int],
        *,
        before: int,
        proposals: int,
        pairs: int,
        detections: int,
        steps: int,
    ) -> None:
        """From torchvision's modules, whose weights are copied.

        Args:
            fpn: torchvision's `FeaturePyramidNetwork` with `LastLevelMaxPool`.
            rpn: its region proposals.
            heads: its box and mask branches.
            size: rows and columns of the picture, multiples of 32.
            before: anchors a level that enter suppression.
            proposals: regions that are classified.
            pairs: pairs of a region and a class that enter suppression.
            detections: D.
            steps: of Cluster-NMS.
        """
        super().__init__()
        unit = 2.0 ** math.ceil(math.log2(max(size)))
        self.size = size
        self.fpn = copied(fpn)
        self.propose = Proposals(rpn, size, before)
        self.suppress = Suppression(before, proposals, float(rpn.nms_thresh), steps, unit)
        self.regions = Regions(heads, size, proposals, pairs, detections, steps, unit)
        self.eval()

    def forward(self, maps: Sequence[Tensor]) -> Detections:
        """Raises `MobileClipError` for more than one picture or another size."""
        self._check(maps)
        levels = list(self.fpn({str(level): part for level, part in enumerate(maps)}).values())
        boxes, scores = self.suppress(*self.propose(levels))
        found: Detections = self.regions(levels, boxes, scores)
        return found

    def _check(self, maps: Sequence[Tensor]) -> None:
        count, (height, width) = maps[0].shape[0], (side * LEVELS[0] for side in maps[0].shape[-2:])
        if (count, height, width) != (1, *self.size):
            raise MobileClipError(
                f"the deployed Mask R-CNN takes 1 picture of {self.size[0]} x {self.size[1]} pixels, not {count} of "
                f"{height} x {width}: give it one at a time, or deploy a model whose configuration has that size."
            )


class Proposals(nn.Module):
    """Five maps -> the best anchors of each level, decoded: boxes [5, N, 4], scores [5, N], best first, not suppressed.

    A level with fewer anchors ends in boxes and scores of 0.

    Attributes:
        anchors0, ...: [H * W * A, 4], centre x, centre y, width, height of each anchor, in torchvision's places.
    """

    def __init__(self, rpn: RegionProposalNetwork, size: tuple[int, int], before: int) -> None:
        super().__init__()
        self.head, self.size, self.before = copied(rpn.head), size, before
        self.smallest = float(rpn.min_size)
        self.decode = Decoder(size, rpn.box_coder.weights, rpn.box_coder.bbox_xform_clip)
        shapes = [[-(-side // stride) for side in size] for stride in LEVELS]
        maps = [torch.zeros(1, 1, *shape) for shape in shapes]
        images = ImageList(torch.zeros(1).expand(1, 3, *size), [size])
        (anchors,) = copied(rpn.anchor_generator).cpu()(images, maps)
        counts = [len(anchors) // sum(h * w for h, w in shapes) * h * w for h, w in shapes]
        for level, part in enumerate(anchors.split(counts)):
            self.register_buffer(f"anchors{level}", centres(part), persistent=False)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps [1, C, H, W] at strides 4 to 64."""
        logits, deltas = self.head(list(maps))
        found = [self._level(level, *parts) for level, parts in enumerate(zip(logits, deltas, strict=True))]
        best, codes, anchors = (torch.stack(parts) for parts in zip(*found, strict=True))
        boxes = self.decode(codes, anchors)
        return boxes, torch.sigmoid(best) * wide(boxes, self.smallest)

    def _level(self, level: int, logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best anchors of one level: logits [N], deltas [N, 4], anchors [N, 4]."""
        logits = logits.permute(0, 2, 3, 1).reshape(-1)  # [H * W * A]
        deltas = deltas.permute(0, 2, 3, 1).reshape(-1, 4)  # [H * W * A, 4]
        anchors = self.get_buffer(f"anchors{level}")
        count = min(self.before, len(anchors))
        best, index = logits.topk(count)
        codes, anchors = deltas.index_select(0, index), anchors.index_select(0, index)
        if missing := self.before - count:  # a logit of -100 is a probability of 0, also in fp16
            best = F.pad(best, (0, missing), value=-100.0)
            codes, anchors = (F.pad(part, (0, 0, 0, missing)) for part in (codes, anchors))
        return best, codes, anchors


class Suppression(nn.Module):
    """Candidates of five levels -> regions [N, 4] and scores [N], best first; scores of 0 where nothing was left."""

    def __init__(self, before: int, proposals: int, threshold: float, steps: int, unit: float) -> None:
        super().__init__()
        self.nms, self.proposals = ClusterNms(before, threshold, steps, unit), min(proposals, before * len(LEVELS))

    def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """boxes [5, N, 4], scores [5, N]"""
        scores, index = (scores * self.nms(boxes)).reshape(-1).topk(self.proposals)
        return boxes.reshape(-1, 4).index_select(0, index), scores


class Regions(nn.Module):
    """Maps, regions [N, 4] and their scores (0: no region) -> detections.

    Attributes:
        labels: [N * K], the class of each pair.
        classes: [1, K], 0 to K - 1.
    """

    labels: Tensor
    classes: Tensor

    def __init__(
        self,
        heads: RoIHeads,
        size: tuple[int, int],
        proposals: int,
        pairs: int,
        detections: int,
        steps: int,
        unit: float,
    ) -> None:
        super().__init__()
        self.box_align = MatmulRoiAlign(size, int(heads.box_roi_pool.output_size[0]))
        self.box_head, self.box_predictor = copied(heads.box_head), copied(heads.box_predictor)
        coder = heads.box_coder
        self.decode = Decoder(size, coder.weights, coder.bbox_xform_clip)
        classes = int(heads.box_predictor.cls_score.out_features) - 1
        self.pairs = min(pairs, proposals * classes)
        self.detections = min(detections, self.pairs)
        self.nms = ClusterNms(self.pairs, float(heads.nms_thresh), steps, unit)
        self.mask_align = MatmulRoiAlign(size, int(heads.mask_roi_pool.output_size[0]))
        self.mask_branch = MaskBranch(heads)
        self.register_buffer("labels", torch.arange(float(classes)).repeat(proposals), persistent=False)
        self.register_buffer("classes", torch.arange(float(classes))[None], persistent=False)

    def forward(self, levels: Sequence[Tensor], boxes: Tensor, scores: Tensor) -> Detections:
        """Maps [1, C, H, W] at strides 4 to 32 (more are not read), regions [N, 4], scores [N]."""
        maps = channels_last(levels[: self.box_align.levels])
        boxes, scores, labels = self._best(*self._classified(maps, boxes, scores))
        classes = F.relu(1 - (labels.reshape(-1, 1) - self.classes).abs())  # [D, K], one-hot
        masks = self.mask_branch(self.mask_align(maps, boxes), classes)
        return boxes, scores, labels.to(torch.int32), masks

    def _classified(self, maps: Sequence[Tensor], regions: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Every pair of a region and a class: boxes [N * K, 4], scores [N * K]."""
        logits, codes = self.box_predictor(self.box_head(self.box_align(maps, regions)))
        codes = codes.reshape(len(regions), -1, 4)[:, 1:]  # [N, K, 4]
        boxes = self.decode(codes, centres(regions).reshape(-1, 1, 4))
        share = logits.softmax(1)[:, 1:] * (scores > 0).to(logits.dtype).reshape(-1, 1)  # [N, K]
        share = share * wide(boxes, 1e-2)  # torchvision's smallest side of a detection
        return boxes.reshape(-1, 4), share.reshape(-1)

    def _best(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of all pairs, what is left after suppression: boxes [D, 4], scores [D], labels [D]."""
        scores, index = scores.topk(self.pairs)
        boxes, labels = boxes.index_select(0, index), self.labels.index_select(0, index)
        keep = self.nms(boxes.reshape(1, -1, 4), labels.reshape(1, -1)).reshape(-1)
        scores, index = (scores * keep).topk(self.detections)
        return boxes.index_select(0, index), scores, labels.index_select(0, index)


class MaskBranch(nn.Module):
    """Regions [D, C, 14, 14] and their classes, one-hot [D, K] -> probabilities [D, 28, 28]."""

    def __init__(self, heads: RoIHeads) -> None:
        super().__init__()
        self.body, self.up = copied(heads.mask_head), copied(heads.mask_predictor.conv5_mask)
        last = heads.mask_predictor.mask_fcn_logits
        weight = torch.cat([last.weight[1:, :, 0, 0], last.bias[1:, None]], 1).detach()  # [K, C + 1]
        self.choose = nn.Linear(weight.shape[0], weight.shape[1], bias=False)
        self.choose.weight = nn.Parameter(weight.T.contiguous(), requires_grad=False)

    def forward(self, x: Tensor, classes: Tensor) -> Tensor:
        x = F.relu(self.up(self.body(x)))  # [D, C, 28, 28]
        chosen = self.choose(classes).reshape(len(x), 1, -1)  # [D, 1, C + 1]
        logits = torch.bmm(chosen[..., :-1], x.flatten(2)) + chosen[..., -1:]  # [D, 1, 28 * 28]
        return torch.sigmoid(logits).reshape(-1, *x.shape[2:])


class Decoder(nn.Module):
    """Regressed codes [..., 4] about boxes given by `centres` -> boxes [..., 4] inside the picture (Ren et al., 2015,
    arXiv 1506.01497, equation 2; torchvision's `BoxCoder`).

    Attributes:
        ends: [4], columns and rows of the picture, twice.
    """

    ends: Tensor
    shares: Tensor

    def __init__(self, size: tuple[int, int], weights: Iterable[float], largest: float) -> None:
        super().__init__()
        self.largest = largest
        self.register_buffer("shares", 1 / torch.tensor(list(weights)), persistent=False)
        self.register_buffer("ends", torch.tensor([size[1], size[0]] * 2, dtype=torch.float32), persistent=False)

    def forward(self, codes: Tensor, boxes: Tensor) -> Tensor:
        codes = codes * self.shares
        middle, sides = boxes[..., :2], boxes[..., 2:]
        middle = middle + codes[..., :2] * sides
        half = torch.exp(codes[..., 2:].clamp(max=self.largest)) * sides * 0.5
        return torch.minimum(torch.cat([middle - half, middle + half], -1).clamp(min=0), self.ends)


class PyramidPart(nn.Module):
    """Pixels [1, 3, H, W] -> five maps of one width at strides 4 to 64."""

    def __init__(self, encoder: nn.Module, fpn: nn.Module) -> None:
        super().__init__()
        self.encoder, self.fpn = encoder, fpn

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.encoder(x)
        return tuple(self.fpn({str(level): part for level, part in enumerate(maps)}).values())


class ProposalsPart(nn.Module):
    """Five maps as five arguments -> boxes [5, N, 4] and scores [5, N], best first in each level, not suppressed. The
    app suppresses within a level (threshold 0.7) and gives the best of all to `RegionsPart`."""

    def __init__(self, propose: Proposals) -> None:
        super().__init__()
        self.propose = propose

    def forward(self, *maps: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.propose(maps)
        return found


class RegionsPart(nn.Module):
    """Regions [N, 4] in pixels, scores [N] (0 in rows that hold no region), four maps as arguments -> detections."""

    def __init__(self, regions: Regions) -> None:
        super().__init__()
        self.regions = regions

    def forward(self, boxes: Tensor, scores: Tensor, *maps: Tensor) -> Detections:
        found: Detections = self.regions(maps, boxes, scores)
        return found


def split(encoder: nn.Module, static: StaticRcnn) -> tuple[PyramidPart, ProposalsPart, RegionsPart]:
    """A deployed encoder and head as three modules for an app that suppresses proposals by itself; with Cluster-NMS
    between the last two they are the whole."""
    parts = PyramidPart(encoder, static.fpn), ProposalsPart(static.propose), RegionsPart(static.regions)
    return parts[0].eval(), parts[1].eval(), parts[2].eval()


def centres(boxes: Tensor) -> Tensor:
    """Edges [..., 4] -> centre x, centre y, width, height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    sides = high - low
    return torch.cat([low + 0.5 * sides, sides], -1)


def wide(boxes: Tensor, least: float) -> Tensor:
    """1.0 for boxes [..., 4] whose sides are both at least `least` pixels, else 0.0."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return (torch.minimum(sides[..., :1], sides[..., 1:]) >= least).to(boxes.dtype).flatten(-2)


def copied(module: _M) -> _M:
    """A copy in evaluation mode that takes no gradient."""
    return copy.deepcopy(module).requires_grad_(False).eval()
