"""Where a dense model begins: the encoder's weights from any checkpoint of an image tower, fitted to a pyramid.

Every source gives the weights of one of timm's towers under timm's names; `Pyramid.adapted` brings them to the model's
size (position embeddings, tables of relative positions), and they are filled in strictly: only what a pyramid dropped
(classifier, last norm or convolution) may be left over.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import timm
from torch import Tensor, nn

from mobileclip import checkpoint
from mobileclip import checkpoint_keys as keys
from mobileclip.checkpoint_build import fill_state
from mobileclip.checkpoint_config import UNKNOWN
from mobileclip.checkpoint_files import SUFFIXES, read_weights, sha256_of
from mobileclip.config import ModelConfig, Origin
from mobileclip.dense.checkpoint import SCRATCH, TIMM, is_dense, load
from mobileclip.dense.config import DenseConfig
from mobileclip.dense.encoders import config_from_timm, with_timms_pixels
from mobileclip.dense.labels import require_labels
from mobileclip.dense.model import DenseModel, build_head
from mobileclip.errors import CheckpointError
from mobileclip.fuse import is_fused
from mobileclip.models.pyramid import Pyramid, build_pyramid, pyramid_of

DROPPED = ("head.", "head_drop.", "fc_norm.", "norm.", "final_conv.", "pre_logits.", "head_dist.", "logit_scale")
"""What names of tensors begin with that a pyramid has no place for."""
BUFFERS = ("relative_position_index", "attn_mask")
"""Last parts of names of constants that some files hold and that are computed here."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where an encoder comes from."""

    encoder: ModelConfig
    state: Mapping[str, Tensor] | None = None
    """Weights of timm's tower; None for fresh ones."""
    origin: Origin | None = None
    dense: DenseModel | None = None
    """The dense model whose encoder it is."""


def start(config: DenseConfig, name: str, head: bool) -> DenseModel:
    """See `mobileclip.dense.checkpoint.start`."""
    source = source_of(name, config.encoder)
    config = replace(config, encoder=source.encoder)
    encoder = _encoder(source, config, name)
    model = DenseModel(config, encoder, build_head(config, encoder.channels))
    model.origin = source.origin
    if head:
        _take_head(model, source.dense, name)
    return model.eval()


def source_of(name: str, otherwise: ModelConfig) -> Source:
    """What `name` gives; `otherwise` is the encoder where it does not say."""
    if name in SCRATCH:
        return Source(encoder=otherwise)
    if is_dense(name):
        model = load(name)
        if is_fused(model):
            raise CheckpointError(_fused(name))
        return Source(encoder=model.config.encoder, origin=model.origin, dense=model)
    if name.startswith(TIMM):
        return _from_timm(name.removeprefix(TIMM), otherwise)
    path = Path(name)
    if path.suffix in SUFFIXES and path.is_file():
        stored = {keys.unwrapped(key): value for key, value in read_weights(path).items()}
        if not any(key.startswith(keys.PREFIXED) for key in stored):
            return _from_file(path, stored, otherwise)
    clip = checkpoint.load(name)
    assert clip.origin is not None
    if clip.origin.form.endswith((", fused", ", reparameterised")):
        raise CheckpointError(_fused(name))
    return Source(encoder=clip.config, state=clip.image.state_dict(), origin=clip.origin)


def _from_timm(name: str, otherwise: ModelConfig) -> Source:
    """Weights that timm downloads, unless they are in its cache."""
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = get_close_matches(architecture, timm.list_models(), n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'" if near else "timm.list_models() lists what it has"
        raise CheckpointError(f"timm has no model '{architecture}': {hint}.")
    tags = timm.list_pretrained(architecture)
    if not tags or ("." in name and name not in tags):
        known = ", ".join(tags) or "none"
        raise CheckpointError(f"timm has no weights '{name}': known for {architecture} are {known}; give one of these.")
    try:
        trunk = timm.create_model(name, pretrained=True)
    except Exception as error:  # the client and its transport raise each their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        raise CheckpointError(
            f"'{TIMM}{name}' could not be fetched and is not in the local cache ({reason}); go online, or give a local "
            "file of the weights."
        ) from error
    same = otherwise.image.timm == architecture
    encoder = with_timms_pixels(otherwise, name) if same else config_from_timm(name)
    licence = str(trunk.pretrained_cfg.get("license") or UNKNOWN)
    research = any(mark in licence for mark in ("apple-amlr", "nc-", "-nc", "research"))
    origin = Origin(form="timm", source=f"{TIMM}{name}", sha256="", licence=licence, licence_research_only=research)
    return Source(encoder=encoder, state=trunk.state_dict(), origin=origin)


def _from_file(path: Path, stored: Mapping[str, Tensor], otherwise: ModelConfig) -> Source:
    """A file under timm's names, which does not say what it is."""
    published = otherwise.image.timm.startswith(("fastvit_mci", "vit_base_mci")) and not otherwise.image.args
    origin = Origin(
        form="timm",
        source=str(path),
        sha256=sha256_of(path),
        licence=checkpoint.PRESUMED if published else UNKNOWN,
        licence_research_only=published,
    )
    return Source(encoder=otherwise, state=stored, origin=origin)


def _encoder(source: Source, config: DenseConfig, name: str) -> Pyramid:
    if source.dense is not None:
        return _resized(source.dense.encoder, config)
    encoder = build_pyramid(source.encoder, config.size)
    if source.state is not None:
        state = {
            key: value
            for key, value in source.state.items()
            if not key.startswith(DROPPED) and not key.endswith(BUFFERS)
        }
        fill_state(encoder.trunk.state_dict(), encoder.adapted(state), source.encoder.name, f"'{name}'")
    return encoder


def _resized(encoder: nn.Module, config: DenseConfig) -> Pyramid:
    """A pyramid at another size, with all weights that do not depend on it."""
    assert isinstance(encoder, Pyramid)
    own = {key: value for key, value in encoder.state_dict().items() if not key.startswith("trunk.")}
    pyramid = pyramid_of(encoder.trunk, config.size, config.encoder.name)
    pyramid.load_state_dict({**pyramid.state_dict(), **own})
    return pyramid


def _take_head(model: DenseModel, begun: DenseModel | None, name: str) -> None:
    if begun is None or begun.config.head != model.config.head:
        what = "no head" if begun is None else f"the head {begun.config.head}"
        raise CheckpointError(
            f"'{name}' holds {what} where {model.config.head} is to be kept: give a dense checkpoint with it, or begin "
            "with a fresh head."
        )
    require_labels(begun.config.labels, model.config.labels, f"'{name}'")
    fill_state(model.head.state_dict(), begun.head.state_dict(), model.config.name, f"'{name}'")


def _fused(name: str) -> str:
    return (
        f"'{name}' is fused or reparameterised, which cannot be trained any more: give the checkpoint that it was made "
        "from."
    )
