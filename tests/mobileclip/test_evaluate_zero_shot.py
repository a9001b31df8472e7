"""Classes chosen against brute force, class embeddings against open_clip, accuracy and confusion by hand."""

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileclip.evaluate import zero_shot as zero_shot_of
from mobileclip.evaluate.encoder import ModelEncoder, unit
from mobileclip.evaluate.templates import imagenet_templates
from mobileclip.evaluate.zero_shot import Answers, answer, class_embeddings, confused
from mobileclip.models import create
from mobileclip.tokenizer import tokenize


# What a similarity matrix of unit vectors may be: few values, so that ties are common.
def matrices(rows: int, columns: int) -> st.SearchStrategy[npt.NDArray[np.float32]]:
    value = st.sampled_from([-0.5, 0.0, 0.25, 0.5, float("nan")])
    return st.lists(value, min_size=rows * columns, max_size=rows * columns).map(
        lambda values: np.array(values, np.float32).reshape(rows, columns)
    )


@settings(max_examples=200, deadline=None)
@given(matrices(7, 6), st.lists(st.integers(0, 5), min_size=7, max_size=7))
def test_classes_are_those_of_brute_force(scores: npt.NDArray[np.float32], labels: list[int]) -> None:
    broken = ~np.isfinite(scores).all(axis=1)
    scores = np.where(broken[:, None], np.nan, scores)
    found = answer(scores, np.eye(6, dtype=np.float32), np.array(labels))
    for row, bad, label, chosen, rank in zip(scores, broken, labels, found.predicted, found.rank, strict=True):
        order = sorted(range(6), key=lambda index: (-row[index], index))
        assert (chosen, rank) == ((-1, 6) if bad else (order[0], order.index(label)))


def test_a_class_that_is_not_finite_is_never_chosen() -> None:
    classes = np.array([[np.nan, np.nan], [1, 0]], np.float32)
    found = answer(unit([[-1, 0], [1, 0]]), classes, np.array([0, 1]))
    assert found.predicted.tolist() == [1, 1]
    assert found.rank.tolist() == [2, 0]


def test_class_embeddings_are_open_clips() -> None:
    model = create("nano", seed=3)
    names = ["tench", "great white shark", "sunglasses", "sunglasses", "cat"]
    templates = imagenet_templates()[:7]

    class AsOpenClip:
        def encode_text(self, ids: torch.Tensor, normalize: bool) -> torch.Tensor:
            return model.encode_text(ids, normalize)

    with torch.no_grad():
        expected = open_clip.build_zero_shot_classifier(AsOpenClip(), tokenize, names, templates).T.numpy()
    found = class_embeddings(ModelEncoder(model), names, templates)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zero_shot_of, "_TEXTS", 14)
        lines: list[str] = []
        np.testing.assert_allclose(
            class_embeddings(ModelEncoder(model), names, templates, lines.append), expected, atol=1e-6
        )
    assert lines[-1] == "texts of 5 of 5 classes"


def test_confusion_and_accuracy_by_class() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, 2])
    predicted = np.array([1, 1, 0, 1, 0, 2, -1])
    answers = Answers(labels=labels, predicted=predicted, rank=(predicted != labels).astype(np.int64))
    assert confused(answers, "abc") == [
        {"true": "a", "predicted": "b", "count": 2, "share": 2 / 3},
        {"true": "b", "predicted": "a", "count": 1, "share": 0.5},
    ]
    found = zero_shot_of.metrics(answers, "abc")
    assert found["top1"] == 3 / 7
    assert found["mean_per_class"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)
    assert found["top5"] is None  # of three classes
    assert found["not_finite"] == 1
