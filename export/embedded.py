"""An ExecuTorch program whose work a Core ML delegate does, run where Core ML is not.

The delegate holds a whole .mlpackage, which this project's interpreter runs. What ExecuTorch's own kernels compute
around it (the argmax of a segmentation, in fp32) is computed in torch: `KERNELS` is all that is known, and a program
with anything else is `NotHere`.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from export import mil
from mobileclip.errors import ArtifactError

Array = npt.NDArray[Any]
Step = tuple[str, list[int]]
"""A kernel by name, or "" for the delegate, and the indices of its values, outputs last."""

_TYPES = {3: np.int32, 4: np.int64, 6: np.float32}  # ScalarType of ExecuTorch's schema


def _argmax(values: Mapping[int, Any], places: Sequence[int], dtype: Any) -> Array:
    source, axis, keep = (values[place] for place in places[:3])
    return torch.from_numpy(source).argmax(axis, keepdim=bool(keep)).numpy()


def _converted(values: Mapping[int, Any], places: Sequence[int], dtype: Any) -> Array:
    out: Array = values[places[0]].astype(dtype)
    return out


KERNELS: Mapping[str, Callable[[Mapping[int, Any], Sequence[int], Any], Array]] = {
    "aten::argmax.out": _argmax,
    "aten::_to_copy.out": _converted,
    "dim_order_ops::_to_dim_order_copy.out": _converted,
}
"""ExecuTorch's kernel -> its first output, of the values at the places of its arguments."""


class Embedded:
    """The steps of a program: one delegate, and kernels around it."""

    def __init__(self, file: Any, path: Path) -> None:
        """Args:
        file: what ExecuTorch's `deserialize_pte_binary` gives.
        path: for messages.

        Raises:
            NotImplementedError: not one Core ML delegate with known kernels around it.
            ArtifactError: the package inside is broken.
        """
        plan = file.program.execution_plan[0]
        if [delegate.id for delegate in plan.delegates] != ["CoreMLBackend"] or len(plan.chains) != 1:
            raise NotImplementedError
        self._inputs, self._outputs = list(plan.inputs), list(plan.outputs)
        self._values = {index: _literal(value.val) for index, value in enumerate(plan.values)}
        self._dtypes = {index: int(getattr(value.val, "scalar_type", 6)) for index, value in enumerate(plan.values)}
        self._steps: list[Step] = []
        for instruction in plan.chains[0].instructions:
            call = instruction.instr_args
            if type(call).__name__ == "FreeCall":
                continue
            name = ""
            if type(call).__name__ == "KernelCall":
                operator = plan.operators[call.op_index]
                name = f"{operator.name}.{operator.overload}"
            if (name not in KERNELS and name) or type(call).__name__ not in ("KernelCall", "DelegateCall"):
                raise NotImplementedError
            self._steps.append((name, list(call.args)))
        self.program = _package(file, plan.delegates[0], path)

    def run(self, feeds: Sequence[Any], *, fp16: bool, audit: mil.Audit | None) -> list[Array]:
        """Outputs for one set of inputs."""
        values = self._values | dict(zip(self._inputs, feeds, strict=True))
        for name, places in self._steps:
            if name:
                out = places[-1]
                kind = _TYPES.get(self._dtypes[out], np.float32)
                values[out] = KERNELS[name](values, places, kind).astype(kind)
                continue
            count = len(self.program.inputs)
            named = {item.name: values[place] for item, place in zip(self.program.inputs, places[:count], strict=True)}
            given = self.program.run(named, fp16=fp16, audit=audit)
            for item, place in zip(self.program.outputs, places[count:], strict=True):
                values[place] = given[item.name].numpy()
        return [values[place] for place in self._outputs]


def _literal(value: Any) -> Any:
    """Numbers and truth values of a program; None for everything else."""
    for part in ("int_val", "bool_val", "double_val"):
        if hasattr(value, part):
            return getattr(value, part)
    return None


def _package(file: Any, delegate: Any, path: Path) -> mil.Program:
    from executorch.backends.apple.coreml import executorchcoreml

    data: bytes = file.program.backend_delegate_data[delegate.processed.index].data
    if data.startswith(b"CMJR"):  # a reference into the named data, see the delegate's preprocess
        key = json.loads(data[4:].decode())["key"]
        data = file.named_data.buffers[file.named_data.pte_data[key].buffer_index]
    folder = Path(tempfile.mkdtemp(prefix="mobileclip-"))
    try:
        if not executorchcoreml.unflatten_directory_contents(bytes(data), str(folder)):
            raise ArtifactError(f"{path} holds a Core ML delegate whose package cannot be read.")
        package = next(iter(sorted(folder.rglob("*.mlpackage"))), folder)
        if package == folder:
            package = folder.rename(folder.with_suffix(".mlpackage"))
        return mil.Program.load(package)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(folder.with_suffix(".mlpackage"), ignore_errors=True)
