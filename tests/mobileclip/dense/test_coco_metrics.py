"""COCO's AP against pycocotools on random pictures, and against an AP that was worked out by hand."""

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pycocotools.mask import encode, frPyObjects

from mobileclip.dense.coco_metrics import DetectionMetric, run_lengths
from mobileclip.dense.samples import Detected, Objects, Sample
from mobileclip.errors import DataError, MissingExtra, OutputError

H, W = 150, 160
LABELS, IDS = ("cup", "dog", "car", "kite"), (1, 18, 3, 90)
TWELVE = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


def filled(boxes: np.ndarray) -> np.ndarray:
    """Ellipses in boxes: [N, H, W]."""
    y, x = np.mgrid[:H, :W] + 0.5
    masks = np.zeros((len(boxes), H, W), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        across, down = max(right - left, 1) / 2, max(bottom - top, 1) / 2
        mask[:] = ((x - left) / across - 1) ** 2 + ((y - top) / down - 1) ** 2 <= 1
    return masks


def boxes_of(generator: np.random.Generator, count: int) -> np.ndarray:
    corner = generator.uniform(0, [W * 0.8, H * 0.8], (count, 2))
    size = np.exp(generator.uniform(np.log(6), np.log(140), (count, 2)))
    return np.concatenate([corner, np.minimum(corner + size, [W, H])], 1).astype(np.float32)


def random_pairs(seed: int, count: int) -> list[tuple[Detected, Sample]]:
    """Pictures with and without objects, crowds, small and large things; a class is never in the truth."""
    generator = np.random.default_rng(seed)
    pairs = []
    for index in range(count):
        own = index % 5
        boxes, classes = boxes_of(generator, own), generator.integers(0, 3, own)
        masks = filled(boxes)
        truth = Objects(
            boxes=boxes,
            classes=classes,
            masks=masks,
            crowd=generator.random(own) < 0.25,
            area=masks.sum((1, 2)).astype(np.float32),
        )
        near = (boxes + generator.normal(0, 3, boxes.shape)).clip(0, [W, H, W, H]).astype(np.float32)
        stray = boxes_of(generator, int(generator.integers(0, 6)))
        found = np.concatenate([near, near, stray])
        kinds = np.concatenate([classes, classes, generator.integers(0, 4, len(stray))])
        scores = generator.random(len(found)).astype(np.float32).round(1)  # ties
        order = np.argsort(-scores, kind="stable")
        detected = Detected(boxes=found[order], scores=scores[order], classes=kinds[order], masks=filled(found[order]))
        picture = np.zeros((H, W, 3), np.uint8)
        pairs.append((detected, Sample(name=f"{index}.jpg", image=picture, objects=truth, image_id=100 + index)))
    return pairs


def measured(pairs: list[tuple[Detected, Sample]]) -> DetectionMetric:
    metric = DetectionMetric(LABELS, IDS)
    for detected, sample in pairs:
        metric.add(detected, sample)
    return metric


def oracle(pairs: list[tuple[Detected, Sample]], folder: Path, kind: str) -> Any:
    """pycocotools from start to end, on the files that were written and a truth written here."""
    truth: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    truth["categories"] = [{"id": number, "name": name} for number, name in zip(IDS, LABELS, strict=True)]
    for _, sample in pairs:
        objects = sample.objects
        assert objects is not None
        truth["images"].append({"id": sample.image_id, "height": H, "width": W})
        for place, (left, top, right, bottom) in enumerate(objects.boxes.tolist()):
            code = encode(np.asfortranarray(objects.masks[place].astype(np.uint8)))
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": sample.image_id,
                    "category_id": IDS[int(objects.classes[place])],
                    "bbox": [left, top, right - left, bottom - top],
                    "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                    "area": float(objects.area[place]),
                    "iscrowd": int(objects.crowd[place]),
                }
            )
    (folder / "truth.json").write_text(json.dumps(truth))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "truth.json"))
        evaluator = COCOeval(coco, coco.loadRes(str(folder / f"{kind}.json")), kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_numbers_are_those_of_pycocotools(seed: int, tmp_path: Path) -> None:
    pairs = random_pairs(seed, 15)
    metric = measured(pairs)
    metric.write(tmp_path)
    result = metric.result()
    assert result["tools"] == "faster_coco_eval"
    assert list(result["figures"])[:2] == ["box_ap", "mask_ap"]
    assert len(result["figures"]) == 24
    for kind, own in (("bbox", "box"), ("segm", "mask")):
        reference = oracle(pairs, tmp_path, kind)
        ours = [result["figures"][f"{own}_{name}"] for name in TWELVE]
        np.testing.assert_allclose(ours, reference.stats, atol=1e-4)
        assert 0.05 < ours[0] < 0.95
        for row in result["per_class"]:
            place = reference.params.catIds.index(row["category_id"])
            values = reference.eval["precision"][:, :, place, 0, -1]
            np.testing.assert_allclose(row[f"{own}_ap"], values.mean(), atol=1e-4)
            np.testing.assert_allclose(row[f"{own}_ap75"], values[5].mean(), atol=1e-4)


def test_without_faster_coco_eval_pycocotools_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = random_pairs(3, 10)
    fast = measured(pairs).result()
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    slow = measured(pairs).result()
    assert (fast["tools"], slow["tools"]) == ("faster_coco_eval", "pycocotools")
    assert fast["segm"] == slow["segm"]
    assert slow["figures"] == pytest.approx(fast["figures"], abs=1e-9)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(MissingExtra, match=r"needs faster_coco_eval: pip install 'mobileclip-toolkit\[dense\]'"):
        DetectionMetric(LABELS, IDS)


def sample_of(boxes: list[list[float]], classes: list[int], crowd: list[bool] | None = None, number: int = 1) -> Sample:
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    objects = Objects(
        boxes=corners,
        classes=np.array(classes, np.int64),
        masks=squares(corners),
        crowd=np.array(crowd if crowd is not None else [False] * len(boxes), bool),
        area=((corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])).astype(np.float32),
    )
    return Sample(name=f"{number}.jpg", image=np.zeros((H, W, 3), np.uint8), objects=objects, image_id=number)


def detected_of(boxes: list[list[float]], classes: list[int], scores: list[float]) -> Detected:
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    return Detected(
        boxes=corners,
        scores=np.array(scores, np.float32),
        classes=np.array(classes, np.int64),
        masks=squares(corners),
    )


def squares(boxes: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[:H, :W]
    return np.stack(
        [(x >= left) & (x < right) & (y >= top) & (y < bottom) for left, top, right, bottom in boxes]
        or [np.zeros((H, W), bool)]
    )[: len(boxes)]


def test_an_average_precision_worked_out_by_hand() -> None:
    """Two cups of 10 x 10. Best first: a hit of IoU 0.8 (0.9), a miss (0.8), a perfect hit (0.7).

    Up to IoU 0.80 (7 thresholds) precision is 1 to recall 0.5 (51 of 101 points) and 2/3 after it (50 points). At
    0.85, 0.90, 0.95 the first is a miss too: precision 1/3 at recall 0.5, nothing after it.
    """
    metric = DetectionMetric(LABELS, IDS)
    truth = sample_of([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0])
    found = detected_of([[0, 0, 10, 8], [100, 100, 110, 110], [50, 50, 60, 60]], [0, 0, 0], [0.9, 0.8, 0.7])
    metric.add(found, truth)
    figures = metric.result()["figures"]
    wide = (51 + 50 * 2 / 3) / 101
    expected = (7 * wide + 3 * 51 / 3 / 101) / 10
    for own in ("box", "mask"):
        assert figures[f"{own}_ap"] == pytest.approx(expected)
        assert figures[f"{own}_ap50"] == pytest.approx(wide)
        assert figures[f"{own}_ar1"] == pytest.approx(0.7 * 0.5)
        assert figures[f"{own}_ar100"] == pytest.approx(0.7 * 1 + 0.3 * 0.5)
        assert figures[f"{own}_ap_large"] == -1


def test_a_crowd_forgives_what_is_inside_it_and_is_never_missed() -> None:
    metric = DetectionMetric(LABELS, IDS)
    truth = sample_of([[0, 0, 20, 20], [50, 50, 150, 150]], [0, 0], [False, True])
    inside = [[60 + 10 * step, 60, 70 + 10 * step, 70] for step in range(5)]
    metric.add(detected_of([*inside, [0, 0, 20, 20]], [0] * 6, [0.9] * 5 + [0.5]), truth)
    result = metric.result()
    assert result["figures"]["box_ap"] == result["figures"]["mask_ap"] == pytest.approx(1)
    assert result["per_class"][0]["objects"] == 1


def test_nothing_in_the_truth_and_nothing_found() -> None:
    metric = DetectionMetric(LABELS, IDS)
    assert metric.result()["figures"]["box_ap"] == -1
    metric.add(detected_of([], [], []), sample_of([], [], number=1))
    metric.add(detected_of([[1, 1, 5, 5]], [3], [0.9]), sample_of([], [], number=2))
    assert set(metric.result()["figures"].values()) == {-1}
    metric.add(detected_of([], [], []), sample_of([[0, 0, 9, 9]], [1], number=3))
    result = metric.result()
    assert result["figures"]["box_ap"] == result["figures"]["mask_ar100"] == 0
    assert [row["box_ap"] for row in result["per_class"]] == [-1, 0, -1, -1]
    assert result["images"] == 3
    json.dumps(result)


def test_files_are_written_for_the_ids_of_the_set(tmp_path: Path) -> None:
    metric = DetectionMetric(LABELS, IDS)
    metric.add(detected_of([[2, 3, 12, 23]], [3], [0.5]), sample_of([], [], number=42))
    metric.write(tmp_path / "new")
    (box,) = json.loads((tmp_path / "new/bbox.json").read_text())
    assert box == {"image_id": 42, "category_id": 90, "score": 0.5, "bbox": [2.0, 3.0, 10.0, 20.0]}
    (mask,) = json.loads((tmp_path / "new/segm.json").read_text())
    assert mask["segmentation"]["size"] == [H, W]
    assert "bbox" not in mask  # pycocotools would take the area from it
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"the detections cannot be written to .*file.*: give a folder that can be"):
        metric.write(tmp_path / "file")


def test_two_pictures_of_one_id_are_refused() -> None:
    metric = DetectionMetric(LABELS, IDS)
    metric.add(detected_of([], [], []), sample_of([], [], number=7))
    with pytest.raises(DataError, match=r"7.jpg has the image id 7 of 7.jpg: ids must differ; give each picture"):
        metric.add(detected_of([], [], []), sample_of([], [], number=7))


@settings(deadline=None, max_examples=60)
@given(arrays(np.bool_, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_run_lengths_are_those_of_pycocotools(mask: np.ndarray) -> None:
    counts = run_lengths(mask)
    code = encode(np.asfortranarray(mask.astype(np.uint8)))
    assert frPyObjects({"size": list(mask.shape), "counts": counts}, *mask.shape) == code
    assert sum(counts) == mask.size
    assert all(counts[1:])
