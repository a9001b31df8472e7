"""What a finetuning is, as frozen data: `Finetune`, of which `recipes` holds the named ones.

A recipe says everything that decides the weights, and nothing about where it runs: the same recipe gives the same run
on any number of ranks. Imports nothing heavy.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mobileclip.config import config_of
from mobileclip.dense.config import Task, head_of
from mobileclip.errors import TrainingError
from mobileclip.recipes import changes

SCRATCH = "scratch"
"""As `checkpoint`: fresh weights of `model`."""


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """One finetuning."""

    name: str
    """Key of `mobileclip.dense.recipes.RECIPES` that this began as."""
    head: str
    """Key of `mobileclip.dense.config.HEADS`; it says the task."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the head, as a JSON object."""
    size: tuple[int, int]
    """Rows and columns that the model is built, trained and exported for, in pixels; multiples of 32."""
    max_depth: float = 10.0
    """Of depth, in metres."""
    model: str = "mobileclip_s2"
    """Key of `mobileclip.config.MODELS`: the encoder where the checkpoint does not say it."""
    checkpoint: str = ""
    """Where the encoder's weights come from: a CLIP or dense checkpoint, `timm:NAME`, `seeded:NAME`, or `scratch`."""
    keep_head: bool = False
    """Begin with the head of a dense checkpoint as well."""
    qat: bool = False
    """Train a finetuned `checkpoint` further, its encoder fused, with the rounding of int8 artifacts in all parts."""
    data: str = ""
    """Folder or file of the data set."""
    layout: str = ""
    """Of the data set; recognised if empty."""
    labels: float = 1.0
    """Share of the training pictures; smaller shares are subsets of larger ones."""
    labels_seed: int = 0
    """Draws the subset."""
    transform: str
    """Key of the joint transforms of pictures and truth (`mobileclip.dense.data.transforms`)."""
    transform_args: Mapping[str, Any] = field(default_factory=dict)
    """Options of the transform, as a JSON object."""

    steps: int = 0
    """Optimiser steps; 0 where `epochs` says it."""
    epochs: int = 0
    """Passes over the pictures; 0 where `steps` says it."""
    batch: int
    """Pictures of a step, over all ranks."""
    accumulate: int = 1
    """Parts of a rank's batch that pass the model one after the other."""
    optimiser: Literal["adamw", "sgd"] = "adamw"
    """SGD has a momentum of `betas[0]`."""
    lr: float
    """Peak learning rate of the head at a batch of `lr_batch`."""
    lr_batch: int = 0
    """The rate is proportional to the batch and is `lr` at this one; 0: it is `lr` at any."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW."""
    weight_decay: float
    """None on biases, norms, layer scales, positions and relative-position biases."""
    clip: float = 0.0
    """Largest norm of the gradient; 0: no limit."""
    warmup: int = 0
    """Steps of linear warm-up."""
    warmup_factor: float = 0.0
    """Share of the rate that warm-up begins with."""
    schedule: Literal["poly", "drops", "up_down", "cosine", "constant"] = "poly"
    """Falls as (1 - t)^power; is divided by ten at `drops`; rises to the middle and falls again; half a cosine."""
    power: float = 1.0
    """Of poly and up_down."""
    end_lr: float = 0.0
    """Lowest rate; of up_down also the first one."""
    drops: tuple[int, ...] = ()
    """Epochs after which the rate is divided by ten."""
    lr_decay: float = 1.0
    """Factor on the rate from a level of the encoder to the one before it; the head's is 1."""
    decay_by: Literal["stage", "layer", "bucket"] = "stage"
    """What a level is: the stem and each stage; each block; one of `buckets` equal runs of blocks."""
    buckets: int = 12
    """Levels of `bucket`."""
    drop_path: float = 0.0
    """Share of residual branches that the last block leaves out; falls linearly to 0 at the first."""
    bn: Literal["frozen", "sync", "live"] = "frozen"
    """The encoder's BatchNorms: running statistics that stay (their scale and bias train), statistics over all ranks
    (on GPUs), or each rank's. The head's are those of all ranks (`live`: each rank's)."""
    frozen_bn_steps: int = 0
    """Steps that the encoder's BatchNorms stay frozen before `bn` holds."""
    freeze: bool = False
    """The encoder stays as it is, bit for bit; only the head trains."""
    ema: float = 0.0
    """Decay of the averaged weights, which are then what is evaluated and loaded; 0: none."""
    seed: int = 0
    """Of fresh weights, order, transforms and dropout."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Of the arithmetic; weights, optimiser and loss stay fp32."""
    channels_last: bool = True
    """Memory layout of pictures on a GPU."""
    compile: bool = False
    """torch.compile the encoder."""

    val: str = ""
    """What is evaluated on; the validation part of `data` if empty, nothing if `none`."""
    val_limit: int = 0
    """At most so many pictures of it; 0: all."""
    evaluate_every: int = 0
    """Steps between evaluations; 0: at the end."""
    evaluation: Literal["whole", "slide", "fixed"] = "whole"
    """The whole picture, windows of `crop` every `stride` pixels, or stretched to one size."""
    eval_size: tuple[int, int] = (0, 0)
    """Its shorter side is that of the picture; (0, 0): `size`."""
    crop: int = 0
    """Side of a window; 0: `size`."""
    stride: int = 0
    """Between windows; 0: half a window."""
    flip: bool = False
    """Average with the mirrored picture."""

    save_every: int = 1000
    """Steps between checkpoints."""
    keep: int = 2
    """Numbered checkpoints that stay, beside best."""
    log_every: int = 50
    """Steps between lines of the log."""
    threads: int = 0
    """That read and transform, of a rank; 0: one for each core."""
    tensorboard: bool = True
    """Write TensorBoard files."""
    wandb: str = ""
    """Weights & Biases project; empty: none."""

    @property
    def task(self) -> Task:
        """What the head is for."""
        return head_of(self.head).task

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


FREE = frozenset(
    (
        *("val", "val_limit", "evaluate_every", "evaluation", "eval_size", "crop", "stride", "flip"),
        *("save_every", "keep", "log_every", "threads", "tensorboard", "wandb"),
    )
)
"""Fields that a resumed run may change: they do not decide the weights."""


def check(recipe: Finetune) -> None:
    """Raise unless the fields make sense together.

    Raises:
        TrainingError: what came and what is allowed.
        UnknownName: no such model or head.
    """
    config_of(recipe.model)
    head_of(recipe.head)
    sides = (*recipe.size, *recipe.eval_size)
    rules = {
        f"size is {recipe.size}: rows and columns that are multiples of 32, from 32": min(recipe.size) < 32
        or any(side % 32 for side in recipe.size),
        f"eval_size is {recipe.eval_size}: rows and columns, or 0,0": min(sides) < 0
        or (recipe.eval_size[0] == 0) != (recipe.eval_size[1] == 0),
        f"steps is {recipe.steps} and epochs is {recipe.epochs}: one of them at least 1, the other 0": recipe.steps < 0
        or recipe.epochs < 0
        or bool(recipe.steps) == bool(recipe.epochs),
        f"batch is {recipe.batch}: at least 1": recipe.batch < 1,
        f"accumulate is {recipe.accumulate}: at least 1": recipe.accumulate < 1,
        f"labels is {recipe.labels}: above 0 and at most 1": not 0 < recipe.labels <= 1,
        f"lr is {recipe.lr}: above 0": not recipe.lr > 0,
        f"lr_decay is {recipe.lr_decay}: above 0 and at most 1": not 0 < recipe.lr_decay <= 1,
        f"buckets is {recipe.buckets}: at least 1": recipe.buckets < 1,
        f"drop_path is {recipe.drop_path}: 0 up to, not including, 1": not 0 <= recipe.drop_path < 1,
        f"ema is {recipe.ema}: 0 up to, not including, 1": not 0 <= recipe.ema < 1,
        f"warmup is {recipe.warmup} of {recipe.steps} steps: fewer than all": recipe.warmup < 0
        or 0 < recipe.steps <= recipe.warmup,
        f"end_lr is {recipe.end_lr}: 0 to lr": not 0 <= recipe.end_lr <= recipe.lr,
        f"drops are {recipe.drops}: ascending epochs": list(recipe.drops) != sorted(set(recipe.drops)),
        f"save_every is {recipe.save_every}: at least 1": recipe.save_every < 1,
        f"log_every is {recipe.log_every}: at least 1": recipe.log_every < 1,
        f"keep is {recipe.keep}: at least 1": recipe.keep < 1,
        "qat trains encoder and head, without compile: set freeze=no and compile=no": recipe.qat
        and (recipe.freeze or recipe.compile),
        "fresh weights have no statistics to freeze: set bn=live or bn=sync": recipe.checkpoint == SCRATCH
        and recipe.bn == "frozen"
        and not recipe.freeze,
    }
    for fault, holds in rules.items():
        if holds:
            raise TrainingError(f"recipe {recipe.name}: {fault}.")


def require_sources(recipe: Finetune) -> None:
    """Raise unless the recipe says what to start from and what to train on.

    Raises:
        TrainingError: it names no checkpoint or no data.
    """
    if not recipe.checkpoint:
        raise TrainingError(
            f"recipe {recipe.name} has no checkpoint: pass --checkpoint with one, with timm:NAME, or with {SCRATCH}."
        )
    if not recipe.data:
        raise TrainingError(f"recipe {recipe.name} has no data: pass --data with the folder of a data set.")


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """`field: old -> new` for the fields that decide the weights and are not the same."""
    unset = Finetune(name="", head="semfpn", size=(32, 32), transform="", batch=1, lr=1.0, weight_decay=0.0)
    return changes(before, after, unset.as_dict(), FREE)
