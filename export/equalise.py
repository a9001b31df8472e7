"""Exact rescalings that give the channels of a tensor equal ranges, so that one step of eight bits suits them all.

A tensor is quantised with one step for all its channels; a channel that is ten times smaller than another has a tenth
of the 256 values. Where nothing but linear layers write and read a tensor, each channel can be multiplied by a factor
that its writers take up and its readers take back (cross-layer equalisation, Nagel et al., 2019, arXiv 1906.04721,
section 4.1; with weights weighed against activations, SmoothQuant, Xiao et al., 2023, arXiv 2211.10438, section 4).
Here these tensors are:

- what the depthwise convolution of a perceptron gives to its first layer;
- values, and queries against keys, of attention;
- the stream of a whole stage of MCi: all that is written to it and read from it is scaled, up to the depthwise
  convolution that opens the next stage.

A channel may also be moved to lie about zero (Outlier Suppression+, Wei et al., 2023, arXiv 2304.09145, section 4.1)
where its reader has no padding: between depthwise convolution and perceptron, in values (attention's weights sum to
one) and in keys (softmax does not see what is added to a whole row).

Legend: C channels of a tensor; `factor` [C] float64 is what a tensor is multiplied by.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.depthwise import SplitDepthwise, SplitMultiplier
from export.views import View
from mobileclip.models import text
from mobileclip.models.blocks import Attention
from mobileclip.models.mci import AttentionBlock, ConvMlp, FusedMCi, MixerBlock
from mobileclip.models.swin import WindowAttention

ALPHA = 0.8
"""How far ranges of activations are made equal (1: wholly) before weights of a dense reader become too unequal."""
WIDEST = 64.0
"""Largest factor, and its inverse the least, against the geometric mean of a tensor's channels."""


@dataclass
class Range:
    """Least and greatest value of each channel that was seen, [C] each."""

    least: Tensor
    greatest: Tensor

    @property
    def reach(self) -> Tensor:
        """Largest magnitude of each channel, float64 [C]."""
        return torch.maximum(self.greatest, -self.least).double()

    @property
    def half(self) -> Tensor:
        """Half of the width of each channel, float64 [C]."""
        return (self.greatest.double() - self.least.double()) / 2

    @property
    def middle(self) -> Tensor:
        """Halfway between the ends of each channel, float64 [C]."""
        return (self.greatest.double() + self.least.double()) / 2


def equalised(view: View, inputs: Sequence[Tensor], *, alpha: float = ALPHA, shifts: bool = True) -> View:
    """A copy of `view` (fused, rewritten or not) whose tensors have more equal channels; it computes the same.

    Args:
        inputs: of the view; they show the ranges.
        alpha: 0..1, see `ALPHA`.
        shifts: whether channels are moved as well.
    """
    view = copy.deepcopy(view)
    seen = ranges(view, inputs)
    for path, module in view.named_modules():
        if isinstance(module, ConvMlp | text.FusedRepMixerBlock):
            _perceptron(module, seen[f"{path}.conv"], alpha, shifts)
        elif isinstance(module, Attention | WindowAttention):
            # windows of Swin are filled up with zeros behind the projection, which would have to move as well
            _attention(module, seen[f"{path}.qkv"], alpha, shifts and isinstance(module, Attention))
        elif isinstance(module, FusedMCi):
            _streams(module, path, seen, alpha)
    return view


@torch.no_grad()
def ranges(view: View, inputs: Sequence[Tensor]) -> dict[str, Range]:
    """Path of a module -> ranges of its output, of those that `equalised` looks at."""
    seen: dict[str, Range] = {}
    handles = []
    for path, module in view.named_modules():
        if _is_watched(module, path):
            handles.append(module.register_forward_hook(_watch(seen, path)))
    try:
        for x in inputs:
            view(x)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _is_watched(module: nn.Module, path: str) -> bool:
    name = path.rpartition(".")[2]
    blocks = isinstance(module, MixerBlock | AttentionBlock)
    return blocks or name in ("conv", "qkv", "mixer") or isinstance(module, nn.Conv2d | SplitDepthwise)


def _watch(seen: dict[str, Range], path: str) -> Callable[[nn.Module, object, Tensor], None]:
    def look(module: nn.Module, _: object, out: Tensor) -> None:
        axis = out.ndim - 1 if isinstance(module, nn.Linear) else 1
        least, greatest = out.transpose(0, axis).flatten(1).aminmax(dim=1)
        if path in seen:
            least, greatest = (
                torch.minimum(seen[path].least, least),
                torch.maximum(seen[path].greatest, greatest),
            )
        seen[path] = Range(least, greatest)

    return look


def _perceptron(module: ConvMlp | text.FusedRepMixerBlock, seen: Range, alpha: float, shifts: bool) -> None:
    if shifts:
        _add_bias(module.conv, -seen.middle)
        _add_bias(module.fc1, _columns(module.fc1) @ seen.middle)
    factor = _factor(seen.half if shifts else seen.reach, _reads(module.fc1), alpha)
    _scale_outputs(module.conv, factor)
    _scale_inputs(module.fc1, 1 / factor)


def _attention(module: Attention | WindowAttention, seen: Range, alpha: float, shifts: bool) -> None:
    dim = module.proj.in_features
    if shifts:
        move = seen.middle.clone()
        move[:dim] = 0
        _add_bias(module.qkv, -move)
        _add_bias(module.proj, module.proj.weight.detach().double() @ move[2 * dim :])
    size = seen.half if shifts else seen.reach
    queries, keys, values = seen.reach[:dim], size[dim : 2 * dim], size[2 * dim :]
    even = _bounded((keys.clamp_min(_NOTHING) / queries.clamp_min(_NOTHING)).sqrt())
    factor = _factor(values, _reads(module.proj), alpha)
    # all three are one tensor to the quantiser: values get the size of queries and keys
    factor = factor * (queries * even).median().clamp_min(_NOTHING) / (values * factor).median().clamp_min(_NOTHING)
    _scale_outputs(module.qkv, torch.cat([even, 1 / even, factor]))
    _scale_inputs(module.proj, 1 / factor)


def _streams(tower: FusedMCi, path: str, seen: dict[str, Range], alpha: float) -> None:
    stages = list(tower.stages)
    for index, stage in enumerate(stages):
        assert isinstance(stage, nn.Sequential)
        following = stages[index + 1] if index + 1 < len(stages) else tower.final
        assert isinstance(following, nn.Sequential)
        _stream(stage, f"{path}.stages.{index}" if path else f"stages.{index}", following[0], seen, alpha)


def _stream(stage: nn.Sequential, path: str, reader: nn.Module, seen: dict[str, Range], alpha: float) -> None:
    """Scales what blocks add to and read from; the first depthwise convolution of them writes it."""
    names = [name for name, layer in stage.named_children() if isinstance(layer, MixerBlock | AttentionBlock)]
    if not names:
        return
    blocks = [stage[int(name)] for name in names]
    before = stage[int(names[0]) - 1] if int(names[0]) else None
    if isinstance(blocks[0], MixerBlock):
        first: nn.Module = blocks[0].mixer
        places = [f"{path}.{names[0]}.mixer"]
    elif before is not None and _is_depthwise(before):
        first, places = before, [f"{path}.{int(names[0]) - 1}"]  # the position
    else:
        return
    if any(isinstance(block, AttentionBlock) and not isinstance(block.norm, nn.Identity) for block in blocks):
        return  # a mean over channels is no reader that could take a factor back
    places += [f"{path}.{name}" for name in names]
    places += [f"{path}.{n}.mixer" for n, block in zip(names, blocks, strict=True) if isinstance(block, MixerBlock)]
    sizes = torch.stack([seen[place].reach / seen[place].reach.max().clamp_min(_NOTHING) for place in set(places)])
    size = sizes.clamp_min(_NOTHING).log().mean(0).exp()
    dense = [_reads(block.attn.qkv) for block in blocks if isinstance(block, AttentionBlock)]
    factor = _factor(size, torch.stack(dense).amax(0) if dense else None, alpha)
    _scale_outputs(first, factor)
    for block in blocks:
        if isinstance(block, MixerBlock):
            if block.mixer is not first:
                _scale_inputs(block.mixer, 1 / factor)
                _scale_outputs(block.mixer, factor)
        else:
            assert isinstance(block, AttentionBlock)
            _scale_inputs(block.attn.qkv, 1 / factor)
            _scale_outputs(block.attn.proj, factor)
        _scale_inputs(block.mlp.conv, 1 / factor)
        _scale_outputs(block.mlp.fc2, factor)
    _scale_inputs(reader, 1 / factor)


_NOTHING = 1e-6
"""Magnitudes below are taken for this: a channel that is never used gets no endless factor."""


def _factor(size: Tensor, reads: Tensor | None, alpha: float) -> Tensor:
    """What makes channels of `size` [C] equal; `reads` [C] are the largest weights of a dense reader, whose rows are
    quantised with one step and want equal columns too. A depthwise reader does not mind."""
    size = size.clamp_min(_NOTHING * float(size.max().clamp_min(_NOTHING)))
    if reads is None:
        return _bounded(1 / size)
    return _bounded(reads.clamp_min(_NOTHING * float(reads.max())) ** (1 - alpha) / size**alpha)


def _bounded(factor: Tensor) -> Tensor:
    factor = factor / factor.log().mean().exp()
    return factor.clamp(1 / WIDEST, WIDEST)


def _reads(layer: nn.Module) -> Tensor:
    """Largest weight of each input channel of a dense layer, float64 [C]."""
    return _columns(layer).abs().amax(0)


def _columns(layer: nn.Module) -> Tensor:
    """Weight of a linear layer or a 1x1 convolution, float64 [out, in]."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    assert layer.weight[0, 0].numel() == 1
    return layer.weight.detach().double().flatten(1)


def _is_depthwise(layer: nn.Module) -> bool:
    return all(part.groups == part.in_channels for part in _parts(layer)) and any(True for _ in _parts(layer))


def _parts(layer: nn.Module) -> Iterator[nn.Conv2d]:
    return (part for part in layer.modules() if isinstance(part, nn.Conv2d))


@torch.no_grad()
def _scale_outputs(layer: nn.Module, factor: Tensor) -> None:
    """Multiplies a layer's output channels."""
    assert isinstance(layer, nn.Linear | nn.Conv2d | SplitDepthwise), type(layer).__name__
    for part in [layer] if isinstance(layer, nn.Linear) else _parts(layer):
        shape = (-1, *[1] * (part.weight.ndim - 1))
        part.weight.data = (part.weight.double() * factor.reshape(shape)).to(part.weight)
        if part.bias is not None:
            part.bias.data = (part.bias.double() * factor).to(part.bias)


@torch.no_grad()
def _scale_inputs(layer: nn.Module, factor: Tensor) -> None:
    """Changes a layer as if its input channels were multiplied."""
    assert isinstance(layer, nn.Linear | nn.Conv2d | SplitDepthwise | SplitMultiplier), type(layer).__name__
    for part in [layer] if isinstance(layer, nn.Linear) else _parts(layer):
        if isinstance(part, nn.Conv2d) and part.groups > 1:
            assert part.groups == part.in_channels
            each = factor.repeat_interleave(part.out_channels // part.in_channels).reshape(-1, 1, 1, 1)
        else:
            each = factor.reshape(1, -1, *[1] * (part.weight.ndim - 2))
        part.weight.data = (part.weight.double() * each).to(part.weight)


@torch.no_grad()
def _add_bias(layer: nn.Module, shift: Tensor) -> None:
    """Adds to a layer's output channels; of several parts, the first that has a bias takes it."""
    parts: list[nn.Linear | nn.Conv2d] = [layer] if isinstance(layer, nn.Linear) else list(_parts(layer))
    part = next((part for part in parts if part.bias is not None), parts[0])
    if part.bias is None:
        part.bias = nn.Parameter(torch.zeros_like(shift).to(part.weight), requires_grad=False)
    part.bias.data = (part.bias.double() + shift).to(part.bias)
