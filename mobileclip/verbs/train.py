"""`mobileclip train`."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from mobileclip.errors import TrainingError
from mobileclip.recipes import assignments, recipe_of, require_shards


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model from shards, on one process or under torchrun; the same command goes on after an interruption.

    mobileclip train nano-scenes --shards scenes/train --val scenes/val --out runs/nano

    torchrun --nproc-per-node 8 -m mobileclip.cli train mci2-scratch --shards packed --val imagenet/val --out runs/s2
    """

    recipe: Positional[str]
    """Name: mci2-datacompdr, mci2-scratch, mci0-datacompdr, mci0-scratch, finetune-from-released or nano-scenes."""
    shards: tuple[str, ...] = ()
    """Folders, globs, brace patterns or URLs of tars."""
    out: Path | None = None
    """Folder of the run; one that holds this run already is gone on with. Only --show needs none."""
    qat: str = ""
    """Trained checkpoint to train further with the rounding of int8 artifacts; texts stay as they are."""
    val: Path | None = None
    """Set to evaluate on: classes (zero-shot), captions (retrieval), or both."""
    set: tuple[str, ...] = ()
    """Fields of the recipe, as batch=1024 captions=both lr=5e-4."""
    show: bool = False
    """Print the recipe and stop."""
    json: bool = False
    """Print the record of the finished run as JSON."""

    def run(self) -> int:
        """Check the recipe, then train."""
        overrides: dict[str, object] = dict(assignments(self.set))
        if self.shards:
            overrides["shards"] = self.shards
        if self.qat:
            overrides["qat"] = self.qat
        if self.val is not None:
            overrides["val"] = str(self.val)
        recipe = recipe_of(self.recipe, overrides)
        if self.show:
            print(json.dumps(recipe.as_dict(), indent=1))
            return 0
        require_shards(recipe)
        if self.out is None:
            raise TrainingError("a run needs --out with its folder; only --show does without.")
        speaks = os.environ.get("RANK", "0") == "0"  # the group has been left when a run is over
        from mobileclip.train import train

        checkpoint = train(recipe, self.out)
        if speaks:
            record = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["record"]
            if self.json:
                print(json.dumps(record))
            else:
                print(f"{checkpoint}: step {record['step']} of {recipe.steps}; `mobileclip export` takes this folder.")
        return 0
