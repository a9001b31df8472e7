"""`train(recipe, out)`: from shards to a checkpoint, in one process or under `torchrun`, killed at any time.

    torchrun --nproc-per-node 8 -m mobileclip.cli train mci2-scratch --shards "shards/{00000..01279}.tar" --out runs/s2

A step is a function of (recipe, step): which samples, which captions, which crops and every random draw follow from the
seed and the step's number. So the same command after a kill goes on where the last checkpoint was, and the number of
ranks, threads and interruptions does not show in the curve. The step itself is in train_step.py.
"""

import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mobileclip.checkpoint import load, save
from mobileclip.data.augment import Augment
from mobileclip.data.corpus import Corpus, corpus
from mobileclip.data.loader import Loader
from mobileclip.data.policies import policy
from mobileclip.data.pool import cores
from mobileclip.data.shards import expand
from mobileclip.distributed import barrier, group, rank, total, world
from mobileclip.errors import DataError, TrainingError
from mobileclip.models import Clip, build, create
from mobileclip.recipes import Recipe, check, differences, require_shards
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
from mobileclip.train_step import Figures, Stepper, learning_rate

if TYPE_CHECKING:
    from mobileclip.live_teachers import LiveTeachers

Validate = Callable[[Clip], Mapping[str, float]]
"""A model in evaluation mode -> figures by name; the first decides which checkpoint is the best."""


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
        self.best, self.consumed = -math.inf, Counter[str]()
        self.done = self._resumed()
        self.log = Log(out, recipe, self.done, say, speaks=rank() == 0)

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
        self.best = -math.inf if state["best"] is None else state["best"]
        self.consumed.update(state.get("captions", {}))
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
            judged = last or bool(recipe.evaluate_every and (step + 1) % recipe.evaluate_every == 0)
            if judged or stop or (step + 1) % recipe.save_every == 0:
                self._save(step + 1, loader, judged)
            if stop:
                self.log.say(f"stopped by a signal at step {step + 1}; the same command goes on from here")
                return
        for reason, found in loader.broken.items():
            self.log.say(f"{found.count} samples left out: {reason} ({', '.join(found.names[:3])})")

    def _tell(self, step: int, figures: Figures, clock: "_Clock", loader: Loader) -> None:
        recipe, consumed = self.recipe, self.consumed + Counter(loader.consumed)
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
        weights = whole(self.stepper.trainee.state_dict())
        optimiser = optimiser_state(self.stepper.trainee, self.stepper.optimiser)
        average = whole(self.stepper.average)
        if rank() == 0:
            model = _clip(self.stepper.clip.config, average or weights)
            figures = dict(self.validate(model)) if judge and self.validate else {}
            better = bool(figures) and next(iter(figures.values())) > self.best
            if better:
                self.best = next(iter(figures.values()))
            if figures:
                self.log.step(step, {f"val/{name}": value for name, value in figures.items()})
                self.log.say("  ".join(f"{name} {value:.3f}" for name, value in figures.items()))
            captions = dict(self.consumed + Counter(loader.consumed))
            best = self.best if math.isfinite(self.best) else None
            state = {"step": step, "best": best, "figures": figures, "captions": captions}
            record = {"recipe": self.recipe.as_dict(), "step": step, "captions": captions, **figures}

            def write(part: Path) -> None:
                save(model, part, force=True, record=record)
                write_training(part, state, {"model": weights, "optimiser": optimiser, "average": average})

            self.folder.save(step, write, best=better or not self.validate, keep=self.recipe.keep)
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


def _fresh(recipe: Recipe) -> Clip:
    if recipe.init:
        return load(recipe.init, recipe.model)
    torch.manual_seed(recipe.seed)
    return create(recipe.model)


def _corpus(recipe: Recipe) -> Corpus:
    require_shards(recipe)
    embeddings = Path(recipe.embeddings) if recipe.embeddings else None
    found = None
    if rank() == 0:  # builds the indices that are missing, once
        jobs = cores() if len(expand(recipe.shards)) >= _MANY_SHARDS else 1
        found = corpus(recipe.shards, embeddings=embeddings, jobs=jobs)
    barrier()
    return found or corpus(recipe.shards, embeddings=embeddings)


_MANY_SHARDS = 16  # from here on processes that start in seconds are worth it


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


def _average_statistics(model: nn.Module) -> None:
    """Give all ranks the mean of their BatchNorm statistics: each saw other samples."""
    if world() > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= world()


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
