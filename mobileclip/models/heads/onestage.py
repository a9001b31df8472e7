"""One-stage detector with masks for phones: convolutions only, no suppression inside, no top-k, no gather.

    model = build(DenseConfig(encoder=config_of("mci2"), head="onestage", size=(512, 512), labels=COCO_80))
    parts = model.loss(pixels, targets)                    # three losses of each branch
    boxes, scores, coeffs, protos = model(pixels)          # raw; `mobileclip.dense.host_detection` makes objects of it

Every point of a grid at strides 8, 16 and 32 says one box, K scores and the coefficients that mix shared prototype
masks into its own (Bolya et al., YOLACT, 2019, arXiv 1904.02689). Two branches stand on one neck (dual assignment:
Wang et al., YOLOv10, 2024, arXiv 2405.14458, section 3.1): in `many` an object trains its ten best points, in `one` a
single one. `one` answers without suppression and is what is deployed; `many` teaches. No gradient goes from `one` into
the neck, the encoder or the prototypes: those learn from `many` alone, whose targets are ten times as dense, and `one`
learns to pick among what is there. So `many`, with suppression on the host, stays a fallback that lost nothing.

Built for what phones run. BatchNorm folds away; each level has its own, since levels share convolutions but not
statistics (RTMDet, arXiv 2212.07784, section 3.3). Levels are joined by bilinear steps, because XNNPACK has no nearest
one. Sizes are positive by ELU + 1, which neither overflows in fp16, as exp does, nor stops learning at 0, as ReLU does;
centres are free, so an object smaller than a stride can be met from a point beside it.

`convs=0` is the linear probe of detection: BatchNorm and 1x1 convolutions on the encoder's own maps, no neck.

Legend: B pictures, K classes, C_i channels of map i, H and W rows and columns of the picture, P prototypes,
N = H * W * (1/64 + 1/256 + 1/1024) points.
"""

import copy
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobileclip.dense.config import DenseConfig
from mobileclip.dense.samples import Targets
from mobileclip.errors import MobileClipError, UnknownName
from mobileclip.models.blocks import conv_like
from mobileclip.models.branches import affine_of
from mobileclip.models.heads.blocks import conv_bn_relu, doubled, folded
from mobileclip.models.heads.onestage_loss import Answers, branch_loss

STRIDES = (8, 16, 32)
"""Of the levels that answer; prototypes are at stride 4."""
PRIOR = 0.01
"""Score of every class at the start (Lin et al., Focal Loss, 2017, section 4.1)."""
EXTENT = 4.0
"""Width and height of every box at the start, in strides."""
BRANCHES = {"one": 1, "many": 10}
"""Branch -> points that an object trains."""

Outputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""`boxes` [B, 4, N] (left, top, right, bottom in pixels of the input), `scores` [B, K, N] in 0..1, `coeffs` [B, P, N],
`protos` [B, P, H/4, W/4]; the logit of a mask is the sum of coefficient * prototype. Points go by level (stride 8
first), then row by row."""


class OneStage(nn.Module):
    """Four maps at strides 4, 8, 16 and 32 -> `Outputs` of one branch, as they are deployed.

    Args:
        channels: C_i of the maps, finest first.
        config: of the model; its labels are the classes.
        width: channels of neck and towers.
        convs: 3x3 convolutions in each of a branch's two towers; 0: the linear probe.
        prototypes: P.
        branch: which one answers: `one`, or `many`, which needs suppression on the host; None: `one`, and `many` in
            the linear probe, which cannot tell neighbours apart.

    Attributes:
        nms: overlap from which the host suppresses (`host_detection.detected`); None where there is no need.

    Raises:
        UnknownName: no such branch.
        MobileClipError: the configuration has no labels.
    """

    def __init__(
        self,
        channels: Sequence[int],
        config: DenseConfig,
        width: int = 128,
        convs: int = 2,
        prototypes: int = 32,
        branch: str | None = None,
    ) -> None:
        super().__init__()
        self.branch = branch or ("one" if convs else "many")
        if self.branch not in BRANCHES:
            raise UnknownName("branch", self.branch, BRANCHES)
        if not config.labels:
            raise MobileClipError("a detector needs at least one label: give `labels` in its configuration.")
        self.size = config.size
        self.nms = 0.65 if self.branch == "many" else None
        self.neck = Neck(channels, width, prototypes) if convs else LinearNeck(channels, prototypes)
        widths = (width,) if convs else tuple(channels[1:])
        self.one = PointBranch(widths, convs, len(config.labels), prototypes)
        self.many = PointBranch(widths, convs, len(config.labels), prototypes)

    def forward(self, maps: Sequence[Tensor]) -> Outputs:
        levels, protos = self.neck(maps)
        answers = located(getattr(self, self.branch)(levels), *grid(levels))
        return answers.boxes, answers.logits.sigmoid(), answers.coeffs, protos

    def loss(self, maps: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """`class`, `box` and `mask` of the branch `many`, `class_one`, `box_one` and `mask_one` of the other."""
        levels, protos = self.neck(maps)
        points, strides = grid(levels)
        many = located(self.many(levels), points, strides)
        one = located(self.one([level.detach() for level in levels]), points, strides)
        taught = branch_loss(many, protos, points[0], targets, BRANCHES["many"])
        single = branch_loss(one, protos.detach(), points[0], targets, BRANCHES["one"])
        return taught | {f"{name}_one": value for name, value in single.items()}

    def deployed(self) -> nn.Module:
        """New modules with the same `forward` in evaluation: one branch, no BatchNorm, and for the configuration's
        size the grid as constants."""
        return DeployedOneStage(self.neck.deployed(), getattr(self, self.branch).deployed(), self.size, self.nms)


class DeployedOneStage(nn.Module):
    """`OneStage` as it is exported: maps -> `Outputs`."""

    points: Tensor
    strides: Tensor

    def __init__(self, neck: nn.Module, answer: nn.Module, size: tuple[int, int], nms: float | None) -> None:
        super().__init__()
        self.neck, self.answer, self.nms = neck, answer, nms
        points, strides = grid([torch.empty(1, 1, size[0] // stride, size[1] // stride) for stride in STRIDES])
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("strides", strides, persistent=False)
        self.shapes = [(size[0] // stride, size[1] // stride) for stride in STRIDES]
        self.eval().requires_grad_(False)

    def forward(self, maps: Sequence[Tensor]) -> Outputs:
        levels, protos = self.neck(maps)
        constant = [tuple(level.shape[2:]) for level in levels] == self.shapes
        answers = located(self.answer(levels), *((self.points, self.strides) if constant else grid(levels)))
        return answers.boxes, answers.logits.sigmoid(), answers.coeffs, protos


class Neck(nn.Module):
    """Four maps -> three maps [B, width, H/s, W/s] at `STRIDES`, and prototypes [B, P, H/4, W/4].

    A feature pyramid (Lin et al., 2017, arXiv 1612.03144); its finest level serves the prototypes alone.
    """

    def __init__(self, channels: Sequence[int], width: int, prototypes: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_point(inputs, width) for inputs in channels)
        self.output = nn.ModuleList(conv_bn_relu(width, width, 3) for _ in channels)
        self.prototype = _point(width, prototypes)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        path = _top_down(self.lateral, maps)
        finest, *levels = [output(x) for output, x in zip(self.output, path, strict=True)]
        return levels, self.prototype(finest)

    def deployed(self) -> "Neck":
        """Without BatchNorm."""
        new = copy.deepcopy(self)
        new.output = nn.ModuleList(folded(cast(nn.Sequential, output)) for output in new.output)
        return new


class LinearNeck(nn.Module):
    """Four maps -> the last three as they are, and prototypes: each map's own by a 1x1 convolution, enlarged, added."""

    def __init__(self, channels: Sequence[int], prototypes: int) -> None:
        super().__init__()
        self.prototype = nn.ModuleList(Normed(inputs, prototypes) for inputs in channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        return list(maps[1:]), _top_down(self.prototype, maps)[0]

    def deployed(self) -> "LinearNeck":
        """Without BatchNorm."""
        new = copy.deepcopy(self)
        new.prototype = nn.ModuleList(cast(Normed, layer).deployed() for layer in self.prototype)
        return new


class PointBranch(nn.Module):
    """Three maps -> for every point logits [B, K, N], offset and extent of its box in strides [B, 2, N] each, and
    coefficients [B, P, N].

    Args:
        widths: channels of the maps: one number, and towers and predictions serve all levels; or one for each level,
            and each has predictions of its own.
        convs: of a tower; one tower for the classes, one for box and mask.
    """

    def __init__(self, widths: Sequence[int], convs: int, classes: int, prototypes: int) -> None:
        super().__init__()
        self.class_tower = nn.ModuleList(SharedConv(widths[0]) for _ in range(convs))
        self.box_tower = nn.ModuleList(SharedConv(widths[0]) for _ in range(convs))
        point = _point if convs else Normed
        self.score = nn.ModuleList(point(inputs, classes) for inputs in widths)
        self.offset = nn.ModuleList(point(inputs, 2) for inputs in widths)
        self.extent = nn.ModuleList(point(inputs, 2) for inputs in widths)
        self.coeff = nn.ModuleList(point(inputs, prototypes) for inputs in widths)
        for layers, start in ((self.score, -math.log(1 / PRIOR - 1)), (self.offset, 0.0), (self.extent, EXTENT - 1)):
            for layer in layers:
                conv = layer.conv if isinstance(layer, Normed) else cast(nn.Conv2d, layer)
                nn.init.normal_(conv.weight, std=0.01)
                nn.init.constant_(cast(Tensor, conv.bias), start)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        classes, boxes = list(levels), list(levels)
        for conv in self.class_tower:
            classes = conv(classes)
        for conv in self.box_tower:
            boxes = conv(boxes)
        return (
            _joined(self.score, classes),
            _joined(self.offset, boxes),
            _joined(self.extent, boxes),
            _joined(self.coeff, boxes),
        )

    def deployed(self) -> "PointBranch":
        """Without BatchNorm."""
        new = copy.deepcopy(self)
        new.class_tower = nn.ModuleList(cast(SharedConv, conv).deployed() for conv in self.class_tower)
        new.box_tower = nn.ModuleList(cast(SharedConv, conv).deployed() for conv in self.box_tower)
        for name in ("score", "offset", "extent", "coeff"):
            layers = (layer.deployed() if isinstance(layer, Normed) else layer for layer in getattr(new, name))
            setattr(new, name, nn.ModuleList(layers))
        return new


class SharedConv(nn.Module):
    """A 3x3 convolution that all levels share, a BatchNorm for each, ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = cast(nn.Conv2d, conv_bn_relu(width, width, 3)[0])
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in STRIDES)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        return [F.relu(norm(self.conv(level))) for norm, level in zip(self.norms, levels, strict=True)]

    def deployed(self) -> "EachLevel":
        """A convolution for each level, as its BatchNorm is in it."""
        return EachLevel([folded(nn.Sequential(self.conv, norm, nn.ReLU())) for norm in self.norms])


class EachLevel(nn.Module):
    """Layers for each level."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        return [layer(level) for layer, level in zip(self.layers, levels, strict=True)]


class Normed(nn.Module):
    """BatchNorm, then a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), _point(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(self.norm(x))
        return out

    def deployed(self) -> nn.Conv2d:
        """One convolution; there is no border for the BatchNorm's shift to be missing from."""
        scale, shift = affine_of(self.norm)
        weight = self.conv.weight.detach().double()  # [out, in, 1, 1]
        bias = cast(Tensor, self.conv.bias).detach().double() + weight.flatten(1) @ shift
        return conv_like(self.conv, weight * scale.reshape(1, -1, 1, 1), bias)


def located(raw: tuple[Tensor, Tensor, Tensor, Tensor], points: Tensor, strides: Tensor) -> Answers:
    """What a branch says, with its boxes in pixels."""
    logits, offset, extent, coeffs = raw
    centre = points + offset * strides  # [B, 2, N]
    positive = F.relu(extent) + torch.exp(-F.relu(-extent))  # ELU + 1; XNNPACK takes these, but no ELU
    half = positive * (strides * 0.5)
    return Answers(logits, torch.cat([centre - half, centre + half], dim=1), coeffs)


def grid(levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Points (x, y) [1, 2, N] and strides [1, 1, N] of three maps, in pixels."""
    points, strides = [], []
    for level, stride in zip(levels, STRIDES, strict=True):
        rows, columns = (
            (torch.arange(count, device=level.device, dtype=torch.float32) + 0.5) * stride for count in level.shape[2:]
        )
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        points.append(torch.stack([x.flatten(), y.flatten()]))
        strides.append(torch.full((1, x.numel()), float(stride), device=level.device))
    return torch.cat(points, dim=1)[None], torch.cat(strides, dim=1)[None]


def _top_down(layers: nn.ModuleList, maps: Sequence[Tensor]) -> list[Tensor]:
    """Each map through its layer, then the coarser ones, enlarged, added to the finer."""
    path = [layer(x) for layer, x in zip(layers, maps, strict=True)]
    for index in range(len(path) - 1, 0, -1):
        path[index - 1] = path[index - 1] + doubled(path[index])
    return path


def _joined(layers: nn.ModuleList, levels: Sequence[Tensor]) -> Tensor:
    """[B, C, h, w] of each level -> [B, D, N]; one layer for all levels, or one for each."""
    parts = [layers[index % len(layers)](level).flatten(2) for index, level in enumerate(levels)]
    return torch.cat(parts, dim=2)


def _point(inputs: int, outputs: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 1)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(cast(Tensor, conv.bias))
    return conv
