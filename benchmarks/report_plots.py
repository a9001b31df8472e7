"""Drawings of the page on latency, as SVG that scales and follows light and dark."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mobileclip.captions.report.html import Markup, Part, el

STYLE = """
td.wide, th.wide { width: 20%; min-width: 9rem; }
@media (min-width: 44rem) { tbody th { min-width: 15rem; } }
tbody td { min-width: 4.5rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
.chart { border: 1px solid var(--line); border-radius: 8px; padding: .6rem .8rem; min-width: 0; }
.chart svg { width: 100%; height: auto; }
.chart text, .strips text { fill: var(--soft); font-size: 11px; font-family: inherit; }
.chart .name { fill: var(--ink); font-size: 10px; }
.dot { fill: var(--bar); stroke: var(--paper); stroke-width: 1; }
.front { fill: var(--mark); }
.frontier { fill: none; stroke: var(--mark); stroke-width: 1.4; stroke-dasharray: 4 3; }
.strips { width: 100%; max-width: 58rem; height: auto; margin: .5rem 0; }
.strips .name { fill: var(--ink); }
.range { stroke: var(--bar); stroke-width: 6; stroke-linecap: round; }
.interval { width: 100%; min-width: 7rem; height: 1.1rem; }
"""
_WIDTH, _LEFT, _RIGHT = 720, 300, 16


def bar(share: float, label: str) -> Markup:
    """A share of a whole as a bar."""
    wide = round(100 * min(max(share, 0.0), 1.0), 2)
    parts = [el("rect", width=100, height=8, class_="track"), el("rect", width=wide, height=8, class_="area")]
    return el(
        "svg", parts, viewBox="0 0 100 8", class_="meter", preserveAspectRatio="none", role="img", aria_label=label
    )


def interval(ratio: Mapping[str, Any], top: float, label: str) -> Markup:
    """A ratio with its interval on an axis from 0 to `top`, with a line at 1."""
    at = [round(100 * min(float(ratio[key]) / top, 1.0), 2) for key in ("low", "value", "high")]
    one = round(100 * min(1 / top, 1.0), 2)
    parts = [
        el("line", x1=one, x2=one, y1=0, y2=12, class_="base"),
        el("rect", x=0, y=4, width=at[1], height=4, class_="area"),
        el("line", x1=at[0], x2=at[2], y1=6, y2=6, class_="median"),
    ]
    box = "0 0 100 12"
    return el("svg", parts, viewBox=box, class_="interval", preserveAspectRatio="none", role="img", aria_label=label)


def strips(rows: Sequence[tuple[str, Mapping[str, float]]]) -> Markup:
    """For each artifact a bar from p50 to p99 with marks at p50 and p90, on one axis of powers of ten."""
    if not rows:
        return Markup("")
    low = min(told["p50"] for _, told in rows)
    high = max(told["p99"] for _, told in rows)
    low, high = 0.8 * low, max(1.25 * high, 2 * low)

    def place(value: float) -> float:
        return round(_LEFT + _share(value, (low, high)) * (_WIDTH - _LEFT - _RIGHT), 1)

    tall = 22
    drawn: list[Part] = []
    for mark in _decades(low, high):
        x = place(mark)
        drawn.append(el("line", x1=x, x2=x, y1=0, y2=tall * len(rows), class_="base"))
        drawn.append(el("text", f"{mark:g}", x=x, y=tall * len(rows) + 14, text_anchor="middle"))
    for index, (name, told) in enumerate(rows):
        y = tall * index + tall / 2
        shown = name if len(name) <= 48 else name[:47] + "…"
        drawn.append(el("text", shown, x=_LEFT - 10, y=y + 4, text_anchor="end", class_="name"))
        drawn.append(el("line", x1=place(told["p50"]), x2=place(told["p99"]), y1=y, y2=y, class_="range"))
        for key in ("p50", "p90"):
            drawn.append(el("line", x1=place(told[key]), x2=place(told[key]), y1=y - 7, y2=y + 7, class_="median"))
    label = "p50, p90 and p99 of each artifact in ms: " + "; ".join(
        f"{name} {told['p50']:.1f}, {told['p90']:.1f}, {told['p99']:.1f}" for name, told in rows
    )
    box = f"0 0 {_WIDTH} {tall * len(rows) + 22}"
    svg = el("svg", drawn, viewBox=box, class_="strips", role="img", aria_label=label)
    caption = el("figcaption", "p50 and p90 (marks) to p99 (end of the bar), ms", class_="small soft")
    return el("figure", caption, svg)


def scatter(points: Sequence[tuple[str, float, float]], x: str, y: str, title: str) -> Markup:
    """Named points on two axes of powers of ten, the Pareto front among them drawn through.

    Less is better on both axes. Nothing is drawn of fewer than two points.
    """
    if len(points) < 2:
        return Markup("")
    wide, tall, left, bottom = 480, 300, 54, 40
    spans = [_span([across for _, across, _ in points]), _span([up for _, _, up in points])]

    def at(point: tuple[str, float, float]) -> tuple[float, float]:
        shares = [_share(value, span) for value, span in zip((point[1], point[2]), spans, strict=True)]
        return left + shares[0] * (wide - left - 12), tall - bottom - shares[1] * (tall - bottom - 12)

    drawn: list[Part] = []
    for mark in _decades(*spans[0]):
        px = at(("", mark, spans[1][0]))[0]
        drawn.append(el("line", x1=px, x2=px, y1=12, y2=tall - bottom, class_="base"))
        drawn.append(el("text", f"{mark:g}", x=px, y=tall - bottom + 14, text_anchor="middle"))
    for mark in _decades(*spans[1]):
        py = at(("", spans[0][0], mark))[1]
        drawn.append(el("line", x1=left, x2=wide - 12, y1=py, y2=py, class_="base"))
        drawn.append(el("text", f"{mark:.0e}" if mark < 1e-3 else f"{mark:g}", x=left - 6, y=py + 4, text_anchor="end"))
    drawn.append(el("text", x, x=(wide + left) / 2, y=tall - 6, text_anchor="middle"))
    drawn.append(el("text", y, x=4, y=10))
    front = _front(points)
    steps = " ".join(f"{px:.1f},{py:.1f}" for px, py in map(at, front))
    drawn.append(el("polyline", points=steps, class_="frontier"))
    for index, point in enumerate(points):
        px, py = at(point)
        shown = f"{point[0]}: {point[1]:.3g}, {point[2]:.3g}"
        kind = "dot front" if point in front else "dot"
        drawn.append(el("circle", el("title", shown), cx=round(px, 1), cy=round(py, 1), r=4.5, class_=kind))
        if len(points) <= 12 or point in front:
            end = px > 0.62 * wide
            drawn.append(
                el(
                    "text",
                    point[0] if len(point[0]) < 44 else point[0][:43] + "…",
                    x=round(px + (-8 if end else 8), 1),
                    y=round(py + (-7 if index % 2 else 12), 1),
                    text_anchor="end" if end else "start",
                    class_="name",
                )
            )
    svg = el("svg", drawn, viewBox=f"0 0 {wide} {tall}", role="img", aria_label=title)
    return el("figure", el("figcaption", title), svg, class_="chart")


def _front(points: Sequence[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """The points that no other beats on both axes, from left to right."""
    found: list[tuple[str, float, float]] = []
    for point in sorted(points, key=lambda one: (one[1], one[2])):
        if not found or point[2] < found[-1][2]:
            found.append(point)
    return found


def _share(value: float, span: tuple[float, float]) -> float:
    """Where a value stands between the ends of an axis of powers of ten."""
    return math.log(value / span[0]) / math.log(span[1] / span[0])


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return low / 1.4, max(high * 1.4, low * 2)


def _decades(low: float, high: float) -> list[float]:
    """Round marks on an axis of powers of ten: 1, 2 and 5 of each where they fit, else the powers alone."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    fine = last - first <= 3
    marks = [10.0**power * factor for power in range(first, last + 1) for factor in ((1, 2, 5) if fine else (1,))]
    return [mark for mark in marks if low <= mark <= high]
