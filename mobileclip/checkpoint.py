"""Weights in and out: `load` takes every published form of MobileCLIP's weights, `save` writes them back.

    model = load("mobileclip_s2.pt")                 # Apple's release; a folder, open_clip's and timm's files as well
    model = load("MobileCLIP-S2:datacompdr")         # downloads by open_clip's tag; hf-hub:owner/name by repository
    print(describe(model.origin))
    save(model, "s2")                                # a folder with model.safetensors and config.json
    save(model, "s2.pt", form="apple")               # what other people's code reads

The form is recognised from the names of the weights, the model from their shapes; neither from the file's name, except
that MobileCLIP2-S2 and -B have the shapes of MobileCLIP-S2 and -B. Loading is strict: a model comes back only if every
tensor was there, fitted and was finite. Nothing is unpickled that could run code. What the licence of the weights
allows, and what was odd about the file, stay with the model as `model.origin`.

Names are renamed in checkpoint_keys.py, files read and written in checkpoint_files.py, config.json in
checkpoint_config.py, models built and filled in checkpoint_build.py.
"""

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mobileclip import checkpoint_keys as keys
from mobileclip.checkpoint_build import empty, fill, require_finite
from mobileclip.checkpoint_config import OWN, UNKNOWN, config_in, document_of, require_document
from mobileclip.checkpoint_files import SUFFIXES, as_json, placing, read_json, read_weights, sha256_of, write_weights
from mobileclip.checkpoint_keys import FORMS, Sizes
from mobileclip.config import MODELS, ModelConfig, Origin, config_of
from mobileclip.errors import CheckpointError, OutputError, UnknownName, some
from mobileclip.fuse import FUSED
from mobileclip.models import Clip, create
from mobileclip.models.text import MctText

WEIGHTS, CONFIG, OPEN_CLIP_CONFIG = "model.safetensors", "config.json", "open_clip_config.json"
FOLDER_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", WEIGHTS, "pytorch_model.bin")
"""Weights in a folder, in the order of preference."""
APPLE = "Apple ML Research Model License (research only)"
"""apple/ml-mobileclip, LICENSE_MODELS: research only, and so is whatever is derived from the weights."""
PRESUMED = f"{APPLE}, presumed from the architecture"
"""Weights of Apple's architectures in forms that do not say who trained them."""

SEEDED = "seeded:"
"""Begins the name of weights that are drawn and not read."""

_APPLE_TOWERS = ("fastvit_mci0", "fastvit_mci1", "fastvit_mci2", "vit_base_mci_224")  # published under Apple's names
_KINDS = {
    "apple": "weights under Apple's names",
    "open_clip": "weights under open_clip's names",
    "timm": "an image tower under timm's names",
    "toolkit": "weights of this toolkit",
    "seeded": "weights drawn from a seed",
}


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A file of weights, and what is known before it is opened."""

    weights: Path
    source: str
    companion: Mapping[str, Any] = field(default_factory=dict)  # the configuration that belongs to it
    companion_name: str = ""
    name: str | None = None  # key of MODELS, where the tag says it
    released: bool = False  # by Apple, for certain

    @property
    def document(self) -> Mapping[str, Any]:
        """The companion, if it is our config.json."""
        return self.companion if "format" in self.companion else {}


def load(path_or_name: str | Path, name: str | None = None) -> Clip:
    """A model with weights, in evaluation mode; `model.origin` says where they come from and what their licence allows.

    Args:
        path_or_name: a file (.pt, .pth, .bin, .safetensors), a folder (of `save`, or a snapshot of a repository of
            open_clip's or timm's), `hf-hub:owner/name`, open_clip's `MobileCLIP-S2:datacompdr`, or
            `seeded:NAME[:SEED]`: weights drawn from a seed, to try all that comes after training without a checkpoint.
        name: key of `MODELS` that the weights must fit; recognised from the shapes if left out.

    Raises:
        CheckpointError: what came, and what is allowed.
        UnknownName: no such `name` or tag.
    """
    wanted = None if name is None else config_of(name)
    if str(path_or_name).startswith(SEEDED):
        return _seeded(str(path_or_name), wanted)
    found = _find(path_or_name)
    raw = read_weights(found.weights)
    stored = {keys.unwrapped(key): value for key, value in raw.items()}
    form = keys.form_of(stored)
    if form is None:
        raise CheckpointError(
            f"'{found.source}' holds another model: its {len(raw)} tensors are called {some(raw)}, which is none of "
            f"the forms {', '.join(FORMS)}; give MobileCLIP weights in one of these."
        )
    own = keys.canonical(form, stored)  # the file's name -> canonical name
    tensors = {own[key]: keys.value_in(form, own[key], value) for key, value in stored.items()}
    if len(tensors) < len(raw):
        raise CheckpointError(
            f"'{found.source}' names {len(raw) - len(tensors)} of its {len(raw)} tensors twice, in two ways: save it "
            "again."
        )
    digest = sha256_of(found.weights)
    config = _config(found, tensors, digest, wanted)
    model = empty(config, tensors)
    labels = keys.foreign(form, model.state_dict()) | {canonical: key for key, canonical in own.items()}
    fill(model, tensors, form, labels, f"'{found.source}'")
    state = keys.state_of(tensors)
    model.origin = _origin(found, config, form if state == "training" else f"{form}, {state}", digest)
    for warning in model.origin.warnings:
        warnings.warn(warning, stacklevel=2)
    return model.eval()


def _seeded(source: str, wanted: ModelConfig | None) -> Clip:
    """`seeded:NAME[:SEED]`."""
    name, _, seed = source.removeprefix(SEEDED).partition(":")
    if seed and not seed.isdecimal():
        raise CheckpointError(f"'{source}' has no whole number for its seed: write seeded:{name}:0.")
    if wanted is not None and name != wanted.name:
        raise CheckpointError(f"'{source}' draws a {name}, you asked for {wanted.name}: leave one of the names out.")
    model = create(name, seed=int(seed or 0))
    model.origin = Origin(form="seeded", source=f"{SEEDED}{name}:{int(seed or 0)}", sha256="", licence=OWN)
    return model


def describe(origin: Origin) -> str:
    """One sentence: which form was found, where, and under which licence."""
    form, _, state = origin.form.partition(", ")
    kind = f"{_KINDS[form]}, {state}" if state else _KINDS[form]
    return (
        f"'{origin.source}' holds {kind} (sha256 {origin.sha256[:12] or 'none'}); "
        f"licence of the weights: {origin.licence}."
    )


def save(
    model: Clip,
    path: str | Path,
    form: str = "toolkit",
    *,
    force: bool = False,
    record: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model's weights so that `load` gives back the same tensors, bit for bit.

    Args:
        model: in training form, reparameterised by timm, or (form `toolkit`) fused.
        path: a folder for `toolkit`; a file for `open_clip`, `apple` and `timm`, whose ending picks the format.
        form: one of `FORMS`.
        force: replace these files if they are there; other files in the folder stay.
        record: how the weights were trained, JSON values (form `toolkit` only).

    Returns:
        `path`.

    Raises:
        CheckpointError: the form cannot hold this model or record, or a weight is not finite.
        OutputError: something is there already, or the place cannot be written.
        UnknownName: no such form.
    """
    if form not in FORMS:
        raise UnknownName("form of a checkpoint", form, FORMS)
    path = Path(path)
    tensors: dict[str, Tensor] = dict(model.state_dict())
    _require_form(model, tensors, form)
    for name, tensor in tensors.items():
        require_finite(name, tensor, f"the {model.config.name} to be saved")
    if form == "toolkit":
        _save_folder(model, tensors, path, force, record)
        return path
    if record is not None:
        raise CheckpointError(f"the form {form} has no place for a training record: save in the form toolkit.")
    if path.suffix not in SUFFIXES:
        raise OutputError(f"'{path}' names no file of weights: end it with one of {', '.join(SUFFIXES)}.")
    if path.is_dir() or (path.exists() and not force):
        raise OutputError(f"'{path}' exists already: remove it, give another name, or ask for replacement (force).")
    renamed = keys.foreign(form, tensors)
    stored = {renamed[name]: keys.value_out(form, name, value) for name, value in tensors.items()}
    for name in tensors:
        if keys.is_left_out(form, name):
            del stored[renamed[name]]
    with placing(path) as (part,):
        write_weights(part, stored, safetensors=path.suffix == ".safetensors")
    return path


def _save_folder(
    model: Clip, tensors: Mapping[str, Tensor], path: Path, force: bool, record: Mapping[str, Any] | None
) -> None:
    if path.suffix in SUFFIXES:
        raise OutputError(
            f"the form toolkit is a folder and '{path}' names a file: leave out {path.suffix}, or give a form."
        )
    if path.exists() and not path.is_dir():
        raise OutputError(f"'{path}' is a file where a folder is to be written: give another name.")
    if path.is_dir() and any(path.iterdir()) and not force:
        raise OutputError(f"the folder '{path}' holds something already: give another, or ask for replacement (force).")

    def config(digest: str) -> bytes:
        document = document_of(model.config, keys.state_of(tensors), model.origin, record, digest)
        return as_json(document, "the training record")

    config("0" * 64)  # a record that is no JSON is refused before anything is written
    with placing(path / WEIGHTS, path / CONFIG) as (weights, beside):
        write_weights(weights, tensors, safetensors=True)
        beside.write_bytes(config(sha256_of(weights)))


def _require_form(model: Clip, tensors: Mapping[str, Tensor], form: str) -> None:
    """Raise unless `form` can hold this model and `load` can take it back."""
    fused = [isinstance(tower, FUSED) for tower in (model.image, model.text) if tower is not None]
    fault = None
    if any(fused) and not all(fused):
        fault = "holds no model with one tower fused and the other not"
    elif any(fused) and form != "toolkit":
        fault = "holds no fused model"
    elif form == "timm" and model.text is not None:
        fault = "holds an image tower alone, and this model has a text tower"
    elif form in ("apple", "open_clip") and model.text is None:
        fault = "holds two towers, and this model has no text tower"
    elif form == "open_clip" and isinstance(model.text, MctText):
        fault = "has no names for the text tower mct"
    elif form == "apple" and model.config.image.timm not in _APPLE_TOWERS:
        fault = f"has no names for the image tower {model.config.image.timm}"
    elif form == "apple" and any(bool(tensors[name].any()) for name in tensors if keys.is_head_bias(name)):
        fault = "has no bias in the image projection, and this model's is not zero"
    if fault:
        raise CheckpointError(
            f"the form {form} {fault}: save {model.config.name} in a form that holds it (toolkit does)."
        )


# Finding the file


def _find(path_or_name: str | Path) -> _Found:
    text = str(path_or_name)
    if text.startswith("hf-hub:"):
        return _from_hub(text)
    path = Path(text)
    if path.is_dir():
        return _in_folder(path, text)
    if path.is_file():
        return _beside(path, text)
    if path.exists():
        raise CheckpointError(f"'{text}' is neither a file nor a folder: give a file of weights.")
    if ":" in text:
        return _from_open_clip(text)
    hint = (
        f" ({text} names an architecture: `mobileclip.create` builds it with random weights)" if text in MODELS else ""
    )
    raise CheckpointError(
        f"there is no file or folder '{text}'{hint}: give a path, hf-hub:owner/name, or a tag such as "
        "MobileCLIP-S2:datacompdr."
    )


def _in_folder(folder: Path, source: str) -> _Found:
    for name in FOLDER_FILES:
        if (folder / name).is_file():
            return _beside(folder / name, source)
    loose = sorted(item.name for item in folder.iterdir() if item.suffix in SUFFIXES and item.is_file())
    if len(loose) == 1:
        return _beside(folder / loose[0], source)
    what = f"{len(loose)} files of weights ({some(loose)})" if loose else f"no weights ({', '.join(FOLDER_FILES)})"
    raise CheckpointError(
        f"the folder '{folder}' holds {what}: give one file, or a folder that `mobileclip.save` wrote."
    )


def _beside(weights: Path, source: str) -> _Found:
    """The file, and the configuration that belongs to it by the names that open_clip, timm and we use."""
    if weights.name not in FOLDER_FILES:
        return _Found(weights=weights, source=source)
    companion = weights.with_name(OPEN_CLIP_CONFIG if weights.name.startswith("open_clip_") else CONFIG)
    if not companion.is_file():
        return _Found(weights=weights, source=source)
    values = read_json(companion)
    if "format" in values:
        require_document(values, companion)
    elif not {"architecture", "preprocess_cfg", "model_cfg"} & set(values):
        raise CheckpointError(
            f"'{companion}' is the configuration of another program (its keys: {some(values) or 'none'}), where this "
            "toolkit's, open_clip's or timm's belongs: restore it, or give the file of weights under another name."
        )
    return _Found(weights=weights, source=source, companion=values, companion_name=companion.name)


def _from_open_clip(text: str) -> _Found:
    """A released file by open_clip's name and tag, downloaded unless it is in the cache."""
    from open_clip import pretrained

    model, _, tag = text.partition(":")
    names = {config.open_clip: config.name for config in MODELS.values() if config.open_clip}
    if model not in names:
        raise UnknownName("path, or open_clip model", model, names)
    settings = pretrained.get_pretrained_cfg(model, tag)
    if not settings:
        raise UnknownName(f"tag of {model}", tag, pretrained.list_pretrained_tags_by_model(model))
    try:
        weights = Path(pretrained.download_pretrained(settings))
    except Exception as error:  # open_clip, its client and its transport raise each their own
        raise _unreachable(text, settings.get("hf_hub", "").strip("/"), error) from error
    pixels = {key: settings[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in settings}
    return _Found(
        weights=weights,
        source=text,
        companion={"preprocess_cfg": pixels},
        companion_name=f"open_clip's entry of {text}",
        name=names[model],
        released=True,
    )


def _from_hub(text: str) -> _Found:
    """`hf-hub:owner/name` or `hf-hub:owner/name@revision`, downloaded unless it is in the cache."""
    from huggingface_hub import snapshot_download

    match = re.fullmatch(r"hf-hub:(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?", text)
    if match is None:
        raise CheckpointError(f"'{text}' names no repository: write hf-hub:owner/name, or hf-hub:owner/name@revision.")
    safe = [name for name in FOLDER_FILES if name.endswith(".safetensors")]
    other = [name for name in FOLDER_FILES if name.endswith(".bin")] + ["mobileclip*.pt"]
    try:
        for files in (safe, other):  # the second are not downloaded where the first are there
            got = Path(
                snapshot_download(match[1], revision=match[2], allow_patterns=[*files, CONFIG, OPEN_CLIP_CONFIG])
            )
            if any(item.suffix in SUFFIXES for item in got.iterdir()):
                break
    except Exception as error:  # the client and its transport raise each their own
        raise _unreachable(text, match[1], error) from error
    return replace(_in_folder(got, text), released=match[1].startswith("apple/"))


def _unreachable(text: str, repository: str, error: Exception) -> CheckpointError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
    return CheckpointError(
        f"'{text}' could not be fetched: the repository {repository} was not reached and is not in the local cache "
        f"({reason}); go online, or give a local file of the weights."
    )


# What the file is


def _config(found: _Found, tensors: Mapping[str, Tensor], digest: str, wanted: ModelConfig | None) -> ModelConfig:
    """The configuration that the weights must fit: asked for, brought along, or recognised from the shapes."""
    state = keys.state_of(tensors)
    asked = "you asked for" if wanted else "where it should be"
    if found.name:
        wanted = wanted or MODELS[found.name]
    if found.document:
        own = config_in(found.document, found.weights.with_name(CONFIG), state, len(tensors))
        if found.document["sha256"] != digest:
            raise CheckpointError(
                f"'{found.weights}' is not the file that its config.json was written for (sha256 {digest[:12]}, there "
                f"{found.document['sha256'][:12]}): restore the pair, or save the model again."
            )
        wanted = wanted or own
    if state == "fused":
        if wanted is None or not found.document:
            raise CheckpointError(
                f"'{found.source}' holds fused weights and its config.json is not there: give the whole folder."
            )
        return wanted
    sizes = keys.sizes_in({name: tuple(value.shape) for name, value in tensors.items()})
    if wanted is not None:
        if sizes != keys.sizes_of(wanted):
            raise CheckpointError(
                f"the checkpoint '{found.source}' holds {_holds(sizes)}, {asked} {wanted.name}: "
                f"{keys.sizes_of(wanted)}; give the file of that model, or leave the name out."
            )
        return wanted
    names = _named_like(sizes)
    if not names:
        raise CheckpointError(
            f"the checkpoint '{found.source}' holds {_holds(sizes)}; known are {', '.join(MODELS)}: give one of these."
        )
    second = [name for name in names if name.startswith("mobileclip2")]
    return MODELS[second[0] if second and _says_second(found.weights) else names[0]]


def _says_second(path: Path) -> bool:
    """Whether the file calls itself MobileCLIP2; if it says neither, whether its folder or cached repository does."""
    if "mobileclip" in path.name.lower():
        return "mobileclip2" in path.name.lower()
    places = [path.parent.name, *(part for part in path.parts if part.startswith("models--"))]
    return any("mobileclip2" in place.lower() for place in places)


def _named_like(sizes: Sizes | None) -> list[str]:
    return [name for name, config in MODELS.items() if keys.sizes_of(config) == sizes]


def _holds(sizes: Sizes | None) -> str:
    """The sizes in words, with the name of the model or of the image tower that has them."""
    if sizes is None:
        return "part of a model, or one of another architecture"
    if names := _named_like(sizes):
        return f"{sizes} (looks like {names[0]})"
    towers = [name for name, config in MODELS.items() if keys.sizes_of(config)[:3] == sizes[:3]]
    return f"{sizes} (its image tower looks like that of {towers[0]})" if towers else f"{sizes} (like no known model)"


def _origin(found: _Found, config: ModelConfig, form: str, digest: str) -> Origin:
    licence, research = UNKNOWN, False
    kind = form.split(",")[0]
    published = config.image.timm.startswith(("fastvit_mci", "vit_base_mci")) and not config.image.args
    if found.document:
        licence, research = found.document["licence"], found.document["licence_research_only"]
    elif kind == "apple" or found.released:
        licence, research = APPLE, True
    elif published and kind in ("open_clip", "timm"):
        licence, research = PRESUMED, True
    return Origin(
        form=form,
        source=found.source,
        sha256=digest,
        licence=licence,
        licence_research_only=research,
        warnings=tuple(_pixel_warnings(found, config)),
        record=found.document.get("record", {}),
    )


def _pixel_warnings(found: _Found, config: ModelConfig) -> Iterator[str]:
    """A sentence if the configuration beside the weights asks for other pixels than the model is given."""
    theirs = found.companion.get("preprocess_cfg", found.companion.get("pretrained_cfg"))
    if not isinstance(theirs, Mapping):
        return
    pixels = config.preprocess
    ours: dict[str, object] = {"mean": pixels.mean, "std": pixels.std, "interpolation": pixels.interpolation}
    ours |= {"resize_mode": "shortest", "crop_pct": 1.0}
    other = [key for key in ours if key in theirs and not _same(theirs[key], ours[key])]
    if other:
        asked = ", ".join(f"{key} {str(theirs[key])[:80]}" for key in other)
        used = ", ".join(f"{key} {ours[key]}" for key in other)
        yield (
            f"{found.companion_name} asks for {asked}, where {config.name} takes {used}: the latter is used, as in "
            "the code that the weights were released with."
        )


def _same(theirs: object, ours: object) -> bool:
    if isinstance(ours, tuple):
        return isinstance(theirs, list | tuple) and len(theirs) == len(ours) and all(map(_same, theirs, ours))
    if isinstance(ours, float):
        return isinstance(theirs, int | float) and math.isclose(theirs, ours, abs_tol=1e-6)
    return theirs == ours
