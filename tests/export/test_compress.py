"""Compressed weights for Core ML: the same integers in the module, the package and ExecuTorch's delegate."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from export.compress import FORMS, compressed
from export.mil import Program
from export.palettes import group_of, nearest, palettes
from export.parity import compare
from export.runtimes import CoreMLSession, open_artifact
from export.stored import check_integers, parts_of
from export.targets import Quantisation
from export.to_coreml import lower, oldest_ios
from export.to_executorch import lower_coreml
from export.views import InputSpec, OutputSpec, View
from mobileclip.errors import ArtifactError

SIZE = 8


class Tower(nn.Module):
    """One layer of each kind that can be compressed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.depthwise = nn.Conv2d(64, 64, 7, padding=3, groups=64)
        self.point = nn.Conv2d(64, 96, 1)
        self.wide = nn.Conv2d(96, 64, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(64, 48, 2, stride=2)
        self.head = nn.Linear(48 * SIZE, 32, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.gelu(self.point(self.depthwise(self.stem(x))))
        out: Tensor = self.head(self.up(nn.functional.relu(self.wide(x))).mean(3).flatten(1))
        return out


def pictures(count: int, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.rand(1, 3, SIZE, SIZE, generator=generator) * 255).round() / 255 for _ in range(count)]


@pytest.fixture(scope="module")
def view() -> View:
    spec = InputSpec(name="image", kind="image", shape=(1, 3, SIZE, SIZE), dtype="float32")
    output = OutputSpec(name="out", shape=(1, 32), dtype="float32", meaning="numbers")
    return View("image", Tower(), spec, [output], pictures(1)[0]).eval().requires_grad_(False)


def answer(session: CoreMLSession, x: Tensor) -> npt.NDArray[Any]:
    return session.run([x.numpy()])[0]


def agrees(path: Path, target: str, module: nn.Module, inputs: Sequence[Tensor]) -> CoreMLSession:
    """The artifact computes what the module does, and stores its integers."""
    session = open_artifact(path, target)
    assert isinstance(session, CoreMLSession)
    for x in inputs:
        assert compare(answer(session, x), module(x).detach().numpy()).db > 40
    assert check_integers(session.program, module) > 0
    return session


@pytest.mark.parametrize("precision", FORMS)
def test_a_package_stores_the_integers_of_the_module(view: View, precision: str, tmp_path: Path) -> None:
    module = compressed(view, Quantisation(precision=precision, inputs=pictures(4)))  # type: ignore[arg-type]
    lower(view, tmp_path / "x.mlpackage", "apple", module)
    session = agrees(tmp_path / "x.mlpackage", "coreml", module, pictures(2, seed=5))
    bits = FORMS[precision].bits
    kinds = set(session.program.compressed.values())
    assert kinds == ({f"UINT{bits}", "UINT8"} if FORMS[precision].palette else {"INT8"})
    needed = "iOS18" if FORMS[precision].palette else "iOS16"
    assert oldest_ios(module) == oldest_ios(tmp_path / "x.mlpackage") == needed
    assert session.program.weight_bytes < (1.3 * bits / 16 + 0.12) * 2 * sum(p.numel() for p in view.parameters())


@pytest.mark.parametrize("precision", ["w8", "w6p", "w4pj"])
def test_executorch_stores_the_integers_of_the_module(view: View, precision: str, tmp_path: Path) -> None:
    module = compressed(view, Quantisation(precision=precision))  # type: ignore[arg-type]
    delegation = lower_coreml(view, tmp_path / "x.coreml.pte", "apple", module)
    assert (delegation.delegates, delegation.loose) == (1, {})
    agrees(tmp_path / "x.coreml.pte", "executorch-coreml", module, pictures(2, seed=5))


def test_int8_activations(view: View, tmp_path: Path) -> None:
    from export.quantise import quantised

    module = quantised(view, Quantisation(precision="w8a8", inputs=pictures(8)))
    lower(view, tmp_path / "x.mlpackage", "apple", module)
    lower_coreml(view, tmp_path / "x.coreml.pte", "apple", module)
    for name, target in (("x.mlpackage", "coreml"), ("x.coreml.pte", "executorch-coreml")):
        session = open_artifact(tmp_path / name, target)
        assert isinstance(session, CoreMLSession)
        assert check_integers(session.program, module) >= 5
        assert session.program.ops["quantize"] >= 5
        x = pictures(1, seed=5)[0]
        assert compare(answer(session, x), module(x).detach().numpy()).db > 25
    assert oldest_ios(module) == oldest_ios(tmp_path / "x.mlpackage") == "iOS17"


def test_other_integers_are_found(view: View, tmp_path: Path) -> None:
    module = compressed(view, Quantisation(precision="w6p"))
    lower(view, tmp_path / "x.mlpackage", "apple", module)
    program = Program.load(tmp_path / "x.mlpackage")
    other = copy.deepcopy(module)
    places = parts_of(other.get_submodule("tower.point"))[0]
    places[0, 0] = (places[0, 0] + 9) % 64
    with pytest.raises(ArtifactError, match=r"another 'tower_point_.*' than the module holds: it differs by"):
        check_integers(program, other)
    lower(view, tmp_path / "float.mlpackage", "apple")
    with pytest.raises(ArtifactError, match="stores no integers of 'tower_"):
        check_integers(Program.load(tmp_path / "float.mlpackage"), module)
    with pytest.raises(ArtifactError, match="integers that the module does not hold: tower_"):
        check_integers(program, compressed(view, Quantisation(precision="fp16")))


def test_blocks_have_their_own_form(view: View) -> None:
    before = {name: value.clone() for name, value in view.state_dict().items()}
    blocks = {"head": "fp16", "point": "w4p", "up": "w8"}
    module = compressed(view, Quantisation(precision="w6p", blocks=blocks))  # type: ignore[arg-type]
    tower = module.get_submodule("tower")
    assert parts_of(tower.head) == parts_of(tower.stem) == ()  # type: ignore[arg-type]
    assert parts_of(tower.depthwise)[1].shape[-2:] == (256, 1)  # type: ignore[arg-type]
    assert parts_of(tower.wide)[1].shape[-2:] == (64, 1)  # type: ignore[arg-type]
    assert parts_of(tower.point)[1].shape[-2:] == (16, 1)  # type: ignore[arg-type]
    assert parts_of(tower.up)[0].dtype == torch.int8  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in view.state_dict().items())


@pytest.mark.parametrize("precision", ["w8", "w4p", "w6pj"])
def test_inputs_make_it_better(view: View, precision: str) -> None:
    def error(inputs: Sequence[Tensor]) -> float:
        module = compressed(view, Quantisation(precision=precision, inputs=inputs))  # type: ignore[arg-type]
        return sum(float((module(x) - view(x)).pow(2).sum()) for x in pictures(8, seed=9))

    assert error(pictures(16)) < 0.8 * error(())


def test_palettes_are_near_the_best() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 300, generator=generator) * torch.rand(3, 300, generator=generator)
    table = palettes(values, 4)
    rounded = table.gather(1, nearest(table, values))
    for row, made in zip(values, rounded, strict=True):
        assert float((row - made).pow(2).sum()) < 1.1 * best(row.double().sort().values, 16)
    important = torch.where(values > 1, 1e4, 1.0)
    chosen = palettes(values, 4, important)
    gained = (values - chosen.gather(1, nearest(chosen, values)))[values > 1].abs().mean()
    assert gained < 0.2 * (values - rounded)[values > 1].abs().mean()


def best(values: Tensor, levels: int) -> float:
    """The least squared error of any palette, by dynamic programming over ascending values."""
    zero = values.new_zeros(1)
    sums, squares = torch.cat([zero, values.cumsum(0)]), torch.cat([zero, values.pow(2).cumsum(0)])
    count = torch.arange(len(values) + 1)[None] - torch.arange(len(values) + 1)[:, None]  # [from, to]
    cost = squares[None] - squares[:, None] - (sums[None] - sums[:, None]) ** 2 / count.clamp(min=1)
    cost = torch.where(count > 0, cost, torch.inf)
    found = cost[0]
    for _ in range(levels - 1):
        found = (found[:, None] + cost).amin(0)
    return float(found[-1])


def test_few_or_equal_values() -> None:
    assert torch.equal(palettes(torch.zeros(2, 40), 4), torch.zeros(2, 16))
    few = torch.tensor([[1.0, 2.0, 3.0] * 20])
    table = palettes(few, 6)
    assert torch.equal(table.gather(1, nearest(table, few)), few)


@pytest.mark.parametrize(
    ("shape", "bits", "group"), [((960, 320), 4, 8), ((960, 320), 6, 16), ((320, 960), 6, 8), ((49408, 64), 6, 64)]
)
def test_groups_keep_palettes_small(shape: tuple[int, int], bits: int, group: int) -> None:
    assert group_of(*shape, bits) == group
    assert group_of(30, 1000, 4) == 30
