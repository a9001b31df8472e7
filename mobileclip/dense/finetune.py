"""`finetune(recipe, checkpoint=…, data=…, out=…)`: a dense head on an encoder, in one process or under `torchrun`.

    torchrun --nproc-per-node 8 -m mobileclip.cli finetune segmentation ade-semfpn --checkpoint runs/s2/best \
        --data ADEChallengeData2016 --out runs/ade

The loop, the folder, the resume and the log are those of `mobileclip train` (loop.py). A step is a function of (recipe,
step), so the same command after a kill goes on where the last checkpoint was, bit for bit on a CPU, and the number of
ranks and threads does not show in the order of pictures. `best` is by the task's own metric.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobileclip import qat
from mobileclip.config import config_of
from mobileclip.dense import qat as rounding
from mobileclip.dense.batches import Batches
from mobileclip.dense.checkpoint import load, save, start
from mobileclip.dense.config import DenseConfig
from mobileclip.dense.data.sets import open_set
from mobileclip.dense.data.subset import nested
from mobileclip.dense.data.transforms import collate, transform
from mobileclip.dense.evaluation import Report, evaluate
from mobileclip.dense.model import DenseModel, build
from mobileclip.dense.plan import Finetune, check, differences, require_sources
from mobileclip.dense.predictor import predictor
from mobileclip.dense.samples import Batch, DenseSet
from mobileclip.dense.stepper import Stepper
from mobileclip.distributed import group, rank, world
from mobileclip.errors import TrainingError
from mobileclip.loop import Figures, Groups, Judged, Loop, begin
from mobileclip.train_state import Folder, optimiser_state, restore, restore_optimiser, whole

NOTHING = "none"
"""As `val`: no evaluation."""
PATIENCE = timedelta(hours=3)
"""Ranks wait so long for the first one, which evaluates alone."""
_PREFIX = "model."  # of the names in `Trainee`


def finetune(
    recipe: Finetune,
    *,
    out: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | DenseSet | None = None,
    val: str | os.PathLike[str] | DenseSet | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Run a recipe to its end, or on from its last checkpoint.

    Args:
        recipe: what to do.
        out: folder of the run.
        checkpoint: instead of the recipe's.
        data: instead of the recipe's; a folder, a file, or an opened set.
        val: instead of the recipe's.
        say: takes lines for the user; a bar or plain lines on the error stream if left out.

    Returns:
        The newest checkpoint, which `mobileclip.dense.load` takes; the last step's unless SIGTERM came.

    Raises:
        TrainingError: the recipe cannot run here, is not that of the folder, or diverged.
        CheckpointError: weights that cannot be taken.
        DataError: the data set cannot be used.
        OutputError: the folder cannot be written.
    """
    recipe = replace(
        recipe,
        checkpoint=recipe.checkpoint if checkpoint is None else os.fspath(checkpoint),
        data=_named(data, recipe.data),
        val=_named(val, recipe.val),
    )
    check(recipe)
    require_sources(recipe)
    with group(PATIENCE) as device:
        if recipe.batch % (world() * recipe.accumulate):
            raise TrainingError(
                f"a batch of {recipe.batch} cannot be shared by {world()} ranks in {recipe.accumulate} parts each: "
                f"take a multiple of {world() * recipe.accumulate}."
            )
        train_set = _opened(recipe, data, "train")
        val_set = _validation(recipe, train_set, val, data) if rank() == 0 else None
        indices = nested(len(train_set), recipe.labels, recipe.labels_seed)
        recipe = with_steps(recipe, len(indices))
        folder = Folder(Path(out))
        begin(folder, {"recipe": recipe.as_dict(), "corpus": train_set.fingerprint}, differences)
        work = _Dense(recipe, train_set, indices, val_set, _model(recipe, train_set, folder.newest()), device)
        return Loop(work, recipe, folder, device, say).run()


def with_steps(recipe: Finetune, pictures: int) -> Finetune:
    """The recipe with its steps known: epochs over so many pictures.

    Raises:
        TrainingError: warm-up would take all of them.
    """
    if recipe.epochs:
        recipe = replace(recipe, steps=max(ceil(recipe.epochs * pictures / recipe.batch), 1))
    if recipe.warmup >= recipe.steps:
        raise TrainingError(
            f"{recipe.epochs} epochs over {pictures} pictures are {recipe.steps} steps, and warm-up takes "
            f"{recipe.warmup}: set a shorter warmup, or more epochs."
        )
    return recipe


class _Dense:
    """Pictures and their truth through encoder and head: what the loop asks for."""

    def __init__(
        self,
        recipe: Finetune,
        train_set: DenseSet,
        indices: Any,
        val_set: DenseSet | None,
        model: DenseModel,
        device: torch.device,
    ) -> None:
        self.recipe, self.device, self.indices = recipe, device, indices
        self.train_set, self.val_set = train_set, val_set
        self.config, self.origin = model.config, model.origin
        self.stepper = Stepper(model, recipe, pictures=len(indices), device=device)
        self.module = self.stepper.trainee
        self.judges = val_set is not None
        self.saved: DenseModel | None = None  # what is evaluated and written, made once
        self.report: Report | None = None  # of the weights that are about to be saved

    def restore(self, state: Mapping[str, Any], groups: Groups) -> None:
        restore(self.module, groups["model"])
        restore_optimiser(self.module, self.stepper.optimiser, groups.get("optimiser", {}))
        for name, value in groups.get("average", {}).items():
            self.stepper.average[name].copy_(value)

    def batches(self, start: int) -> Batches:
        recipe = self.recipe
        return Batches(
            self.train_set,
            self.indices,
            transform(recipe.transform, recipe.size, **recipe.transform_args),
            collate,
            batch=recipe.batch,
            accumulate=recipe.accumulate,
            seed=recipe.seed,
            rank=rank(),
            world=world(),
            start=start,
            steps=recipe.steps,
            threads=recipe.threads,
        )

    def step(self, batch: list[Batch], step: int) -> Figures:
        return self.stepper.step(batch, step)

    def told(self, step: int) -> dict[str, float]:
        return {"lr": self.stepper.rate(step), "epoch": (step + 1) * self.recipe.batch / len(self.indices)}

    def groups(self) -> dict[str, dict[str, Tensor]]:
        return {
            "model": whole(self.module.state_dict()),
            "optimiser": optimiser_state(self.module, self.stepper.optimiser),
            "average": whole(self.stepper.average),
        }

    def state(self) -> dict[str, Any]:
        rounded = qat.told(("encoder", "head")) if self.recipe.qat else {}
        judged = {"metric": self.report.metric, "better": self.report.better} if self.report else {}
        return {"pictures": len(self.indices), **rounded, **judged}

    def judge(self, groups: Groups) -> Judged:
        assert self.val_set is not None
        recipe = self.recipe
        seer = predictor(
            self._saved(groups).to(self.device),
            recipe.evaluation,
            size=recipe.eval_size if recipe.eval_size[0] else None,
            crop=recipe.crop or None,
            stride=recipe.stride or None,
            flip=recipe.flip,
            bf16=recipe.precision == "bf16" and self.device.type == "cuda",
        )
        self.report = evaluate(seer, self.val_set, limit=recipe.val_limit or None)
        return Judged(figures=self.report.figures, better=self.report.better)

    def write(self, part: Path, groups: Groups, record: Mapping[str, Any]) -> None:
        model = self._saved(groups).cpu()
        if self.recipe.qat:
            model = rounding.deployed(model, model.state_dict())
        save(model, part, force=True, record=record)
        if self.report is not None:
            self.report.write(part / "evaluation")
            self.report = None

    def ended(self, say: Callable[[str], None]) -> None:
        for one in (self.train_set, self.val_set):
            skipped = getattr(one, "skipped", None)
            if one is not None and skipped:
                say(f"left out of {one.name}: {skipped.sentence()}")

    def _saved(self, groups: Groups) -> DenseModel:
        """The model that is evaluated and saved; with rounding, if it trains so."""
        weights = groups["average"] or groups["model"]
        if self.saved is None:
            self.saved = build(self.config)
            if self.recipe.qat:
                self.saved = rounding.prepared(self.saved)
        self.saved.load_state_dict({name.removeprefix(_PREFIX): value for name, value in weights.items()})
        self.saved.origin = self.origin
        return self.saved


def _named(given: str | os.PathLike[str] | DenseSet | None, before: str) -> str:
    if given is None:
        return before
    return os.fspath(given) if isinstance(given, str | os.PathLike) else given.name


def _opened(recipe: Finetune, given: str | os.PathLike[str] | DenseSet | None, split: str) -> DenseSet:
    if given is not None and not isinstance(given, str | os.PathLike):
        return given
    return open_set(recipe.data, recipe.task, split, recipe.layout or None, max_depth=recipe.max_depth)


def _validation(
    recipe: Finetune,
    train_set: DenseSet,
    given: str | os.PathLike[str] | DenseSet | None,
    data: str | os.PathLike[str] | DenseSet | None,
) -> DenseSet | None:
    if given is not None and not isinstance(given, str | os.PathLike):
        return given
    if recipe.val == NOTHING or (not recipe.val and data is train_set):
        return None
    if recipe.val:
        return open_set(recipe.val, recipe.task, "val", max_depth=recipe.max_depth)
    return _opened(recipe, None, "val")


def _model(recipe: Finetune, train_set: DenseSet, newest: Path | None) -> DenseModel:
    """The model before the first step; when the run goes on, only its form matters."""
    if newest is not None:
        model = load(newest)
        if recipe.qat:
            return rounding.resumed(model)
        assert model.origin is not None
        begun = model.origin.record.get("begun_from")
        model.origin = replace(model.origin, record={"begun_from": begun}) if begun else None
        return model
    config = DenseConfig(
        encoder=config_of(recipe.model),
        head=recipe.head,
        args=recipe.args,
        size=recipe.size,
        labels=tuple(train_set.labels),
        category_ids=tuple(train_set.category_ids),
        max_depth=recipe.max_depth,
    )
    torch.manual_seed(recipe.seed)
    if recipe.qat:
        return rounding.begin(config, recipe.checkpoint)
    model = start(config, recipe.checkpoint, head=recipe.keep_head)
    if model.origin is not None:  # the record of what it began as is kept apart: those figures are not its own
        origin = model.origin
        begun = {"form": origin.form, "source": origin.source, "sha256": origin.sha256, "record": dict(origin.record)}
        model.origin = replace(origin, record={"begun_from": begun})
    return model
