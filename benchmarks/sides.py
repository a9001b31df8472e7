"""What the names of baselines, devices and targets mean; imports nothing heavy, so that a mistake is told at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from export.targets import TARGETS
from mobileclip.config import MODELS
from mobileclip.errors import UnknownName

NAIVE = "naive"
CACHE = Path.home() / ".cache" / "mobileclip" / "baselines"
"""Where baselines and what devices need are kept."""
DeviceKind = Literal["host", "adb", "iphone", "browser"]

RUNNABLE = ("onnx", "executorch-xnnpack")
"""Targets whose runtime here is that of a device; the interpreter of Core ML programs measures no speed."""
ON: Mapping[DeviceKind, tuple[str, ...]] = {
    "host": RUNNABLE,
    "adb": ("executorch-xnnpack", "executorch-vulkan"),
    "iphone": ("coreml", "executorch-coreml", "executorch-xnnpack"),
    "browser": ("onnx",),
}
"""Kind of device -> the targets that it can run."""


def device_of(name: str) -> tuple[DeviceKind, str | None]:
    """`adb:emulator-5554` as kind and what it is called there; None where no name is given.

    Raises:
        UnknownName: no such kind of device.
    """
    kind, colon, rest = name.partition(":")
    for known in ON:
        if kind == known and (bool(rest) or not colon):
            return known, rest or None
    raise UnknownName("device", name, [*ON, "adb:SERIAL", "iphone:NAME"])


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
