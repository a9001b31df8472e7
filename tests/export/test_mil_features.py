"""Pictures in the order, scale and bias of a program, and feeds that do not fit it."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from package_refusals import refused
from PIL import Image
from torch import Tensor, nn

from export.mil import Program

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)


def traced(module: nn.Module, *example: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(module.eval(), example)


class Mixer(nn.Module):
    """Keeps channels apart, so that their order shows."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory, convert: Callable[..., Path]) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pictures")
    captured = traced(Mixer(), torch.rand(1, 3, 8, 6))
    grey = traced(nn.ReLU(), torch.rand(1, 1, 8, 6))
    outputs = [ct.TensorType("y")]

    def image(layout: str, channels: int, **options: Any) -> list[Any]:
        return [ct.ImageType("image", (1, channels, 8, 6), color_layout=getattr(ct.colorlayout, layout), **options)]

    bias = [-0.5, -0.25, 0.0]
    return {
        "RGB": convert(captured, folder / "rgb.mlpackage", inputs=image("RGB", 3, scale=1 / 255), outputs=outputs),
        "BGR": convert(
            captured, folder / "bgr.mlpackage", inputs=image("BGR", 3, scale=1 / 127, bias=bias), outputs=outputs
        ),
        "GRAYSCALE": convert(grey, folder / "grey.mlpackage", inputs=image("GRAYSCALE", 1), outputs=outputs),
    }


def test_pictures_take_the_programs_order_scale_and_bias(pictures: dict[str, Path]) -> None:
    weights = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)
    chw = torch.from_numpy(PIXELS).permute(2, 0, 1)[None].float()
    rgb = Program.load(pictures["RGB"])
    assert (rgb.inputs[0].kind, rgb.inputs[0].colour, rgb.inputs[0].shape) == ("image", "RGB", (1, 3, 8, 6))
    assert rgb.inputs[0].scale == pytest.approx(1 / 255)
    assert rgb.inputs[0].bias == (0.0,)
    for feed in (PIXELS, Image.fromarray(PIXELS), torch.from_numpy(PIXELS), chw, chw.numpy()):
        torch.testing.assert_close(rgb.run({"image": feed})["y"], chw / 255 * weights)
    bgr = Program.load(pictures["BGR"])
    assert bgr.inputs[0].bias == (-0.5, -0.25, 0.0)
    wanted = (chw.flip(1) / 127 + torch.tensor([-0.5, -0.25, 0]).reshape(1, 3, 1, 1)) * weights
    torch.testing.assert_close(bgr.run({"image": PIXELS})["y"], wanted)
    torch.testing.assert_close(bgr.run({"image": chw})["y"], wanted)
    grey = Program.load(pictures["GRAYSCALE"])
    assert (grey.inputs[0].colour, grey.inputs[0].scale) == ("GRAYSCALE", 1.0)
    assert torch.equal(grey.run({"image": PIXELS[..., 0]})["y"], chw[:, :1])


def test_feeds_that_do_not_fit(pictures: dict[str, Path], small_package: Path, features: Tensor) -> None:
    rgb, tensors = Program.load(pictures["RGB"]), Program.load(small_package)
    refused(lambda: rgb.run({"x": PIXELS}), "rgb.mlpackage takes the inputs image; it was given x.")
    refused(lambda: rgb.run({}), "takes the inputs image; it was given nothing.")
    picture = "input 'image' takes a picture, uint8 RGB [8, 6, 3] or 0..255 RGB [1, 3, 8, 6]; it was given "
    refused(lambda: rgb.run({"image": PIXELS[:5]}), picture + "uint8 [1, 3, 5, 6] from 0 to 2")
    refused(lambda: rgb.run({"image": PIXELS[..., 0]}), picture + "uint8 [1, 1, 8, 6]")
    refused(lambda: rgb.run({"image": PIXELS.astype(np.float32)}), picture + "float32 [8, 6, 3]")
    refused(lambda: rgb.run({"image": np.full((1, 3, 8, 6), -1.0)}), "from -1 to -1.")
    refused(lambda: rgb.run({"image": torch.rand(1, 3, 8, 6)}), "it was given fractions from 0 to 1: multiply by 255")
    refused(lambda: rgb.run({"image": "cat.jpg"}), "input 'image' takes numbers; it was given str.")
    needs = "input 'x' takes float32 [1, 16, 6, 6] (-1: any size); it was given "
    refused(lambda: tensors.run({"x": features[0]}), needs + "float32 [16, 6, 6].")
    refused(lambda: tensors.run({"x": features.int()}), needs + "int32 [1, 16, 6, 6].")
    refused(lambda: tensors.run({"x": features > 0}), needs + "bool [1, 16, 6, 6].")
