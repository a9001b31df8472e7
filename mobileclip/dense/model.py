"""`DenseModel`: an encoder that gives a pyramid of four maps, and a head on it.

Legend: B pictures, H and W rows and columns, K classes, C_i channels of map i (strides 4, 8, 16, 32).
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

from torch import Tensor, nn

from mobileclip.config import Origin
from mobileclip.dense.config import DenseConfig, head_of
from mobileclip.dense.samples import Targets
from mobileclip.models.pyramid import Pyramid, build_pyramid


class Head(Protocol):
    """What every head is (an `nn.Module` with these).

    `forward` gives what is deployed: segmentation logits [B, K, H/4, W/4]; depth [B, 1, h, w] in metres; detection the
    tensors that its class describes.
    """

    def forward(self, maps: Sequence[Tensor]) -> Any: ...

    def loss(self, maps: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """Weighted parts whose sum is minimised, in training mode; maps of pictures as they were padded."""
        ...

    def deployed(self) -> nn.Module:
        """New modules with the same `forward` in evaluation, for one size of maps where that matters: no BatchNorm,
        no dropout, no part that only trains, only operators that every target has."""
        ...


class DenseModel(nn.Module):
    """Pixels [B, 3, H, W], scaled to 0..1 and by the encoder's mean and std -> what the head gives.

    Attributes:
        encoder: pixels -> four maps [B, C_i, H / s_i, W / s_i].
        head: the maps -> outputs.
        config: what was built.
        origin: where the weights come from; None for weights drawn here.
    """

    def __init__(self, config: DenseConfig, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.origin: Origin | None = None
        self.encoder = encoder
        self.head = head

    def forward(self, x: Tensor) -> Any:
        return self.head(self.encoder(x))

    def loss(self, x: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Weighted parts of the loss by name; their sum is minimised."""
        parts: dict[str, Tensor] = self.head.loss(self.encoder(x), targets)  # type: ignore[operator]
        return parts

    @property
    def is_deployed(self) -> bool:
        """Whether this is what `deployed` gave."""
        return not isinstance(self.encoder, Pyramid)

    def deployed(self) -> "DenseModel":
        """A new model of the deployed forms of both parts, equal in evaluation (`mobileclip.fuse` asks for it)."""
        encoder: Any = self.encoder
        head: Any = self.head
        fused = DenseModel(self.config, encoder.deployed(), head.deployed())
        fused.origin = self.origin
        return fused


def build(config: DenseConfig) -> DenseModel:
    """A dense model with fresh weights, in evaluation mode, in the form that trains.

    Raises:
        UnknownName: no such head.
    """
    encoder: Pyramid = build_pyramid(config.encoder, config.size)
    return DenseModel(config, encoder, build_head(config, encoder.channels)).eval()


def build_head(config: DenseConfig, channels: Sequence[int]) -> nn.Module:
    """The head of a configuration on maps of so many channels."""
    module, _, name = head_of(config.head).home.partition(":")
    head: nn.Module = getattr(import_module(module), name)(tuple(channels), config, **config.head_args())
    return head
