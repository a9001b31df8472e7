"""On a Mac, Core ML itself runs what Linux interprets: packages, and the delegate inside of ExecuTorch's programs."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from export.bundle import answers_of, read_array
from export.manifest import Bundle
from export.parity import compare_outputs
from export.targets import FP16

pytestmark = pytest.mark.skipif(sys.platform != "darwin", reason="Core ML runs on a Mac only")


@pytest.mark.parametrize("view", ["image", "text"])
@pytest.mark.parametrize("units", ["CPU_ONLY", "ALL"])
def test_core_ml_agrees_with_the_model(nano_bundle: Path, view: str, units: str) -> None:
    import coremltools as ct

    bundle = Bundle.open(nano_bundle)
    entry = next(item for item in bundle.manifest["artifacts"] if item["file"] == f"{view}.mlpackage")
    answer = bundle.manifest["known_answer"][view]
    feed: Any = read_array(nano_bundle, answer["input"])
    if view == "image":
        feed = Image.open(nano_bundle / answer["picture"]).convert("RGB")
    model = ct.models.MLModel(str(nano_bundle / entry["file"]), compute_units=ct.ComputeUnit[units])
    found = model.predict({entry["inputs"][0]["name"]: feed})
    outputs = [np.asarray(found[item["name"]]) for item in entry["outputs"]]
    for parity in compare_outputs(outputs, answers_of(nano_bundle, answer), entry["outputs"]):
        assert parity.passes(FP16), (view, units, parity)


@pytest.mark.parametrize("view", ["image", "text"])
def test_the_delegate_agrees_with_the_model(nano_bundle: Path, view: str) -> None:
    import torch
    from executorch.runtime import Runtime

    bundle = Bundle.open(nano_bundle)
    entry = next(item for item in bundle.manifest["artifacts"] if item["file"] == f"{view}.coreml.pte")
    answer = bundle.manifest["known_answer"][view]
    program = Runtime.get().load_program(nano_bundle / entry["file"])
    feed = torch.from_numpy(read_array(nano_bundle, answer["input"])).contiguous()
    outputs = [item.numpy() for item in program.load_method("forward").execute([feed])]
    for parity in compare_outputs(outputs, answers_of(nano_bundle, answer), entry["outputs"]):
        assert parity.passes(FP16), (view, parity)
