"""Nested subsets: exact counts, one inside the other, the same for a seed, others for another."""

from itertools import pairwise
from pathlib import Path

import made
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobileclip.dense import open_set
from mobileclip.dense.data.subset import Part, nested
from mobileclip.errors import DataError


@given(st.integers(1, 3000), st.integers(0, 50), st.lists(st.floats(1e-4, 1), min_size=2, max_size=5))
def test_nested(count: int, seed: int, shares: list[float]) -> None:
    parts = [nested(count, share, seed) for share in sorted(shares)]
    for share, part in zip(sorted(shares), parts, strict=True):
        assert len(part) == max(1, round(count * share))
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
        assert part[-1] < count
    for small, large in pairwise(parts):
        assert set(small.tolist()) <= set(large.tolist())


def test_published_shares_and_seeds() -> None:
    assert [len(nested(20_210, share, 0)) for share in (0.01, 0.03, 0.1, 0.3, 1.0)] == [202, 606, 2021, 6063, 20_210]
    assert not np.array_equal(nested(1000, 0.1, 0), nested(1000, 0.1, 1))
    assert np.array_equal(nested(1000, 0.1, 5), nested(1000, 0.1, 5))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((10, 0.0, 0), "the share of labels is 0.0: more than 0 and at most 1 is allowed; 0.1 is a tenth."),
        ((10, 1.5, 0), "the share of labels is 1.5"),
        ((10, float("nan"), 0), "the share of labels is nan"),
        ((0, 0.5, 0), "there are 0 samples to choose from: at least 1 is needed."),
        ((10, 0.5, -1), "the seed is -1: 0 or more is allowed."),
    ],
)
def test_mistakes(arguments: tuple[int, float, int], text: str) -> None:
    with pytest.raises(DataError) as error:
        nested(*arguments)
    assert text in str(error.value)


def test_part(tmp_path: Path) -> None:
    whole = open_set(made.folder(tmp_path / "f"), "segmentation", "train")
    part, other = Part(whole, np.array([2, 0])), Part(whole, np.array([2]))
    assert [part[index].name for index in range(len(part))] == ["images/train/c.png", "images/train/a.png"]
    assert (part.labels, part.task, part.category_ids) == (whole.labels, "segmentation", ())
    assert len({part.fingerprint, other.fingerprint, whole.fingerprint}) == 3
    assert Part(whole, np.array([2, 0])).fingerprint == part.fingerprint
