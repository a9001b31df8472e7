"""`train(recipe, out)`: from shards to a checkpoint, in one process or under `torchrun`, killed at any time.

    torchrun --nproc-per-node 8 -m mobileclip.cli train mci2-scratch --shards "shards/{00000..01279}.tar" --out runs/s2

A step is a function of (recipe, step): which samples, which captions, which crops and every random draw follow from the
seed and the step's number. So the same command after a kill goes on where the last checkpoint was, and the number of
ranks, threads and interruptions does not show in the curve. The step itself is in train_step.py, the loop around it in
loop.py.
"""

import copy
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mobileclip import qat
from mobileclip.checkpoint import load, save
from mobileclip.data.augment import Augment
from mobileclip.data.batches import Batch
from mobileclip.data.corpus import Corpus, corpus
from mobileclip.data.loader import Loader
from mobileclip.data.policies import policy
from mobileclip.data.pool import cores
from mobileclip.data.shards import expand
from mobileclip.distributed import barrier, group, rank, world
from mobileclip.errors import DataError, TrainingError
from mobileclip.loop import Figures, Groups, Judged, Loop, begin
from mobileclip.models import Clip, build, create
from mobileclip.recipes import Recipe, check, differences, require_shards
from mobileclip.train_state import Folder, optimiser_state, restore, restore_optimiser, whole
from mobileclip.train_step import Stepper, learning_rate

if TYPE_CHECKING:
    from mobileclip.live_teachers import LiveTeachers

Validate = Callable[[Clip], Mapping[str, float]]
"""A model in evaluation mode -> figures by name; the first decides which checkpoint is the best."""


def train(
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    validate: Validate | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Run a recipe to its end, or on from its last checkpoint.

    Args:
        recipe: what to do.
        out: folder of the run.
        validate: called on the first rank with the weights that are saved.
        say: takes lines for the user; a bar or plain lines on the error stream if left out.

    Returns:
        The newest checkpoint, which `mobileclip.load` takes; it is the last step's unless SIGTERM came.

    Raises:
        TrainingError: the recipe cannot run here, is not that of the folder, or diverged.
        DataError: the corpus holds nothing, or too much of it is broken.
        OutputError: the folder cannot be written.
    """
    check(recipe)
    with group() as device:
        if recipe.batch % (world() * recipe.accumulate):
            raise TrainingError(
                f"a batch of {recipe.batch} cannot be shared by {world()} ranks in {recipe.accumulate} parts each: "
                f"take a multiple of {world() * recipe.accumulate}."
            )
        if validate is None and recipe.val:
            validate = _validation(recipe.val)
        work, folder = _Contrast(recipe, device, validate), Folder(Path(out))
        begin(folder, {"recipe": recipe.as_dict(), "corpus": work.corpus.fingerprint}, differences)
        return Loop(work, recipe, folder, device, say).run()


class _Contrast:
    """Pairs from shards through both towers: what the loop asks for."""

    def __init__(self, recipe: Recipe, device: torch.device, validate: Validate | None) -> None:
        self.recipe, self.device, self.validate = recipe, device, validate
        self.corpus = _corpus(recipe)
        self.policy = policy(recipe.captions)
        self.began = qat.start(recipe.qat, recipe.model) if recipe.qat else None
        clip = _fresh(recipe) if self.began is None else qat.prepare(self.began)
        before = None if self.began is None else copy.deepcopy(self.began.image)
        self.stepper = Stepper(clip, recipe, device, joint=self.policy.joint, before=before)
        self.module = self.stepper.trainee
        self.judges = validate is not None
        self.teacher = _teachers(recipe, device)
        self.before = Counter[str]()  # captions that earlier processes of this run consumed
        self.loader: Loader | None = None

    def restore(self, state: Mapping[str, Any], groups: Groups) -> None:
        restore(self.module, groups["model"])
        restore_optimiser(self.module, self.stepper.optimiser, groups.get("optimiser", {}))
        for name, value in groups.get("average", {}).items():
            self.stepper.average[name].copy_(value)
        self.before.update(state.get("captions", {}))

    def batches(self, start: int) -> Loader:
        recipe = self.recipe
        self.loader = Loader(
            self.corpus,
            size=self.stepper.clip.config.preprocess.size,
            batch=recipe.batch // world(),
            policy=self.policy,
            seed=recipe.seed,
            rank=rank(),
            world=world(),
            threads=recipe.threads or None,
            augment=Augment(
                scale=recipe.crop_scale,
                flip=recipe.flip,
                rand_augment=recipe.rand_augment if recipe.rand_augment[0] else None,
                replay=recipe.replay,
            ),
            device=self.device,
            broken_share=recipe.broken_share,
            start_step=start,
            steps=recipe.steps,
            teachers=recipe.distill > 0 and not recipe.teachers,
            window=recipe.window or None,
            crop_on="device" if self.device.type == "cuda" else "host",
        )
        return self.loader

    def step(self, batch: Batch, step: int) -> Figures:
        return self.stepper.step(batch, step, self.teacher)

    def told(self, step: int) -> dict[str, float]:
        consumed = self._consumed()
        return {
            "lr": learning_rate(self.recipe, step),
            "logit_scale": float(self.stepper.clip.logit_scale.detach().exp()),
            **{f"captions/{source}": count / sum(consumed.values()) for source, count in consumed.items()},
        }

    def groups(self) -> dict[str, dict[str, Tensor]]:
        return {
            "model": whole(self.module.state_dict()),
            "optimiser": optimiser_state(self.module, self.stepper.optimiser),
            "average": whole(self.stepper.average),
        }

    def state(self) -> dict[str, Any]:
        return {"captions": dict(self._consumed()), **({} if self.began is None else qat.told(("image",)))}

    def judge(self, groups: Groups) -> Judged:
        assert self.validate is not None
        return Judged(figures=dict(self.validate(self._judged(groups))))

    def write(self, part: Path, groups: Groups, record: Mapping[str, Any]) -> None:
        save(self._clip(groups), part, force=True, record=record)

    def ended(self, say: Callable[[str], None]) -> None:
        assert self.loader is not None
        for reason, found in self.loader.broken.items():
            say(f"{found.count} samples left out: {reason} ({', '.join(found.names[:3])})")

    def _consumed(self) -> Counter[str]:
        return self.before + Counter(self.loader.consumed if self.loader else {})

    def _clip(self, groups: Groups) -> Clip:
        """The model that is saved, on the CPU."""
        weights = _weights(groups)
        if self.began is not None:
            return qat.fused_clip(self.began, weights)
        model = build(self.stepper.clip.config)
        model.load_state_dict(weights)
        return model.eval()

    def _judged(self, groups: Groups) -> Clip:
        """What is evaluated: the model that is saved, with the rounding that it was trained with."""
        if self.began is None:
            return self._clip(groups)
        model = qat.prepare(self.began)
        model.load_state_dict(_weights(groups))
        return model.eval()


def _weights(groups: Groups) -> dict[str, Tensor]:
    """Of the model, without what only the loss has."""
    weights = groups["average"] or groups["model"]
    return {key.removeprefix("clip."): v for key, v in weights.items() if key.startswith("clip.")}


def _validation(val: str) -> Validate:
    """Zero-shot top-1 and retrieval R@1 (mean of both ways) on a folder that holds either set or both."""
    from mobileclip.evaluate import evaluate, open_classification, open_retrieval
    from mobileclip.evaluate.encoder import ModelEncoder

    kinds: dict[str, Any] = {}
    faults = []
    for kind, opened in (("zero_shot", open_classification), ("retrieval", open_retrieval)):
        try:
            kinds[kind] = opened(val)
        except DataError as error:
            faults.append(str(error))
    if not kinds:
        raise DataError(f"{val} is no set to evaluate on: {' '.join(faults)}")

    def measure(clip: Clip) -> dict[str, float]:
        found = {row["task"]: row for row in evaluate(ModelEncoder(clip), **kinds).rows()}
        figures = {}
        if "zero-shot" in found:
            figures["top1"] = float(found["zero-shot"]["top1"])
        if "retrieval" in found:
            ways = (found["retrieval"][way]["R@1"] for way in ("image_to_text", "text_to_image"))
            figures["recall1"] = sum(ways) / 2
        return figures

    return measure


def _fresh(recipe: Recipe) -> Clip:
    if recipe.init:
        return load(recipe.init, recipe.model)
    torch.manual_seed(recipe.seed)
    return create(recipe.model)


def _corpus(recipe: Recipe) -> Corpus:
    require_shards(recipe)
    embeddings = Path(recipe.embeddings) if recipe.embeddings else None
    found = None
    if rank() == 0:  # builds the indices that are missing, once
        jobs = cores() if len(expand(recipe.shards)) >= _MANY_SHARDS else 1
        found = corpus(recipe.shards, embeddings=embeddings, jobs=jobs)
    barrier()
    return found or corpus(recipe.shards, embeddings=embeddings)


_MANY_SHARDS = 16  # from here on processes that start in seconds are worth it


def _teachers(recipe: Recipe, device: torch.device) -> "LiveTeachers | None":
    if not recipe.teachers:
        return None
    from mobileclip.live_teachers import LiveTeachers

    return LiveTeachers(recipe.teachers, device, bf16=recipe.precision == "bf16")
