"""`train(recipe, out)`: from shards to a checkpoint, in one process or under `torchrun`, killed at any time.

    torchrun --nproc-per-node 8 -m mobileclip.cli train mci2-scratch --shards "shards/{00000..01279}.tar" --out runs/s2

A step is a function of (recipe, step): which samples, which captions, which crops and every random draw follow from the
seed and the step's number. So the same command after a kill goes on where the last checkpoint was, and the number of
ranks, threads and interruptions does not show in the curve. `Stepper` is the step alone, without files: benchmarks and
finetuning use it.

Gradient accumulation keeps the contrast of the whole batch (Gao et al., GradCache, 2021): features of all parts are
computed without gradient, the loss gives their gradients, and each part passes again to receive its own.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mobileclip.checkpoint import load, save
from mobileclip.data.augment import Augment, normalise
from mobileclip.data.batches import Batch
from mobileclip.data.corpus import Corpus, corpus
from mobileclip.data.loader import Loader
from mobileclip.data.policies import policy
from mobileclip.data.shards import expand
from mobileclip.distributed import barrier, group, rank, total, world
from mobileclip.errors import DataError, TrainingError
from mobileclip.losses import Features, Objective, objective
from mobileclip.models import Clip, build, create
from mobileclip.models.training import quicken
from mobileclip.recipes import Recipe, check, differences
from mobileclip.train_log import Log, memory_gb
from mobileclip.train_state import (
    Folder,
    optimiser_state,
    read_training,
    restore,
    restore_optimiser,
    whole,
    write_training,
)

if TYPE_CHECKING:
    from mobileclip.live_teachers import LiveTeachers

Validate = Callable[[Clip], Mapping[str, float]]
"""A model in evaluation mode -> figures by name; the first decides which checkpoint is the best."""


class Trainee(nn.Module):
    """The towers and the scalars of the loss behind one forward, which is what DDP and FSDP wrap."""

    def __init__(self, clip: Clip, *, sigmoid: bool) -> None:
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


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a step found out."""

    loss: Tensor
    """Of this rank, scalar."""
    parts: Mapping[str, Tensor]
    """Its parts by name."""
    norm: Tensor
    """Of the gradient over all ranks, before clipping."""


class Stepper:
    """One optimiser step after the other, without files and without a loader."""

    def __init__(self, clip: Clip, recipe: Recipe, device: torch.device, *, joint: bool = False) -> None:
        self.recipe, self.device = recipe, device
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

    def step(self, batch: Batch, step: int, teacher: "LiveTeachers | None" = None) -> Figures:
        """Forward, backward and update.

        Raises:
            TrainingError: loss or gradient is not finite; the weights are as they were before.
        """
        self.optimiser.zero_grad(set_to_none=True)
        for settings in self.optimiser.param_groups:
            settings["lr"] = learning_rate(self.recipe, step)
        images = normalise(batch.images.to(self.device, non_blocking=True), self.clip.config.preprocess)
        images = images.contiguous(memory_format=self.layout)
        tokens = batch.tokens.to(self.device, non_blocking=True)
        taught = (batch.teacher_image, batch.teacher_text)
        if teacher is not None:
            taught = teacher(batch.images.to(self.device), tokens)
        loss, parts = self._backward(images, tokens, batch, taught, step)
        scalars = self._scalars()
        if self.recipe.fsdp and world() > 1:
            for p in scalars:
                p.grad = None if p.grad is None else total(p.grad) / world()
        towers = [p for p in self.trainee.parameters() if p.ndim > 0]
        norms = [_norm(towers), _norm(scalars)]
        norm = torch.stack(norms).norm()
        if not (torch.isfinite(norm) and torch.isfinite(loss)):
            raise TrainingError(
                f"loss {float(loss):.4g} and gradient norm {float(norm):.4g} at step {step} are not finite, with the "
                f"batch {', '.join(batch.keys[:8])}, …: lower the learning rate, or look at these samples"
            )
        if self.recipe.clip:
            for some in (towers, scalars):
                nn.utils.clip_grads_with_norm_(some, self.recipe.clip, norm)
        self.optimiser.step()
        with torch.no_grad():
            self.clip.logit_scale.clamp_(0, math.log(self.recipe.max_logit_scale))
            self._follow(step)
        return Figures(loss=loss, parts=parts, norm=norm)

    def _backward(
        self, images: Tensor, tokens: Tensor, batch: Batch, taught: tuple[Tensor | None, Tensor | None], step: int
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
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach(), parts
        slices = list(zip(images.chunk(count), tokens.chunk(count), strict=True))
        with torch.no_grad(), _statistics_kept(self.trainee):
            outs = [self._forward(x, ids, step, part) for part, (x, ids) in enumerate(slices)]
        image, text = (torch.cat([out[k] for out in outs]).requires_grad_() for k in (0, 1))  # type: ignore[misc]
        scalars = [None if x is None else x.detach().clone().requires_grad_() for x in outs[0][2:]]
        assert scalars[0] is not None
        loss, parts = objective(self.objective, features(image, text), scalars[0], scalars[1])
        loss.backward()  # type: ignore[no-untyped-call]
        assert image.grad is not None
        assert text.grad is not None
        grads = list(zip(image.grad.chunk(count), text.grad.chunk(count), strict=True))
        for part, ((x, ids), (g_image, g_text)) in enumerate(zip(slices, grads, strict=True)):
            last = part == count - 1
            with self._local_only(not last):
                again = self._forward(x, ids, step, part)
                pairs = [(again[0], g_image), (again[1], g_text)]
                if last:
                    pairs += [
                        (a, s.grad)
                        for a, s in zip(again[2:], scalars, strict=True)
                        if a is not None and s is not None and s.grad is not None
                    ]
                torch.autograd.backward([a for a, _ in pairs], [g for _, g in pairs])
        return loss.detach(), parts

    def _forward(
        self, images: Tensor, tokens: Tensor, step: int, part: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        # dropout, where there is any, is the same in both passes of a part and after a resume
        torch.manual_seed(((self.recipe.seed * 1_000_003 + step) * 4096 + rank()) * 64 + part)
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")
        with autocast:
            out: tuple[Tensor, Tensor, Tensor, Tensor | None] = self.wrapped(images, tokens)
        return out

    def _taught(self, rows: Tensor | None) -> Tensor | None:
        """Teachers' embeddings [..., T*D], each teacher's part of unit length; stored ones need not be."""
        if rows is None:
            return None
        parts = rows.to(self.device).float().unflatten(-1, (self.objective.teachers, -1))  # type: ignore[no-untyped-call]
        return nn.functional.normalize(parts, dim=-1).flatten(-2)

    def _local_only(self, wanted: bool) -> AbstractContextManager[Any]:
        if wanted and isinstance(self.wrapped, DistributedDataParallel):
            context: AbstractContextManager[Any] = self.wrapped.no_sync()
            return context
        return nullcontext()

    def _follow(self, step: int) -> None:
        """Move the averaged weights; a short memory at first (as timm's ModelEmaV3 warms up)."""
        if not self.average:
            return
        decay = min(self.recipe.ema, (1 + step) / (10 + step))
        for name, value in self.trainee.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)


def _norm(parameters: list[nn.Parameter]) -> Tensor:
    """Of their gradients, over all ranks."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    whole_norm: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return whole_norm


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine down to `end_lr` at the last step."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    share = (step - recipe.warmup) / max(recipe.steps - 1 - recipe.warmup, 1)
    return recipe.end_lr + (recipe.lr - recipe.end_lr) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def train(
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    validate: Validate | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Run a recipe to its end, or on from its last checkpoint.

    Args:
        recipe: what to do.
        out: folder of the run.
        validate: called on the first rank with the weights that are saved.
        say: takes lines for the user; a bar or plain lines on the error stream if left out.

    Returns:
        The newest checkpoint, which `mobileclip.load` takes; it is the last step's unless SIGTERM came.

    Raises:
        TrainingError: the recipe cannot run here, is not that of the folder, or diverged.
        DataError: the corpus holds nothing, or too much of it is broken.
        OutputError: the folder cannot be written.
    """
    check(recipe)
    with group() as device:
        if recipe.batch % (world() * recipe.accumulate):
            raise TrainingError(
                f"a batch of {recipe.batch} cannot be shared by {world()} ranks in {recipe.accumulate} parts each: "
                f"take a multiple of {world() * recipe.accumulate}."
            )
        if validate is None and recipe.val:
            validate = _validation(recipe.val)
        return _Run(recipe, Path(out), device, validate, say).run()


class _Run:
    """One run: what `train` sets up once."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        device: torch.device,
        validate: Validate | None,
        say: Callable[[str], None] | None,
    ) -> None:
        self.recipe, self.out, self.device, self.validate = recipe, out, device, validate
        self.corpus = _corpus(recipe)
        self.policy = policy(recipe.captions)
        self.folder = Folder(out)
        self.stepper = Stepper(_fresh(recipe), recipe, device, joint=self.policy.joint)
        self.teacher = _teachers(recipe, device)
        facts = {"recipe": recipe.as_dict(), "corpus": self.corpus.fingerprint}
        if rank() == 0:
            self.folder.begin(facts, differences)
        barrier()
        self.best, self.done = -math.inf, self._resumed()
        self.log = Log(out, recipe, self.done, say, speaks=rank() == 0)
        self.saved = self.done

    def _resumed(self) -> int:
        """Steps that are done already; weights and optimiser are put back."""
        newest = self.folder.newest()
        if newest is None:
            return 0
        state, groups = read_training(newest)
        restore(self.stepper.trainee, groups["model"])
        restore_optimiser(self.stepper.trainee, self.stepper.optimiser, groups.get("optimiser", {}))
        for name, value in groups.get("average", {}).items():
            self.stepper.average[name].copy_(value)
        self.best = float("-inf") if state["best"] is None else state["best"]
        return int(state["step"])

    def run(self) -> Path:
        recipe = self.recipe
        if self.done >= recipe.steps:
            self.log.say(f"{self.out} is finished: {recipe.steps} steps.")
        elif self.done:
            self.log.say(f"going on at step {self.done} of {recipe.steps}")
        try:
            with _signals() as stopped:
                if self.done < recipe.steps:
                    self._steps(stopped)
        except TrainingError as error:
            newest = self.folder.newest()
            kept = f"the last good checkpoint is {newest}" if newest else "no checkpoint was written yet"
            raise TrainingError(f"{error}; {kept}.") from error
        finally:
            self.log.close()
        newest = self.folder.newest()
        assert newest is not None
        return newest

    def _steps(self, stopped: list[str]) -> None:
        recipe = self.recipe
        loader = Loader(
            self.corpus,
            size=self.stepper.clip.config.preprocess.size,
            batch=recipe.batch // world(),
            policy=self.policy,
            seed=recipe.seed,
            rank=rank(),
            world=world(),
            threads=recipe.threads or None,
            augment=Augment(
                scale=recipe.crop_scale,
                flip=recipe.flip,
                rand_augment=recipe.rand_augment if recipe.rand_augment[0] else None,
                replay=recipe.replay,
            ),
            device=self.device,
            broken_share=recipe.broken_share,
            start_step=self.done,
            steps=recipe.steps,
            teachers=recipe.distill > 0 and not recipe.teachers,
            window=recipe.window or None,
            crop_on="device" if self.device.type == "cuda" else "host",
        )
        clock = _Clock(loader)
        for step, batch in enumerate(loader, start=self.done):
            figures = self.stepper.step(batch, step, self.teacher)
            last = step + 1 == recipe.steps
            if step == self.done or (step + 1) % recipe.log_every == 0 or last:
                self._tell(step + 1, figures, clock, loader)
            stop = bool(total(torch.tensor(float(bool(stopped)), device=self.device)))
            if last or stop or (step + 1) % recipe.save_every == 0:
                judged = last or bool(recipe.evaluate_every and (step + 1) % recipe.evaluate_every == 0)
                self._save(step + 1, loader, judged)
            if stop:
                self.log.say(f"stopped by a signal at step {step + 1}; the same command goes on from here")
                return
        for reason, found in loader.broken.items():
            self.log.say(f"{found.count} samples left out: {reason} ({', '.join(found.names[:3])})")

    def _tell(self, step: int, figures: Figures, clock: "_Clock", loader: Loader) -> None:
        recipe, consumed = self.recipe, loader.consumed
        loss = total(figures.loss) / world()
        values = {
            "loss": float(loss),
            **{name: float(total(part) / world()) for name, part in figures.parts.items()},
            "lr": learning_rate(recipe, step - 1),
            "logit_scale": float(self.stepper.clip.logit_scale.detach().exp()),
            "gradient_norm": float(figures.norm),
            "memory_gb": memory_gb(self.device),
            **clock.since(step, recipe.batch),
            **{f"captions/{source}": count / sum(consumed.values()) for source, count in consumed.items()},
        }
        self.log.step(step, values)

    def _save(self, step: int, loader: Loader, judge: bool) -> None:
        """Checkpoint of `step`; all ranks call it, the first one writes."""
        _average_statistics(self.stepper.trainee)
        weights = whole(self.stepper.trainee)
        optimiser = optimiser_state(self.stepper.trainee, self.stepper.optimiser)
        average = {name: value.to("cpu") for name, value in _wholes(self.stepper.average).items()}
        if rank() == 0:
            model = _clip(self.stepper.clip.config, average or weights)
            figures = dict(self.validate(model)) if judge and self.validate else {}
            better = bool(figures) and next(iter(figures.values())) > self.best
            if better:
                self.best = next(iter(figures.values()))
            if figures:
                self.log.step(step, {f"val/{name}": value for name, value in figures.items()})
                self.log.say("  ".join(f"{name} {value:.3f}" for name, value in figures.items()))
            state = {"step": step, "best": self.best if math.isfinite(self.best) else None, "figures": figures}
            record = {"recipe": self.recipe.as_dict(), "step": step, "captions": loader.consumed, **figures}

            def write(part: Path) -> None:
                save(model, part, force=True, record=record)
                write_training(part, state, {"model": weights, "optimiser": optimiser, "average": average})

            self.folder.save(step, write, best=better or not self.validate, keep=self.recipe.keep)
        self.saved = step
        barrier()


def _validation(val: str) -> Validate:
    """Zero-shot top-1 and retrieval R@1 (mean of both ways) on a folder that holds either set or both."""
    from mobileclip.evaluate import evaluate, open_classification, open_retrieval
    from mobileclip.evaluate.encoder import ModelEncoder

    kinds: dict[str, Any] = {}
    faults = []
    for kind, opened in (("zero_shot", open_classification), ("retrieval", open_retrieval)):
        try:
            kinds[kind] = opened(val)
        except DataError as error:
            faults.append(str(error))
    if not kinds:
        raise DataError(f"{val} is no set to evaluate on: {' '.join(faults)}")

    def measure(clip: Clip) -> dict[str, float]:
        found = {row["task"]: row for row in evaluate(ModelEncoder(clip), **kinds).rows()}
        figures = {}
        if "zero-shot" in found:
            figures["top1"] = float(found["zero-shot"]["top1"])
        if "retrieval" in found:
            ways = (found["retrieval"][way]["R@1"] for way in ("image_to_text", "text_to_image"))
            figures["recall1"] = sum(ways) / 2
        return figures

    return measure


class _Clock:
    """Images a second and the share of time spent waiting for data, since it was last asked."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.step, self.time, self.waited = loader.start_step, time.perf_counter(), loader.wait_s

    def since(self, step: int, batch: int) -> dict[str, float]:
        now, waited = time.perf_counter(), self.loader.wait_s
        seconds = max(now - self.time, 1e-9)
        values = {"images_s": (step - self.step) * batch / seconds, "wait_share": (waited - self.waited) / seconds}
        self.step, self.time, self.waited = step, now, waited
        return values


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


def _fresh(recipe: Recipe) -> Clip:
    if recipe.init:
        return load(recipe.init, recipe.model)
    torch.manual_seed(recipe.seed)
    return create(recipe.model)


def _corpus(recipe: Recipe) -> Corpus:
    if not recipe.shards:
        raise TrainingError(f"recipe {recipe.name} has no shards: pass --shards with folders, globs or URLs of tars.")
    embeddings = Path(recipe.embeddings) if recipe.embeddings else None
    if rank() == 0:  # builds the indices that are missing, once
        corpus(recipe.shards, embeddings=embeddings, jobs=_cores() if len(expand(recipe.shards)) >= _MANY_SHARDS else 1)
    barrier()
    return corpus(recipe.shards, embeddings=embeddings)


_MANY_SHARDS = 16  # from here on processes that start in seconds are worth it


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _teachers(recipe: Recipe, device: torch.device) -> "LiveTeachers | None":
    if not recipe.teachers:
        return None
    from mobileclip.live_teachers import LiveTeachers

    return LiveTeachers(recipe.teachers, device, bf16=recipe.precision == "bf16")


def _clip(config: Any, weights: Mapping[str, Tensor]) -> Clip:
    """A model on the CPU with weights under `Trainee`'s names."""
    model = build(config)
    model.load_state_dict({name.removeprefix("clip."): v for name, v in weights.items() if name.startswith("clip.")})
    return model.eval()


def _wholes(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in values.items()}


def _average_statistics(model: nn.Module) -> None:
    """Give all ranks the mean of their BatchNorm statistics: each saw other samples."""
    if world() > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= world()


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


@contextmanager
def _signals() -> Iterator[list[str]]:
    """A list that is empty until SIGTERM (or the first Ctrl-C) comes."""
    seen: list[str] = []

    def note(number: int, frame: object) -> None:
        if number == signal.SIGINT and seen:
            raise KeyboardInterrupt
        seen.append(signal.Signals(number).name)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: its owner handles signals
        yield seen
        return
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
