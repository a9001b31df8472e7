"""One step of a dense model after the other, without files and without data sets.

    figures = Stepper(model, recipe, pictures=20_210, device=torch.device("cuda")).step(parts, 0)

A step is a function of (weights, recipe, batch, number). BatchNorm at rest still trains its scale and bias; a frozen
encoder does not change by a bit, statistics included.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from mobileclip.data.augment import normalise
from mobileclip.dense.groups import groups_of
from mobileclip.dense.plan import Finetune
from mobileclip.dense.samples import Batch, Targets
from mobileclip.dense.schedule import learning_rate
from mobileclip.distributed import rank, world
from mobileclip.errors import Diverged
from mobileclip.loop import Figures
from mobileclip.models.pyramid import set_drop_path
from mobileclip.models.training import quicken_tower
from mobileclip.qat import follow as follow_ranges
from mobileclip.qat import rest
from mobileclip.train_step import draw_from, follow, gradient_norm, local_only

if TYPE_CHECKING:
    from mobileclip.dense.model import DenseModel


class Trainee(nn.Module):
    """The loss behind one forward, which is what DDP wraps."""

    def __init__(self, model: "DenseModel") -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Normalised pictures [b, 3, H, W] -> parts of the loss."""
        return self.model.loss(images, targets)


class Stepper:
    """What finetunes a model.

    Args:
        model: on the CPU; it is moved and changed in place.
        recipe: with its `steps` known.
        pictures: of an epoch.
        device: where it trains.
    """

    def __init__(self, model: "DenseModel", recipe: Finetune, *, pictures: int, device: torch.device) -> None:
        self.recipe, self.pictures, self.device = recipe, pictures, device
        if recipe.freeze:
            freeze(model)
        elif recipe.drop_path:
            set_drop_path(model.encoder, recipe.drop_path)
        quicken_tower(model.encoder)
        model.to(device)
        self.layout = torch.contiguous_format
        if device.type == "cuda":
            if recipe.channels_last:
                self.layout = torch.channels_last
                model.to(memory_format=self.layout)
            if world() > 1 and recipe.bn != "live" and not recipe.qat:
                model.head = convert_sync_batchnorm(model.head)
                if recipe.bn == "sync" and not recipe.freeze:
                    model.encoder = convert_sync_batchnorm(model.encoder)
        if recipe.compile:
            model.encoder.compile()
        self.model = model
        self.trainee = Trainee(model)
        self.wrapped = self._wrapped()
        self.optimiser = _optimiser(model, recipe)
        self.average = {k: v.detach().clone() for k, v in self.trainee.state_dict().items()} if recipe.ema else {}

    def _wrapped(self) -> nn.Module:
        if world() == 1:
            return self.trainee
        return DistributedDataParallel(
            self.trainee,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            forward_sync_buffers=False,
            gradient_as_bucket_view=True,
            # pictures without objects, and heads that read the last map alone, leave parts without a gradient
            find_unused_parameters=True,
        )

    def rate(self, step: int) -> float:
        """The head's learning rate at a step."""
        return learning_rate(self.recipe, step, self.pictures)

    def step(self, parts: Sequence[Batch], step: int) -> Figures:
        """Forward and backward of each part, and one update.

        Raises:
            Diverged: loss or gradient is not finite; the weights are as they were before.
        """
        settle(self.model, self.recipe, step)
        self.optimiser.zero_grad(set_to_none=True)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(step) * group["scale"]
        told: dict[str, Tensor] = {}
        losses = []
        for place, part in enumerate(parts):
            with local_only(self.wrapped, place + 1 < len(parts)):
                found = self._forward(part, step, place)
                loss = torch.stack([value.float() for value in found.values()]).sum()
                (loss / len(parts)).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            for name, value in found.items():
                told[name] = told.get(name, torch.zeros((), device=self.device)) + value.detach() / len(parts)
        trained = [p for p in self.trainee.parameters() if p.requires_grad]
        norm = gradient_norm(trained)
        if not (torch.isfinite(norm) and torch.isfinite(torch.stack(losses)).all()):
            raise Diverged(_not_finite(parts, losses, norm, step))
        if self.recipe.clip:
            nn.utils.clip_grads_with_norm_(trained, self.recipe.clip, norm)
        self.optimiser.step()
        if self.recipe.qat:
            follow_ranges(self.trainee)
        if self.average:
            follow(self.average, self.trainee, self.recipe.ema, step)
        return Figures(loss=torch.stack(losses).mean(), parts=told if len(told) > 1 else {}, norm=norm)

    def _forward(self, part: Batch, step: int, place: int) -> dict[str, Tensor]:
        pixels = part.images.to(self.device, non_blocking=True)
        images = normalise(pixels, self.model.config.encoder.preprocess).contiguous(memory_format=self.layout)
        # the same draws whether parts follow each other or are on ranks
        draw_from(self.recipe.seed, step, rank() * self.recipe.accumulate + place)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            parts: dict[str, Tensor] = self.wrapped(images, part.targets.to(self.device))
        return parts


def freeze(model: "DenseModel") -> None:
    """Nothing of the encoder trains but what no checkpoint fills (`Pyramid.fresh`)."""
    model.encoder.requires_grad_(False)
    for module in model.encoder.fresh():  # type: ignore[operator]
        module.requires_grad_(True)


def settle(model: "DenseModel", recipe: Finetune, step: int) -> None:
    """Training mode for what trains at this step: BatchNorms, or all of the encoder, may be at rest."""
    model.train()
    if recipe.qat:
        rest(model)
    elif recipe.freeze:
        model.encoder.eval()
        for module in model.encoder.fresh():  # type: ignore[operator]
            module.train()
    elif recipe.bn == "frozen" or step < recipe.frozen_bn_steps:
        fresh = {norm for module in model.encoder.fresh() for norm in module.modules()}  # type: ignore[operator]
        for module in model.encoder.modules():
            if isinstance(module, _BatchNorm) and module not in fresh:
                module.eval()


def _optimiser(model: "DenseModel", recipe: Finetune) -> torch.optim.Optimizer:
    groups = groups_of(model, recipe)
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.betas[0])
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)


def _not_finite(parts: Sequence[Batch], losses: Sequence[Tensor], norm: Tensor, step: int) -> str:
    guilty = [part for part, loss in zip(parts, losses, strict=True) if not torch.isfinite(loss)] or parts
    names = [name for part in guilty for name in part.names]
    return (
        f"loss {float(torch.stack(list(losses)).mean()):.4g} and gradient norm {float(norm):.4g} at step {step} are "
        f"not finite, with the pictures {', '.join(names[:8])}{', …' if len(names) > 8 else ''}: lower the learning "
        "rate, or look at these pictures"
    )
