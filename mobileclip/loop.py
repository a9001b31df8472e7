"""What every run of the trainer does, whatever it trains: `train` and `mobileclip.dense.finetune` share it.

    path = Loop(work, recipe, folder, device, say).run()

`Work` says what a step, an evaluation and a checkpoint are; `Loop` does the rest: the folder, the resume, the log, the
clock, signals, which checkpoints are written, kept, best and last, and that all ranks do the same.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mobileclip.distributed import barrier, rank, total, world
from mobileclip.errors import TrainingError
from mobileclip.train_log import Log, Plan, memory_gb
from mobileclip.train_state import Folder, read_training, write_training

_SHOWN = 4  # figures of an evaluation on the screen; the log and the record have all

Groups = Mapping[str, Mapping[str, Tensor]]
"""Tensors of a checkpoint by kind and name: `model`, `optimiser`, `average`."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a step found out."""

    loss: Tensor
    """Of this rank, scalar."""
    parts: Mapping[str, Tensor]
    """Its parts by name."""
    norm: Tensor
    """Of the gradient over all ranks, before clipping."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What an evaluation found out."""

    figures: Mapping[str, float]
    """By name; the first decides which checkpoint is the best."""
    better: Literal["higher", "lower"] = "higher"
    """Which way the first figure improves."""

    def beats(self, best: float | None) -> bool:
        """Whether the first figure is better than the best so far; a NaN never is."""
        if not self.figures:
            return False
        first = next(iter(self.figures.values()))
        if best is None:
            return not math.isnan(first)
        return first > best if self.better == "higher" else first < best


class Source(Protocol):
    """Batches, and how long was waited for them."""

    wait_s: float
    """Seconds spent waiting so far."""

    def __iter__(self) -> Iterator[Any]: ...


class Work(Protocol):
    """What is particular to a kind of training. All ranks call everything but `judge` and `write`."""

    @property
    def module(self) -> nn.Module:
        """What trains; the statistics of those BatchNorms in it that are in training mode are averaged over ranks."""

    @property
    def judges(self) -> bool:
        """Whether there is something to evaluate on."""

    def restore(self, state: Mapping[str, Any], groups: Groups) -> None:
        """Take up what `groups` and `state` gave."""

    def batches(self, start: int) -> Source:
        """From step `start` on, to the last one."""

    def step(self, batch: Any, step: int) -> Figures:
        """Forward, backward, update; raises `TrainingError` without a full stop where it cannot go on."""

    def told(self, step: int) -> Mapping[str, float]:
        """Further figures for the log, after `step` (counted from 0)."""

    def groups(self) -> Groups:
        """What a checkpoint holds, whole on the first rank's CPU."""

    def state(self) -> Mapping[str, Any]:
        """What else it holds, as JSON values; it is also part of the record."""

    def judge(self, groups: Groups) -> Judged:
        """Evaluate the weights that are saved."""

    def write(self, part: Path, groups: Groups, record: Mapping[str, Any]) -> None:
        """Write the model that others load into a folder."""

    def ended(self, say: Callable[[str], None]) -> None:
        """After the last step: say what was odd."""


class Loop:
    """Steps, evaluations and checkpoints of one run."""

    def __init__(
        self, work: Work, plan: Plan, folder: Folder, device: torch.device, say: Callable[[str], None] | None
    ) -> None:
        self.work, self.plan, self.folder, self.device = work, plan, folder, device
        self.best: float | None = None
        self.done = self._resumed()
        self.log = Log(folder.path, plan, self.done, say, speaks=rank() == 0)

    def _resumed(self) -> int:
        """Steps that are done already; weights and optimiser are put back."""
        newest = self.folder.newest()
        if newest is None:
            return 0
        state, groups = read_training(newest)
        self.work.restore(state, groups)
        self.best = state["best"]
        return int(state["step"])

    def run(self) -> Path:
        """To the end, or to SIGTERM; the newest checkpoint.

        Raises:
            Diverged: the loss is not finite any more; the last good checkpoint is told.
            OutputError: a checkpoint cannot be written.
        """
        plan = self.plan
        if self.done >= plan.steps:
            self.log.say(f"{self.folder.path} is finished: {plan.steps} steps.")
        elif self.done:
            self.log.say(f"going on at step {self.done} of {plan.steps}")
        try:
            with _signals() as stopped:
                if self.done < plan.steps:
                    self._steps(stopped)
        except TrainingError as error:
            newest = self.folder.newest()
            kept = f"the last good checkpoint is {newest}" if newest else "no checkpoint was written yet"
            raise type(error)(f"{error}; {kept}.") from error
        finally:
            self.log.close()
        newest = self.folder.newest()
        assert newest is not None
        return newest

    def _steps(self, stopped: list[str]) -> None:
        plan, source = self.plan, self.work.batches(self.done)
        clock = _Clock(source, self.done)
        for step, batch in enumerate(source, start=self.done):
            figures = self.work.step(batch, step)
            last = step + 1 == plan.steps
            if step == self.done or (step + 1) % plan.log_every == 0 or last:
                self._tell(step + 1, figures, clock)
            stop = bool(total(torch.tensor(float(bool(stopped)), device=self.device)))
            judged = last or bool(plan.evaluate_every and (step + 1) % plan.evaluate_every == 0)
            if judged or stop or (step + 1) % plan.save_every == 0:
                self._save(step + 1, judged)
            if stop:
                self.log.say(f"stopped by a signal at step {step + 1}; the same command goes on from here")
                return
        self.work.ended(self.log.say)

    def _tell(self, step: int, figures: Figures, clock: "_Clock") -> None:
        values = {
            "loss": float(total(figures.loss) / world()),
            **{name: float(total(part) / world()) for name, part in figures.parts.items()},
            **self.work.told(step - 1),
            "gradient_norm": float(figures.norm),
            "memory_gb": memory_gb(self.device),
            **clock.since(step, self.plan.batch),
        }
        self.log.step(step, values)

    def _save(self, step: int, judge: bool) -> None:
        """Checkpoint of `step`; all ranks call it, the first one writes."""
        _average_statistics(self.work.module)
        groups = self.work.groups()
        if rank() == 0:
            judged = self.work.judge(groups) if judge and self.work.judges else Judged(figures={})
            figures, better = dict(judged.figures), judged.beats(self.best)
            if better:
                self.best = next(iter(figures.values()))
            if figures:
                self.log.step(step, {f"val/{name}": value for name, value in figures.items()})
                self.log.say("  ".join(f"{name} {value:.3f}" for name, value in islice(figures.items(), _SHOWN)))
            more = dict(self.work.state())
            state = {"step": step, "best": self.best, "figures": figures, **more}
            record = {"recipe": self.plan.as_dict(), "step": step, **more, **figures}

            def write(part: Path) -> None:
                self.work.write(part, groups, record)
                write_training(part, state, groups)

            self.folder.save(step, write, best=better or not self.work.judges, keep=self.plan.keep)
        barrier()


def begin(
    folder: Folder,
    facts: Mapping[str, Any],
    differences: Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]],
) -> None:
    """Make the folder of a run or take up the run in it, on the first rank; the others wait.

    Raises:
        TrainingError: it belongs to another run.
        OutputError: it holds something else, or cannot be written.
    """
    if rank() == 0:
        folder.begin(facts, differences)
    barrier()


class _Clock:
    """Images a second and the share of time spent waiting for data, since it was last asked."""

    def __init__(self, source: Source, step: int) -> None:
        self.source = source
        self.step, self.time, self.waited = step, time.perf_counter(), source.wait_s

    def since(self, step: int, batch: int) -> dict[str, float]:
        now, waited = time.perf_counter(), self.source.wait_s
        seconds = max(now - self.time, 1e-9)
        values = {"images_s": (step - self.step) * batch / seconds, "wait_share": (waited - self.waited) / seconds}
        self.step, self.time, self.waited = step, now, waited
        return values


def _average_statistics(model: nn.Module) -> None:
    """Give all ranks the mean of their BatchNorm statistics: each saw other samples. What is at rest stays as it is."""
    if world() == 1:
        return
    for module in model.modules():
        for buffer in module.buffers(recurse=False) if module.training else ():
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
