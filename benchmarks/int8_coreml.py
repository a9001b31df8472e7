"""Core ML's activations in 8 bits: our module (export/integers.py) against coremltools' own `LinearQuantizer`.

    python -m benchmarks int8_coreml runs/nano/last --calibration scenes --held scenes/val/images

The same fused view, the same pictures for the ranges, the same held-out pictures. `LinearQuantizer`
(coremltools.optimize.torch.quantization) is calibrated as its documentation says for use without training: observers
from the first batch on, frozen behind the last. It quantises every layer, so ours does too in the second line.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import results
from benchmarks.int8_ablation import Sides, arguments
from export.integers import BEST
from export.runtimes import tool_versions
from export.views import View

SCHEMES = ("symmetric", "affine")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write a result."""
    parser = arguments("int8_coreml")
    parser.add_argument("--pictures", type=int, default=32, help="pictures that calibrate")
    args = parser.parse_args(argv)
    sides = Sides.of(args.model, args.calibration, args.held, args.count)
    used = sides.calibration[:: max(1, len(sides.calibration) // args.pictures)][: args.pictures]
    every = replace(BEST, depthwise=False, small=False)
    rows: list[dict[str, Any]] = [
        {"by": "ours"} | sides.cosines("plain", BEST, used),
        {"by": "ours, every layer in integers"} | sides.cosines("plain", every, used),
    ]
    for scheme in SCHEMES:
        found = sides.compared(linear_quantizer(sides.view, used, scheme))
        rows.append({"by": f"LinearQuantizer, {scheme}"} | found)
    settings = {"pictures": len(used), "held": len(sides.held)}
    result = results.stamp() | {"study": "int8_coreml", "model": sides.name, "settings": settings, "rows": rows}
    result["versions"] = dict(tool_versions())
    results.write(args.out, f"int8_coreml-{sides.name}", result)
    print(table([result]))
    return 0


@torch.no_grad()
def linear_quantizer(view: View, inputs: Sequence[Tensor], scheme: str) -> nn.Module:
    """`view` as coremltools quantises it, weights and activations in 8 bits, calibrated with `inputs`."""
    from coremltools.optimize.torch.quantization import LinearQuantizer, LinearQuantizerConfig

    milestones = [0, len(inputs), len(inputs), 0]  # observe, round, stop observing, freeze BatchNorms
    config = {"global_config": {"quantization_scheme": scheme, "milestones": milestones}}
    quantizer = LinearQuantizer(copy.deepcopy(view), LinearQuantizerConfig.from_dict(config))
    prepared = quantizer.prepare(example_inputs=(view.example,))
    for x in inputs:
        quantizer.step()
        prepared(x)
    quantizer.step()
    found: nn.Module = quantizer.finalize()
    return found


def table(kept: Sequence[dict[str, Any]]) -> str:
    """A line for each way."""
    lines = ["| model | w8a8 for Core ML by | cosine mean | p1 | least |", "|---|---|---|---|---|"]
    for result in kept:
        for row in result["rows"]:
            figures = " | ".join(f"{row[key]:.4f}" for key in ("mean", "p1", "least"))
            lines.append(f"| {result['model']} | {row['by']} | {figures} |")
    return "\n".join(lines)
