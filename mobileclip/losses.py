"""What training minimises: contrastive (CLIP), sigmoid (SigLIP), multi-positive, weighted, and distillation.

    loss, parts = objective(Objective(distill=1.0), mine, logits)

Each rank computes the rows of its own samples against the gathered batch, in chunks that are recomputed in backward:
nothing larger than [chunk, global batch] exists on a device. The mean over ranks (as DDP takes it) of value and
gradient equals that of one process with the whole batch.

Exact duplicates are not negatives of each other: a pair that shares its caption (`text_hash`) or its image
(`image_id`) without being one sample is left out of the softmax. A text of weight 0 is absent, as query and as key.

b samples on this rank, N on all; M captions a sample; E embedding.
Sources: Radford et al. (2021) section 2.3; Zhai et al., SigLIP (2023) section 3; Tian et al., StableRep (2023)
section 3 (multi-positive); Vasu et al., MobileCLIP (2024) section 4.3 (distillation).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mobileclip.distributed import gather, rank, total, world

TEACHER_SCALE = 100.0
"""Factor on the teachers' cosines (MobileCLIP, section 4.3: CLIP's own limit)."""


_NEVER = -1e9  # a logit whose exponential is 0 beside any other; unlike -inf it leaves a row of nothing else finite


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Which loss, and how much memory it may take."""

    kind: Literal["clip", "siglip"] = "clip"
    """Softmax over the batch, or a sigmoid for each pair."""
    joint: bool = False
    """Several captions of a sample are positives of one loss; otherwise the losses of each are summed."""
    distill: float = 0.0
    """Share of distillation from teacher embeddings, 0..1; the rest is the contrastive loss."""
    teachers: int = 2
    """How many teachers' embeddings of equal length are concatenated."""
    chunk: int = 4096
    """Rows of logits that exist at a time."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a rank knows of its samples; `gathered` gives the same of all."""

    image: Tensor
    """[b, E], unit length."""
    text: Tensor
    """[b, M, E], unit length."""
    weight: Tensor
    """[b, M]; 0 for a caption that is not there."""
    text_hash: Tensor
    """int64 [b, M]; equal for equal captions."""
    image_id: Tensor
    """int64 [b]; equal for equal images."""
    teacher_image: Tensor | None = None
    """[b, teachers * D], each part of unit length."""
    teacher_text: Tensor | None = None
    """[b, M, teachers * D]."""

    def gathered(self) -> "Features":
        """The same of all ranks, in rank order; gradients flow back to where they came from."""
        values: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        all_of: dict[str, Any] = {name: None if value is None else gather(value) for name, value in values.items()}
        return Features(**all_of)

    def caption(self, m: int) -> "Features":
        """Only the m-th caption of each sample."""
        return Features(
            image=self.image,
            text=self.text[:, m : m + 1],
            weight=self.weight[:, m : m + 1],
            text_hash=self.text_hash[:, m : m + 1],
            image_id=self.image_id,
            teacher_image=self.teacher_image,
            teacher_text=None if self.teacher_text is None else self.teacher_text[:, m : m + 1],
        )


def objective(
    what: Objective, mine: Features, scale: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of this rank, and its parts (detached) by name.

    Args:
        what: which loss.
        mine: of this rank's samples.
        scale: factor on cosines, scalar; the gradient reaches it.
        bias: added to logits (SigLIP), scalar.
    """
    everyone = mine.gathered()
    captions = [mine] if what.joint else [mine.caption(m) for m in range(mine.text.shape[1])]
    others = [everyone] if what.joint else [everyone.caption(m) for m in range(mine.text.shape[1])]
    parts: dict[str, Tensor] = {}
    loss = scale.new_zeros(())
    if what.distill < 1.0:
        pair = _sigmoid if what.kind == "siglip" else _contrastive
        plain = torch.stack([pair(a, b, scale, bias, what.chunk) for a, b in zip(captions, others, strict=True)]).sum()
        loss = loss + (1.0 - what.distill) * plain
        parts["contrastive"] = plain.detach()
    if what.distill > 0.0:
        kl = torch.stack([_distilled(a, b, scale, what) for a, b in zip(captions, others, strict=True)]).sum()
        loss = loss + what.distill * kl
        parts["distill"] = kl.detach()
    return loss, parts


def _contrastive(mine: Features, everyone: Features, scale: Tensor, bias: Tensor | None, chunk: int) -> Tensor:
    """Mean of both directions' cross-entropies, each normalised by the weights of the global batch."""
    images = torch.arange(mine.image.shape[0], device=scale.device) + rank() * mine.image.shape[0]
    row_weight = mine.weight.amax(dim=1)
    to_text = _chunked(
        lambda q, own, ids: _text_rows(q, own, ids, everyone, scale), chunk, mine.image, images, mine.image_id
    )
    to_image = _chunked(
        lambda q, own, hashes: _image_rows(q, own, hashes, everyone, scale),
        chunk,
        mine.text.flatten(0, 1),
        images.repeat_interleave(mine.text.shape[1]),
        mine.text_hash.flatten(),
    )
    weights = mine.weight.flatten()
    return (_weighted_mean(to_text, row_weight) + _weighted_mean(to_image, weights)) / 2


def _text_rows(q: Tensor, own: Tensor, ids: Tensor, everyone: Features, scale: Tensor) -> Tensor:
    """Images q [c, E] against every text -> cross-entropy to their own captions [c], shares by weight."""
    n, m = everyone.weight.shape
    logits = scale * (q @ everyone.text.flatten(0, 1).T)  # [c, N*M]
    positive = own[:, None] == torch.arange(n, device=q.device)[None]  # [c, N]
    hashes = everyone.text_hash[own]  # [c, M]
    same = (ids[:, None] == everyone.image_id[None])[:, :, None].expand(-1, -1, m)
    for k in range(m):
        same = same | (hashes[:, k, None, None] == everyone.text_hash[None])
    out = ~positive[:, :, None] & same | (everyone.weight == 0)[None]
    return _cross_entropy(logits.view(-1, n, m), out, positive[:, :, None] * everyone.weight[None])


def _image_rows(q: Tensor, own: Tensor, hashes: Tensor, everyone: Features, scale: Tensor) -> Tensor:
    """Texts q [c, E] against every image -> cross-entropy to their own image [c]."""
    logits = scale * (q @ everyone.image.T)  # [c, N]
    positive = own[:, None] == torch.arange(everyone.image.shape[0], device=q.device)[None]
    same = everyone.image_id[own][:, None] == everyone.image_id[None]
    for k in range(everyone.text_hash.shape[1]):
        same = same | (hashes[:, None] == everyone.text_hash[None, :, k])
    return _cross_entropy(logits[:, :, None], (~positive & same)[:, :, None], positive[:, :, None].to(logits.dtype))


def _cross_entropy(logits: Tensor, out: Tensor, target: Tensor) -> Tensor:
    """Logits, left-out mask and unnormalised target, all [c, N, M] -> [c]; a row without a target gives 0."""
    flat, weight = _wide(logits).masked_fill(out, _NEVER).flatten(1), _wide(target).flatten(1)
    whole = weight.sum(1)
    chosen = torch.where(weight > 0, flat, 0.0)
    loss = torch.logsumexp(flat, dim=1) - (chosen * weight).sum(1) / whole.clamp_min(1e-12)
    return torch.where(whole > 0, loss, 0.0)


def _sigmoid(mine: Features, everyone: Features, scale: Tensor, bias: Tensor | None, chunk: int) -> Tensor:
    """Sum over all pairs of -log sigmoid(+-(scale * cosine + bias)), over the number of samples."""
    assert bias is not None, "SigLIP needs its bias"
    images = torch.arange(mine.image.shape[0], device=scale.device) + rank() * mine.image.shape[0]
    n, m = everyone.weight.shape

    def rows(q: Tensor, own: Tensor, ids: Tensor) -> Tensor:
        logits = _wide(scale * (q @ everyone.text.flatten(0, 1).T) + bias).view(-1, n, m)
        positive = (own[:, None] == torch.arange(n, device=q.device)[None])[:, :, None].expand(-1, -1, m)
        same = (ids[:, None] == everyone.image_id[None])[:, :, None].expand(-1, -1, m)
        for k in range(m):
            same = same | (everyone.text_hash[own][:, k, None, None] == everyone.text_hash[None])
        use = torch.where(~positive & same, 0.0, everyone.weight[None])
        return -(F.logsigmoid(torch.where(positive, logits, -logits)) * use).flatten(1).sum(1)

    return _chunked(rows, chunk, mine.image, images, mine.image_id).mean()


def _distilled(mine: Features, everyone: Features, scale: Tensor, what: Objective) -> Tensor:
    """Mean Kullback-Leibler divergence from the teachers' softmaxes to the student's, both directions."""
    assert mine.teacher_image is not None
    assert mine.teacher_text is not None
    assert everyone.teacher_image is not None
    assert everyone.teacher_text is not None
    keys, images = everyone.text.flatten(0, 1), everyone.image
    t_keys, t_images = everyone.teacher_text.flatten(0, 1), everyone.teacher_image
    absent = everyone.weight.flatten() == 0

    def to_text(q: Tensor, tq: Tensor) -> Tensor:
        return _divergence(scale * (q @ keys.T), tq, t_keys, absent, what.teachers)

    def to_image(q: Tensor, tq: Tensor) -> Tensor:
        return _divergence(scale * (q @ images.T), tq, t_images, None, what.teachers)

    image_rows = _chunked(to_text, what.chunk, mine.image, mine.teacher_image)
    text_rows = _chunked(to_image, what.chunk, mine.text.flatten(0, 1), mine.teacher_text.flatten(0, 1))
    present = (mine.weight > 0).to(mine.weight.dtype)
    return (_weighted_mean(image_rows, present.amax(dim=1)) + _weighted_mean(text_rows, present.flatten())) / 2


def _divergence(logits: Tensor, tq: Tensor, tk: Tensor, absent: Tensor | None, teachers: int) -> Tensor:
    """Student logits [c, K], queries [c, T*D] and keys [K, T*D] of T teachers -> [c], mean of KL(teacher, student)."""
    logits = _wide(logits)
    if absent is not None:
        logits = logits.masked_fill(absent[None], _NEVER)
    student = logits.log_softmax(dim=1)
    kl = logits.new_zeros(logits.shape[0])
    for q, k in zip(tq.chunk(teachers, dim=1), tk.chunk(teachers, dim=1), strict=True):
        t_logits = TEACHER_SCALE * _wide(q @ k.T)
        if absent is not None:
            t_logits = t_logits.masked_fill(absent[None], _NEVER)
        teacher = t_logits.log_softmax(dim=1)
        kl = kl + (teacher.exp() * (teacher - student)).sum(1) / teachers
    return kl


def _wide(x: Tensor) -> Tensor:
    """At least float32: softmaxes over a large batch are not for bf16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _chunked(rows: Callable[..., Tensor], chunk: int, *inputs: Tensor) -> Tensor:
    """`rows` over slices of `chunk` of the inputs' first dimension; logits of several slices never exist together."""
    count = inputs[0].shape[0]
    if count <= chunk:
        return rows(*inputs)
    parts = [tuple(x[start : start + chunk] for x in inputs) for start in range(0, count, chunk)]
    return torch.cat([checkpoint(rows, *part, use_reentrant=False) for part in parts])


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted over the global batch; scaled so that the mean over ranks is that of all rows."""
    return (values * weights).sum() * world() / total(weights.sum()).clamp_min(1e-12)
