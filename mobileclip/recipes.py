"""Named training runs: each is a function that returns a complete `Recipe`; a variant calls another and replaces.

    recipe = recipe_of("mci2-datacompdr", overrides={"batch": "8192", "captions": "both"})

A recipe says everything that decides the weights, and nothing about where it runs: the same recipe gives the same run
on any number of ranks. Imports nothing heavy.

Sources of the figures: Vasu et al., MobileCLIP (2024), tables 10-11 and training/configs of its repository.
"""

import ast
import json
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from mobileclip.config import config_of
from mobileclip.errors import TrainingError, UnknownName

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Recipe = TypeVar("_Recipe", bound="DataclassInstance")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run."""

    name: str
    """Key of `RECIPES` that this began as."""
    model: str
    """Key of `mobileclip.config.MODELS`."""
    init: str = ""
    """Checkpoint to start from; empty: fresh weights."""
    qat: str = ""
    """Trained checkpoint whose fused image tower trains with the rounding of int8 artifacts; empty: none."""
    hold: float = 0.0
    """Weight of 1 - cosine to the embeddings of `qat` in floats, so that an index of these stays valid."""
    shards: tuple[str, ...] = ()
    """Folders, globs, brace patterns or URLs of tars."""
    embeddings: str = ""
    """Folder of teacher embeddings as side-cars; empty: those inside the shards, if the recipe distills."""
    captions: str = "ratio(0.5)"
    """Caption policy: alt, pick, ratio(p), adaptive, both, multi(M), sub(n)."""

    window: int = 0
    """Shuffle within so many shards at a time, for corpora that are fetched from afar; 0: all of them."""

    steps: int = 10_000
    """Optimiser steps."""
    batch: int = 4096
    """Samples of a step, over all ranks."""
    accumulate: int = 1
    """Parts of a rank's batch that pass the model one after the other; the loss sees them together."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    end_lr: float = 1e-6
    """Learning rate at the last step of the cosine."""
    warmup: int = 1000
    """Steps of linear warm-up."""
    weight_decay: float = 0.2
    """On matrices; none on biases, norms, scales and the logit scale."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW."""
    eps: float = 1e-8
    """AdamW."""
    clip: float = 1.0
    """Largest norm of the gradient; 0: no limit."""
    ema: float = 0.0
    """Decay of the averaged weights, which are then what is evaluated and loaded; 0: none."""
    seed: int = 0
    """Of weights, order, captions and augmentation."""

    loss: Literal["clip", "siglip"] = "clip"
    """Softmax or sigmoid."""
    chunk: int = 4096
    """Rows of logits that exist at a time."""
    distill: float = 0.0
    """Share of distillation, 0..1."""
    teachers: tuple[str, ...] = ()
    """open_clip teachers that run beside the student, `NAME:TAG_OR_FILE`; none: stored embeddings."""
    stored_teachers: int = 2
    """Teachers whose embeddings are concatenated in the stored rows."""
    max_logit_scale: float = 100.0
    """The factor on cosines is held at or below this."""

    crop_scale: tuple[float, float] = (0.9, 1.0)
    """Share of the image's area that RandomResizedCrop keeps."""
    flip: float = 0.0
    """Probability of a horizontal flip; captions say left and right."""
    rand_augment: tuple[int, int] = (0, 0)
    """Operations and magnitude (of 31) of RandAugment; (0, 0): none."""
    replay: bool = False
    """Take crop and RandAugment from the shard (DataCompDR): the stored teacher embeddings are of these views."""

    precision: Literal["fp32", "bf16"] = "bf16"
    """Of the towers' arithmetic; weights, optimiser and loss stay fp32."""
    channels_last: bool = True
    """Memory layout of images on a GPU (never on a CPU, where the training form of MCi2 fails in it)."""
    compile: bool = False
    """torch.compile the towers."""
    fsdp: bool = False
    """Shard parameters and optimiser over the ranks (FSDP2) instead of replicating them (DDP)."""
    sync_bn: bool = False
    """BatchNorm statistics over all ranks (GPU)."""

    val: str = ""
    """What is evaluated during the run: a folder with classes (zero-shot) and captions (retrieval)."""
    evaluate_every: int = 0
    """Steps between evaluations; 0: at the end."""
    save_every: int = 1000
    """Steps between checkpoints."""
    keep: int = 2
    """Numbered checkpoints that stay, beside best."""
    log_every: int = 20
    """Steps between lines of the log."""
    broken_share: float = 0.01
    """Share of samples that may be broken before the run stops."""
    threads: int = 0
    """Decoding threads of a rank; 0: one for each core."""
    tensorboard: bool = True
    """Write TensorBoard files."""
    wandb: str = ""
    """Weights & Biases project; empty: none."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


FREE = frozenset(
    ("evaluate_every", "save_every", "keep", "log_every", "threads", "tensorboard", "wandb", "broken_share")
)
"""Fields that a resumed run may change: they do not decide the weights."""


def mci2_datacompdr() -> Recipe:
    """MobileCLIP-S2 on DataCompDR: stored views and two teachers, both captions (MobileCLIP, table 10)."""
    return Recipe(
        name="mci2-datacompdr",
        model="mobileclip_s2",
        captions="both",
        batch=8192,
        steps=30_000,
        distill=1.0,
        replay=True,
        crop_scale=(0.08, 1.0),
    )


def mci2_scratch() -> Recipe:
    """MobileCLIP-S2 on plain pairs with quality captions, no teacher."""
    return Recipe(name="mci2-scratch", model="mobileclip_s2", captions="ratio(0.5)", batch=8192, steps=30_000)


def mci0_datacompdr() -> Recipe:
    """MobileCLIP-S0 as `mci2-datacompdr`."""
    return replace(mci2_datacompdr(), name="mci0-datacompdr", model="mobileclip_s0")


def mci0_scratch() -> Recipe:
    """MobileCLIP-S0 as `mci2-scratch`."""
    return replace(mci2_scratch(), name="mci0-scratch", model="mobileclip_s0")


def finetune_from_released() -> Recipe:
    """A released MobileCLIP-S2 on the user's own pairs: small steps, averaged weights."""
    return replace(
        mci2_scratch(),
        name="finetune-from-released",
        init="MobileCLIP-S2:datacompdr",
        batch=1024,
        steps=5_000,
        lr=1e-5,
        end_lr=0.0,
        warmup=500,
        weight_decay=0.1,
        ema=0.999,
    )


def nano_scenes() -> Recipe:
    """A nano MobileCLIP of the real blocks on procedural scenes: minutes on two cores."""
    return Recipe(
        name="nano-scenes",
        model="nano_scenes",
        captions="pick(syn_text_quality=1, syn_text_short=1)",
        batch=128,
        steps=400,
        lr=3e-3,
        end_lr=1e-5,
        warmup=80,
        weight_decay=0.1,
        betas=(0.9, 0.98),
        precision="fp32",
        save_every=200,
        log_every=25,
    )


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    "mci2-datacompdr": mci2_datacompdr,
    "mci2-scratch": mci2_scratch,
    "mci0-datacompdr": mci0_datacompdr,
    "mci0-scratch": mci0_scratch,
    "finetune-from-released": finetune_from_released,
    "nano-scenes": nano_scenes,
}
"""Name -> function that gives the recipe."""


def recipe_of(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe called `name` with some fields replaced; texts are read as the field's type.

    Raises:
        UnknownName: no such recipe, model or field.
        TrainingError: a value that the field cannot hold, or fields that exclude each other.
    """
    if (overrides or {}).get("qat"):
        overrides = {**_rounding(overridden(name, RECIPES, None)), **(overrides or {})}
    recipe = overridden(name, RECIPES, overrides)
    check(recipe)
    return recipe


def _rounding(recipe: Recipe) -> dict[str, Any]:
    """What --qat changes in a recipe unless it is set: a tenth of the steps, at a small rate, from one checkpoint."""
    steps = max(recipe.steps // 10, 1)
    return {
        "init": "",
        "steps": steps,
        "warmup": steps // 10,
        "lr": recipe.lr / 100,
        "end_lr": 0.0,
        "weight_decay": 0.0,
        "ema": 0.0,
        "hold": 1000.0,
    }


def assignments(items: Sequence[str]) -> dict[str, str]:
    """`FIELD=VALUE`s as a dictionary.

    Raises:
        TrainingError: one has no sign of equality.
    """
    found = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not sign:
            raise TrainingError(f"'{item}' sets nothing: write FIELD=VALUE, as in batch=1024.")
        found[key] = value
    return found


def overridden(name: str, known: Mapping[str, Callable[[], _Recipe]], overrides: Mapping[str, Any] | None) -> _Recipe:
    """The entry of a table of recipes with some fields replaced; texts are read as the field's type.

    Raises:
        UnknownName: no such recipe or field.
        TrainingError: a value that the field cannot hold.
    """
    if name not in known:
        raise UnknownName("recipe", name, known)
    recipe = known[name]()
    hints = get_type_hints(type(recipe))
    names = {item.name for item in fields(recipe)} - {"name"}
    values = {}
    for key, value in (overrides or {}).items():
        if key not in names:
            raise UnknownName("field of a recipe", key, names)
        values[key] = _parsed(key, value, hints[key]) if isinstance(value, str) else value
    return replace(recipe, **values)


def check(recipe: Recipe) -> None:
    """Raise unless the fields make sense together.

    Raises:
        TrainingError: what came and what is allowed.
        UnknownName: no such model.
    """
    config = config_of(recipe.model)
    rules = {
        f"{recipe.model} has no text tower: train a model that has one": config.text is None,
        f"steps is {recipe.steps}: at least 1": recipe.steps < 1,
        f"batch is {recipe.batch}: a contrastive loss needs at least 2 samples": recipe.batch < 2,
        f"accumulate is {recipe.accumulate}: at least 1": recipe.accumulate < 1,
        f"lr is {recipe.lr}: above 0": recipe.lr <= 0,
        f"warmup is {recipe.warmup} of {recipe.steps} steps: fewer than all": not 0 <= recipe.warmup < recipe.steps,
        f"distill is {recipe.distill}: 0 to 1": not 0 <= recipe.distill <= 1,
        f"ema is {recipe.ema}: 0 up to, not including, 1": not 0 <= recipe.ema < 1,
        f"broken_share is {recipe.broken_share}: 0 to 1": not 0 <= recipe.broken_share <= 1,
        f"crop_scale is {recipe.crop_scale}: two shares, 0 < low <= high <= 1": not 0
        < recipe.crop_scale[0]
        <= recipe.crop_scale[1]
        <= 1,
        "siglip has no distillation: set distill=0 or loss=clip": recipe.loss == "siglip" and recipe.distill > 0,
        "fsdp and accumulate exclude each other: set one of them": recipe.fsdp and recipe.accumulate > 1,
        f"hold is {recipe.hold}: at least 0, and above it only with qat": recipe.hold < 0
        or (recipe.hold > 0 and not recipe.qat),
        "qat says what to start from, and so does init: set one of them": bool(recipe.qat and recipe.init),
        "qat goes with loss=clip, without fsdp and without compile": bool(recipe.qat)
        and (recipe.fsdp or recipe.compile or recipe.loss != "clip"),
    }
    for fault, holds in rules.items():
        if holds:
            raise TrainingError(f"recipe {recipe.name}: {fault}.")


def require_shards(recipe: Recipe) -> None:
    """Raise unless the recipe says what to train on.

    Raises:
        TrainingError: it names no shards.
    """
    if not recipe.shards:
        raise TrainingError(f"recipe {recipe.name} has no shards: pass --shards with folders, globs or URLs of tars.")


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """`field: old -> new` for the fields that decide the weights and are not the same."""
    return changes(before, after, Recipe(name="", model="").as_dict(), FREE)


def changes(
    before: Mapping[str, Any], after: Mapping[str, Any], defaults: Mapping[str, Any], free: frozenset[str]
) -> list[str]:
    """`field: old -> new` for the fields that are not free and not the same.

    Args:
        before: a recipe as JSON values; a run that began before a field existed had its default.
        after: another.
        defaults: of all fields.
        free: fields that may change.
    """
    was = {**{key: value for key, value in defaults.items() if key not in before}, **before}
    keys = [key for key in after if key not in free and was[key] != after[key]]
    return [f"{key}: {was[key]!r} -> {after[key]!r}" for key in keys]


def _parsed(key: str, text: str, hint: Any) -> Any:
    """`text` as a value of the field's type."""
    try:
        if get_origin(hint) is Literal:
            if text in get_args(hint):
                return text
            raise ValueError(f"one of {', '.join(get_args(hint))}")
        if hint is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if get_origin(hint) is tuple:
            inner = get_args(hint)
            parts = [part.strip() for part in text.strip("()").split(",") if part.strip()]
            if inner[-1] is not Ellipsis and len(parts) != len(inner):
                raise ValueError(f"{len(inner)} values with a comma between them")
            return tuple(inner[0](part) for part in parts)
        if get_origin(hint) is Mapping:
            found = json.loads(text)
            if not isinstance(found, dict):
                raise ValueError('an object, as in {"width": 128}')
            return found
        if hint is int:
            return int(ast.literal_eval(text.replace("_", "")))
        return hint(text)
    except (ValueError, KeyError, SyntaxError, TypeError) as error:
        kind = getattr(hint, "__name__", str(hint)) if not isinstance(hint, types.GenericAlias) else str(hint)
        raise TrainingError(f"'{text}' is no value for {key}: it takes {kind} ({error}).") from error
