"""Encoders as pyramids: their maps, sizes, levels, drop path, and weights from elsewhere."""

from dataclasses import replace

import pytest
import timm
import torch
from timm.layers import DropPath
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import nn

from mobileclip.config import ModelConfig, config_of
from mobileclip.dense.encoders import encoder_named
from mobileclip.errors import MobileClipError
from mobileclip.models import seed_weights
from mobileclip.models.pyramid import Pyramid, build_pyramid, pyramid_of, set_drop_path
from mobileclip.models.vit_pyramid import taken

TINY_VIT = replace(
    encoder_named("vit_tiny_patch16_224"),
    image=replace(encoder_named("vit_tiny_patch16_224").image, args={"depth": 3, "img_size": 64}),
)
ENCODERS = {"nano": config_of("nano"), "vit": TINY_VIT, "nano_swin": config_of("nano_swin")}


def seeded(config: ModelConfig, size: tuple[int, int] = (64, 96)) -> Pyramid:
    pyramid = build_pyramid(config, size)
    seed_weights(pyramid, 1)
    return pyramid.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", ENCODERS)
def test_four_maps_at_strides_4_to_32(name: str) -> None:
    pyramid = seeded(ENCODERS[name])
    maps = pyramid(torch.rand(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(pyramid.channels, (4, 8, 16, 32), strict=True)
    ]
    assert [tuple(m.shape[2:]) for m in pyramid(torch.rand(1, 3, 96, 32))] == [(24, 8), (12, 4), (6, 2), (3, 1)]


@torch.no_grad()
def test_maps_of_fastvit_are_those_of_timm() -> None:
    pyramid = seeded(config_of("nano"))
    theirs = timm.create_model(
        "fastvit_mci0",
        features_only=True,
        feature_cls="getter",
        out_indices=(0, 1, 2, 3),
        **config_of("nano").image.args,
    ).eval()
    theirs.model.load_state_dict(pyramid.trunk.state_dict(), strict=False)
    x = torch.rand(1, 3, 64, 96)
    for got, want in zip(pyramid(x), theirs(x), strict=True):
        torch.testing.assert_close(got, want)


@torch.no_grad()
def test_maps_of_a_vit_are_its_blocks_outputs_through_the_neck() -> None:
    config = replace(TINY_VIT, image=replace(TINY_VIT.image, args={"depth": 12, "img_size": 64, "embed_dim": 48}))
    pyramid = seeded(config, (64, 64))
    x = torch.rand(2, 3, 64, 64)
    four, two, same, half = pyramid(x)
    pyramid.trunk.dynamic_img_size = False  # timm's own function then takes flattened patches
    blocks = pyramid.trunk.forward_intermediates(x, indices=[3, 5, 7, 11], intermediates_only=True)
    up = pyramid.neck[0]
    torch.testing.assert_close(four, up[3](nn.functional.gelu(up[1](up[0](blocks[0])))))
    torch.testing.assert_close(two, pyramid.neck[1][0](blocks[1]))
    torch.testing.assert_close(same, blocks[2])
    torch.testing.assert_close(half, nn.functional.max_pool2d(blocks[3], 2))
    assert taken(12) == (3, 5, 7, 11)
    assert taken(24) == (7, 11, 15, 23)


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("name", ENCODERS)
def test_levels_hold_each_parameter_once(name: str, fine: bool) -> None:
    pyramid = build_pyramid(ENCODERS[name], (64, 64))
    levels = pyramid.levels(fine)
    held = [id(p) for modules in [*levels, pyramid.fresh()] for module in modules for p in module.parameters()]
    assert sorted(held) == sorted(id(p) for p in pyramid.parameters())
    depth = {"nano": 5, "vit": 3, "nano_swin": 6}[name]
    assert len(levels) == 1 + (depth if fine else 4)


@pytest.mark.parametrize("name", ENCODERS)
def test_drop_path_rises_to_the_last_block(name: str) -> None:
    pyramid = build_pyramid(ENCODERS[name], (64, 64)).train()
    set_drop_path(pyramid, 0.4)
    want = timm.create_model(ENCODERS[name].image.timm, drop_path_rate=0.4, **dict(ENCODERS[name].image.args))
    found, wanted = (
        {key: m.drop_prob for key, m in model.named_modules() if isinstance(m, DropPath)}
        for model in (pyramid.trunk, want)
    )
    assert found == pytest.approx(wanted)
    assert max(found.values()) == pytest.approx(0.4)
    x = torch.rand(4, 3, 64, 64)
    assert not torch.equal(pyramid(x)[3], pyramid(x)[3])
    set_drop_path(pyramid, 0.0)
    assert not [m for m in pyramid.modules() if isinstance(m, DropPath)]


def test_positions_of_a_vit_follow_the_size() -> None:
    small, wide = seeded(TINY_VIT, (64, 64)), build_pyramid(TINY_VIT, (64, 128))
    state = wide.adapted(small.trunk.state_dict())
    want = resample_abs_pos_embed(small.trunk.pos_embed.detach(), [4, 8], [4, 4], num_prefix_tokens=1)
    torch.testing.assert_close(state["pos_embed"].detach(), want)
    wide.trunk.load_state_dict(state)
    assert wide.trunk.pos_embed.shape == (1, 33, 192)


@pytest.mark.parametrize("size", [(16, 64), (64, 100)])
def test_sides_are_multiples_of_32(size: tuple[int, int]) -> None:
    text = f"a pyramid of {size[0]} x {size[1]} pixels cannot be built: give sides that are multiples of 32"
    with pytest.raises(MobileClipError, match=text):
        build_pyramid(config_of("nano"), size)


def test_towers_without_a_pyramid_say_so() -> None:
    with pytest.raises(MobileClipError, match="test_resnet is a ResNet and has no pyramid: take one of FastVit"):
        pyramid_of(timm.create_model("test_resnet"), (64, 64), "test_resnet")
    text = "5 stages has no pyramid at strides 4, 8, 16 and 32: take one of four"
    with torch.device("meta"), pytest.raises(MobileClipError, match=text):
        build_pyramid(config_of("mobileclip2_s3"), (64, 64))
    plain = timm.create_model("vit_tiny_patch16_224", patch_size=8, img_size=64, depth=1)
    with pytest.raises(MobileClipError, match="patches of 8 pixels has no pyramid: take one with patches of 16 x 16"):
        pyramid_of(plain, (64, 64), "vit")
