"""Near embeddings: against all comparisons where there is one cell, and what cells miss where there are many."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileclip.captions.pictures import cells
from mobileclip.captions.pictures.cells import Rows


def crowd(count: int, dim: int, centres: int, seed: int = 0, noise: float = 0.7) -> Rows:
    generator = np.random.default_rng(seed)
    middle = generator.standard_normal((centres, dim))
    rows = middle[generator.integers(0, centres, count)] + noise * generator.standard_normal((count, dim))
    return cells.unit(rows).astype(np.float16)


def planted(rows: Rows, share: float, noise: float, seed: int = 1) -> tuple[Rows, list[int]]:
    """Rows with near copies of some of them behind, and of which."""
    generator = np.random.default_rng(seed)
    of = generator.choice(len(rows), int(len(rows) * share), replace=False)
    near = rows[of] + noise / np.sqrt(rows.shape[1]) * generator.standard_normal((len(of), rows.shape[1]))
    return np.concatenate([rows, cells.unit(near).astype(np.float16)]), of.tolist()


def one_by_one(rows: Rows, eps: float) -> list[bool]:
    """Which rows are kept, by comparing each with all that are."""
    unit, kept = cells.unit(rows), []
    for index, row in enumerate(unit):
        if not any(float(unit[other] @ row) > 1 - eps for other in kept):
            kept.append(index)
    return [index in kept for index in range(len(rows))]


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 60), seed=st.integers(0, 999), eps=st.sampled_from([0.02, 0.1, 0.4]))
def test_one_cell_misses_nothing(count: int, seed: int, eps: float) -> None:
    rows = crowd(count, 6, 4, seed, noise=0.3)
    by = cells.same(rows, eps)
    assert (by < 0).tolist() == one_by_one(rows, eps)
    unit = cells.unit(rows)
    for mine, of in enumerate(by.tolist()):
        assert of < 0 or (by[of] < 0 and of < mine and float(unit[mine] @ unit[of]) > 1 - eps)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = crowd(300, 8, 10, noise=0.3)
    whole = cells.same(rows, 0.1) < 0
    monkeypatch.setattr(cells, "_BLOCK", 16)
    assert ((cells.same(rows, 0.1) < 0) == whole).all()
    assert 20 < whole.sum() < 280


def test_cells_find_nearly_all_copies_and_nothing_else() -> None:
    rows, of = planted(crowd(6_000, 64, 60), share=0.05, noise=0.1)
    by = cells.same(rows, 0.05, cells=60)
    assert (by[:6_000] < 0).all()
    found = by[6_000:]
    assert set(found[found >= 0].tolist()) <= set(of)
    assert (found == of).mean() > 0.95


def test_the_same_rows_and_seed_give_the_same() -> None:
    rows, _ = planted(crowd(3_000, 16, 20), share=0.1, noise=0.1)
    by = cells.same(rows, 0.05, cells=30, seed=3)
    assert (cells.same(rows.copy(), 0.05, cells=30, seed=3) == by).all()


def test_centres_are_where_the_rows_are() -> None:
    rows = crowd(4_000, 32, 12, noise=0.15)
    found = cells.centres(rows, 24, 0)
    cosines = cells.unit(rows) @ found.T
    assert found.shape == (24, 32)
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5
    assert cosines.max(axis=1).mean() > 0.7
    assert (cells.nearest(rows, found) == cosines.argmax(axis=1)).all()


def test_rows_of_zeros_are_like_nothing() -> None:
    rows = np.zeros((5, 8), np.float16)
    rows[[1, 3]] = 0.35
    assert cells.same(rows, 0.05).tolist() == [-1, -1, -1, 1, -1]
    assert cells.same(rows, 0.05, cells=5).tolist() == [-1, -1, -1, 1, -1]
    assert cells.same(rows[:0], 0.05).tolist() == []
