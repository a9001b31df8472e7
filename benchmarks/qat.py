"""What training with rounding gives an int8 image tower, against calibration alone.

    python -m benchmarks qat --checkpoint runs/s2/best --shards scenes/train --val scenes/val

The checkpoint is quantised as `mobileclip export --precision w8a8` would, once as it is and once after
`mobileclip train --qat`, with the same pictures for the ranges; both are held against its floats on other pictures.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import results
from export.gates import LIMITS, judge
from export.pictures import pictures
from export.quantise import quantised
from export.subjects import ClipSubject
from export.targets import Quantisation
from mobileclip import load
from mobileclip.evaluate.encoder import ModelEncoder
from mobileclip.images import load_images, read_image
from mobileclip.recipes import recipe_of
from mobileclip.train import train


def main(argv: Sequence[str] | None = None) -> int:
    """Train, quantise both, measure, print a table, write a result."""
    parser = argparse.ArgumentParser(prog="benchmarks qat", description=__doc__.partition("\n")[0])
    parser.add_argument("--checkpoint", type=Path, nargs="+", required=True, help="one, or one for each seed")
    parser.add_argument("--recipe", default="nano-scenes")
    parser.add_argument("--shards", required=True)
    parser.add_argument("--val", type=Path, required=True, help="set with images/, classes or captions")
    parser.add_argument("--set", nargs="*", default=[], help="fields of the recipe, as steps=200 lr=3e-4")
    parser.add_argument("--calibration", type=int, default=64, help="pictures of the set that set ranges")
    parser.add_argument("--limit", type=int, default=None, help="pictures of the set that judge")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "quantise", help="folder")
    args = parser.parse_args(argv)
    work = Path(tempfile.mkdtemp(prefix="qat"))
    rows: list[dict[str, Any]] = []
    try:
        for seed, checkpoint in enumerate(args.checkpoint):
            overrides: dict[str, Any] = {"qat": str(checkpoint), "shards": (args.shards,), "seed": seed}
            overrides |= {"tensorboard": False, **dict(item.split("=", 1) for item in args.set)}
            recipe = recipe_of(args.recipe, overrides)
            trained = train(recipe, work / str(seed), say=lambda line: None)
            for form, source in (("calibrated", checkpoint), ("trained", trained)):
                rows.append({"seed": seed, "form": form, **_one(source, checkpoint, args)})
                print(json.dumps(rows[-1]), flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    settings = {"recipe": recipe.as_dict(), "calibration": args.calibration, "limit": args.limit}
    result = results.stamp() | {"study": "qat", "settings": settings, "rows": rows}
    results.write(args.out, "qat", result)
    print(table([result]))
    return 0


def _one(source: Path, checkpoint: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The image tower of `source` in int8 against `checkpoint` in floats."""
    from export.gate_sets import ViewEncoder, measure_set

    floats = load(checkpoint)
    subject = ClipSubject(load(source), kinds=("image",))
    fit = pictures(subject.about(), "image")
    seen = load_images(args.val / "images")
    chosen = seen[:: max(len(seen) // args.calibration, 1)][: args.calibration]
    with torch.no_grad():
        module = quantised(
            subject.deployed()["image"],
            Quantisation(precision="w8a8", inputs=[fit(read_image(path)) for path in chosen]),
        )
    before = ModelEncoder(floats)
    numbers, count = measure_set(ViewEncoder(module, fit, before), before, args.val, limit=args.limit)
    return {"pictures": count, "passed": judge(numbers, LIMITS["w8a8"], pictures=count).passed, **numbers}


_COLUMNS: Mapping[str, str] = {
    "cosine_mean": "cosine to floats",
    "cosine_p1": "1st hundredth",
    "index": "R@1 in an index of floats",
    "zero_shot_lost": "zero-shot top-1 lost",
    "image_to_text_lost": "R@1 lost",
}


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Means over the seeds, with and without training."""
    rows = [row for result in found for row in result["rows"]]
    lines = [f"| int8 image tower | {' | '.join(_COLUMNS.values())} |", "|---" * (len(_COLUMNS) + 1) + "|"]
    for form, name in (("calibrated", "calibrated"), ("trained", "`train --qat`")):
        own = [row for row in rows if row["form"] == form]
        cells = [sum(row[key] for row in own if key in row) / max(len(own), 1) for key in _COLUMNS]
        lines.append(f"| {name} | {' | '.join(f'{cell:.4f}' for cell in cells)} |")
    return "\n".join(lines)
