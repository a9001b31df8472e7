"""What apps do with raw outputs: equal to torch's and Pillow's own resizing, whatever the sizes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import interpolate

from mobileclip.dense import host
from mobileclip.errors import ImageError

_SIDES = st.integers(1, 30)


@settings(max_examples=25, deadline=None)
@given(shape=st.tuples(st.integers(1, 4), _SIDES, _SIDES), size=st.tuples(_SIDES, _SIDES), seed=st.integers(0, 99))
def test_enlarging_equals_torch(shape: tuple[int, int, int], size: tuple[int, int], seed: int) -> None:
    maps = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    expected = interpolate(torch.from_numpy(maps)[None], size, mode="bilinear", align_corners=False)[0].numpy()
    found = np.concatenate([band for _, band in host.enlarged(maps, size)], 1)
    assert np.abs(found - expected).max() < 1e-4  # torch's places are float32


@pytest.mark.parametrize("band", [1, 100, 1 << 20])
def test_bands_change_nothing(band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = np.random.default_rng(0).normal(size=(5, 8, 6)).astype(np.float16)
    expected = interpolate(torch.from_numpy(maps).float()[None], (31, 45), mode="bilinear", align_corners=False)
    monkeypatch.setattr(host, "BAND", band)
    assert np.array_equal(host.segmented(maps, (31, 45)).labels, expected[0].argmax(0).numpy())
    found = host.depths(maps[None, :1], (31, 45)).metres
    assert found.dtype == np.float32
    assert np.abs(found - expected[0, 0].numpy()).max() < 1e-5


def test_labels_go_to_the_nearest() -> None:
    labels = np.arange(6, dtype=np.int32).reshape(1, 1, 2, 3)
    found = host.segmented_labels(labels, (4, 6)).labels
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.repeat(np.repeat(labels[0, 0], 2, 0), 2, 1))
    smaller = host.segmented_labels(np.arange(64).reshape(8, 8), (3, 5)).labels
    expected = interpolate(torch.arange(64.0).reshape(1, 1, 8, 8), (3, 5), mode="nearest-exact")
    assert np.array_equal(smaller, expected[0, 0].numpy())


def test_logits_are_enlarged_before_the_best_is_taken() -> None:
    logits = np.array([[[10.0, 0.0]], [[0.0, 1.0]]], np.float32)  # the left class is by far the surer
    assert host.segmented(logits, (1, 8)).labels.tolist() == [[0, 0, 0, 0, 0, 0, 1, 1]]


def test_stretching_is_pillows() -> None:
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    found = host.stretch(image, (20, 64))
    assert found.shape == (20, 64, 3)
    assert np.array_equal(found, np.asarray(Image.fromarray(image).resize((64, 20), Image.Resampling.BILINEAR)))
    assert host.stretch(image, (37, 53)) is image


def test_refusals() -> None:
    wrong = (
        r"^the picture is float64 of shape \[2, 2, 3\]: uint8 \[H, W, 3\] in RGB is allowed, with at least 1 x 1 pix"
    )
    with pytest.raises(ImageError, match=wrong):
        host.checked(np.zeros((2, 2, 3)))
    for shape in ((0, 2, 3), (2, 2), (2, 2, 4)):
        with pytest.raises(ImageError, match="uint8"):
            host.checked(np.zeros(shape, np.uint8))
    huge = np.broadcast_to(np.uint8(0), (9000, 12000, 3))
    with pytest.raises(
        ImageError, match=r"^the picture is 12000 x 9000: at most 25,000,000 pixels are predicted at onc"
    ):
        host.checked(huge)
