"""Text towers: the training form that open_clip does not have (`mct`, MobileCLIP-S0's), and the deployed form of both.

`mct`: a RepMixer block, four transformer layers, a RepMixer block. The RepMixer blocks treat the 77 tokens as a
one-pixel-high image [B, C, 1, 77] and mix them with 1x11 depthwise convolutions in several branches (Vasu et al.,
MobileCLIP, 2024, section 4; modules/text/repmixer.py of the released code, whose shapes of weights these are). Names
of parameters follow timm's for the image tower (`conv_kxk`, `identity`, `mlp`) and open_clip's for the transformer,
so that one set of rules renames both.

Legend: B batch, L tokens (77), C channels.
"""

import torch
from open_clip.transformer import ResidualAttentionBlock, TextTransformer, text_global_pool
from torch import Tensor, nn
from torch.nn import functional as F

from mobileclip.models.blocks import (
    Attention,
    Block,
    Mlp,
    Normalise,
    centre,
    centre_output,
    fold_bn_into_conv,
    fold_norm_into_linear,
    fold_query_scale,
    linear_like,
    scale_output,
)
from mobileclip.models.branches import copied, merge_mixer

KERNEL = 11
"""Tokens that a RepMixer block's convolutions span."""
FAR = -1e4
"""Added to the score of a later token in place of minus infinity: exp of it is 0 in fp16, fp32 and fp64 alike."""


class ConvNorm(nn.Sequential):
    """A depthwise 1x11 convolution and its BatchNorm, [B, C, 1, L] -> the same."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, (1, KERNEL), padding=(0, KERNEL // 2), groups=dim, bias=False)
        self.bn = nn.BatchNorm2d(dim)


class Branches(nn.Module):
    """Parallel branches whose outputs are added: a BatchNorm, and (unless `conv` is false) a 1x11 convolution."""

    def __init__(self, dim: int, conv: bool) -> None:
        super().__init__()
        self.identity = nn.BatchNorm2d(dim)
        self.conv_kxk = nn.ModuleList([ConvNorm(dim)] if conv else [])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.identity(x)
        for branch in self.conv_kxk:
            out = out + branch(x)
        return out


class TokenMixer(nn.Module):
    """`x + scale * (mixer(x) - norm(x))`: one 1x11 convolution once the branches are merged."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = Branches(dim, conv=False)
        self.mixer = Branches(dim, conv=True)
        self.layer_scale = nn.Parameter(1e-5 * torch.ones(dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layer_scale * (self.mixer(x) - self.norm(x))
        return out


class ConvMlp(nn.Module):
    """1x11 depthwise convolution with BatchNorm, then a two-layer perceptron as 1x1 convolutions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = ConvNorm(dim)
        self.fc1 = nn.Conv2d(dim, 4 * dim, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(4 * dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(self.conv(x))))
        return out


class RepMixerBlock(nn.Module):
    """Token mixer and perceptron with residuals, [B, L, C] -> [B, L, C]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.token_mixer = TokenMixer(dim)
        self.mlp = ConvMlp(dim)
        self.layer_scale = nn.Parameter(1e-5 * torch.ones(dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2).unsqueeze(2)  # [B, C, 1, L]
        x = self.token_mixer(x)
        x = x + self.layer_scale * self.mlp(x)
        return x.squeeze(2).transpose(1, 2)


class MctBlocks(nn.Module):
    """Holds the blocks under open_clip's name, `transformer.resblocks`."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        attention = [ResidualAttentionBlock(width, heads) for _ in range(layers)]
        self.resblocks = nn.ModuleList([RepMixerBlock(width), *attention, RepMixerBlock(width)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


class MctText(nn.Module):
    """MobileCLIP-S0's text tower: int ids [B, 77] (zero padded) -> embedding [B, out], not normalised."""

    def __init__(self, *, context: int, vocabulary: int, width: int, heads: int, layers: int, out: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(context, width))
        self.transformer = MctBlocks(width, heads, layers)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, out))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token_embedding(ids) + self.positional_embedding  # [B, L, C]
        x = self.ln_final(self.transformer(x))
        pooled: Tensor = text_global_pool(x, ids, pool_type="argmax")  # [B, C]
        return pooled @ self.text_projection


class FusedRepMixerBlock(nn.Module):
    """Deployed form of `RepMixerBlock`: one 1x11 convolution in place of the branches, [B, L, C] -> [B, L, C]."""

    def __init__(self, mixer: nn.Conv2d, conv: nn.Conv2d, fc1: nn.Conv2d, fc2: nn.Conv2d) -> None:
        super().__init__()
        self.mixer, self.conv, self.fc1, self.act, self.fc2 = mixer, conv, fc1, nn.GELU(), fc2

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, channels = x.shape
        x = self.mixer(x.transpose(1, 2).reshape(batch, channels, 1, tokens))  # [B, C, 1, L]
        x = x + self.fc2(self.act(self.fc1(self.conv(x))))
        return x.reshape(batch, channels, tokens).transpose(1, 2)


class FusedText(nn.Module):
    """Deployed text tower: int ids [B, 77], zero padded -> embedding [B, E], not normalised.

    The token that stands for the text is the first end-of-text id. It is found by comparing integers and picked by a
    matrix product with the one-hot row, so that nothing here needs argmax or a gather on activations (ids above 2048
    are not exact in fp16: an argmax over them in fp16 picks the wrong token). Ids must contain the end-of-text id, as
    the tokenizer's do.
    """

    earlier: Tensor
    one: Tensor

    def __init__(
        self, tokens: nn.Embedding, position: Tensor, blocks: nn.Sequential, norm: Normalise, head: nn.Linear
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.position = nn.Parameter(position, requires_grad=False)  # [L, C]
        self.blocks, self.norm, self.head = blocks, norm, head
        self.end = tokens.num_embeddings - 1
        length = position.shape[0]
        self.register_buffer("earlier", -torch.ones(length, length).tril(-1).to(position))
        self.register_buffer("one", torch.ones(length).to(position))

    @classmethod
    def from_open_clip(cls, tower: MctText | TextTransformer) -> "FusedText":
        """New modules equal to `tower.eval()`; `tower` is left as it is."""
        tokens, position = copied(tower.token_embedding), tower.positional_embedding.detach().clone()
        centred = isinstance(tower, TextTransformer)  # a RepMixer reads its stream without a LayerNorm
        blocks = nn.Sequential(*(_fused_block(block, centred) for block in tower.transformer.resblocks))
        if getattr(tower, "attn_mask", None) is not None:
            mask = torch.full((len(position), len(position)), FAR).triu(1).to(position)
            for block in blocks:
                assert isinstance(block, Block)
                block.attn.mask = mask[None, None]  # [1, 1, L, L]
        if centred:
            tokens.weight.data, position = centre(tokens.weight), centre(position)
        project = linear_like(tower.text_projection, tower.text_projection.detach().double().T, _zeros(tower))
        norm, head = fold_norm_into_linear(tower.ln_final, project)
        norm.centred = centred
        return cls(tokens, position, blocks, norm, head)

    def forward(self, ids: Tensor) -> Tensor:
        end = (ids == self.end).to(self.position.dtype).reshape(ids.shape[0], 1, -1)  # [B, 1, L]
        first = end * torch.relu(F.linear(end, self.earlier, self.one))  # [B, 1, L], one at the first end-of-text id
        x = self.blocks(self.tokens(ids) + self.position)  # [B, L, C]
        pooled = torch.matmul(first, self.norm(x))  # [B, 1, C]
        out: Tensor = self.head(pooled)
        return out.reshape(ids.shape[0], -1)


def _zeros(tower: nn.Module) -> Tensor:
    assert isinstance(tower.text_projection, Tensor)
    return torch.zeros(tower.text_projection.shape[1], dtype=torch.float64, device=tower.text_projection.device)


def _fused_block(block: nn.Module, centred: bool) -> nn.Module:
    if isinstance(block, RepMixerBlock):
        return FusedRepMixerBlock(
            merge_mixer(block.token_mixer, block.token_mixer.layer_scale),
            fold_bn_into_conv(block.mlp.conv.conv, block.mlp.conv.bn),
            copied(block.mlp.fc1),
            scale_output(block.mlp.fc2, block.layer_scale.flatten()),
        )
    assert isinstance(block, ResidualAttentionBlock)
    attn = block.attn
    packed = linear_like(
        attn.in_proj_weight, attn.in_proj_weight.detach().double(), attn.in_proj_bias.detach().double()
    )
    norm1, qkv = fold_norm_into_linear(block.ln_1, packed)
    qkv = fold_query_scale(qkv, (attn.embed_dim // attn.num_heads) ** -0.5)
    norm2, fc1 = fold_norm_into_linear(block.ln_2, block.mlp.c_fc)
    proj, fc2 = copied(attn.out_proj), copied(block.mlp.c_proj)
    if centred:
        proj, fc2 = centre_output(proj), centre_output(fc2)
        norm1.centred = norm2.centred = True
    return Block(norm1, Attention(qkv, proj, attn.num_heads), norm2, Mlp(fc1, fc2))
