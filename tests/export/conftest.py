"""What the tests of `export/mil*.py` share: conversion without a Mac, the battery of operators, one small network."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import types
from torch import Tensor, nn

from export.mil import Program

sys.path.insert(0, str(Path(__file__).parent))  # for what the tests of this folder import

Case = tuple[dict[str, np.ndarray], Callable[..., Any], Any]
"""Inputs, how MIL variables become the operator's outputs, and the answer or None for coremltools' own."""


@pytest.fixture(scope="session")
def convert() -> Callable[..., Path]:
    """Convert without passes that need a Mac, and save."""

    def saved(model: Any, path: Path, **options: Any) -> Path:
        options = {
            "convert_to": "mlprogram",
            "compute_precision": ct.precision.FLOAT32,
            "skip_model_load": True,
            **options,
        }
        options.setdefault("minimum_deployment_target", ct.target.iOS17)
        ct.convert(model, **options).save(str(path))
        return path

    return saved


def outputs_of(variable: Any) -> list[Any]:
    return list(variable) if isinstance(variable, (tuple, list)) else [variable]


def build(cases: dict[str, Case], target: Any) -> Any:
    """One MIL program of all cases; the outputs of case c are named c__0, c__1, ..."""
    specs = {
        f"{name}__{key}": mb.TensorSpec(value.shape, types.int32 if value.dtype == np.int32 else types.fp32)
        for name, (inputs, _, _) in cases.items()
        for key, value in inputs.items()
    }

    def body(**variables: Any) -> Any:
        results = []
        for name, (inputs, make, _) in cases.items():
            made = make(**{key: variables[f"{name}__{key}"] for key in inputs})
            for i, out in enumerate(outputs_of(made)):
                # Core ML programs return fp32, fp16 and int32.
                if out.dtype == types.bool or types.is_int(out.dtype):
                    out = mb.cast(x=out, dtype="int32")
                results.append(mb.identity(x=out, name=f"{name}__{i}"))
        return tuple(results)

    names = ", ".join(specs)
    scope: dict[str, Any] = {"body": body}
    exec(f"def program({names}):\n    return body({', '.join(f'{n}={n}' for n in specs)})", scope)
    return mb.program(input_specs=list(specs.values()), opset_version=target)(scope["program"])


def value_of(case: Case, target: Any) -> list[np.ndarray]:
    """coremltools' own value inference of a case whose inputs are constants."""
    inputs, make, _ = case
    found: list[np.ndarray] = []

    @mb.program(input_specs=[mb.TensorSpec((1,))], opset_version=target)
    def program(unused: Any) -> Any:
        made = make(**{key: mb.const(val=value.copy()) for key, value in inputs.items()})
        found.extend(out.val for out in outputs_of(made))
        return unused

    return found


@pytest.fixture(scope="session")
def check_operator(
    tmp_path_factory: pytest.TempPathFactory, convert: Callable[..., Path]
) -> Callable[[str, Any, dict[str, Case], str], None]:
    """Compare the case `name` of a group with its answer; the group's program runs once."""
    done: dict[str, dict[str, Tensor]] = {}

    def answers(group: str, target: Any, cases: dict[str, Case]) -> dict[str, Tensor]:
        if group not in done:
            path = tmp_path_factory.mktemp(group) / "ops.mlpackage"
            convert(build(cases, target), path, minimum_deployment_target=target, pass_pipeline=ct.PassPipeline.EMPTY)
            program = Program.load(path)
            done[group] = program.run(
                {f"{n}__{k}": v for n, (inputs, _, _) in cases.items() for k, v in inputs.items()}
            )
        return done[group]

    def check(group: str, target: Any, cases: dict[str, Case], name: str) -> None:
        inputs, _, answer = cases[name]
        if answer is None:
            wanted = [torch.as_tensor(np.array(v)) for v in value_of(cases[name], target)]
        else:
            tensors = {
                k: torch.from_numpy(v).long() if v.dtype == np.int32 else torch.from_numpy(v) for k, v in inputs.items()
            }
            made = answer(*tensors.values())
            wanted = list(made) if isinstance(made, tuple) else [made]
        found = [answers(group, target, cases)[f"{name}__{i}"] for i in range(len(wanted))]
        for ours, theirs in zip(found, wanted, strict=True):
            assert ours.shape == theirs.shape
            torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=2e-6)

    return check


class Small(nn.Module):
    """Weights large enough for coremltools to compress them."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(16, 32, 3, padding=1)
        self.linear = nn.Linear(32, 96)
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.conv(x).relu().mean((2, 3)) * self.gain) / self.gain


@pytest.fixture(scope="session")
def network() -> type[Small]:
    """What `small` was made from."""
    return Small


@pytest.fixture(scope="session")
def features() -> Tensor:
    """What `network` takes."""
    return torch.randn(1, 16, 6, 6, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="session")
def small(features: Tensor) -> dict[str, Any]:
    """The same network for iOS 16 and iOS 18, as coremltools models."""
    with torch.no_grad():
        captured = torch.export.export(Small().eval(), (features,)).run_decompositions({})
    return {
        name: ct.convert(
            captured,
            convert_to="mlprogram",
            minimum_deployment_target=target,
            compute_precision=ct.precision.FLOAT16,
            skip_model_load=True,
            outputs=[ct.TensorType("y")],
        )
        for name, target in {"ios16": ct.target.iOS16, "ios18": ct.target.iOS18}.items()
    }


@pytest.fixture(scope="session")
def small_package(tmp_path_factory: pytest.TempPathFactory, small: dict[str, Any]) -> Path:
    path = tmp_path_factory.mktemp("small") / "small.mlpackage"
    small["ios16"].save(str(path))
    return path
