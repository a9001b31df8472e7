"""Figures against scikit-learn, against numbers worked out by hand, and against their own laws."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mobileclip.dense.metrics import DepthMetric, SegmentationMetric
from mobileclip.dense.samples import Depths, Sample, Segmented
from mobileclip.errors import DataError

sklearn = pytest.importorskip("sklearn.metrics")


def labelled(labels: np.ndarray, name: str = "a.png") -> Sample:
    return Sample(name=name, image=np.zeros((*labels.shape, 3), np.uint8), labels=labels.astype(np.uint8))


def deep(depth: np.ndarray, name: str = "a.png") -> Sample:
    return Sample(name=name, image=np.zeros((*depth.shape, 3), np.uint8), depth=depth.astype(np.float32))


def said(labels: np.ndarray) -> Segmented:
    return Segmented(labels=labels.astype(np.uint8))


def metres(depth: np.ndarray) -> Depths:
    return Depths(metres=depth.astype(np.float32))


def test_segmentation_equals_scikit_learn_over_all_pictures() -> None:
    generator = np.random.default_rng(0)
    metric = SegmentationMetric([f"class {place}" for place in range(7)])
    truths, answers = [], []
    for shape in ((9, 11), (16, 5), (1, 1), (30, 40)):
        truth, answer = generator.integers(0, 6, shape), generator.integers(0, 7, shape)  # class 6 is never true
        truth[generator.random(shape) < 0.2] = 255
        metric.add(said(answer), labelled(truth))
        truths.append(truth.ravel())
        answers.append(answer.ravel())
    truth, answer = np.concatenate(truths), np.concatenate(answers)
    truth, answer = truth[truth != 255], answer[truth != 255]
    found = metric.result()
    assert np.array_equal(found["confusion"], sklearn.confusion_matrix(truth, answer, labels=range(7)))
    iou = sklearn.jaccard_score(truth, answer, labels=range(7), average=None, zero_division=0)
    assert found["figures"]["mIoU"] == pytest.approx(iou.mean())
    assert {row["class"]: row["iou"] for row in found["per_class"]} == pytest.approx(dict(enumerate(iou)))
    assert found["figures"]["aAcc"] == pytest.approx(sklearn.accuracy_score(truth, answer))
    recall = sklearn.recall_score(truth, answer, labels=range(6), average="macro")
    assert found["figures"]["mAcc"] == pytest.approx(recall)
    assert found["pictures"] == 4
    assert [row["iou"] for row in found["per_class"]] == sorted(iou, reverse=True)


def test_segmentation_by_hand() -> None:
    metric = SegmentationMetric(["sky", "road", "otter"])
    metric.add(said(np.array([[0, 0, 1], [1, 1, 1]])), labelled(np.array([[0, 0, 0], [1, 1, 255]])))
    found = metric.result()
    # sky: 2 of 3 found, nothing wrong; road: 2 found, 1 of sky taken for it; no otter anywhere
    assert found["figures"] == pytest.approx({"mIoU": (2 / 3 + 2 / 3) / 2, "aAcc": 4 / 5, "mAcc": (2 / 3 + 1) / 2})
    assert found["per_class"][-1] == {
        "class": 2,
        "label": "otter",
        "iou": None,
        "acc": None,
        "pixels": 0,
        "predicted": 0,
    }
    assert found["confusion"] == [[2, 1, 0], [0, 2, 0], [0, 0, 0]]


def test_the_set_is_measured_not_the_mean_of_pictures() -> None:
    metric = SegmentationMetric(["a", "b"])
    metric.add(said(np.zeros((1, 1))), labelled(np.zeros((1, 1))))
    metric.add(said(np.zeros((1, 9))), labelled(np.ones((1, 9))))
    assert metric.result()["figures"]["mIoU"] == pytest.approx((1 / 10 + 0) / 2)


def test_nothing_that_counts_is_nan() -> None:
    metric = SegmentationMetric(["a"])
    metric.add(said(np.zeros((2, 2))), labelled(np.full((2, 2), 255)))
    assert all(math.isnan(value) for value in metric.result()["figures"].values())
    assert all(math.isnan(value) for value in DepthMetric().result()["figures"].values())


_LABELS = arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, 255]))
_ANSWERS = arrays(np.uint8, (4, 5), elements=st.integers(0, 2))


@settings(max_examples=40, deadline=None)
@given(pairs=st.lists(st.tuples(_LABELS, _ANSWERS), min_size=1, max_size=4), cut=st.integers(0, 4))
def test_merging_is_measuring_together(pairs: list[tuple[np.ndarray, np.ndarray]], cut: int) -> None:
    together, first, second = (SegmentationMetric("abc") for _ in range(3))
    for place, (truth, answer) in enumerate(pairs):
        together.add(said(answer), labelled(truth))
        (first if place < cut else second).add(said(answer), labelled(truth))
    first.merge(second)
    assert np.array_equal(first.confusion, together.confusion)
    assert first.pictures == together.pictures == len(pairs)


@settings(max_examples=40, deadline=None)
@given(truth=_LABELS, answer=_ANSWERS, other=_ANSWERS)
def test_ignored_pixels_never_count(truth: np.ndarray, answer: np.ndarray, other: np.ndarray) -> None:
    one, two = SegmentationMetric("abc"), SegmentationMetric("abc")
    one.add(said(answer), labelled(truth))
    two.add(said(np.where(truth == 255, other, answer)), labelled(truth))
    assert np.array_equal(one.confusion, two.confusion)
    assert one.confusion.sum() == (truth != 255).sum()


@settings(max_examples=30, deadline=None)
@given(truth=_LABELS)
def test_the_truth_itself_is_perfect(truth: np.ndarray) -> None:
    metric = SegmentationMetric("abc")
    metric.add(said(np.where(truth == 255, 0, truth)), labelled(truth))
    figures = metric.result()["figures"]
    assert figures["mIoU"] == 1.0 or (truth == 255).all()


def test_depth_equals_scikit_learn() -> None:
    """Each figure that it has, of a picture, then the mean over the pictures; holes count nowhere."""
    generator = np.random.default_rng(3)
    metric, expected = DepthMetric(), []
    for shape in ((12, 9), (7, 30)):
        truth = generator.uniform(0.5, 9, shape).astype(np.float32)
        truth[generator.random(shape) < 0.3] = 0
        answer = generator.uniform(0.5, 9, shape).astype(np.float32)
        metric.add(metres(answer), deep(truth))
        p, g = answer[truth > 0].astype(np.float64), truth[truth > 0].astype(np.float64)
        expected.append(
            (
                sklearn.root_mean_squared_error(g, p),
                sklearn.mean_absolute_percentage_error(g, p),
                sklearn.root_mean_squared_error(np.log(g), np.log(p)),
                sklearn.mean_absolute_error(np.log10(g), np.log10(p)),
            )
        )
    found = metric.result()["figures"]
    names = ("rmse", "abs_rel", "rmse_log", "log10")
    assert [found[name] for name in names] == pytest.approx(np.mean(expected, 0).tolist())


def test_depth_by_hand() -> None:
    metric = DepthMetric()
    metric.add(metres(np.array([[1.0, 2.0, 5.0]])), deep(np.array([[2.0, 2.0, 4.0]])))
    # ratios 2, 1, 1.25; differences -1, 0, 1
    d = np.log([0.5, 1.0, 1.25])
    expected = {
        "rmse": math.sqrt(2 / 3),
        "d1": 1 / 3,  # 1.25 is not less than 1.25
        "d2": 2 / 3,
        "d3": 2 / 3,  # 2 is beyond 1.25 ** 3 = 1.953125
        "abs_rel": (1 / 2 + 0 + 1 / 4) / 3,
        "sq_rel": (1 / 2 + 0 + 1 / 4) / 3,
        "rmse_log": math.sqrt((0.6931471805599453**2 + 0.22314355131420976**2) / 3),
        "log10": (0.3010299956639812 + 0.09691001300805642) / 3,
        "silog": 100 * math.sqrt((d**2).mean() - d.mean() ** 2),
    }
    assert metric.result()["figures"] == pytest.approx(expected)


def test_depth_is_a_mean_over_pictures() -> None:
    metric = DepthMetric()
    metric.add(metres(np.array([[2.0]])), deep(np.array([[1.0]]), "near"))  # rmse 1
    metric.add(metres(np.full((1, 9), 5.0)), deep(np.full((1, 9), 2.0), "far"))  # rmse 3
    metric.add(metres(np.ones((1, 2))), deep(np.zeros((1, 2)), "hole"))
    found = metric.result()
    assert found["figures"]["rmse"] == pytest.approx(2.0)
    assert (found["pictures"], found["skipped"]) == (2, ["hole"])
    assert [row["name"] for row in found["per_picture"]] == ["far", "near"]
    assert found["per_picture"][0]["pixels"] == 9


def test_which_depths_count() -> None:
    metric = DepthMetric()
    truth = np.full((480, 640), 3.0, np.float32)
    assert metric.counted(truth).sum() == (471 - 45) * (601 - 41)
    assert metric.counted(truth)[45, 41]
    assert not metric.counted(truth)[44, 41]
    assert not metric.counted(truth)[471, 41]
    assert not metric.counted(truth)[45, 601]
    assert metric.counted(truth[:479]).all(), "the crop is of 480 x 640 alone"
    assert DepthMetric(crop=None).counted(truth).all()
    assert metric.counted(np.array([[0.0, 1e-3, 0.5, 10.0, 11.0]], np.float32)).tolist() == [
        [False, False, True, False, False]
    ]


def test_predicted_depths_are_clipped_and_never_spoil_the_mean() -> None:
    metric = DepthMetric()
    answer = np.array([[np.nan, np.inf, -np.inf, -4.0, 50.0]])
    metric.add(metres(answer), deep(np.full((1, 5), 9.0)))
    expected = math.sqrt(((9 - 1e-3) ** 2 * 3 + 1 + 1) / 5)
    assert metric.result()["figures"]["rmse"] == pytest.approx(expected, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    depth=arrays(np.float32, (3, 4), elements=st.floats(0.125, 9.0, width=32)),
    scale=st.floats(0.5, 1.0),
)
def test_laws_of_depth(depth: np.ndarray, scale: float) -> None:
    perfect, scaled = DepthMetric(), DepthMetric()
    perfect.add(metres(depth), deep(depth))
    assert perfect.result()["figures"]["rmse"] == 0
    assert perfect.result()["figures"]["d1"] == 1
    scaled.add(metres(depth * scale), deep(depth))
    figures = scaled.result()["figures"]
    assert figures["silog"] == pytest.approx(0, abs=1e-3), "one factor for all pixels costs no SILog"
    assert figures["abs_rel"] == pytest.approx(1 - scale, abs=1e-6)
    assert figures["d1"] <= figures["d2"] <= figures["d3"]


def test_depths_of_two_workers_are_merged() -> None:
    one, two = DepthMetric(), DepthMetric()
    one.add(metres(np.array([[2.0]])), deep(np.array([[1.0]])))
    two.add(metres(np.array([[4.0]])), deep(np.array([[1.0]])))
    two.add(metres(np.array([[4.0]])), deep(np.array([[0.0]]), "hole"))
    one.merge(two)
    assert one.result()["figures"]["rmse"] == pytest.approx(2.0)
    assert one.result()["skipped"] == ["hole"]


def test_refusals() -> None:
    with pytest.raises(DataError, match=r"^0 classes: 1 to 255 can be measured, since labels have 8 bits\.$"):
        SegmentationMetric([])
    metric = SegmentationMetric(["a", "b"])
    with pytest.raises(DataError, match=r"^a\.png has no labels: open the set for segmentation\.$"):
        metric.add(said(np.zeros((1, 1))), deep(np.ones((1, 1))))
    wrong = (
        r"^the prediction of a\.png has 2 x 1 pixels, its truth 1 x 2: a prediction must have the picture's own size"
    )
    with pytest.raises(DataError, match=wrong):
        metric.add(said(np.zeros((2, 1))), labelled(np.zeros((1, 2))))
    with pytest.raises(DataError, match=r"^the truth of a\.png holds class 2: 0 to 1 are allowed \(and 255 in the tr"):
        metric.add(said(np.zeros((1, 1))), labelled(np.full((1, 1), 2)))
    with pytest.raises(DataError, match=r"^the prediction of a\.png holds class 255: 0 to 1 are allowed"):
        metric.add(said(np.full((1, 1), 255)), labelled(np.ones((1, 1))))
    with pytest.raises(DataError, match=r"^crop is 'garg': 'eigen' or none is allowed\.$"):
        DepthMetric(crop="garg")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"^depths from 2 to 1 m: 0 < least < most is allowed\.$"):
        DepthMetric(min_depth=2, max_depth=1)
    with pytest.raises(DataError, match=r"^a\.png has no depth: open the set for depth\.$"):
        DepthMetric().add(metres(np.ones((1, 1))), labelled(np.zeros((1, 1))))
