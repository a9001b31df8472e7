"""Intervals of shares and McNemar's test, against published figures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileclip.evaluate.intervals import clustered, mcnemar, wilson


def test_intervals() -> None:
    assert wilson(5, 20) == pytest.approx((0.1119, 0.4687), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == pytest.approx(1)
    every = np.arange(400)
    right = np.random.default_rng(0).random(400) < 0.3
    alone, apart = wilson(right.sum(), 400), clustered(right, every)
    assert apart == pytest.approx(alone, abs=1e-3)
    together = clustered(np.repeat(right, 5), np.repeat(every, 5))  # five equal answers are one
    assert together == pytest.approx(alone, abs=1e-3)
    assert clustered(np.ones(50, np.bool_), np.repeat(np.arange(10), 5)) == wilson(10, 10)
    assert mcnemar(0, 0) == mcnemar(7, 7) == 1.0
    assert mcnemar(1, 9) == pytest.approx(0.021484375)  # 2 * (1 + 10) / 2**10
    assert 0 <= mcnemar(0, 5000) < 1e-300


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000))
def test_clustered_intervals_hold(seed: int) -> None:
    generator = np.random.default_rng(seed)
    right = generator.random(60) < generator.random()
    low, high = clustered(right, generator.integers(0, 12, 60))
    assert 0 <= low <= right.mean() <= high <= 1
