"""A view as ONNX, opset 20, static shapes: one native Gelu instead of five operators, weights inside the file."""

from pathlib import Path

import torch
from torch import nn

from export.views import View

OPSET = 20
"""First opset with Gelu; what the Core ML and NNAPI providers of onnxruntime want at least."""


def lower(view: View, path: Path, preset: str, module: nn.Module | None = None) -> None:
    """Write `view` to `path` (.onnx), or `module`: the view quantised, as QDQ nodes."""
    program = torch.onnx.export(
        module or view,
        (view.example,),
        dynamo=True,
        external_data=False,
        opset_version=OPSET,
        input_names=[spec.name for spec in view.inputs],
        output_names=[spec.name for spec in view.outputs],
        verbose=False,
    )
    assert program is not None
    program.save(str(path), external_data=False)
