"""Joint transforms against their protocols: what they draw is read back from a depth map that counts columns."""

import colorsys
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import made
import numpy as np
import pytest
import torch

from mobileclip.dense.data import joint as on
from mobileclip.dense.data.transforms import PIPELINES, Transform, collate, transform
from mobileclip.dense.samples import Item, Sample
from mobileclip.errors import DataError, UnknownName

SIZES = {"nyu_bts": (52, 68), "coco_1x": (40, 66)}
SEEDS = range(120)


def known(item: Item) -> np.ndarray:
    """The middle row of the depth, without what was padded."""
    assert item.depth is not None
    rows = np.flatnonzero(item.depth.numpy().any(1))
    row = item.depth.numpy()[rows[len(rows) // 2]]
    return row[row > 0]


def scale(item: Item) -> float:
    """Columns of the result for each of the sample."""
    row = known(item)
    return (len(row) - 1) / max(abs(float(row[-1] - row[0])), 1e-9)


def mirrored(item: Item) -> bool:
    row = known(item)
    return bool(row[-1] < row[0])


def grey(value: int, height: int = 16, width: int = 16) -> Sample:
    return Sample(name="grey", image=np.full((height, width, 3), value, np.uint8))


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("objects", [False, True])
def test_pure_function(name: str, objects: bool) -> None:
    sample = made.ramp(48, 64, objects=objects)
    before = pickle.dumps(sample)
    t = transform(name, SIZES.get(name, (40, 40)))
    states = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    items = [t(sample, seed) for seed in range(8)]
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])
    assert states[2] == random.getstate()
    assert pickle.dumps(sample) == before
    again: Transform = pickle.loads(pickle.dumps(t))
    assert again == t
    with ThreadPoolExecutor(4) as pool:
        others = list(pool.map(lambda seed: again(sample, seed), range(8)))
    for one, other in zip(items, others, strict=True):
        for part in ("image", "labels", "depth", "boxes", "classes", "masks"):
            first, second = getattr(one, part), getattr(other, part)
            assert (first is None and second is None) or torch.equal(first, second)
    if name not in ("plain", "coco_1x"):
        assert len({one.image.numpy().tobytes() for one in items}) > 3
    assert t(sample, -5).image.shape == t(sample, (1 << 64) + 7).image.shape or name.startswith("coco")


@pytest.mark.parametrize("name", PIPELINES)
def test_parts_stay_together(name: str) -> None:
    """Kinds, ranges, and that boxes and masks are of the same objects, as in a sample whose objects are rectangles."""
    sample, t = made.ramp(48, 64, objects=True), transform(name, SIZES.get(name, (40, 40)))
    for seed in range(30):
        item = t(sample, seed)
        assert item.labels is not None
        assert item.depth is not None
        assert item.boxes is not None
        assert item.masks is not None
        assert item.classes is not None
        height, width = item.image.shape[1:]
        assert (item.image.dtype, item.labels.dtype, item.depth.dtype) == (torch.uint8, torch.int64, torch.float32)
        assert (item.boxes.dtype, item.classes.dtype, item.masks.dtype) == (torch.float32, torch.int64, torch.bool)
        assert item.labels.shape == item.depth.shape == (height, width)
        assert item.masks.shape == (len(item.boxes), height, width)
        assert item.image.is_contiguous()
        assert set(item.labels.unique().tolist()) <= {0, 1, 2, 255}  # never mixed
        assert ((item.labels == 255) >= (item.depth == 0)).all()  # padded alike
        assert set(item.classes.tolist()) <= {0, 2}  # the crowd has gone
        inside = item.boxes.clamp(min=0)
        assert torch.equal(inside, item.boxes)
        assert (item.boxes[:, 2] <= width).all()
        assert (item.boxes[:, 3] <= height).all()
        slack = 5 if name == "nyu_bts" else 1.5
        for box, mask in zip(item.boxes, item.masks, strict=True):
            rows, columns = np.flatnonzero(mask.numpy().any(1)), np.flatnonzero(mask.numpy().any(0))
            around = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=torch.float32)
            assert (box - around).abs().max() <= slack, (seed, box, around)


@pytest.mark.parametrize("name", [name for name in PIPELINES if name != "plain"])
def test_flip_in_half_of_all_cases(name: str) -> None:
    sample, size = made.ramp(24, 32), {"nyu_bts": (26, 34), "coco_1x": (20, 33)}.get(name, (20, 20))
    flips = [mirrored(transform(name, size)(sample, seed)) for seed in SEEDS]
    assert 0.36 < np.mean(flips) < 0.64
    assert not any(mirrored(transform(name, size, flip=0.0)(sample, seed)) for seed in range(9))
    assert all(mirrored(transform(name, size, flip=1.0)(sample, seed)) for seed in range(9))


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_tiny_and_narrow_pictures(name: str, shape: tuple[int, int]) -> None:
    for sample in (made.ramp(*shape), replace(made.ramp(48, 64, objects=True), labels=None)):
        for seed in range(4):
            batch = collate([transform(name, (32, 32))(sample, seed)])
            assert batch.images.shape[2] % 32 == batch.images.shape[3] % 32 == 0
            assert batch.images.shape[2] * batch.images.shape[3] <= 1 << 20


def test_ade_size_and_ratio() -> None:
    """Base (2048, 512) times 0.5 to 2, then 512 x 512, padded; scaled for another crop."""
    sample = made.ramp(128, 171)
    t = transform("ade", (512, 512), distort=False)
    assert t(sample, 0).image.shape == (3, 512, 512)
    small = transform("ade", (64, 64), distort=False)
    scales = np.array([scale(small(made.ramp(64, 86), seed)) for seed in SEEDS])
    assert 0.47 < scales.min() < 0.56
    assert 1.9 < scales.max() < 2.1
    assert abs(np.median(scales) - 1.25) < 0.2  # uniform
    assert on.fitted((512, 683), 512, 2048) == (512, 683)
    assert on.fitted((100, 1000), 512, 2048) == (205, 2048)  # the long side rules


def test_ade_pads_with_255_and_0() -> None:
    t = transform("ade", (64, 64), distort=False, ratio=(0.5, 0.5))
    item = t(made.ramp(64, 64), 0)
    assert item.labels is not None
    assert item.image.shape == (3, 64, 64)
    assert (item.labels[32:] == 255).all()
    assert (item.labels[:32, :32] < 3).all()
    assert (item.image[:, 32:] == 0).all()


def test_ade_crop_without_a_class_that_fills_it() -> None:
    """Ten further tries for a crop with two classes of which none has more than 0.75."""
    labels = np.zeros((64, 256), np.uint8)
    labels[:, 180:] = 1
    sample = replace(made.ramp(64, 256), labels=labels)

    def most(item: Item) -> float:
        assert item.labels is not None
        return float(torch.bincount(item.labels[item.labels != 255]).max() / (item.labels != 255).sum())

    free, bound = (
        [most(transform("ade", (64, 64), distort=False, ratio=(1.0, 1.0), **given)(sample, seed)) for seed in SEEDS]
        for given in ({"cat_max_ratio": 1.0}, {})
    )
    assert np.mean(np.array(free) > 0.75) > 0.7
    assert np.mean(np.array(bound) > 0.75) < 0.25
    narrow = transform("ade", (64, 64), distort=False, ratio=(1.0, 1.0), tries=2)
    assert np.mean([most(narrow(sample, seed)) > 0.75 for seed in SEEDS]) > 0.4


def test_ade_photometric_distortion() -> None:
    """Brightness +-32, contrast 0.5 to 1.5, in half of all cases each: a quarter of greys stay."""
    t = transform("ade", (16, 16), ratio=(1.0, 1.0))
    values = np.array([int(t(grey(100), seed).image[0, 0, 0]) for seed in range(250)])
    assert 0.18 < np.mean(values == 100) < 0.32
    assert 34 <= values.min() < 50
    assert 170 < values.max() <= 198
    colour = replace(grey(0), image=np.full((16, 16, 3), (180, 90, 60), np.uint8))
    same = [t(colour, seed).image[:, 0, 0].tolist() == [180, 90, 60] for seed in range(250)]
    assert 0.03 < np.mean(same) < 0.1  # one in sixteen: none of four
    plain = transform("ade", (16, 16), ratio=(1.0, 1.0), distort=False)
    assert plain(colour, 3).image[:, 0, 0].tolist() == [180, 90, 60]


@pytest.mark.parametrize(
    "colour", [(180, 90, 60), (10, 200, 30), (77, 77, 77), (0, 0, 0), (255, 0, 255), (250, 251, 9)]
)
def test_saturation_and_hue_are_those_of_hsv(colour: tuple[int, int, int]) -> None:
    image = torch.tensor(colour, dtype=torch.float32)[:, None, None]
    hue, saturation, value = colorsys.rgb_to_hsv(*(part / 255 for part in colour))
    for factor, shift in ((0.5, 0.0), (1.5, 0.0), (1.0, 0.2), (1.0, -0.3)):
        wanted = min(max(saturation * factor + shift, 0), 1) if saturation else 0.0
        expected = np.array(colorsys.hsv_to_rgb(hue, wanted, value)) * 255
        assert np.abs(on.saturate(image, factor, shift).flatten().numpy() - expected).max() < 0.01
    turned = on.turn_hue(on.Joint(image=image.to(torch.uint8)), 0.1).image.flatten().numpy()
    expected = np.array(colorsys.hsv_to_rgb((hue + 0.1) % 1, saturation, value)) * 255
    assert np.abs(turned - expected).max() <= 1.5


@pytest.mark.parametrize(
    ("shape", "expected"), [((427, 640), (800, 1199)), ((640, 427), (1199, 800)), ((300, 1000), (400, 1333))]
)
def test_coco_1x(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    """Short side 800, long side at most 1333."""
    sample = Sample(name="x", image=made.picture(0, *shape))
    assert tuple(transform("coco_1x", (800, 1344))(sample, 0).image.shape[1:]) == expected


def test_coco_3x() -> None:
    """One of 480, 512 … 800; in half of all cases resized to 400, 500 or 600 and cropped to 384..600 before."""
    sample = made.ramp(150, 200)
    t = transform("coco_3x", (200, 333))  # a quarter of everything
    items = [t(sample, seed) for seed in SEEDS]
    shorts = [min(item.image.shape[1:]) for item in items]
    assert set(shorts) == set(range(120, 201, 8))
    whole = np.array([abs(float(known(item)[-1] - known(item)[0])) > 196 for item in items])
    assert 0.4 < np.mean(whole) < 0.75
    cropped = [item for item, complete in zip(items, whole, strict=True) if not complete]
    seen = [abs(float(known(item)[-1] - known(item)[0])) + 1 for item in cropped]
    assert min(seen) >= 96 / 150 * 150 - 2  # 384 of the 600 that the short side has at most
    assert max(max(item.image.shape[1:]) for item in items) <= 333


def test_coco_lsj() -> None:
    """Fitted into the size times 0.1 to 2, cropped or padded to it."""
    t, sample = transform("coco_lsj", (64, 64)), made.ramp(64, 64)
    items = [t(sample, seed) for seed in SEEDS]
    assert {tuple(item.image.shape) for item in items} == {(3, 64, 64)}
    widths = np.array([len(known(item)) for item in items])
    assert 6 <= widths.min() < 12
    scales = np.array([scale(item) for item in items])
    assert 1.85 < scales.max() < 2.1
    assert 0.35 < np.mean(widths == 64) < 0.7  # of 0.1 .. 2 a little more than half is 1 or larger


def test_nyu_crop_of_480() -> None:
    sample = made.ramp(480, 640)
    t = transform("nyu", (480, 480), flip=0.0, colour=0.0)
    lefts = []
    for seed in range(24):
        item = t(sample, seed)
        assert item.depth is not None
        assert tuple(item.image.shape) == (3, 480, 480)
        assert torch.equal(item.depth[0].diff(), torch.ones(479))  # no scale
        lefts.append(int(item.depth[0, 0]) - 1)
    assert 0 <= min(lefts) < 30
    assert 130 < max(lefts) <= 160
    assert transform("nyu", (96, 96))(sample, 0).image.shape == (3, 96, 96)


def test_nyu_cut_depth() -> None:
    """A vertical stripe of the depth, at most 0.75 of what is right of it, in a quarter of all pictures."""
    sample = Sample(name="x", image=np.zeros((48, 64, 3), np.uint8), depth=np.full((48, 64), 5.0, np.float32))
    t = transform("nyu", (48, 64), flip=0.0, colour=0.0)
    stripes = [t(sample, seed).image for seed in range(300)]
    cut = [image for image in stripes if image.any()]
    assert 0.17 < len(cut) / 300 < 0.33
    for image in cut:
        columns = np.flatnonzero(image[0].numpy().any(0))
        assert set(image.unique().tolist()) <= {0, 127}  # 5 m of 10 m
        assert (image[:, :, columns[0] : columns[-1] + 1] == 127).all()  # from top to bottom, without a gap
        assert len(columns) <= max(0.75 * (64 - columns[0]), 1)
    assert not any(transform("nyu", (48, 64), cut=0.0, colour=0.0)(sample, seed).image.any() for seed in range(20))


def test_nyu_colours() -> None:
    """Brightness and contrast +-0.2, gamma 0.8 to 1.2, value +-20: in half of all cases each."""
    t = transform("nyu", (16, 16))
    values = np.array([int(t(grey(100), seed).image[0, 0, 0]) for seed in range(300)])
    assert 0.06 < np.mean(values == 100) < 0.25  # one in eight
    assert values.min() > 100 * 0.8 - 51 - 40
    assert values.max() < 100 * 1.2 + 51 + 45
    assert np.ptp(values) > 90
    assert transform("nyu", (16, 16), colour=0.0)(grey(100), 5).image.unique().tolist() == [100]


def test_nyu_bts() -> None:
    """The crop (43, 45, 608, 472), turned by at most 2.5 degrees, then 416 x 544."""
    sample = made.ramp(480, 640)
    t = transform("nyu_bts", (416, 544), flip=0.0, degrees=0.0)
    for seed in range(6):
        item = t(sample, seed)
        assert item.depth is not None
        assert tuple(item.image.shape) == (3, 416, 544)
        assert float(item.depth.min()) - 1 >= 43
        assert float(item.depth.max()) - 1 < 608
        assert torch.equal(item.depth[0].diff(), torch.ones(543))
    angles = []
    small = made.ramp(240, 320)
    for seed in range(40):
        item = transform("nyu_bts", (208, 272), flip=0.0)(small, seed)
        assert item.depth is not None
        middle = item.depth[80:130, 110:160].numpy()
        angles.append(np.degrees(np.arctan2(np.gradient(middle, axis=0).mean(), np.gradient(middle, axis=1).mean())))
    assert 2.0 < np.abs(angles).max() < 2.7
    assert min(angles) < -1 < 1 < max(angles)


def test_nyu_bts_colours() -> None:
    """Gamma 0.9 to 1.1, brightness 0.75 to 1.25, each channel 0.9 to 1.1, in half of all cases."""
    values = np.array([transform("nyu_bts", (13, 17))(grey(100, 48, 64), seed).image[0, 6, 8] for seed in range(300)])
    assert 0.4 < np.mean(values == 100) < 0.6
    assert 55 < values.min() < 80
    assert 125 < values.max() < 160


def test_scenes_crop_is_moderate() -> None:
    t = transform("scenes", (48, 48))
    items = [t(made.ramp(48, 48), seed) for seed in SEEDS]
    assert {tuple(item.image.shape) for item in items} == {(3, 48, 48)}
    covered = [abs(float(known(item)[-1] - known(item)[0])) + 1 for item in items]
    assert min(covered) > 48 * (0.5 * 0.75) ** 0.5 - 3
    assert max(covered) == 48


def test_plain() -> None:
    stretched = transform("plain", (64, 96))(made.ramp(50, 50), 0)
    assert tuple(stretched.image.shape) == (3, 64, 96)
    assert stretched.depth is not None
    assert (stretched.depth > 0).all()
    fitted = transform("plain", (64, 96))(made.ramp(50, 100, objects=True), 0)
    assert fitted.depth is not None
    assert tuple(fitted.image.shape) == (3, 64, 96)
    assert (fitted.depth[48:] == 0).all()
    assert (fitted.depth[:48] > 0).all()


def test_resizing_is_bilinear_with_antialias_and_nearest() -> None:
    """Against Pillow for the picture; the maps keep their values."""
    from PIL import Image

    sample = made.ramp(60, 90)
    item = transform("plain", (20, 30))(sample, 0)
    wanted = np.asarray(Image.fromarray(sample.image).resize((30, 20), Image.Resampling.BILINEAR))
    assert np.abs(item.image.permute(1, 2, 0).numpy().astype(int) - wanted).max() <= 1
    assert item.depth is not None
    assert (item.depth == item.depth.round()).all()


def test_collate() -> None:
    """To multiples of 32, on the right and below: pictures and depth 0, labels 255, masks False."""
    one = transform("plain", (40, 70))(made.ramp(40, 70), 0)
    two = transform("plain", (33, 20))(made.ramp(33, 20), 0)
    batch = collate([one, two])
    assert batch.names == ("ramp", "ramp")
    assert tuple(batch.images.shape) == (2, 3, 64, 96)
    assert batch.targets.sizes == ((40, 70), (33, 20))
    assert batch.targets.labels is not None
    assert batch.targets.depth is not None
    assert torch.equal(batch.images[0, :, :40, :70], one.image)
    assert (batch.images[1, :, 33:] == 0).all()
    assert (batch.targets.labels[1, :, 20:] == 255).all()
    assert (batch.targets.depth[1, :, 20:] == 0).all()
    assert batch.targets.boxes is None
    assert batch.targets.masks is None
    found = collate([transform("plain", (40, 70))(made.ramp(40, 70, objects=True), 0)])
    assert found.targets.boxes is not None
    assert found.targets.masks is not None
    assert found.targets.masks[0].shape == (2, 64, 96)
    assert not found.targets.masks[0][:, 40:].any()


def test_a_picture_whose_objects_all_vanish() -> None:
    sample = made.ramp(48, 64, objects=True)
    assert sample.objects is not None
    only = replace(sample.objects, masks=np.zeros_like(sample.objects.masks))
    item = transform("coco_1x", (32, 32))(replace(sample, objects=only), 0)
    assert item.boxes is not None
    assert item.boxes.shape == (0, 4)
    batch = collate([item])
    assert batch.targets.boxes is not None
    assert batch.targets.masks is not None
    assert batch.targets.masks[0].shape[0] == 0


@pytest.mark.parametrize(
    ("name", "size", "options", "text"),
    [
        ("adee", (32, 32), {}, "unknown transform 'adee': did you mean 'ade'? Known: ade, coco_1x"),
        ("ade", (32, 32), {"flipp": 1}, "unknown option of the transform 'ade' 'flipp': did you mean 'flip'?"),
        ("ade", (0, 32), {}, "the size of the transform is 0 x 32: at least 1 x 1 is allowed."),
    ],
)
def test_mistakes(name: str, size: tuple[int, int], options: dict[str, int], text: str) -> None:
    with pytest.raises((DataError, UnknownName)) as error:
        transform(name, size, **options)
    assert text in str(error.value)
