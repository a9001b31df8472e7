"""Crops and operations are torchvision's; the device's resize is the host's; stored parameters are replayed exactly."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2
from torchvision.transforms.autoaugment import RandAugment as FirstRandAugment

from mobileclip.config import config_of
from mobileclip.data import augment as module
from mobileclip.data.augment import (
    OPERATIONS,
    Augment,
    apply,
    flip,
    magnitudes,
    normalise,
    operate,
    pick_stored,
    read_stored,
    resize,
    resize_batch,
    scaled_box,
)
from mobileclip.data.order import hashed
from mobileclip.errors import DataError
from mobileclip.preprocessing import preprocess


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    sizes = [(96, 128), (131, 70), (64, 64), (200, 150), (50, 40)]
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def keys(count: int) -> Any:
    return hashed(5, 0, np.arange(count))


@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    low=st.floats(0.01, 1.0),
    narrow=st.floats(0.1, 1.0),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=150, deadline=None)
def test_crops_lie_in_the_picture(height: int, width: int, low: float, narrow: float, seed: int) -> None:
    found = Augment(scale=(low, 1.0), ratio=(narrow, 1 / narrow))
    boxes = found.boxes(hashed(seed, np.arange(8)), np.array([[height, width]] * 8))
    top, left, h, w = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()


def test_crops_are_distributed_as_those_of_torchvision() -> None:
    image = torch.zeros(3, 300, 400)
    torch.manual_seed(0)
    from torchvision.transforms import RandomResizedCrop

    for scale in ((0.08, 1.0), (0.9, 1.0)):
        theirs = np.array([RandomResizedCrop.get_params(image, scale, (3 / 4, 4 / 3)) for _ in range(4000)])
        ours = Augment(scale=scale).boxes(keys(4000), np.array([[300, 400]] * 4000))
        assert np.allclose(theirs.mean(0), ours.mean(0), atol=3)
        assert np.allclose(theirs.std(0), ours.std(0), atol=3)
        whole = [((boxes[:, 2] == 300) & (boxes[:, 3] == 400)).mean() for boxes in (theirs, ours)]
        assert abs(whole[0] - whole[1]) < 0.03


def test_a_picture_of_no_allowed_shape_is_cut_in_the_middle() -> None:
    boxes = Augment(scale=(1.0, 1.0)).boxes(keys(2), np.array([[100, 1000], [1000, 100]]))
    assert boxes.tolist() == [[0, 433, 100, 133], [433, 0, 133, 100]]


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [32, 64, 100])
def test_the_device_resizes_as_the_host_and_both_as_torchvision(pictures: list[Any], mode: Any, size: int) -> None:
    sizes = np.array([picture.shape[:2] for picture in pictures])
    boxes = Augment(scale=(0.5, 1.0)).boxes(keys(len(pictures)), sizes).tolist()
    host = torch.empty(len(pictures), size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    extents = torch.tensor([box[2:] for box in boxes])
    canvas = torch.randint(0, 256, (len(pictures), *extents.amax(0).tolist(), 3), dtype=torch.uint8)
    for index, (picture, box) in enumerate(zip(pictures, boxes, strict=True)):
        top, left, height, width = box
        resize(picture, box, host[index : index + 1], mode)
        canvas[index, :height, :width] = torch.from_numpy(picture[top : top + height, left : left + width])
        image = torch.from_numpy(picture).permute(2, 0, 1)
        way = v2.InterpolationMode(mode)
        reference = v2.functional.resized_crop(image, *box, [size, size], interpolation=way, antialias=True)
        assert torch.equal(host[index], reference)
    device = resize_batch(canvas, extents, size, mode)
    assert device.is_contiguous(memory_format=torch.channels_last)
    apart = (device.int() - host.int()).abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() < 1e-3


@pytest.mark.parametrize("level", [0, 9, 30])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_on_a_batch_are_torchvisions_on_each_picture(name: str, level: int) -> None:
    images = torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    images[0] = images[0] // 4 + 60  # something for AutoContrast
    reference = v2.RandAugment()
    space = FirstRandAugment()._augmentation_space(31, (48, 48))
    values, signed = space[name]
    magnitude = magnitudes(level, 48)[OPERATIONS.index(name)]
    assert magnitude == (float(values[level]) if values.ndim else 0.0)
    for sign in (1, -1) if signed else (1,):
        told = sign * magnitude / 255 if name == "Solarize" else sign * magnitude  # v2 has a share, not a level
        expected = [
            reference._apply_image_or_video_transform(i, name, told, "nearest", reference._fill) for i in images
        ]
        assert torch.equal(operate(images.clone(), name, sign * magnitude), torch.stack(expected))


def test_operations_are_drawn_alike_for_a_key_and_all_occur() -> None:
    found = Augment(rand_augment=(2, 9))
    drawn = found.operations(keys(3000), 224)
    assert drawn[:10] == found.operations(keys(10), 224)
    counts = np.bincount([op for row in drawn for op, _ in row], minlength=14)
    assert counts.min() > 350
    table = magnitudes(9, 224)
    assert {magnitude for row in drawn for op, magnitude in row if op == 3} == {table[3], -table[3]}
    assert {magnitude for row in drawn for op, magnitude in row if op == 11} == {table[11]}
    assert Augment().operations(keys(3), 224) == [(), (), ()]


def test_groups_change_nothing_but_their_own_pictures() -> None:
    images = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    drawn = Augment(rand_augment=(3, 12)).operations(keys(12), 32)
    expected = images.clone()
    for index, row in enumerate(drawn):
        for op, magnitude in row:
            expected[index] = operate(expected[index : index + 1], OPERATIONS[op], magnitude)[0]
    assert torch.equal(apply(images.clone(memory_format=torch.channels_last), drawn), expected)
    assert torch.equal(apply(images.clone(), [()] * 12), images)


def test_flips_are_those_that_were_drawn() -> None:
    which = Augment(flip=0.5).flips(keys(1000))
    assert 450 < which.sum() < 550
    assert not Augment().flips(keys(1000)).any()
    images = torch.arange(2 * 3 * 2 * 2, dtype=torch.uint8).view(2, 3, 2, 2)
    flipped = flip(images.clone(), np.array([False, True]))
    assert torch.equal(flipped, torch.stack([images[0], images[1].flip(-1)]))


def test_a_stored_augmentation_is_read() -> None:
    entry = json.loads("[[10, 20, 30, 40], [[3, -21.5], [11, 178.5]]]")
    found = read_stored(entry)
    assert found.box == (10, 20, 30, 40)
    assert found.operations == ((3, -21.5), (11, 178.5))
    assert not found.flip
    assert read_stored([[0, 0, 5, 5], None]).operations == ()
    assert read_stored([[0, 0, 5, 5], True, []]).flip
    assert read_stored([]).box is None


@pytest.mark.parametrize(
    "entry",
    [
        [[1, 2, 3]],
        [[-1, 0, 5, 5]],
        [[0, 0, 0, 5]],
        [[0, 0, 1e9, 5]],
        [[0, 0, 5, float("nan")]],
        [[[14, 0.5]]],
        [[[0.5, 0.5]]],
        [[[10, 99]]],
        [[[5, float("inf")]]],
        [[[1, 0.1]], [0, 0, 5, 5]],
        [[[1, 0.1]] * 99],
        ["eval"],
        [{"a": 1}],
        [[0, 0, 5, 5], [0, 0, 5, 5]],
        [[True, 0, 5, 5]],
    ],
)
def test_a_stored_augmentation_that_makes_no_sense_is_refused(entry: list[Any]) -> None:
    with pytest.raises(DataError) as error:
        read_stored(entry)
    assert str(error.value).startswith(
        f"a stored augmentation is {str(entry)[:100]}: a crop [top, left, height, width]"
    )
    assert str(error.value).endswith("store it again, or train with replay=False.")


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3), st.lists, max_leaves=12
)


@given(st.lists(json_like, max_size=4))
@settings(max_examples=200, deadline=None)
def test_no_stored_entry_does_anything_but_parse_or_a_clear_error(entry: list[Any]) -> None:
    try:
        found = read_stored(entry)
    except DataError:
        return
    apply(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), [found.operations])


@given(
    box=st.tuples(*[st.integers(0, 4000)] * 2, *[st.integers(1, 4000)] * 2),
    was=st.tuples(*[st.integers(1, 4000)] * 2),
    now=st.tuples(*[st.integers(1, 4000)] * 2),
)
@settings(max_examples=200, deadline=None)
def test_scaled_crops_lie_in_the_picture(box: Any, was: Any, now: Any) -> None:
    top, left, height, width = scaled_box(box, was, now)
    assert 0 <= top < top + height <= now[0]
    assert 0 <= left < left + width <= now[1]


def test_crops_scale_with_the_picture_and_stay_at_the_same_size() -> None:
    assert scaled_box((10, 20, 30, 40), (100, 200), (100, 200)) == (10, 20, 30, 40)
    assert scaled_box((10, 20, 30, 40), (100, 200), (50, 100)) == (5, 10, 15, 20)
    assert scaled_box((90, 0, 30, 40), (100, 200), (100, 200)) == (90, 0, 10, 40)


def test_stored_augmentations_are_picked_evenly() -> None:
    picked = pick_stored(keys(9000), np.array([3] * 9000))
    assert np.allclose(np.bincount(picked) / 9000, 1 / 3, atol=0.03)


@pytest.mark.parametrize("name", ["mobileclip_s2", "mobileclip2_s3"])
def test_normalising_is_that_of_preprocessing(name: str) -> None:
    chosen = config_of(name).preprocess
    pixels = np.random.default_rng(0).integers(0, 256, (chosen.size, chosen.size, 3), dtype=np.uint8)
    from PIL import Image

    expected = preprocess(chosen)(Image.fromarray(pixels))
    found = normalise(torch.from_numpy(pixels).permute(2, 0, 1)[None], chosen)
    assert torch.equal(found[0], expected)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"scale": (0.0, 1.0)}, "augmentation's scale is 0.0 to 1.0: 0 < least <= most <= 1 is allowed."),
        ({"ratio": (2.0, 1.0)}, "augmentation's ratio is 2.0 to 1.0: 0 < least <= most <= 100 is allowed."),
        ({"flip": 2.0}, "augmentation's flip is 2.0: a probability of 0 to 1 is allowed."),
        (
            {"rand_augment": (2, 31)},
            "augmentation's rand_augment is 2 operations of magnitude 31: 0 to 16 operations of magnitude 0 to 30 are "
            "allowed.",
        ),
        ({"interpolation": "nearest"}, "interpolation is 'nearest': 'bilinear' or 'bicubic' is allowed."),
    ],
)
def test_settings_that_make_no_sense_are_told(options: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError) as error:
        Augment(**options)
    assert str(error.value) == text


def test_the_order_of_operations_is_that_of_torchvision() -> None:
    assert list(FirstRandAugment()._augmentation_space(31, (8, 8))) == list(module.OPERATIONS)
