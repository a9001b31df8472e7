"""Dense checkpoints: a folder with `model.safetensors` and `config.json`, in and out, and where a new model begins.

    model = load("runs/ade/best")                              # or seeded:mci2+semfpn@512 (rows x columns: @512x640)
    save(model, "ade")
    model = start(config, "mobileclip_s2.pt")                  # a fresh head on an encoder with weights

Loading is as strict as that of image-text models, and the licence of the weights is inherited from the encoder's.
Importing this module loads nothing heavy: `is_dense` answers for the command line. weights.py does the work.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobileclip.config import ModelConfig
    from mobileclip.dense.config import DenseConfig
    from mobileclip.dense.model import DenseModel

FORMAT = "mobileclip-dense/1"
"""Marks config.json of a dense checkpoint, with the version of its layout."""
SEEDED = "seeded:"
"""Begins the name of weights that are drawn and not read."""
TIMM = "timm:"
"""Begins the name of weights that timm downloads."""
SCRATCH = ("", "scratch")
"""Names for no weights at all."""
WEIGHTS, CONFIG = "model.safetensors", "config.json"
"""Files of a checkpoint."""

_JSON_LIMIT = 1_000_000


def is_dense(path_or_name: str | Path) -> bool:
    """Whether `load` of this module is what takes it: a folder of `save`, or `seeded:MODEL+HEAD…`."""
    text = str(path_or_name)
    if text.startswith(SEEDED):
        return "+" in text
    try:
        with (Path(text) / CONFIG).open("rb") as file:
            values = json.loads(file.read(_JSON_LIMIT))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and str(values.get("format", "")).startswith(FORMAT.partition("/")[0])


def load(path_or_name: str | Path) -> "DenseModel":
    """A dense model with weights, in evaluation mode; `model.origin` says where they come from.

    Args:
        path_or_name: a folder that `save` wrote, in training or fused form, or `seeded:MODEL+HEAD@SIZE[:SEED]` with
            SIZE one side or `ROWSxCOLUMNS` (classes: ADE20K's 150 or COCO's 80).

    Raises:
        CheckpointError: what came, and what is allowed.
        UnknownName: no such model or head.
    """
    from mobileclip.dense import weights

    text = str(path_or_name)
    return weights.seeded(text) if text.startswith(SEEDED) else weights.read_folder(Path(text))


def save(
    model: "DenseModel", folder: str | Path, *, force: bool = False, record: Mapping[str, Any] | None = None
) -> Path:
    """Write a dense model, in training or fused form, so that `load` gives back the same tensors, bit for bit.

    Args:
        model: what is written.
        folder: made if it is not there.
        force: replace these files if they are there; other files in the folder stay.
        record: how the weights were trained, JSON values; it goes over the one that the model began with.

    Returns:
        `folder`.

    Raises:
        CheckpointError: a weight is not finite, or the record is no JSON.
        OutputError: something is there already, or the place cannot be written.
    """
    from mobileclip.dense import weights

    return weights.write_folder(model, Path(folder), force, record)


def start(config: "DenseConfig", checkpoint: str | Path, *, head: bool = False) -> "DenseModel":
    """A model to be trained: the encoder with weights, the head fresh (drawn by torch's generator).

    Args:
        config: of the model. Its encoder is what is built from nothing, or with a file that does not say what it is;
            a checkpoint that says it wins, with its mean and std, and `config` of what comes back tells.
        checkpoint: whatever `mobileclip.load` takes, a dense checkpoint, `timm:NAME` or a file of timm's weights (their
            classifier is dropped), or one of `SCRATCH`.
        head: take the head of a dense checkpoint as well.

    Raises:
        CheckpointError: the weights cannot be had or do not fit.
        MobileClipError: the encoder has no pyramid of that size.
    """
    from mobileclip.dense import starting

    return starting.start(config, str(checkpoint), head)


def encoder_of(checkpoint: str | Path, otherwise: "ModelConfig") -> "ModelConfig":
    """The encoder that `start` builds for a checkpoint: what it says itself, else `otherwise`."""
    from mobileclip.dense import starting

    return starting.source_of(str(checkpoint), otherwise).encoder
