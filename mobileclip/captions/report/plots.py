"""Distributions as counts in fixed bins, and their pictures as inline SVG: no script, no package, sharp at any size."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mobileclip.captions.report.html import Markup, Part, el, number, table

_BARS = 88  # of a picture
_WIDTH, _HEIGHT = 352, 38  # of its coordinates


class Histogram:
    """Values of a stream in `bins` bins from `low` to `high`; what lies outside is counted at the ends."""

    def __init__(self, low: float, high: float, bins: int = 1_000) -> None:
        self.low, self.high = low, high
        self.counts: npt.NDArray[np.int64] = np.zeros(bins, np.int64)
        self._sum = 0.0

    def add(self, values: npt.ArrayLike) -> None:
        """Take in values of any shape; those that are not finite are left out."""
        found = np.asarray(values, np.float64).ravel()
        found = found[np.isfinite(found)]
        places = (found - self.low) * (len(self.counts) / (self.high - self.low))
        self.counts += np.bincount(
            np.clip(places, 0, len(self.counts) - 1).astype(np.int64), minlength=len(self.counts)
        )
        self._sum += math.fsum(found)

    @property
    def count(self) -> int:
        """Values."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float | None:
        """Their mean, exact; None of nothing."""
        return self._sum / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """The lower edge of the bin in which the share is reached; None of nothing."""
        if not self.count:
            return None
        place = int(np.searchsorted(self.counts.cumsum(), max(share * self.count, 1e-9)))
        return self.low + place * (self.high - self.low) / len(self.counts)

    def between(self, low: float, high: float, bars: int) -> npt.NDArray[np.float64]:
        """[bars] counts between two values, bins shared out by how much of them lies in a bar."""
        edges = np.linspace(self.low, self.high, len(self.counts) + 1)
        below = np.concatenate([[0.0], self.counts.cumsum().astype(np.float64)])
        at: npt.NDArray[np.float64] = np.interp(np.linspace(low, high, bars + 1), edges, below)
        return np.diff(at)


def distributions(title: str, histograms: Mapping[str, Histogram], form: str = "mean", what: str = "") -> Markup:
    """One row a source on one axis: outline, mean, and the 5th, 50th and 95th percentiles."""
    known = {name: one for name, one in histograms.items() if one.count}
    if not known:
        return Markup("")
    low, high = _span(list(known.values()))
    rows: list[Sequence[Part]] = []
    for name, one in known.items():
        figures = [number(one.quantile(share), form) for share in (0.05, 0.5, 0.95)]
        label = f"{title}, {name}: median {figures[1]}, from {figures[0]} to {figures[2]}"
        rows.append([name, _outline(one, low, high, label), number(one.count), number(one.mean, form), *figures])
    rows.append([Markup(""), _axis(low, high)])
    head = ["source", title, "captions", "mean", "5 %", "median", "95 %"]
    return table(head, rows, "tpnnnnn", what or title)


def meter(share: float, label: str) -> Markup:
    """A share as a bar."""
    wide = round(100 * min(max(share, 0.0), 1.0), 2)
    track = el("rect", width=100, height=8, class_="track")
    bar = el("rect", width=wide, height=8, class_="area")
    return el(
        "svg", track, bar, viewBox="0 0 100 8", class_="meter", preserveAspectRatio="none", role="img", aria_label=label
    )


def _span(histograms: Sequence[Histogram]) -> tuple[float, float]:
    """A round range that holds nearly all values of all of them."""
    low = min(value for one in histograms if (value := one.quantile(0.005)) is not None)
    high = max(value for one in histograms if (value := one.quantile(0.995)) is not None)
    bin_ = (histograms[0].high - histograms[0].low) / len(histograms[0].counts)
    high = max(high + bin_, low + 4 * bin_)
    step = _step(high - low)
    return max(math.floor(low / step) * step, histograms[0].low), min(math.ceil(high / step) * step, histograms[0].high)


def _step(width: float) -> float:
    """A round distance of about four ticks."""
    rough = width / 4
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)


def _outline(histogram: Histogram, low: float, high: float, label: str) -> Markup:
    bars = min(_BARS, max(round((high - low) / (histogram.high - histogram.low) * len(histogram.counts)), 1))
    counts = histogram.between(low, high, bars)
    top = float(counts.max()) or 1.0
    wide = _WIDTH / bars
    steps = [f"M0 {_HEIGHT}"]
    for place, count in enumerate(counts):
        steps.append(f"V{_HEIGHT - count / top * (_HEIGHT - 2):.1f}H{(place + 1) * wide:.1f}")
    shape = el("path", d="".join([*steps, f"V{_HEIGHT}Z"]), class_="area")
    middle = _place(histogram.quantile(0.5) or 0.0, low, high)
    lines: list[Any] = [
        el("line", x1=0, x2=_WIDTH, y1=_HEIGHT, y2=_HEIGHT, class_="base"),
        el("line", x1=middle, x2=middle, y1=0, y2=_HEIGHT, class_="median"),
    ]
    box = f"0 0 {_WIDTH} {_HEIGHT}"
    return el("svg", shape, lines, viewBox=box, class_="plot", preserveAspectRatio="none", role="img", aria_label=label)


def _axis(low: float, high: float) -> Markup:
    step, marks = _step(high - low), []
    value = math.ceil(low / step - 1e-9) * step
    while value <= high + 1e-9:
        place = _place(value, low, high)
        anchor = "start" if place < 6 else "end" if place > _WIDTH - 6 else "middle"
        marks.append(el("text", f"{value:.6g}".replace("-", "−"), x=f"{place / _WIDTH:.1%}", y=14, text_anchor=anchor))
        value = round(value + step, 9)
    return el("svg", marks, class_="axis", aria_hidden="true")


def _place(value: float, low: float, high: float) -> float:
    return round(min(max((value - low) / (high - low), 0.0), 1.0) * _WIDTH, 1)
