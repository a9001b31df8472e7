"""A model: two towers side by side, whatever they are made of and in whichever form."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from mobileclip.config import ModelConfig, Origin


class Clip(nn.Module):
    """An image tower and, perhaps, a text tower that share an embedding space.

    Attributes:
        image: [B, 3, S, S] (preprocessed) -> [B, E].
        text: int ids [B, 77] -> [B, E], or None.
        logit_scale: natural logarithm of the factor on cosines; its exponential is held below 100 in training.
        config: what was built.
        origin: where the weights come from; None for weights drawn here.
    """

    def __init__(self, config: "ModelConfig", image: nn.Module, text: nn.Module | None) -> None:
        super().__init__()
        self.config = config
        self.origin: Origin | None = None
        self.image = image
        self.text = text
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # CLIP (Radford et al., 2021), section 2.5

    def encode_image(self, x: Tensor, normalize: bool = False) -> Tensor:
        """Pixels [B, 3, S, S] from `mobileclip.preprocess` -> embedding [B, E], of unit length if `normalize`."""
        out: Tensor = self.image(x)
        return F.normalize(out, dim=-1) if normalize else out

    def encode_text(self, ids: Tensor, normalize: bool = False) -> Tensor:
        """Ids [B, 77] from `mobileclip.tokenize` -> embedding [B, E], of unit length if `normalize`."""
        assert self.text is not None, f"{self.config.name} has no text tower"
        out: Tensor = self.text(ids)
        return F.normalize(out, dim=-1) if normalize else out

    def forward(self, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(image [B, E], text [B, E], factor on cosines); embeddings of unit length."""
        return self.encode_image(x, True), self.encode_text(ids, True), self.logit_scale.exp()
