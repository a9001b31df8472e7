"""What goes into and comes out of a Core ML program: the description of its features, and feeds made to fit.

A picture is given as people have pictures (uint8 RGB, or 0..255) and leaves as the program wants it: [1, C, H, W],
0..255, in the program's order of channels. Scale and bias of an ImageType are operators of the program (coremltools
9.0, `backend/mil/passes/insert_image_preprocessing_op.py`), so they are described here and applied by running it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.mil_package import Constant, Package, data_type, declared_shape
from mobileclip.errors import ArtifactError


@dataclass(frozen=True, kw_only=True)
class Feature:
    """An input or output of a program."""

    name: str
    shape: tuple[int, ...]
    "Sizes as the program sees them (a picture is [1, C, H, W]); -1 where any size is allowed."
    dtype: str
    "'float32', 'float16', 'int32', ...; of a classifier's outputs 'string' and 'dictionary'."
    kind: str
    "'tensor' or 'image'."
    colour: str | None = None
    "Of an image: 'RGB', 'BGR', 'GRAYSCALE' or 'GRAYSCALE_FLOAT16', the order of its channels in the program."
    scale: float | None = None
    "Of an image input: the factor that the program first applies to 0..255 (coremltools' ImageType scale), 1 if none."
    bias: tuple[float, ...] | None = None
    "Of an image input: what the program adds next, per channel in the order of `colour`."


def fit(program: str, feature: Feature, value: Any) -> Tensor:
    """A feed as float32 or int64, checked against the input `feature`; `program` is a name for the error text."""
    tensor = value.detach().cpu() if isinstance(value, Tensor) else _from_numpy(program, feature, value)
    return (_image if feature.kind == "image" else _tensor)(program, feature, tensor)


def _tensor(program: str, feature: Feature, tensor: Tensor) -> Tensor:
    kind = "float" if feature.dtype.startswith("float") else "integer"
    given = "float" if tensor.is_floating_point() else "truth value" if tensor.dtype == torch.bool else "integer"
    fits = tensor.ndim == len(feature.shape) and all(
        n in (-1, m) for n, m in zip(feature.shape, tensor.shape, strict=True)
    )
    if not fits or given != kind:
        raise ArtifactError(
            f"{program}: input '{feature.name}' takes {feature.dtype} {list(feature.shape)} (-1: any size); "
            f"it was given {_dtype(tensor)} {list(tensor.shape)}."
        )
    return tensor.float() if kind == "float" else tensor.long()


def _image(program: str, feature: Feature, tensor: Tensor) -> Tensor:
    """A picture as float32 [1, C, H, W], 0..255, channels in the program's order."""
    channels = 1 if feature.colour is not None and feature.colour.startswith("GRAY") else 3
    height, width = feature.shape[-2:]
    if tensor.ndim < 4 and tensor.dtype == torch.uint8:
        tensor = tensor.unsqueeze(-1) if tensor.ndim == 2 else tensor
        tensor = tensor.permute(2, 0, 1).unsqueeze(0) if tensor.ndim == 3 else tensor  # [1, C, H, W]
    wanted = (1, channels, height, width)
    fits = tensor.ndim == 4 and all(n in (-1, m) for n, m in zip(wanted, tensor.shape, strict=True))
    pixels = tensor.float()
    if not fits or not bool(((pixels >= 0) & (pixels <= 255)).all()):
        order = "grey" if channels == 1 else "RGB"
        raise ArtifactError(
            f"{program}: input '{feature.name}' takes a picture, uint8 {order} {[height, width, channels]} or "
            f"0..255 {order} {list(wanted)}; it was given {_dtype(tensor)} {list(tensor.shape)}"
            + (f" from {float(pixels.min()):.3g} to {float(pixels.max()):.3g}." if tensor.numel() else ".")
        )
    if tensor.is_floating_point() and float(pixels.max()) <= 1 and bool((pixels != pixels.round()).any()):
        raise ArtifactError(
            f"{program}: input '{feature.name}' takes a picture of 0..255; it was given fractions from 0 to 1: "
            "multiply by 255 (the program scales by itself)."
        )
    pixels = pixels.reshape(1, *pixels.shape[1:]) if len(feature.shape) == 4 else pixels[0]
    return pixels.flip(-3) if feature.colour == "BGR" else pixels


def _from_numpy(program: str, feature: Feature, value: Any) -> Tensor:
    try:
        array = np.asarray(value)
        wide = array.dtype.kind == "u" and array.itemsize > 1  # torch can do little with uint16 and wider
        return torch.from_numpy(array.astype(np.int64) if wide else array.copy())
    except (TypeError, ValueError) as error:
        raise ArtifactError(
            f"{program}: input '{feature.name}' takes numbers; it was given {type(value).__name__}."
        ) from error


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def describe(
    package: Package,
    function: str,
    name: str,
    typed: Any,
    users: Mapping[str, Sequence[tuple[str, list[str], str]]] | None = None,
    values: Mapping[str, Constant] | None = None,
) -> Feature:
    """Describe an output, or with `users` and `values` an input, from its MIL type and the model's description.

    `users`: for each tensor the operators that use it, as (op, names of its inputs, name of its first output).
    """
    description = package.spec.description
    sources = [*(f for f in description.functions if f.name == function), description]
    listed = [f for source in sources for f in (*source.input, *source.output) if f.name == name]
    kind = listed[0].type.WhichOneof("Type") if listed else None
    if typed.type.WhichOneof("type") == "dictionaryType" or kind in ("stringType", "dictionaryType"):
        return Feature(name=name, shape=(), dtype=str(kind or "dictionaryType").removesuffix("Type"), kind="tensor")
    tensor = typed.type.tensorType
    shape, dtype = declared_shape(tensor), data_type(tensor).lower()
    if kind != "imageType":
        return Feature(name=name, shape=shape, dtype=dtype, kind="tensor")
    if len(shape) not in (3, 4):
        raise ArtifactError(
            f"{package.path.name}: '{name}' is an image of shape {list(shape)}; it should be [1, C, H, W]."
        )
    image = listed[0].type.imageType
    colour = str(image.ColorSpace.Name(image.colorSpace))
    if values is None or users is None:
        return Feature(name=name, shape=shape, dtype=dtype, kind="image", colour=colour)
    scale, bias = _preprocessing(name, users, values)
    return Feature(name=name, shape=shape, dtype=dtype, kind="image", colour=colour, scale=scale, bias=bias)


def _preprocessing(
    name: str, users: Mapping[str, Sequence[tuple[str, list[str], str]]], values: Mapping[str, Constant]
) -> tuple[float, tuple[float, ...]]:
    """An ImageType's scale and bias, which coremltools writes as a `mul` and an `add` right behind the input."""
    found: dict[str, tuple[float, ...]] = {}
    for kind, sizes in (("mul", (1,)), ("add", (1, 3))):
        if len(users.get(name, ())) != 1 or users[name][0][0] != kind:
            continue
        _, inputs, output = users[name][0]
        constants = [v for ref in inputs if isinstance(v := values.get(ref), np.ndarray)]
        if len(constants) == 1 and constants[0].size in sizes:
            found[kind] = tuple(float(v) for v in constants[0].reshape(-1))
            name = output
    return found.get("mul", (1.0,))[0], found.get("add", (0.0,))
