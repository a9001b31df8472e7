"""Does pre-training on better captions make better dense models, and how many labels does it save?

    python -m benchmarks dense_study --seeds 3

For each seed a corpus of scenes is drawn and `nano-scenes` is pre-trained on it twice, with web texts and with quality
captions: the same pictures, order, crops and steps. Then three encoders, these two and one with fresh weights, are
finetuned by the same recipe with the same labelled pictures in the same order, once a task; and for the curve with
1, 3, 10, 30 and 100 % of the labels, nested. All are measured on the same unseen scenes. What differs between two runs
of a seed is where the encoder's weights began, and nothing else.

A study that was interrupted goes on where it was, if it is given the same --work.
"""

import argparse
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from mobileclip.captions.report.html import Markup, el, joined
from mobileclip.data.scenes import write_scenes
from mobileclip.dense.config import TASKS, Task
from mobileclip.dense.finetune import finetune
from mobileclip.dense.recipes import recipe_of
from mobileclip.recipes import recipe_of as pretraining
from mobileclip.train import train

SCRATCH = "scratch"
STARTS = ("quality", "alt", SCRATCH)
"""Where an encoder's weights begin: pre-trained on such captions, or fresh."""
FIGURES = {"segmentation": "mIoU", "detection": "box_ap", "depth": "rmse"}
"""Task -> what is drawn and compared."""
LOWER_IS_BETTER = ("rmse",)


def main(argv: Sequence[str] | None = None) -> int:
    """Pre-train, finetune, measure, print a table, write a result and the curve."""
    parser = argparse.ArgumentParser(prog="benchmarks dense_study", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--count", type=int, default=10_000, help="scenes to pre-train on")
    parser.add_argument("--size", type=int, default=96, help="of the scenes, in pixels")
    parser.add_argument("--pretrain-steps", type=int, default=400)
    parser.add_argument("--labelled", type=float, default=0.1, help="share of the scenes that are 100 %% of the labels")
    parser.add_argument("--steps", type=int, default=300, help="of finetuning, whatever the share of the labels")
    parser.add_argument("--finetune-size", type=int, default=64, help="pixels that dense models see")
    parser.add_argument("--val", type=int, default=512, help="scenes to measure on")
    parser.add_argument("--shares", type=float, nargs="+", default=(0.01, 0.03, 0.1, 0.3, 1.0))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--curves", nargs="*", choices=TASKS, default=TASKS, help="those of them with all shares")
    parser.add_argument("--work", type=Path, help="folder of corpora and runs; a temporary one if left out")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "dense", help="folder")
    args = parser.parse_args(argv)
    work = args.work or Path(tempfile.mkdtemp(prefix="dense"))
    rows: list[dict[str, Any]] = []
    try:
        for seed in range(args.seeds):
            corpus = write_scenes(work / f"scenes{seed}", count=args.count, size=args.size, seed=seed)
            starts = {SCRATCH: SCRATCH}
            for captions in ("quality", "alt"):
                starts[captions] = str(_pretrained(corpus, captions, seed, args, work))
            for task, share in _runs(args):
                for start in STARTS:
                    row = _one(task, share, start, starts[start], corpus, seed, args, work)
                    rows.append(row)
                    print({key: value for key, value in row.items() if key != "figures"}, flush=True)
    finally:
        if args.work is None:
            shutil.rmtree(work, ignore_errors=True)
    settings = {
        key: getattr(args, key)
        for key in ("count", "size", "pretrain_steps", "labelled", "steps", "finetune_size", "val", "seeds")
    }
    result = results.stamp() | {"study": "dense_study", "settings": settings, "rows": rows}
    results.write(args.out, "dense_study", result)
    (args.out / "labels.svg").write_text(drawn(rows), encoding="utf-8")
    print(table([result]))
    return 0


def _runs(args: argparse.Namespace) -> Iterator[tuple[Task, float]]:
    """All labels first, then the curves."""
    yield from ((task, 1.0) for task in args.tasks)
    for share in sorted(set(args.shares) - {1.0}, reverse=True):
        yield from ((task, share) for task in args.curves if task in args.tasks)


def _pretrained(corpus: Path, captions: str, seed: int, args: argparse.Namespace, work: Path) -> Path:
    from benchmarks.learning import POLICIES

    recipe = pretraining(
        "nano-scenes",
        {
            "shards": (str(corpus / "train"),),
            "captions": POLICIES[captions],
            "seed": seed,
            "steps": args.pretrain_steps,
            "batch": 128,
            "warmup": min(100, args.pretrain_steps // 5),
            "tensorboard": False,
        },
    )
    checkpoint = train(recipe, work / f"{captions}{seed}", say=lambda line: None)
    _whole(checkpoint, args.pretrain_steps)
    return checkpoint


def _one(
    task: Task, share: float, start: str, checkpoint: str, corpus: Path, seed: int, args: argparse.Namespace, work: Path
) -> dict[str, Any]:
    """One finetuned model, measured."""
    labels = share * args.labelled
    overrides = {
        "labels": labels,
        "seed": seed,
        "steps": args.steps,
        "warmup": args.steps // 10,
        "size": (args.finetune_size, args.finetune_size),
        "val_limit": args.val,
        "save_every": args.steps,
        "tensorboard": False,
    }
    recipe = recipe_of(f"scenes-{task}", overrides)
    out = work / f"{task}-{start}-{share:g}-{seed}"
    newest = finetune(recipe, checkpoint=checkpoint, data=corpus, out=out, say=lambda line: None)
    _whole(newest, args.steps)
    record = json.loads((newest / "config.json").read_text(encoding="utf-8"))["record"]
    figures = {key: value for key, value in record.items() if isinstance(value, float)}
    return {
        "task": task,
        "start": start,
        "share": share,
        "pictures": max(1, round(labels * args.count)),
        "seed": seed,
        "figure": figures[FIGURES[task]],
        "figures": figures,
    }


def _whole(checkpoint: Path, steps: int) -> None:
    if checkpoint.name != f"step_{steps:08d}":
        raise KeyboardInterrupt  # a signal stopped the run, and was meant for the study


def _values(rows: Sequence[dict[str, Any]], **wanted: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([row["figure"] for row in rows if all(row[key] == value for key, value in wanted.items())])


def table(kept: Sequence[dict[str, Any]]) -> str:
    """Mean and range over the seeds, a line for each task and share; the gain of a pair is within each seed."""
    rows = [row for result in kept for row in result["rows"]]
    head = "| task, figure | labelled pictures | quality captions | alt texts | scratch | quality over alt, by seed |"
    lines = [head, "|---" * 6 + "|"]
    for task in TASKS:
        for share in sorted({row["share"] for row in rows if row["task"] == task}, reverse=True):
            found = {start: _values(rows, task=task, share=share, start=start) for start in STARTS}
            pictures = next(row["pictures"] for row in rows if row["task"] == task and row["share"] == share)
            cells = [f"{v.mean():.3f} ({v.min():.3f}–{v.max():.3f})" for v in found.values()]
            sign = -1 if FIGURES[task] in LOWER_IS_BETTER else 1
            ahead = ", ".join(f"{sign * step:+.3f}" for step in found["quality"] - found["alt"])
            unit = "RMSE, m" if task == "depth" else FIGURES[task]
            lines.append(f"| {task}, {unit} | {pictures:,} | {' | '.join(cells)} | {ahead} |")
    return "\n".join(lines)


COLOURS = {"quality": "#0b6e4f", "alt": "#c8553d", SCRATCH: "#6b7280"}
WIDE, HIGH, LEFT, TOP = 300, 190, 44, 30


def drawn(rows: Sequence[dict[str, Any]]) -> str:
    """The label-efficiency curves as SVG: a panel a task, mean and range over the seeds, labels on a log axis."""
    tasks = [task for task in TASKS if len({row["share"] for row in rows if row["task"] == task}) > 1]
    panels = [_panel([row for row in rows if row["task"] == task], place) for place, task in enumerate(tasks)]
    keys = [
        el("text", f"● {start}", x=LEFT + 90 * place, y=HIGH + TOP + 46, fill=COLOURS[start], font_size=12)
        for place, start in enumerate(STARTS)
    ]
    width, height = (WIDE + LEFT + 20) * max(1, len(tasks)), HIGH + TOP + 60
    return str(
        el(
            "svg",
            el("rect", width=width, height=height, fill="#ffffff"),
            *panels,
            *keys,
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {width} {height}",
            font_family="sans-serif",
            role="img",
        )
    )


def round_marks(low: float, high: float) -> list[tuple[float, str]]:
    """Round numbers between two, three to eight of them, and how they are written."""
    power = math.floor(math.log10((high - low) / 3))
    step = max(s for s in (10.0**power, 2 * 10.0**power, 5 * 10.0**power) if s <= (high - low) / 3)
    return [
        (place * step, f"{place * step:.{max(-power, 0)}f}")
        for place in range(math.ceil(low / step), math.floor(high / step) + 1)
    ]


def _panel(rows: Sequence[dict[str, Any]], place: int) -> Markup:
    task = rows[0]["task"]
    values: list[float] = [row["figure"] for row in rows]
    margin = 0.05 * (max(values) - min(values)) or 0.01
    low, high = min(values) - margin, max(values) + margin
    counts = sorted({row["pictures"] for row in rows})
    reach = math.log(counts[-1] / counts[0])

    def x(pictures: float) -> float:
        return LEFT + WIDE * math.log(pictures / counts[0]) / reach

    def y(value: float) -> float:
        return TOP + HIGH * (1 - (value - low) / (high - low))

    parts: list[Markup] = [
        el("text", f"{task}: {FIGURES[task]}", x=LEFT, y=TOP - 12, font_size=13, font_weight="bold"),
        el("path", d=f"M{LEFT} {TOP}V{TOP + HIGH}H{LEFT + WIDE}", stroke="#9ca3af", fill="none"),
    ]
    for value, text in round_marks(low, high):
        parts.append(el("text", text, x=LEFT - 8, y=y(value) + 4, font_size=10, text_anchor="end"))
        parts.append(el("path", d=f"M{LEFT - 4} {y(value):.1f}H{LEFT}", stroke="#9ca3af"))
    for count in counts:
        parts.append(el("text", f"{count:,}", x=x(count), y=TOP + HIGH + 15, font_size=10, text_anchor="middle"))
    parts.append(
        el("text", "pictures with labels", x=LEFT + WIDE / 2, y=TOP + HIGH + 29, font_size=10, text_anchor="middle")
    )
    for start in STARTS:
        points = []
        for count in counts:
            found = _values(rows, start=start, pictures=count)
            points.append(f"{x(count):.1f},{y(found.mean()):.1f}")
            span = f"M{x(count):.1f} {y(found.min()):.1f}V{y(found.max()):.1f}"
            parts.append(el("path", d=span, stroke=COLOURS[start], stroke_width=1.5, opacity=0.6))
            parts.append(el("circle", cx=f"{x(count):.1f}", cy=f"{y(found.mean()):.1f}", r=3, fill=COLOURS[start]))
        parts.append(el("polyline", points=" ".join(points), fill="none", stroke=COLOURS[start], stroke_width=1.5))
    return el("g", joined(parts), transform=f"translate({place * (WIDE + LEFT + 20)} 0)")
