"""Compressed weights decode as coremltools decodes them; packages that are damaged, hostile or of another kind."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import types
from coremltools.optimize import _utils as optimize_utils
from coremltools.proto import Model_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from package_refusals import refused
from torch import Tensor, nn

from export.mil import Program
from export.mil_ops import OPS
from export.mil_package import unpack
from mobileclip.errors import ArtifactError, UnknownName

# Compressed weights


def decibels(found: Tensor, wanted: Tensor) -> float:
    """Signal to noise, 10 log10(power of wanted / power of the difference)."""
    noise = (found.double() - wanted.double()).square().mean().clamp(min=1e-300)
    return float(10 * torch.log10(wanted.double().square().mean() / noise))


def linear(model: Any, **options: Any) -> Any:
    joint = options.pop("joint", False)
    config = cto.OptimizationConfig(global_config=cto.OpLinearQuantizerConfig(**options))
    return cto.linear_quantize_weights(model, config, joint_compression=joint)


def palette(model: Any, **options: Any) -> Any:
    joint = options.pop("joint", False)
    config = cto.OptimizationConfig(global_config=cto.OpPalettizerConfig(**options))
    return cto.palettize_weights(model, config, joint_compression=joint)


def prune(model: Any) -> Any:
    config = cto.OpMagnitudePrunerConfig(target_sparsity=0.6)
    return cto.prune_weights(model, cto.OptimizationConfig(global_config=config))


COMPRESSIONS: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "linear 8": ("ios16", lambda m: linear(m, mode="linear_symmetric"), "constexpr_affine_dequantize"),
    "linear 8 asymmetric": ("ios16", lambda m: linear(m, mode="linear", dtype="uint8"), "constexpr_affine_dequantize"),
    "palette 4": ("ios16", lambda m: palette(m, mode="uniform", nbits=4), "constexpr_lut_to_dense"),
    "palette 6": ("ios16", lambda m: palette(m, mode="uniform", nbits=6), "constexpr_lut_to_dense"),
    "sparse": ("ios16", prune, "constexpr_sparse_to_dense"),
    "linear 4 by block": (
        "ios18",
        lambda m: linear(m, mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=8),
        "constexpr_blockwise_shift_scale",
    ),
    "palette 3 by group": (
        "ios18",
        lambda m: palette(m, mode="uniform", nbits=3, granularity="per_grouped_channel", group_size=8),
        "constexpr_lut_to_dense",
    ),
    "palette of vectors": (
        "ios18",
        lambda m: palette(m, mode="kmeans", nbits=2, cluster_dim=2),
        "constexpr_lut_to_dense",
    ),
    "sparse and palette": (
        "ios18",
        lambda m: palette(prune(m), mode="uniform", nbits=4, joint=True),
        "constexpr_lut_to_sparse",
    ),
    "sparse and linear": (
        "ios18",
        lambda m: linear(prune(m), mode="linear_symmetric", joint=True),
        "constexpr_sparse_blockwise_shift_scale",
    ),
    "palette and linear": (
        "ios18",
        lambda m: linear(
            palette(m, mode="uniform", nbits=4), mode="linear_symmetric", granularity="per_tensor", joint=True
        ),
        "constexpr_blockwise_shift_scale",
    ),
}


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_compressed_weights_decode_as_coremltools_decodes_them(
    name: str, small: dict[str, Any], tmp_path: Path, features: Tensor, network: Callable[..., nn.Module]
) -> None:
    target, compress, kind = COMPRESSIONS[name]
    compressed = compress(small[target])
    compressed.save(str(tmp_path / "c.mlpackage"))
    cto.decompress_weights(compressed).save(str(tmp_path / "d.mlpackage"))
    stored = Model_pb2.Model()
    stored.ParseFromString((tmp_path / "c.mlpackage/Data/com.apple.CoreML/model.mlmodel").read_bytes())
    assert kind in {
        op.type for op in next(iter(stored.mlProgram.functions["main"].block_specializations.values())).operations
    }
    ours, theirs = (Program.load(tmp_path / f"{which}.mlpackage") for which in "cd")
    found, wanted = (p.run({"x": features})["y"] for p in (ours, theirs))
    assert decibels(found, wanted) > 90
    assert ours.weight_bytes < theirs.weight_bytes
    with torch.no_grad():
        assert 5 < decibels(found, network()(features)) < 80


@given(st.sampled_from([1, 2, 3, 4, 6]), st.lists(st.integers(0, 63), min_size=1, max_size=40))
@settings(deadline=None)
def test_unpacking_reverses_packing(bits: int, values: list[int]) -> None:
    numbers = np.array(values, np.uint8) % (1 << bits)
    assert np.array_equal(unpack(optimize_utils.pack_elements_into_bits(numbers, bits), bits, len(numbers)), numbers)


# Files that are damaged, hostile or of another kind

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture
def package(tmp_path: Path, small_package: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(small_package, tmp_path / "bad.mlpackage"))


def edit(package: Path, change: Callable[[Any], None]) -> None:
    """Change the parsed protobuf of a package."""
    spec = Model_pb2.Model()
    spec.ParseFromString((package / MODEL).read_bytes())
    change(spec)
    (package / MODEL).write_bytes(spec.SerializeToString())


def operations(spec: Any) -> Any:
    return next(iter(spec.mlProgram.functions["main"].block_specializations.values())).operations


def test_what_is_no_package(tmp_path: Path) -> None:
    refused(lambda: Program.load(tmp_path / "none.mlpackage"), "no model at", "give the folder of a .mlpackage.")
    (tmp_path / "old.mlmodel").write_bytes(b"x")
    refused(lambda: Program.load(tmp_path / "old.mlmodel"), "is a file", "convert_to='mlprogram'")
    (tmp_path / "empty").mkdir()
    refused(lambda: Program.load(tmp_path / "empty"), "is no model package: it has no Manifest.json.")
    (tmp_path / "c.mlmodelc").mkdir()
    (tmp_path / "c.mlmodelc/coremldata.bin").write_bytes(b"x")
    refused(lambda: Program.load(tmp_path / "c.mlmodelc"), "is a compiled model; give the .mlpackage")


def test_a_neural_network_is_refused(package: Path) -> None:
    def change(spec: Any) -> None:
        spec.neuralNetwork.SetInParent()

    edit(package, change)
    refused(lambda: Program.load(package), "bad.mlpackage is a neuralNetwork model; only ML Programs can be run here")


def test_damaged_manifests(package: Path) -> None:
    manifest = package / "Manifest.json"
    whole = manifest.read_bytes()
    damaged = "Manifest.json does not name a model: the package is damaged; copy or export it again."
    for content in (
        whole[:-20],
        bytes([whole[0] ^ 255]) + whole[1:],
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"itemInfoEntries": 3}',
    ):
        manifest.write_bytes(content)
        refused(lambda: Program.load(package), damaged)
    manifest.write_bytes(b" " * (1 << 21))
    refused(lambda: Program.load(package), "Manifest.json is larger than 1048576 bytes")
    entries = json.loads(whole)
    root = entries["rootModelIdentifier"]
    outside = ("../../etc/passwd", "/etc/passwd", "a/../../../b", "com.apple.CoreML\\..\\x", "x\0y")
    for path in outside:
        entries["itemInfoEntries"][root]["path"] = path
        manifest.write_text(json.dumps(entries))
        refused(lambda: Program.load(package), "Manifest.json names '", "which lies outside of the package.")
    entries["itemInfoEntries"][root]["path"] = "com.apple.CoreML/lost.mlmodel"
    manifest.write_text(json.dumps(entries))
    refused(lambda: Program.load(package), "names 'com.apple.CoreML/lost.mlmodel', which is missing")
    entries["itemInfoEntries"][root]["path"] = "com.apple.CoreML"
    manifest.write_text(json.dumps(entries))
    refused(lambda: Program.load(package), "'com.apple.CoreML', the root model, is not a file")


def test_links_stay_inside(package: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes((package / WEIGHTS).read_bytes())
    (package / WEIGHTS).rename(package / "moved.bin")
    (package / WEIGHTS).symlink_to(package / "moved.bin")
    Program.load(package)
    (package / WEIGHTS).unlink()
    (package / WEIGHTS).symlink_to(secret)
    refused(lambda: Program.load(package), f"'{WEIGHTS}' is a link that leaves the package.")


def test_damaged_models(package: Path) -> None:
    whole = (package / MODEL).read_bytes()
    (package / MODEL).write_bytes(whole[: len(whole) // 2])
    refused(lambda: Program.load(package), "model.mlmodel cannot be parsed: the package is damaged")
    (package / MODEL).write_bytes(b"")
    refused(lambda: Program.load(package), "model.mlmodel holds no model: the package is damaged")


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4), st.booleans())
@settings(max_examples=60, deadline=None)
def test_flipped_bytes_never_escape(
    small_package: Path, features: Tensor, flips: list[tuple[int, int]], weights: bool
) -> None:
    """Any flip of bytes in model or weights gives an answer or one sentence, and nothing else."""
    file = small_package / (WEIGHTS if weights else MODEL)
    whole = file.read_bytes()
    content = bytearray(whole)
    for place, mask in flips:
        content[place % len(content)] ^= mask
    file.write_bytes(bytes(content))
    try:
        with contextlib.suppress(ArtifactError, UnknownName):
            program = Program.load(small_package)
            program.run({feature.name: features for feature in program.inputs})
    finally:
        file.write_bytes(whole)


def test_damaged_weights(package: Path) -> None:
    weights = package / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused(
        lambda: Program.load(package), "weights/weight.bin is cut short: constant '", f"the file has {len(whole) // 2}:"
    )
    weights.write_bytes(whole[:100])
    refused(lambda: Program.load(package), "weights/weight.bin is cut short")
    weights.write_bytes(b"\1\0\0\0\1\0\0\0" + whole[8:])
    refused(lambda: Program.load(package), "weights/weight.bin is no weight file of version 2")
    weights.write_bytes(b"")
    refused(lambda: Program.load(package), "weights/weight.bin is no weight file of version 2")
    weights.write_bytes(whole[:64] + b"\0" * 64 + whole[128:])
    refused(lambda: Program.load(package), "holds no record of constant", "at byte 64")
    weights.unlink()
    refused(lambda: Program.load(package), "bad.mlpackage has no weights/weight.bin: the package is incomplete")


def test_hostile_constants(package: Path) -> None:
    def stored(spec: Any) -> Any:
        return next(op for op in operations(spec) if op.attributes["val"].WhichOneof("value") == "blobFileValue")

    def elsewhere(spec: Any) -> None:
        stored(spec).attributes["val"].blobFileValue.fileName = "@model_path/../../../secret"

    def huge(spec: Any) -> None:
        stored(spec).attributes["val"].type.tensorType.dimensions[0].constant.size = 1 << 40

    def grown(spec: Any) -> None:
        stored(spec).attributes["val"].type.tensorType.dimensions[0].constant.size += 1

    whole = (package / MODEL).read_bytes()
    for change, text in (
        (elsewhere, "outside of the package"),
        (huge, "or more than 1073741824"),
        (grown, "are stored."),
    ):
        (package / MODEL).write_bytes(whole)
        edit(package, change)
        refused(lambda: Program.load(package), text)


def test_hostile_sizes_are_refused_before_they_are_allocated() -> None:
    for op, arguments in (
        ("fill", {"shape": torch.tensor([1 << 20, 1 << 20])}),
        ("tile", {"x": torch.zeros(2, 2), "reps": torch.tensor([1 << 20, 1 << 20])}),
        ("pad", {"x": torch.zeros(2), "pad": torch.tensor([0, 1 << 40])}),
        ("range_1d", {"start": torch.tensor(0), "end": torch.tensor(1 << 40), "step": torch.tensor(1)}),
    ):
        refused(lambda op=op, arguments=arguments: OPS[op](**arguments), "is larger than 1073741824 elements")


def test_unknown_operators_are_listed_up_front(package: Path) -> None:
    def change(spec: Any) -> None:
        for op in operations(spec):
            op.type = {"relu": "frobnicate", "linear": "while_loop"}.get(op.type, op.type)

    edit(package, change)
    refused(
        lambda: Program.load(package),
        "bad.mlpackage uses operators that cannot be run here: frobnicate '",
        "; while_loop '",
        "(control flow). Run it with Core ML on a Mac, or convert the model without them.",
    )


def test_names_in_messages_are_printable(package: Path) -> None:
    def change(spec: Any) -> None:
        next(op for op in operations(spec) if op.type == "relu").type = "\x1b[31mre\nlu"

    edit(package, change)
    refused(lambda: Program.load(package), "cannot be run here: ?[31mre?lu '")


def test_an_impossible_type_is_refused(package: Path) -> None:
    def change(spec: Any) -> None:
        stored = next(op for op in operations(spec) if op.attributes["val"].WhichOneof("value") == "blobFileValue")
        stored.attributes["val"].type.tensorType.dataType = 99

    edit(package, change)
    refused(lambda: Program.load(package), "bad.mlpackage cannot be read (", "the package is damaged")


def test_states_are_refused(tmp_path: Path, convert: Callable[..., Path]) -> None:
    @mb.program(
        input_specs=[mb.TensorSpec((3,), types.fp16), mb.StateTensorSpec((3,), types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def program(x: Any, memory: Any) -> Any:
        return mb.add(x=x, y=mb.read_state(input=memory))

    path = convert(program, tmp_path / "state.mlpackage", minimum_deployment_target=ct.target.iOS18)
    refused(lambda: Program.load(path), "keeps a state or takes no plain tensor in memory")


def test_wrong_shapes_and_names_are_noticed(package: Path, features: Tensor) -> None:
    whole = (package / MODEL).read_bytes()

    def shape(spec: Any) -> None:
        next(op for op in operations(spec) if op.type == "relu").outputs[0].type.tensorType.dimensions[
            1
        ].constant.size = 7

    edit(package, shape)
    refused(lambda: Program.load(package).run({"x": features}), "relu '", "declares '", "but computes [1, 32, 6, 6]")
    (package / MODEL).write_bytes(whole)

    def name(spec: Any) -> None:
        next(op for op in operations(spec) if op.type == "relu").inputs["x"].arguments[0].name = "nowhere"

    edit(package, name)
    refused(lambda: Program.load(package), "relu '", "uses 'nowhere' before it is computed.")
    (package / MODEL).write_bytes(whole)

    def parameter(spec: Any) -> None:
        op = next(op for op in operations(spec) if op.type == "relu")
        op.inputs["surprise"].CopyFrom(op.inputs["x"])

    edit(package, parameter)
    refused(lambda: Program.load(package).run({"x": features}), "cannot be computed:", "surprise")
