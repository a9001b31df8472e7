"""Every model is there by name, and its sizes are the published ones."""

import pytest
import torch

from mobileclip.config import MODELS, ModelConfig
from mobileclip.errors import CheckpointError, UnknownName
from mobileclip.models import build, create

MILLIONS = {  # Vasu et al., 2024, table 1: image + text, in millions, fused; training form is up to 0.5 % larger
    "mobileclip_s0": (11.4, 42.4),
    "mobileclip_s1": (21.5, 63.4),
    "mobileclip_s2": (35.7, 63.4),
    "mobileclip_b": (86.3, 63.4),
    "mobileclip2_s2": (35.7, 63.4),
}


@pytest.mark.parametrize("name", MILLIONS)
def test_published_sizes(name: str) -> None:
    with torch.device("meta"):
        model = build(MODELS[name])
    assert model.text is not None
    counts = [sum(p.numel() for p in tower.parameters()) / 1e6 for tower in (model.image, model.text)]
    assert counts == pytest.approx(MILLIONS[name], rel=0.01)


@pytest.mark.parametrize("name", ["mci0", "mci1", "mci2", "vit_b16", "swin_b", "swin_l"])
def test_image_towers_alone(name: str) -> None:
    with torch.device("meta"):
        model = build(MODELS[name])
    assert model.text is None
    assert model.config.embed_dim == 512


def test_swin_l_is_the_published_backbone() -> None:
    with torch.device("meta"):
        trunk = build(MODELS["swin_l"]).image
    assert sum(p.numel() for p in trunk.parameters()) / 1e6 == pytest.approx(197, rel=0.01)  # 195 M + projection


@pytest.mark.parametrize("name", MODELS)
def test_configuration_goes_through_json(name: str) -> None:
    import json

    config = MODELS[name]
    assert ModelConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == ModelConfig.from_dict(config.as_dict())


def test_seeds() -> None:
    a, b, c = create("nano", seed=1), create("nano", seed=1), create("nano", seed=2)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(a.encode_image(x), b.encode_image(x))
        assert not torch.equal(a.encode_image(x), c.encode_image(x))
    assert not a.training


def test_unit_length() -> None:
    model = create("nano", seed=0)
    with torch.no_grad():
        image, _, scale = model(torch.rand(2, 3, 64, 64), torch.full((2, 77), 49407))
    assert image.norm(dim=-1) == pytest.approx(torch.ones(2).numpy(), abs=1e-5)
    assert float(scale) == pytest.approx(1 / 0.07, rel=1e-4)


def test_unknown_model() -> None:
    with pytest.raises(UnknownName, match="unknown model 'mobileclip-s2': did you mean 'mobileclip_s2'"):
        create("mobileclip-s2")


def test_a_configuration_with_an_unknown_key() -> None:
    values = MODELS["nano"].as_dict() | {"colour": "red"}
    with pytest.raises(CheckpointError, match=r"the model configuration cannot be read \(unknown key 'colour'"):
        ModelConfig.from_dict(values)
