"""Near-duplicates among very many hashes: every pair within a radius is found, and of those that are alike one is kept.

    a, b = pairs(words, radius=4)             # all i < j whose 64 bits differ in at most 4 places
    by = thinned(len(words), a, b)            # -1: kept; else the one that it duplicates

Recall is exact by the pigeonhole principle: cut 64 bits into m bands; whoever differs in r bits differs in at most r
bands, so at least m - r bands are equal. For each choice of m - r bands the hashes are sorted by these bits and
compared within runs of equal ones. With m = r + 1 this is plain banding (one band equal); more bands make longer keys,
shorter runs and more sorts, which pays where there are many hashes. Which m is taken never changes what is found.

Being alike is not transitive, so there are no groups here: hashes are gone through in the order of preference, and one
is kept unless it is alike to one that is kept. So whatever is dropped is alike to what stays for it, however long a
chain of likes there is; joining chains (union-find) would in a large corpus drop pictures that are not alike at all.

Source: Manku, Jain, Das Sarma, Detecting near-duplicates for web crawling (2007), section 3.
"""

from collections.abc import Iterator
from itertools import combinations, pairwise
from math import comb, log2

import numpy as np
import numpy.typing as npt

from mobileclip.captions.pictures.phash import Words, distance

BITS = 64
"""Of a hash."""
MOST = 16
"""Largest radius; hashes of different pictures are as near as that."""

_TABLES = 256  # at most so many sorts
_SORT, _COMPARE = 12.0, 22.0  # nanoseconds, measured: of a hash and a doubling of their number, and of a pair

Places = npt.NDArray[np.int64]


def pairs(words: Words, radius: int, bands: int | None = None) -> tuple[Places, Places]:
    """All i < j with at most `radius` bits of difference, sorted by (i, j).

    Args:
        words: uint64 [N]; equal ones are pairs too, so many equal ones are better made one before.
        radius: bits, 0 to `MOST`.
        bands: m; the cheapest if left out.
    """
    m = bands or cheapest(len(words), radius)
    assert 0 <= radius < m, "one band at least must be left equal"
    codes = [np.zeros(0, np.uint64)]
    for mask in masks(radius, m):
        codes += [a.astype(np.uint64) << np.uint64(32) | b.astype(np.uint64) for a, b in _within(words, mask, radius)]
    found = np.unique(np.concatenate(codes))
    return (found >> np.uint64(32)).astype(np.int64), (found & np.uint64(0xFFFFFFFF)).astype(np.int64)


def thinned(count: int, better: Places, worse: Places) -> Places:
    """int64 [count]: -1 for what is kept, else the best of the kept that it is alike to.

    Args:
        count: of things, numbered in the order of preference.
        better, worse: pairs that are alike, `better < worse` in each.
    """
    gone = np.zeros(count, np.bool_)
    a, b = better, worse
    while len(a):
        waits = np.zeros(count, np.bool_)
        waits[b] = True
        decided = ~waits[a]  # nothing better that is left is alike to a, so it is kept
        gone[b[decided]] = True
        left = ~(gone[a] | gone[b])
        a, b = a[left], b[left]
    out = np.full(count, count, np.int64)
    last = ~gone[better] & gone[worse]
    np.minimum.at(out, worse[last], better[last])
    out[~gone] = -1
    return out


def cheapest(count: int, radius: int) -> int:
    """The number of bands with the least work expected for `count` hashes, were their bits drawn by chance."""

    def work(m: int) -> float:
        run = count / float(1 << (BITS * (m - radius) // m))  # of hashes with equal bits
        return comb(m, radius) * count * (_SORT * log2(count + 2) + _COMPARE * run / 2)

    return min((m for m in range(radius + 1, BITS) if m == radius + 1 or comb(m, radius) <= _TABLES), key=work)


def masks(radius: int, bands: int) -> list[int]:
    """Bits that are compared first: each choice of `bands - radius` bands."""
    edges = [BITS * band // bands for band in range(bands + 1)]
    of_band = [(1 << high) - (1 << low) for low, high in pairwise(edges)]
    return [sum(chosen) for chosen in combinations(of_band, bands - radius)]


def _within(words: Words, mask: int, radius: int) -> Iterator[tuple[Places, Places]]:
    """Pairs within `radius` among those with equal bits in `mask`."""
    keys = words & np.uint64(mask)
    order = np.argsort(keys, kind="stable")
    keys, found = keys[order], words[order]
    first = np.arange(len(words) - 1) if len(words) else np.zeros(0, np.int64)
    step = 1
    while True:
        first = first[: np.searchsorted(first, len(words) - step)]
        first = first[keys[first] == keys[first + step]]
        if not len(first):
            return
        near = first[distance(found[first], found[first + step]) <= radius]
        if len(near):
            one, other = order[near], order[near + step]
            yield np.minimum(one, other), np.maximum(one, other)
        step += 1
