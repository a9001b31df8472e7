"""What `predict` and `evaluate --dense` take: dense checkpoints, and bundles that were exported from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mobileclip.dense.checkpoint import is_dense
from mobileclip.dense.config import task_of
from mobileclip.errors import CheckpointError
from mobileclip.verbs.screen import progress

if TYPE_CHECKING:
    from mobileclip.dense.samples import Predictor


def known_dense(subject: str, target: str | None = None, task: str | None = None) -> None:
    """Raise before anything heavy is loaded unless `subject` is a dense checkpoint or a bundle.

    Raises:
        CheckpointError: it is neither.
        UnknownName: no such target or task.
    """
    if target is not None:
        from export.targets import targets_of

        targets_of([target])
    if task is not None:
        task_of(task)
    if not is_dense(subject) and not is_bundle(subject):
        there = "is no dense checkpoint and no bundle" if Path(subject).exists() else "does not exist"
        raise CheckpointError(
            f"{subject} {there}: give a folder that `mobileclip finetune` or `export` wrote, or seeded:MODEL+HEAD@SIZE "
            "(`evaluate --templates` measures image-text models by their texts)."
        )


def is_bundle(subject: str) -> bool:
    """Whether `subject` is the folder of a bundle."""
    return (Path(subject) / "manifest.json").is_file()


def version_of(subject: str) -> str:
    """What changes when a subject does: its place, and when its main file was written."""
    path = Path(subject).resolve()
    files = [path / name for name in ("manifest.json", "model.safetensors") if (path / name).is_file()]
    return subject if not files else f"{path}@{files[0].stat().st_mtime_ns}"


def dense_predictor(
    subject: str,
    *,
    target: str | None,
    task: str | None,
    mode: Literal["whole", "slide", "fixed"],
    flip: bool,
    score: float | None = None,
    multi_scale: bool = False,
    device: str | None = None,
) -> "Predictor":
    """A subject as a predictor; `mode` and `flip` are of checkpoints, `target` of bundles, which have one size.

    Raises:
        MobileClipError: it cannot be read, or does not fit the options.
    """
    if is_bundle(subject):
        with progress(f"opening {subject}", quiet=True):  # the packages of every target say much when they are loaded
            from export.dense import bundle_predictor

        return bundle_predictor(subject, target, task=None if task is None else task_of(task), score=score)
    from mobileclip.dense.checkpoint import load
    from mobileclip.dense.predictor import MULTI_SCALE, predictor

    model = load(subject)
    if task is not None and model.config.task != task:
        raise CheckpointError(f"{subject} does {model.config.task}, not {task}: leave the task out, or take another.")
    scales = MULTI_SCALE if multi_scale else (1.0,)
    return predictor(model, mode, scales=scales, flip=flip, score=score, device=device, name=subject)


def text_predictor(subject: str, labels: Sequence[str], templates: str) -> "Predictor":
    """An image-text model as a predictor of classes by their texts alone (mobileclip/dense/zero_shot.py).

    Raises:
        MobileClipError: it cannot be read, or has no texts or no features of single pixels.
    """
    from mobileclip.checkpoint import load
    from mobileclip.dense.zero_shot import zero_shot_predictor
    from mobileclip.evaluate.templates import read_templates

    return zero_shot_predictor(load(subject), labels, read_templates(templates), name=f"{subject}, by texts")
