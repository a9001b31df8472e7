"""What a dense model is, as frozen data, and every head by name (`HEADS`). Imports nothing heavy.

A `DenseConfig` is all that is needed to build a dense model without its weights; `config.json` of a dense checkpoint
holds it. A new head is one entry here and one class.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from mobileclip.config import ModelConfig
from mobileclip.errors import CheckpointError, UnknownName

Task = Literal["segmentation", "detection", "depth"]
TASKS: tuple[Task, ...] = ("segmentation", "detection", "depth")
IGNORE = 255
"""Label of pixels that count nowhere."""


@dataclass(frozen=True, kw_only=True)
class HeadEntry:
    """A head by name."""

    task: Task
    home: str
    """`module:Class`; the class takes (channels, config, **args)."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Of its constructor, as JSON values."""


HEADS: Mapping[str, HeadEntry] = {
    "semfpn": HeadEntry(task="segmentation", home="mobileclip.models.heads.semfpn:SemanticFpn"),
    "semfpn_phone": HeadEntry(
        task="segmentation", home="mobileclip.models.heads.semfpn:SemanticFpn", args={"neck": 128}
    ),
    "uper": HeadEntry(task="segmentation", home="mobileclip.models.heads.uper:UperNet"),
    "uper_phone": HeadEntry(task="segmentation", home="mobileclip.models.heads.uper:UperNet", args={"width": 128}),
    "seg_linear": HeadEntry(task="segmentation", home="mobileclip.models.heads.linear:LinearSegmentation"),
    "mask_rcnn": HeadEntry(task="detection", home="mobileclip.models.heads.mask_rcnn:MaskRcnn"),
    "mask_rcnn_phone": HeadEntry(
        task="detection", home="mobileclip.models.heads.mask_rcnn:MaskRcnn", args={"width": 128}
    ),
    "onestage": HeadEntry(task="detection", home="mobileclip.models.heads.onestage:OneStage"),
    "det_linear": HeadEntry(task="detection", home="mobileclip.models.heads.onestage:OneStage", args={"convs": 0}),
    "depth": HeadEntry(task="depth", home="mobileclip.models.heads.depth:DepthHead"),
    "depth_phone": HeadEntry(
        task="depth", home="mobileclip.models.heads.depth:DepthHead", args={"width": 32, "quarter": True}
    ),
    "depth_linear": HeadEntry(task="depth", home="mobileclip.models.heads.linear:LinearDepth"),
}
"""Name -> head."""


@dataclass(frozen=True, kw_only=True)
class DenseConfig:
    """One dense model: an encoder, a head, and what its outputs mean."""

    encoder: ModelConfig
    """Only its image tower is used."""
    head: str
    """Key of `HEADS`."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the head's constructor, as JSON values; they win over those of `HEADS`."""
    size: tuple[int, int]
    """Rows and columns of the picture that it is trained on and exported for, in pixels; multiples of 32."""
    labels: tuple[str, ...] = ()
    """Names of the classes in the order of the outputs; empty for depth."""
    category_ids: tuple[int, ...] = ()
    """The data set's own id of each class (COCO: 1..90 with gaps); empty: 0, 1, 2, …"""
    max_depth: float = 10.0
    """Of depth, in metres: outputs lie in 0..max_depth."""

    @property
    def task(self) -> Task:
        """What the head is for."""
        return head_of(self.head).task

    @property
    def name(self) -> str:
        """As `seeded:` takes it: `mci2+semfpn`."""
        return f"{self.encoder.name}+{self.head}"

    def head_args(self) -> dict[str, Any]:
        """All arguments of the head's constructor."""
        return {**head_of(self.head).args, **self.args}

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "DenseConfig":
        """Inverse of `as_dict`.

        Raises:
            CheckpointError: a key is missing, unknown or of the wrong kind.
            UnknownName: no such head.
        """
        known = {item.name for item in fields(DenseConfig)}
        try:
            unknown = sorted(set(values) - known)
            if unknown:
                raise TypeError(f"unknown key {unknown[0]!r}")
            parts = dict(values)
            parts["encoder"] = ModelConfig.from_dict(parts["encoder"])
            height, width = (int(side) for side in parts["size"])
            parts["size"] = (height, width)
            parts["labels"] = tuple(str(label) for label in parts.get("labels", ()))
            parts["category_ids"] = tuple(int(number) for number in parts.get("category_ids", ()))
            config = DenseConfig(**parts)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"the configuration of a dense model cannot be read ({error}); write it with `mobileclip.dense.save`."
            ) from error
        head_of(config.head)
        return config


def head_of(name: str) -> HeadEntry:
    """The head called `name`.

    Raises:
        UnknownName: no entry of `HEADS`; the nearest is offered.
    """
    if name not in HEADS:
        raise UnknownName("head", name, HEADS)
    return HEADS[name]


def task_of(name: str) -> Task:
    """`name` as a task.

    Raises:
        UnknownName: none of `TASKS`.
    """
    if name not in TASKS:
        raise UnknownName("task", name, TASKS)
    return name
