"""`mobileclip build`: the whole journey in one command."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from mobileclip.verbs.screen import table

if TYPE_CHECKING:
    from mobileclip.journey.recipes import Journey
    from mobileclip.scale import StageCost


@dataclass(frozen=True, kw_only=True)
class Build:
    """From pairs to a phone: captions, pack, train, evaluate, heads, export, fewer bits, verify, bench, report, apps.

    mobileclip build quickstart --out runs/quickstart

    mobileclip build quickstart --out runs/mine --set scenes=20000 train.steps=400 detection=scenes-detection

    mobileclip build mci2-real --shards web --set val=imagenet photos=photos segmentation_data=ADEChallengeData2016
    captions.embed.model=mobileclip_s2.pt gpus=64 price=2.5 --plan

    Each step is skipped when nothing that it reads has changed; started again, the same command goes on where it was.
    """

    recipe: Positional[str]
    """Name: quickstart, scenes-mci2 or mci2-real."""
    out: Path = Path("runs/build")
    """Folder of the run; one that holds a run already is gone on with."""
    shards: tuple[str, ...] = ()
    """Folders, globs, brace patterns or URLs of tars, of journeys that draw no scenes."""
    set: tuple[str, ...] = ()
    """Fields of the journey, as scenes=2000 precision=w8, or of a step's recipe, as train.steps=200."""
    until: str = ""
    """Last step to run; all if left out."""
    plan: bool = False
    """Print the steps, what is done of them, and what it costs on GPUs; run nothing."""
    show: bool = False
    """Print the journey's fields and stop."""
    json: bool = False
    """Print what was done, or the plan, as JSON."""

    def run(self) -> int:
        """Check the journey and every recipe in it, then run what is not done."""
        from mobileclip.journey.recipes import recipe_of
        from mobileclip.journey.steps import rooted

        journey = recipe_of(self.recipe, self.set)
        if self.shards:
            journey = replace(journey, shards=self.shards)
        if self.show:
            print(json.dumps(asdict(journey), indent=1))
            return 0
        if self.plan:
            return self._plan(journey)
        journey = rooted(journey, Path())
        from mobileclip.journey.page import PAGE
        from mobileclip.journey.runner import build

        with _saying(self.json) as (say, watch):
            done = build(journey, self.out, until=self.until, say=say, watch=watch)
        page = done.folder / PAGE
        if self.json:
            print(json.dumps({"folder": str(done.folder), "ran": done.ran, "skipped": done.skipped, "page": str(page)}))
        else:
            print(f"{page}: {len(done.ran)} steps were run, {len(done.skipped)} were done already")
        return 0

    def _plan(self, journey: "Journey") -> int:
        """The steps and their state; of what a GPU has to do, hours and cost."""
        from mobileclip.journey.recipes import planned
        from mobileclip.journey.records import state_of
        from mobileclip.journey.steps import rooted, steps_of

        journey, needed = planned(journey)
        if not needed:
            journey = rooted(journey, Path())
        steps = steps_of(journey)
        states = state_of(self.out, steps)
        costs = costs_of(journey)
        if self.json:
            rows = [{"step": step.name, "state": states[step.name], "command": list(step.command)} for step in steps]
            told = {"steps": rows, "needed": needed, "costs": [asdict(cost) for cost in costs]}
            print(json.dumps(told, indent=1))
            return 0
        table(
            f"{journey.name} in {self.out}: commands run in that folder",
            ("step", "state", "command"),
            [(step.name, states[step.name], shlex.join(step.command)) for step in steps],
        )
        if costs:
            _tell_costs(journey, costs)
        if needed:
            print(f"still to be given: {', '.join(needed)}")
        return 0


def costs_of(journey: "Journey") -> "tuple[StageCost, ...]":
    """Hours and cost of each stage; none for a journey that names no kind of GPU."""
    from mobileclip.journey.recipes import TASKS
    from mobileclip.recipes import assignments, recipe_of
    from mobileclip.scale import PROTOCOLS, stage_costs

    if not journey.gpu:
        return ()
    inner = [item.removeprefix("train.") for item in journey.options if item.startswith("train.")]
    recipe = recipe_of(journey.train, assignments(inner))
    return stage_costs(
        recipe.steps * recipe.batch,
        journey.pairs,
        journey.gpus,
        journey.gpu,
        journey.price,
        finetunes={task: PROTOCOLS[task] for task in TASKS if getattr(journey, task)},
        rates=journey.rates,
    )


def _tell_costs(journey: "Journey", costs: "Sequence[StageCost]") -> None:
    from mobileclip.scale import total

    hours, gpu_hours, cost = total(tuple(costs))
    rows = [
        (
            row.stage,
            f"{row.work:,} {row.unit}",
            f"{row.rate:,.0f} a second and {row.device}" if row.rate >= 1 else f"{row.rate:.2g} a second",
            f"{row.hours:,.1f}",
            f"{row.gpu_hours:,.0f}",
            f"{row.cost:,.0f}" if journey.price else "–",
            row.source,
        )
        for row in costs
    ]
    rows.append(("in all", "", "", f"{hours:,.1f}", f"{gpu_hours:,.0f}", f"{cost:,.0f}" if journey.price else "–", ""))
    title = f"{journey.gpus} x {journey.gpu}: a plan on paper; put rates of your own machine into rates="
    table(title, ("stage", "work", "rate", "hours", "GPU-hours", "cost", "rate from"), rows)


@contextmanager
def _saying(quiet: bool) -> Iterator[tuple[Callable[[str], None], Callable[[str], None]]]:
    """Takes lines about steps, and lines of steps: the last of these beside a spinner on a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal and not quiet:
        with console.status("") as status:
            yield (
                lambda line: console.print(line, highlight=False, markup=False),
                lambda line: status.update(line[: console.width - 4].replace("[", r"\[")),
            )
        return

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    yield tell, (lambda line: None) if quiet else (lambda line: tell(f"  {line}"))
