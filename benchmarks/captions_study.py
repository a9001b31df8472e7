"""Does judging captions find the wrong ones, and does training on what is selected beat training on all of it?

    python -m benchmarks captions_study --seeds 3

Scenes are drawn whose web texts are wrong as often as one says; what is wrong with each is known. A scorer is trained
on true captions of other scenes. Then, for each seed: the texts are cleaned, scored and judged by the `filter` recipe;
the area under the ROC curve says how well q, and its parts alone, tell true texts from wrong ones; and `nano-scenes` is
trained on all texts, on those that are selected, and on as many at random, for as many steps, with the same seed, and
measured on the same unseen scenes. A study that was interrupted goes on where it was, if it is given the same --work.
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mobileclip
from benchmarks import results
from benchmarks.captions_judged import judged
from mobileclip.captions import engine, plan, tables
from mobileclip.captions.joined import Joined
from mobileclip.captions.plan import Plan
from mobileclip.captions.recipe import recipe_of
from mobileclip.captions.uids import write
from mobileclip.data.pack import pack_shards
from mobileclip.data.scene_captions import AltNoise
from mobileclip.data.scenes import write_scenes
from mobileclip.evaluate import evaluate
from mobileclip.evaluate.encoder import ModelEncoder
from mobileclip.recipes import recipe_of as training
from mobileclip.train import train

NOISE = AltNoise(other_image=0.25, no_content=0.10, file_name=0.07, wrong_shape=0.12, wrong_colour=0.15)
"""Web texts worse than usual, as before any filter: about half of them are wrong."""
ARMS = ("all", "selected", "random")
FIGURES = ("shape top1", "image to text R@1", "text to image R@1")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, judge, train, measure, print a table, write a result."""
    parser = argparse.ArgumentParser(prog="benchmarks captions_study", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--count", type=int, default=10_000, help="scenes to train on")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--scorer-steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--scorer", help="checkpoint; trained on true captions of other scenes if left out")
    parser.add_argument("--work", type=Path, help="folder of corpora and runs; a temporary one if left out")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "captions", help="folder")
    args = parser.parse_args(argv)
    work = args.work or Path(tempfile.mkdtemp(prefix="captions"))
    rows: list[dict[str, Any]] = []
    try:
        scorer = args.scorer or str(_scorer(args, work))
        for seed in range(args.seeds):
            rows += _one(seed, scorer, args, work)
    finally:
        if args.work is None:
            shutil.rmtree(work, ignore_errors=True)
    settings = {key: getattr(args, key) for key in ("count", "steps", "scorer_steps", "batch", "seeds")}
    result = results.stamp() | {"study": "captions_study", "settings": settings, "rows": rows}
    results.write(args.out, "captions_study", result)
    print(table([result]))
    return 0


def _scorer(args: argparse.Namespace, work: Path) -> Path:
    corpus = write_scenes(work / "clean", count=args.count, size=72, seed=1_000, dense=False)
    return _train(corpus / "train", "pick(syn_text_quality=1)", 1_000, args.scorer_steps, args, work / "scorer")


def _one(seed: int, scorer: str, args: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    home = work / f"seed{seed}"
    corpus = write_scenes(
        home / "scenes", count=args.count, size=72, seed=seed, caption_quality=("alt",), noise=NOISE, dense=False
    )
    asked = plan.plan_of(recipe_of("filter", [f'embed.model="{scorer}"']), corpus / "train", home / "work", threads=1)
    plan.save(asked)
    engine.run(asked, jobs=args.jobs)
    found = judged(asked, seed, args.count, NOISE)
    joined = Joined.open(home / "work")
    kept = joined.summary()[0]
    write(home / "random.npy", _random(asked, kept, seed))
    out = []
    for arm in ARMS:
        shards = corpus / "train" if arm == "all" else home / arm
        if arm == "selected":
            pack_shards((), shards, captions=joined, embeddings="none", size=None, per_shard=1_000)
        if arm == "random":
            other = plan.plan_of(
                recipe_of(_subset(home, home / "random.npy")), corpus / "train", home / "work-random", threads=1
            )
            plan.save(other)
            engine.run(other, jobs=args.jobs)
            chosen = Joined.open(home / "work-random")
            pack_shards((), shards, captions=chosen, embeddings="none", size=None, per_shard=1_000)
        checkpoint = _train(shards, "alt", seed, args.steps, args, home / f"train-{arm}")
        encoder = ModelEncoder(mobileclip.load(checkpoint))
        shapes, search = evaluate(encoder, zero_shot=corpus / "val", retrieval=corpus / "val").rows()
        values = (shapes["top1"], search["image_to_text"]["R@1"], search["text_to_image"]["R@1"])
        samples = args.count if arm == "all" else kept
        row = {"seed": seed, "arm": arm, "samples": samples, **dict(zip(FIGURES, values, strict=True)), "judge": found}
        print({key: value for key, value in row.items() if key != "judge"}, flush=True)
        out.append(row)
    return out


def _random(asked: Plan, kept: int, seed: int) -> list[str]:
    """As many uids as were selected, at random."""
    uids = [
        uid
        for item in asked.shards
        for uid in tables.read(asked.stem("select", item.name), ["uid"]).column("uid").to_pylist()
    ]
    return [uids[place] for place in np.random.default_rng(seed).choice(len(uids), kept, replace=False).tolist()]


def _subset(home: Path, uids: Path) -> Path:
    path = home / "random.toml"
    path.write_text(f'[[stage]]\nkind = "select"\nsources = ["alt"]\ninclude = "{uids}"\n')
    return path


def _train(shards: Path, captions: str, seed: int, steps: int, args: argparse.Namespace, out: Path) -> Path:
    recipe = training(
        "nano-scenes",
        {
            "shards": (str(shards),),
            "captions": captions,
            "seed": seed,
            "steps": steps,
            "batch": args.batch,
            "warmup": min(100, steps // 5),
            "tensorboard": False,
        },
    )
    checkpoint = train(recipe, out, say=lambda line: None)
    if checkpoint.name != f"step_{steps:08d}":
        raise KeyboardInterrupt  # a signal stopped the run, and was meant for the study
    return checkpoint


def table(kept: Sequence[dict[str, Any]]) -> str:
    """AUROC by part, then mean and range over the seeds for each way to choose what is trained on."""
    rows = [row for result in kept for row in result["rows"]]
    judges = [row["judge"] for row in rows if row["arm"] == "all"]
    names = list(judges[0]["auroc"])
    lines = ["| true against wrong web texts | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    cells = [_range([one["auroc"][name] for one in judges], "{:.3f}") for name in names]
    lines += ["| AUROC | " + " | ".join(cells) + " |", ""]
    lines += [f"| trained on | samples | wrong texts | {' | '.join(FIGURES)} |", "|---" * (len(FIGURES) + 3) + "|"]
    for arm in ARMS:
        mine = [row for row in rows if row["arm"] == arm]
        wrong = [row["judge"]["wrong_of_kept" if arm == "selected" else "wrong"] for row in mine]
        samples = f"{np.mean([row['samples'] for row in mine]):,.0f}"
        figures = [_range([row[figure] for row in mine], "{:.1%}") for figure in FIGURES]
        lines.append(f"| {arm} | {samples} | {_range(wrong, '{:.1%}')} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _range(values: Sequence[float], form: str) -> str:
    found = np.array(values)
    return f"{form.format(found.mean())} ({form.format(found.min())}–{form.format(found.max())})"
