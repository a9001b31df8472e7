"""Ranks and recall against brute force and by hand."""

import json

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileclip.evaluate import retrieval as retrieval_of
from mobileclip.evaluate.encoder import unit
from mobileclip.evaluate.retrieval import LOST, Pairs, Ranks, metrics, nearest, pairs_of, ranks


# What a similarity matrix of unit vectors may be: few values, so that ties are common.
def matrices(rows: int, columns: int) -> st.SearchStrategy[npt.NDArray[np.float32]]:
    value = st.sampled_from([-0.5, 0.0, 0.25, 0.5, float("nan")])
    return st.lists(value, min_size=rows * columns, max_size=rows * columns).map(
        lambda values: np.array(values, np.float32).reshape(rows, columns)
    )


@st.composite
def scored(draw: st.DrawFn) -> tuple[npt.NDArray[np.float32], list[list[str]]]:
    """A similarity matrix, images by distinct texts, and the captions of each image (some shared)."""
    images = draw(st.integers(1, 6))
    names = [f"t{n}" for n in range(draw(st.integers(1, 8)))]
    captions = draw(
        st.lists(st.lists(st.sampled_from(names), min_size=1, max_size=4), min_size=images, max_size=images)
    )
    texts = len({text for own in captions for text in own})
    return draw(matrices(images, texts)), captions


def brute_force(scores: npt.NDArray[np.float32], relevant: npt.NDArray[np.bool_]) -> list[int]:
    """Rank of the best right answer in each row: everything that does not score lower comes before it."""
    found = []
    for row, right in zip(scores, relevant, strict=True):
        own = row[right]
        own = own[np.isfinite(own)]
        if not len(own):
            found.append(LOST)
            continue
        found.append(sum(not value < own.max() for value in row[~right]))
    return found


@settings(max_examples=200, deadline=None)
@given(scored())
def test_ranks_are_those_of_brute_force(case: tuple[npt.NDArray[np.float32], list[list[str]]]) -> None:
    """With texts on the axes, the embedding of an image is its row of scores."""
    scores, captions = case
    pairs, texts = pairs_of(captions)
    relevant = np.array([[text in own for text in texts] for own in captions])
    # NaN in a row would make its product NaN with every axis: a whole image is broken then
    broken = ~np.isfinite(scores).all(axis=1)
    scores = np.where(broken[:, None], np.nan, scores)
    found = ranks(scores, np.eye(len(texts), dtype=np.float32), pairs)
    assert found.image_to_text.tolist() == brute_force(scores, relevant)
    assert found.text_to_image.tolist() == brute_force(scores.T, relevant.T)
    best = nearest(scores, np.eye(len(texts), dtype=np.float32))
    assert best.tolist() == [-1 if bad else int(row.argmax()) for row, bad in zip(scores, broken, strict=True)]


@settings(max_examples=30, deadline=None)
@given(scored(), st.integers(1, 4), st.integers(1, 4))
def test_ranks_do_not_depend_on_the_blocks(
    case: tuple[npt.NDArray[np.float32], list[list[str]]], rows: int, columns: int
) -> None:
    scores, captions = case
    pairs, texts = pairs_of(captions)
    scores = np.nan_to_num(scores)
    eye = np.eye(len(texts), dtype=np.float32)
    whole, chosen = ranks(scores, eye, pairs), nearest(scores, eye)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval_of, "ROWS", rows)
        patch.setattr(retrieval_of, "COLUMNS", columns)
        parts = ranks(scores, eye, pairs)
        assert nearest(scores, eye).tolist() == chosen.tolist()
    assert parts.image_to_text.tolist() == whole.image_to_text.tolist()
    assert parts.text_to_image.tolist() == whole.text_to_image.tolist()


def test_ranks_of_real_embeddings_in_several_blocks() -> None:
    generator = np.random.default_rng(0)
    images, texts = (unit(generator.standard_normal((n, 16))) for n in (150, 400))
    captions = [[f"{i}", f"{(i * 7) % 400}", f"{150 + i}"] for i in range(150)]
    pairs, names = pairs_of(captions)
    rows = texts[[int(name) for name in names]]
    scores = images @ rows.T
    relevant = np.array([[name in own for name in names] for own in captions])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval_of, "ROWS", 64)
        patch.setattr(retrieval_of, "COLUMNS", 100)
        lines: list[str] = []
        found = ranks(images, rows, pairs, lines.append)
    assert found.image_to_text.tolist() == brute_force(scores, relevant)
    assert found.text_to_image.tolist() == brute_force(scores.T, relevant.T)
    assert lines[-1] == "ranked 150 of 150 pictures"


def test_recall_counts_what_comes_before() -> None:
    pairs = Pairs(image=np.arange(20), text=np.arange(20), images=20, texts=20)
    found = metrics(Ranks(image_to_text=np.arange(20), text_to_image=np.full(20, LOST)), pairs)
    assert found["texts"] == 20
    one = found["image_to_text"]
    assert (one["R@1"], one["R@5"], one["R@10"], one["median_rank"]) == (0.05, 0.25, 0.5, 10.5)
    assert one["R@5_interval"] == pytest.approx([0.1119, 0.4687], abs=1e-4)  # scipy: binomtest(5, 20)
    other = found["text_to_image"]
    assert (other["R@10"], other["median_rank"], other["not_finite"]) == (0.0, 20.0, 20)


def test_recall_that_cannot_fail_is_not_told() -> None:
    pairs, _ = pairs_of([["a", "b"], ["c", "d"], ["e"]])
    found = metrics(Ranks(image_to_text=np.zeros(3, np.int64), text_to_image=np.zeros(5, np.int64)), pairs)
    assert found["image_to_text"]["R@1"] == 1.0
    assert found["image_to_text"]["R@5"] is None  # two captions and three wrong ones: no picture can miss
    assert found["text_to_image"]["R@5"] is None
    assert json.loads(json.dumps(found)) == found


def test_equal_captions_are_one_text() -> None:
    pairs, texts = pairs_of([["a cat", "a cat", "x"], ["a cat"]])
    assert texts == ["a cat", "x"]
    assert list(zip(pairs.image.tolist(), pairs.text.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 0)]
    found = ranks(unit([[1, 0], [0.9, 0.1]]), unit([[1, 0], [0, 1]]), pairs)
    assert found.image_to_text.tolist() == [0, 0]
    assert found.text_to_image.tolist() == [0, 1]
