"""How pictures become inputs of a view, and the pictures that set the ranges of activations when it is quantised."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from export.calibration import LEAST as LEAST
from export.calibration import MOST as MOST
from export.calibration import Calibration as Calibration
from export.targets import Kind
from mobileclip.config import ModelConfig
from mobileclip.dense import host, host_detection
from mobileclip.preprocessing import preprocess


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


def write_inputs(inputs: Sequence[Tensor], path: Path) -> None:
    """Write inputs of one shape for workers."""
    path.parent.mkdir(exist_ok=True)
    torch.save(torch.cat(list(inputs)), path)


def read_inputs(path: Path) -> list[Tensor]:
    """What `write_inputs` wrote, one picture each."""
    return list(torch.load(path, weights_only=True).split(1))


def held_apart(path: Path) -> tuple[list[Tensor], list[Tensor]]:
    """(inputs that set ranges, inputs that judge) of what `write_inputs` wrote; none of either where nothing was."""
    return apart(read_inputs(path) if path.exists() else [])


def apart(inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """(inputs that set ranges, inputs that judge): every fourth judges where there are enough."""
    if len(inputs) < 2 * LEAST:
        return list(inputs), []
    return [x for index, x in enumerate(inputs) if index % 4 != 3], list(inputs[3::4])
