"""What compressed weights cost and save on Core ML: bytes, and cosines against floats on pictures that are held out.

    python -m benchmarks compressed --model runs/mci2 --images photos       # a trained model; its image tower

The first pictures of the folder set palettes and ranges, the next ones judge. All of these are judged on the quantised
module in torch; the package itself is interpreted on a few, must be within 40 dB of the module (25 with integer
activations, whose rounding differs), and must hold the same integers.
"""

import argparse
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import results
from export.manifest import size_of
from export.parity import compare
from export.runtimes import CoreMLSession, open_artifact, tool_versions
from export.stored import check_integers
from export.targets import Quantisation
from export.views import View, make_views
from mobileclip.checkpoint import load
from mobileclip.errors import GateFailed, MobileClipError
from mobileclip.fuse import fuse
from mobileclip.images import load_images, read_image
from mobileclip.models import Clip
from mobileclip.preprocessing import preprocess

FORMS = ("fp16", "w8", "w8p", "w6p", "w4p", "w6pj", "w4pj", "w8a8")
LEAST_DB = {"w8a8": 25.0}
_OTHERWISE = 40.0


def main(argv: Sequence[str] | None = None) -> int:
    """Compress a model in every form, print a table, write the result."""
    parser = argparse.ArgumentParser(prog="benchmarks compressed", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="folder or name of a trained model")
    parser.add_argument("--images", type=Path, required=True, help="folder of pictures like those of its use")
    parser.add_argument("--calibration", type=int, default=32, help="pictures that set palettes and ranges; 0: none")
    parser.add_argument("--held", type=int, default=32, help="pictures that judge")
    parser.add_argument("--interpreted", type=int, default=2, help="of these, how many the package itself is run on")
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "quantise", help="folder")
    args = parser.parse_args(argv)
    model = load(args.model)
    fused = fuse(model)
    assert isinstance(fused, Clip)
    view = make_views(fused)["image"]
    fit = preprocess(model)
    needed = args.calibration + args.held
    inputs = [fit(read_image(path)).unsqueeze(0) for path in load_images(args.images)[:needed]]
    if len(inputs) < needed:
        raise MobileClipError(
            f"{args.images} holds {len(inputs)} pictures; {needed} are needed: give more, or ask less."
        )
    judged = inputs[args.calibration :]
    with torch.no_grad():
        wanted = [view(x) for x in judged]
    rows: list[dict[str, Any]] = []
    about = {"study": "compressed", "model": model.config.name, "calibration": args.calibration, "held": args.held}
    result = results.stamp() | about | {"versions": dict(tool_versions()), "rows": rows}
    for form in dict.fromkeys(("fp16", *args.forms)):
        row = measure(view, form, inputs[: args.calibration], judged, wanted, args.interpreted)
        print(f"{form}: {row['bytes'] / 1e6:.1f} MB, cosine {row['cosine']['mean']:.5f}", flush=True)
        rows.append(row)
        results.write(args.out, f"compressed-{model.config.name}", result)  # after each form: one may take minutes
    print(table([result]))
    return 0


def measure(
    view: View, form: str, calibration: Sequence[Tensor], judged: Sequence[Tensor], wanted: Sequence[Tensor], few: int
) -> dict[str, Any]:
    """One form of one view: bytes of its package, cosines of the module, and the package against the module.

    Raises:
        GateFailed: the package computes something else than the module.
        ArtifactError: it stores other integers.
    """
    from export.quantise import quantised
    from export.to_coreml import lower, oldest_ios

    begun = process_time()
    module: nn.Module | None = None
    if form != "fp16":
        module = quantised(view, Quantisation(precision=form, inputs=calibration))  # type: ignore[arg-type]
    seconds = process_time() - begun
    with torch.no_grad():
        given = [(module or view)(x) for x in judged]
    cosines = (
        torch.stack([F.cosine_similarity(a, b) for a, b in zip(given, wanted, strict=True)]).flatten().sort().values
    )
    folder = Path(tempfile.mkdtemp(prefix="mobileclip-"))
    try:
        path = folder / "image.mlpackage"
        lower(view, path, "apple", module)
        begun = perf_counter()
        session = open_artifact(path, "coreml")
        assert isinstance(session, CoreMLSession)
        db = [
            compare(session.run([x.numpy()])[0], y.numpy()).db for x, y in list(zip(judged, given, strict=True))[:few]
        ]
        if min(db, default=100.0) < LEAST_DB.get(form, _OTHERWISE):
            raise GateFailed(f"the {form} package is {min(db):.1f} dB from its module: it computes something else.")
        return {
            "form": form,
            "bytes": size_of(path),
            "ios": oldest_ios(path),
            "cosine": {"mean": float(cosines.mean()), "p1": float(cosines.quantile(0.01)), "min": float(cosines[0])},
            "db": min(db, default=None),
            "integers": 0 if module is None else check_integers(session.program, module),
            "compress_cpu_s": seconds,
            "verify_s": perf_counter() - begun,
        }
    finally:
        shutil.rmtree(folder)


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table, one row a form."""
    lines = [
        "| model | form | needs | MB | of fp16 | cosine mean | 1st percentile | least | package against module |",
        "|" + "---|" * 9,
    ]
    for result in found:
        floats = next(row["bytes"] for row in result["rows"] if row["form"] == "fp16")
        for row in result["rows"]:
            cosine = row["cosine"]
            cells = (
                result["model"],
                row["form"],
                row["ios"].replace("iOS", "iOS "),
                f"{row['bytes'] / 1e6:.1f}",
                f"{row['bytes'] / floats:.2f}",
                f"{cosine['mean']:.5f}",
                f"{cosine['p1']:.5f}",
                f"{cosine['min']:.5f}",
                "–" if row["db"] is None else f"{row['db']:.0f} dB",
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
