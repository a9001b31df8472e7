"""The published protocols, row by row, and what a recipe refuses."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from mobileclip.config import MODELS
from mobileclip.dense.config import HEADS
from mobileclip.dense.data.transforms import transform
from mobileclip.dense.plan import FREE, Finetune, check, differences, require_sources
from mobileclip.dense.recipes import RECIPES, recipe_of
from mobileclip.dense.schedule import learning_rate
from mobileclip.errors import MobileClipError, TrainingError


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_whole(name: str) -> None:
    recipe = recipe_of(name)
    assert recipe.name == name
    assert recipe.model in MODELS
    assert recipe.head in HEADS
    assert json.loads(json.dumps(recipe.as_dict())) == recipe.as_dict()
    assert transform(recipe.transform, recipe.size, **recipe.transform_args) is not None
    assert {"ade": "segmentation", "coc": "detection", "nyu": "depth"}.get(name[:3], recipe.task) == recipe.task


ADE_UPER = {"head": "uper", "size": (512, 512), "transform": "ade", "batch": 16, "steps": 160_000}
WARM = {"warmup": 1500, "warmup_factor": 1e-6, "schedule": "poly", "power": 1.0, "end_lr": 0.0}
COCO = {"head": "mask_rcnn", "batch": 16, "lr_batch": 16, "schedule": "drops", "warmup": 500, "warmup_factor": 1e-3}
NYU = {
    "head": "depth",
    "size": (480, 480),
    "batch": 24,
    "schedule": "up_down",
    "power": 0.9,
    "end_lr": 3e-5,
    "lr": 5e-4,
}
ROWS: list[tuple[str, dict[str, Any]]] = [
    # B.1
    (
        "ade-semfpn",
        {"head": "semfpn", "size": (512, 512), "transform": "ade", "batch": 32, "steps": 40_000, "lr": 2e-4}
        | {"weight_decay": 1e-4, "schedule": "poly", "power": 0.9, "warmup": 0, "lr_decay": 1.0, "evaluation": "whole"},
    ),
    ("ade-uper", ADE_UPER | WARM | {"lr": 6e-5, "weight_decay": 0.01, "drop_path": 0.3, "evaluation": "whole"}),
    ("ade-uper-convnext", {"lr": 1e-4, "weight_decay": 0.05, "lr_decay": 0.9, "decay_by": "stage", "drop_path": 0.4}),
    (
        "ade-uper-vit",
        ADE_UPER
        | WARM
        | {"args": {"width": 768}, "lr": 1e-4, "weight_decay": 0.05, "lr_decay": 0.65, "decay_by": "layer"}
        | {"drop_path": 0.1, "evaluation": "slide", "crop": 512, "stride": 256},
    ),
    ("ade-uper-640", {"size": (640, 640), "evaluation": "slide", "crop": 640, "stride": 426}),
    ("ade-uper-dbot", {"lr": 7e-4, "weight_decay": 0.05, "lr_decay": 0.65, "drop_path": 0.1}),
    (
        "ade-linear",
        {"head": "seg_linear", "batch": 16, "steps": 40_000, "lr": 1e-3, "weight_decay": 1e-3, "warmup": 1500}
        | {"schedule": "cosine", "freeze": True, "evaluation": "slide", "crop": 512, "stride": 341},
    ),
    # B.2
    ("coco-1x", COCO | {"epochs": 12, "drops": (8, 11), "lr": 2e-4, "weight_decay": 1e-4, "transform": "coco_1x"}),
    ("coco-1x", {"lr_decay": 1.0, "drop_path": 0.0, "clip": 0.0, "bn": "frozen"}),
    ("coco-3x", COCO | {"epochs": 36, "drops": (27, 33), "lr": 1e-4, "weight_decay": 0.05, "transform": "coco_3x"}),
    ("coco-3x", {"drop_path": 0.2, "clip": 0.0}),
    ("coco-3x-convnext", {"lr_decay": 0.95, "decay_by": "bucket", "buckets": 6}),
    # B.3
    ("nyu-depth", NYU | {"epochs": 25, "weight_decay": 0.05, "betas": (0.9, 0.999), "transform": "nyu"}),
    ("nyu-depth", {"lr_decay": 0.9, "decay_by": "layer", "drop_path": 0.3, "max_depth": 10.0, "flip": False}),
    ("nyu-vpd", {"weight_decay": 0.1}),
    ("nyu-bts", {"size": (416, 544), "transform": "nyu_bts", "lr": 1e-4, "epochs": 50, "eval_size": (480, 640)}),
    (
        "nyu-linear",
        {"head": "depth_linear", "size": (416, 544), "steps": 38_400, "lr": 3e-4, "weight_decay": 1e-4, "clip": 35.0}
        | {"freeze": True, "flip": True, "eval_size": (480, 640)},
    ),
    # B.4, where we start for MCi2
    (
        "ade-semfpn-mci2",
        {"lr": 2e-4, "weight_decay": 0.05, "lr_decay": 0.85, "decay_by": "stage", "drop_path": 0.2}
        | {"bn": "sync", "frozen_bn_steps": 1500, "steps": 40_000},
    ),
    ("coco-1x-mci2", {"lr": 2e-4, "weight_decay": 0.05, "lr_decay": 0.9, "decay_by": "stage"}),
    ("nyu-depth-mci2", {"lr": 5e-4, "lr_decay": 0.8, "decay_by": "stage", "epochs": 25}),
]


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[name for name, _ in ROWS])
def test_the_protocols(name: str, row: dict[str, Any]) -> None:
    recipe = recipe_of(name)
    assert {key: getattr(recipe, key) for key in row} == row
    assert recipe.optimiser == "adamw"
    assert recipe.precision == "bf16"


def test_poly_with_warm_up() -> None:
    recipe = recipe_of("ade-uper")
    rates = {step: learning_rate(recipe, step, 20_210) for step in (0, 750, 1499, 1500, 80_750, 159_999)}
    assert rates[0] == pytest.approx(6e-5 * 1e-6)
    assert rates[750] == pytest.approx(3e-5, rel=1e-3)
    assert rates[1499] == rates[1500] == pytest.approx(6e-5)
    assert rates[80_750] == pytest.approx(3e-5)
    assert 0 < rates[159_999] < 1e-9


def test_poly_of_another_power_without_warm_up() -> None:
    recipe = recipe_of("ade-semfpn")
    assert learning_rate(recipe, 0, 20_210) == 2e-4
    assert learning_rate(recipe, 20_000, 20_210) == pytest.approx(2e-4 * 0.5**0.9)


def test_drops_by_epoch_and_a_rate_for_the_batch() -> None:
    recipe = replace(recipe_of("coco-1x"), steps=87_948, batch=8)
    epoch = 117_266 / 8
    rates = [learning_rate(recipe, int(epoch * at), 117_266) for at in (0.5, 7.9, 8.1, 10.9, 11.1)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6])
    assert learning_rate(recipe, 0, 117_266) == pytest.approx(1e-7)


def test_up_and_down() -> None:
    recipe = replace(recipe_of("nyu-depth"), steps=1000)
    rates = [learning_rate(recipe, step, 24_231) for step in range(1000)]
    assert rates[0] == pytest.approx(3e-5 + 4.7e-4 * 0.002**0.9)
    assert rates[249] == pytest.approx(3e-5 + 4.7e-4 * 0.5**0.9)
    assert max(rates) == rates[499] == pytest.approx(5e-4)
    assert rates[749] == pytest.approx(5e-4 - 4.7e-4 * 0.5**0.9)
    assert rates[-1] == pytest.approx(3e-5)
    assert min(rates) >= 3e-5


def test_cosine_and_constant() -> None:
    recipe = replace(recipe_of("ade-linear"), warmup=1, steps=101)
    assert [learning_rate(recipe, step, 10) for step in (0, 1, 51)] == pytest.approx([1e-3, 1e-3, 5e-4])
    assert learning_rate(replace(recipe, schedule="constant"), 100, 10) == 1e-3


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("ade-semfpm", {}, "unknown recipe 'ade-semfpm': did you mean 'ade-semfpn'?"),
        ("ade-semfpn", {"bach": "3"}, "unknown field of a recipe 'bach': did you mean 'batch'?"),
        ("ade-semfpn", {"bn": "cold"}, "'cold' is no value for bn: it takes"),
        ("ade-semfpn", {"args": "[3]"}, "'[3]' is no value for args: it takes"),
        ("ade-semfpn", {"args": "{"}, "'{' is no value for args: it takes"),
        ("ade-semfpn", {"model": "mci9"}, "unknown model 'mci9'"),
        ("ade-semfpn", {"head": "semfpm"}, "unknown head 'semfpm': did you mean 'semfpn'?"),
        ("ade-semfpn", {"size": "500,512"}, "size is (500, 512): rows and columns that are multiples of 32, from 32"),
        ("ade-semfpn", {"size": "512"}, "'512' is no value for size: it takes"),
        ("ade-semfpn", {"eval_size": "512,0"}, "eval_size is (512, 0): rows and columns, or 0,0"),
        ("ade-semfpn", {"steps": "0"}, "steps is 0 and epochs is 0: one of them at least 1, the other 0"),
        ("ade-semfpn", {"steps": "5", "epochs": "1"}, "steps is 5 and epochs is 1: one of them at least 1"),
        ("ade-semfpn", {"batch": "0"}, "batch is 0: at least 1"),
        ("ade-semfpn", {"accumulate": "0"}, "accumulate is 0: at least 1"),
        ("ade-semfpn", {"labels": "0"}, "labels is 0.0: above 0 and at most 1"),
        ("ade-semfpn", {"labels": "2"}, "labels is 2.0: above 0 and at most 1"),
        ("ade-semfpn", {"lr": "nan"}, "lr is nan: above 0"),
        ("ade-semfpn", {"lr_decay": "0"}, "lr_decay is 0.0: above 0 and at most 1"),
        ("ade-semfpn", {"buckets": "0"}, "buckets is 0: at least 1"),
        ("ade-semfpn", {"drop_path": "1"}, "drop_path is 1.0: 0 up to, not including, 1"),
        ("ade-semfpn", {"ema": "1"}, "ema is 1.0: 0 up to, not including, 1"),
        ("ade-semfpn", {"warmup": "40000"}, "warmup is 40000 of 40000 steps: fewer than all"),
        ("ade-semfpn", {"end_lr": "1"}, "end_lr is 1.0: 0 to lr"),
        ("coco-1x", {"drops": "11,8"}, "drops are (11, 8): ascending epochs"),
        ("ade-semfpn", {"save_every": "0"}, "save_every is 0: at least 1"),
        ("ade-semfpn", {"log_every": "0"}, "log_every is 0: at least 1"),
        ("ade-semfpn", {"keep": "0"}, "keep is 0: at least 1"),
        ("ade-semfpn", {"checkpoint": "scratch"}, "fresh weights have no statistics to freeze: set bn=live or bn=sync"),
    ],
)
def test_mistakes(name: str, values: dict[str, str], message: str) -> None:
    with pytest.raises(MobileClipError) as caught:
        recipe_of(name, values)
    assert message in str(caught.value)


def test_texts_become_values() -> None:
    recipe = recipe_of("coco-1x", {"args": '{"width": 64}', "size": "256,320", "steps": "600", "drops": "2,3"})
    assert (recipe.args, recipe.size, recipe.steps, recipe.epochs) == ({"width": 64}, (256, 320), 600, 0)
    assert recipe.drops == (2, 3)
    assert recipe_of("ade-semfpn", {"epochs": "3"}).steps == 0


def test_sources_are_asked_for() -> None:
    with pytest.raises(
        TrainingError, match=r"recipe ade-semfpn has no checkpoint: pass --checkpoint with one, with tim"
    ):
        require_sources(recipe_of("ade-semfpn"))
    with pytest.raises(TrainingError, match="recipe ade-semfpn has no data: pass --data with the folder of a data set"):
        require_sources(recipe_of("ade-semfpn", {"checkpoint": "x"}))


def test_only_what_decides_the_weights_is_a_difference() -> None:
    before = recipe_of("scenes-depth")
    after = replace(before, lr=1.0, save_every=7, threads=3, flip=True)
    assert differences(before.as_dict(), after.as_dict()) == [f"lr: {before.lr} -> 1.0"]
    assert {field.name for field in fields(Finetune)} >= FREE
    check(before)
