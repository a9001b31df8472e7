"""Timing that can be trusted on a machine that is never quiet.

Subjects are timed in one process, in turns A B B A, so that drift hits all alike; each is warmed up first, and its load
and first run are kept apart from its steady state. The ratio of medians comes with a bootstrap interval. Every raw
sample is kept. What the protocol asks for beside the clock is in benchmarks/protocol.py.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Run = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """One subject's times."""

    name: str
    load_ms: float
    """From the file to a session that can run."""
    first_ms: float
    """The first run: compilation, allocation and page faults included."""
    steady_ms: tuple[float, ...]
    """Every run after warm-up, in order."""

    def percentile(self, q: float) -> float:
        """The q-th percentile of the steady runs, in ms."""
        return float(np.percentile(self.steady_ms, q))


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times longer B takes than A: median of B over median of A."""

    value: float
    low: float
    high: float
    """95 % bootstrap interval."""


def alternate(
    calls: Sequence[Run],
    *,
    runs: int,
    seconds: float = 0.0,
    warmup_s: float = 1.0,
    warmup_runs: int = 5,
    between: Callable[[], None] = lambda: None,
) -> list[list[float]]:
    """Time `calls` there and back (A B B A, or A B C C B A) until each has `runs` samples and `seconds` of them, after
    warming all up; in ms.

    Args:
        between: called after each way there and back, such as to read a thermometer; its time counts nowhere.
    """
    for call in calls:
        warm(call, warmup_s, warmup_runs)
    times: list[list[float]] = [[] for _ in calls]
    forth = range(len(calls))
    while any(len(found) < runs or sum(found) < 1000 * seconds for found in times):
        for which in (*forth, *reversed(forth)):
            times[which].append(timed(calls[which]))
        between()
    return times


def interleave(
    a: Run, b: Run, *, runs: int, warmup_s: float = 1.0, warmup_runs: int = 5
) -> tuple[list[float], list[float]]:
    """`alternate` of two."""
    first, second = alternate((a, b), runs=runs, warmup_s=warmup_s, warmup_runs=warmup_runs)
    return first[:runs], second[:runs]


def timed(run: Run) -> float:
    """One run, in ms."""
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / 1e6


def ratio_of_medians(a: Sequence[float], b: Sequence[float], *, draws: int = 2000, seed: int = 0) -> Ratio:
    """Median(b) / median(a) with the 95 % interval of `draws` bootstrap resamples of both."""
    generator = np.random.default_rng(seed)
    first, second = np.asarray(a), np.asarray(b)
    medians = [np.median(generator.choice(x, (draws, x.size)), axis=1) for x in (first, second)]
    low, high = np.percentile(medians[1] / medians[0], [2.5, 97.5])
    return Ratio(value=float(np.median(second) / np.median(first)), low=float(low), high=float(high))


def warm(run: Run, seconds: float, runs: int) -> int:
    """Run until both are reached; returns the number of runs."""
    start = time.perf_counter()
    count = 0
    while count < runs or time.perf_counter() - start < seconds:
        run()
        count += 1
    return count
