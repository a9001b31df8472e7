"""Drawings of `python -m benchmarks study`, as SVG: curves over labels, and dots with their intervals."""

import math
from collections.abc import Mapping, Sequence

from benchmarks.study_figures import mean_of
from mobileclip.captions.report.html import Markup, el, joined

COLOURS = ("#0b6e4f", "#c8553d", "#3b5b92", "#6b7280")
WIDE, HIGH, LEFT, TOP = 300, 190, 44, 30
_ROW, _NAMES, _PANEL, _GAP = 22, 86, 190, 24


def curves(title: str, lines: Mapping[str, Mapping[int, Sequence[float]]]) -> str:
    """Figures of several starts over labelled pictures (log axis): mean and range over the seeds.

    Args:
        title: what is drawn.
        lines: start -> pictures -> the figure of each seed.
    """
    values = [value for line in lines.values() for found in line.values() for value in found]
    counts = sorted({count for line in lines.values() for count in line})
    low, high = _span(values)
    reach = math.log(counts[-1] / counts[0]) or 1.0

    def x(count: float) -> float:
        return LEFT + WIDE * math.log(count / counts[0]) / reach

    def y(value: float) -> float:
        return TOP + HIGH * (1 - (value - low) / (high - low))

    parts: list[Markup] = [
        el("text", title, x=LEFT, y=TOP - 12, font_size=13, font_weight="bold"),
        el("path", d=f"M{LEFT} {TOP}V{TOP + HIGH}H{LEFT + WIDE}", stroke="#9ca3af", fill="none"),
    ]
    for value, text in round_marks(low, high):
        parts.append(el("text", text, x=LEFT - 8, y=round(y(value) + 4, 1), font_size=10, text_anchor="end"))
        parts.append(el("path", d=f"M{LEFT - 4} {y(value):.1f}H{LEFT}", stroke="#9ca3af"))
    for count in counts:
        place = round(x(count), 1)
        parts.append(el("text", f"{count:,}", x=place, y=TOP + HIGH + 15, font_size=10, text_anchor="middle"))
    parts.append(
        el("text", "pictures with labels", x=LEFT + WIDE / 2, y=TOP + HIGH + 29, font_size=10, text_anchor="middle")
    )
    for number, (name, line) in enumerate(lines.items()):
        points, colour = [], COLOURS[number % len(COLOURS)]
        for count, found in sorted(line.items()):
            one = mean_of(found)
            points.append(f"{x(count):.1f},{y(one.mean):.1f}")
            span = f"M{x(count):.1f} {y(one.least):.1f}V{y(one.most):.1f}"
            parts.append(el("path", d=span, stroke=colour, stroke_width=1.5, opacity=0.6))
            parts.append(el("circle", cx=f"{x(count):.1f}", cy=f"{y(one.mean):.1f}", r=3, fill=colour))
        parts.append(el("polyline", points=" ".join(points), fill="none", stroke=colour, stroke_width=1.5))
        parts.append(el("text", f"● {name}", x=LEFT + 80 * number, y=HIGH + TOP + 46, fill=colour, font_size=12))
    return _drawing(parts, LEFT + WIDE + 20, HIGH + TOP + 60)


def dots(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """A panel a figure, a row an arm: the mean as a dot, the 95 % interval of the mean as a line, seeds as ticks.

    Args:
        panels: figure -> arm -> the figure of each seed; the arms of a panel are those of all that have it.
    """
    arms = list(dict.fromkeys(arm for panel in panels.values() for arm in panel))
    height = TOP + _ROW * len(arms) + 24
    parts: list[Markup] = []
    for row, arm in enumerate(arms):
        parts.append(el("text", arm, x=_NAMES - 8, y=TOP + _ROW * row + 15, font_size=12, text_anchor="end"))
    for number, (figure, panel) in enumerate(panels.items()):
        inner = _dot_panel(figure, panel, arms)
        parts.append(el("g", joined(inner), transform=f"translate({_NAMES + number * (_PANEL + _GAP)} 0)"))
    return _drawing(parts, _NAMES + len(panels) * (_PANEL + _GAP), height)


def _dot_panel(figure: str, panel: Mapping[str, Sequence[float]], arms: Sequence[str]) -> list[Markup]:
    means = {arm: mean_of(found) for arm, found in panel.items()}
    ends = [end for one in means.values() for end in (one.low, one.high) if math.isfinite(end)]
    low, high = _span([*ends, *(value for found in panel.values() for value in found)])

    def x(value: float) -> float:
        return round(_PANEL * (value - low) / (high - low), 1)

    bottom = TOP + _ROW * len(arms)
    parts = [
        el("text", figure, x=0, y=TOP - 12, font_size=12, font_weight="bold"),
        el("path", d=f"M0 {TOP}V{bottom}H{_PANEL}", stroke="#9ca3af", fill="none"),
    ]
    for value, text in round_marks(low, high):
        parts.append(el("text", text, x=x(value), y=bottom + 14, font_size=9, text_anchor="middle"))
        parts.append(el("path", d=f"M{x(value)} {TOP}V{bottom}", stroke="#e5e7eb"))
    for row, arm in enumerate(arms):
        if arm not in means:
            continue
        one, level = means[arm], TOP + _ROW * row + 11
        if one.seeds > 1:
            parts.append(el("path", d=f"M{x(one.low)} {level}H{x(one.high)}", stroke=COLOURS[2], stroke_width=2))
        ticks = "".join(f"M{x(value)} {level - 5}v10" for value in panel[arm])
        parts.append(el("path", d=ticks, stroke=COLOURS[3], stroke_width=1, fill="none"))
        parts.append(el("circle", cx=x(one.mean), cy=level, r=3.5, fill=COLOURS[0]))
    return parts


def round_marks(low: float, high: float) -> list[tuple[float, str]]:
    """Round numbers between two, three to eight of them, and how they are written."""
    power = math.floor(math.log10((high - low) / 3))
    step = max(s for s in (10.0**power, 2 * 10.0**power, 5 * 10.0**power) if s <= (high - low) / 3)
    return [
        (place * step, f"{place * step:.{max(-power, 0)}f}")
        for place in range(math.ceil(low / step), math.floor(high / step) + 1)
    ]


def _span(values: Sequence[float]) -> tuple[float, float]:
    margin = 0.05 * (max(values) - min(values)) or 0.01
    return min(values) - margin, max(values) + margin


def _drawing(parts: Sequence[Markup], width: float, height: float) -> str:
    return str(
        el(
            "svg",
            el("rect", width=width, height=height, fill="#ffffff"),
            joined(parts),
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {width} {height}",
            font_family="sans-serif",
            role="img",
        )
    )
