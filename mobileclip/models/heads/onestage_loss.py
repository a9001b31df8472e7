"""What a one-stage detector learns from: which points answer for which object, and the losses of their answers.

Points are chosen by task alignment (Feng et al., TOOD, 2021, arXiv 2108.07755, section 3.2): score * IoU ** 6 of what
the point says now, among points inside the object. Scores are trained towards that alignment, scaled to the object's
best IoU, by the quality focal loss (Li et al., 2020, arXiv 2006.04388, section 3.2); boxes by GIoU (Rezatofighi et
al., 2019, arXiv 1902.09630); masks, inside the true box at a quarter of the picture, by cross-entropy and dice. Written
from these descriptions.

Legend: B pictures, K classes, N points, M objects of one picture, P prototypes, h and w rows and columns of prototypes.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou, generalized_box_iou_loss

from mobileclip.dense.samples import Targets

SHARPNESS = 6.0
"""Of IoU in the alignment; 1 of the score (TOOD, section 4.1)."""
SMALLEST = 8.0
"""Objects count as at least so wide and high when points inside them are looked for: the finest stride, so that every
object has a point."""
MASKS = 100
"""Points of one picture whose masks are trained, the best aligned first: bounds memory."""
WEIGHTS = {"class": 1.0, "box": 2.0, "mask": 2.0}
"""Of the losses: class and box as in TOOD; mask as of a box, for its cross-entropy and its dice are halved."""


class Answers(NamedTuple):
    """What a branch says about every point."""

    logits: Tensor
    """[B, K, N]"""
    boxes: Tensor
    """[B, 4, N], pixels"""
    coeffs: Tensor
    """[B, P, N]"""


def branch_loss(answers: Answers, protos: Tensor, points: Tensor, targets: Targets, top: int) -> dict[str, Tensor]:
    """Weighted `class`, `box` and `mask` loss of one branch, each divided by the sum of the batch's soft targets.

    Args:
        answers: of the branch.
        protos: [B, P, h, w].
        points: [2, N], x and y in pixels.
        targets: with boxes, classes and masks.
        top: points that an object trains at most.
    """
    assert targets.boxes is not None
    assert targets.classes is not None
    assert targets.masks is not None
    with torch.autocast(protos.device.type, enabled=False):
        answers, protos = Answers(*(part.float() for part in answers)), protos.float()
        totals = {name: answers.logits.new_zeros(()) for name in WEIGHTS}
        share = answers.logits.new_zeros(())
        objects = zip(targets.boxes, targets.classes, targets.masks, strict=True)
        for number, (truth, classes, masks) in enumerate(objects):
            own = Answers(*(part[number] for part in answers))
            index, quality = assign(own, points, truth.float(), classes, top)
            place = (index >= 0).nonzero()[:, 0]
            match, weight = index[place], quality[place]
            soft = torch.zeros_like(own.logits)
            soft[classes[match], place] = weight
            share = share + weight.sum()
            totals["class"] = totals["class"] + quality_focal(own.logits, soft)
            boxes = own.boxes[:, place].T
            totals["box"] = totals["box"] + (generalized_box_iou_loss(boxes, truth[match].float()) * weight).sum()
            lost = mask_loss(own.coeffs[:, place], protos[number], truth.float(), masks, match, weight)
            totals["mask"] = totals["mask"] + lost
        share = share.clamp(min=1)
        idle = (
            answers.boxes.sum() + answers.coeffs.sum() + protos.sum()
        ) * 0  # a gradient for all, also without objects
        totals["box"] = totals["box"] + idle
        return {name: total * (WEIGHTS[name] / share) for name, total in totals.items()}


@torch.no_grad()
def assign(answers: Answers, points: Tensor, truth: Tensor, classes: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Which object each point of one picture trains, and how well it answers for it.

    Args:
        answers: [K, N], [4, N], [P, N].
        points: [2, N]
        truth: [M, 4]
        classes: [M]
        top: points an object has at most; 1: exactly one, as long as there are free points inside it.

    Returns:
        Object [N], -1 for none; soft target [N] in 0..1.
    """
    overlap = box_iou(truth, answers.boxes.T)  # [M, N]
    fit = answers.logits.sigmoid()[classes] * overlap**SHARPNESS
    half = ((truth[:, 2:] - truth[:, :2]) / 2).clamp(min=SMALLEST / 2)
    middle = (truth[:, :2] + truth[:, 2:]) / 2
    inside = ((points[None] - middle[..., None]).abs() <= half[..., None]).all(1)  # [M, N]
    chosen = _single(fit, inside) if top == 1 else _several(fit, inside, overlap, top)
    fit, overlap = fit * chosen, overlap * chosen
    if not len(truth):
        return torch.full_like(points[0], -1, dtype=torch.int64), torch.zeros_like(points[0])
    best = fit.amax(1, keepdim=True).clamp(min=torch.finfo(fit.dtype).tiny)
    quality = (fit / best * overlap.amax(1, keepdim=True)).amax(0)
    index = torch.where(chosen.any(0), chosen.to(torch.uint8).argmax(0), -1)
    return index, quality


def _several(fit: Tensor, inside: Tensor, overlap: Tensor, top: int) -> Tensor:
    """[M, N]: the points of each object; one that several objects want goes to that of the largest overlap."""
    chosen = torch.zeros_like(inside)
    if not len(fit):
        return chosen
    ranked = torch.where(inside, fit, -1.0)
    chosen.scatter_(1, ranked.topk(min(top, fit.shape[1])).indices, True)
    chosen &= inside
    winner = torch.where(chosen, overlap, -1.0).argmax(0)  # [N]
    return chosen & (torch.arange(len(fit), device=fit.device)[:, None] == winner)


def _single(fit: Tensor, inside: Tensor) -> Tensor:
    """[M, N]: one point of each object; who loses a point to a better fit takes its next best."""
    chosen = torch.zeros_like(inside)
    open_pairs = torch.where(inside, fit, -1.0)
    while len(fit) and (open_pairs >= 0).any():
        best, place = open_pairs.max(1)  # of each object
        wishes = torch.full_like(fit, -1.0).scatter_(1, place[:, None], best[:, None])
        most, winner = wishes.max(0)
        taken = (most >= 0).nonzero()[:, 0]
        chosen[winner[taken], taken] = True
        open_pairs[:, taken] = -1
        open_pairs[winner[taken]] = -1
    return chosen


def quality_focal(logits: Tensor, soft: Tensor) -> Tensor:
    """Sum of cross-entropy towards soft targets, each weighted by its squared error; both [K, N]."""
    error = (soft - logits.sigmoid()).abs()
    return (error**2 * F.binary_cross_entropy_with_logits(logits, soft, reduction="none")).sum()


def mask_loss(coeffs: Tensor, protos: Tensor, truth: Tensor, masks: Tensor, match: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy and dice of masks inside the true boxes, halved, weighted and summed.

    Args:
        coeffs: [P, n] of the points that train.
        protos: [P, h, w]
        truth: [M, 4] boxes.
        masks: [M, 4h, 4w]
        match: [n], the object of each point.
        weight: [n]
    """
    if len(weight) > MASKS:
        kept = weight.topk(MASKS).indices
        scale = weight.sum() / weight[kept].sum().clamp(min=1e-6)
        coeffs, match, weight = coeffs[:, kept], match[kept], weight[kept] * scale
    rows, columns = protos.shape[1:]
    quarter = masks.reshape(len(masks), rows, 4, columns, 4).sum((2, 4), dtype=torch.uint8)[match].float() / 16
    logits = torch.einsum("pn,phw->nhw", coeffs, protos)
    window = _windows(truth[match] / 4, rows, columns)
    count = window.sum((1, 2)).clamp(min=1)
    entropy = F.binary_cross_entropy_with_logits(logits, quarter, reduction="none")
    entropy = (entropy * window).sum((1, 2)) / count
    share, quarter = logits.sigmoid() * window, quarter * window
    common = (share * quarter).sum((1, 2))
    dice = 1 - (2 * common + 1) / ((share**2).sum((1, 2)) + (quarter**2).sum((1, 2)) + 1)
    return ((entropy + dice) / 2 * weight).sum()


def _windows(boxes: Tensor, rows: int, columns: int) -> Tensor:
    """[n, 4] in units of cells -> 1 [n, rows, columns] where a cell touches the box, else 0."""
    x = torch.arange(columns, device=boxes.device)
    y = torch.arange(rows, device=boxes.device)
    across = (x + 1 > boxes[:, :1]) & (x < boxes[:, 2:3])  # [n, columns]
    down = (y + 1 > boxes[:, 1:2]) & (y < boxes[:, 3:4])
    return (down[:, :, None] & across[:, None, :]).float()
