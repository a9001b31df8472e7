"""The plan on paper of docs/training-at-scale.md: what `mobileclip.scale` says of `mci2-real` on some clusters.

python -m benchmarks report --into docs/training-at-scale.md
"""

from benchmarks import results
from mobileclip.scale import StageCost, stage_costs, total

SEEN, PAIRS = 200_000 * 65_536, 1_280_000_000
"""Samples and pairs of the published run: 200,000 steps of 65,536 on DataComp-1B (Vasu et al., MobileCLIP, 2024)."""
CLUSTERS = (("a100", 8), ("a100", 64), ("h100", 64), ("h100", 256), ("h200", 64), ("b200", 64))
"""Kinds of GPU and how many, that the sums are told of."""
CASE = ("h100", 64)
"""Of which every stage is told."""
PRICE = 2.5
"""Of a GPU for an hour, for the example's sake."""


def table() -> str:
    """Markdown: every stage on one cluster, then the sums on all."""
    gpu, count = CASE
    head = ["stage", "work", "rate, a second and device", f"{count} × {gpu}: hours", "GPU-hours"]
    head += [f"at {PRICE} an hour", "rate from"]
    one = results.markdown(head, map(_line, stage_costs(SEEN, PAIRS, count, gpu, PRICE)))
    lines = []
    for gpu, count in CLUSTERS:
        rows = stage_costs(SEEN, PAIRS, count, gpu)
        hours, gpu_hours, _ = total(rows)
        captions = sum(row.hours for row in rows if row.stage.startswith("captions"))
        (train,) = (row for row in rows if row.stage == "train")
        cells = [f"{count} × {gpu}", *(f"{value:,.0f}" for value in (captions, train.hours, hours, gpu_hours))]
        lines.append([*cells, f"{train.gpu_hours / gpu_hours:.0%}"])
    head = ["GPUs", "captions, hours", "train, hours", "all, hours", "GPU-hours", "of them training"]
    return f"{one}\n\n{results.markdown(head, lines)}"


def _line(row: StageCost) -> list[str]:
    rate = (
        f"{row.rate:,.0f} of a {row.device}" if row.rate >= 1 else f"{3600 * row.rate:,.0f} an hour of a {row.device}"
    )
    cost = f"{row.cost:,.0f}" if row.gpu_hours else "–"
    work, hours = f"{row.work:,} {row.unit}", f"{row.hours:,.2f}"
    return [row.stage, work, rate, hours, f"{row.gpu_hours:,.0f}", cost, row.source]
