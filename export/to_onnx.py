"""A view as ONNX, opset 20, static shapes: one native Gelu instead of five operators, weights inside the file.

Quantised views become QDQ nodes of the default domain, which onnxruntime fuses and onnxruntime-web runs as well. Linear
layers whose inputs are quantised as they come are written as integer products at once: left as QDQ, onnxruntime makes
products of floats and packed weights of them, which take twice the time of floats.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from export.views import View

OPSET = 20
"""First opset with Gelu; what the Core ML and NNAPI providers of onnxruntime want at least."""
MIDDLE = 128
"""Zero point of weights without sign. onnxruntime adds pairs of products of signed ones in 16 bits on x86 without VNNI,
and saturates; of unsigned ones it adds in 32 bits everywhere."""


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
        custom_translation_table=None if module is None else _dynamic(),
        verbose=False,
    )
    assert program is not None
    if module is not None:
        _integer_products(program.model)
        for node in program.model.graph:
            node.metadata_props.clear()  # where in Python it came from: half of the file of a small model
    program.save(str(path), external_data=False)


def _dynamic() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Translations of what quantises a tensor by its own range: one operator of ONNX gives integers, scale and zero
    point; torch has the first apart."""
    import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401  registers torch's operators
    from onnxscript import opset20

    def choose(x: Any, low: int, high: int, eps: float, dtype: int) -> Any:
        _, scale, zero = opset20.DynamicQuantizeLinear(x)
        return scale, zero

    def quantise(x: Any, scale: Any, zero: Any, low: int, high: int, dtype: int) -> Any:
        return scale.producer().outputs[0]

    def dequantise(x: Any, scale: Any, zero: Any, low: int, high: int, dtype: int, out_dtype: int = -1) -> Any:
        return opset20.DequantizeLinear(x, scale, zero)

    ops = torch.ops.quantized_decomposed
    return {
        ops.choose_qparams.tensor: choose,
        ops.quantize_per_tensor.tensor: quantise,
        ops.dequantize_per_tensor.tensor: dequantise,
    }


def _integer_products(model: Any) -> None:
    """`dequantised x` times `dequantised weights` as a product of integers and one scale, in place."""
    import onnx_ir as ir
    from onnxscript.rewriter import RewriteRule, rewrite

    kinds = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8)
    for node in model.graph:
        if node.op_type == "DynamicQuantizeLinear":  # the exporter gave these the types of torch's operators
            for value, kind in zip(node.outputs, kinds, strict=True):
                value.dtype = kind
            for value in node.outputs[1:]:
                value.shape = ir.Shape([])

    def layer(op: Any, x: Any, scale: Any, zero: Any, weight: Any, steps: Any, zeros: Any) -> Any:
        wide = op.Transpose(op.DequantizeLinear(weight, steps, zeros, axis=0), perm=[1, 0])
        return op.MatMul(op.DequantizeLinear(x, scale, zero), wide)

    def product(op: Any, x: Any, scale: Any, zero: Any, weight: Any, steps: Any, zeros: Any) -> Any:
        unsigned = (weight.const_value.numpy().T.astype(np.int16) + MIDDLE).astype(np.uint8)
        turned = op.initializer(ir.tensor(unsigned, name=f"{weight.name}_turned"))
        middle = op.initializer(ir.tensor(np.uint8(MIDDLE), name=f"{weight.name}_middle"))
        total = op.MatMulInteger(x, turned, zero, middle)
        return op.Mul(op.Cast(total, to=ir.DataType.FLOAT), op.Mul(scale, steps))

    def of_its_own_range(context: Any, x: Any, weight: Any, **_: Any) -> bool:
        producer = x.producer()
        return weight.const_value is not None and producer is not None and producer.op_type == "DynamicQuantizeLinear"

    rewrite(model, [RewriteRule(layer, product, of_its_own_range)])
