"""Work in threads ahead of who uses the results: in order, bounded, stopped with its user."""

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileclip.data.ahead import ahead


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers()), st.integers(1, 4), st.integers(1, 8))
def test_ahead_is_map(items: list[int], threads: int, depth: int) -> None:
    assert list(ahead(lambda item: item + 1, items, threads=threads, depth=depth)) == [item + 1 for item in items]


def test_ahead_is_bounded_and_stops() -> None:
    taken = []

    def endless() -> Iterator[int]:
        number = 0
        while True:
            taken.append(number)
            yield number
            number += 1

    results = ahead(lambda item: item, endless(), threads=2, depth=5)
    assert next(results) == 0
    assert len(taken) == 6
    results.close()  # type: ignore[attr-defined]
    time.sleep(0.01)
    assert len(taken) == 6
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_ahead_hands_on_what_is_raised() -> None:
    results = ahead(lambda item: 1 // item, [1, 1, 0, 1])
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
