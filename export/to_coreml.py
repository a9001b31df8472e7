"""A view as a Core ML program (.mlpackage, fp16).

Converted through `torch.export` (three times faster than tracing). Images enter as 8-bit RGB with the scale 1/255
declared in the package, exact for models without statistics and folded into the graph for the others.

What a view may not compute in fp16 (`View.wide`) stays in fp32, which Core ML runs on the GPU or the CPU: the argmax of
a segmentation, and of a detector that holds its suppression everything that says where boxes are and which are kept.

The same view is the same bytes (`settle`): coremltools itself dates a package, draws the names of its items by chance,
and writes the maps of its protobuf in any order.
"""

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from export.mil_package import open_package
from export.stored import Palette, teach_coremltools
from export.targets import Wide, preset_of
from export.views import View
from mobileclip.digests import sha256_of

_BRANCHES = frozenset({"conv", "conv_transpose", "linear", "matmul", "relu"})
"""Operators of box and mask branches, which are most of the work and hold no coordinates in what they give."""
_MOVES = frozenset({"reshape", "expand_dims", "squeeze", "cast"})
"""Operators that compute nothing: they are as wide as what they move."""


def lower(view: View, path: Path, preset: str, module: nn.Module | None = None) -> None:
    """Write `view` to `path` (.mlpackage), or `module`: the view quantised, whose integers and palettes it keeps."""
    import coremltools as ct

    teach_coremltools()
    spec = view.inputs[0]
    if spec.kind == "image":
        inputs = [ct.ImageType(spec.name, shape=spec.shape, color_layout=ct.colorlayout.RGB, scale=1 / 255)]
    else:
        inputs = [ct.TensorType(spec.name, shape=spec.shape, dtype=np.int32)]
    example = view.example if spec.kind == "image" else view.example.to(torch.int32)
    program = torch.export.export(module or view, (example,)).run_decompositions({})
    package = ct.convert(
        program,
        inputs=inputs,
        outputs=[ct.TensorType(out.name, dtype=getattr(np, out.dtype)) for out in view.outputs],
        minimum_deployment_target=getattr(ct.target, oldest_ios(module, preset_of(preset).ios)),
        compute_precision=_precision(view.wide),
        skip_model_load=True,
    )
    package.short_description = f"{view.kind} view; the manifest beside this package tells the rest"
    package.save(str(path))
    settle(path)


def settle(package: Path) -> None:
    """Write a package that coremltools saved anew, so that the same program is always the same bytes.

    The date of conversion goes, maps are written in the order of their keys, and items are named by what they hold:
    `Manifest.json` wants names that are unlike each other inside of the package, and nothing refers to them elsewhere.

    Raises:
        ArtifactError: it is no package.
    """
    spec = open_package(package).spec
    spec.description.metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
    file = package / "Manifest.json"
    manifest = json.loads(file.read_text())
    items = manifest["itemInfoEntries"]
    inside = {name: package / "Data" / item["path"] for name, item in items.items()}
    inside[manifest["rootModelIdentifier"]].write_bytes(spec.SerializeToString(deterministic=True))
    names = {name: str(uuid.uuid5(uuid.NAMESPACE_OID, sha256_of(path))) for name, path in inside.items()}
    manifest["itemInfoEntries"] = {names[name]: item for name, item in items.items()}
    manifest["rootModelIdentifier"] = names[manifest["rootModelIdentifier"]]
    file.write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n")


def oldest_ios(of: nn.Module | Path | None, otherwise: str = "iOS15") -> str:
    """The oldest system that holds what `of` is made of, as coremltools names it (`iOS18`).

    Args:
        of: a quantised module, or a .mlpackage that was written. Integers with scales came with iOS 16, quantised
            activations with iOS 17, palettes of groups of channels and scaled palettes with iOS 18.
        otherwise: what is wanted anyway; the answer is never older.

    Raises:
        ArtifactError: `of` is no package.
    """
    if isinstance(of, Path):
        needed = open_package(of).spec.specificationVersion + 9  # version 6 of the format came with iOS 15
    elif of is None:
        needed = 0
    elif any(isinstance(part, Palette) for part in of.modules()) or _calls(of, "mobileclip"):
        needed = 18
    else:
        needed = 17 if _calls(of, "quantized_decomposed") else 16
    return max(otherwise, f"iOS{needed:02d}", key=lambda name: int(name.removeprefix("iOS")))


def _calls(module: nn.Module, namespace: str) -> bool:
    """Whether a graph (of PT2E) calls an operator of a namespace."""
    if not isinstance(module, torch.fx.GraphModule):
        return False
    return any(str(node.target).startswith(f"{namespace}.") for node in module.graph.nodes)


def _precision(wide: Wide) -> Any:
    import coremltools as ct

    if wide == "nothing":
        return ct.precision.FLOAT16
    return ct.transform.FP16ComputePrecision(op_selector=_narrow(wide))


def _narrow(wide: Wide) -> Callable[[Any], bool]:
    """Whether a MIL operator may be fp16. Coordinates begin with the first top-k: what depends on it is wide, but for
    the branches' own layers."""
    if wide == "argmax":
        return lambda op: op.op_type != "reduce_argmax"
    behind: dict[Any, bool] = {}

    def is_behind(op: Any) -> bool:
        stack = [op]
        while stack:
            current = stack[-1]
            parents = [var.op for value in current.inputs.values() for var in _vars(value) if var.op is not None]
            missing = [parent for parent in parents if parent not in behind]
            if missing:
                stack += missing
                continue
            behind[current] = current.op_type == "topk" or any(behind[parent] for parent in parents)
            stack.pop()
        return behind[op]

    def narrow(op: Any) -> bool:
        while op is not None and op.op_type in _MOVES:
            op = op.x.op
        return op is None or op.op_type in _BRANCHES or not is_behind(op)

    return narrow


def _vars(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value] if value is not None else []
