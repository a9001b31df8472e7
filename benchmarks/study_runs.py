"""The jobs of `python -m benchmarks study` done: corpora, pre-trainings and finetunings, each once and then remembered.

    for job in ordered(wanted): done(job, budget, work)       # JSON values, from `done.json` where they are there

What differs between two runs of a seed is what the study asks about, and nothing else: pictures, order, crops, steps,
batch, rates and text tower are the same. All are measured on the same scenes, which none has seen.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import mobileclip
from benchmarks import results
from benchmarks.study_jobs import ARMS, COMMON, DONE, QUALITY, SCRATCH, Budget, Job, known
from mobileclip.config import config_of
from mobileclip.data.scene_captions import class_names, fine_label
from mobileclip.data.scenes import FIRST_OF_VAL, layout, write_scenes
from mobileclip.dense.finetune import finetune
from mobileclip.dense.recipes import recipe_of as finetuning
from mobileclip.evaluate import evaluate, open_classification
from mobileclip.evaluate.encoder import ModelEncoder
from mobileclip.evaluate.sets import Classification
from mobileclip.models import build
from mobileclip.recipes import recipe_of as pretraining
from mobileclip.train import train

FIGURES: Mapping[str, str] = {"segmentation": "mIoU", "detection": "box_ap", "depth": "rmse"}
"""Task -> what is drawn and compared."""


def done(job: Job, budget: Budget, work: Path) -> dict[str, Any]:
    """Make what is not made yet, and tell what was found: figures, seconds of the processor, the commit.

    The seconds are those of the last run of a job that was interrupted.
    """
    found = known(job, budget, work)
    if found is not None:
        return found
    torch.set_num_threads(1)
    folder = job.folder(budget, work)
    began = _processor()
    found = _KINDS[job.kind](job, budget, work)
    found |= {"seconds": round(_processor() - began, 1), "commit": results.commit()}
    results.write(folder, Path(DONE).stem, found)
    return found


def _processor() -> float:
    """Seconds of the processor that this process and its children have taken."""
    return sum(os.times()[:4])


def _scenes(job: Job, budget: Budget, work: Path) -> dict[str, Any]:
    val = budget.val if job.seed == COMMON else 1
    folder = job.folder(budget, work)
    write_scenes(folder / "scenes", count=budget.count, size=budget.pixels, seed=job.seed, val_count=val)
    return {}


def scenes_of(seed: int, budget: Budget, work: Path) -> Path:
    """The scenes of a seed: `train`, and `val`."""
    return Job(kind="scenes", seed=seed).folder(budget, work) / "scenes"


def _scorer(job: Job, budget: Budget, work: Path) -> dict[str, Any]:
    shards = scenes_of(COMMON, budget, work) / "train"
    values = _pretraining(budget, budget.model, QUALITY, shards, job.seed, budget.scorer_steps)
    folder = job.folder(budget, work)
    return {"checkpoint": str(_trained(values, folder / "run").relative_to(folder))}


def _captions(job: Job, budget: Budget, work: Path) -> dict[str, Any]:
    from benchmarks import study_corpora  # the engines of caption work, for two kinds of jobs alone

    checkpoint = _checkpoint(Job(kind="scorer", seed=COMMON), budget, work)
    make = {"filtered": study_corpora.filtered, "scored": study_corpora.scored}[job.kind]
    return make(scenes_of(job.seed, budget, work), checkpoint, job.folder(budget, work), job.seed, budget.count)


def _classes(job: Job, budget: Budget, work: Path) -> dict[str, Any]:
    from benchmarks import study_corpora

    return study_corpora.classes(scenes_of(job.seed, budget, work), job.folder(budget, work))


def _pretraining(budget: Budget, model: str, captions: str, shards: Path, seed: int, steps: int) -> dict[str, Any]:
    return {
        "model": model,
        "shards": (str(shards),),
        "captions": captions,
        "seed": seed,
        "steps": steps,
        "batch": budget.batch,
        "lr": budget.lr,
        "warmup": min(100, steps // 5),
        "precision": budget.precision,
        "save_every": steps,
        "keep": 1,
        "threads": 1,
        "tensorboard": False,
    }


def _checkpoint(job: Job, budget: Budget, work: Path) -> Path:
    return job.folder(budget, work) / str(done(job, budget, work)["checkpoint"])


def _trained(values: dict[str, Any], out: Path) -> Path:
    checkpoint = train(pretraining("nano-scenes", values), out, say=lambda line: None)
    _whole(checkpoint, values["steps"])
    return checkpoint


def _pretrained(job: Job, budget: Budget, work: Path) -> dict[str, Any]:
    """Pre-train, then classify by name and search on the common scenes."""
    arm, val = ARMS[job.arm], scenes_of(COMMON, budget, work) / "val"
    model = getattr(budget, arm.tower)
    corpus = Job(kind=arm.corpus, seed=job.seed)
    home = corpus.folder(budget, work) / "scenes"
    shards = home / "train" if arm.corpus == "scenes" else home
    values = _pretraining(budget, model, arm.captions, shards, job.seed, budget.steps)
    folder, began = job.folder(budget, work), _processor()
    checkpoint = _trained(values, folder / "run")
    trained = _processor() - began
    encoder = ModelEncoder(mobileclip.load(checkpoint))
    shapes, search = evaluate(encoder, zero_shot=val, retrieval=val).rows()
    (both,) = evaluate(encoder, zero_shot=_fine(val)).rows()
    return {
        "checkpoint": str(checkpoint.relative_to(folder)),
        "model": model,
        "captions": arm.captions,
        "figures": {
            "shape": shapes["top1"],
            "colour and shape": both["top1"],
            "image to text": search["image_to_text"]["R@1"],
            "text to image": search["text_to_image"]["R@1"],
        },
        "train_seconds": round(trained, 1),
        **counted(model),
    }


def counted(model: str) -> dict[str, int]:
    """Parameters, and multiply-accumulates of one picture, of an image tower as it trains."""
    config = config_of(model)
    tower = build(config).image.eval()
    side = config.preprocess.size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tower(torch.zeros(1, 3, side, side))
    return {"params": sum(p.numel() for p in tower.parameters()), "macs": counter.get_total_flops() // 2}


def _fine(val: Path) -> Classification:
    """The scenes to measure on, by the colour and the shape of their main object."""
    coarse = open_classification(val)
    numbers = [int(Path(coarse.pictures.name(row)).stem.lstrip("v")) for row in range(len(coarse.labels))]
    labels = [fine_label(layout(COMMON, FIRST_OF_VAL + number)) for number in numbers]
    return replace(coarse, name="val, colour and shape", labels=np.array(labels), classes=tuple(class_names(fine=True)))


def _finetuned(job: Job, budget: Budget, work: Path) -> dict[str, Any]:
    """One dense model, measured on the common scenes."""
    labels, side = job.share * budget.labelled, budget.finetune_pixels
    overrides = {
        "model": budget.model,
        "labels": labels,
        "seed": job.seed,
        "steps": budget.finetune_steps,
        "batch": budget.finetune_batch,
        "warmup": budget.finetune_steps // 10,
        "size": (side, side),
        "precision": budget.precision,
        "val": str(scenes_of(COMMON, budget, work)),
        "save_every": budget.finetune_steps,
        "keep": 1,
        "threads": 1,
        "tensorboard": False,
    }
    checkpoint = SCRATCH
    if job.arm != SCRATCH:
        checkpoint = str(_checkpoint(job.needs[0], budget, work))
    newest = finetune(
        finetuning(f"scenes-{job.task}", overrides),
        checkpoint=checkpoint,
        data=scenes_of(job.seed, budget, work),
        out=job.folder(budget, work) / "run",
        say=lambda line: None,
    )
    _whole(newest, budget.finetune_steps)
    record = json.loads((newest / "config.json").read_text(encoding="utf-8"))["record"]
    figures = {key: value for key, value in record.items() if isinstance(value, float)}
    return {
        "pictures": max(1, round(labels * budget.count)),
        "figure": figures[FIGURES[job.task]],
        "figures": figures,
    }


def _whole(checkpoint: Path, steps: int) -> None:
    if checkpoint.name != f"step_{steps:08d}":
        raise KeyboardInterrupt  # a signal stopped the run, and was meant for the study


_KINDS: Mapping[str, Callable[[Job, Budget, Path], dict[str, Any]]] = {
    "scenes": _scenes,
    "scorer": _scorer,
    "filtered": _captions,
    "scored": _captions,
    "classes": _classes,
    "pretrained": _pretrained,
    "finetuned": _finetuned,
}
