"""The mean error of quantised layers, taken out of their biases (Nagel et al., 2019, arXiv 1906.04721, section 4.2).

Rounded weights and clipped activations move the mean of each output channel. It is measured on calibration inputs, and
layer after layer: what a layer is given has passed through all corrected ones before it. All inputs go through the
graph side by side, node by node, so that this takes one pass and not one for each layer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

ops = torch.ops.aten
_WEIGHTED = {ops.conv2d.default, ops.linear.default, ops.conv_transpose2d.input}
MOST = 32
"""Inputs that biases are corrected with; all of them are in memory at once."""


class Means(fx.Interpreter):
    """Runs a graph, and adds up the outputs of its layers by channel."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.sums: dict[str, Tensor] = {}
        self.runs = 0

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """One pass; counts it."""
        self.runs += 1
        return super().run(*args, **kwargs)

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node."""
        out = super().run_node(n)
        if n.target in _WEIGHTED and self.runs <= MOST:
            mean = _mean(n, out)
            self.sums[n.name] = self.sums[n.name] + mean if n.name in self.sums else mean
        return out

    def found(self) -> dict[str, Tensor]:
        """Layer -> mean of its output, float64 [C], over the first `MOST` runs."""
        return {name: total / min(self.runs, MOST) for name, total in self.sums.items()}


@torch.no_grad()
def correct(module: fx.GraphModule, inputs: Sequence[Tensor], means: Mapping[str, Tensor]) -> None:
    """Changes the biases of quantised layers so that their outputs have `means` over the first `MOST` inputs."""
    inputs = inputs[:MOST]
    values: dict[fx.Node, Any] = {}
    last = {source: node for node in module.graph.nodes for source in node.all_input_nodes}
    for node in module.graph.nodes:
        if node.op == "placeholder":
            values[node] = _Each(inputs)
        elif node.op == "get_attr":
            values[node] = _attribute(module, str(node.target))
        elif node.op == "call_function":
            values[node] = _run(node, values, len(inputs))
            if node.name in means and _is_quantised(node) and len(node.args) > 2 and node.args[2] is not None:
                shift = means[node.name] - sum(_mean(node, out) for out in values[node]) / len(inputs)
                bias = values[node.args[2]]
                bias.add_(shift.to(bias))
                values[node] = _Each(out + _along(node, shift.to(out)) for out in values[node])
        for source in node.all_input_nodes:
            if last[source] is node:
                del values[source]


class _Each(list[Any]):
    """A value for each input; what is none of these is the same for all."""


def _run(node: fx.Node, values: Mapping[fx.Node, Any], count: int) -> Any:
    call: Any = node.target
    sources = node.all_input_nodes
    if not any(isinstance(values[source], _Each) for source in sources):
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: values[source])
        return call(*args, **kwargs)
    out = _Each()
    for index in range(count):

        def one(source: fx.Node, index: int = index) -> Any:
            value = values[source]
            return value[index] if isinstance(value, _Each) else value

        args, kwargs = fx.map_arg((node.args, node.kwargs), one)
        out.append(call(*args, **kwargs))
    return out


def _is_quantised(node: fx.Node) -> bool:
    """Whether a layer has a weight in integers."""
    weight = node.args[1]
    return isinstance(weight, fx.Node) and weight.op == "call_function" and "dequantize" in str(weight.target)


def _attribute(module: fx.GraphModule, path: str) -> Any:
    value: Any = module
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _mean(node: fx.Node, out: Tensor) -> Tensor:
    """Mean of each channel of a layer's output, float64 [C]."""
    axis = out.ndim - 1 if node.target == ops.linear.default else 1
    return out.double().transpose(0, axis).flatten(1).mean(1)


def _along(node: fx.Node, shift: Tensor) -> Tensor:
    return shift if node.target == ops.linear.default else shift.reshape(-1, 1, 1)
