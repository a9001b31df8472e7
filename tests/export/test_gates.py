"""What users get of a quantised artifact: numbers of arrays, of runtimes, of sets; a missed limit says so plainly."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.gate_sets import ViewEncoder, ViewPredictor, lost, measure_dense, measure_set
from export.gates import (
    LIMITS,
    Limits,
    depths,
    embeddings,
    judge,
    labels,
    measure,
    new_loose,
    objects,
    slowdown,
)
from export.pictures import pictures
from export.quantise import quantised
from export.runtimes import open_artifact
from export.subjects import ClipSubject, DenseSubject
from export.targets import QUANTISED, Quantisation
from export.to_onnx import lower
from export.views import View
from mobileclip.checkpoint import load
from mobileclip.config import config_of
from mobileclip.data.scenes import write_scenes
from mobileclip.dense.config import DenseConfig
from mobileclip.dense.data.sets import open_set
from mobileclip.dense.model import build
from mobileclip.dense.predictor import predictor
from mobileclip.errors import DataError
from mobileclip.evaluate.encoder import ModelEncoder
from mobileclip.images import load_images, read_image
from mobileclip.models import seed_weights


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes with classes, captions and annotations."""
    return write_scenes(tmp_path_factory.mktemp("scenes") / "scenes", count=4, val_count=16, size=64, dense=True)


@pytest.fixture(scope="module")
def clip() -> ClipSubject:
    return ClipSubject(load("seeded:nano_scenes:2"), kinds=("image",))


@pytest.fixture(scope="module")
def view(clip: ClipSubject) -> View:
    return clip.deployed()["image"]


@pytest.fixture(scope="module")
def inputs(scenes: Path, clip: ClipSubject) -> list[torch.Tensor]:
    fit = pictures(clip.about(), "image")
    return [fit(read_image(path)) for path in load_images(scenes / "val" / "images")]


def specs(view: View) -> list[dict[str, Any]]:
    return [spec.as_dict() for spec in view.outputs]


def test_numbers_of_embeddings() -> None:
    before = np.eye(4, dtype=np.float32)
    assert embeddings(3 * before, before) == {"cosine_mean": 1.0, "cosine_p1": 1.0, "index": 1.0}
    after = before.copy()
    after[0] = [0, 1, 0, 0]  # found as another picture
    after[3] = np.nan
    found = embeddings(after, before, texts=before)
    assert found["cosine_mean"] == 0.5
    assert found["index"] == found["agreement"] == 0.5
    twice = np.repeat(before, 2, axis=0)  # the same picture twice: either is right
    assert embeddings(twice, twice)["index"] == 1.0
    assert embeddings(np.ones((3, 2)), np.eye(3, 2) + 1)["index"] < 1


def test_numbers_of_maps() -> None:
    a = np.array([[0, 0, 1, 1]])
    assert labels([a], [a]) == {"labels": 1.0, "labels_equal": 1.0}
    found = labels([np.array([[0, 0, 1, 0]])], [a])
    assert found["labels_equal"] == 0.75
    assert found["labels"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert depths([np.array([2.0, 4.4])], [np.array([2.0, 4.0])])["depth"] == pytest.approx(0.4 / 20**0.5)
    boxes = np.array([[0, 0, 8, 8], [8, 8, 16, 16]], np.float32)
    both = [boxes, np.array([0.9, 0.8]), np.array([1, 2]), np.ones((2, 4, 4))]
    one = [boxes[:1], np.array([0.9]), np.array([1]), np.ones((1, 4, 4))]
    assert objects([both, one], [both, both])["objects"] == 0.75


def test_loose_operators_and_time() -> None:
    def entry(**counts: int) -> dict[str, Any]:
        return {
            "loose": [{"operator": name, "count": count, "compute": name != "view"} for name, count in counts.items()]
        }

    assert new_loose(entry(conv=2, add=1, view=9), entry(conv=2, view=1)) == ["add"]
    assert new_loose(entry(conv=3), entry(conv=2)) == ["conv"]
    ratio, low, high = slowdown([2.0, 2.1, 1.9, 2.0], [1.0, 1.1, 0.9, 1.0])
    assert low <= ratio <= high
    assert ratio == 2.0
    verdict = judge({}, Limits(), pictures=4, loose=["add"], slower=(ratio, low, high))
    assert verdict.failures[0] == "outside of the delegates, unlike in floats, are add."
    assert verdict.failures[1].startswith("it takes 2.00 times as long as in floats (95 % interval 1.")
    assert judge({}, Limits(), pictures=4, slower=(1.1, 0.95, 1.3)).passed


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("cosine_mean", 0.9, "embeddings have a mean cosine of 0.9000 to the float model's where 0.99 is needed."),
        (
            "cosine_p1",
            0.5,
            "one embedding in a hundred has a cosine of 0.5000 or less to the float model's where 0.97 is",
        ),
        ("agreement", 0.9, "90.0% of the pictures get the text that the float model gives them where 95.0% must."),
        ("index", 0.5, "50.0% of the pictures are found first in an index of float embeddings where 98.0% must be."),
        ("zero_shot_lost", 0.02, "zero-shot top-1 falls by 2.0% where 1.0% is allowed."),
        ("image_to_text_lost", 0.02, "R@1 of pictures falls by 2.0% where 1.0% is allowed."),
        ("text_to_image_lost", 0.02, "R@1 of texts falls by 2.0% where 1.0% is allowed."),
        ("labels", 0.5, "labels have an mIoU of 0.500 with the float model's where 0.9 is needed."),
        ("miou_lost", 0.02, "mIoU falls by 2.0% where 1.0% is allowed."),
        ("box_ap_lost", 0.02, "the AP of boxes falls by 2.0% where 1.0% is allowed."),
        ("mask_ap_lost", 0.02, "the AP of masks falls by 2.0% where 1.0% is allowed."),
        ("objects", 0.5, "50.0% of the float model's objects are found again where 80.0% must be."),
        ("depth", 0.2, "depths are 20.0% away from the float model's where 5.0% is allowed."),
        ("rmse_rise", 0.2, "the RMSE of depths rises by 20.0% where 3.0% is allowed."),
        ("index", float("nan"), "nan% of the pictures are found first"),
    ],
)
def test_every_limit_has_its_sentence(name: str, value: float, sentence: str) -> None:
    verdict = judge({name: value, "other": 1.0}, LIMITS["w8a8"], pictures=3)
    assert not verdict.passed
    assert len(verdict.failures) == 1
    assert verdict.failures[0].startswith(sentence)
    assert verdict.told == {"other": 1.0}
    assert json.loads(json.dumps(verdict.as_dict()))["numbers"][0]["name"] == name


def test_limits_are_by_precision_and_may_be_changed() -> None:
    assert set(LIMITS) == set(QUANTISED)
    assert judge({"index": 0.6}, replace(LIMITS["w8a8"], index=0.5), pictures=1).passed
    assert not judge({"index": 0.4}, replace(LIMITS["w8a8"], index=0.5), pictures=1).passed


def test_an_artifact_in_floats_keeps_everything(
    view: View, inputs: list[torch.Tensor], clip: ClipSubject, tmp_path: Path
) -> None:
    lower(view, tmp_path / "image.onnx", "apple")
    texts = ModelEncoder(clip.model).encode_texts(["a red cube", "a ball", "two rings"])
    numbers = measure(open_artifact(tmp_path / "image.onnx", "onnx", 1), view, inputs, specs(view), texts=texts)
    verdict = judge(numbers, LIMITS["w8"], pictures=len(inputs))
    assert verdict.passed, verdict.failures
    assert {number.name for number in verdict.numbers} == {
        "cosine_mean",
        "cosine_p1",
        "agreement",
        "index",
        "new_loose",
    }


def test_ranges_of_other_pictures_are_a_missed_gate(view: View, inputs: list[torch.Tensor], tmp_path: Path) -> None:
    """Calibrated on nearly black pictures, in onnxruntime."""
    module = quantised(view, Quantisation(precision="w8a8", inputs=[0.0002 * x for x in inputs[:8]]))
    lower(view, tmp_path / "image.onnx", "apple", module)
    session = open_artifact(tmp_path / "image.onnx", "onnx", 1)
    verdict = judge(measure(session, view, inputs, specs(view)), LIMITS["w8a8"], pictures=len(inputs))
    assert not verdict.passed
    assert any(
        "are found first in an index of float embeddings where 98.0% must be" in said for said in verdict.failures
    )


def test_palettes_of_four_bits_are_further_away_than_their_betters(view: View, inputs: list[torch.Tensor]) -> None:
    found = {}
    for precision in ("w8", "w4p"):
        module = quantised(view, Quantisation(precision=precision))
        found[precision] = measure(module, view, inputs, specs(view))
    assert found["w4p"]["cosine_mean"] < found["w8"]["cosine_mean"]
    verdict = judge(found["w4p"], replace(LIMITS["w6p"], cosine_mean=0.99999), pictures=len(inputs))
    assert verdict.failures[0].startswith("embeddings have a mean cosine of 0.9")


def test_a_set_with_classes_and_captions(clip: ClipSubject, view: View, scenes: Path) -> None:
    floats, fit = ModelEncoder(clip.model), pictures(clip.about(), "image")
    numbers, seen = measure_set(ViewEncoder(view, fit, floats), floats, scenes / "val")
    assert seen == 16
    assert abs(numbers["zero_shot_lost"]) < 1e-6
    assert numbers["zero_shot_before"] == numbers["zero_shot_after"]
    assert numbers["cosine_mean"] == pytest.approx(1, abs=1e-5)
    assert abs(numbers["image_to_text_lost"]) <= 1 / 16
    verdict = judge(numbers, replace(LIMITS["w8a8"], retrieval=0.1), pictures=seen)
    assert verdict.passed, verdict.failures
    with pytest.raises(DataError, match="is no set to judge with"):
        measure_set(ViewEncoder(view, fit, floats), floats, scenes / "nothing")


@pytest.mark.parametrize(
    ("task", "head"), [("segmentation", "semfpn"), ("depth", "depth_phone"), ("detection", "onestage")]
)
def test_an_annotated_set(task: Any, head: str, scenes: Path) -> None:
    truth = open_set(str(scenes), task, "val")
    args = {"neck": 16, "width": 16} if head == "semfpn" else {"width": 16}
    config = DenseConfig(
        encoder=config_of("nano_scenes"),
        head=head,
        args=args,
        size=(64, 64),
        labels=tuple(truth.labels),
        category_ids=tuple(truth.category_ids),
    )
    model = build(config)
    seed_weights(model, 1)
    subject = DenseSubject(model)
    view = subject.deployed()[task]
    names = [spec.name for spec in view.outputs]
    mine = ViewPredictor(view, subject.about(), subject.words(()), names)
    numbers, seen = measure_dense(mine, predictor(model, "fixed"), truth, limit=6)
    assert seen == 6
    verdict = judge(numbers, LIMITS["w8a8"], pictures=seen)
    assert verdict.passed, verdict.failures
    assert len(verdict.numbers) > 1
    inputs = [pictures(subject.about(), task)(read_image(path)) for path in load_images(scenes / "val" / "images")[:3]]
    alone = measure(view, view, inputs, specs(view))
    assert judge(alone, LIMITS["w8a8"], pictures=3).passed


def test_what_a_report_lost(scenes: Path) -> None:
    from dataclasses import replace

    from mobileclip.dense.evaluation import Report

    before = Report(
        subject="a",
        set="b",
        task="depth",
        fingerprint="",
        n=1,
        lost=(),
        seconds=0.0,
        better="lower",
        figures={"rmse": 2.0},
    )
    after = replace(before, figures={"rmse": 2.5})
    assert lost(after, before) == {"rmse_before": 2.0, "rmse_after": 2.5, "rmse_rise": 0.25}
