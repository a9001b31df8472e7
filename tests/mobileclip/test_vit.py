"""The deployed ViT equals timm's: MobileCLIP-B's convolutional stem, plain patches, register tokens, layer scale."""

from functools import partial

import pytest
import torch
from timm.layers import HybridEmbed
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from torch import nn

from mobileclip.models.blocks import Normalise
from mobileclip.models.vit import FusedViT


def conv_stem() -> nn.Module:
    """`vit_base_mci_224`'s stem, narrower (timm/models/vision_transformer_hybrid.py)."""
    return ConvStem(channels=(8, 8, 32), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0, act_layer=nn.GELU)


def mci() -> dict[str, object]:
    embed = partial(HybridEmbed, backbone=conv_stem(), proj=False)
    return {"embed_layer": embed, "patch_size": 1, "no_embed_class": True}


KINDS = {
    "conv stem": mci,
    "layer scale": lambda: {"init_values": 0.1},
    "registers, no qkv bias": lambda: {"reg_tokens": 3, "qkv_bias": False},
    "norm before the blocks": lambda: {"pre_norm": True},
    "no classifier": lambda: {"num_classes": 0},
}


def tiny(kind: str) -> VisionTransformer:
    """A small ViT whose norms, layer scales and tokens are far from their defaults, the stream's mean far from zero."""
    torch.manual_seed(0)
    shape: dict[str, object] = {"img_size": 64, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 10}
    model = VisionTransformer(**(shape | KINDS[kind]()), drop_path_rate=0.2)  # type: ignore[operator]
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name or ".bn." in name:
                value.normal_(float(name.endswith("weight")), 0.3)
            elif "gamma" in name:
                value.uniform_(0.2, 0.6)
            elif value.ndim == 1:
                value.normal_(0.2, 0.5)
            elif name.endswith(("token", "pos_embed")):
                value.normal_(0.3, 0.5)
            else:
                value.normal_(0, value[0].numel() ** -0.5)
        for name, value in model.named_buffers():
            if name.endswith("running_mean"):
                value.normal_(0, 0.3)
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
    return model.eval()


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@torch.no_grad()
def test_equals_timm(kind: str, dtype: torch.dtype, limit: float, batch: int) -> None:
    model = tiny(kind).to(dtype)
    x = torch.randn(batch, 3, 64, 64, dtype=dtype)
    want = model(x)
    assert float((FusedViT.from_timm(model)(x) - want).norm() / want.norm()) < limit


@pytest.mark.parametrize("kind", ["conv stem", "layer scale", "registers, no qkv bias"])
@torch.no_grad()
def test_stream_has_no_mean_where_a_norm_is_called_centred(kind: str) -> None:
    fused = FusedViT.from_timm(tiny(kind)).double()
    norms = [module for module in fused.modules() if isinstance(module, Normalise)]
    means: list[float] = []
    for norm in norms:
        norm.register_forward_pre_hook(lambda _, args: means.append(float(args[0].mean(-1).abs().max())))
    fused(torch.randn(1, 3, 64, 64, dtype=torch.float64))
    assert all(norm.centred for norm in norms)
    assert len(means) == 5
    assert max(means) < 1e-6  # weights are float32


@torch.no_grad()
def test_norm_before_the_blocks_is_not_called_centred() -> None:
    fused = FusedViT.from_timm(tiny("norm before the blocks"))
    assert not any(module.centred for module in fused.modules() if isinstance(module, Normalise))


def test_nothing_is_left_to_fold() -> None:
    kinds = {type(module).__name__ for module in FusedViT.from_timm(tiny("conv stem")).modules()}
    assert not {name for name in kinds if "Norm" in name and name != "Normalise"}
    assert not {"Dropout", "DropPath", "LayerScale"} & kinds


def test_trunk_is_left_as_it_is() -> None:
    model = tiny("conv stem")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fused = FusedViT.from_timm(model)
    for value in (*fused.parameters(), *fused.buffers()):
        value.data.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@torch.no_grad()
def test_at_most_four_dimensions() -> None:
    graph = torch.export.export(FusedViT.from_timm(tiny("conv stem")), (torch.zeros(1, 3, 64, 64),)).graph
    assert max(node.meta["val"].ndim for node in graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)) == 4
