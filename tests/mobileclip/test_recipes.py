"""Recipes: complete, checked, overridden by text; what a resumed run may change."""

import dataclasses
import json

import pytest

from mobileclip.config import MODELS
from mobileclip.errors import MobileClipError, TrainingError, UnknownName
from mobileclip.recipes import FREE, RECIPES, Recipe, check, differences, recipe_of


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_whole(name: str) -> None:
    recipe = recipe_of(name)
    assert recipe.name == name
    assert recipe.model in MODELS
    check(recipe)
    assert json.loads(json.dumps(recipe.as_dict())) == recipe.as_dict()


def test_texts_become_values() -> None:
    texts = {
        "batch": "1_024",
        "lr": "5e-4",
        "captions": "multi(3)",
        "fsdp": "yes",
        "betas": "0.9,0.98",
        "loss": "siglip",
        "shards": "a,b",
        "rand_augment": "(2, 9)",
    }
    recipe = recipe_of("mci2-scratch", texts)
    assert (recipe.batch, recipe.lr, recipe.captions, recipe.fsdp) == (1024, 5e-4, "multi(3)", True)
    assert (recipe.betas, recipe.loss, recipe.shards, recipe.rand_augment) == (
        (0.9, 0.98),
        "siglip",
        ("a", "b"),
        (2, 9),
    )


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("mci2-scrach", {}, "unknown recipe 'mci2-scrach': did you mean 'mci2-scratch'?"),
        ("nano-scenes", {"bach": "3"}, "unknown field of a recipe 'bach': did you mean 'batch'?"),
        ("nano-scenes", {"batch": "many"}, "'many' is no value for batch: it takes int"),
        ("nano-scenes", {"precision": "fp8"}, "'fp8' is no value for precision"),
        ("nano-scenes", {"betas": "0.9"}, "'0.9' is no value for betas"),
        ("nano-scenes", {"compile": "perhaps"}, "'perhaps' is no value for compile: it takes bool"),
        ("nano-scenes", {"model": "mci2"}, "mci2 has no text tower: train a model that has one"),
        ("nano-scenes", {"model": "mobileclip_s9"}, "unknown model 'mobileclip_s9'"),
        ("nano-scenes", {"steps": "0"}, "steps is 0: at least 1"),
        ("nano-scenes", {"batch": "1"}, "batch is 1: a contrastive loss needs at least 2 samples"),
        ("nano-scenes", {"warmup": "5000"}, "warmup is 5000 of"),
        ("nano-scenes", {"distill": "1.5"}, "distill is 1.5: 0 to 1"),
        ("nano-scenes", {"ema": "1.0"}, "ema is 1.0: 0 up to, not including, 1"),
        ("nano-scenes", {"lr": "0"}, "lr is 0.0: above 0"),
        ("nano-scenes", {"accumulate": "0"}, "accumulate is 0: at least 1"),
        ("nano-scenes", {"broken_share": "2"}, "broken_share is 2.0: 0 to 1"),
        ("nano-scenes", {"crop_scale": "0.9,0.5"}, "crop_scale is (0.9, 0.5): two shares"),
        ("nano-scenes", {"loss": "siglip", "distill": "0.5"}, "siglip has no distillation"),
        ("nano-scenes", {"fsdp": "1", "accumulate": "2"}, "fsdp and accumulate exclude each other"),
    ],
)
def test_mistakes(name: str, values: dict[str, str], message: str) -> None:
    with pytest.raises((TrainingError, UnknownName)) as caught:
        recipe_of(name, values)
    assert message in str(caught.value)
    assert isinstance(caught.value, MobileClipError)


def test_only_what_decides_the_weights_is_a_difference() -> None:
    before = recipe_of("nano-scenes")
    after = dataclasses.replace(before, lr=1.0, save_every=7, threads=3)
    assert differences(before.as_dict(), after.as_dict()) == [f"lr: {before.lr} -> 1.0"]
    old = {key: value for key, value in before.as_dict().items() if key != "window"}
    assert differences(old, before.as_dict()) == []
    assert {field.name for field in dataclasses.fields(Recipe)} >= FREE
