"""The permutation is one, in parts as in whole; draws depend on what they are given and on nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileclip.data.order import Order, Permutation, hashed, uniform
from mobileclip.errors import DataError


@given(n=st.integers(1, 5000), key=st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_a_permutation_takes_every_number_once(n: int, key: int) -> None:
    out = Permutation(n=n, key=key)(np.arange(n))
    assert out.dtype == np.int64
    assert np.array_equal(np.sort(out), np.arange(n))


@given(n=st.integers(1, 3000), epoch=st.integers(0, 5), data=st.data())
@settings(max_examples=40, deadline=None)
def test_parts_of_an_epoch_are_those_of_the_whole(n: int, epoch: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    order = Order(n, seed=3)
    assert np.array_equal(order.rows(epoch, start, stop), order.rows(epoch, 0, n)[start:stop])


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [Order(1000, seed).rows(epoch, 0, 1000) for seed in (0, 1) for epoch in (0, 1)]
    for a in range(4):
        for b in range(a):
            assert (orders[a] == orders[b]).mean() < 0.02


def test_an_order_has_no_pattern_that_training_would_see() -> None:
    rows = Order(100_000, 0).rows(0, 0, 100_000)
    assert abs(np.corrcoef(rows[:-1], rows[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(np.arange(100_000), rows)[0, 1]) < 0.02
    thirds = rows[:1000] // 10_000
    assert np.bincount(thirds, minlength=10).min() > 60


def test_small_domains_reach_all_their_permutations() -> None:
    seen = {tuple(Permutation(n=4, key=key)(np.arange(4)).tolist()) for key in range(2000)}
    assert len(seen) == 24


def test_a_billion_rows_cost_no_list() -> None:
    rows = Order(1_280_000_000, 0).rows(7, 1_000_000_000, 1_000_000_256)
    assert len(np.unique(rows)) == 256
    assert rows.max() > 1_000_000_000


@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_a_window_visits_its_shards_before_the_next(window: int) -> None:
    sizes = [3, 5, 0, 7, 1, 9, 4]
    order = Order(sum(sizes), 1, sizes=sizes, window=window)
    for epoch in range(3):
        rows = order.rows(epoch, 0, sum(sizes))
        assert np.array_equal(np.sort(rows), np.arange(sum(sizes)))
        shard = np.searchsorted(np.cumsum(sizes), rows, side="right")
        groups: list[set[int]] = []  # shards between two places at which all that were begun are done
        left = dict(enumerate(sizes))
        for which in shard.tolist():
            if not groups or all(left[other] == 0 for other in groups[-1]):
                groups.append(set())
            groups[-1].add(which)
            left[which] -= 1
        assert max(map(len, groups)) <= window
        assert np.array_equal(np.concatenate([order.rows(epoch, 0, 10), order.rows(epoch, 10, sum(sizes))]), rows)


def test_a_corpus_without_rows_is_refused() -> None:
    with pytest.raises(DataError, match=r"^the corpus holds 0 samples: at least 1 is needed; check the paths"):
        Order(0, 0)
    with pytest.raises(DataError, match=r"^a window of 2 shards: 1 or more are allowed, with the size of each shard"):
        Order(3, 0, window=2)


def test_draws_are_uniform_and_depend_on_every_part() -> None:
    u = uniform(0, 1, np.arange(20_000))
    assert 0 <= u.min() < u.max() < 1
    assert abs(u.mean() - 0.5) < 0.01
    assert abs(u.std() - 12**-0.5) < 0.01
    assert not np.any(u == uniform(1, 0, np.arange(20_000)))
    assert hashed(1, np.array([[2], [3]]), np.arange(4)).shape == (2, 4)
    assert hashed(1, np.array([5]))[0] == hashed(1, 5)
    assert hashed(-1) == hashed(2**64 - 1)
