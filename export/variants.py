"""One view under many assignments of precisions to its blocks, without quantising it anew for each.

Sensitivities and the search for an assignment ask for hundreds of them. `Integers` quantises once and, while the graph
runs, lets values of blocks that are in floats pass by their quantisation; `Weights` compresses each block once at each
precision and swaps weights. Ranges are those of the view with every block quantised, so that the assignment that is
chosen is quantised and judged once more, as a whole.
"""

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from export.blocks import blocks_of
from export.compress import Layer
from export.quantise import quantised
from export.targets import FLOATS, Precision, Quantisation

if TYPE_CHECKING:
    from export.views import View


Answer = list[npt.NDArray[Any]]
Assignment = Mapping[str, Precision]
"""Block -> precision, of every block."""


class Variants(Protocol):
    """A view that answers under any assignment."""

    options: tuple[Precision, ...]
    """Precisions that a block may have, floats last."""

    def answer(self, x: Tensor, assignment: Assignment) -> Answer:
        """What the view makes of an input, every output in order."""
        ...


_QUANTISED_OPS = frozenset({"conv2d", "conv_transpose2d", "linear", "add", "mul", "cat", "mean", "adaptive_avg_pool2d"})
"""Operators whose inputs and outputs are integers."""
_WEIGHTED = frozenset({"conv2d", "conv_transpose2d", "linear"})
_MOVES = frozenset({"flatten", "reshape", "view", "transpose", "permute", "slice", "squeeze", "unsqueeze", "expand"})
"""Operators whose output is an integer where their input is one."""


class Integers:
    """A view in 8 bits, any blocks of it back in floats."""

    def __init__(self, view: "View", inputs: Sequence[Tensor]) -> None:
        self.options: tuple[Precision, ...] = ("w8a8", "fp32")
        self._view, self._inputs = view, inputs

    @cached_property
    def _runner(self) -> "_Partly":
        """Made when it is first asked: a table that is kept asks for none."""
        module = quantised(self._view, Quantisation(precision="w8a8", inputs=self._inputs))
        assert isinstance(module, fx.GraphModule)
        return _Partly(module, self._view)

    def answer(self, x: Tensor, assignment: Assignment) -> Answer:
        """Outputs with the blocks that the assignment leaves in floats."""
        self._runner.floats = frozenset(block for block, precision in assignment.items() if precision in FLOATS)
        with torch.no_grad():
            found = self._runner.run(x)
        return [item.numpy() for item in (found if isinstance(found, list | tuple) else [found])]


class _Partly(fx.Interpreter):
    """Runs a quantised graph; values between operators of blocks in floats, and their weights, are not rounded."""

    floats: frozenset[str] = frozenset()

    def __init__(self, module: fx.GraphModule, view: "View") -> None:
        super().__init__(module)
        self._paths = blocks_of(view)
        self._raw: dict[str, tuple[frozenset[str], Tensor | None]] = {}
        """Dequantising node -> (blocks that make it an integer, the float weight)."""
        for node in module.graph.nodes:
            if "dequantize_per_tensor" in str(node.target):
                maker = node.args[0].args[0]
                blocks = {self._block(item) for item in (maker, *node.users) if _kind(item) in _QUANTISED_OPS}
                if maker.args and getattr(maker.args[0], "name", None) in self._raw and _kind(maker) in _MOVES:
                    blocks |= self._raw[maker.args[0].name][0]
                self._raw[node.name] = (frozenset(block for block in blocks if block is not None), None)
            elif _kind(node) in _WEIGHTED and (path := _path(node)):
                layer, block = view.get_submodule(path), self._block(node)
                assert block is not None
                for operand, name in zip(node.args[1:3], ("weight", "bias"), strict=False):
                    tensor = getattr(layer, name, None)
                    if isinstance(operand, fx.Node) and isinstance(tensor, Tensor):
                        self._raw[operand.name] = (frozenset({block}), tensor.detach())
                    elif isinstance(operand, fx.Node):  # a bias that only the quantised graph has
                        self._raw[operand.name] = (frozenset({block}), torch.zeros(()))

    def _block(self, node: fx.Node) -> str | None:
        path = _path(node)
        fits = [block for block, prefix in self._paths.items() if (path + ".").startswith(prefix + ".")]
        return fits[0] if fits else None

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self._raw:
            blocks, weight = self._raw[n.name]
            if blocks and blocks <= self.floats:
                if weight is not None:
                    return weight if weight.dim() else torch.zeros_like(super().run_node(n))
                quantise = n.args[0]
                assert isinstance(quantise, fx.Node)
                return self._before[quantise.name]
        if "quantize_per_tensor" in str(n.target) and "dequantize" not in str(n.target):
            self._before[n.name] = self.fetch_args_kwargs_from_env(n)[0][0]
        return super().run_node(n)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        self._before: dict[str, Any] = {}
        try:
            return super().run(*args, **kwargs)
        finally:
            self._before = {}


def _path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack")
    return str(list(stack.values())[-1][0]) if stack else ""


def _kind(node: fx.Node) -> str:
    return str(node.target).split(".")[1] if node.op == "call_function" and "." in str(node.target) else ""


class Weights:
    """A view with compressed weights, each block at its own precision."""

    def __init__(self, view: "View", options: Sequence[Precision], inputs: Sequence[Tensor] = ()) -> None:
        self.options: tuple[Precision, ...] = (*options, "fp16")
        self._view = copy.deepcopy(view)
        self._paths = blocks_of(view)
        self._inputs, self._source = inputs, view

    @cached_property
    def _kept(self) -> dict[Precision, dict[str, Tensor]]:
        """Precision -> weights; made when they are first asked."""
        kept: dict[Precision, dict[str, Tensor]] = {
            "fp16": {name: tensor.clone() for name, tensor in _state(self._source).items()}
        }
        for precision in self.options[:-1]:
            kept[precision] = _state(quantised(self._source, Quantisation(precision=precision, inputs=self._inputs)))
        return kept

    def answer(self, x: Tensor, assignment: Assignment) -> Answer:
        """Outputs with each block's weights at its precision."""
        for block, precision in assignment.items():
            kept = self._kept[precision]
            for name, tensor in _state(self._view, self._paths[block]).items():
                tensor.copy_(kept[name])
        return self._view.answer(x)


def _state(module: nn.Module, path: str = "") -> dict[str, Tensor]:
    """Weights and biases of the layers below `path`, as they are multiplied with."""
    found: dict[str, Tensor] = {}
    for name, layer in module.get_submodule(path).named_modules(prefix=path):
        for part in ("weight", "bias"):
            tensor = getattr(layer, part, None)
            if isinstance(layer, Layer) and isinstance(tensor, Tensor):
                found[f"{name}.{part}"] = tensor.detach()
    return found
