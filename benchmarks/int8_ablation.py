"""What each step towards accurate integers is worth: one line a step, on both forms of the image view.

    python -m benchmarks int8_ablation seeded:nano --calibration scenes/train --held scenes/val/images

Every line is the eager quantised module, which is what artifacts compute, against the view in floats, on the same
held-out pictures. The rewritten view is XNNPACK's, the plain one onnxruntime's and Core ML's.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import results
from export.calibration import Calibration
from export.integers import Method, int8_module
from export.rewrites import rewrite
from export.targets import TARGETS, Quantisation
from export.views import View, make_views
from mobileclip.checkpoint import load
from mobileclip.errors import MobileClipError
from mobileclip.fuse import fuse
from mobileclip.models import Clip
from mobileclip.preprocessing import preprocess

_ENDS = Method(activations=False, behind=False, equalised=False, corrected=False, depthwise=False, small=False)
STEPS = {
    "least to greatest value": _ENDS,
    "+ gates and head in floats": (_second := replace(_ENDS, small=True)),
    "+ depthwise in floats where no slower": (_third := replace(_second, depthwise=True)),
    "+ ranges by squared error": (_fourth := replace(_third, activations=True)),
    "+ judged behind GELU": (_fifth := replace(_fourth, behind=True)),
    "+ bias correction": (_sixth := replace(_fifth, corrected=True)),
    "+ equalised channels": replace(_sixth, equalised=True),
}
"""Each line adds to the one above."""
FORMS = {"rewritten": "executorch-xnnpack", "plain": "onnx"}


@dataclass(frozen=True)
class Sides:
    """A view in floats, and the pictures for both sides."""

    name: str
    """Of the model."""
    view: View
    calibration: list[Tensor]
    held: list[Tensor]
    wanted: list[Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, model: str, calibration: Path, held: Path, count: int) -> "Sides":
        """The image view of a model; `count` pictures to measure with, none of which may calibrate.

        Raises:
            MobileClipError: a model or pictures that cannot be taken, or pictures that are on both sides.
        """
        clip = fuse(load(model))
        assert isinstance(clip, Clip)
        shape = preprocess(replace(clip.config.preprocess, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
        found, judges = Calibration.of(calibration), Calibration.of(held)
        both = found.shared(held)
        if both:
            raise MobileClipError(
                f"{len(both)} picture(s) of {calibration} are in {held} too (such as {both[0]}): what calibrates may "
                "not judge; give other ones."
            )
        view = make_views(clip)["image"]
        x = replace(judges, images=judges.images[:count]).inputs(lambda image: shape(image)[None])
        return cls(
            clip.config.name, view, found.inputs(lambda image: shape(image)[None]), x, [view(item) for item in x]
        )

    @torch.no_grad()
    def cosines(self, form: str, method: Method, inputs: Sequence[Tensor]) -> dict[str, float]:
        """Mean, first percentile and least cosine to the floats, of one form of the view calibrated with `inputs`."""
        changed = rewrite(self.view, TARGETS[FORMS[form]].rewrites)
        assert isinstance(changed, View)
        module = int8_module(changed, Quantisation(precision="w8a8", inputs=inputs), method)
        return self.compared(module)

    @torch.no_grad()
    def compared(self, module: nn.Module) -> dict[str, float]:
        """The same of a module."""
        pairs = zip(self.held, self.wanted, strict=True)
        found = np.array([float(F.cosine_similarity(module(x), wanted)) for x, wanted in pairs])
        return {"mean": float(found.mean()), "p1": float(np.percentile(found, 1)), "least": float(found.min())}


def arguments(name: str) -> argparse.ArgumentParser:
    """What all studies of integers take."""
    parser = argparse.ArgumentParser(prog=f"benchmarks {name}")
    parser.add_argument("model", help="name, checkpoint or folder of a CLIP")
    parser.add_argument("--calibration", type=Path, required=True, help="folder of pictures, tars or scenes")
    parser.add_argument("--held", type=Path, required=True, help="folder of other pictures, to measure with")
    parser.add_argument("--count", type=int, default=64, help="pictures to measure with")
    parser.add_argument("--forms", nargs="+", choices=tuple(FORMS), default=tuple(FORMS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "quantise", help="folder")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write a result."""
    parser = arguments("int8_ablation")
    parser.add_argument("--pictures", type=int, default=32, help="pictures that calibrate")
    args = parser.parse_args(argv)
    sides = Sides.of(args.model, args.calibration, args.held, args.count)
    used = sides.calibration[:: max(1, len(sides.calibration) // args.pictures)][: args.pictures]
    rows: list[dict[str, Any]] = []
    for form in args.forms:
        for step, method in STEPS.items():
            rows.append({"form": form, "step": step} | sides.cosines(form, method, used))
            print(rows[-1], flush=True)
    settings = {"model": args.model, "pictures": len(used), "held": len(sides.held)}
    result = results.stamp() | {"study": "int8_ablation", "settings": settings, "rows": rows}
    results.write(args.out, f"int8_ablation-{Path(args.model).name.replace(':', '-')}", result)
    print(table([result]))
    return 0


def table(kept: Sequence[dict[str, Any]]) -> str:
    """A line for each step of each form."""
    lines = ["| model | form | step | cosine mean | p1 | least |", "|---|---|---|---|---|---|"]
    for result in kept:
        name = Path(result["settings"]["model"]).name
        for row in result["rows"]:
            figures = " | ".join(f"{row[key]:.4f}" for key in ("mean", "p1", "least"))
            lines.append(f"| {name} | {row['form']} | {row['step']} | {figures} |")
    return "\n".join(lines)
