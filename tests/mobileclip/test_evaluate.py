"""Metrics against brute force and open_clip, encoders against the model, whole evaluations on sets made here."""

import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mobileclip.data.ahead import ahead
from mobileclip.errors import DataError, MobileClipError
from mobileclip.evaluate import Report, compare, evaluate, run
from mobileclip.evaluate import retrieval as retrieval_of
from mobileclip.evaluate import zero_shot as zero_shot_of
from mobileclip.evaluate.calibration import calibrate, expected_error, fit_scale, judge
from mobileclip.evaluate.encoder import ModelEncoder, encode_distinct, unit
from mobileclip.evaluate.intervals import clustered, mcnemar, wilson
from mobileclip.evaluate.pictures import Files
from mobileclip.evaluate.retrieval import LOST, Pairs, Ranks, metrics, nearest, pairs_of, ranks
from mobileclip.evaluate.sets import Classification, Retrieval
from mobileclip.evaluate.templates import filled, imagenet_templates
from mobileclip.evaluate.zero_shot import Answers, answer, class_embeddings, confused
from mobileclip.models import Clip, create
from mobileclip.preprocessing import preprocess
from mobileclip.tokenizer import tokenize

RED, GREEN, BLUE = (220, 30, 30), (30, 200, 40), (40, 40, 230)
COLOURS = {"red": RED, "green": GREEN, "blue": BLUE}


class ByColour:
    """An encoder that sees the mean colour of a picture, and the colours that a text names: right by construction."""

    name = "by colour"
    logit_scale = 10.0

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode_images(self, images: Iterable[Image.Image]) -> npt.NDArray[np.float32]:
        return unit([np.asarray(image, np.float32).mean(axis=(0, 1)) for image in images] or np.zeros((0, 3)))

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.texts += texts
        return unit([sum((np.array(c, np.float32) for n, c in COLOURS.items() if n in t), np.zeros(3)) for t in texts])


class Constant(ByColour):
    """Gives one embedding for everything."""

    value = 1.0

    def encode_images(self, images: Iterable[Image.Image]) -> npt.NDArray[np.float32]:
        return unit([[self.value, 0, 0] for _ in images])

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return unit([[self.value, 0, 0] for _ in texts])


class Broken(Constant):
    """Gives NaN for everything."""

    value = float("nan")


def picture(path: Path, colour: tuple[int, int, int], seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-20, 20, (20, 24, 3))
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 classes of 4 pictures; one green picture is among the red ones."""
    root = tmp_path_factory.mktemp("sets") / "colours"
    for name, colour in COLOURS.items():
        for index in range(4):
            odd = name == "red" and index == 3
            picture(root / name / f"{index}.png", GREEN if odd else colour, index)
    return root


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets") / "captioned"
    rows = []
    for index, (name, colour) in enumerate(COLOURS.items()):
        picture(root / "images" / f"{index}.png", colour, index)
        rows.append({"file": f"images/{index}.png", "captions": [f"something {name}", f"{name} paint"]})
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


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


@pytest.mark.parametrize("encoder", [Constant(), Broken()])
def test_an_encoder_that_sees_nothing_scores_nothing(encoder: Constant, colours: Path, captioned: Path) -> None:
    classified, searched = evaluate(encoder, zero_shot=colours, retrieval=captioned).rows()
    assert classified["top1"] == (1 / 3 if encoder.value == 1 else 0)  # "always class 0"
    assert classified["not_finite"] == (0 if encoder.value == 1 else 12)
    assert (classified["calibration"] is None) is (encoder.value != 1)
    assert searched["image_to_text"]["R@1"] == searched["text_to_image"]["R@1"] == 0
    json.dumps([classified, searched], allow_nan=False)


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


def test_templates_of_open_clip() -> None:
    for ours, theirs in zip(imagenet_templates(), open_clip.OPENAI_IMAGENET_TEMPLATES, strict=True):
        assert filled(ours, "cat {c}") == theirs("cat {c}")


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


def test_intervals() -> None:
    assert wilson(5, 20) == pytest.approx((0.1119, 0.4687), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == pytest.approx(1)
    every = np.arange(400)
    right = np.random.default_rng(0).random(400) < 0.3
    alone, apart = wilson(right.sum(), 400), clustered(right, every)
    assert apart == pytest.approx(alone, abs=1e-3)
    together = clustered(np.repeat(right, 5), np.repeat(every, 5))  # five equal answers are one
    assert together == pytest.approx(alone, abs=1e-3)
    assert clustered(np.ones(50, np.bool_), np.repeat(np.arange(10), 5)) == wilson(10, 10)
    assert mcnemar(0, 0) == mcnemar(7, 7) == 1.0
    assert mcnemar(1, 9) == pytest.approx(0.021484375)  # 2 * (1 + 10) / 2**10
    assert 0 <= mcnemar(0, 5000) < 1e-300


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000))
def test_clustered_intervals_hold(seed: int) -> None:
    generator = np.random.default_rng(seed)
    right = generator.random(60) < generator.random()
    low, high = clustered(right, generator.integers(0, 12, 60))
    assert 0 <= low <= right.mean() <= high <= 1


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


def test_unit_length() -> None:
    found = unit([[3, 4], [0, 0], [1e30, 1e30], [1e-30, 0], [np.inf, 1], [np.nan, 1]])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 0, 1, 1, np.nan, np.nan], rtol=1e-6)
    assert unit(np.zeros((0, 4))).shape == (0, 4)


# Encoders


def test_the_models_encoder_is_the_model(nano: Clip) -> None:
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (70 + n, 90, 3), np.uint8)) for n in range(5)]
    texts = ["a cat", "zwei Hunde", "", "word " * 200]
    encoder = ModelEncoder(nano, batch=2)
    with torch.no_grad():
        pixels = torch.stack([preprocess(nano)(image) for image in images])
        expected = nano.encode_image(pixels, True).numpy(), nano.encode_text(tokenize(texts), True).numpy()
    np.testing.assert_allclose(encoder.encode_images(iter(images)), expected[0], atol=1e-5)
    np.testing.assert_allclose(encoder.encode_texts(texts), expected[1], atol=1e-5)
    assert encoder.logit_scale == pytest.approx(1 / 0.07)
    assert encoder.name == "nano (seeded:nano:0)"
    assert encoder.encode_images([]).shape == (0, 32)
    assert encoder.encode_texts([]).shape == (0, 32)
    rough = ModelEncoder(nano, bf16=True).encode_images(images[:1])
    assert (rough * expected[0][:1]).sum(axis=1).min() > 0.99
    assert rough.dtype == np.float32


def test_statistics_of_a_model_that_wants_them() -> None:
    model = create("nano", seed=0)
    from dataclasses import replace

    statistics = replace(model.config.preprocess, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    model.config = replace(model.config, preprocess=statistics)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8))
    with torch.no_grad():
        expected = model.encode_image(preprocess(model)(image).unsqueeze(0), True).numpy()
    np.testing.assert_allclose(ModelEncoder(model).encode_images([image]), expected, atol=1e-6)


def test_training_goes_on_as_it_was() -> None:
    model = create("nano", seed=0)
    model.train()
    model.image.stem.eval()  # a part that is frozen
    before = {name: module.training for name, module in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    encoder = ModelEncoder(model)
    image = Image.new("RGB", (64, 64), RED)
    first, second = encoder.encode_images([image] * 3), encoder.encode_images([image] * 3)
    np.testing.assert_array_equal(first, second)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with pytest.raises(ZeroDivisionError):
        encoder.encode_images(Image.new("RGB", (1 // 0, 1)) for _ in range(2))
    assert {name: module.training for name, module in model.named_modules()} == before


def test_encoder_mistakes() -> None:
    with pytest.raises(MobileClipError, match="a batch of 0 holds nothing: give at least 1"):
        ModelEncoder(create("nano"), batch=0)
    with pytest.raises(MobileClipError, match="nano_swin has no text tower: evaluate a model with both towers"):
        ModelEncoder(create("nano_swin")).encode_texts(["a"])


def test_equal_texts_are_encoded_once() -> None:
    encoder = ByColour()
    found = encode_distinct(encoder, ["red", "blue", "red", "red"])
    assert encoder.texts == ["red", "blue"]
    np.testing.assert_array_equal(found, ByColour().encode_texts(["red", "blue", "red", "red"]))


# Threads ahead of the model


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers()), st.integers(1, 4), st.integers(1, 8))
def test_ahead_is_map(items: list[int], threads: int, depth: int) -> None:
    assert list(ahead(lambda item: item + 1, items, threads=threads, depth=depth)) == [item + 1 for item in items]


def test_ahead_is_bounded_and_stops() -> None:
    taken = []

    def endless() -> Iterator[int]:
        number = 0
        while True:
            taken.append(number)
            yield number
            number += 1

    results = ahead(lambda item: item, endless(), threads=2, depth=5)
    assert next(results) == 0
    assert len(taken) == 6
    results.close()  # type: ignore[attr-defined]
    time.sleep(0.01)
    assert len(taken) == 6
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_ahead_hands_on_what_is_raised() -> None:
    results = ahead(lambda item: 1 // item, [1, 1, 0, 1])
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


# Whole evaluations


def test_zero_shot_from_a_folder(colours: Path) -> None:
    (found,) = evaluate(ByColour(), zero_shot=colours).rows()
    assert found["set"] == "colours"
    assert found["task"] == "zero-shot"
    assert found["encoder"] == "by colour"
    assert (found["n"], found["classes"], found["templates"], found["lost"]) == (12, 3, 1, 0)
    assert found["top1"] == pytest.approx(11 / 12)
    assert found["chance"] == pytest.approx(1 / 3)
    assert found["confused"] == [{"true": "red", "predicted": "green", "count": 1, "share": 0.25}]
    assert [entry["class"] for entry in found["per_class"]] == ["blue", "green", "red"]
    assert found["per_class"][2] == {"class": "red", "accuracy": 0.75, "n": 4}
    assert found["calibration"]["logit_scale"] == 10.0
    assert found["images_per_second"] > 0
    json.dumps(found, allow_nan=False)


def test_retrieval_from_a_folder(captioned: Path) -> None:
    (found,) = run(ByColour(), retrieval=captioned)
    assert (found["task"], found["n"], found["texts"]) == ("retrieval", 3, 6)
    assert found["image_to_text"]["R@1"] == found["text_to_image"]["R@1"] == 1
    assert found["image_to_text"]["R@5"] is None
    json.dumps(found, allow_nan=False)


def test_limits(colours: Path, captioned: Path) -> None:
    classified, searched = run(ByColour(), zero_shot=colours, retrieval=captioned, limit=2)
    assert (classified["n"], searched["n"], searched["texts"]) == (2, 2, 4)
    assert [entry["n"] for entry in classified["per_class"]] == [1, 1]  # of two classes, not two of one
    with pytest.raises(DataError, match="a limit of 0 leaves no picture: give at least 1, or leave it out"):
        evaluate(ByColour(), zero_shot=colours, limit=0)


def test_nothing_to_evaluate_on() -> None:
    with pytest.raises(
        DataError, match=r"nothing to evaluate on: give a set to classify \(zero-shot\), a set to search"
    ):
        evaluate(ByColour())


def test_broken_pictures_are_counted_up_to_a_share(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{index}.png", RED, index) for index in range(20)]
    paths[7].write_bytes(b"not a picture")
    what = Retrieval(name="few", pictures=Files(tuple(paths)), captions=tuple((f"red {i}",) for i in range(20)))
    (found,) = evaluate(ByColour(), retrieval=what, lost_share=0.05).rows()
    assert (found["n"], found["lost"], found["texts"]) == (19, 1, 19)
    with pytest.raises(
        DataError,
        match=r"few: 1 of 20 pictures are missing or cannot be read \(7\.png: 7\.png is not a picture .*\): at most "
        r"1\.0% may be; get them again, or allow a larger share",
    ):
        evaluate(ByColour(), retrieval=what)
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(DataError, match="few: 20 of 20 pictures"):
        evaluate(ByColour(), retrieval=what, lost_share=1.0)


def test_progress_is_told(tmp_path: Path) -> None:
    class Slow(Files):
        def read(self, index: int) -> Image.Image:
            time.sleep(0.6)
            return super().read(index)

    paths = tuple(picture(tmp_path / f"{index}.png", RED, index) for index in range(10))
    lines: list[str] = []
    what = Retrieval(name="slow", pictures=Slow(paths), captions=tuple((f"red {i}",) for i in range(10)))
    evaluate(ByColour(), retrieval=what, progress=lines.append)
    assert any(line.startswith("slow: ") and " of 10 pictures" in line for line in lines)
    assert "slow: 10 texts" in lines


def test_before_and_after(colours: Path, captioned: Path) -> None:
    class Colder(ByColour):
        name = "colder"

        def encode_images(self, images: Iterable[Image.Image]) -> npt.NDArray[np.float32]:
            return unit(super().encode_images(images) * [0, 1, 1])  # blind to red

    sets = {"zero_shot": colours, "retrieval": captioned}
    before, after = evaluate(ByColour(), **sets), evaluate(Colder(), **sets)
    for same in compare(before, before):
        assert (same["difference"], same["agreement"], same["p"]) == (0, 1, 1)
        assert same["cosine_min"] == pytest.approx(1)
    classified, searched = compare(before, after)
    assert classified["before"] == "by colour"
    assert classified["after"] == "colder"
    assert classified["right_before"] - classified["right_after"] == pytest.approx(-classified["difference"])
    assert classified["only_before"] == 3
    assert classified["only_after"] == 0
    assert classified["agreement"] == pytest.approx(9 / 12)
    assert classified["p"] == pytest.approx(0.25)
    assert classified["cosine_mean"] < 1
    assert searched["task"] == "retrieval"
    json.dumps([classified, searched], allow_nan=False)


def test_reports_that_cannot_be_compared(colours: Path, captioned: Path) -> None:
    whole, part = evaluate(ByColour(), zero_shot=colours), evaluate(ByColour(), zero_shot=colours, limit=3)
    with pytest.raises(
        DataError, match="colours: 'by colour' and 'by colour' saw other pictures: give both the same limit"
    ):
        compare(whole, part)
    with pytest.raises(DataError, match="were measured on other sets: measure both on the same ones"):
        compare(whole, evaluate(ByColour(), retrieval=captioned))
    wide = Report(encoder="x", results=())
    assert compare(wide, wide) == []


def test_other_lengths_have_no_cosine(colours: Path, nano: Clip) -> None:
    what = Classification(
        name="one",
        pictures=Files((colours / "red" / "0.png",)),
        labels=np.zeros(1, np.int64),
        classes=("red", "blue"),
        templates=("{}",),
    )
    (found,) = compare(evaluate(ByColour(), zero_shot=what), evaluate(ModelEncoder(nano), zero_shot=what))
    assert found["cosine_mean"] is found["cosine_min"] is None


def test_real_photos_are_at_chance_for_a_seeded_model(photos: Path, nano: Clip) -> None:
    (found,) = run(ModelEncoder(nano), retrieval=photos.parent)
    assert (found["n"], found["lost"], found["set"]) == (111, 0, "photos")
    assert found["text_to_image"]["n"] == found["texts"] == 555
    for way in ("image_to_text", "text_to_image"):
        assert found[way]["R@1"] < 0.06
        assert found[way]["R@1"] <= found[way]["R@5"] <= found[way]["R@10"] < 0.25
        assert found[way]["not_finite"] == 0
    assert 35 < found["text_to_image"]["median_rank"] < 75  # 56 by chance


def test_scenes_are_a_set_of_both_kinds(nano: Clip, tmp_path: Path) -> None:
    from mobileclip.data.scenes import write_scenes

    val = write_scenes(tmp_path / "scenes", count=4, val_count=12, size=48, dense=False) / "val"
    classified, searched = run(ModelEncoder(nano), zero_shot=val, retrieval=val)
    assert classified["n"] == searched["n"] == 12
    assert classified["classes"] == len((val / "classes.txt").read_text().split("\n")) - 1
    assert classified["templates"] == len((val / "templates.txt").read_text().split("\n")) - 1
    assert classified["lost"] == searched["lost"] == searched["left_out"] == 0
