"""The same finetuning at several learning rates, and which is best: the published recipes sweep theirs.

    found = sweep(recipe, (5e-4, 2e-4, 1e-4), checkpoint="runs/s2/best", data="ADEChallengeData2016", out="runs/lr")

A rate is a run of its own in `out/lr_…`; what is finished is not done again, and what was interrupted goes on.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mobileclip.dense.finetune import PATIENCE, finetune
from mobileclip.dense.plan import Finetune
from mobileclip.dense.samples import DenseSet
from mobileclip.distributed import barrier, group, rank
from mobileclip.errors import Diverged, TrainingError

SUMMARY = "sweep.json"
"""What is written beside the runs."""


@dataclass(frozen=True, kw_only=True)
class Swept:
    """One rate."""

    lr: float
    run: str
    """Its folder."""
    figure: float | None
    """The task's metric of its best checkpoint; None where the run diverged."""
    step: int
    """Of that checkpoint."""
    note: str = ""
    """Why there is no figure."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """All rates, as they were asked for."""

    metric: str
    better: Literal["higher", "lower"]
    rows: tuple[Swept, ...]

    @property
    def best(self) -> Swept | None:
        """The rate with the best figure; None if all diverged."""
        known = [row for row in self.rows if row.figure is not None]
        sign = 1.0 if self.better == "higher" else -1.0
        return max(known, key=lambda row: sign * (row.figure or 0.0), default=None)

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "best": None if self.best is None else self.best.lr}


def sweep(
    recipe: Finetune,
    rates: Sequence[float],
    *,
    out: str | os.PathLike[str],
    steps: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | DenseSet | None = None,
    val: str | os.PathLike[str] | DenseSet | None = None,
    say: Callable[[str], None] | None = None,
) -> Sweep:
    """Finetune once for each rate.

    Args:
        recipe: all but its rate.
        rates: learning rates.
        out: folder of the runs.
        steps: shortens every run to so many, schedule and warm-up with it; 0: as the recipe says.
        checkpoint: as of `finetune`.
        data: as of `finetune`.
        val: as of `finetune`.
        say: takes lines for the user.

    Raises:
        TrainingError: there is no rate, one is twice there or not above 0, nothing is evaluated, or a signal stopped
            a run; or as `finetune`, but that a run that diverges is only noted.
    """
    if not rates or len(set(rates)) < len(rates) or not all(rate > 0 for rate in rates):
        raise TrainingError(f"the rates of a sweep are {list(rates)}: one or more above 0 are allowed, each once.")
    if steps:
        warmup = min(recipe.warmup, steps // 10)
        recipe = replace(recipe, steps=steps, epochs=0, warmup=warmup, save_every=min(recipe.save_every, steps))
    rows, told = [], ("", "higher")
    with group(PATIENCE):
        for rate in rates:
            run = Path(out) / f"lr_{rate:g}"
            one = replace(recipe, lr=rate, end_lr=recipe.end_lr * rate / recipe.lr)
            try:
                newest = finetune(one, out=run, checkpoint=checkpoint, data=data, val=val, say=say)
            except Diverged as error:
                rows.append(Swept(lr=rate, run=str(run), figure=None, step=0, note=str(error)))
                continue
            row, told = _swept(rate, run, newest)
            rows.append(row)
        found = Sweep(metric=told[0], better=told[1], rows=tuple(rows))  # type: ignore[arg-type]
        if rank() == 0:
            Path(out).mkdir(parents=True, exist_ok=True)
            (Path(out) / SUMMARY).write_text(json.dumps(found.as_dict(), indent=1) + "\n", encoding="utf-8")
        barrier()
    return found


def _swept(rate: float, run: Path, newest: Path) -> tuple[Swept, tuple[str, str]]:
    """The row of a run that ended, and (metric, direction)."""
    last, best = record_of(newest), record_of(run / "best" if (run / "best").exists() else newest)
    if last["step"] < last["recipe"]["steps"]:
        raise TrainingError(f"{run} was stopped at step {last['step']}: start the same command again to go on.")
    if "metric" not in best:
        raise TrainingError(f"{run} was not evaluated, so no rate is the best: give the data set a val part, or --val.")
    row = Swept(lr=rate, run=str(run), figure=best[best["metric"]], step=best["step"])
    return row, (best["metric"], best["better"])


def record_of(checkpoint: Path) -> dict[str, Any]:
    """How a checkpoint was trained."""
    found: dict[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["record"]
    return found
