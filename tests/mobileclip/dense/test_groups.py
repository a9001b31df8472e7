"""Rates that fall towards the stem: in the groups, and in what the weights do."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from mobileclip.config import config_of
from mobileclip.dense.config import DenseConfig
from mobileclip.dense.groups import groups_of, levels_of
from mobileclip.dense.model import DenseModel, build
from mobileclip.dense.plan import Finetune
from mobileclip.dense.recipes import recipe_of
from mobileclip.dense.samples import Batch, Targets
from mobileclip.dense.stepper import Stepper
from mobileclip.models.pyramid import Pyramid


def model_of(name: str) -> DenseModel:
    torch.manual_seed(0)
    return build(
        DenseConfig(
            encoder=config_of(name),
            head="semfpn",
            args={"neck": 16, "width": 16},
            size=(64, 64),
            labels=("a", "b", "c"),
        )
    )


def recipe(**values: Any) -> Finetune:
    return replace(recipe_of("scenes-segmentation"), lr_decay=0.5, steps=10, warmup=0, schedule="constant", **values)


@pytest.fixture(scope="module", params=["nano", "nano_vit", "nano_swin"])
def model(request: pytest.FixtureRequest) -> DenseModel:
    """One of each kind of encoder, never changed."""
    return model_of(request.param)


@pytest.mark.parametrize("by", ["stage", "layer", "bucket"])
def test_each_parameter_is_in_one_group(model: DenseModel, by: str) -> None:
    groups = groups_of(model, recipe(decay_by=by, buckets=3))
    all_of = [id(p) for group in groups for p in group["params"]]
    assert sorted(all_of) == sorted(id(p) for p in model.parameters())
    scales = {group["name"].partition(",")[0]: group["scale"] for group in groups}
    assert isinstance(model.encoder, Pyramid)
    count = len(levels_of(model.encoder, recipe(decay_by=by, buckets=3)))
    assert scales.pop("head") == 1.0
    expected = {f"level {place}": 0.5 ** (count - place) for place in range(count)}
    assert scales.items() <= expected.items()  # a level may be empty: the two blocks of nano_vit make four stages
    assert scales == expected or (model.config.encoder.name, by) == ("nano_vit", "stage")
    assert by != "bucket" or count == 3


def test_the_levels_of_mci() -> None:
    """Stem, four stages; blocks one by one; MCi2's 45 levels in 12 buckets."""
    model = model_of("nano")
    assert isinstance(model.encoder, Pyramid)
    assert len(levels_of(model.encoder, recipe())) == 5
    assert len(levels_of(model.encoder, recipe(decay_by="layer"))) == 1 + 1 + 1 + 2 + 1
    groups = groups_of(model, recipe())
    by_id = {id(p): group["scale"] for group in groups for p in group["params"]}
    trunk = model.encoder.trunk
    stages: list[tuple[nn.Module, float]] = [
        (trunk.stem, 0.5**5),
        *((stage, 0.5 ** (4 - place)) for place, stage in enumerate(trunk.stages)),
        (model.head, 1.0),
    ]
    for module, scale in stages:
        assert {by_id[id(p)] for p in module.parameters()} == {scale}


def test_norms_biases_and_scales_do_not_decay(model: DenseModel) -> None:
    names = {id(p): key for key, p in model.named_parameters()}
    plain = {names[id(p)] for g in groups_of(model, recipe()) if g["weight_decay"] == 0 for p in g["params"]}
    decays = set(names.values()) - plain
    assert all(dict(model.named_parameters())[key].ndim > 1 for key in decays)
    assert not [key for key in decays if key.endswith((".bias", "gamma", "bias_table", "pos_embed", "cls_token"))]
    assert all(key.endswith("weight") for key in decays), decays
    assert not [key for key in decays if ".bn." in key or ".norm" in key]
    assert plain
    assert decays


def test_a_frozen_encoder_has_no_group() -> None:
    model = model_of("nano")
    model.encoder.requires_grad_(False)
    assert {group["name"] for group in groups_of(model, recipe(freeze=True))} == {"head", "head, plain"}


def batch_of(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        names=("a.png", "b.png"),
        images=torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8, generator=generator),
        targets=Targets(sizes=((64, 64), (64, 64)), labels=torch.randint(0, 3, (2, 64, 64), generator=generator)),
    )


def test_the_stem_moves_less() -> None:
    """The first step of AdamW moves each weight by its rate: what moved says which rate was used."""
    model = model_of("nano")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    stepper = Stepper(model, recipe(weight_decay=0.0, lr=1e-3, clip=0.0), pictures=10, device=torch.device("cpu"))
    stepper.step([batch_of()], 0)
    after = model.state_dict()

    def moved(prefix: str) -> float:
        steps = [
            float((after[key] - before[key]).abs().max())
            for key, p in model.named_parameters()
            if key.startswith(prefix) and p.ndim > 1
        ]
        return max(steps)

    assert moved("head") == pytest.approx(1e-3, rel=0.02)
    assert moved("encoder.trunk.stem") == pytest.approx(1e-3 * 0.5**5, rel=0.02)
    for place in range(4):
        assert moved(f"encoder.trunk.stages.{place}") == pytest.approx(1e-3 * 0.5 ** (4 - place), rel=0.02)


def test_sgd_and_its_momentum() -> None:
    stepper = Stepper(
        model_of("nano"), recipe(optimiser="sgd", betas=(0.8, 0.9)), pictures=10, device=torch.device("cpu")
    )
    assert isinstance(stepper.optimiser, torch.optim.SGD)
    assert {group["momentum"] for group in stepper.optimiser.param_groups} == {0.8}
    assert torch.isfinite(stepper.step([batch_of()], 0).loss)
