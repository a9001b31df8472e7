"""Deployed form of timm's VisionTransformer: MobileCLIP-B's image tower (`vit_base_mci_224`) and plain ViTs.

`FusedViT.from_timm(trunk)` is exactly `trunk.eval()` at its input size: BatchNorms of the convolutional stem are
folded, class tokens carry their positions, and the affine parts of LayerNorms, the scale of the attention and layer
scale are in the weights. The stream of a ViT is read through LayerNorms only, so its mean over the channels is taken
out of all that is added to it (`blocks.centre_output`), and every remaining normalisation is `centred`.

Source: Dosovitskiy et al., An Image is Worth 16x16 Words, 2020 (arXiv 2010.11929); Vasu et al., MobileCLIP, 2024
(arXiv 2311.17049), section 5; timm/models/vision_transformer.py and vision_transformer_hybrid.py.

Shapes: B images, P patches, K class and register tokens, N = K + P tokens, C channels.
"""

import copy
from typing import Any

import torch
from timm.layers import HybridEmbed, LayerScale
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from torch import Tensor, nn

from mobileclip.models.blocks import (
    Attention,
    Block,
    Mlp,
    centre,
    centre_output,
    fold_bn_into_conv,
    fold_norm_into_linear,
    fold_query_scale,
    scale_output,
)


class FusedViT(nn.Module):
    """ViT at one input size, pooled by its class token: `[B, 3, H, W]` to `[B, classes]`, or `[B, C]` if it has none.

    `prefix` is the class and register tokens with their positions `[1, K, C]`, `position` that of patches `[1, P, C]`.
    """

    prefix: Tensor
    position: Tensor

    def __init__(
        self,
        stem: nn.Sequential,
        prefix: Tensor,
        position: Tensor,
        norm_pre: nn.Module,
        blocks: nn.Sequential,
        norm: nn.Module,
        head: nn.Module,
    ) -> None:
        super().__init__()
        self.stem, self.norm_pre, self.blocks, self.norm, self.head = stem, norm_pre, blocks, norm, head
        self.register_buffer("prefix", prefix)
        self.register_buffer("position", position)

    @classmethod
    def from_timm(cls, trunk: VisionTransformer) -> "FusedViT":
        """New modules equal to `trunk.eval()`; `trunk` is left as it is."""
        assert trunk.global_pool == "token", "only class-token pooling has a deployed form"
        assert not trunk.dynamic_img_size, "the deployed form has one input size"
        assert isinstance(trunk.norm, nn.LayerNorm), "the deployed form reads its stream through a last LayerNorm"
        assert isinstance(trunk.fc_norm, nn.Identity)
        prefix, position = tokens_of(trunk)
        layers, last = fuse_stem(trunk.patch_embed)
        norm_pre = trunk.norm_pre
        centred = isinstance(norm_pre, nn.Identity)  # otherwise the stream starts behind an affine LayerNorm
        if centred:
            prefix, position = centre(prefix), centre(position)
            last = centre_output(last)
        blocks = [fuse_block(block, centred=centred) for block in trunk.blocks]
        norm: nn.Module = copy.deepcopy(trunk.norm)
        head: nn.Module = copy.deepcopy(trunk.head)
        if isinstance(head, nn.Linear):
            norm, head = fold_norm_into_linear(trunk.norm, head)
            norm.centred = centred
        stem, body = nn.Sequential(*layers, last), nn.Sequential(*blocks)
        fused = cls(stem, prefix, position, copy.deepcopy(norm_pre), body, norm, head)
        return fused.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)  # [B, P, C]
        x = torch.cat([self.prefix.expand(x.shape[0], -1, -1), x + self.position], dim=1)  # [B, N, C]
        x = self.blocks(self.norm_pre(x))
        out: Tensor = self.head(self.norm(x[:, :1])).flatten(1)  # a slice: XNNPACK has no select
        return out


def fuse_block(block: TimmBlock, *, centred: bool) -> Block:
    """One timm block; with `centred` its branches add nothing to the mean of the stream, which has none."""
    attn, mlp = block.attn, block.mlp
    for extra in (attn.q_norm, attn.k_norm, attn.norm, mlp.norm):
        assert isinstance(extra, nn.Identity), f"a ViT with {type(extra).__name__} inside a block has no deployed form"
    assert attn.gate is None
    norm1, qkv = fold_norm_into_linear(block.norm1, attn.qkv)
    norm2, fc1 = fold_norm_into_linear(block.norm2, mlp.fc1)
    proj, fc2 = _fold_layer_scale(attn.proj, block.ls1), _fold_layer_scale(mlp.fc2, block.ls2)
    if centred:
        proj, fc2 = centre_output(proj), centre_output(fc2)
        norm1.centred = norm2.centred = True
    attention = Attention(fold_query_scale(qkv, attn.scale), proj, attn.num_heads)
    return Block(norm1, attention, norm2, Mlp(fc1, fc2, copy.deepcopy(mlp.act)))


def _fold_layer_scale(linear: nn.Linear, scale: nn.Module) -> nn.Linear:
    """`scale(linear(x))` as one new linear layer; timm has Identity where a model has no layer scale."""
    if isinstance(scale, LayerScale):
        return scale_output(linear, scale.gamma)
    assert isinstance(scale, nn.Identity)
    return copy.deepcopy(linear)


def fuse_stem(embed: Any) -> tuple[list[nn.Module], nn.Conv2d]:
    """Patch embedding as some layers and a last convolution, to `[B, C, H / 16, W / 16]`."""
    if not isinstance(embed, HybridEmbed):
        assert isinstance(embed.norm, nn.Identity)
        return [], copy.deepcopy(embed.proj)
    assert isinstance(embed.backbone, ConvStem)
    assert isinstance(embed.proj, nn.Identity)
    layers: list[nn.Module] = []
    *units, last = embed.backbone
    for unit in units:  # convolution, then BatchNorm and activation in one module
        layers += [fold_bn_into_conv(unit.conv, unit.bn), copy.deepcopy(unit.bn.act)]
    assert len(last.bn) == 0
    return layers, copy.deepcopy(last.conv)


def tokens_of(trunk: VisionTransformer) -> tuple[Tensor, Tensor]:
    """Class and register tokens with their positions `[1, K, C]`, and the positions of the patches `[1, P, C]`."""
    tokens = [token.detach() for token in (trunk.cls_token, trunk.reg_token) if token is not None]
    prefix, position = torch.cat(tokens, dim=1), trunk.pos_embed.detach()
    if trunk.no_embed_class:
        return prefix, position.clone()
    count = prefix.shape[1]
    return prefix + position[:, :count], position[:, count:].clone()
