"""What the name of a baseline means; imports nothing heavy, so that a mistake in it is told at once."""

from pathlib import Path
from typing import Literal

from export.targets import TARGETS
from mobileclip.config import MODELS
from mobileclip.errors import UnknownName

NAIVE = "naive"

RUNNABLE = ("onnx", "executorch-xnnpack")
"""Targets whose runtime here is that of a device; the interpreter of Core ML programs measures no speed."""


def kind_of(against: str) -> Literal["naive", "target", "model", "bundle"]:
    """Whether a baseline is the plain export, a target of the same bundle, a model by name, or another bundle.

    Raises:
        UnknownName: none of them; the nearest is offered.
    """
    if against == NAIVE:
        return "naive"
    if against in TARGETS:
        return "target"
    if model_name(against) in MODELS:
        return "model"
    if Path(against).is_dir():
        return "bundle"
    raise UnknownName("baseline", against, [NAIVE, *TARGETS, *MODELS])


def model_name(against: str) -> str:
    """`swin-l` as the tables write it, `swin_l`."""
    return against.replace("-", "_")
