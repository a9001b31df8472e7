"""Do better captions make a better model? The same pictures, model, steps and seeds; only the captions differ.

    python -m benchmarks learning --seeds 3

For each seed a corpus of scenes is drawn, and `nano-scenes` is trained on it once a caption policy. All runs of a seed
see the same pictures in the same order with the same crops, and are measured on the same unseen scenes: zero-shot
classification of the main object by shape (19 classes) and by colour and shape (209), and retrieval with true captions.
A study that was interrupted goes on where it was, if it is given the same --work.
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import mobileclip
from benchmarks import results
from mobileclip.data.scene_captions import class_names, fine_label
from mobileclip.data.scenes import FIRST_OF_VAL, layout, write_scenes
from mobileclip.evaluate import evaluate, open_classification
from mobileclip.evaluate.encoder import ModelEncoder
from mobileclip.evaluate.sets import Classification
from mobileclip.recipes import recipe_of
from mobileclip.train import train

POLICIES = {"alt": "alt", "short": "pick(syn_text_short=1)", "quality": "pick(syn_text_quality=1)"}
"""Captions -> policy."""
FIGURES = ("shape top1", "colour and shape top1", "image to text R@1", "text to image R@1")


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure, print a table, write a result."""
    parser = argparse.ArgumentParser(prog="benchmarks learning", description=__doc__.partition("\n")[0])
    parser.add_argument("--captions", nargs="+", choices=tuple(POLICIES), default=("alt", "quality"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--count", type=int, default=10_000, help="scenes to train on")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--work", type=Path, help="folder of corpora and runs; a temporary one if left out")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "train", help="folder")
    args = parser.parse_args(argv)
    work = args.work or Path(tempfile.mkdtemp(prefix="learning"))
    rows: list[dict[str, Any]] = []
    try:
        for seed in range(args.seeds):
            corpus = write_scenes(work / f"scenes{seed}", count=args.count, size=72, seed=seed, dense=False)
            for captions in args.captions:
                row = {"seed": seed, "captions": captions, **_one(corpus, captions, seed, args, work)}
                rows.append(row)
                print(
                    "  ".join(
                        f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}"
                        for key, value in row.items()
                    )
                )
    finally:
        if args.work is None:
            shutil.rmtree(work, ignore_errors=True)
    settings = {key: getattr(args, key) for key in ("count", "steps", "batch", "seeds")}
    result = results.stamp() | {"study": "learning", "settings": settings, "rows": rows}
    results.write(args.out, "learning", result)
    print(table([result]))
    return 0


def _one(corpus: Path, captions: str, seed: int, args: argparse.Namespace, work: Path) -> dict[str, float]:
    recipe = recipe_of(
        "nano-scenes",
        {
            "shards": (str(corpus / "train"),),
            "captions": POLICIES[captions],
            "seed": seed,
            "steps": args.steps,
            "batch": args.batch,
            "warmup": min(100, args.steps // 5),
            "tensorboard": False,
        },
    )
    checkpoint = train(recipe, work / f"{captions}{seed}", say=lambda line: None)
    if checkpoint.name != f"step_{args.steps:08d}":
        raise KeyboardInterrupt  # a signal stopped the run, and was meant for the study
    encoder = ModelEncoder(mobileclip.load(checkpoint))
    shapes, search = evaluate(encoder, zero_shot=corpus / "val", retrieval=corpus / "val").rows()
    (fine,) = evaluate(encoder, zero_shot=_fine(corpus / "val", seed)).rows()
    ways = [search[way]["R@1"] for way in ("image_to_text", "text_to_image")]
    return dict(zip(FIGURES, (shapes["top1"], fine["top1"], *ways), strict=True))


def _fine(val: Path, seed: int) -> Classification:
    """The scenes to measure on, by the colour and the shape of their main object."""
    coarse = open_classification(val)
    numbers = [int(Path(coarse.pictures.name(row)).stem.lstrip("v")) for row in range(len(coarse.labels))]
    labels = [fine_label(layout(seed, FIRST_OF_VAL + number)) for number in numbers]
    return replace(coarse, name="val, colour and shape", labels=np.array(labels), classes=tuple(class_names(fine=True)))


def table(kept: Sequence[dict[str, Any]]) -> str:
    """Mean and range over the seeds, a line for each kind of captions."""
    rows = [row for result in kept for row in result["rows"]]
    lines = [f"| captions | {' | '.join(FIGURES)} |", "|---" * (len(FIGURES) + 1) + "|"]
    for captions in dict.fromkeys(row["captions"] for row in rows):
        cells = []
        for figure in FIGURES:
            found = np.array([row[figure] for row in rows if row["captions"] == captions])
            cells.append(f"{found.mean():.1%} ({found.min():.1%}–{found.max():.1%})")
        lines.append(f"| {captions} | {' | '.join(cells)} |")
    return "\n".join(lines)
