"""Predictions of real small models: every protocol, any size of picture, and nothing left changed behind."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mobileclip.config import config_of
from mobileclip.dense import evaluate, predictor
from mobileclip.dense.config import DenseConfig
from mobileclip.dense.evaluation import fixed
from mobileclip.dense.inference import (
    Fixed,
    Mirrored,
    Whole,
    Windows,
    aligned,
    best_class,
    kept_ratio,
    mean_depth,
    window_starts,
)
from mobileclip.dense.model import DenseModel, build
from mobileclip.dense.predictor import MULTI_SCALE
from mobileclip.dense.samples import Depths, Detected, Sample, Segmented
from mobileclip.errors import DataError, ImageError, MobileClipError, UnknownName

LABELS = ("sky", "road", "tree", "otter")


def model_of(head: str, size: tuple[int, int] = (64, 64)) -> DenseModel:
    torch.manual_seed(0)
    labels = () if head.startswith("depth") else LABELS
    args = {"width": 32, "hidden": 64} if head == "mask_rcnn" else {}
    return build(DenseConfig(encoder=config_of("nano"), head=head, args=args, size=size, labels=labels))


@pytest.fixture(scope="module")
def segmenter() -> DenseModel:
    return model_of("semfpn")


@pytest.fixture(scope="module")
def measurer() -> DenseModel:
    return model_of("depth")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def pixels(batch: Tensor) -> Tensor:
    """A net whose answer at a pixel is the pixel: what is known of it is known of any net."""
    return batch.float()


@pytest.mark.parametrize(
    ("size", "short", "long", "expected"),
    [
        ((480, 640), 512, 2048, (512, 683)),
        ((640, 480), 512, 2048, (683, 512)),
        ((100, 1000), 512, 2048, (205, 2048)),
        ((1, 1), 512, 2048, (512, 512)),
        ((1, 12000), 512, 2048, (1, 2048)),
        ((800, 1333), 800, 1333, (800, 1333)),
    ],
)
def test_sizes(size: tuple[int, int], short: int, long: int, expected: tuple[int, int]) -> None:
    assert kept_ratio(size, short, long) == expected


def test_alignment_and_windows() -> None:
    assert [aligned(side) for side in (1, 32, 33, 683)] == [32, 32, 64, 704]
    assert window_starts(683, 512, 256) == [0, 171]
    assert window_starts(512, 512, 256) == [0]
    assert window_starts(1024, 512, 341) == [0, 341, 512]
    assert window_starts(640, 480, 160) == [0, 160], "NYUv2's two shifted windows"


def test_a_view_sees_the_picture_at_its_size() -> None:
    seen: list[tuple[int, ...]] = []

    def net(batch: Tensor) -> Tensor:
        seen.append(tuple(batch.shape))
        assert batch.dtype == torch.uint8
        return batch.float()[:, :, ::4, ::4]

    image = picture(48, 64)
    Whole(short=64, long=256)(net, image)
    Fixed(size=(96, 32))(net, image)
    answer = Windows(short=64, long=256, crop=(64, 64), stride=(32, 32))(net, image)
    assert seen == [(1, 3, 64, 96), (1, 3, 96, 32), (2, 3, 64, 64)]
    assert answer.shape == (3, 64, 85)


@pytest.mark.parametrize("shape", [(64, 64), (64, 200), (150, 70), (20, 100)])
@pytest.mark.parametrize("stride", [(32, 32), (43, 64), None])
def test_windows_cover_every_pixel_and_average_to_what_all_agree_on(
    shape: tuple[int, int], stride: tuple[int, int] | None
) -> None:
    image = picture(*shape)
    view = Windows(short=min(shape), long=max(shape), crop=(64, 64), stride=stride)
    assert torch.equal(view(pixels, image).round().to(torch.uint8), torch.from_numpy(image).permute(2, 0, 1))


def test_windows_weigh_overlaps_alike() -> None:
    numbers = iter(range(10))

    def net(batch: Tensor) -> Tensor:
        return torch.stack([torch.full((1, 64, 64), float(next(numbers))) for _ in batch])

    answer = Windows(short=64, long=96, crop=(64, 64), stride=(32, 32))(net, picture(64, 96))
    assert answer[0, 0].tolist() == [0.0] * 32 + [0.5] * 32 + [1.0] * 32


def test_mirrored_answers_come_back() -> None:
    image = picture(32, 64)
    view = Fixed(size=(32, 64))
    assert torch.equal(Mirrored(view=view)(pixels, image), view(pixels, image))


def test_best_class_is_of_enlarged_logits() -> None:
    draw = torch.Generator().manual_seed(0)
    maps, other = (torch.randn(7, *size, generator=draw) for size in ((9, 11), (5, 5)))
    expected = interpolate(maps[None], (50, 41), mode="bilinear", align_corners=False)[0]
    assert np.array_equal(best_class([maps], (50, 41)), expected.argmax(0).numpy())
    both = expected.softmax(0) + interpolate(other[None], (50, 41), mode="bilinear")[0].softmax(0)
    assert np.array_equal(best_class([maps, other], (50, 41)), both.argmax(0).numpy())


def test_bands_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    maps, other = (torch.randn(5, *size, generator=draw) for size in ((9, 11), (6, 5)))
    depth = torch.rand(1, 9, 11, generator=draw)
    whole = best_class([maps, other], (50, 41)), mean_depth([depth], (50, 41))
    monkeypatch.setattr("mobileclip.dense.inference.BAND", 41 * 5 * 3)
    assert np.array_equal(best_class([maps, other], (50, 41)), whole[0])
    assert np.allclose(mean_depth([depth], (50, 41)), whole[1], atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (64, 64), (50, 97)])
@pytest.mark.parametrize(
    "options", [{}, {"mode": "slide"}, {"mode": "fixed"}, {"scales": (0.5, 1.0), "flip": True}], ids=str
)
def test_every_protocol_answers_for_every_pixel(
    segmenter: DenseModel, measurer: DenseModel, shape: tuple[int, int], options: dict
) -> None:
    said = predictor(segmenter, **options)(picture(*shape))
    assert isinstance(said, Segmented)
    assert (said.labels.shape, said.labels.dtype) == (shape, np.uint8)
    assert said.labels.max() < len(LABELS)
    deep = predictor(measurer, **options)(picture(*shape))
    assert isinstance(deep, Depths)
    assert (deep.metres.shape, deep.metres.dtype) == (shape, np.float32)
    assert 0 <= deep.metres.min() <= deep.metres.max() <= 10


def test_a_picture_of_the_own_size_is_one_plain_pass(segmenter: DenseModel, measurer: DenseModel) -> None:
    image = picture(64, 64)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        logits = interpolate(segmenter(x), (64, 64), mode="bilinear")
        depth = interpolate(measurer(x), (64, 64), mode="bilinear")
    for mode in ("whole", "slide", "fixed"):
        assert np.array_equal(predictor(segmenter, mode)(image).labels, logits[0].argmax(0).numpy())
        assert np.allclose(predictor(measurer, mode)(image).metres, depth[0, 0].numpy(), atol=1e-5)


def test_flip_makes_mirrored_pictures_mirrored_answers(measurer: DenseModel) -> None:
    image = picture(64, 96)
    run = predictor(measurer, flip=True)
    assert np.allclose(run(image).metres[:, ::-1], run(np.ascontiguousarray(image[:, ::-1])).metres, atol=1e-5)
    assert not np.allclose(run(image).metres, predictor(measurer)(image).metres, atol=1e-6)


def test_depth_slides_over_two_squares(measurer: DenseModel) -> None:
    (view,) = predictor(measurer, "slide", size=(64, 96))._views
    assert view == Windows(short=64, long=256, crop=(64, 64), stride=None)


def test_sizes_of_many_scales(segmenter: DenseModel) -> None:
    views = predictor(segmenter, scales=MULTI_SCALE, flip=True)._views
    assert len(views) == 12
    assert list(views[:3]) == [
        Whole(short=32, long=128),
        Mirrored(view=Whole(short=32, long=128)),
        Whole(short=48, long=192),
    ]


def test_a_model_in_training_is_put_back(segmenter: DenseModel) -> None:
    expected = predictor(segmenter)(picture(40, 50)).labels
    segmenter.train()
    segmenter.encoder.eval()
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    try:
        assert np.array_equal(predictor(segmenter)(picture(40, 50)).labels, expected)
        assert segmenter.head.training
        assert not segmenter.encoder.training
        assert all(torch.equal(value, before[name]) for name, value in segmenter.state_dict().items())
        assert all(one.requires_grad for one in segmenter.parameters())
    finally:
        segmenter.eval()


class Pictures:
    """A set in memory; picture 2 cannot be read where `broken`."""

    name = "pictures"
    category_ids = ()
    fingerprint = "0"

    def __init__(self, task: str, broken: bool = False, count: int = 5) -> None:
        self.task = task
        self.labels = LABELS if task == "segmentation" else ()
        self.broken = broken
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if self.broken and index == 2:
            raise ImageError("2.jpg is damaged.")
        image = picture(40 + index, 60, index)
        if self.task == "segmentation":
            return Sample(name=f"{index}.jpg", image=image, labels=image[..., 0] % 4)
        return Sample(name=f"{index}.jpg", image=image, depth=image[..., 0] / np.float32(50))


def test_evaluating(segmenter: DenseModel, measurer: DenseModel, tmp_path) -> None:
    told = []
    report = evaluate(
        predictor(segmenter), Pictures("segmentation"), keep=(1, 3), progress=lambda *done: told.append(done)
    )
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    assert list(report.figures) == ["mIoU", "aAcc", "mAcc"]
    assert (report.metric, report.better, report.n, report.lost) == ("mIoU", "higher", 5, ())
    assert 0 < report.value < 0.5
    assert [sample.name for sample, _ in report.kept] == ["1.jpg", "3.jpg"]
    assert np.array_equal(report.kept[0][1].labels, predictor(segmenter)(picture(41, 60, 1)).labels)
    files = report.write(tmp_path)
    assert [path.name for path in files] == ["report.json", "per_class.csv", "confusion.csv"]
    assert (tmp_path / "confusion.csv").read_text().startswith("truth \\ prediction,sky,road,tree,otter\nsky,")
    assert len((tmp_path / "per_class.csv").read_text().splitlines()) == 5
    deep = evaluate(predictor(measurer), Pictures("depth"), limit=3)
    assert (deep.metric, deep.better, deep.n) == ("rmse", "lower", 3)
    assert deep.beats(deep.value + 1)
    assert not deep.beats(deep)
    assert report.beats(report.value - 0.01)
    assert report.beats(float("nan"))
    assert [path.name for path in deep.write(tmp_path)] == ["report.json", "per_picture.csv"]


def test_pictures_that_cannot_be_read(segmenter: DenseModel) -> None:
    wrong = r"^pictures: 1 of 5 pictures are missing or cannot be read \(2\.jpg is damaged\): at most 0\.0% may be"
    with pytest.raises(DataError, match=wrong):
        evaluate(predictor(segmenter), Pictures("segmentation", broken=True))
    report = evaluate(predictor(segmenter), Pictures("segmentation", broken=True), lost_share=0.5)
    assert (report.n, report.lost) == (4, ("2.jpg is damaged.",))


def test_fixed_pictures_are_spread() -> None:
    assert fixed(2000, 4) == (250, 750, 1250, 1750)
    assert fixed(3, 8) == (0, 1, 2)
    assert fixed(0, 8) == ()


def test_what_does_not_fit(segmenter: DenseModel, measurer: DenseModel) -> None:
    with pytest.raises(
        DataError, match=r"does depth, and pictures is a set for segmentation: open the set for depth, o"
    ):
        evaluate(predictor(measurer), Pictures("segmentation"))
    other = Pictures("segmentation")
    other.labels = ("sky", "way", "tree")
    wrong = (
        r"knows 4 classes and pictures has 3, the first that differs is 1: 'road' and 'way': evaluate on a set of the"
    )
    with pytest.raises(DataError, match=wrong):
        evaluate(predictor(segmenter), other)
    with pytest.raises(
        DataError, match=r"^pictures gives no picture to measure: take a set that is not empty, and a li"
    ):
        evaluate(predictor(segmenter), Pictures("segmentation", count=0))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"crop": 64}, r"^crop and stride are of mode 'slide', not of 'whole': leave them out, or take 'slide'\.$"),
        ({"mode": "fixed", "scales": (0.5,)}, r"^mode 'fixed' has one size: leave the scales out, or take 'whole' or"),
        ({"scales": ()}, r"^scales are \[\]: one or more from 0\.1 to 4 are allowed\.$"),
        ({"scales": (9,)}, r"^scales are \[9\]: one or more from 0\.1 to 4 are allowed\.$"),
        ({"mode": "slide", "crop": 50}, r"^windows of 50 x 50 every \(25, 25\) pixels: sides must be multiples of 32"),
        ({"mode": "slide", "stride": 0}, r"^windows of 64 x 64 every \(0, 0\) pixels: .* strides at least 1\.$"),
        ({"mode": "slide", "stride": 65}, r"^windows of 64 x 64 every 65 and 65 pixels leave gaps: strides may be at"),
    ],
)
def test_refusals(segmenter: DenseModel, options: dict, text: str) -> None:
    with pytest.raises(MobileClipError, match=text):
        predictor(segmenter, **options)


def test_unknown_mode(segmenter: DenseModel) -> None:
    with pytest.raises(UnknownName, match=r"^unknown mode 'slid': did you mean 'slide'\? Known: fixed, slide, whole\."):
        predictor(segmenter, "slid")


@pytest.fixture(scope="module", params=["onestage", "mask_rcnn"])
def detector(request: pytest.FixtureRequest) -> DenseModel:
    return model_of(request.param, (64, 96))


@pytest.mark.parametrize("mode", ["whole", "fixed"])
@pytest.mark.parametrize("shape", [(1, 1), (50, 200), (96, 64)])
def test_detection_answers_in_the_pictures_own_pixels(detector: DenseModel, shape: tuple[int, int], mode: str) -> None:
    found = predictor(detector, mode, score=0.0)(picture(*shape))
    assert isinstance(found, Detected)
    count = len(found.scores)
    assert count <= 100
    assert (found.boxes.shape, found.classes.shape, found.masks.shape) == ((count, 4), (count,), (count, *shape))
    assert (np.diff(found.scores) <= 0).all()
    if count:
        assert found.boxes.min() >= 0
        assert (found.boxes[:, 2:] <= (shape[1], shape[0])).all()
        assert found.classes.max() < len(LABELS)


def test_detection_keeps_what_scores_enough(detector: DenseModel) -> None:
    image = picture(64, 96)
    every = predictor(detector, score=0.0)(image).scores
    assert len(every)
    middle = float(np.median(every))
    assert (predictor(detector, score=middle)(image).scores > middle).all()


def test_a_deployed_detector_is_fixed(detector: DenseModel) -> None:
    static = DenseModel(detector.config, detector.encoder, detector.head.deployed())
    found = predictor(static, "fixed", score=0.0)(picture(50, 70))
    expected = predictor(detector, "fixed", score=0.0)(picture(50, 70))
    best = min(len(found.scores), len(expected.scores), 5)
    assert best
    if detector.config.head == "onestage":
        assert np.allclose(found.boxes, expected.boxes, atol=1e-2)
    else:
        with pytest.raises(
            MobileClipError, match=r"^a deployed Mask R-CNN has one size: take mode 'fixed', or the mod"
        ):
            predictor(static)


def test_detection_looks_once(detector: DenseModel) -> None:
    for options in ({"mode": "slide"}, {"flip": True}, {"scales": (0.5, 1.0)}):
        with pytest.raises(
            MobileClipError, match=r"^detection looks at a picture once: mode 'whole' or 'fixed' is all"
        ):
            predictor(detector, **options)
