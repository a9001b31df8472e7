"""The parts of a view that may be quantised apart, by name."""

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from export.views import View


_LEAVES = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding)


def blocks_of(view: "View") -> dict[str, str]:
    """Block -> path of its module, in the order of the network; every weight is in exactly one block.

    A block is what follows a stem or a stage one by one (`stages.2.7`), a layer of a text tower (`layers.3`), or a part
    of a head (`head.lateral.1`). Names say where a module is and not what it is, so that they stay when a rewrite
    replaces a module by other ones.
    """
    found: dict[str, str] = {}

    def walk(module: nn.Module, path: str) -> None:
        opened = isinstance(module, (nn.Sequential, nn.ModuleList)) or type(module).__name__ in _OPENED or not path
        if opened or path == "tower":
            for name, child in module.named_children():
                walk(child, f"{path}.{name}" if path else name)
        elif any(isinstance(leaf, _LEAVES) for leaf in module.modules()):
            found[path.removeprefix("tower.")] = path

    walk(view, "")
    return found


_OPENED = frozenset({"FusedMCi", "FusedMciPyramid", "DenseTower", "MultitaskTower"})
