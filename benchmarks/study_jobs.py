"""What `python -m benchmarks study` is made of, as frozen data: budgets, arms, and jobs that build on one another.

    for job in ordered(wanted): known(job, BUDGETS["nano"], work)       # JSON values of a finished job, or None

A job's folder is called after what it is and a hash of all that decides it, the jobs that it builds on included: parts
of the study share what is the same, a study that was interrupted goes on, and one that is finished is told at once.
Imports nothing heavy; how a job is done is in study_runs.py.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mobileclip.errors import MobileClipError

COMMON = 1_000
"""Seed of the scenes on which everything is measured, and on which the scorer of captions is trained."""
SCRATCH = "scratch"
"""The arm without pre-training."""
QUALITY = "pick(syn_text_quality=1)"
"""Policy: true captions of all that is in a picture."""
DONE = "done.json"
"""What a finished job found out."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much is spent, on which model."""

    model: str = "nano_scenes"
    """Key of `mobileclip.config.MODELS`."""
    vit: str = "nano_scenes_vit"
    """A ViT of as many FLOPs; empty: none is known."""
    swin: str = "nano_scenes_swin"
    """A Swin of as many FLOPs; empty: none is known."""
    count: int = 10_000
    """Scenes of a seed to pre-train on."""
    pixels: int = 72
    """Of the scenes, a side."""
    val: int = 512
    """Scenes to measure on, the same for all."""
    steps: int = 300
    """Of pre-training."""
    batch: int = 128
    """Of pre-training."""
    scorer_steps: int = 500
    """Of the model that judges web texts, on true captions of other scenes."""
    labelled: float = 0.1
    """Share of the scenes that are all labels."""
    finetune_steps: int = 240
    """Whatever the share of the labels."""
    finetune_batch: int = 16
    """Of finetuning."""
    finetune_pixels: int = 64
    """That dense models see, a side."""
    precision: str = "fp32"
    """Of the arithmetic."""
    lr: float = 3e-3
    """Of pre-training."""


BUDGETS: Mapping[str, Budget] = {
    "nano": Budget(),
    "mci2": Budget(
        model="mobileclip_s2",
        vit="",
        swin="",
        count=50_000,
        pixels=288,
        steps=3_000,
        batch=256,
        scorer_steps=3_000,
        finetune_steps=2_000,
        finetune_pixels=256,
        precision="bf16",
        lr=1e-3,
    ),
}
"""Name -> budget: minutes a run on a CPU, and MCi2 itself, for a GPU."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to pre-train."""

    captions: str
    """Caption policy."""
    corpus: str = "scenes"
    """Kind of the job whose shards are trained on."""
    tower: str = "model"
    """Field of `Budget` that names the model."""


ARMS: Mapping[str, Arm] = {
    "alt": Arm(captions="alt"),
    "filtered": Arm(captions="alt", corpus="filtered"),
    "short": Arm(captions="pick(syn_text_short=1)"),
    "quality": Arm(captions=QUALITY),
    "supervised": Arm(captions="alt", corpus="classes"),
    "pick": Arm(captions="pick"),
    "ratio": Arm(captions="ratio(0.5)"),
    "adaptive": Arm(captions="adaptive(a=50, b=0)", corpus="scored"),
    "both": Arm(captions="both"),
    "multi": Arm(captions="multi(3)"),
    "vit": Arm(captions=QUALITY, tower="vit"),
    "swin": Arm(captions=QUALITY, tower="swin"),
}
"""Name -> how it is pre-trained; `scratch` beside them is not."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One thing that is made."""

    kind: str
    """scenes, scorer, filtered, scored, classes, pretrained, finetuned."""
    seed: int
    """Of scenes, weights and order."""
    arm: str = ""
    """Key of `ARMS`, or `scratch`."""
    task: str = ""
    """Of finetuning."""
    share: float = 1.0
    """Of the labels."""

    @property
    def needs(self) -> tuple["Job", ...]:
        """What has to be there before."""
        scenes, common = Job(kind="scenes", seed=self.seed), Job(kind="scenes", seed=COMMON)
        match self.kind:
            case "scenes":
                return ()
            case "scorer":
                return (common,)
            case "filtered" | "scored":
                return (scenes, Job(kind="scorer", seed=COMMON))
            case "classes":
                return (scenes,)
            case "pretrained":
                return (Job(kind=ARMS[self.arm].corpus, seed=self.seed), common)
        before = () if self.arm == SCRATCH else (Job(kind="pretrained", seed=self.seed, arm=self.arm),)
        return (*before, scenes, common)

    def folder(self, budget: Budget, work: Path) -> Path:
        """Where it is made."""
        decides = json.dumps([asdict(self), self._spent(budget)], sort_keys=True)
        before = "".join(job.folder(budget, work).name for job in self.needs)
        digest = hashlib.sha256((decides + before).encode()).hexdigest()[:10]
        parts = [self.kind, self.arm, self.task, f"{self.share:g}" if self.task else "", str(self.seed)]
        return work / "-".join(part for part in (*parts, digest) if part)

    def _spent(self, budget: Budget) -> dict[str, Any]:
        names: dict[str, tuple[str, ...]] = {
            "scenes": ("count", "pixels", "val"),
            "scorer": ("model", "scorer_steps", "batch", "lr", "precision"),
            "pretrained": ("steps", "batch", "lr", "precision"),
            "finetuned": (
                *("model", "labelled", "finetune_steps", "finetune_batch", "finetune_pixels", "precision"),
                *("val", "count"),
            ),
        }
        found = {name: getattr(budget, name) for name in names.get(self.kind, ())}
        if self.kind == "pretrained":
            arm = ARMS[self.arm]
            found |= {"model": getattr(budget, arm.tower), "captions": arm.captions}
        return found


def ordered(wanted: Sequence[Job]) -> list[Job]:
    """The jobs and all that they need, each once and behind what it needs."""
    found: dict[Job, None] = {}

    def add(job: Job) -> None:
        for before in job.needs:
            add(before)
        found.setdefault(job)

    for job in wanted:
        add(job)
    return list(found)


def known(job: Job, budget: Budget, work: Path) -> dict[str, Any] | None:
    """What a finished job found out; None for one that is not finished."""
    path = job.folder(budget, work) / DONE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def rows(
    wanted: Sequence[Job], budget: Budget, work: Path, kept: Mapping[Job, dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """A row for each job that is finished here, or has one in `kept`, in order."""
    for job in wanted:
        found = known(job, budget, work)
        if found is not None:
            yield {key: value for key, value in asdict(job).items() if value != ""} | found
        elif job in kept:
            yield kept[job]


def told_in(result: Mapping[str, Any], budget: Budget) -> dict[Job, dict[str, Any]]:
    """The jobs whose rows a result has, with these.

    Raises:
        MobileClipError: it is no result of this study, or was made with another budget.
    """
    if result.get("study") != "study":
        raise MobileClipError("this is no result of `python -m benchmarks study`: name a study.json.")
    other = result["settings"]["budget"]
    changed = [name for name, value in asdict(budget).items() if other.get(name) != value]
    if changed:
        raise MobileClipError(
            f"the result was made with another {', '.join(changed)}: its rows say nothing of this one."
        )
    names = [field.name for field in fields(Job)]
    return {Job(**{name: row[name] for name in names if name in row}): dict(row) for row in result["rows"]}
