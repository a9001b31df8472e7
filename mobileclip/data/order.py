"""The order of an epoch and every random draw of the input, as functions of counters: there is no state to save.

    rows = Order(1_280_000_000, seed=0).rows(epoch=3, start=4096, stop=8192)     # int64 [4096], in microseconds
    u = uniform(7, epoch, uids)                                                  # float64, one for each uid

A row's place in an epoch is a keyed permutation of its number, so that a run resumes in the middle of an epoch, under
any number of ranks and threads, without replaying what came before and without a list of a billion numbers. What is
drawn for a sample (crop, caption, replacement) is a hash of seed, epoch and the sample, never of who draws it or when.

Source of the permutation: Black and Rogaway, "Ciphers with arbitrary finite domains" (2002), section 5 (a Feistel
network over Z_a x Z_b, and cycle walking for the few numbers that fall outside). Of the hash: Steele et al., "Fast
splittable pseudorandom number generators" (2014), splitmix64's finaliser.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from mobileclip.errors import DataError

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S11 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(11)


def hashed(*parts: Any) -> Words:
    """Integers or arrays of them, broadcast together -> uint64 of their common shape, well mixed.

    Negative integers count as their two's complement. The order of `parts` matters.
    """
    state: Words = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            word = part.astype(np.uint64) if isinstance(part, np.ndarray) else np.uint64(int(part) & (2**64 - 1))
            state = _mix((state ^ word) + _GOLDEN)
    return np.asarray(state)


def uniform(*parts: Any) -> npt.NDArray[np.float64]:
    """As `hashed`, as numbers in [0, 1) of 53 random bits."""
    return np.asarray((hashed(*parts) >> _S11) * 2.0**-53)


def _mix(word: Words) -> Words:
    word = (word ^ (word >> _S30)) * _MIX_1
    word = (word ^ (word >> _S27)) * _MIX_2
    return word ^ (word >> _S31)


@dataclass(frozen=True, kw_only=True)
class Permutation:
    """A keyed bijection of 0..n-1; `Permutation(n=5, key=1)(np.arange(5))`."""

    n: int
    """Size of the domain, 1 to 2**62."""
    key: int
    """Another key, another permutation."""

    def __call__(self, index: npt.ArrayLike) -> Ints:
        """int [K] in 0..n-1 -> int64 [K] in 0..n-1, no two alike for different indices."""
        out = np.array(index, np.uint64).reshape(-1)
        if self.n == 1 or not out.size:
            return out.astype(np.int64)
        out = self._walk(out)
        while (outside := np.flatnonzero(out >= np.uint64(self.n))).size:  # at most a few of a thousand
            out[outside] = self._walk(out[outside])
        return out.astype(np.int64)

    def _walk(self, index: Words) -> Words:
        """One pass of the network over 0..a*b-1, of which 0..n-1 is all but about 2 sqrt(n)."""
        a = isqrt(self.n - 1) + 1
        b = -(-self.n // a)
        left, right = index // np.uint64(b), index % np.uint64(b)
        for turn in range(_ROUNDS):
            if turn % 2:
                right = (right + hashed(self.key, turn, left) % np.uint64(b)) % np.uint64(b)
            else:
                left = (left + hashed(self.key, turn, right) % np.uint64(a)) % np.uint64(a)
        return left * np.uint64(b) + right


class Order:
    """The order in which the rows of a corpus are visited, epoch by epoch.

    Args:
        n: rows.
        seed: of the run.
        sizes: rows of each shard, in order; only for `window`.
        window: shuffle the shards, and then the rows of this many consecutive shards together. For a corpus that is
            fetched from afar: only `window` shards are in use at a time. None: all rows together, a true shuffle.

    Raises:
        DataError: no rows, or a window without the sizes of shards.
    """

    def __init__(self, n: int, seed: int, *, sizes: Sequence[int] | None = None, window: int | None = None) -> None:
        if n < 1:
            raise DataError(f"the corpus holds {n} samples: at least 1 is needed; check the paths of its shards.")
        if window is not None and (window < 1 or sizes is None):
            raise DataError(f"a window of {window} shards: 1 or more are allowed, with the size of each shard.")
        self.n, self.seed, self.window = n, seed, window
        self._sizes = None if sizes is None else np.asarray(sizes, np.int64)
        assert self._sizes is None or int(self._sizes.sum()) == n
        self._plan: tuple[int, Ints, Ints] | None = None

    def rows(self, epoch: int, start: int, stop: int) -> Ints:
        """int64 [stop - start]: the rows at these places of the epoch; 0 <= start <= stop <= n."""
        assert 0 <= start <= stop <= self.n, (start, stop, self.n)
        places = np.arange(start, stop, dtype=np.int64)
        if self.window is None:
            return Permutation(n=self.n, key=int(hashed(self.seed, epoch)))(places)
        return self._windowed(epoch, places)

    def _windowed(self, epoch: int, places: Ints) -> Ints:
        assert self.window is not None
        assert self._sizes is not None
        order, ends = self._epoch(epoch)  # shards as visited, and the place behind each
        firsts = np.cumsum(self._sizes) - self._sizes
        out = np.empty_like(places)
        group = np.searchsorted(ends, places, side="right") // self.window
        for which in np.unique(group):
            mask = group == which
            low, high = which * self.window, min((which + 1) * self.window, len(order))
            begin = int(ends[low - 1]) if low else 0
            permute = Permutation(n=int(ends[high - 1]) - begin, key=int(hashed(self.seed, epoch, which)))
            inside = permute(places[mask] - begin) + begin
            shard = np.searchsorted(ends, inside, side="right")
            out[mask] = firsts[order[shard]] + inside - (ends[shard] - self._sizes[order[shard]])
        return out

    def _epoch(self, epoch: int) -> tuple[Ints, Ints]:
        assert self._sizes is not None
        plan = self._plan
        if plan is None or plan[0] != epoch:
            count = len(self._sizes)
            order = Permutation(n=count, key=int(hashed(self.seed, epoch, -1)))(np.arange(count))
            plan = self._plan = (epoch, order, np.cumsum(self._sizes[order]))
        return plan[1:]  # not what another thread has put there since
