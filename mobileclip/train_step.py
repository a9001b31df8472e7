"""One optimiser step after the other, without files and without a loader: what runs, benchmarks and finetuning share.

    figures = Stepper(create("mobileclip_s2"), recipe, device).step(batch, 0)

A step is a function of (weights, recipe, batch, number): every random draw follows from the seed and the number.

Gradient accumulation keeps the contrast of the whole batch (Gao et al., GradCache, 2021): features of all parts are
computed without gradient, the loss gives their gradients, and each part passes again to receive its own.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mobileclip.data.augment import normalise
from mobileclip.distributed import rank, total, world
from mobileclip.errors import Diverged
from mobileclip.loop import Figures
from mobileclip.losses import Features, Objective, objective
from mobileclip.models.training import quicken
from mobileclip.recipes import Recipe

if TYPE_CHECKING:
    from mobileclip.data.batches import Batch
    from mobileclip.live_teachers import LiveTeachers
    from mobileclip.models import Clip


class Trainee(nn.Module):
    """The towers and the scalars of the loss behind one forward, which is what DDP and FSDP wrap."""

    def __init__(self, clip: "Clip", *, sigmoid: bool) -> None:
        super().__init__()
        self.clip = clip
        # SigLIP (Zhai et al., 2023), section 3.1: factor 10 and bias -10 at the start
        self.bias = nn.Parameter(torch.tensor(-10.0)) if sigmoid else None
        if sigmoid:
            clip.logit_scale.data.fill_(math.log(10))

    def forward(self, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Images [b, 3, S, S], ids [b, M, 77] -> image [b, E], text [b, M, E] (unit length), factor, bias."""
        b, m = ids.shape[:2]
        image = self.clip.encode_image(images)
        text = self.clip.encode_text(ids.flatten(0, 1))
        unit = nn.functional.normalize
        return (
            unit(image.float(), dim=-1),
            unit(text.float(), dim=-1).view(b, m, -1),
            self.clip.logit_scale.exp(),
            self.bias,
        )


class Stepper:
    """One optimiser step after the other, without files and without a loader."""

    def __init__(
        self,
        clip: "Clip",
        recipe: Recipe,
        device: torch.device,
        *,
        joint: bool = False,
        before: nn.Module | None = None,
    ) -> None:
        """Args:
        clip: what trains.
        joint: captions of a picture are seen together.
        before: image tower that embeddings are held near to (`Recipe.hold`).
        """
        self.recipe, self.device = recipe, device
        self.before = None if before is None else before.to(device).eval().requires_grad_(False)
        self.clip = quicken(clip).to(device).train()
        self.layout = torch.channels_last if recipe.channels_last and device.type == "cuda" else torch.contiguous_format
        if device.type == "cuda":
            clip.image.to(memory_format=self.layout)
            if recipe.sync_bn and world() > 1:
                clip.image = nn.SyncBatchNorm.convert_sync_batchnorm(clip.image)  # type: ignore[no-untyped-call]
        if recipe.compile:
            clip.image.compile()
            if clip.text is not None:
                clip.text.compile()
        self.trainee = Trainee(clip, sigmoid=recipe.loss == "siglip").to(device)
        self.objective = Objective(
            kind=recipe.loss,
            joint=joint,
            distill=recipe.distill,
            teachers=len(recipe.teachers) or recipe.stored_teachers,
            chunk=recipe.chunk,
        )
        self.wrapped = self._wrap()
        self.optimiser = _optimiser(self.trainee, recipe)
        self.average = {k: v.detach().clone() for k, v in self.trainee.state_dict().items()} if recipe.ema else {}

    def _wrap(self) -> nn.Module:
        if self.recipe.fsdp and world() > 1:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(self.device.type, (world(),))
            for tower in (self.trainee.clip.image, self.trainee.clip.text):
                if tower is not None:
                    fully_shard(tower, mesh=mesh)
            fully_shard(self.trainee, mesh=mesh, ignored_params=set(self._scalars()))
            return self.trainee
        if world() > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            return DistributedDataParallel(
                self.trainee, device_ids=ids, forward_sync_buffers=False, gradient_as_bucket_view=True
            )
        return self.trainee

    def _scalars(self) -> list[nn.Parameter]:
        """Of the loss; FSDP takes none of no dimension, so their gradients are averaged here."""
        return [p for p in (self.clip.logit_scale, self.trainee.bias) if p is not None]

    def step(self, batch: "Batch", step: int, teacher: "LiveTeachers | None" = None) -> Figures:
        """Forward, backward and update.

        Raises:
            Diverged: loss or gradient is not finite; the weights are as they were before.
        """
        self.optimiser.zero_grad(set_to_none=True)
        for settings in self.optimiser.param_groups:
            settings["lr"] = learning_rate(self.recipe, step)
        pixels = batch.images.to(self.device, non_blocking=True)
        images = normalise(pixels, self.clip.config.preprocess).contiguous(memory_format=self.layout)
        tokens = batch.tokens.to(self.device, non_blocking=True)
        taught = (batch.teacher_image, batch.teacher_text)
        if teacher is not None:
            taught = teacher(pixels, tokens)
        loss, parts = self._backward(images, tokens, batch, taught, step)
        scalars = self._scalars()
        if self.recipe.fsdp and world() > 1:
            for p in scalars:
                p.grad = None if p.grad is None else total(p.grad) / world()
        towers = [p for p in self.trainee.parameters() if p.ndim > 0]
        norm = torch.stack([gradient_norm(towers), gradient_norm(scalars)]).norm()
        if not (torch.isfinite(norm) and torch.isfinite(loss)):
            raise Diverged(
                f"loss {float(loss):.4g} and gradient norm {float(norm):.4g} at step {step} are not finite, with the "
                f"batch {', '.join(batch.keys[:8])}, …: lower the learning rate, or look at these samples"
            )
        if self.recipe.clip:
            for some in (towers, scalars):
                nn.utils.clip_grads_with_norm_(some, self.recipe.clip, norm)
        self.optimiser.step()
        if self.recipe.qat:
            from mobileclip.qat import follow as follow_ranges

            follow_ranges(self.trainee)
        with torch.no_grad():
            self.clip.logit_scale.clamp_(0, math.log(self.recipe.max_logit_scale))
            if self.average:
                follow(self.average, self.trainee, self.recipe.ema, step)
        return Figures(loss=loss, parts=parts, norm=norm)

    def _backward(
        self, images: Tensor, tokens: Tensor, batch: "Batch", taught: tuple[Tensor | None, Tensor | None], step: int
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        def features(image: Tensor, text: Tensor) -> Features:
            return Features(
                image=image,
                text=text,
                weight=batch.text_weight.to(self.device),
                text_hash=batch.text_hash.to(self.device),
                image_id=batch.image_id.to(self.device),
                teacher_image=self._taught(taught[0]),
                teacher_text=self._taught(taught[1]),
            )

        count = self.recipe.accumulate
        if count == 1:
            image, text, scale, bias = self._forward(images, tokens, step, 0)
            loss, parts = objective(self.objective, features(image, text), scale, bias)
            loss, parts = self._held(loss, parts, image, images)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach(), parts
        slices = list(zip(images.chunk(count), tokens.chunk(count), strict=True))
        with torch.no_grad(), _statistics_kept(self.trainee):
            outs = [self._forward(x, ids, step, part) for part, (x, ids) in enumerate(slices)]
        image, text = (torch.cat([out[k] for out in outs]).requires_grad_() for k in (0, 1))  # type: ignore[misc]
        scalars = [None if x is None else x.detach().clone().requires_grad_() for x in outs[0][2:]]
        assert scalars[0] is not None
        loss, parts = objective(self.objective, features(image, text), scalars[0], scalars[1])
        loss, parts = self._held(loss, parts, image, images)
        loss.backward()  # type: ignore[no-untyped-call]
        assert image.grad is not None
        assert text.grad is not None
        grads = list(zip(image.grad.chunk(count), text.grad.chunk(count), strict=True))
        for part, ((x, ids), (g_image, g_text)) in enumerate(zip(slices, grads, strict=True)):
            last = part == count - 1
            with local_only(self.wrapped, not last):
                again = self._forward(x, ids, step, part)
                pairs = [(again[0], g_image), (again[1], g_text)]
                if last:
                    pairs += [
                        (a, s.grad)
                        for a, s in zip(again[2:], scalars, strict=True)
                        if a is not None and s is not None and s.grad is not None
                    ]
                pairs = [pair for pair in pairs if pair[0].requires_grad]  # a tower at rest has no gradient
                torch.autograd.backward([a for a, _ in pairs], [g for _, g in pairs])
        return loss.detach(), parts

    def _forward(
        self, images: Tensor, tokens: Tensor, step: int, part: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        draw_from(self.recipe.seed, step, rank(), part)
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")
        with autocast:
            out: tuple[Tensor, Tensor, Tensor, Tensor | None] = self.wrapped(images, tokens)
        return out

    def _held(
        self, loss: Tensor, parts: dict[str, Tensor], image: Tensor, images: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss with what holds the embeddings [b, E] of `images` near to those of the tower before."""
        if self.before is None or not self.recipe.hold:
            return loss, parts
        with torch.no_grad():
            rows = torch.cat([self.before(x) for x in images.chunk(self.recipe.accumulate)])
        away = (1 - (image * nn.functional.normalize(rows.float(), dim=-1)).sum(-1)).mean()
        return loss + self.recipe.hold * away, {**parts, "away": away.detach()}

    def _taught(self, rows: Tensor | None) -> Tensor | None:
        """Teachers' embeddings [..., T*D], each teacher's part of unit length; stored ones need not be."""
        if rows is None:
            return None
        parts = rows.to(self.device).float().unflatten(-1, (self.objective.teachers, -1))  # type: ignore[no-untyped-call]
        return nn.functional.normalize(parts, dim=-1).flatten(-2)


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Of their gradients, over all ranks."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    whole_norm: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return whole_norm


@torch.no_grad()
def follow(average: Mapping[str, Tensor], model: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights after `step`; a short memory at first (as timm's ModelEmaV3 warms up)."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)
        else:
            average[name].copy_(value)


def draw_from(seed: int, step: int, share: int, part: int = 0) -> None:
    """Seed what a forward pass draws (dropout): it is the same after a resume, and in both passes of a part."""
    torch.manual_seed(((seed * 1_000_003 + step) * 4096 + share) * 64 + part)


def local_only(wrapped: nn.Module, wanted: bool) -> AbstractContextManager[Any]:
    """Gradients stay on this rank for now, if wanted and if the model is shared by several."""
    if wanted and isinstance(wrapped, DistributedDataParallel):
        context: AbstractContextManager[Any] = wrapped.no_sync()
        return context
    return nullcontext()


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine down to `end_lr` at the last step."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    share = (step - recipe.warmup) / max(recipe.steps - 1 - recipe.warmup, 1)
    return recipe.end_lr + (recipe.lr - recipe.end_lr) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def _optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; fused, and without decay on what is no matrix (open_clip: train/main.py does the same)."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    plain = {name for name, p in named if p.ndim < 2 or "bn" in name or "ln" in name}
    groups = [
        {"params": [p for name, p in named if name in plain and p.ndim], "weight_decay": 0.0},
        {"params": [p for name, p in named if not p.ndim], "weight_decay": 0.0},  # never sharded, hence apart
        {"params": [p for name, p in named if name not in plain], "weight_decay": recipe.weight_decay},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, fused=True)


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Running statistics stay as they are: the second pass updates them."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [(m.momentum, None if m.num_batches_tracked is None else m.num_batches_tracked.clone()) for m in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)
