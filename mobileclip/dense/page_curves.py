"""Curves of a run's log as small drawings, one a quantity, for the run's page."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mobileclip.captions.report.html import Markup, Part, el

Series = Mapping[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]
"""Name -> steps [N] and values [N]."""

MOST = 400
"""Points of a curve; more are averaged in runs."""

FIGURE = "val/"
"""What names of figures on the validation set begin with."""

_FIGURES = 4  # of them that are not folded away
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 480, 210, 52, 24, 10
_LAST = ("lr", "epoch", "gradient_norm", "images_s", "wait_share", "memory_gb")
_HIDDEN = ("epoch", "memory_gb", "step")


def read_log(path: Path) -> Series:
    """`log.jsonl` as series; no file is no series, and a line that a kill cut short is left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    found: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        try:
            values = json.loads(line)
            step = float(values.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        for name, value in values.items():
            if isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(name, []).append((step, float(value)))
    return {name: (np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])) for name, pairs in found.items()}


def curves(series: Series, metric: str, better: str) -> Markup:
    """The loss and its parts, the task's metric on the validation set, the rate, the gradient's norm, the speed; the
    set's further figures are folded away, and those that COCO calls -1, of objects that it has none of, are left out.
    """
    first = [f"val/{metric}", "loss"]
    others = [name for name in series if name not in (*first, *_LAST, *_HIDDEN) and not _nothing(name, series[name][1])]
    figures = [name for name in others if name.startswith(FIGURE)]
    main, folded = figures[: _FIGURES - 1], figures[_FIGURES - 1 :]
    parts = [name for name in others if name not in figures]
    order = [*first, *main, *parts, *(name for name in _LAST if name not in _HIDDEN)]
    charts = [
        _chart(name, *series[name], better if name == first[0] else "") for name in order if len(series.get(name, ()))
    ]
    if not charts:
        return Markup("")
    more = [_chart(name, *series[name], "") for name in folded]
    unfolded = el("details", el("summary", f"{len(more)} further figures"), el("div", more, class_="charts"))
    return el("div", el("div", charts, class_="charts"), unfolded if more else None)


def _nothing(name: str, values: npt.NDArray[np.float64]) -> bool:
    return name.startswith(FIGURE) and bool((values == -1).all())


def _chart(name: str, steps: npt.NDArray[np.float64], values: npt.NDArray[np.float64], better: str) -> Markup:
    steps, values = _fewer(steps, values)
    low, high, marks = _range(values)
    first, last = float(steps[0]), float(max(steps[-1], steps[0] + 1))
    x = _LEFT + (steps - first) / (last - first) * (_WIDTH - _LEFT - 8)
    y = _TOP + (high - values) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
    drawn: list[Part] = []
    for mark in marks:
        place = round(_TOP + (high - mark) / (high - low) * (_HEIGHT - _TOP - _BOTTOM), 1)
        drawn.append(el("line", x1=_LEFT, x2=_WIDTH - 8, y1=place, y2=place, class_="base"))
        drawn.append(el("text", _short(mark), x=_LEFT - 6, y=place + 4, text_anchor="end"))
    for step, anchor, at in ((first, "start", _LEFT), (last, "end", _WIDTH - 8)):
        drawn.append(el("text", f"{step:,.0f}", x=at, y=_HEIGHT - 6, text_anchor=anchor))
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    drawn.append(el("polyline", points=points, class_="line"))
    if len(steps) <= 12:
        drawn += [
            el("circle", cx=round(float(a), 1), cy=round(float(b), 1), r=3, class_="dot")
            for a, b in zip(x, y, strict=True)
        ]
    said = f"last {_short(float(values[-1]))}"
    if better:
        best = int(values.argmax() if better == "higher" else values.argmin())
        said = f"best {_short(float(values[best]))} at step {steps[best]:,.0f}, {said}"
    label = f"{name} from step {first:,.0f} to {last:,.0f}: {said}"
    picture = el("svg", drawn, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=label, class_="axis")
    return el("figure", el("figcaption", el("b", name), " ", said), picture, class_="chart")


def _fewer(
    steps: npt.NDArray[np.float64], values: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if len(steps) <= MOST:
        return steps, values
    parts = np.array_split(np.arange(len(steps)), MOST)
    return np.array([steps[part[-1]] for part in parts]), np.array([values[part].mean() for part in parts])


def _range(values: npt.NDArray[np.float64]) -> tuple[float, float, Sequence[float]]:
    """Ends of the axis and its marks: round numbers, and nearly all of the values between them."""
    low, high = (float(np.quantile(values, share)) for share in (0.0, 0.995 if len(values) > 50 else 1.0))
    if low >= 0 and low < 0.4 * high:
        low = 0.0
    width = max(high - low, abs(high) * 0.02) or 1.0
    power = 10.0 ** math.floor(math.log10(width / 3))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= width / 3 * 0.999)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil((low + width) / step - 1e-9) * step
    return low, high, [low + step * place for place in range(round((high - low) / step) + 1)]


def _short(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2g}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")
