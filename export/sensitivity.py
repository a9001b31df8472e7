"""How much each block of a view suffers from fewer bits: quantised alone, and all others quantised but it.

The table is kept in the user's cache by everything that decides it, since it takes minutes for a real encoder.
"""

import hashlib
import html
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from export.blocks import blocks_of
from export.parity import compare_outputs, worst
from export.runtimes import tool_versions
from export.targets import Precision
from export.variants import Answer, Assignment, Variants
from mobileclip.data.remote import default_cache

if TYPE_CHECKING:
    from export.views import View


@dataclass(frozen=True, kw_only=True)
class Row:
    """One block at one precision."""

    block: str
    precision: Precision
    weights: int
    """Values of its weights."""
    macs: int
    """Multiplications of its layers, for one input."""
    alone: float
    """Mean share of the output that is error when only this block is quantised: 1 - cosine, or of unequal labels."""
    without: float
    """The same when every other block is quantised and this one is in floats."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """All blocks of a view, in the order of the network."""

    view: str
    inputs: int
    """How many the means are over."""
    rows: tuple[Row, ...]
    whole: Mapping[Precision, float]
    """Precision -> the same share with every block at it."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows]}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Table":
        """Inverse of `as_dict`."""
        return Table(**{**values, "rows": tuple(Row(**row) for row in values["rows"])})


def sensitivities(
    view: "View",
    variants: Variants,
    inputs: Sequence[Tensor],
    *,
    key: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> Table:
    """Measure every block at every precision of `variants`.

    Args:
        inputs: held out from calibration, as the view takes them.
        key: what decides the variants beside weights and inputs (calibration); the table is cached by all of it, and
            not cached without.
    """
    kept = _kept(view, variants, inputs, key) if key else None
    if kept is not None and kept.is_file():
        return Table.from_dict(json.loads(kept.read_text()))
    blocks = list(blocks_of(view))
    floats = variants.options[-1]
    references = [view.answer(x) for x in inputs]
    specs = [spec.as_dict() for spec in view.outputs]

    def error(assignment: Assignment) -> float:
        return mean_error((variants.answer(x, assignment) for x in inputs), references, specs)

    weights, macs = weights_of(view), macs_of(view)
    rows, whole = [], {}
    for precision in variants.options[:-1]:
        every: dict[str, Precision] = dict.fromkeys(blocks, precision)
        none: dict[str, Precision] = dict.fromkeys(blocks, floats)
        whole[precision] = error(every)
        for block in blocks:
            row = Row(
                block=block,
                precision=precision,
                weights=weights[block],
                macs=macs[block],
                alone=error({**none, block: precision}),
                without=error({**every, block: floats}),
            )
            rows.append(row)
            say(f"{block} {precision}: {row.alone:.2e} alone, {row.without:.2e} without it")
    table = Table(view=view.kind, inputs=len(inputs), rows=tuple(rows), whole=whole)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(table.as_dict()))
    return table


def mean_error(answers: Iterable[Answer], references: Sequence[Answer], specs: Sequence[Mapping[str, Any]]) -> float:
    """Mean of 1 - cosine of the worst output; of labels, the share that differs."""
    found = [worst(compare_outputs(a, b, specs)) for a, b in zip(answers, references, strict=True)]
    return float(np.mean([1 - item.cosine for item in found]))


def _kept(view: "View", variants: Variants, inputs: Sequence[Tensor], key: str) -> Path:
    digest = hashlib.sha256(json.dumps([key, view.kind, variants.options, dict(tool_versions())]).encode())
    for name, tensor in view.state_dict().items():
        digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    for x in inputs:
        digest.update(x.numpy().tobytes())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return default_cache() / "sensitivity" / f"{digest.hexdigest()}.json"


def weights_of(view: "View") -> dict[str, int]:
    """Block -> values of its weights (matrices and kernels, not biases)."""
    return {
        block: sum(p.numel() for p in view.get_submodule(path).parameters() if p.dim() > 1)
        for block, path in blocks_of(view).items()
    }


def macs_of(view: "View") -> dict[str, int]:
    """Block -> multiplications of its convolutions and linear layers for the view's example."""
    paths = blocks_of(view)
    found = dict.fromkeys(paths, 0)
    hooks = []
    for block, path in paths.items():
        for layer in view.get_submodule(path).modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                hooks.append(layer.register_forward_hook(_counter(found, block)))
    try:
        view.answer(view.example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _counter(found: dict[str, int], block: str) -> Callable[[nn.Module, Any, Tensor], None]:
    def count(layer: nn.Module, _: Any, out: Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        places = out.numel() // out.shape[1] if weight.dim() == 4 else out.numel() // out.shape[-1]
        found[block] += places * weight.numel()

    return count


def plot(table: Table, title: str) -> str:
    """The table as an SVG: a bar for each block and precision, on a logarithmic scale, as long as the error alone; a
    circle where the error of the whole falls by as much when the block is left in floats.

    The scale begins at a hundredth of the median, so that blocks of no error do not press all others together.
    """
    rows = table.rows
    gains = [table.whole[row.precision] - row.without for row in rows]
    there = [value for value in (*(row.alone for row in rows), *gains) if value > 0] or [1.0]
    low, high = float(np.median(there)) / 100, max(there)
    step, left, width = 16, 150, 480
    colours = dict(zip(table.whole, ("#2563a8", "#c2571a", "#3b7d3a", "#7a4a9c"), strict=False))

    def place(value: float) -> float:
        share = np.log(max(value, low) / low) / max(float(np.log(high / low)), 1e-9)
        return left + max(width * float(share), 1)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 110} {step * len(rows) + 60}" '
        'font-family="system-ui, sans-serif" font-size="11" role="img">',
        f"<title>{html.escape(title)}</title>",
        f'<text x="8" y="18" font-size="14" font-weight="600">{html.escape(title)}</text>',
        f'<text x="{left}" y="36" fill="#555">bar: error when the block alone is quantised; circle: what leaving it in '
        "floats saves (1 - cosine, logarithmic)</text>",
    ]
    for index, (row, gain) in enumerate(zip(rows, gains, strict=True)):
        y, end, saved = 46 + step * index, place(row.alone), place(gain) if gain > low else 0.0
        lines += [
            f'<text x="{left - 6}" y="{y + 10}" text-anchor="end">{html.escape(row.block)} {row.precision}</text>',
            f'<rect x="{left}" y="{y}" width="{end - left:.1f}" height="{step - 4}" fill="{colours[row.precision]}"/>',
            f'<text x="{max(end, saved) + 9:.1f}" y="{y + 10}" fill="#333">{row.alone:.1e}</text>',
        ]
        if saved:
            lines.append(f'<circle cx="{saved:.1f}" cy="{y + step / 2 - 2}" r="4" fill="#fff" stroke="#111"/>')
    return "\n".join([*lines, "</svg>"]) + "\n"
