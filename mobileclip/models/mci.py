"""MCi as it is deployed: no branch, no BatchNorm, no layer scale, every line of it a layer that a device runs.

`FusedMCi.from_timm` turns timm's `FastVit` (the form that trains, or the one that timm's own `reparameterize_model`
leaves) into it. Merging the branches is where published tools stop; here BatchNorms after the 7x7 convolutions fold
into them, those before attention into the queries, keys and values, layer scales into the layer before them, and the
attention's scale into its queries. All of it in float64, each weight rounded once.

FastViT: Vasu et al., 2023 (arXiv 2303.14189), section 3. MCi: Vasu et al., MobileCLIP, 2024 (arXiv 2311.17049),
section 4.

Legend: B batch, C channels, H and W rows and columns, N = H * W tokens.
"""

from timm.layers import LayerNorm2d, SqueezeExcite
from timm.models import fastvit
from torch import Tensor, nn

from mobileclip.models.blocks import (
    Attention,
    fold_bn_into_conv,
    fold_norm_into_linear,
    fold_query_scale,
    scale_output,
)
from mobileclip.models.branches import copied, fold_bn_into_linear, merge_mixer, merge_parallel


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate in 0..1 that two 1x1 convolutions draw from its mean (Hu et al., 2018)."""

    def __init__(self, fc1: nn.Conv2d, fc2: nn.Conv2d) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2, self.gate = fc1, nn.ReLU(), fc2, nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)  # [B, C, 1, 1]
        gate: Tensor = self.gate(self.fc2(self.act(self.fc1(mean))))
        return x * gate


class ConvMlp(nn.Module):
    """Depthwise convolution, 1x1 to the hidden width, GELU, 1x1 back; [B, C, H, W] -> the same."""

    def __init__(self, conv: nn.Conv2d, fc1: nn.Conv2d, fc2: nn.Conv2d) -> None:
        super().__init__()
        self.conv, self.fc1, self.act, self.fc2 = conv, fc1, nn.GELU(), fc2

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(self.conv(x))))
        return out


class MixerBlock(nn.Module):
    """RepMixer block: one depthwise convolution (residual inside it), then a perceptron with its residual."""

    def __init__(self, mixer: nn.Conv2d, mlp: ConvMlp) -> None:
        super().__init__()
        self.mixer, self.mlp = mixer, mlp

    def forward(self, x: Tensor) -> Tensor:
        x = self.mixer(x)
        out: Tensor = x + self.mlp(x)
        return out


class AttentionBlock(nn.Module):
    """Attention over all pixels, then a perceptron, both with residuals; [B, C, H, W] -> the same."""

    def __init__(self, norm: nn.Module, attn: Attention, mlp: ConvMlp) -> None:
        super().__init__()
        self.norm, self.attn, self.mlp = norm, attn, mlp

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)  # [B, N, C]
        mixed = self.attn(self.norm(tokens))  # [B, N, C]
        x = x + mixed.transpose(1, 2).reshape(x.shape)
        out: Tensor = x + self.mlp(x)
        return out


class FusedMCi(nn.Module):
    """Pixels [B, 3, S, S] -> embedding [B, E], not normalised.

    `stages` hold the pyramid at strides 4, 8, 16, 32 (and 64 in MCi3 and MCi4).
    """

    def __init__(self, stem: nn.Sequential, stages: nn.Sequential, final: nn.Sequential, head: nn.Linear) -> None:
        super().__init__()
        self.stem, self.stages, self.final, self.head = stem, stages, final, head

    @classmethod
    def from_timm(cls, trunk: fastvit.FastVit) -> "FusedMCi":
        """New modules equal to `trunk.eval()`, branches merged already or not; `trunk` is left as it is."""
        stem = nn.Sequential(*(layer for block in trunk.stem for layer in _merged(block)))
        final = nn.Sequential(*_merged(trunk.final_conv))
        return cls(stem, nn.Sequential(*map(_stage, trunk.stages)), final, copied(trunk.head.fc))

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """Feature maps of the stages, finest first: [B, C_i, S / stride_i, S / stride_i]."""
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]

    def forward(self, x: Tensor) -> Tensor:
        x = self.final(self.pyramid(x)[-1])
        x = x.mean((2, 3), keepdim=True)  # [B, C, 1, 1]: XNNPACK takes a mean only with its dimensions kept
        out: Tensor = self.head(x.flatten(1))
        return out


class FusedMciPyramid(nn.Module):
    """Pixels [B, 3, H, W] -> the maps of the stages at strides 4, 8, 16, 32, for dense heads."""

    def __init__(self, stem: nn.Sequential, stages: nn.Sequential) -> None:
        super().__init__()
        self.stem, self.stages = stem, stages

    @classmethod
    def from_timm(cls, trunk: fastvit.FastVit) -> "FusedMciPyramid":
        """New modules equal to the stem and stages of `trunk.eval()`; `trunk` is left as it is."""
        stem = nn.Sequential(*(layer for block in trunk.stem for layer in _merged(block)))
        fused = cls(stem, nn.Sequential(*map(_stage, trunk.stages)))
        return fused.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


def _stage(stage: fastvit.FastVitStage) -> nn.Sequential:
    layers: list[nn.Module] = []
    if isinstance(stage.downsample, fastvit.PatchEmbed):
        large, point = stage.downsample.proj
        layers += [*_merged(large), *_merged(point)]
    if isinstance(stage.pos_emb, fastvit.RepConditionalPosEnc):
        layers.append(_position(stage.pos_emb))
    return nn.Sequential(*layers, *map(_block, stage.blocks))


def _merged(block: fastvit.MobileOneBlock | fastvit.ReparamLargeKernelConv) -> list[nn.Module]:
    return [merge_parallel(block), *_excite(block.se), *_activation(block.act)]


def _excite(se: nn.Module) -> list[nn.Module]:
    if isinstance(se, SqueezeExcite):
        return [SqueezeExcitation(copied(se.fc1), copied(se.fc2))]
    assert isinstance(se, nn.Identity)
    return []


def _activation(act: nn.Module) -> list[nn.Module]:
    if isinstance(act, nn.GELU):
        return [nn.GELU()]
    assert isinstance(act, nn.Identity), f"no deployed form of {type(act).__name__}"
    return []


def _position(pos: fastvit.RepConditionalPosEnc) -> nn.Conv2d:
    """`x + conv(x)` as one convolution: a one is added to the centre of each kernel."""
    merged = pos.reparam_conv is not None
    conv: nn.Conv2d = copied(pos.reparam_conv if merged else pos.pos_enc)
    if merged:
        return conv
    weight = conv.weight.double()
    weight[..., weight.shape[-2] // 2, weight.shape[-1] // 2] += 1
    conv.weight.data = weight.to(conv.weight)
    return conv


def _block(block: nn.Module) -> nn.Module:
    if isinstance(block, fastvit.RepMixerBlock):
        mixer = block.token_mixer
        scale = getattr(mixer, "layer_scale", None)
        conv = merge_mixer(mixer, None if scale is None else scale.gamma)
        return MixerBlock(conv, _mlp(block.mlp, block.layer_scale.gamma))
    assert isinstance(block, fastvit.AttentionBlock)
    return _attention_block(block)


def _attention_block(block: fastvit.AttentionBlock) -> AttentionBlock:
    source = block.token_mixer
    norm: nn.Module
    if isinstance(block.norm, LayerNorm2d):
        norm, qkv = fold_norm_into_linear(block.norm, source.qkv)
    else:
        norm, qkv = nn.Identity(), fold_bn_into_linear(block.norm, source.qkv)
    qkv = fold_query_scale(qkv, source.scale)
    proj = scale_output(source.proj, block.layer_scale_1.gamma.flatten())
    attn = Attention(qkv, proj, source.num_heads)
    return AttentionBlock(norm, attn, _mlp(block.mlp, block.layer_scale_2.gamma))


def _mlp(mlp: fastvit.ConvMlp, gamma: Tensor) -> ConvMlp:
    conv = fold_bn_into_conv(mlp.conv.conv, mlp.conv.bn)
    return ConvMlp(conv, copied(mlp.fc1), scale_output(mlp.fc2, gamma.flatten()))
