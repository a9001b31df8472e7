"""Embeddings that say the same: found inside cells of k-means, so that not all pairs have to be compared.

    by = same(rows, eps=0.05)                 # -1: kept; else the row that it duplicates

Rows come in the order of preference. They are put into cells by their nearest centre; in a cell, rows are gone through
in order, and one is kept unless its cosine to one that is kept exceeds 1 - eps. What lies on both sides of a border
between cells is missed; the fewer cells, the less. There is one cell, and nothing is missed, up to `ONE_CELL` rows.

The centres are found by k-means on the sphere, in small batches of a sample, the same for the same rows and seed.

Sources: Abbas et al., SemDeDup (2023), section 3, for the idea; Sculley, Web-scale k-means clustering (2010),
algorithm 1; Dhillon, Modha, Concept decompositions (2001), section 3, for centres on the sphere.
"""

from itertools import pairwise
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

ONE_CELL = 8_192
"""Up to so many rows are all compared."""

_SAMPLE, _BATCH, _ROUNDS = 262_144, 4_096, 3  # rows that k-means sees, of a step, times it sees them
_BLOCK = 1_024  # rows that are compared at once

Rows = npt.NDArray[np.floating[Any]]
Places = npt.NDArray[np.int64]


def same(rows: Rows, eps: float, *, cells: int = 0, seed: int = 0) -> Places:
    """int64 [N]: -1 for rows that are kept, else a kept row of the same cell that they duplicate.

    Args:
        rows: [N, D] about of unit length, in the order of preference; may be mapped from a file.
        eps: cosines above 1 - eps are duplicates.
        cells: how many; 0: what makes the fewest comparisons.
        seed: of the sample and the first centres.
    """
    count = len(rows)
    k = min(cells or (1 if count <= ONE_CELL else round(sqrt(count / 2))), max(count, 1))
    out = np.full(count, -1, np.int64)
    cell = nearest(rows, centres(rows, k, seed)) if k > 1 else np.zeros(count, np.int64)
    order = np.argsort(cell, kind="stable")
    edges = np.searchsorted(cell[order], np.arange(k + 1))
    for low, high in pairwise(edges):
        members = order[low:high]
        if len(members) > 1:
            out[members] = _in_cell(rows, members, 1 - eps)
    return out


def centres(rows: Rows, k: int, seed: int) -> npt.NDArray[np.float32]:
    """float32 [k, D] of unit length: centres of a sample of the rows."""
    generator = np.random.default_rng(seed)
    taken = np.sort(generator.choice(len(rows), min(len(rows), max(_SAMPLE, k)), replace=False))
    sample = unit(rows[taken])
    found = sample[generator.choice(len(sample), k, replace=False)]
    weight = np.zeros(k)
    for _ in range(_ROUNDS):
        shuffled = generator.permutation(len(sample))
        for first in range(0, len(shuffled), _BATCH):
            batch = sample[shuffled[first : first + _BATCH]]
            label = np.argmax(batch @ found.T, axis=1)
            order = np.argsort(label, kind="stable")
            which, start, often = np.unique(label[order], return_index=True, return_counts=True)
            total = np.add.reduceat(batch[order], start, axis=0)
            moved = found[which] * weight[which, None] + total  # each row that a centre has had counts the same
            weight[which] += often
            found[which] = unit(moved)
    return found


def nearest(rows: Rows, found: npt.NDArray[np.float32]) -> Places:
    """int64 [N]: the centre of each row."""
    out = np.empty(len(rows), np.int64)
    for first in range(0, len(rows), _BLOCK):
        out[first : first + _BLOCK] = np.argmax(unit(rows[first : first + _BLOCK]) @ found.T, axis=1)
    return out


def unit(rows: Rows) -> npt.NDArray[np.float32]:
    """float32, rows of unit length; zeros stay."""
    x = rows.astype(np.float32)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    out: npt.NDArray[np.float32] = x / np.where(length == 0, 1, length)
    return out


def _in_cell(rows: Rows, members: Places, least: float) -> Places:
    """For members of a cell in order: -1, or the kept row that they duplicate."""
    out = np.full(len(members), -1, np.int64)
    kept, kept_as = np.empty((len(members), rows.shape[1]), np.float32), np.empty(len(members), np.int64)
    count = 0
    for first in range(0, len(members), _BLOCK):
        mine = members[first : first + _BLOCK]
        block = unit(rows[mine])
        if count:
            cosines = block @ kept[:count].T
            best = cosines.argmax(axis=1)
            old = cosines[np.arange(len(mine)), best] > least
            out[first : first + len(mine)][old] = kept_as[best[old]]
        else:
            old = np.zeros(len(mine), np.bool_)
        alike = block @ block.T
        new: list[int] = []
        for index in np.flatnonzero(~old).tolist():
            if new and (to := alike[index, new]).max() > least:
                out[first + index] = mine[new[int(to.argmax())]]
                continue
            new.append(index)
        kept[count : count + len(new)], kept_as[count : count + len(new)] = block[new], mine[new]
        count += len(new)
    return out
