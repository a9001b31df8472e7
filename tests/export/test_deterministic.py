"""The same checkpoint is the same bytes: another process, which orders sets otherwise, writes the same artifacts."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.proto import Model_pb2
from executorch.backends.apple.coreml import executorchcoreml

from export.manifest import Bundle
from export.mil_package import open_package
from export.targets import TARGETS
from export.to_coreml import settle
from export.to_executorch import settled
from mobileclip.digests import sha256_of
from mobileclip.errors import ArtifactError

EXPORT = "import export, sys; export.export('seeded:nano', export.TARGETS, sys.argv[1], views=('image',))"


def test_another_process_writes_the_same_artifacts(nano_bundle: Path, tmp_path: Path) -> None:
    """`nano_bundle` is of two processes at the same time, this one of one; Python orders sets otherwise in each."""
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    again = tmp_path / "again"
    subprocess.run([sys.executable, "-c", EXPORT, str(again)], env=os.environ | {"PYTHONHASHSEED": seed}, check=True)
    about = [Bundle.open(folder).manifest for folder in (nano_bundle, again)]
    hashes = [{item["file"]: item["sha256"] for item in one["artifacts"] if item["view"] == "image"} for one in about]
    assert set(hashes[0]) == {f"image{target.suffix}" for target in TARGETS.values()}
    assert hashes[0] == hashes[1]
    for file in (again / "known_answer").iterdir():
        assert file.read_bytes() == (nano_bundle / "known_answer" / file.name).read_bytes(), file.name


def package(path: Path, weight: float) -> Path:
    """A small program, as coremltools saves it."""

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 8))], opset_version=ct.target.iOS16)
    def program(x):  # type: ignore[no-untyped-def]
        return mb.linear(x=x, weight=np.full((64, 8), weight, np.float32), name="y")

    model = ct.convert(program, minimum_deployment_target=ct.target.iOS16, skip_model_load=True)
    model.user_defined_metadata.update({f"note {index}": str(index) for index in range(20)})
    model.save(str(path))
    return path


def spec_of(path: Path) -> Model_pb2.Model:
    spec = Model_pb2.Model()
    spec.ParseFromString((path / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    return spec


def without_date(spec: Model_pb2.Model) -> Model_pb2.Model:
    assert spec.description.metadata.userDefined.pop("com.github.apple.coremltools.conversion_date")
    return spec


def test_settled_packages_differ_where_their_programs_do(tmp_path: Path) -> None:
    first, second, other = (package(tmp_path / f"{name}.mlpackage", name / 4) for name in (1, 2, 3))
    twin = package(tmp_path / "twin.mlpackage", 1 / 4)
    before = spec_of(first)
    assert sha256_of(first) != sha256_of(twin)
    for path in (first, second, other, twin):
        settle(path)
    assert sha256_of(first) == sha256_of(twin)
    assert len({sha256_of(path) for path in (first, second, other)}) == 3
    assert spec_of(first) == without_date(before), "nothing but the date is gone"
    names = json.loads((first / "Manifest.json").read_text())
    assert names["itemInfoEntries"][names["rootModelIdentifier"]]["path"] == "com.apple.CoreML/model.mlmodel"
    assert len(names["itemInfoEntries"]) == 2
    ct.models.MLModel(str(first), skip_model_load=True)  # coremltools finds both items


def test_a_delegate_is_named_by_its_model(tmp_path: Path) -> None:
    """The delegate keeps compiled models by identifier: the same model has the same, another has another."""
    identifiers = {}
    for name, weight in (("first", 0.25), ("twin", 0.25), ("other", 0.5)):
        folder = tmp_path / name / "lowered_module"
        package(folder / "model.mlpackage", weight)
        about = {"inputNames": ["x"], "outputNames": ["y"], "identifier": f"executorch_{uuid.uuid4()}"}
        (folder / "metadata.json").write_text(json.dumps(about))
        content = settled(executorchcoreml.flatten_directory_contents(str(folder)))
        (tmp_path / f"{name} again").mkdir()
        assert executorchcoreml.unflatten_directory_contents(content, str(tmp_path / f"{name} again"))
        again = tmp_path / f"{name} again" / "lowered_module"
        found = json.loads((again / "metadata.json").read_text())
        assert found == about | {"identifier": found["identifier"]}
        assert open_package(again / "model.mlpackage").spec == without_date(spec_of(folder / "model.mlpackage"))
        identifiers[name] = found["identifier"], content
    assert identifiers["first"] == identifiers["twin"]
    assert identifiers["first"][0] != identifiers["other"][0]


def test_what_is_no_package_is_not_settled(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"is no model package: it has no Manifest\.json"):
        settle(tmp_path)
