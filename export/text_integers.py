"""Text towers with weights of 8 bits: linear layers whose activations are quantised as they come, and the table of
words as integers with one scale a row.

Nothing is calibrated: each layer takes its range from the values that enter it, so captions set no ranges and none can
be missing. XNNPACK quantises each token apart and writes floats; onnxruntime has one range for all tokens
(`DynamicQuantizeLinear` and `MatMulInteger`, made in to_onnx.py). Rows of the table are looked up by the ordinary
operator, which takes numbers of any type, so no runtime needs a kernel of its own for it. LayerNorms, softmax and
attention's own products stay in floats.
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torchao.quantization.pt2e import PerChannelMinMaxObserver, PlaceholderObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

from export.blocks import blocks_of
from export.targets import FLOATS, Quantisation

if TYPE_CHECKING:
    from export.views import View


def int8_text_module(view: "View", quantisation: Quantisation) -> nn.Module:
    """A graph of `view` (a text tower, fused and rewritten) that computes what the artifact does; `view` stays."""
    view, floats = copy.deepcopy(view), []
    for block, path in blocks_of(view).items():
        if quantisation.of(block) in FLOATS:
            floats.append(path)
        else:
            _replace(view, path)
    graph = torch.export.export(view, (view.example,)).module()
    assert isinstance(graph, fx.GraphModule)
    prepared = prepare_pt2e(graph, Dynamic(floats))
    with torch.no_grad():
        prepared(view.example)  # observers of weights see them when the graph runs
        module: fx.GraphModule = convert_pt2e(prepared)
    return module


class Table(nn.Module):
    """An embedding of int ids [...] to [..., C] whose rows are 127 steps either way of a scale of their own."""

    rows: Tensor
    scales: Tensor

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        weight = embedding.weight.detach()
        scales = (weight.abs().amax(1, keepdim=True) / 127).clamp(min=TINY)
        self.register_buffer("rows", (weight / scales).round().to(torch.int8))  # [V, C]
        self.register_buffer("scales", scales)  # [V, 1]

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.rows).to(self.scales.dtype) * F.embedding(ids, self.scales)


class TokenLinear(nn.Module):
    """A 1x1 convolution of a sequence [B, C, 1, L] as the linear layer that it is."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.linear = nn.Linear(conv.in_channels, conv.out_channels, bias=conv.bias is not None, device="meta")
        self.linear.weight = nn.Parameter(conv.weight.detach().flatten(1), requires_grad=False)
        if conv.bias is not None:
            self.linear.bias = nn.Parameter(conv.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, _, tokens = x.shape
        y = self.linear(x.reshape(batch, channels, tokens).transpose(1, 2))  # [B, L, D]
        out: Tensor = y.transpose(1, 2).reshape(batch, -1, 1, tokens)
        return out


TINY = 1e-12
"""Least scale: rows and channels of zeros have none."""


def dynamic(node: fx.Node) -> None:
    """Notes at a linear layer or dense convolution of a graph that its weights are integers by output channel and its
    input is quantised as it comes; its output is in floats."""
    note = QuantizationAnnotation(input_qspec_map={node.args[0]: _VALUES, node.args[1]: _WEIGHTS})
    note._annotated = True
    node.meta["quantization_annotation"] = note


class Dynamic(Quantizer):  # type: ignore[misc]
    """Linear layers (modules, not the sums that rewrites write as such) outside of the modules at `floats`: weights in
    127 steps either way by channel, inputs in 256 steps of the range that they have."""

    def __init__(self, floats: Sequence[str]) -> None:
        super().__init__()
        self.floats = frozenset(floats)

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Notes at each linear layer how its input and its weight are quantised."""
        for node in model.graph.nodes:
            if node.target == torch.ops.aten.linear.default and self._is_layer(node):
                dynamic(node)
        return model

    def validate(self, model: fx.GraphModule) -> None:
        """Nothing can be wrong."""

    def _is_layer(self, node: fx.Node) -> bool:
        stack = list(node.meta.get("nn_module_stack", {}).values())
        inside = {str(path).removeprefix("L['self'].") for path, _ in stack}
        return bool(stack) and "torch.nn.modules.linear." in str(stack[-1][1]) and not inside & self.floats


_VALUES = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-128,
    quant_max=127,
    qscheme=torch.per_tensor_affine,
    is_dynamic=True,
    observer_or_fake_quant_ctr=PlaceholderObserver.with_args(eps=TINY),
)
_WEIGHTS = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-127,
    quant_max=127,
    qscheme=torch.per_channel_symmetric,
    ch_axis=0,
    observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=TINY),
)


def _replace(view: "View", path: str) -> None:
    """What `Dynamic` cannot see in the module at `path`: embeddings, and linear layers written as convolutions."""
    for name, module in list(view.get_submodule(path).named_modules()):
        place = f"{path}.{name}".strip(".")
        if isinstance(module, nn.Embedding):
            view.set_submodule(place, Table(module))
        elif isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1:
            view.set_submodule(place, TokenLinear(module))
