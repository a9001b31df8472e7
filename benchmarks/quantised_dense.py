"""What dense models lose in 8 bits, in their own figures: mIoU, RMSE, AP, on an annotated set.

    python -m benchmarks quantised_dense runs/seg/best runs/depth/best --calibration photos --set scenes

Each model is exported as `mobileclip export --precision w8a8 --gate SET` would, the artifact runs on the set, and
both figures are those of `mobileclip evaluate`. Where an artifact does not run here, its eager module does.
"""

import argparse
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import results
from export import export
from export.gates import LIMITS
from export.manifest import Bundle
from export.runtimes import tool_versions

FIGURES: Mapping[str, tuple[str, str, float]] = {
    "miou_lost": ("mIoU", "points", 100.0),
    "rmse_rise": ("rmse", "%", 100.0),
    "box_ap_lost": ("box_ap", "points", 100.0),
    "mask_ap_lost": ("mask_ap", "points", 100.0),
}
"""What is lost (`export.gate_sets.lost`) -> the figure, the unit of its loss, and what a loss is multiplied by."""


def main(argv: Sequence[str] | None = None) -> int:
    """Export, measure, print a table, write one result for each model."""
    parser = argparse.ArgumentParser(prog="benchmarks quantised_dense", description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", help="dense checkpoints")
    parser.add_argument("--calibration", type=Path, required=True, help="pictures that set ranges")
    parser.add_argument("--set", type=Path, required=True, help="annotated set, none of it in the calibration")
    parser.add_argument("--precision", default="w8a8")
    parser.add_argument("--targets", nargs="+", default=["onnx"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "quantise", help="folder")
    args = parser.parse_args(argv)
    found = []
    for model in args.models:
        result = results.stamp() | {
            "study": "quantised_dense",
            "model": model,
            "precision": args.precision,
            "versions": dict(tool_versions()),
            "rows": _rows(model, args),
        }
        task = result["rows"][0]["task"]
        results.write(args.out, f"dense-{task}-{args.precision}", result)
        found.append(result)
    print(table(found))
    return 0


def _rows(model: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row an artifact: what its manifest says that it keeps."""
    folder = Path(tempfile.mkdtemp(prefix="mobileclip-"))
    try:
        options = {"precision": args.precision, "calibration": args.calibration, "gate": args.set}
        out = export(model, args.targets, folder / "bundle", accept=True, **options)
        rows = []
        for entry in Bundle.open(out).manifest["artifacts"]:
            kept = entry["quantisation"]["kept"]
            numbers = {item["name"]: item["value"] for item in kept["numbers"]} | kept["told"]
            about = {key: entry[key] for key in ("target", "bytes", "delegates")}
            told = {"pictures": kept["pictures"], "by": kept["by"], "passed": entry["gate"]["passed"]}
            rows.append({"task": entry["view"], **about, **told, "numbers": numbers})
        return rows
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """One row a figure."""
    lines = [
        "| task | runtime | precision | figure | floats | quantised | lost | allowed | pictures |",
        "|" + "---|" * 9,
    ]
    allowed = {"miou_lost": "miou", "rmse_rise": "rmse", "box_ap_lost": "ap", "mask_ap_lost": "ap"}
    for result in found:
        limits = LIMITS[result["precision"]]
        for row in result["rows"]:
            for name, (figure, unit, factor) in FIGURES.items():
                if name not in row["numbers"]:
                    continue
                was, now, lost = (row["numbers"][key] for key in (f"{figure}_before", f"{figure}_after", name))
                limit = factor * getattr(limits, allowed[name])
                about = f"| {row['task']} | {row['target']} | {result['precision']} | {figure} | {was:.4f} | {now:.4f} "
                lines.append(f"{about}| **{factor * lost:+.2f} {unit}** | {limit:g} {unit} | {row['pictures']} |")
    return "\n".join(lines)
