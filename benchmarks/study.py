"""The paper's claims on scenes: are better captions worth it, for what, and how many labels do they save?

    python -m benchmarks study                               # a nano model, CPU: about 90 minutes on two cores
    python -m benchmarks study --model mci2 --work /data/study        # MCi2 itself, where a GPU is there
    python -m benchmarks study --work /data/study --only-finished     # the page of what is there so far

Four parts. `captions`: web texts, those that a judge selected, short and quality captions, for the same pictures and
steps. `labels`: how many labels each start needs in finetuning. `towers`: MCi, Swin and ViT of as many FLOPs.
`policies`: ways to choose among a picture's captions. What is compared differs in one thing only (study_jobs.py); the
statements below the tables are made of intervals, so that they also say where something does not hold
(study_figures.py).

A study that was interrupted goes on where it was, if it is given the same --work. One that several machines make a part
of each is put together with --add.
"""

import argparse
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, fields, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import results, study_page
from benchmarks.study_jobs import ARMS, BUDGETS, SCRATCH, Budget, Job, ordered, rows, told_in
from mobileclip.dense.config import TASKS

PARTS = ("captions", "labels", "towers", "policies")
CAPTIONS = ("alt", "filtered", "short", "quality")
STARTS = ("quality", "alt", "supervised", SCRATCH)
POLICIES = ("alt", "pick", "ratio", "adaptive", "both", "multi")
TOWERS = ("quality", "swin", "vit")
PAIR = ("quality", "alt")
"""What the study is about; compared with more seeds than the rest."""
CURVE = "segmentation"
"""Task of the label curves."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is not there yet, print the tables, write result and drawings."""
    args = _parsed(argv)
    budget = _budget(args)
    work = args.work or Path(tempfile.mkdtemp(prefix="study"))
    wanted = list(dict.fromkeys(_wanted(args, budget)))
    kept = {
        job: row
        for result in (results.read(args.add) if args.add else ())
        for job, row in told_in(result, budget).items()
    }
    try:
        if not args.only_finished:
            _run(ordered([job for job in wanted if job not in kept]), budget, work, args.jobs)
        jobs = [job for job in ordered(wanted) if job.kind != "scenes"]
        found = list(rows(jobs, budget, work, kept))
    finally:
        if args.work is None:
            shutil.rmtree(work, ignore_errors=True)
    settings = {"model": args.model, "shares": sorted(args.shares), "seeds": args.seeds, "pair_seeds": args.pair_seeds}
    settings |= {"parts": list(args.parts), "unfinished": len(jobs) - len(found), "budget": asdict(budget)}
    result = results.stamp() | {"study": "study", "settings": settings, "rows": found}
    name = "study" if args.model == "nano" else f"study-{args.model}"
    results.write(args.out, name, result)
    for drawing, text in study_page.drawings(result).items():
        (args.out / (drawing if args.model == "nano" else f"{args.model}-{drawing}")).write_text(text, encoding="utf-8")
    print(page([result]))
    return 0


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks study", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=tuple(BUDGETS), default="nano", help="budget that the options below change")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pair-seeds", type=int, default=5, help="seeds of quality against alt with all labels")
    parser.add_argument("--shares", type=float, nargs="+", default=(0.03, 0.1, 0.3, 1.0), help="of the labels")
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each; 1 on a GPU")
    parser.add_argument("--only-finished", action="store_true", help="start nothing, tell what is there")
    parser.add_argument("--add", type=Path, nargs="+", default=(), help="results whose rows need not be made again")
    parser.add_argument("--work", type=Path, help="folder of corpora and runs; a temporary one if left out")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "study", help="folder")
    for field in fields(Budget):
        if field.name != "model":
            option = "--" + field.name.replace("_", "-")
            parser.add_argument(option, type=type(field.default), dest=f"budget_{field.name}")
    return parser.parse_args(argv)


def _budget(args: argparse.Namespace) -> Budget:
    given = {name.removeprefix("budget_"): value for name, value in vars(args).items() if name.startswith("budget_")}
    return replace(BUDGETS[args.model], **{name: value for name, value in given.items() if value is not None})


def _wanted(args: argparse.Namespace, budget: Budget) -> Iterator[Job]:
    """What is asked for, the most telling first: a study that has to stop early tells most."""
    seeds, parts = range(args.seeds), args.parts
    if {"captions", "labels"} & set(parts):
        for seed, arm in product(seeds, PAIR):
            yield from _whole(seed, arm)
    if "labels" in parts:
        for seed in seeds:
            yield from _curve(seed, "quality", args.shares)
            yield from _whole(seed, "supervised", (CURVE,))
            yield from _whole(seed, SCRATCH, (CURVE,))
    towers = [arm for arm in TOWERS if getattr(budget, ARMS[arm].tower)] if "towers" in parts else []
    for seed in seeds:
        if "captions" in parts:
            for arm in CAPTIONS:
                yield from _whole(seed, arm)
        for arm in (*towers, *(POLICIES if "policies" in parts else ())):
            yield from _whole(seed, arm, (CURVE,))
    if {"captions", "labels"} & set(parts):
        for seed, arm in product(range(args.seeds, args.pair_seeds), PAIR):
            yield from _whole(seed, arm, (CURVE,))
    if "labels" in parts:
        for seed in seeds:
            yield from _curve(seed, "alt", args.shares)
    if {"captions", "labels"} & set(parts):
        for seed, arm in product(range(args.pair_seeds), PAIR):
            yield from _whole(seed, arm)
    if "labels" in parts:
        for seed, arm in product(seeds, STARTS):
            yield from _curve(seed, arm, args.shares)
    for seed, arm in product(seeds, (*towers, *(STARTS if "labels" in parts else ()))):
        yield from _whole(seed, arm)


def _whole(seed: int, arm: str, tasks: Sequence[str] = TASKS) -> Iterator[Job]:
    """An arm, and tasks with all labels."""
    if arm != SCRATCH:
        yield Job(kind="pretrained", seed=seed, arm=arm)
    for task in tasks:
        yield Job(kind="finetuned", seed=seed, arm=arm, task=task)


def _curve(seed: int, arm: str, shares: Sequence[float]) -> Iterator[Job]:
    for share in sorted(shares, reverse=True):
        yield Job(kind="finetuned", seed=seed, arm=arm, task=CURVE, share=share)


def _run(jobs: Sequence[Job], budget: Budget, work: Path, workers: int) -> None:
    """Do the jobs in order, several at a time, each as soon as what it needs is there."""
    from benchmarks.study_runs import done  # the page of what is finished needs no torch

    if workers == 1:
        for job in jobs:
            _say(job, done(job, budget, work))
        return
    waiting, running, finished = list(jobs), dict[Future[dict[str, Any]], Job](), set[Job]()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            while waiting or running:
                ready = [job for job in waiting if finished.issuperset(job.needs)]
                for job in ready[: workers - len(running)]:
                    waiting.remove(job)
                    running[pool.submit(done, job, budget, work)] = job
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    _say(job, future.result())
                    finished.add(job)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _say(job: Job, found: dict[str, Any]) -> None:
    what = " ".join(str(value) for value in asdict(job).values() if value != "")
    told = found.get("figure", found.get("figures", ""))
    print(f"{what}: {told} ({found['seconds']:.0f} s)", flush=True)


def table(kept: Sequence[dict[str, Any]]) -> str:
    """What came out, in one screen."""
    return "\n\n".join(study_page.screen(result) for result in kept)


def page(kept: Sequence[dict[str, Any]]) -> str:
    """Every table."""
    return "\n\n".join(study_page.page(result) for result in kept)
