"""The plan on paper: its arithmetic, its refusals, and its constants held against kept results, recipes and counts."""

import json
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from mobileclip import scale
from mobileclip.dense.recipes import recipe_of
from mobileclip.errors import MobileClipError, UnknownName

ROOT = Path(__file__).parents[2]
PLAN: dict[str, Any] = {"samples_seen": 13_000_000_000, "pairs": 1_280_000_000, "gpus": 64, "gpu": "h100", "price": 2.5}


def kept(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))
    return found


def plan(**changed: Any) -> dict[str, scale.StageCost]:
    return {row.stage: row for row in scale.stage_costs(**PLAN | changed)}


def test_every_stage_says_where_its_rate_is_from() -> None:
    rows = plan()
    assert list(rows) == [
        "captions: images",
        "captions: clean",
        "captions: embed",
        "captions: write",
        "captions: clean what was written",
        "pack",
        "train",
        "finetune segmentation",
        "finetune detection",
        "finetune depth",
        "export, verify, bench, report, apps",
    ]
    for row in rows.values():
        assert row.source.startswith(("measured here (benchmarks/results/", "published (", "assumed (")), row
        for word in row.source.replace("(", " ").replace(")", " ").split():
            if word.startswith(("benchmarks/results/", "docs/")):
                assert (ROOT / word.rstrip(":")).is_file(), row.source


def test_hours_and_cost() -> None:
    rows = plan(efficiency=1.0)
    train = rows["train"]
    assert train.work == 13_000_000_000
    assert train.hours == pytest.approx(13e9 / (train.rate * 64) / 3600)
    assert train.gpu_hours == pytest.approx(64 * train.hours)
    assert train.cost == pytest.approx(2.5 * train.gpu_hours)
    assert rows["pack"].gpu_hours == 0
    assert rows["pack"].cost == 0
    assert plan(core_price=0.03)["pack"].cost == pytest.approx(0.03 * 64 * 12 * rows["pack"].hours)
    assert plan(efficiency=0.5)["train"].hours == pytest.approx(2 * train.hours)
    assert plan(gpus=128)["train"].gpu_hours == pytest.approx(plan()["train"].gpu_hours)
    assert plan(captioned=0.1)["captions: write"].hours == pytest.approx(rows["captions: write"].hours / 10)
    assert rows["finetune depth"].devices == 8, "a small batch is not divided over 64"
    assert plan(gpus=2)["finetune depth"].devices == 2
    assert plan(kept=0.25)["pack"].work == 320_000_000
    hours, gpu_hours, cost = scale.total(scale.stage_costs(**PLAN))
    assert hours > train.hours
    assert gpu_hours > train.gpu_hours
    assert cost == pytest.approx(2.5 * gpu_hours)


def test_your_own_rates_take_the_place_of_ours() -> None:
    row = plan(rates={"train": 500.0})["train"]
    assert (row.rate, row.source) == (500.0, "given")
    assert row.hours == pytest.approx(13e9 / (500 * 64) / 3600)


def test_too_few_cores_hold_training_up() -> None:
    row = plan(cores=1)["train"]
    assert row.rate == pytest.approx(scale.LOADED)
    assert row.source.endswith("train/loader.json): 1 cores a GPU feed less than it could train on")


def test_tasks_that_are_left_out() -> None:
    assert [name for name in plan(finetunes={"depth": 1000}) if name.startswith("finetune")] == ["finetune depth"]
    assert plan(finetunes={"depth": 1000})["finetune depth"].work == 1000


@pytest.mark.parametrize("gpu", scale.GPUS)
def test_a_gpu_is_held_to_memory_or_arithmetic(gpu: str) -> None:
    base, known = scale.GPUS["rtx4090"], scale.GPUS[gpu]
    times = scale.encoded(gpu) / scale.PUBLISHED_IMAGES
    assert times == pytest.approx(min(known.tflops / base.tflops, known.bandwidth / base.bandwidth))
    share = scale.encoded(gpu) * scale.ENCODE_GFLOP / 1e3 / known.tflops
    assert share <= scale.PUBLISHED_IMAGES * scale.ENCODE_GFLOP / 1e3 / base.tflops + 1e-9, "no more of its peak"


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"gpus": 0}, "gpus is 0: a plan needs more than 0."),
        ({"samples_seen": -1}, "samples_seen is -1: a plan needs more than 0."),
        ({"pairs": float("nan")}, "pairs is nan: a plan needs more than 0."),
        ({"efficiency": 1.5}, "efficiency is 1.5: it is a share, above 0 and at most 1."),
        ({"price": -2.0}, "price is -2.0: it can be 0 or more."),
        ({"rates": {"train": 0.0}}, "the rate of train is 0.0: a plan needs more than 0."),
        ({"finetunes": {"depth": -5}}, "depth pictures is -5: it can be 0 or more."),
    ],
)
def test_numbers_that_no_plan_has(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(MobileClipError) as refused:
        plan(**changed)
    assert str(refused.value) == text


def test_unknown_names() -> None:
    with pytest.raises(UnknownName, match="unknown GPU 'h10': did you mean 'h100'"):
        plan(gpu="h10")
    with pytest.raises(UnknownName, match="unknown stage 'trian': did you mean 'train'"):
        plan(rates={"trian": 1.0})
    with pytest.raises(UnknownName, match="unknown dense task 'dept': did you mean 'depth'"):
        plan(finetunes={"dept": 1})


def test_what_was_measured_here_is_in_the_results() -> None:
    images = kept("captions/captions_images.json")["hash"]["decoded, and hashed from the same pixels"]
    assert pytest.approx(1e6 / images["us"], rel=1e-3) == scale.HASHED
    (titles,) = (case for case in kept("captions/text.json")["cases"] if case["name"] == "web titles")
    assert pytest.approx(1e6 / median(titles["ours"]), rel=0.05) == scale.CLEANED
    (packed,) = (case for case in kept("train/loader.json")["cases"] if case["case"]["short"] == 288)
    assert pytest.approx(packed["host"]["per_core"], rel=1e-3) == scale.LOADED
    photos = median(kept("train/loop_cpu_nano_scenes_64px_64.json")["pack_us"])
    assert pytest.approx(1e6 / photos, rel=1e-3) == scale.PACKED
    (storm,) = (row for row in kept("captions/engine_simulation.json")["rows"] if row["name"] == "storm")
    assert pytest.approx(storm["seconds"] / storm["ideal"], rel=1e-3) == scale.STORM
    gmac = kept("dense/mci2+semfpn@512-against-swin_l_384+uper@640-2-threads.json")["a"]["macs"] / 1e9
    assert pytest.approx(6 * gmac, rel=0.01) == scale.SEGMENT_GFLOP


def test_counts_are_torchs() -> None:
    """Forward passes are counted: torch 2.14 counts what goes back through depthwise convolutions as if dense."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mobileclip.fuse import fuse
    from mobileclip.models import create

    clip = create("mobileclip_s2", seed=0)
    images, ids = torch.zeros(2, 3, 256, 256, device="meta"), torch.zeros(2, 77, dtype=torch.int32, device="meta")
    fused = fuse(clip)
    with FlopCounterMode(display=False) as forward:
        clip.train().to("meta")(images, ids)
    assert pytest.approx(3 * forward.get_total_flops() / 2e9, rel=1e-3) == scale.TRAIN_GFLOP
    with FlopCounterMode(display=False) as encode, torch.no_grad():
        fused.to("meta").image(images)
    assert pytest.approx(encode.get_total_flops() / 2e9, rel=0.01) == scale.ENCODE_GFLOP


def test_the_recipes_are_the_plans() -> None:
    segmentation = recipe_of("ade-semfpn-mci2")
    assert segmentation.steps * segmentation.batch == scale.PROTOCOLS["segmentation"]
    assert recipe_of("coco-1x-mci2").epochs * 117_266 == scale.PROTOCOLS["detection"]
    assert recipe_of("nyu-depth").epochs * 24_231 == scale.PROTOCOLS["depth"]


def test_rows_are_plain_values() -> None:
    assert json.loads(json.dumps([asdict(row) for row in plan().values()]))[0]["device"] == "core"
