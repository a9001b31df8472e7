"""Weights and activations of 8 bits, as one PT2E graph that every runtime takes: XNNPACK lowers it, onnxruntime has it as
QDQ nodes, Core ML as quantize and dequantize operators. The same integers everywhere.

Weights are symmetric by channel, activations asymmetric by tensor with ranges from calibration inputs. Quantise what is
fused and rewritten: a BatchNorm that is folded afterwards changes the ranges.
"""

import torch
from torch import nn

from export.blocks import blocks_of
from export.targets import Quantisation
from export.views import View


def int8_module(view: View, quantisation: Quantisation) -> nn.Module:
    """A graph of `view` with quantise and dequantise nodes; it computes what the artifact does."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    for block, path in blocks_of(view).items():
        if quantisation.of(block) != "w8a8":
            quantizer.set_module_name(path, None)
    prepared = prepare_pt2e(torch.export.export(view, (view.example,)).module(), quantizer)
    for x in quantisation.inputs:
        prepared(x)
    module: nn.Module = convert_pt2e(prepared)
    return module
