"""The logit scale that made the labels is found; losses and calibration error by hand."""

import numpy as np
import pytest
import torch

from mobileclip.evaluate.calibration import calibrate, expected_error, fit_scale, judge
from mobileclip.evaluate.encoder import unit


def test_the_scale_that_made_the_labels_is_found() -> None:
    generator = np.random.default_rng(0)
    images, classes = unit(generator.standard_normal((6000, 8))), unit(generator.standard_normal((5, 8)))
    logits = 7.0 * images.astype(np.float64) @ classes.T
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    found = fit_scale(images, classes, labels)
    assert found == pytest.approx(7.0, rel=0.05)
    losses = [judge(images, classes, labels, found * factor)["nll"] for factor in (0.9, 1, 1.1)]
    assert losses[1] == min(losses)
    reported = calibrate(images, classes, labels, 100.0)
    assert reported is not None
    assert reported["nll_fitted"] < reported["nll"]
    assert reported["ece_fitted"] < 0.03 < reported["ece"]
    assert reported["fitted_on"] + reported["judged_on"] == 6000
    assert reported["at_border"] is False


def test_losses_and_calibration_error_by_hand() -> None:
    generator = np.random.default_rng(1)
    images, classes = unit(generator.standard_normal((50, 4))), unit(generator.standard_normal((3, 4)))
    labels = generator.integers(0, 3, 50)
    p = torch.from_numpy(images @ classes.T * 20).double().softmax(dim=1).numpy()
    found = judge(images, classes, labels, 20.0)
    assert found["nll"] == pytest.approx(-np.log(p[np.arange(50), labels]).mean(), rel=1e-4)
    expected = 0.0
    for index in range(15):
        inside = (p.max(axis=1) > index / 15) & (p.max(axis=1) <= (index + 1) / 15)
        if inside.any():
            gap = (p.argmax(axis=1) == labels)[inside].mean() - p.max(axis=1)[inside].mean()
            expected += inside.mean() * abs(gap)
    assert found["ece"] == pytest.approx(expected, abs=1e-6)
    assert expected_error(np.array([1.0, 1.0]), np.array([True, False])) == 0.5


def test_calibration_at_the_border() -> None:
    images = unit([[1, 0.1]] * 8)
    found = calibrate(images, unit([[1, 0], [0, 1]]), np.zeros(8, np.int64), 10.0)
    assert found is not None
    assert found["at_border"] is True  # always right: the surer the better
    assert calibrate(images[:1], unit([[1, 0]]), np.zeros(1, np.int64), 1.0) is None
