"""Groups of parameters for the optimiser: rates that fall towards the stem, and no decay where it harms.

    groups_of(model, recipe)[0]     # {"params": [...], "weight_decay": 0.0, "scale": 0.44, "name": "level 0, plain"}

With n levels, level i (0 is the stem) has the scale `lr_decay ** (n - i)`, and the head has 1, as BEiT and ConvNeXt
count. Each parameter that trains is in exactly one group. Unusual: the levels come from the pyramid itself
(`Pyramid.levels`), not from names, since timm's own layer decay has no effect on a plain `features_only` model.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from mobileclip.dense.plan import Finetune
from mobileclip.models.pyramid import Pyramid

if TYPE_CHECKING:
    from mobileclip.dense.model import DenseModel


UNDECAYED = (
    *("gamma", "gamma_1", "gamma_2", "layer_scale", "pos_embed", "cls_token", "reg_token", "temperature"),
    *("relative_position_bias_table", "rel_pos", "absolute_pos_embed", "mask_token"),
)
"""Last parts of the names of parameters without weight decay, whatever their shape."""


def groups_of(model: "DenseModel", recipe: Finetune) -> list[dict[str, Any]]:
    """Of all parameters that train: `params`, `weight_decay`, `scale` (of the learning rate) and `name`."""
    if recipe.qat:  # a deployed encoder has no levels
        return _split("all", 1.0, list(model.parameters()), _plain(model), recipe)
    assert isinstance(model.encoder, Pyramid)
    levels = [] if recipe.freeze else levels_of(model.encoder, recipe)  # frozen, only its fresh parts train
    wholes: list[tuple[str, float, Sequence[nn.Module]]] = [
        (f"level {place}", recipe.lr_decay ** (len(levels) - place), level) for place, level in enumerate(levels)
    ]
    wholes.append(("head", 1.0, [model.head, *model.encoder.fresh()]))
    names = {parameter: name for name, parameter in model.named_parameters()}
    plain = _plain(model)
    out: list[dict[str, Any]] = []
    seen: set[nn.Parameter] = set()
    for name, scale, modules in wholes:
        own = [p for module in modules for p in _parameters(module) if p.requires_grad and p not in seen]
        seen |= set(own)
        out += _split(name, scale, own, plain, recipe)
    left = [name for parameter, name in names.items() if parameter.requires_grad and parameter not in seen]
    assert not left, f"in no group: {left}"
    return out


def levels_of(encoder: Pyramid, recipe: Finetune) -> list[list[nn.Module]]:
    """The encoder's parts that share a rate, from the stem on."""
    if recipe.decay_by == "stage":
        return encoder.levels()
    fine = encoder.levels(fine=True)
    if recipe.decay_by == "layer" or len(fine) <= recipe.buckets:
        return fine
    buckets: list[list[nn.Module]] = [[] for _ in range(recipe.buckets)]
    for place, level in enumerate(fine):
        buckets[place * recipe.buckets // len(fine)] += level
    return buckets


def _split(
    name: str, scale: float, own: Sequence[nn.Parameter], plain: set[nn.Parameter], recipe: Finetune
) -> list[dict[str, Any]]:
    """A group of those that decay and one of those that do not, where there are any."""
    out: list[dict[str, Any]] = []
    for kind, decays in (("", True), (", plain", False)):
        params = [p for p in own if (p not in plain) == decays]
        if params:
            decay = recipe.weight_decay if decays else 0.0
            out.append({"params": params, "weight_decay": decay, "scale": scale, "name": name + kind})
    return out


def _parameters(module: nn.Module | nn.Parameter) -> list[nn.Parameter]:
    return [module] if isinstance(module, nn.Parameter) else list(module.parameters())


def _plain(model: nn.Module) -> set[nn.Parameter]:
    """Parameters without weight decay: of one dimension, of norms, biases, scales and positions."""
    norms = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
    out = {p for module in model.modules() if isinstance(module, norms) for p in module.parameters(recurse=False)}
    for name, parameter in model.named_parameters():
        last = name.rpartition(".")[2]
        if parameter.ndim < 2 or last == "bias" or last in UNDECAYED:
            out.add(parameter)
    return out
