"""Near hashes: all pairs, by any number of bands, and what is kept of them."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileclip.captions.pictures import alike
from mobileclip.captions.pictures.alike import Places
from mobileclip.captions.pictures.phash import Words, distance


@st.composite
def crowds(draw: st.DrawFn) -> Words:
    """Hashes in crowds: some bits changed in a few centres, or in a crowded band, so that much is near."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, centres, flips = draw(st.integers(0, 70)), draw(st.integers(1, 6)), draw(st.integers(0, 14))
    words = generator.integers(0, 2**64, centres, dtype=np.uint64)[generator.integers(0, centres, count)]
    high = draw(st.sampled_from([64, 13]))
    for _ in range(flips):
        words ^= np.uint64(1) << generator.integers(0, high, count).astype(np.uint64)
    return words


def compared(words: Words, radius: int) -> tuple[Places, Places]:
    """Every pair, one by one."""
    found = [(i, j) for i, j in combinations(range(len(words)), 2) if int(distance(words[i], words[j])) <= radius]
    pairs = np.array(found, np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def gone_through(count: int, better: Places, worse: Places) -> list[int]:
    """`thinned`, one by one."""
    out: list[int] = []
    likes = set(zip(better.tolist(), worse.tolist(), strict=True))
    for mine in range(count):
        out.append(next((other for other in range(mine) if out[other] < 0 and (other, mine) in likes), -1))
    return out


@settings(max_examples=150, deadline=None)
@given(words=crowds(), radius=st.integers(0, 8), more=st.integers(0, 3))
def test_every_pair_is_found_by_any_number_of_bands(words: Words, radius: int, more: int) -> None:
    found = alike.pairs(words, radius, bands=radius + 1 + (more if radius < 4 else min(more, 1)))
    assert [part.tolist() for part in found] == [part.tolist() for part in compared(words, radius)]
    assert [part.tolist() for part in alike.pairs(words, radius)] == [part.tolist() for part in found]


@settings(max_examples=150, deadline=None)
@given(words=crowds(), radius=st.integers(0, 8))
def test_what_is_dropped_is_like_what_is_kept(words: Words, radius: int) -> None:
    better, worse = alike.pairs(words, radius)
    by = alike.thinned(len(words), better, worse)
    assert by.tolist() == gone_through(len(words), better, worse)
    kept = np.flatnonzero(by < 0)
    assert all(distance(words[mine], words[of]) <= radius for mine, of in enumerate(by.tolist()) if of >= 0)
    assert all(distance(words[i], words[j]) > radius for i, j in combinations(kept.tolist(), 2))
    assert set(by[by >= 0].tolist()) <= set(kept.tolist())


def test_a_chain_is_not_a_group() -> None:
    """0 - 1 - 2 - 3 are each alike to the next only: 2 is not dropped for 0."""
    assert alike.thinned(4, np.array([0, 1, 2]), np.array([1, 2, 3])).tolist() == [-1, 0, -1, 2]


@pytest.mark.parametrize("radius", range(9))
def test_some_mask_spares_any_few_bits(radius: int) -> None:
    """The pigeonhole itself: whichever bits differ, one choice of bands does not hold them."""
    generator = np.random.default_rng(radius)
    for bands in {radius + 1, radius + 2, alike.cheapest(1_000_000, radius)}:
        chosen = alike.masks(radius, bands)
        for _ in range(300):
            flips = sum(1 << int(bit) for bit in generator.choice(64, radius, replace=False))
            assert any(not flips & mask for mask in chosen)


def test_more_hashes_take_more_bands() -> None:
    bands = [alike.cheapest(count, 4) for count in (1_000, 1_000_000, 1_000_000_000)]
    assert bands == sorted(bands)
    assert bands[0] == 5
    assert bands[-1] > 6
