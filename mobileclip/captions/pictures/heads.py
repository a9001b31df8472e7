"""Heads that the user supplies: an embedding to one number, such as how pleasing a picture is, or how unsafe.

    head = load(Path("aesthetic.safetensors"))
    head(rows)                                       # [N, D] of unit length -> float32 [N]

A head is a safetensors file of linear layers, each a matrix `*.weight` [out, in] and, perhaps, a vector `*.bias` [out],
applied in the order of the numbers in their names (`layers.0.weight`, `layers.2.weight`, ...), the last with one
output. The file's metadata may say what stands between layers (`activation`: none, relu or gelu) and after the last
(`output`: none or sigmoid); none where it says nothing, which is what LAION's aesthetic heads are.

Sources: LAION-AI/aesthetic-predictor and christophschuhmann/improved-aesthetic-predictor, which publish heads of both
kinds for CLIP's embeddings of unit length.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mobileclip.errors import CheckpointError, UnknownName

Values = npt.NDArray[np.float64]

LAYERS = 16
"""At most so many."""


def _gelu(x: Values) -> Values:
    from math import erf

    out: Values = x * (0.5 + 0.5 * np.vectorize(erf, otypes=[np.float64])(x / np.sqrt(2.0)))
    return out


ACTIVATIONS: Mapping[str, Callable[[Values], Values]] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": _gelu,
}
"""What may stand between layers."""
OUTPUTS: Mapping[str, Callable[[Values], Values]] = {
    "none": lambda x: x,
    "sigmoid": lambda x: 1 / (1 + np.exp(-np.clip(x, -700, 700))),
}
"""What may stand after the last."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """Linear layers and what stands between them."""

    path: Path
    """The file."""
    sha256: str
    """Of the file."""
    layers: tuple[tuple[Values, Values], ...] = field(repr=False)
    """Matrix [out, in] and vector [out], in order."""
    activation: str
    """Between layers; key of `ACTIVATIONS`."""
    output: str
    """After the last; key of `OUTPUTS`."""

    def require(self, dim: int, where: str) -> None:
        """Refuse a head for other embeddings.

        Raises:
            CheckpointError: it takes another number of values than `dim`.
        """
        takes = self.layers[0][0].shape[1]
        if takes != dim:
            raise CheckpointError(
                f"{where} is a head for embeddings of {takes} numbers ('{self.path}'), the model gives {dim}: give a "
                "head that was trained on this model's embeddings."
            )

    def __call__(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Embeddings [N, D] of unit length -> float32 [N]; computed in float64, so that batches change nothing."""
        x = rows.astype(np.float64)
        for index, (weight, bias) in enumerate(self.layers):
            x = (ACTIVATIONS[self.activation](x) if index else x) @ weight.T + bias
        return OUTPUTS[self.output](x[:, 0]).astype(np.float32)


def load(path: Path) -> Head:
    """Read a head.

    Raises:
        CheckpointError: it is missing, damaged, or not a chain of linear layers with one output.
        UnknownName: its metadata names something else than is known.
    """
    from safetensors import SafetensorError, safe_open

    from mobileclip.checkpoint_files import read_weights, sha256_of

    tensors = {name: tensor.double().numpy() for name, tensor in read_weights(path).items()}
    try:
        with safe_open(path, "pt") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(
            f"the head '{path}' is no safetensors file: write its layers with safetensors' save_file."
        ) from error
    activation, output = metadata.get("activation", "none"), metadata.get("output", "none")
    if activation not in ACTIVATIONS:
        raise UnknownName(f"activation of the head '{path}'", activation, ACTIVATIONS)
    if output not in OUTPUTS:
        raise UnknownName(f"output of the head '{path}'", output, OUTPUTS)
    return Head(
        path=path,
        sha256=sha256_of(path),
        layers=tuple(_chain(path, tensors)),
        activation=activation,
        output=output,
    )


def _chain(path: Path, tensors: Mapping[str, Values]) -> list[tuple[Values, Values]]:
    names = sorted((name for name in tensors if name.endswith("weight")), key=_numbers)
    layers = []
    for name in names:
        weight = tensors[name]
        bias = tensors.get(name.removesuffix("weight") + "bias", np.zeros(weight.shape[:1]))
        layers.append((weight, bias))
    shapes = ", ".join(
        f"{name} {'x'.join(map(str, tensors[name].shape))}" for name in sorted(tensors, key=_numbers)[:8]
    )
    fits = 0 < len(layers) <= LAYERS and all(
        weight.ndim == 2 and bias.shape == weight.shape[:1] and weight.size > 0 for weight, bias in layers
    )
    fits = fits and all(a[0].shape[0] == b[0].shape[1] for a, b in pairwise(layers))
    if not fits or layers[-1][0].shape[0] != 1 or len(tensors) != 2 * len(names) - _without_bias(tensors, names):
        raise CheckpointError(
            f"the head '{path}' holds {shapes or 'nothing'}: linear layers *.weight [out, in] and *.bias [out] are "
            "wanted, each as wide as the one before, the last with one output."
        )
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise CheckpointError(f"the head '{path}' holds numbers that are not finite: train or export it again.")
    return layers


def _without_bias(tensors: Mapping[str, Values], names: list[str]) -> int:
    return sum(name.removesuffix("weight") + "bias" not in tensors for name in names)


def _numbers(name: str) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d{1,9}", name)], name
