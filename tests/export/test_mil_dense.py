"""What dense heads add to Core ML programs: resizing, transposed convolutions, top-k, argmax, and parts in fp32."""

from collections.abc import Callable
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.mil import Audit, Program
from export.runtimes import open_artifact
from export.to_coreml import _narrow
from mobileclip.models.heads.blocks import Pooled


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., object], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> object:
        return self.function(x, *self.parts)


def package(module: nn.Module, x: Tensor, path: Path, precision: object = ct.precision.FLOAT32) -> Path:
    with torch.no_grad():
        program = torch.export.export(module.eval(), (x,)).run_decompositions({})
    converted = ct.convert(
        program, minimum_deployment_target=ct.target.iOS15, compute_precision=precision, skip_model_load=True
    )
    converted.save(str(path))
    return path


def sized(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)


CASES: dict[str, Apply] = {
    "bilinear twice": Apply(lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)),
    "bilinear four times": Apply(lambda x: F.interpolate(x, scale_factor=4.0, mode="bilinear", align_corners=False)),
    "bilinear to a size": Apply(lambda x: sized(x, 18, 40)),
    "bilinear smaller": Apply(lambda x: sized(x, 4, 5)),
    "nearest twice": Apply(lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest")),
    "transposed convolution": Apply(lambda x, up: up(x), nn.ConvTranspose2d(8, 6, 2, stride=2)),
    "pooling by products": Apply(lambda x, pool: pool(x), Pooled((6, 10), 4, torch.zeros(1))),
    "sigmoid in metres": Apply(lambda x: 10 * torch.sigmoid(x)),
    "top-k": Apply(lambda x: tuple(x[0, :, :, 0].reshape(-1).topk(5))),
    "rows by index": Apply(lambda x: x[0, 0].index_select(0, x[0, 0, :, 0].topk(3).indices)),
    "argmax": Apply(lambda x: x.argmax(1, keepdim=True).to(torch.int32)),
    "box corners": Apply(lambda x: torch.cat([x[:, :4] - F.elu(x[:, 4:]), x[:, :4] + F.elu(x[:, 4:]) + 1], 1)),
    "subsampled": Apply(lambda x: F.max_pool2d(x, 1, 2, 0)),
    "one-hot": Apply(lambda x: F.relu(1 - (x[0, 0, :, :1].round() - torch.arange(4.0)).abs())),
}


class Together(nn.Module):
    """All cases in one program, because a conversion costs more than its operators."""

    def __init__(self) -> None:
        super().__init__()
        self.cases = nn.ModuleList(CASES.values())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found: list[Tensor] = []
        for case in self.cases:
            out = case(x)
            found += out if isinstance(out, tuple) else [out]
        return tuple(found)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Case -> (what the interpreter gives, what torch gives) for each of its outputs."""
    torch.manual_seed(0)
    module, x = Together().eval(), torch.randn(1, 8, 6, 10)
    program = Program.load(package(module, x, tmp_path_factory.mktemp("mil") / "m.mlpackage"))
    values = program.run({program.inputs[0].name: x})
    found = iter([values[feature.name] for feature in program.outputs])
    with torch.no_grad():
        wanted = {name: case(x) for name, case in CASES.items()}
    return {
        name: [(next(found), item) for item in (items if isinstance(items, tuple) else (items,))]
        for name, items in wanted.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_equals_torch(name: str, answers: dict[str, list[tuple[Tensor, Tensor]]]) -> None:
    for found, wanted in answers[name]:
        torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-5, atol=1e-5)


class Classifier(nn.Module):
    """A class for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x) * 100).argmax(1, keepdim=True).to(torch.int32)


def types_of(path: Path) -> dict[str, set[str]]:
    """Operator -> types of its floating inputs, as the file declares them."""
    from export.mil_package import data_type, open_package

    spec = open_package(path).spec.mlProgram.functions["main"]
    block = spec.block_specializations[spec.opset]
    types = {item.name: data_type(item.type.tensorType) for item in spec.inputs}
    types |= {out.name: data_type(out.type.tensorType) for op in block.operations for out in op.outputs}
    return {
        op.type: {
            types[b.name] for a in op.inputs.values() for b in a.arguments if types.get(b.name, "").startswith("F")
        }
        for op in block.operations
        if op.type != "const"
    }


def test_argmax_stays_wide(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 4, 8, 8)
    path = package(
        Classifier(), x, tmp_path / "m.mlpackage", ct.transform.FP16ComputePrecision(op_selector=_narrow("argmax"))
    )
    types = types_of(path)
    assert types["conv"] == {"FLOAT16"}
    assert types["reduce_argmax"] == {"FLOAT32"}
    session = open_artifact(path)
    assert session.runtime == "Core ML interpreter, fp16"
    assert session.run([x.numpy()])[0].dtype == np.int64


class Boxes(nn.Module):
    """Coordinates behind a top-k, to a fraction of a pixel beyond 2048, where fp16 knows multiples of 2 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 1, 1)
        self.register_buffer("points", torch.arange(64.0).reshape(64, 1) * 40.3)

    def forward(self, x: Tensor) -> Tensor:
        scores, places = self.conv(x).reshape(-1).topk(8)
        found = (self.points.index_select(0, places)[:, 0] + scores * 0.25) * (self.points[63] - 2000.0)  # type: ignore[index]
        return found.reshape(2, 1, 4).squeeze(1)


def test_coordinates_behind_a_top_k_stay_wide(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = Boxes().eval(), torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        wanted = module(x)
    selected = ct.transform.FP16ComputePrecision(op_selector=_narrow("coordinates"))
    wide = Program.load(package(module, x, tmp_path / "wide.mlpackage", selected))
    assert wide.half
    name = wide.inputs[0].name
    audit = Audit()
    found = wide.run({name: x.half().float()}, fp16=True, audit=audit)[wide.outputs[0].name]
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-3
    assert not audit.overflows, "what is declared as fp32 cannot overflow in fp16"
    assert float(found.abs().max()) > 65504


def test_a_program_without_fp16_runs_in_fp32(tmp_path: Path) -> None:
    x = torch.randn(1, 8, 6, 10)
    path = package(CASES["bilinear twice"], x, tmp_path / "m.mlpackage")
    session = open_artifact(path)
    assert session.runtime == "Core ML interpreter, fp32"
    with torch.no_grad():
        np.testing.assert_allclose(session.run([x.numpy()])[0], CASES["bilinear twice"](x), rtol=1e-5, atol=1e-5)
