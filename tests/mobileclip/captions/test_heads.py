"""Heads: those of LAION's kinds, and what is none."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mobileclip.captions.pictures import heads
from mobileclip.errors import CheckpointError, UnknownName

ROWS = np.random.default_rng(0).standard_normal((7, 12)).astype(np.float16)


def mlp(activation: nn.Module | None) -> nn.Sequential:
    """LAION's aesthetic predictor, small: dropout between layers gives their names gaps."""
    torch.manual_seed(0)
    between = [] if activation is None else [activation]
    return nn.Sequential(nn.Linear(12, 9), *between, nn.Dropout(0.2), nn.Linear(9, 5), *between, nn.Linear(5, 1)).eval()


def saved(path: Path, model: nn.Module, prefix: str = "layers.", **metadata: str) -> Path:
    save_file({prefix + name: value for name, value in model.state_dict().items()}, path, metadata=metadata)
    return path


@pytest.mark.parametrize(("name", "module"), [("none", None), ("relu", nn.ReLU()), ("gelu", nn.GELU())])
@pytest.mark.parametrize("output", ["none", "sigmoid"])
def test_values_are_those_of_torch(tmp_path: Path, name: str, module: nn.Module | None, output: str) -> None:
    model = mlp(module)
    head = heads.load(saved(tmp_path / "head.safetensors", model, activation=name, output=output))
    with torch.inference_mode():
        wanted = model(torch.from_numpy(ROWS).float())[:, 0]
    wanted = wanted.sigmoid() if output == "sigmoid" else wanted
    assert head(ROWS).dtype == np.float32
    np.testing.assert_allclose(head(ROWS), wanted.numpy(), rtol=1e-5, atol=1e-6)
    assert (head(ROWS)[2:3] == head(ROWS[2:3])).all()


def test_a_linear_head_without_metadata(tmp_path: Path) -> None:
    layer = nn.Linear(12, 1)
    save_file(layer.state_dict(), tmp_path / "head.safetensors")
    with torch.inference_mode():
        wanted = layer(torch.from_numpy(ROWS).float())[:, 0]
    np.testing.assert_allclose(heads.load(tmp_path / "head.safetensors")(ROWS), wanted.numpy(), rtol=1e-5, atol=1e-6)


def test_layers_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """`layers.10` comes after `layers.2`."""
    tensors = {"layers.10.weight": torch.ones(1, 3), "layers.2.weight": torch.ones(3, 12)}
    save_file(tensors, tmp_path / "head.safetensors")
    np.testing.assert_allclose(
        heads.load(tmp_path / "head.safetensors")(ROWS), 3 * ROWS.astype(float).sum(1), rtol=1e-5
    )


WRONG = {
    "two outputs": {"0.weight": torch.ones(2, 12)},
    "widths that do not meet": {"0.weight": torch.ones(5, 12), "1.weight": torch.ones(1, 4)},
    "a bias of another length": {"0.weight": torch.ones(1, 12), "0.bias": torch.ones(2)},
    "a convolution": {"0.weight": torch.ones(1, 12, 1)},
    "something else": {"0.weight": torch.ones(1, 12), "running_mean": torch.ones(12)},
    "nothing": {},
}


@pytest.mark.parametrize("what", WRONG)
def test_shapes_that_are_no_head(tmp_path: Path, what: str) -> None:
    save_file(WRONG[what], tmp_path / "head.safetensors")
    with pytest.raises(CheckpointError, match=r"linear layers \*.weight \[out, in\] and \*.bias \[out\] are wanted"):
        heads.load(tmp_path / "head.safetensors")


def test_a_head_for_other_embeddings(tmp_path: Path) -> None:
    head = heads.load(saved(tmp_path / "head.safetensors", mlp(None)))
    with pytest.raises(CheckpointError, match=r"embed.heads.nsfw is a head for embeddings of 12 numbers .* gives 32"):
        head.require(32, "embed.heads.nsfw")


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    save_file({"0.weight": torch.full((1, 12), float("nan"))}, tmp_path / "head.safetensors")
    with pytest.raises(CheckpointError, match="holds numbers that are not finite: train or export it again"):
        heads.load(tmp_path / "head.safetensors")


def test_files_that_are_no_head(tmp_path: Path) -> None:
    torch.save(mlp(None).state_dict(), tmp_path / "head.pt")
    with pytest.raises(CheckpointError, match="is no safetensors file: write its layers with safetensors' save_file"):
        heads.load(tmp_path / "head.pt")
    with pytest.raises(CheckpointError, match=r"head\.safetensors"):
        heads.load(tmp_path / "head.safetensors")


@pytest.mark.parametrize("key", ["activation", "output"])
def test_metadata_that_names_something_else(tmp_path: Path, key: str) -> None:
    path = saved(tmp_path / "head.safetensors", mlp(None), **{key: "tanh"})
    with pytest.raises(UnknownName, match=rf"unknown {key} of the head '.*' 'tanh'"):
        heads.load(path)
