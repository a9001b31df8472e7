"""How pictures become inputs of a view, and the pictures that set the ranges of activations when it is quantised."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from export.targets import Kind
from mobileclip.config import ModelConfig
from mobileclip.dense import host, host_detection
from mobileclip.errors import MobileClipError
from mobileclip.preprocessing import load_images, preprocess, read_image

LEAST, MOST = 8, 128
"""Pictures: fewer say too little of the ranges, so many show them."""


def pictures(manifest: Mapping[str, Any], kind: Kind) -> Callable[[Image.Image], Tensor]:
    """What makes the input of a view, float32 [1, 3, H, W] in 0..1, of an upright picture of any size.

    Args:
        manifest: of a bundle, or what its subject says of itself.
    """
    if kind == "image":
        config = ModelConfig.from_dict(manifest["model"]["config"])
        transform = preprocess(replace(config.preprocess, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
        return lambda image: transform(image).unsqueeze(0)
    about = manifest["dense"]["input"]
    size = (int(about["size"][0]), int(about["size"][1]))

    def fit(image: Image.Image) -> Tensor:
        pixels = fitted(np.asarray(image.convert("RGB")), size, about["resize"])
        return torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32) * np.float32(1 / 255))

    return fit


def fitted(image: Any, size: tuple[int, int], rule: str) -> Any:
    """RGB uint8 [H, W, 3] -> uint8 [*size, 3], stretched or letterboxed as the manifest says."""
    return host_detection.letterbox(image, size)[0] if rule == "letterbox" else host.stretch(image, size)


@dataclass(frozen=True)
class Calibration:
    """Pictures of a folder, spread evenly over its names."""

    folder: str
    images: tuple[Path, ...]

    @staticmethod
    def of(folder: str | Path) -> "Calibration":
        """At most `MOST` pictures of a folder.

        Raises:
            ImageError: no picture.
            MobileClipError: fewer than `LEAST`.
        """
        found = load_images(folder)
        if len(found) < LEAST:
            raise MobileClipError(
                f"{folder} holds {len(found)} picture(s): calibration needs {LEAST} or more that look like what the "
                f"app will see, and takes up to {MOST}."
            )
        step = max(len(found) / MOST, 1.0)
        return Calibration(str(folder), tuple(found[int(i * step)] for i in range(min(len(found), MOST))))

    def inputs(self, fit: Callable[[Image.Image], Tensor]) -> list[Tensor]:
        """What a view takes, [1, 3, H, W] in 0..1, of each picture.

        Raises:
            ImageError: a picture that cannot be read.
            MobileClipError: all are one colour, which says nothing of the ranges.
        """
        inputs = [fit(read_image(path)) for path in self.images]
        if all(float(x.amax() - x.amin()) == 0 for x in inputs):
            raise MobileClipError(f"every picture of {self.folder} is of one colour alone: calibrate with photos.")
        return inputs

    def digest(self) -> str:
        """SHA-256 over the files, in order."""
        digest = hashlib.sha256()
        for path in self.images:
            digest.update(path.read_bytes())
        return digest.hexdigest()


def write_inputs(inputs: Sequence[Tensor], path: Path) -> None:
    """Write inputs of one shape for workers."""
    path.parent.mkdir(exist_ok=True)
    torch.save(torch.cat(list(inputs)), path)


def read_inputs(path: Path) -> list[Tensor]:
    """What `write_inputs` wrote, one picture each."""
    return list(torch.load(path, weights_only=True).split(1))


def held_apart(path: Path) -> tuple[list[Tensor], list[Tensor]]:
    """(inputs that set ranges, inputs that judge) of what `write_inputs` wrote: every fourth judges where there are
    enough; none of either where nothing was written."""
    inputs = read_inputs(path) if path.exists() else []
    if len(inputs) < 2 * LEAST:
        return inputs, []
    return [x for index, x in enumerate(inputs) if index % 4 != 3], inputs[3::4]
