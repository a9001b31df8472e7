"""Pixels in: a picture to what the image tower takes. The only place that knows how.

    pixels = preprocess("mobileclip_s2")(read_image("photo.jpg"))          # float32 [3, 256, 256], 0..1

`Transform` equals torchvision's `Resize, CenterCrop, ToTensor (, Normalize)` on a PIL image bit for bit, and does not
import torchvision. `square` is its uint8 half, for artifacts that take pictures (Core ML's ImageType): without mean and
std, `Transform(image) == square(image) / 255`. Files become pictures in images.py.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mobileclip.config import ModelConfig, Preprocess, config_of
from mobileclip.errors import ImageError, MobileClipError
from mobileclip.images import MAX_PIXELS, rgb

if TYPE_CHECKING:
    from torch import Tensor

    from mobileclip.models import Clip

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Transform:
    """Picture -> float32 [3, S, S]."""

    preprocess: Preprocess

    def __call__(self, image: Image.Image) -> "Tensor":
        """Any PIL image, upright -> RGB float32 [3, S, S], 0..1, or `(x - mean) / std` where the model wants it.

        Raises:
            ImageError: the picture has no pixels, has no RGB form, or is far too long for its width.
        """
        import torch

        pixels = torch.from_numpy(np.array(square(image, self.preprocess)))  # [S, S, 3]
        x = pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        if self.preprocess.normalises:
            mean, std = (torch.tensor(v, dtype=torch.float32) for v in (self.preprocess.mean, self.preprocess.std))
            x.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))
        return x


def preprocess(source: "str | Preprocess | ModelConfig | Clip") -> Transform:
    """The transform of a model: by its name, its configuration, or the model itself.

    Raises:
        UnknownName: no model has this name.
        MobileClipError: `source` is none of these.
    """
    if isinstance(source, Preprocess):
        return Transform(source)
    if isinstance(source, str):
        return Transform(config_of(source).preprocess)
    config = source if isinstance(source, ModelConfig) else getattr(source, "config", None)
    if not isinstance(config, ModelConfig):
        raise MobileClipError(
            f"no preprocessing is known for a {type(source).__name__}: give a model, its name or its configuration."
        )
    return Transform(config.preprocess)


def square(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Any PIL image, upright -> the RGB uint8 square that the tower sees, as an image of S x S.

    Shortest side to S with antialias, then the centre: the rounding is that of torchvision 0.29
    (`transforms/functional.py: _compute_resized_output_size, center_crop`).

    Raises:
        ImageError: the picture has no pixels, has no RGB form, or is far too long for its width.
    """
    size, (width, height) = preprocess.size, image.size
    if not width or not height:
        raise ImageError(f"the picture is {width} x {height}: it has no pixels; give one with at least 1 x 1.")
    short, long = sorted((width, height))
    wide = int(size * long / short)
    if size * wide > MAX_PIXELS:
        raise ImageError(
            f"the picture is {width} x {height}: a side may be at most {MAX_PIXELS // size**2:,} times the other."
        )
    image = rgb(image)
    resized = (size, wide) if width <= height else (wide, size)
    if resized != image.size:
        image = image.resize(resized, _FILTERS[preprocess.interpolation])
    left, top = (round((side - size) / 2.0) for side in resized)
    return image.crop((left, top, left + size, top + size))
