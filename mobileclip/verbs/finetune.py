"""`mobileclip finetune`."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from mobileclip.dense.config import task_of
from mobileclip.dense.plan import require_sources
from mobileclip.dense.recipes import RECIPES, recipe_of
from mobileclip.errors import TrainingError
from mobileclip.recipes import assignments
from mobileclip.verbs.screen import table

if TYPE_CHECKING:
    from mobileclip.dense.plan import Finetune as Recipe
    from mobileclip.dense.sweep import Sweep


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Train a dense head on an encoder: segmentation, detection with masks, or depth; on one process or under torchrun.

    mobileclip finetune segmentation ade-semfpn --checkpoint runs/s2/best --data ADEChallengeData2016 --out runs/ade

    The same command goes on after an interruption.
    """

    task: Positional[str]
    """segmentation, detection or depth."""
    recipe: Positional[str]
    """Name, such as ade-semfpn, ade-uper, ade-linear, coco-1x, coco-onestage, nyu-depth or scenes-segmentation; an
    unknown one lists all."""
    checkpoint: str = ""
    """CLIP or dense checkpoint, timm:NAME, or scratch."""
    qat: bool = False
    """Train a finetuned checkpoint further with the rounding of int8 artifacts."""
    data: str = ""
    """Folder or file of the data set; `mobileclip inspect` checks it."""
    out: Path | None = None
    """Folder of the run; one that holds this run already is gone on with. Only --show needs none."""
    val: str = ""
    """Another data set to evaluate on; none: no evaluation."""
    labels: float | None = None
    """Share of the training pictures, 0 to 1."""
    sweep: tuple[float, ...] = ()
    """Learning rates, as 5e-4 2e-4 1e-4 7e-5 5e-5: a run for each in OUT/lr_…, and which is best."""
    sweep_steps: int = 0
    """Shorten the runs of a sweep to so many steps."""
    set: tuple[str, ...] = ()
    """Fields of the recipe, as batch=16 bn=sync lr=2e-4."""
    show: bool = False
    """Print the recipe and stop."""
    json: bool = False
    """Print the record of the finished run as JSON."""

    def run(self) -> int:
        """Check the recipe, then train."""
        recipe = self._recipe()
        if self.show:
            print(json.dumps(recipe.as_dict(), indent=1))
            return 0
        require_sources(recipe)
        if self.out is None:
            raise TrainingError("a run needs --out with its folder; only --show does without.")
        if self.sweep_steps and not self.sweep:
            raise TrainingError("--sweep-steps shortens the runs of a sweep: give --sweep with learning rates as well.")
        speaks = os.environ.get("RANK", "0") == "0"  # the group has been left when a run is over
        if self.sweep:
            from mobileclip.dense.sweep import sweep

            found = sweep(recipe, self.sweep, out=self.out, steps=self.sweep_steps)
            if speaks:
                _tell_sweep(found, self.json)
            return 0
        from mobileclip.dense.finetune import finetune

        checkpoint = finetune(recipe, out=self.out)
        if speaks:
            from mobileclip.dense.page import write

            page = write(self.out)
            record = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["record"]
            if self.json:
                print(json.dumps(record))
            else:
                done = f"step {record['step']} of {record['recipe']['steps']}"
                print(f"{checkpoint}: {done}; `mobileclip evaluate`, `predict` and `export` take this folder.")
                print(f"{page}: curves, figures, classes, pictures.")
        return 0

    def _recipe(self) -> "Recipe":
        overrides: dict[str, object] = dict(assignments(self.set))
        for field in ("checkpoint", "data", "val", "labels"):
            if getattr(self, field) not in (None, ""):
                overrides[field] = getattr(self, field)
        if self.qat:
            overrides["qat"] = True
        recipe = recipe_of(self.recipe, overrides)
        if recipe.task != task_of(self.task):
            fitting = [name for name, make in RECIPES.items() if make().task == self.task]
            raise TrainingError(
                f"recipe {self.recipe} is for {recipe.task}, not for {self.task}: take {', '.join(fitting)}."
            )
        return recipe


def _tell_sweep(found: "Sweep", as_json: bool) -> None:
    if as_json:
        print(json.dumps(found.as_dict()))
        return
    rows = [
        [f"{row.lr:g}", "-" if row.figure is None else f"{row.figure:.4f}", str(row.step), row.run, row.note[:60]]
        for row in found.rows
    ]
    table(f"{found.metric}, {found.better} is better", ["lr", found.metric, "step", "run", ""], rows)
    best = found.best
    print("every rate diverged" if best is None else f"best: lr {best.lr:g} ({best.run}/best)")
