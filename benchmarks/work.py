"""What a network does, block by block, in one run of a view: multiply-accumulates, values read and written, products.

    work_of(view)["stage 2, block 3"].macs

Every operator is counted as it is called, for the block that is running: no formula has to know a layer.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from export.blocks import blocks_of
from export.views import View

REST = "rest"
"""What is outside of every block: additions between them, the view's own arithmetic."""


@dataclass(kw_only=True)
class Work:
    """What a block does in one run."""

    macs: int = 0
    activations: int = 0
    """Values that its operators read and write, weights apart."""
    weights: int = 0
    """Values of its weights."""


def work_of(view: View) -> dict[str, Work]:
    """Block -> its work in one run of `view`, in the order of the network, without blocks that do nothing."""
    return {name: work for name, work in _counted(view).found.items() if work.macs or work.activations}


def products_of(view: View) -> list[str]:
    """The block of each convolution and matrix product of one run of `view`, in the order in which they run."""
    return _counted(view).products


def _counted(view: View) -> "_Counter":
    counter = _Counter()
    paths = {path: block for block, path in blocks_of(view).items()}
    hooks = []
    for path, module in view.named_modules():
        if path in paths:
            hooks.append(module.register_forward_pre_hook(counter.entering(paths[path])))
            hooks.append(module.register_forward_hook(counter.leaving()))
    counter.weights = {p.untyped_storage().data_ptr() for p in (*view.parameters(), *view.buffers())}
    try:
        with torch.no_grad(), counter:
            view(view.example)
    finally:
        for hook in hooks:
            hook.remove()
    return counter


@dataclass
class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts every operator of what runs under it, for the block that is running."""

    found: dict[str, Work] = field(default_factory=lambda: defaultdict(Work))
    weights: set[int] = field(default_factory=set)
    stack: list[str] = field(default_factory=lambda: [REST])
    products: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def entering(self, block: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            self.stack.append(block)

        return hook

    def leaving(self) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            self.stack.pop()

        return hook

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        work = self.found[self.stack[-1]]
        packet = func._overloadpacket
        if packet in flop_registry:
            self.products.append(self.stack[-1])
            work.macs += int(flop_registry[packet](*args, **(kwargs or {}), out_val=out)) // 2
        if func.is_view:
            return out
        if packet is torch.ops.aten.embedding:  # the rows that are looked up, not the whole table
            work.activations += 2 * out.numel()
            return out
        for item in tree_leaves((args, kwargs)):
            if isinstance(item, Tensor):
                if item.untyped_storage().data_ptr() in self.weights:
                    work.weights += item.numel()
                else:
                    work.activations += item.numel()
        work.activations += sum(item.numel() for item in tree_leaves(out) if isinstance(item, Tensor))
        return out
