"""Weights and activations of 8 bits, as one PT2E graph that every runtime takes: XNNPACK lowers it, onnxruntime has it
as QDQ nodes, Core ML as quantize and dequantize operators. The same integers everywhere.

Weights are symmetric by channel, activations asymmetric by tensor with ranges from calibration inputs. Quantise what is
fused and rewritten: a BatchNorm that is folded afterwards changes the ranges.

What is quantised: convolutions and linear layers of the blocks that should be, and additions and concatenations of what
is in integers already. All else (gates, softmax, means, GELU) stays in floats between them, where no runtime has
integer kernels that are worth their error.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torchao.quantization.pt2e.observer import PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)

from export.biases import Means, correct
from export.blocks import blocks_of
from export.depthwise import floats_are_faster
from export.equalise import equalised
from export.limits import widen
from export.ranges import FINEST, ActivationRange, Behind
from export.targets import Quantisation
from export.text_integers import dynamic

if TYPE_CHECKING:
    from export.views import View


ops = torch.ops.aten


@dataclass(frozen=True, kw_only=True)
class Method:
    """What is done for accuracy; all of it costs time here and none on the device."""

    activations: bool = True
    """Ranges of activations with the least squared error; else from the least to the greatest value."""
    behind: bool = True
    """Whether errors before a GELU are judged behind it."""
    equalised: bool = False
    """Whether channels are given equal ranges first (`export.equalise`); where depthwise convolutions stay in floats
    this has gained nothing."""
    corrected: bool = True
    """Whether the mean error of each layer is taken out of its bias."""
    depthwise: bool = True
    """Whether depthwise convolutions stay in floats where integers are no faster (`floats_are_faster`)."""
    small: bool = True
    """Whether layers that see one position, as in gates, keep activations in floats, or take the range of what comes
    where the runtime can."""


BEST = Method()


def int8_module(view: "View", quantisation: Quantisation, method: Method = BEST) -> nn.Module:
    """A graph of `view` with quantise and dequantise nodes; it computes what the artifact does."""
    floats = [path for block, path in blocks_of(view).items() if quantisation.of(block) != "w8a8"]
    if method.equalised:
        view = equalised(view, quantisation.inputs)
    graph = torch.export.export(_with_biases(view), (view.example,)).module()
    assert isinstance(graph, fx.GraphModule)
    prepared = prepare_pt2e(graph, Int8(floats, method, dynamic=quantisation.dynamic))
    means = Means(prepared)
    with torch.no_grad():
        for x in quantisation.inputs:
            means.run(x)
        module: fx.GraphModule = widen(convert_pt2e(prepared))
        if method.corrected:
            correct(module, quantisation.inputs, means.found())
    return module


def _with_biases(view: "View") -> "View":
    """A copy where every layer but depthwise ones has a bias, which costs nothing and can take a mean error; the layer
    behind takes that of depthwise ones."""
    view = copy.deepcopy(view)
    for layer in view.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and layer.bias is None:
            if getattr(layer, "groups", 1) > 1:
                continue
            out = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
            layer.bias = nn.Parameter(torch.zeros(out).to(layer.weight), requires_grad=False)
    return view


_WEIGHTED = {ops.conv2d.default, ops.linear.default, ops.conv_transpose2d.input}
_JOINING = {ops.add.Tensor, ops.cat.default, ops.mul.Tensor}
_MOVING = {
    ops.relu.default,
    ops.max_pool2d.default,
    ops.permute.default,
    ops.transpose.int,
    ops.squeeze.dim,
    ops.unsqueeze.default,
    ops.view.default,
    ops.reshape.default,
    ops.slice.Tensor,
    ops.flatten.using_ints,
    ops.dropout.default,
}
"""Operators whose outputs are values of their input."""


class Int8(Quantizer):  # type: ignore[misc]
    """Says which tensors of a graph are in integers. XNNPACK's rules (executorch, XNNPACKQuantizer): activations
    -128..127 by tensor, weights -127..127 by channel, transposed convolutions in one group."""

    def __init__(self, floats: Sequence[str], method: Method, *, dynamic: bool = False) -> None:
        super().__init__()
        self.floats, self.method, self.dynamic = frozenset(floats), method, dynamic
        self.integers: set[fx.Node] = set()
        self.ends = _values(search=False)
        self.best = _values(search=method.activations)
        self.gelu = _values(search=method.activations, behind=torch.nn.functional.gelu) if method.behind else self.best

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Notes at each node how its inputs and its output are quantised."""
        for node in model.graph.nodes:
            if node.op != "call_function":
                continue
            if node.target in _WEIGHTED:
                self._weighted(node)
            elif node.target in _JOINING:
                self._joining(node)
            elif node.target in _MOVING and node.args[0] in self.integers and node not in self.integers:
                shared = SharedQuantizationSpec(node.args[0])
                self._note(node, {node.args[0]: shared}, shared)
        return model

    def validate(self, model: fx.GraphModule) -> None:
        """Nothing can be wrong."""

    def _weighted(self, node: fx.Node) -> None:
        source, weight = node.args[0], node.args[1]
        assert isinstance(source, fx.Node)
        assert isinstance(weight, fx.Node)
        transposed = node.target == ops.conv_transpose2d.input
        if self._in_floats(node) or (transposed and _argument(node, 6, 1) != 1):
            return
        if self.method.small and _positions(node) == 1:
            if self.dynamic and not transposed:
                dynamic(node)
            return
        if self.method.depthwise and floats_are_faster(node):
            return
        axis = 1 if transposed else 0
        self._note(node, {source: self._values(source), weight: _weights(axis)}, self._values(node))

    def _joining(self, node: fx.Node) -> None:
        parts: Any = node.args[0] if node.target == ops.cat.default else node.args[:2]
        if self._in_floats(node) or not all(part in self.integers for part in parts):
            return
        if node.target == ops.cat.default:
            first, *rest = parts
            shared = SharedQuantizationSpec((first, node))
            self._note(node, {first: self._values(first)} | dict.fromkeys(rest, shared), shared)
        else:
            self._note(node, {part: self._values(part) for part in parts}, self._values(node))

    def _values(self, tensor: fx.Node) -> QuantizationSpec:
        """How the output of a node is quantised, whoever reads it: what differs would be rounded twice."""
        if tensor.op == "placeholder":  # pixels are steps of 1/255 already
            return self.ends
        return self.gelu if _only_gelu_reads(tensor) else self.best

    def _note(self, node: fx.Node, inputs: dict[Any, Any], output: Any) -> None:
        """The output of a layer or sum that only a ReLU reads is in integers behind it."""
        behind = next(iter(node.users)) if len(node.users) == 1 else None
        fused = behind is not None and behind.target == ops.relu.default and not self._in_floats(behind)
        if fused and node.target not in _MOVING and node.target != ops.cat.default:
            assert behind is not None
            node.meta[_KEY] = QuantizationAnnotation(input_qspec_map=inputs, _annotated=True)
            behind.meta[_KEY] = QuantizationAnnotation(output_qspec=output, _annotated=True)
            self.integers.add(behind)
            return
        node.meta[_KEY] = QuantizationAnnotation(input_qspec_map=inputs, output_qspec=output, _annotated=True)
        self.integers.add(node)

    def _in_floats(self, node: fx.Node) -> bool:
        stack = node.meta.get("nn_module_stack", {})
        return any(str(path).removeprefix("L['self'].") in self.floats for path, _ in stack.values())


_KEY = "quantization_annotation"


def _argument(node: fx.Node, position: int, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else default


def _positions(node: fx.Node) -> int:
    """Outputs of each output channel."""
    shape = node.meta["val"].shape
    channels = shape[-1] if node.target == ops.linear.default else shape[1]
    return int(shape.numel() // channels)


def _only_gelu_reads(tensor: fx.Node) -> bool:
    moved = _MOVING | {ops.cat.default}
    return bool(tensor.users) and all(
        user.target == ops.gelu.default or (user.target in moved and _only_gelu_reads(user)) for user in tensor.users
    )


def _values(*, search: bool, behind: Behind | None = None) -> QuantizationSpec:
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_tensor_affine,
        observer_or_fake_quant_ctr=ActivationRange.with_args(search=search, behind=behind),
    )


def _weights(axis: int) -> QuantizationSpec:
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=-127,
        quant_max=127,
        qscheme=torch.per_channel_symmetric,
        ch_axis=axis,
        observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=FINEST),
    )
