"""Our config.json: written beside the weights, and read back with nothing in it believed.

A configuration from outside is built only if this project could have written it: known architectures, arguments and
numbers within limits, so that building ends soon and takes no more memory than the weights do.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mobileclip import checkpoint_keys as keys
from mobileclip.config import MODELS, ModelConfig, Origin, Preprocess
from mobileclip.errors import CheckpointError

FORMAT = "mobileclip-toolkit/1"
"""Marks our config.json, with the version of its layout."""
DENSE = "mobileclip-dense"
"""Begins the format of dense models (mobileclip/dense/checkpoint.py)."""
OWN = "MIT (weights of this project)"
"""Licence of weights that were drawn or trained here from nothing."""
UNKNOWN = "unknown"
"""Licence of weights whose source is not known."""

_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "format": str,
    "model": dict,
    "state": str,
    "tokenizer": (dict, type(None)),
    "licence": str,
    "licence_research_only": bool,
    "record": dict,
    "sha256": str,
}
_TIMM = sorted({config.image.timm for config in MODELS.values()})
_ARGS = sorted({name for config in MODELS.values() for name in config.image.args})
_LIMITS = {"preprocess.size": 1024, "embed_dim": 2048, "text.width": 2048, "text.heads": 256, "text.layers": 64}
_LIMITS |= {"img_size": 512, "window_size": 16}  # Swin's masks grow with both, and no weight shows it
_ARG_LIMIT, _BLOCK_LIMIT, _STAGE_LIMIT = 2048, 100, 8


def document_of(
    config: ModelConfig, state: str, origin: Origin | None, record: Mapping[str, Any] | None, sha256: str
) -> dict[str, Any]:
    """What config.json says about weights with that hash; a new record goes over the one that the model began with."""
    begun: dict[str, Any] = {}
    if origin is not None:
        begun = {"begun_from": {"form": origin.form, "source": origin.source, "sha256": origin.sha256}, **origin.record}
    licence = OWN if state != "fused" else UNKNOWN  # a fused copy may have lost the origin of what it was made from
    return {
        "format": FORMAT,
        "model": config.as_dict(),
        "state": state,
        "tokenizer": _tokenizer(config),
        "licence": licence if origin is None else origin.licence,
        "licence_research_only": origin is not None and origin.licence_research_only,
        "record": {**begun, **(record or {})},
        "sha256": sha256,
    }


def require_document(
    values: Mapping[str, Any],
    path: Path,
    form: str = FORMAT,
    kinds: Mapping[str, type | tuple[type, ...]] = _KINDS,
    writer: str = "mobileclip.save",
) -> None:
    """See that a config.json has our keys, no other, and values of their kinds; by default an image-text model's.

    Raises:
        CheckpointError: the first thing that is not so.
    """
    found = str(values["format"])[:40]
    if found.startswith(DENSE) and not form.startswith(DENSE):
        raise CheckpointError(
            f"'{path}' describes a dense model: read it with `mobileclip.dense.load`, or give the image-text "
            "checkpoint that it was finetuned from."
        )
    if found != form:
        raise CheckpointError(
            f"'{path}' has the format {found!r} where this version reads {form!r}: update the "
            "toolkit, or save the model again with this one."
        )
    unknown, missing = sorted(set(values) - set(kinds)), sorted(set(kinds) - set(values))
    if unknown or missing:
        what = f"the unknown key {unknown[0]!r}" if unknown else f"no key {missing[0]!r}"
        raise CheckpointError(f"'{path}' has {what} (allowed: {', '.join(kinds)}): write it with `{writer}`.")
    for key, kind in kinds.items():
        if not isinstance(values[key], kind):
            raise CheckpointError(f"'{path}' has a {type(values[key]).__name__} as {key!r}: write it with `{writer}`.")


def config_in(document: Mapping[str, Any], path: Path, state: str, tensors: int) -> ModelConfig:
    """The configuration of weights of that `state` and number of tensors.

    Raises:
        CheckpointError: it does not belong to the weights, or describes nothing that this project builds.
    """
    try:
        config = ModelConfig.from_dict(document["model"])
    except (CheckpointError, ValueError) as error:
        raise CheckpointError(f"'{path}' holds no model of this toolkit: {str(error).rstrip('.')}.") from error
    fault = next(faults(config, tensors), None)
    if fault is None and document["tokenizer"] != _tokenizer(config):
        fault = "its tokenizer is not the one that its text tower needs"
    if fault:
        raise CheckpointError(f"'{path}' describes no model of this toolkit: {fault}; write it with `mobileclip.save`.")
    if document["state"] != state:
        raise CheckpointError(
            f"'{path}' speaks of weights in the state {document['state'][:40]!r}, those beside it are in the state "
            f"{state!r}: restore the pair, or save the model again."
        )
    return config


def faults(config: ModelConfig, tensors: int, known: Callable[[str], bool] | None = None) -> Iterator[str]:
    """What a configuration from outside may not say; `known` tells which further image towers it may name."""
    image, text = config.image, config.text
    further = known is not None and isinstance(image.timm, str) and image.timm not in _TIMM and known(image.timm)
    if image.timm not in _TIMM and not further:
        yield f"its image tower is {str(image.timm)[:40]!r} (allowed: {', '.join(_TIMM)})"
        return
    if not isinstance(image.args, dict) or set(image.args) - set(_ARGS):
        yield f"its image tower has arguments other than {', '.join(_ARGS)}"
        return
    if not isinstance(config.name, str) or not isinstance(config.open_clip, str | None):
        yield "its name is no text"
    if image.pool not in ("avg", "token"):
        yield f"its pool is {str(image.pool)[:40]!r} (allowed: avg, token)"
    numbers = [("preprocess.size", config.preprocess.size), ("embed_dim", config.embed_dim)]
    for key, value in image.args.items():
        values = value if isinstance(value, list) else [value]
        numbers += [(key, item) for item in values]
        if len(values) > _STAGE_LIMIT:
            yield f"{key} has {len(values)} values (at most {_STAGE_LIMIT})"
    if text is not None:
        numbers += [("text.width", text.width), ("text.heads", text.heads), ("text.layers", text.layers)]
        if (text.context, text.vocabulary) != (77, 49408) or text.kind not in ("transformer", "mct"):
            yield "its text tower is not one of 77 tokens out of 49408, of the kind transformer or mct"
    for key, value in numbers:
        limit = _LIMITS.get(key, _ARG_LIMIT)
        if not isinstance(value, int | float) or not 0 <= value <= limit:
            yield f"{key} is {str(value)[:40]} (allowed: 0 to {limit})"
    yield from _pixel_faults(config.preprocess)
    if further:
        return
    try:
        blocks = sum(keys.sizes_of(config).depths)
    except (TypeError, LookupError):
        yield "the arguments of its image tower are of the wrong kind"
        return
    if blocks > min(tensors, _BLOCK_LIMIT):
        yield f"it has {blocks} blocks (at most {_BLOCK_LIMIT}, and no more than tensors)"


def _pixel_faults(pixels: Preprocess) -> Iterator[str]:
    values = [*pixels.mean, *pixels.std]
    numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    if not numbers or (len(pixels.mean), len(pixels.std)) != (3, 3) or min(pixels.std) <= 0:
        yield "mean and std are not three numbers each, std above zero"
    if pixels.interpolation not in ("bilinear", "bicubic"):
        yield f"its interpolation is {str(pixels.interpolation)[:40]!r} (allowed: bilinear, bicubic)"


def _tokenizer(config: ModelConfig) -> dict[str, Any] | None:
    """What config.json says about tokens: CLIP's byte-pair encoding, padded with zeros."""
    if config.text is None:
        return None
    return {"kind": "clip", "context": config.text.context, "vocabulary": config.text.vocabulary, "padding": 0}
