"""What the figures of `python -m benchmarks study` allow to be said: intervals over seeds, and labels saved.

    compared({0: 0.11, 1: 0.10}, {0: 0.06, 1: 0.07}, lower=False).apart
    saving({10: 0.05, 100: 0.08, 1000: 0.1}, target=0.08, lower=False)      # Saving(times=10.0, bound=False)

An interval of a mean over few seeds is Student's (Gosset 1908): wide, as it should be. All seeds are measured on the
same scenes, so the difference of two arms is taken seed by seed, and has its own interval.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_T: tuple[float, ...] = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""Two-sided 95 % of Student's t with 1 to 20 degrees of freedom; beyond, the last is a little too wide."""


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A figure over seeds."""

    mean: float
    low: float
    """Of the 95 % interval of the mean; -inf with one seed."""
    high: float
    least: float
    """Of the seeds."""
    most: float
    seeds: int


def mean_of(values: Sequence[float]) -> Mean:
    """Mean, Student's 95 % interval and range of at least one value."""
    found = np.asarray(values, np.float64)
    n, mean = len(found), float(found.mean())
    half = math.inf
    if n > 1:
        half = _T[min(n - 1, len(_T)) - 1] * float(found.std(ddof=1)) / math.sqrt(n)
    return Mean(
        mean=mean, low=mean - half, high=mean + half, least=float(found.min()), most=float(found.max()), seeds=n
    )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One arm against another, over the seeds that both have."""

    first: Mean
    second: Mean
    ahead: Mean
    """By how much the first is better, seed by seed; below 0 where it is worse."""
    apart: bool
    """The 95 % intervals of the two means do not overlap."""
    ranges_apart: bool
    """No seed of the one comes up to a seed of the other."""
    better: bool
    """The mean of the first is better."""

    @property
    def says(self) -> str:
        """What may be said, in words."""
        if self.first.seeds < 2:
            return "one seed: nothing"
        if self.apart:
            return "better" if self.better else "worse"
        if self.ahead.low > 0 or self.ahead.high < 0:
            return "better in pairs, intervals touch" if self.better else "worse in pairs, intervals touch"
        return "no difference shown"


def compared(first: Mapping[int, float], second: Mapping[int, float], *, lower: bool) -> Comparison:
    """Figures by seed against figures by seed; `lower` where less is better."""
    seeds = sorted(first.keys() & second.keys())
    a, b = mean_of([first[seed] for seed in seeds]), mean_of([second[seed] for seed in seeds])
    sign = -1.0 if lower else 1.0
    ahead = mean_of([sign * (first[seed] - second[seed]) for seed in seeds])
    return Comparison(
        first=a,
        second=b,
        ahead=ahead,
        apart=a.low > b.high or b.low > a.high,
        ranges_apart=a.least > b.most or b.least > a.most,
        better=ahead.mean > 0,
    )


@dataclass(frozen=True, kw_only=True)
class Saving:
    """How many times fewer labels are needed."""

    times: float
    """All labels by those that are needed; 0 where all are not enough."""
    bound: bool = False
    """Fewer may do: the fewest that were measured already reach the target."""

    @property
    def reached(self) -> bool:
        """Whether all labels are enough."""
        return self.times > 0


def saving(curve: Mapping[int, float], target: float, *, lower: bool) -> Saving:
    """Labels of a curve that equal `target`, interpolated between measured counts on a logarithmic axis.

    Needed is the count from which on the curve stays at the target or better, so a curve that passes it by chance and
    falls back has not reached it.

    Args:
        curve: labelled pictures -> figure; at least one.
        target: what is to be equalled.
        lower: less is better.
    """
    sign = -1.0 if lower else 1.0
    counts = sorted(curve)
    above = [sign * (curve[count] - target) for count in counts]
    if above[-1] < 0:
        return Saving(times=0.0)
    below = [place for place, value in enumerate(above) if value < 0]
    if not below:
        return Saving(times=counts[-1] / counts[0], bound=True)
    last = below[-1]
    share = -above[last] / (above[last + 1] - above[last])
    needed = counts[last] * (counts[last + 1] / counts[last]) ** share
    return Saving(times=counts[-1] / needed)


def told(savings: Sequence[Saving]) -> str:
    """Savings of the seeds in words: geometric mean and range, or where it does not hold."""
    reached = [one for one in savings if one.reached]
    if not reached:
        return f"not reached with all labels ({len(savings)} seeds)"
    times = [one.times for one in reached]
    middle = math.exp(sum(math.log(value) for value in times) / len(times))
    least = "≥ " if any(one.bound for one in reached) else ""
    text = f"{least}{_short(middle)} × ({_short(min(times))}–{_short(max(times))})"
    missed = len(savings) - len(reached)
    return f"{text}; not reached in {missed} of {len(savings)} seeds" if missed else text


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"
