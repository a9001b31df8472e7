"""The dense twin of an image tower: features of every pixel of its last map whose mean is the image embedding.

A tower that ends with the mean over pixels and an affine layer may take the mean last: `W mean(x) + b` is
`mean(W x + b)`. So the features need no training, cost one 1x1 convolution, and live in the space of the texts. MCi's
last convolution is gated by squeeze-and-excitation, whose gate is drawn from the mean over the very same pixels and
stays as it is. Swin ends alike. A ViT is pooled by its class token, which is no mean of its patches: it has no twin.

Legend: B pictures, E length of the embedding, C channels, H and W rows and columns, h and w of the last map.
"""

import copy

from timm.models.fastvit import FastVit
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from mobileclip.errors import MobileClipError
from mobileclip.models.mci import FusedMCi
from mobileclip.models.swin import FusedSwin


class MciTwin(FusedMCi):
    """Pixels [B, 3, H, W] -> features [B, E, H/32, W/32] of a fused MCi; H and W are free."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.final(self.pyramid(x)[-1]))
        return out


class TrainedMciTwin(nn.Module):
    """As `MciTwin`, of timm's tower in the form that trains."""

    def __init__(self, trunk: FastVit) -> None:
        super().__init__()
        self.trunk, self.head = trunk, pointwise(trunk.head.fc)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk.stem(x)
        for stage in self.trunk.stages:
            x = stage(x)
        out: Tensor = self.head(self.trunk.final_conv(x))
        return out


class SwinTwin(FusedSwin):
    """Pixels [B, 3, S, S] -> features [B, E, S/32, S/32] of a fused Swin, at its one size."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)  # [B, H, W, C]
        x = self.norm(self.body(self.patch_norm(x)))
        out: Tensor = self.head(x.permute(0, 3, 1, 2))
        return out


class TrainedSwinTwin(nn.Module):
    """As `SwinTwin`, of timm's tower in the form that trains."""

    def __init__(self, trunk: SwinTransformer) -> None:
        super().__init__()
        self.trunk, self.head = trunk, pointwise(trunk.head.fc)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.trunk.forward_features(x).permute(0, 3, 1, 2))
        return out


def twin_of(tower: nn.Module) -> nn.Module:
    """The twin of an image tower, fused or in training form, in evaluation mode; it shares the tower's weights.

    Raises:
        MobileClipError: the tower does not end with the mean over its pixels.
    """
    twin: nn.Module
    if isinstance(tower, FusedMCi):
        twin = MciTwin(tower.stem, tower.stages, tower.final, pointwise(tower.head))  # type: ignore[arg-type]
    elif isinstance(tower, FusedSwin):
        twin = SwinTwin(tower.patch, tower.patch_norm, tower.body, tower.norm, pointwise(tower.head))
    elif isinstance(tower, FastVit):
        twin = TrainedMciTwin(tower)
    elif isinstance(tower, SwinTransformer):
        twin = TrainedSwinTwin(tower)
    else:
        raise MobileClipError(
            f"a {type(tower).__name__} is pooled by its class token, so no features of its pixels average to the "
            "embedding: take a model with an MCi or a Swin."
        )
    return twin.eval()


def pointwise(linear: nn.Module) -> nn.Conv2d:
    """A linear layer as a 1x1 convolution, with copies of its weights."""
    assert isinstance(linear, nn.Linear), "an encoder without a projection has no embedding"
    conv = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=linear.bias is not None)
    conv.weight = nn.Parameter(linear.weight.detach()[:, :, None, None].clone(), requires_grad=False)
    if linear.bias is not None:
        conv.bias = copy.deepcopy(linear.bias).requires_grad_(False)
    return conv
