"""The interpreter on real converted models: values, rounding to fp16, audits, descriptions, functions."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import open_clip
import pytest
import timm
import torch
from timm.models.fastvit import FastVit
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

from export.mil import Audit, Program
from mobileclip.errors import UnknownName


def decibels(found: Tensor, wanted: Tensor) -> float:
    """Signal to noise, 10 log10(power of wanted / power of the difference)."""
    noise = (found.double() - wanted.double()).square().mean().clamp(min=1e-300)
    return float(10 * torch.log10(wanted.double().square().mean() / noise))


def export(module: nn.Module, *example: Tensor) -> Any:
    with torch.no_grad():
        return torch.export.export(module.eval(), example).run_decompositions({})


def traced(module: nn.Module, *example: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(module.eval(), example)


def fastvit() -> nn.Module:
    torch.manual_seed(0)
    model = FastVit(
        layers=(1, 1, 1, 1),
        token_mixers=("repmixer", "repmixer", "repmixer", "attention"),
        embed_dims=(8, 16, 32, 64),
        mlp_ratios=(2, 2, 2, 2),
        num_classes=16,
        cls_ratio=1.0,
        act_layer=nn.GELU,
    )
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.2)
        elif name.endswith("gamma"):
            value.uniform_(0.2, 0.6)
    return reparameterize_model(model.eval())


def text_tower() -> nn.Module:
    torch.manual_seed(0)
    return open_clip.transformer.TextTransformer(
        context_length=12, vocab_size=50, width=32, heads=2, layers=2, output_dim=16
    )


def swin() -> nn.Module:
    torch.manual_seed(0)
    return timm.models.swin_transformer.SwinTransformer(
        img_size=32, patch_size=2, window_size=4, embed_dim=16, depths=(2, 1), num_heads=(2, 2), num_classes=8
    )


def vit() -> nn.Module:
    torch.manual_seed(0)
    return timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=8
    )


PICTURE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
WORDS = torch.tensor([[48, 5, 7, 9, 49, 0, 0, 0, 0, 0, 0, 0]], dtype=torch.int32)


@pytest.mark.parametrize(
    ("make", "example", "capture", "precision"),
    [
        (fastvit, PICTURE, export, "FLOAT32"),
        (vit, PICTURE, export, "FLOAT32"),
        (swin, PICTURE, traced, "FLOAT32"),  # coremltools 9.0 cannot convert Swin's exported form
        (text_tower, WORDS, traced, "FLOAT16"),
    ],
)
def test_models(
    make: Callable[[], nn.Module],
    example: Tensor,
    capture: Callable[..., Any],
    precision: str,
    tmp_path: Path,
    convert: Callable[..., Path],
) -> None:
    model = make().eval()
    with torch.no_grad():
        wanted = model(example)
        captured = capture(model, example)
    options: dict[str, Any] = {"compute_precision": getattr(ct.precision, precision)}
    if capture is traced:
        kind = np.int32 if example.dtype == torch.int32 else np.float32
        options["inputs"] = [ct.TensorType("x", example.shape, dtype=kind)]
    program = Program.load(convert(captured, tmp_path / "m.mlpackage", **options))
    feeds = {program.inputs[0].name: example}
    (found,) = program.run(feeds).values()
    assert decibels(found, wanted) > (90 if precision == "FLOAT32" else 50)
    (rounded,) = program.run(feeds, fp16=True).values()
    assert 40 < decibels(rounded, wanted) < 90
    assert program.outputs[0].shape == tuple(wanted.shape)


def test_a_program_describes_itself(small_package: Path) -> None:
    program = Program.load(str(small_package))
    assert program.inputs[0].name == "x"
    assert (program.outputs[0].name, program.outputs[0].kind, program.outputs[0].shape) == ("y", "tensor", (1, 96))
    assert {"conv", "relu", "reduce_mean", "linear"} <= set(program.ops)
    assert "const" not in program.ops
    assert program.max_rank == 4
    assert program.weight_bytes == pytest.approx(2 * (32 * 16 * 9 + 96 * 32), rel=0.1)


def test_an_audit_finds_what_fp16_cannot_hold(
    tmp_path: Path, features: Tensor, network: Callable[..., nn.Module], convert: Callable[..., Path]
) -> None:
    path = convert(
        export(network(gain=1e6), features),
        tmp_path / "gain.mlpackage",
        compute_precision=ct.precision.FLOAT16,
        outputs=[ct.TensorType("y", dtype=np.float16)],
    )
    program, audit = Program.load(path), Audit()
    ideal = program.run({"x": features}, audit=audit)["y"]
    assert ideal.isfinite().all()
    assert audit.overflows
    worst = audit.table(top=1)[0]
    assert worst.overflow
    assert worst.largest > 65504
    assert worst.not_finite == 0
    assert audit.table(top=99) == sorted(audit.rows.values(), key=lambda r: -r.largest)
    rounded = Audit()
    broken = program.run({"x": features}, fp16=True, audit=rounded)["y"]
    assert not broken.isfinite().all()
    assert rounded.rows[rounded.overflows[0]].largest == float("inf")
    assert rounded.rows[rounded.overflows[0]].not_finite > 0


def test_an_audit_counts_over_runs(small_package: Path, features: Tensor) -> None:
    program, audit = Program.load(small_package), Audit()
    program.run({"x": features}, audit=audit)
    once = dict(audit.rows)
    program.run({"x": features * 1e-3}, audit=audit)
    name = next(iter(once))
    assert audit.overflows == []
    assert audit.rows[name].largest == once[name].largest
    assert audit.rows[name].count == 2 * once[name].count
    assert audit.rows[name].tiny >= once[name].tiny


def test_rounding_is_to_fp16(small_package: Path, features: Tensor) -> None:
    program = Program.load(small_package)
    ideal, rounded = (program.run({"x": features}, fp16=fp16)["y"] for fp16 in (False, True))
    assert not torch.equal(ideal, ideal.half().float())
    assert torch.equal(rounded, rounded.half().float())
    assert 50 < decibels(rounded, ideal) < 90


def test_wide_weights_round_too(
    tmp_path: Path, features: Tensor, network: Callable[..., nn.Module], convert: Callable[..., Path]
) -> None:
    path = convert(export(network(), features), tmp_path / "wide.mlpackage", outputs=[ct.TensorType("y")])
    program = Program.load(path)
    with torch.no_grad():
        assert decibels(program.run({"x": features})["y"], network()(features)) > 100
        assert decibels(program.run({"x": features}, fp16=True)["y"], network()(features)) < 85


def test_sizes_may_stay_open(tmp_path: Path, convert: Callable[..., Path]) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Upsample(scale_factor=2.0))
    flexible = ct.Shape((1, 3, ct.RangeDim(8, 32, default=16), ct.RangeDim(8, 32, default=16)))
    path = convert(
        traced(module, torch.rand(1, 3, 16, 16)), tmp_path / "open.mlpackage", inputs=[ct.TensorType("x", flexible)]
    )
    program = Program.load(path)
    assert program.inputs[0].shape == (1, 3, -1, -1)
    x = torch.rand(1, 3, 24, 10)
    with torch.no_grad():
        torch.testing.assert_close(next(iter(program.run({"x": x}).values())), module(x))


def test_a_classifier_gives_index_and_probabilities(tmp_path: Path, convert: Callable[..., Path]) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Softmax(-1))
    x = torch.rand(1, 3, 2, 2)
    path = convert(
        traced(module, x),
        tmp_path / "classes.mlpackage",
        inputs=[ct.TensorType("x", x.shape)],
        classifier_config=ct.ClassifierConfig(["cat", "dog", "eel"]),
    )
    program = Program.load(path)
    label, probabilities = program.run({"x": x}).values()
    with torch.no_grad():
        torch.testing.assert_close(probabilities, module(x)[0])
    assert int(label) == int(probabilities.argmax())
    assert [out.dtype for out in program.outputs] == ["string", "dictionary"]


def test_functions_are_chosen_by_name(tmp_path: Path, small: dict[str, Any], features: Tensor) -> None:
    small["ios18"].save(str(tmp_path / "a.mlpackage"))
    description = ct.utils.MultiFunctionDescriptor()
    for name in ("first", "second"):
        description.add_function(str(tmp_path / "a.mlpackage"), "main", name)
    description.default_function_name = "first"
    ct.utils.save_multifunction(description, str(tmp_path / "two.mlpackage"))
    found = Program.load(tmp_path / "two.mlpackage", function="second").run({"x": features})["y"]
    assert torch.equal(found, Program.load(tmp_path / "a.mlpackage").run({"x": features})["y"])
    with pytest.raises(UnknownName) as caught:
        Program.load(tmp_path / "two.mlpackage")
    assert str(caught.value).startswith("unknown function 'main'")
    assert str(caught.value).endswith("Known: first, second.")
