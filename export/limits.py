"""Steps that XNNPACK's integer kernels can hold.

Its kernels multiply sums by input step x weight step / output step, and refuse to load a program where that is 256 or
more, or where a summand's step is less than a 1024th of the sum's (xnnpack/src/operators). A branch that training has
switched off gives nothing but zeros, whose step would be next to nothing, and so do branches that hardly matter. Their
steps are made coarser, as little as the kernels ask; what they add is below the sum's own step then.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, fx

_LARGEST = 255.0
_LEAST = 1 / 1000
_WEIGHTED = ("aten.conv2d.", "aten.linear.", "aten.conv_transpose2d.")


def widen(module: fx.GraphModule) -> fx.GraphModule:
    """`module` (converted by PT2E) with steps that can be loaded; changed in place.

    Tensors of one step are widened together, so that a value that only moves keeps its step.
    """
    for _ in range(len(module.graph.nodes)):
        steps = {old: new for old, new in _wanted(module) if new > old}
        if not steps:
            break
        largest: dict[float, float] = {}
        for old, new in _wanted(module):
            largest[old] = max(largest.get(old, old), new)
        for node in module.graph.nodes:
            if _is_step(node) and largest.get(node.args[1], 0.0) > node.args[1]:
                node.args = (node.args[0], largest[node.args[1]], *node.args[2:])
    module.recompile()
    return module


def _wanted(module: fx.GraphModule) -> Iterator[tuple[float, float]]:
    """(step, least that its readers and writers can hold)."""
    for node in module.graph.nodes:
        name = str(node.target)
        out = _output(node)
        if out is None:
            continue
        if name.startswith(_WEIGHTED):
            weight = node.args[1]
            if _is_step(node.args[0]) and isinstance(weight, fx.Node) and "per_channel" in str(weight.target):
                scales = _attribute(module, weight.args[1])
                yield out, node.args[0].args[1] * float(scales.max()) / _LARGEST
        elif name.startswith("aten.add.") and all(_is_step(item) for item in node.args[:2]):
            for item in node.args[:2]:
                yield item.args[1], out * _LEAST
                yield out, item.args[1] / _LARGEST


def _output(node: fx.Node) -> float | None:
    """The step that a node's output is quantised with, behind a ReLU if there is one."""
    for user in node.users:
        if "aten.relu" in str(user.target):
            return _output(user)
        if _is_step(user) and "dequantize" not in str(user.target):
            return float(user.args[1])  # type: ignore[arg-type]
    return None


def _is_step(node: object) -> bool:
    """Whether a step stands at the node; those that are taken from what comes do not."""
    return isinstance(node, fx.Node) and "quantize_per_tensor.default" in str(node.target)


def _attribute(module: fx.GraphModule, node: object) -> Tensor:
    assert isinstance(node, fx.Node)
    found = module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    assert isinstance(found, torch.Tensor)
    return found
