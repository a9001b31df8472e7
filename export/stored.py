"""Weights as Core ML stores them: places in tables, and integers with scales, decoded inside of the graph.

A layer that `keep` has changed holds the integers themselves; its `weight` is computed from them at every call by two
operators, `mobileclip::looked_up` and `mobileclip::scaled`. `torch.export` keeps both as they are, and coremltools
learns here what they are: `constexpr_lut_to_dense` and `constexpr_blockwise_shift_scale` (before iOS 18:
`constexpr_affine_dequantize`). So the integers of the eager module are those of the package to the bit, in a .mlpackage
and inside of ExecuTorch's delegate alike; coremltools' own way (buffers beside a float weight, from which it finds the
integers again) is lost in ExecuTorch's partitions, and takes 64 or 256 times a tensor's memory for palettes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mobileclip.errors import ArtifactError

if TYPE_CHECKING:
    from export.mil import Program


@torch.library.custom_op("mobileclip::looked_up", mutates_args=())
def looked_up(places: Tensor, table: Tensor) -> Tensor:
    """uint8 [O, ...] and [G, 1, ..., 2^bits, 1] -> [O, ...]: entries of a table by O / G channels, in its type."""
    rows = places.reshape(len(table), -1).long()
    return table.reshape(len(table), -1).gather(1, rows).reshape(places.shape)


@looked_up.register_fake
def _looked_up_shape(places: Tensor, table: Tensor) -> Tensor:
    return places.new_empty(places.shape, dtype=table.dtype)


@torch.library.custom_op("mobileclip::scaled", mutates_args=())
def scaled(data: Tensor, scale: Tensor) -> Tensor:
    """Integers or floats [O, ...] and float [O] -> float [O, ...]: one scale a channel."""
    return data.to(scale.dtype) * scale.reshape(-1, *[1] * (data.dim() - 1))


@scaled.register_fake
def _scaled_shape(data: Tensor, scale: Tensor) -> Tensor:
    return data.new_empty(data.shape, dtype=scale.dtype)


class Integers(nn.Module):
    """A weight from int8 [O, ...] and scales [O]."""

    def forward(self, data: Tensor, scale: Tensor) -> Tensor:
        weight: Tensor = scaled(data, scale)
        return weight


class Palette(nn.Module):
    """A weight from places [O, ...] and a table [G, 1, ..., 2^bits, 1], of floats or of int8 with scales [G]."""

    def forward(self, places: Tensor, table: Tensor, scale: Tensor | None = None) -> Tensor:
        weight: Tensor = looked_up(places, table if scale is None else scaled(table, scale))
        return weight


def keep(layer: nn.Module, form: nn.Module, parts: Sequence[Tensor]) -> None:
    """Let `layer` hold `parts` in place of its weight, which `form` makes of them."""
    # what `right_inverse` gives becomes the parts; it is asked once
    form.right_inverse = lambda weight: tuple(parts)  # type: ignore[assignment]
    parametrize.register_parametrization(layer, "weight", form, unsafe=True)
    del form.right_inverse


def parts_of(layer: nn.Module) -> tuple[Tensor, ...]:
    """The parts that `keep` has put into a layer; none where its weight is a float tensor."""
    if not parametrize.is_parametrized(layer, "weight"):
        return ()
    held: Any = layer.parametrizations
    return tuple(getattr(held.weight, f"original{index}") for index in range(held.weight.ntensors))


def check_integers(program: "Program", module: nn.Module) -> int:
    """Compare every weight that a Core ML program stores as integers with what `module` makes of its own.

    Args:
        program: read from a .mlpackage, or from inside of a .pte.
        module: what it was made of: layers that `keep` has changed, or a PT2E graph.

    Returns: how many tensors there are; each is equal but for fp16's rounding of scales and of products with them.

    Raises:
        ArtifactError: a tensor is missing, is stored as floats, or differs.
    """
    held = _weights(module)
    stored = {_plain(name): name for name in program.compressed}
    for name, weight in held.items():
        if name not in stored:
            raise ArtifactError(f"{program.name} stores no integers of '{name}': the converter made floats of them.")
        error = (program.constant(stored[name]) - weight).abs()
        # a scale is rounded, and its product; scales below 6e-5 have steps of 6e-8, which is also the least
        if (error > 2.0**-9.98 * weight.abs() + 2.0**-17).any():
            raise ArtifactError(
                f"{program.name} stores another '{name}' than the module holds: it differs by {float(error.max()):.2g}."
            )
    if extra := sorted(set(stored) - set(held)):
        raise ArtifactError(f"{program.name} stores integers that the module does not hold: {', '.join(extra[:3])}.")
    return len(held)


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """Name as in a program -> the weight."""
    if isinstance(module, torch.fx.GraphModule):
        return _graph_weights(module)
    return {
        f"{path}.parametrizations.weight.original0".replace(".", "_"): layer.weight.detach()
        for path, layer in module.named_modules()
        if parts_of(layer) and isinstance(layer.weight, Tensor)
    }


def _graph_weights(graph: torch.fx.GraphModule) -> dict[str, Tensor]:
    """Of a PT2E graph: weights by the names that exporting it again gives, which count them in their order."""
    found: dict[str, Tensor] = {}
    for node in graph.graph.nodes:
        if node.op == "call_function" and str(node.target).startswith("quantized_decomposed.dequantize_per_channel"):
            name = "dequantize_per_channel" + (f"_{len(found)}" if found else "")
            values = [_attribute(graph, item) if isinstance(item, torch.fx.Node) else item for item in node.args]
            found[name] = node.target(*values, **node.kwargs)
    return found


def _attribute(graph: torch.fx.GraphModule, node: torch.fx.Node) -> Tensor:
    value: Any = graph
    for name in str(node.target).split("."):
        value = getattr(value, name)
    assert isinstance(value, Tensor)
    return value.detach()


def _plain(name: str) -> str:
    """A constant's name in a program, without what converters put around it."""
    for prefix in ("p_", "b_", "quantized_decomposed_"):
        name = name.removeprefix(prefix)
    return name.removesuffix("_cast_fp16").replace("dequantize_per_channel_default", "dequantize_per_channel")


def teach_coremltools() -> None:
    """Tell coremltools' converter, in this process, what the two operators are; again does no harm."""
    from coremltools.converters.mil.frontend.torch.torch_op_registry import register_torch_op

    for name, function in (("looked_up", _lut_to_dense), ("scaled", _shift_scale)):
        register_torch_op(function, torch_alias=[f"mobileclip::{name}", f"mobileclip.{name}"], override=True)


def _lut_to_dense(context: Any, node: Any) -> None:
    from coremltools.converters.mil.mil import Builder, types

    places, table = (context[name] for name in node.inputs)
    bits = int(table.shape[-2]).bit_length() - 1
    kind = types.nptype_from_builtin(types.string_to_builtin(f"uint{bits}"))
    values = table if table.op.op_type.startswith("constexpr_") else table.val
    name = _named(node)
    context.add(Builder.constexpr_lut_to_dense(indices=places.val.astype(kind), lut=values, name=name), node.name)


def _shift_scale(context: Any, node: Any) -> None:
    import coremltools as ct
    import numpy as np
    from coremltools.converters.mil.mil import Builder
    from coremltools.converters.mil.mil.block import is_current_opset_version_compatible_with

    data, scale = (context[name].val for name in node.inputs)
    name = _named(node)
    if is_current_opset_version_compatible_with(ct.target.iOS18):
        shape = (len(scale), *[1] * (data.ndim - 1))
        weight = Builder.constexpr_blockwise_shift_scale(data=data, scale=scale.reshape(shape), name=name)
    else:
        zero = np.zeros(len(scale), np.int8)
        weight = Builder.constexpr_affine_dequantize(
            quantized_data=data, zero_point=zero, scale=scale, axis=np.int32(0), name=name
        )
    context.add(weight, node.name)


def _named(node: Any) -> str:
    """A constant's name, by the parameter that it comes from."""
    return str(node.inputs[0])
