"""How many pictures calibrate? Cosines on held-out pictures for each count, with several draws.

python -m benchmarks calibration_count seeded:nano --calibration scenes/train --held scenes/val/images
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.int8_ablation import Sides, arguments
from export.integers import BEST

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write a result."""
    parser = arguments("calibration_count")
    parser.add_argument("--pictures", type=int, nargs="+", default=COUNTS, help="counts to try")
    parser.add_argument("--draws", type=int, default=3)
    args = parser.parse_args(argv)
    sides = Sides.of(args.model, args.calibration, args.held, args.count)
    rows: list[dict[str, Any]] = []
    for form in args.forms:
        for count in args.pictures:
            for draw in range(args.draws):
                used = random.Random(draw).sample(sides.calibration, min(count, len(sides.calibration)))
                rows.append({"form": form, "pictures": len(used), "draw": draw} | sides.cosines(form, BEST, used))
                print(rows[-1], flush=True)
    settings = {"model": args.model, "draws": args.draws, "held": len(sides.held)}
    result = results.stamp() | {"study": "calibration_count", "settings": settings, "rows": rows}
    results.write(args.out, f"calibration_count-{Path(args.model).name.replace(':', '-')}", result)
    print(table([result]))
    return 0


def table(kept: Sequence[dict[str, Any]]) -> str:
    """A line for each count: the mean of the draws, and the worst of them."""
    lines = ["| model | form | pictures | cosine mean | worst draw | p1, worst draw |", "|---|---|---|---|---|---|"]
    for result in kept:
        name = Path(result["settings"]["model"]).name
        for form, count in dict.fromkeys((row["form"], row["pictures"]) for row in result["rows"]):
            rows = [row for row in result["rows"] if (row["form"], row["pictures"]) == (form, count)]
            means = [row["mean"] for row in rows]
            worst = min(row["p1"] for row in rows)
            figures = f"{sum(means) / len(means):.4f} | {min(means):.4f} | {worst:.4f}"
            lines.append(f"| {name} | {form} | {count} | {figures} |")
    return "\n".join(lines)
