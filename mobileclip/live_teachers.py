"""Teachers that run beside the student: open_clip models, frozen, each seeing the student's own augmented pixels.

A teacher is `NAME:TAG` as open_clip knows it, or `NAME:FILE` with weights on this disk (read without unpickling), e.g.
`ViT-L-14:openai`. Stored embeddings are cheaper by two forward passes of a ViT-L/14 a step; this is for corpora
that have none. Source: Vasu et al., MobileCLIP (2024), section 4.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor
from torch.nn import functional as F

from mobileclip.errors import TrainingError
from mobileclip.tokenizer import VOCABULARY


class LiveTeachers:
    """Pixels and tokens -> the teachers' embeddings side by side."""

    def __init__(self, names: Sequence[str], device: torch.device, *, bf16: bool = False) -> None:
        self.device, self.bf16 = device, bf16
        self.models = [_teacher(name).to(device) for name in names]
        sizes = {
            self._text(model, torch.zeros(1, 77, dtype=torch.long, device=device)).shape[-1] for model in self.models
        }
        if len(sizes) > 1:
            raise TrainingError(
                f"the teachers {', '.join(names)} have embeddings of {', '.join(map(str, sorted(sizes)))} numbers: "
                "take teachers of one size."
            )

    @torch.no_grad()
    def __call__(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [b, 3, S, S] and ids [b, M, 77] -> unit embeddings [b, T*D] and [b, M, T*D]."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            image = [self._image(model, images) for model in self.models]
            text = [self._text(model, tokens.flatten(0, 1).long()) for model in self.models]
        b, m = tokens.shape[:2]
        return torch.cat(image, -1), torch.cat(text, -1).view(b, m, -1)

    def _image(self, model: Any, images: Tensor) -> Tensor:
        size = model.visual.image_size
        size = tuple(size) if isinstance(size, Sequence) else (size, size)
        pixels = images.float() / 255
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (
            torch.tensor(v, device=pixels.device).view(3, 1, 1)
            for v in (model.visual.image_mean, model.visual.image_std)
        )
        return F.normalize(model.encode_image((pixels - mean) / std).float(), dim=-1)

    def _text(self, model: Any, ids: Tensor) -> Tensor:
        return F.normalize(model.encode_text(ids).float(), dim=-1)


def _teacher(name: str) -> Any:
    model, _, weights = name.partition(":")
    if model not in open_clip.list_models():
        raise TrainingError(
            f"unknown teacher '{model}': give NAME:TAG or NAME:FILE with open_clip's name, as in ViT-L-14:openai."
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if weights and weights not in tags and not Path(weights).exists():
        raise TrainingError(
            f"'{weights}' is no weights of {model}: give one of {', '.join(tags) or 'its files'}, or a file."
        )
    if not weights:
        raise TrainingError(f"the teacher '{model}' has no weights: write {model}:TAG or {model}:FILE.")
    try:
        built = open_clip.create_model(model, pretrained=weights)
    except Exception as error:  # of the hub, of the file, of a shape
        raise TrainingError(
            f"the teacher {name} cannot be loaded ({str(error)[:200]}): give a file on this disk."
        ) from error
    if getattr(built, "vocab_size", VOCABULARY) != VOCABULARY:
        raise TrainingError(f"the teacher {name} has another tokenizer: take one with CLIP's {VOCABULARY:,} tokens.")
    return built.eval().requires_grad_(False)
