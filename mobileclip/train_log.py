"""What a run says while it runs: a bar or plain lines, JSON lines always, TensorBoard and wandb by option.

Only the first rank speaks. `log.jsonl` has one object a line, `{"step": 120, "loss": 2.31, ...}`; a resumed run drops
the lines behind its checkpoint first, so that each step stands there once.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from mobileclip.errors import MissingExtra

LOG = "log.jsonl"


class Plan(Protocol):
    """What the loop and its log read of a recipe, whichever kind it is."""

    @property
    def name(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def evaluate_every(self) -> int: ...
    @property
    def save_every(self) -> int: ...
    @property
    def keep(self) -> int: ...
    @property
    def log_every(self) -> int: ...
    @property
    def tensorboard(self) -> bool: ...
    @property
    def wandb(self) -> str: ...

    def as_dict(self) -> dict[str, Any]: ...


class Log:
    """Screen, log.jsonl, TensorBoard, wandb."""

    def __init__(self, out: Path, recipe: Plan, start: int, say: Callable[[str], None] | None, speaks: bool) -> None:
        self._speaks = speaks
        self._say = say
        self._steps = recipe.steps
        self._bar: Any = None
        self._board: Any = None
        self._wandb: Any = None
        self._began = time.perf_counter()
        self._start = start
        if not speaks:
            return
        self._file = _continued(out / LOG, start)
        if recipe.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)
        if recipe.wandb:
            self._wandb = _wandb(recipe, out)
        if say is None and sys.stderr.isatty():
            self._bar = _bar(recipe, start)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Record the figures of a step."""
        if not self._speaks:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if self._board is not None:
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)
        if "loss" not in values:
            return
        line = (
            f"loss {values['loss']:.4f}  lr {values['lr']:.2e}  {values['images_s']:.0f} images/s  "
            f"waiting {values['wait_share']:.0%}  {values['memory_gb']:.1f} GB"
        )
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, figures=line)
        else:
            self.say(f"step {step}/{self._steps}  {line}  {self._eta(step)}")

    def say(self, line: str) -> None:
        """A line for the user."""
        if not self._speaks:
            return
        if self._say is not None:
            self._say(line)
        elif self._bar is not None:
            self._bar.console.print(line, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Flush everything."""
        if not self._speaks:
            return
        if self._bar is not None:
            self._bar.stop()
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _eta(self, step: int) -> str:
        left = (time.perf_counter() - self._began) / max(step - self._start, 1) * (self._steps - step)
        return f"{left / 3600:.1f} h left" if left > 5400 else f"{left / 60:.1f} min left"


def memory_gb(device: torch.device) -> float:
    """Largest memory so far: of the GPU where there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


def _continued(path: Path, start: int) -> Any:
    """The log, opened for appending, without the lines behind step `start`."""
    if path.exists():
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= start:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue  # a line that a kill cut short
        part = path.with_suffix(".partial")
        part.write_text("".join(kept), encoding="utf-8")
        os.replace(part, path)
    return path.open("a", encoding="utf-8")


def _bar(recipe: Plan, start: int) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(recipe.name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"))
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
    bar.add_task("", total=recipe.steps, completed=start, figures="")
    bar.start()
    return bar


def _wandb(recipe: Plan, out: Path) -> Any:
    try:
        import wandb
    except ModuleNotFoundError as error:
        if error.name != "wandb":
            raise
        raise MissingExtra(
            "wandb is not installed: `pip install mobileclip-toolkit[wandb]`, or leave it out."
        ) from error
    return wandb.init(project=recipe.wandb, name=out.name, config=recipe.as_dict(), dir=str(out), resume="allow")
