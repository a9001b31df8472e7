"""Timing that can be trusted on a machine that is never quiet.

Two subjects are timed in one process, interleaved A B B A, so that drift hits both alike; each is warmed up first,
and its load and first run are kept apart from its steady state. The ratio of medians comes with a bootstrap interval.
Every raw sample is kept. Protocol: the superset of ModelBench, MLPerf Mobile and executor_runner, as far as one host
has them.
"""

import time
from collections.abc import Callable
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


def interleave(
    a: Run, b: Run, *, runs: int, warmup_s: float = 1.0, warmup_runs: int = 5
) -> tuple[list[float], list[float]]:
    """Time `a` and `b` in the order A B B A until each has `runs` samples, after warming both up; in ms."""
    for run in (a, b):
        _warm(run, warmup_s, warmup_runs)
    times: tuple[list[float], list[float]] = ([], [])
    order = (0, 1, 1, 0)
    for index in range(2 * runs):
        which = order[index % 4]
        times[which].append(timed(a if which == 0 else b))
    return times


def timed(run: Run) -> float:
    """One run, in ms."""
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / 1e6


def ratio_of_medians(a: tuple[float, ...], b: tuple[float, ...], *, draws: int = 2000, seed: int = 0) -> Ratio:
    """Median(b) / median(a) with the 95 % interval of `draws` bootstrap resamples of both."""
    generator = np.random.default_rng(seed)
    first, second = np.asarray(a), np.asarray(b)
    medians = [np.median(generator.choice(x, (draws, x.size)), axis=1) for x in (first, second)]
    low, high = np.percentile(medians[1] / medians[0], [2.5, 97.5])
    return Ratio(value=float(np.median(second) / np.median(first)), low=float(low), high=float(high))


def _warm(run: Run, seconds: float, runs: int) -> None:
    start = time.perf_counter()
    count = 0
    while count < runs or time.perf_counter() - start < seconds:
        run()
        count += 1
