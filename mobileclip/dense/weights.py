"""Folders of dense models, read with nothing in them believed and written whole, and models drawn from a seed."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from mobileclip.checkpoint_build import WithoutDrawing, fill_state, require_finite
from mobileclip.checkpoint_config import OWN, UNKNOWN, faults, require_document
from mobileclip.checkpoint_files import SUFFIXES, as_json, placing, read_json, read_weights, sha256_of, write_weights
from mobileclip.config import Origin
from mobileclip.dense.checkpoint import CONFIG, FORMAT, SEEDED, WEIGHTS
from mobileclip.dense.config import DenseConfig, head_of
from mobileclip.dense.encoders import encoder_named
from mobileclip.dense.labels import default_labels
from mobileclip.dense.model import DenseModel, build
from mobileclip.errors import CheckpointError, MobileClipError, OutputError
from mobileclip.fuse import fuse, is_fused
from mobileclip.models import seed_weights
from mobileclip.models.pyramid import PYRAMIDS

KINDS: Mapping[str, type | tuple[type, ...]] = {
    "format": str,
    "model": dict,
    "state": str,
    "licence": str,
    "licence_research_only": bool,
    "record": dict,
    "sha256": str,
}
"""Keys of config.json, and what they hold."""
LARGEST = 4096
"""Most pixels a side of a model's picture."""

_CLASSES, _LABEL, _ARG = 10_000, 200, 4096  # most classes, letters of a label, and value of a head's argument


def read_folder(folder: Path) -> DenseModel:
    """The model in a folder of `write_folder`.

    Raises:
        CheckpointError: what is not as it should be.
    """
    weights, beside = folder / WEIGHTS, folder / CONFIG
    if not folder.is_dir() or not beside.is_file() or not weights.is_file():
        raise CheckpointError(
            f"'{folder}' is no folder with {WEIGHTS} and {CONFIG}: give one that `mobileclip finetune` wrote, or "
            "seeded:mci2+semfpn@512."
        )
    document = read_json(beside)
    if not str(document.get("format", "")).startswith(FORMAT.partition("/")[0]):
        raise CheckpointError(
            f"'{folder}' holds no dense model: give one that `mobileclip finetune` wrote, or read an image-text model "
            "with `mobileclip.load`."
        )
    require_document(document, beside, FORMAT, KINDS, "mobileclip.dense.save")
    tensors = read_weights(weights)
    digest = sha256_of(weights)
    if document["sha256"] != digest:
        raise CheckpointError(
            f"'{weights}' is not the file that its config.json was written for (sha256 {digest[:12]}, there "
            f"{document['sha256'][:12]}): restore the pair, or save the model again."
        )
    config = _config_in(document, beside, len(tensors))
    model = _empty(config, document["state"], str(beside))
    fill_state(model.state_dict(), tensors, config.name, f"'{folder}'")
    state = document["state"]
    model.origin = Origin(
        form="toolkit" if state == "training" else f"toolkit, {state}",
        source=str(folder),
        sha256=digest,
        licence=document["licence"],
        licence_research_only=document["licence_research_only"],
        record=document["record"],
    )
    return model.eval()


def write_folder(model: DenseModel, folder: Path, force: bool, record: Mapping[str, Any] | None) -> Path:
    """See `mobileclip.dense.save`."""
    if folder.suffix in SUFFIXES or (folder.exists() and not folder.is_dir()):
        raise OutputError(f"'{folder}' names a file where a folder is to be written: give another name.")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise OutputError(
            f"the folder '{folder}' holds something already: give another, or ask for replacement (force)."
        )
    tensors: dict[str, Tensor] = dict(model.state_dict())
    for name, tensor in tensors.items():
        require_finite(name, tensor, f"the {model.config.name} to be saved")

    def config(digest: str) -> bytes:
        return as_json(_document(model, record, digest), "the training record")

    config("0" * 64)  # a record that is no JSON is refused before anything is written
    with placing(folder / WEIGHTS, folder / CONFIG) as (weights, beside):
        write_weights(weights, tensors, safetensors=True)
        beside.write_bytes(config(sha256_of(weights)))
    return folder


def seeded(source: str) -> DenseModel:
    """`seeded:MODEL+HEAD@SIZE[:SEED]`."""
    match = re.fullmatch(r"([\w.-]+)\+(\w+)@(\d{1,4})(?:x(\d{1,4}))?(?::(\d{1,9}))?", source.removeprefix(SEEDED))
    if match is None:
        raise CheckpointError(
            f"'{source}' names no dense model: write seeded:MODEL+HEAD@SIZE[:SEED], such as seeded:mci2+semfpn@512 or "
            "seeded:mci2+depth@480x640:1."
        )
    name, head, rows, columns, seed = match.groups()
    labels, ids = default_labels(head_of(head).task)
    size = (int(rows), int(columns or rows))
    if max(size) > LARGEST:
        raise CheckpointError(
            f"'{source}' asks for {size[0]} x {size[1]} pixels: at most {LARGEST} a side are allowed."
        )
    config = DenseConfig(encoder=encoder_named(name), head=head, size=size, labels=labels, category_ids=ids)
    model = build(config)
    seed_weights(model, int(seed or 0))
    again = f"{SEEDED}{name}+{head}@{size[0]}x{size[1]}:{seed or 0}"  # what `verify` loads a bundle's model by
    model.origin = Origin(form="seeded", source=again, sha256="", licence=OWN)
    return model


def _document(model: DenseModel, record: Mapping[str, Any] | None, digest: str) -> dict[str, Any]:
    origin, state = model.origin, "fused" if is_fused(model) else "training"
    begun: dict[str, Any] = {}
    if origin is not None:
        begun = {"begun_from": {"form": origin.form, "source": origin.source, "sha256": origin.sha256}, **origin.record}
    unsaid = OWN if state == "training" else UNKNOWN  # a fused copy may have lost the origin of what it was made from
    return {
        "format": FORMAT,
        "model": model.config.as_dict(),
        "state": state,
        "licence": unsaid if origin is None else origin.licence,
        "licence_research_only": origin is not None and origin.licence_research_only,
        "record": {**begun, **(record or {})},
        "sha256": digest,
    }


def _config_in(document: Mapping[str, Any], path: Path, tensors: int) -> DenseConfig:
    try:
        config = DenseConfig.from_dict(document["model"])
        fault = next(_faults(config, tensors), None)
    except (MobileClipError, ValueError, TypeError) as error:
        raise CheckpointError(f"'{path}' holds no dense model of this toolkit: {str(error).rstrip('.')}.") from error
    if fault is None and document["state"] not in ("training", "fused"):
        fault = f"its state is {document['state'][:40]!r} (allowed: training, fused)"
    if fault:
        raise CheckpointError(
            f"'{path}' describes no dense model of this toolkit: {fault}; write it with `mobileclip.dense.save`."
        )
    return config


def _faults(config: DenseConfig, tensors: int) -> Iterator[str]:
    """What a configuration from outside may not say."""
    if any(side < 32 or side > LARGEST or side % 32 for side in config.size):
        yield f"its size is {config.size[0]} x {config.size[1]} (allowed: multiples of 32 up to {LARGEST})"
    if len(config.labels) > _CLASSES or any(len(label) > _LABEL for label in config.labels):
        yield f"it has {len(config.labels)} classes, or one of a long name (at most {_CLASSES} of {_LABEL} letters)"
    if config.category_ids and len(config.category_ids) != len(config.labels):
        yield f"it has {len(config.category_ids)} ids for {len(config.labels)} classes"
    depth = config.max_depth
    if not isinstance(depth, int | float) or not math.isfinite(depth) or not 0 < depth <= 100_000:
        yield f"its largest depth is {str(depth)[:40]} (allowed: above 0, to 100,000)"
    if not isinstance(config.args, dict):
        yield "its head's arguments are no object"
        return
    for key, value in config.args.items():
        values = value if isinstance(value, list) else [value]
        right = all(item is None or (isinstance(item, int | float) and 0 <= item <= _ARG) for item in values)
        if not right or len(values) > 16:
            yield f"its head's argument {key[:40]!r} is {str(value)[:40]} (allowed: numbers from 0 to {_ARG})"
    yield from faults(config.encoder, tensors, _is_tower)


def _is_tower(name: str) -> bool:
    """Whether timm has this architecture, of a class that has a pyramid."""
    if not timm.is_model(name):
        return False
    return timm.model_entrypoint(name).__module__ in {kind.__module__ for kind in PYRAMIDS} | {
        "timm.models.vision_transformer_hybrid"
    }


def _empty(config: DenseConfig, state: str, where: str) -> DenseModel:
    """The model with its parameters not filled."""
    try:
        if state == "training":
            with WithoutDrawing():
                return build(config)
        with torch.device("meta"):  # folding nothing takes no time
            model = fuse(build(config))
        if {name for name, _ in model.named_buffers()} - set(model.state_dict()):  # constants that are in no file
            with WithoutDrawing():
                model = fuse(build(config))
    except (TypeError, ValueError, RuntimeError, AssertionError, LookupError, AttributeError, ArithmeticError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise CheckpointError(f"'{where}' builds no model ({reason}): save it again.") from error
    assert isinstance(model, DenseModel)
    return model if all(not value.is_meta for value in model.state_dict().values()) else model.to_empty(device="cpu")
