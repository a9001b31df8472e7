"""Training with the rounding of int8 artifacts (quantisation-aware training): weights learn to be rounded.

    clip = prepare(start("runs/s2/best", "mobileclip_s2"))     # fused, image tower rounded as it computes
    mobileclip train mci2-scratch --qat runs/s2/best --shards … --out runs/s2-int8

What trains is the fused form, as that is what an export rounds. Rounded are the places that the export rounds
(export/integers.py): weights to -127..127 by output channel, inputs and outputs of convolutions and linear layers and
of sums between blocks to 256 values between ends that follow the least and largest value of the batches. Gradients pass
rounding as if it were not there, except where a value was cut off (Jacob et al., 2018, arXiv 1712.05877, section 3).
Texts stay in floats and do not train, so classifiers and indices of texts stay valid.

Rounding is a parametrisation of `weight` and hooks on modules: the optimiser, DDP, averaged weights and checkpoints see
ordinary parameters and buffers. `plain` gives the state of the fused model back; what is saved is that model, and an
export rounds it like any other.

A BatchNorm behind a convolution (in the head of a dense model) is at rest and scales each channel, so rounding the
weights before it is rounding the folded ones.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from mobileclip.config import Origin
from mobileclip.distributed import world
from mobileclip.errors import CheckpointError
from mobileclip.models import Clip, build
from mobileclip.models.blocks import Block
from mobileclip.models.mci import AttentionBlock, MixerBlock, SqueezeExcitation
from mobileclip.models.swin import SwinBlock
from mobileclip.models.training import quicken_tower

RECORD = "quantisation_aware"
"""Key of a checkpoint's record that tells of this training."""
LEAVES = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
"""Layers whose weights are rounded."""
SUMS = (MixerBlock, AttentionBlock, SwinBlock, Block, SqueezeExcitation)
"""Modules that end in a sum or a product of two maps, which is rounded too."""
SMALLEST = 2.0**-30
"""Smallest step between two values, as in an export (export/ranges.py)."""
RATE = 0.01
"""Share of a batch in the ends of a range; the first hundred batches count alike."""

_IN, _OUT, _ORIGINAL = "range_in", "range_out", "parametrizations.weight.original"
_DONE = "_rounded"  # mark of a tensor that was rounded already: rounding twice in two grids would count twice


class Range(nn.Module):
    """Rounds an activation to 8 bits, asymmetric; its ends follow the batches (`follow`), and rest in evaluation."""

    low: Tensor
    high: Tensor
    batches: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.seen: Tensor | None = None
        """-least and largest value [2] of this step's parts."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same, rounded; before the first batch by the ends of `x` itself."""
        if getattr(x, _DONE, False):
            return x
        low, high = self.low, self.high
        if self.training or not self.batches:
            least, largest = x.detach().float().aminmax()
            seen = torch.stack([-least, largest])
            if self.training:
                self.seen = seen if self.seen is None else torch.maximum(self.seen, seen)
            if not self.batches:
                low, high = least, largest
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        step = ((high - low) / 255).clamp(min=SMALLEST)
        zero = (-128 - (low / step).round()).clamp(-128, 127).to(torch.int32)
        out = torch.fake_quantize_per_tensor_affine(x.float(), step, zero, -128, 127).to(x.dtype)
        setattr(out, _DONE, True)
        return out


class Rounded(nn.Module):
    """Parametrisation of a weight: 8 bits, symmetric, a step for each output channel."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, weight: Tensor) -> Tensor:
        """A weight -> the same, rounded."""
        wide = weight.float()
        others = [dim for dim in range(weight.ndim) if dim != self.axis]
        step = (wide.detach().abs().amax(others) / 127).clamp(min=SMALLEST)
        zero = torch.zeros_like(step, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(wide, step, zero, self.axis, -127, 127).to(weight.dtype)


def start(checkpoint: str | Path, name: str | None = None) -> Clip:
    """The fused model of a trained checkpoint, in floats; its origin tells of the checkpoint.

    Args:
        checkpoint: what `mobileclip.load` takes, in any form.
        name: key of `MODELS` that it must fit.

    Raises:
        CheckpointError: it cannot be read, is of another model, was not trained, or was trained so already.
    """
    from mobileclip.checkpoint import load
    from mobileclip.fuse import fuse

    _require_weights(str(checkpoint))
    clip = load(checkpoint, name)
    assert clip.origin is not None
    origin = begun(clip.origin, str(checkpoint))
    fused = fuse(clip)
    assert isinstance(fused, Clip)
    fused.origin = origin
    return fused


def begun(origin: Origin, checkpoint: str) -> Origin:
    """The origin of what is trained from a float checkpoint: its record is kept apart, as what it began from.

    Raises:
        CheckpointError: it was drawn and never trained, or trained with rounding already.
    """
    record = dict(origin.record)
    if RECORD in record:
        raise CheckpointError(
            f"'{checkpoint}' was trained with --qat already: give the checkpoint in floats that it began from"
            f"{_source(record)}."
        )
    drawn = origin.form.startswith("seeded") or str(_begun(record).get("form", "")).startswith("seeded")
    if drawn and "recipe" not in record:
        raise CheckpointError(
            f"'{checkpoint}' holds weights that were drawn and not trained: give --qat a trained checkpoint."
        )
    told = {"form": origin.form, "source": origin.source, "sha256": origin.sha256, "record": record}
    return replace(origin, record={"begun_from": told})


def prepare(clip: Clip) -> Clip:
    """A copy of a fused model whose image tower trains and rounds; texts and the factor on cosines are at rest."""
    new = copy.deepcopy(clip).requires_grad_(False)
    for module in new.modules():  # blocks of a text tower share one mask, which no file of weights may
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.clone())
    quicken_tower(new.image)
    insert(new.image)
    new.image.requires_grad_(True)
    return new


def insert(model: nn.Module) -> None:
    """Put rounding into a module, in place: weights of all `LEAVES`, what goes into them, and what comes out.

    Behind a leaf of a `Sequential`, BatchNorm and ReLU belong to it (an export folds one and fuses the other), so what
    comes out is rounded behind them.
    """
    behind = dict(_behind(model))
    for module in list(model.modules()):
        if isinstance(module, LEAVES):
            axis = 1 if isinstance(module, nn.ConvTranspose2d) else 0
            parametrize.register_parametrization(module, "weight", Rounded(axis))
            module.add_module(_IN, Range())
            module.register_forward_pre_hook(_enter)
            _round_output(behind.get(module, module))
        elif isinstance(module, SUMS):
            _round_output(module)
            if isinstance(module, SqueezeExcitation):
                _round_output(module.gate)


def follow(model: nn.Module) -> None:
    """After a step: the ends of all ranges move towards what the step's parts have seen, on all ranks."""
    ranges = [module for module in model.modules() if isinstance(module, Range)]
    if not ranges:
        return
    mine = torch.stack([torch.full_like(r.low, -torch.inf).expand(2) if r.seen is None else r.seen for r in ranges])
    if world() > 1:
        dist.all_reduce(mine, dist.ReduceOp.MAX)
    with torch.no_grad():
        for one, (least, largest) in zip(ranges, mine.unbind(), strict=True):
            one.seen = None
            if not torch.isfinite(largest):
                continue  # not passed: the branch did not run, or was rounded before
            one.batches += 1
            share = max(RATE, 1 / int(one.batches))
            one.low.lerp_(-least, share)
            one.high.lerp_(largest, share)


def rest(model: nn.Module) -> None:
    """BatchNorms at rest, as they will be folded; their scale and bias train."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a model with rounding as that of the model without."""
    kept = {name: value for name, value in state.items() if not {_IN, _OUT} & set(name.split("."))}
    return {name.replace(_ORIGINAL, "weight"): value for name, value in kept.items()}


def fused_clip(begun_as: Clip, state: Mapping[str, Tensor]) -> Clip:
    """The fused model, without rounding, with the weights of a state of `prepare`d `begun_as`; on the CPU."""
    from mobileclip.fuse import fuse

    with torch.device("meta"):
        fused = fuse(build(begun_as.config))
    fused = fused.to_empty(device="cpu")
    assert isinstance(fused, Clip)
    fused.load_state_dict(plain(state))
    fused.origin = begun_as.origin
    return fused.eval().requires_grad_(False)


def told(towers: tuple[str, ...]) -> dict[str, Any]:
    """What a checkpoint's record says of this training."""
    return {RECORD: {"precision": "w8a8", "towers": list(towers)}}


def _require_weights(checkpoint: str) -> None:
    from mobileclip.checkpoint import SEEDED

    if checkpoint.startswith(SEEDED):
        raise CheckpointError(
            f"'{checkpoint}' holds weights that were drawn and not trained: give --qat a trained checkpoint."
        )
    if (Path(checkpoint) / "manifest.json").is_file():
        raise CheckpointError(
            f"'{checkpoint}' is a bundle of artifacts, which no training takes: give --qat the checkpoint that it was "
            "exported from."
        )


def _begun(record: Mapping[str, Any]) -> Mapping[str, Any]:
    found = record.get("begun_from")
    return found if isinstance(found, Mapping) else {}


def _source(record: Mapping[str, Any]) -> str:
    source = _begun(record).get("source")
    return f" ({source})" if source else ""


def _behind(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """(leaf, the BatchNorm or ReLU that ends it) where a `Sequential` has one behind a leaf."""
    for sequence in model.modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        leaf: nn.Module | None = None
        for layer in sequence:
            if isinstance(layer, LEAVES):
                leaf = layer
            elif leaf is not None and isinstance(layer, (_BatchNorm, nn.ReLU)):
                yield leaf, layer
            else:
                leaf = None


def _round_output(module: nn.Module) -> None:
    if not hasattr(module, _OUT):
        module.add_module(_OUT, Range())
        module.register_forward_hook(_leave)


def _enter(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    first, *others = args
    return (getattr(module, _IN)(first), *others)


def _leave(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    rounded: Tensor = getattr(module, _OUT)(out)
    return rounded
