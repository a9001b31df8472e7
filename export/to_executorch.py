"""A view as an ExecuTorch program (.pte) for one delegate: XNNPACK (fp32), Core ML (fp16) or Vulkan (fp16).

The calls are explicit, not ExecuTorch's recipes: those leave out the transform passes without which XNNPACK gets more
partitions. `Delegation` tells how much of the graph the delegate took and what stayed outside. Fp16 delegates are not
given the argmax of a segmentation; ExecuTorch's own kernel computes it in fp32 behind them.

The same view is the same bytes, also for the Core ML delegate, which itself draws the name of a model by chance
(`_settle`).
"""

import json
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.keys import short_keys
from export.targets import precision_of, preset_of
from export.views import View
from mobileclip.digests import sha256_of

# Operators that a delegate leaves outside although nothing is computed in them, and why.
_HARMLESS = {
    "aten_embedding_default": "looks up rows of a table by integer ids; the delegate takes no integers",
    "aten_eq_scalar": "compares integer ids with the end-of-text id; the delegate takes no integers",
    "dim_order_ops__to_dim_order_copy_default": "casts ids or a comparison of them to float",
    "aten__to_copy_default": "casts ids or a comparison of them to float",
    "aten_view_copy_default": "renames dimensions",
    "aten_unsqueeze_copy_default": "renames dimensions",
    "aten_squeeze_copy_dims": "renames dimensions",
}
OUTSIDE = {"aten_argmax_default": "the best class of each pixel, in fp32 on the CPU; no delegate is trusted with it"}
"""Operators that are left outside on purpose."""


@dataclass(frozen=True, kw_only=True)
class Delegation:
    """How a lowered graph was divided."""

    delegates: int
    """Subgraphs that the delegate runs; one is best."""
    loose: Mapping[str, int]
    """Operators that stayed outside, and how often."""


def lower_xnnpack(view: View, path: Path, preset: str, module: nn.Module | None = None) -> Delegation:
    """Write `view` to `path` for XNNPACK, or `module`: the view quantised."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.utils.configs import get_transform_passes

    with short_keys():
        return _lower(module or view, view.example, path, [XnnpackPartitioner()], get_transform_passes())


def lower_coreml(view: View, path: Path, preset: str, module: nn.Module | None = None) -> Delegation:
    """Write `view` to `path` for ExecuTorch's Core ML delegate."""
    import coremltools as ct
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner

    from export.stored import teach_coremltools
    from export.to_coreml import oldest_ios

    teach_coremltools()
    oldest = oldest_ios(module, max("iOS16", preset_of(preset).ios))
    narrow = precision_of("executorch-coreml", view.wide) == "fp16"
    specs = CoreMLBackend.generate_compile_specs(
        compute_unit=ct.ComputeUnit.ALL,
        minimum_deployment_target=getattr(ct.target, oldest),
        compute_precision=ct.precision.FLOAT16 if narrow else ct.precision.FLOAT32,
    )
    if view.wide != "argmax":
        return _lower(
            module or view, view.example, path, [CoreMLPartitioner(compile_specs=specs, lower_full_graph=True)], None
        )
    outside = ["aten.argmax.default", "dim_order_ops._to_dim_order_copy.default", "aten._to_copy.default"]
    partitioner = CoreMLPartitioner(compile_specs=specs, skip_ops_for_coreml_delegation=outside)
    return _lower(module or view, view.example, path, [partitioner], None)


def lower_vulkan(view: View, path: Path, preset: str, module: nn.Module | None = None) -> Delegation:
    """Write `view` to `path` for Vulkan, with XNNPACK for what Vulkan does not take (it has no fallback)."""
    from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir.dialects._ops import ops

    narrow = precision_of("executorch-vulkan", view.wide) == "fp16"
    outside = [ops.edge.aten.argmax.default]
    vulkan = VulkanPartitioner({"force_fp16": narrow, "require_dynamic_shapes": False}, operator_blocklist=outside)
    return _lower(module or view, view.example, path, [vulkan, XnnpackPartitioner()], None)


def _lower(module: nn.Module, example: Tensor, path: Path, partitioners: Sequence[Any], passes: Any) -> Delegation:
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(module, (example,))
    edge = to_edge_transform_and_lower(program, partitioner=list(partitioners), transform_passes=passes)
    found = delegation_of(edge)
    _settle(edge.exported_program().graph_module)
    path.write_bytes(edge.to_executorch().buffer)
    return found


def _settle(graph: nn.Module) -> None:
    """Put delegates in the place of Core ML's that are the same bytes for the same program."""
    from executorch.exir.lowered_backend_module import LoweredBackendModule

    for name, part in list(graph.named_children()):
        if isinstance(part, LoweredBackendModule) and part.backend_id == "CoreMLBackend":
            content = settled(part.processed_bytes)
            anew = LoweredBackendModule(
                part.original_module, part.backend_id, content, part.compile_specs, part.named_data_store_output
            )
            anew.meta = part.meta
            setattr(graph, name, anew)


def settled(content: bytes) -> bytes:
    """What a Core ML delegate holds, a folder of a package and of JSON about it, with the package settled.

    The delegate keeps compiled models by their identifier, so that is the package's hash: another model has another.
    The order of the files inside follows the folder's own, which is that of their making or of a hash in a file system.
    """
    from executorch.backends.apple.coreml import executorchcoreml

    from export.to_coreml import settle

    with tempfile.TemporaryDirectory() as given, tempfile.TemporaryDirectory() as made:
        executorchcoreml.unflatten_directory_contents(content, given)
        (source,) = Path(given).iterdir()
        package = source / "model.mlpackage"
        settle(package)
        about = json.loads((source / "metadata.json").read_text())
        about["identifier"] = f"executorch_{uuid.uuid5(uuid.NAMESPACE_OID, sha256_of(package))}"
        (source / "metadata.json").write_text(json.dumps(about))
        target = Path(made) / source.name
        for path in (source, *sorted(source.rglob("*"))):
            place = target / path.relative_to(source)
            if path.is_dir():
                place.mkdir()
            else:
                path.rename(place)
        flat: bytes = executorchcoreml.flatten_directory_contents(str(target))
    return flat


def delegation_of(edge: Any) -> Delegation:
    """How an `EdgeProgramManager` that was lowered is divided."""
    from executorch.devtools.backend_debug import get_delegation_info

    info = get_delegation_info(edge.exported_program().graph_module)
    loose = {
        name: counts.non_delegated
        for name, counts in info.delegation_by_operator.items()
        if counts.non_delegated and "getitem" not in name
    }
    return Delegation(delegates=info.num_delegated_subgraphs, loose=loose)


def loose_operators(delegation: Delegation) -> list[dict[str, Any]]:
    """What stayed outside of the delegates: how often, why, and whether anything is computed there."""
    return [
        {
            "operator": name,
            "count": count,
            "compute": name not in _HARMLESS,
            "reason": (_HARMLESS | OUTSIDE).get(name, "the delegate's partitioner did not take it"),
        }
        for name, count in delegation.loose.items()
    ]
