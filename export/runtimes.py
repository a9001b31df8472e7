"""What runs artifacts on this machine: onnxruntime, the ExecuTorch runtime, and the interpreter of Core ML programs.

`open_artifact` gives a `Session`: one call, arrays in, arrays out. A file whose runtime is not here (Vulkan) is a
`NotHere` with the reason, never a silent pass. A `.pte` for the Core ML delegate holds a whole .mlpackage; it is
taken out and interpreted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from mobileclip.errors import ArtifactError

if TYPE_CHECKING:
    from export import mil
    from export.embedded import Embedded

Array = npt.NDArray[Any]


class NotHere(Exception):
    """This machine cannot run the artifact; the text says what would be needed."""


@dataclass(frozen=True)
class Slot:
    """One input that a session takes."""

    name: str
    """Positional runtimes have `0`, `1`, ..."""
    shape: tuple[int, ...]
    """-1 where any size is allowed."""
    dtype: str
    picture: bool = False
    """8-bit pixels, fed as [1, 3, S, S] in 0..1 and converted."""


class Session(Protocol):
    """An artifact that is loaded and runs."""

    runtime: str
    """Name and version, for the report."""
    inputs: tuple[Slot, ...]
    """What it takes, in order."""

    def run(self, feeds: Sequence[Array]) -> list[Array]:
        """Outputs for one set of inputs, in order."""
        ...


_ORT_TYPES = {
    "tensor(float)": "float32",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(float16)": "float16",
}
_ET_TYPES = {3: "int32", 4: "int64", 5: "float16", 6: "float32"}  # ScalarType of ExecuTorch's schema


class OnnxSession:
    """A model in onnxruntime on the CPU."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own kinds, all of them "this file"
            raise ArtifactError(f"{path} is no model that onnxruntime can load ({_first_line(error)}).") from error
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self.inputs = tuple(
            Slot(
                item.name,
                tuple(d if isinstance(d, int) else -1 for d in item.shape),
                _ORT_TYPES.get(item.type, item.type),
            )
            for item in self._session.get_inputs()
        )

    def run(self, feeds: Sequence[Array]) -> list[Array]:
        outputs: list[Array] = self._session.run(
            None, {slot.name: feed for slot, feed in zip(self.inputs, feeds, strict=True)}
        )
        return outputs


class ExecuTorchSession:
    """A program in the ExecuTorch runtime of the wheel."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        from importlib.metadata import version

        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        if threads:
            portable_lib._unsafe_reset_threadpool(threads)
        try:
            self._program = Runtime.get().load_program(path)
            self._method = self._program.load_method("forward")
        except (RuntimeError, ValueError) as error:
            raise ArtifactError(f"{path} is no program that ExecuTorch can load ({_first_line(error)}).") from error
        self.runtime = f"executorch {version('executorch')}"
        about = [self._method.metadata.input_tensor_meta(index) for index in range(self._method.metadata.num_inputs())]
        self.inputs = tuple(
            Slot(str(index), tuple(item.sizes()), _ET_TYPES.get(item.dtype(), "float32"))
            for index, item in enumerate(about)
        )

    def run(self, feeds: Sequence[Array]) -> list[Array]:
        # non-contiguous inputs are read wrongly (pytorch/executorch issue 18562)
        outputs = self._method.execute([torch.from_numpy(np.ascontiguousarray(feed)) for feed in feeds])
        return [np.array(item.numpy()) for item in outputs]


@dataclass
class CoreMLSession:
    """A Core ML program in this project's interpreter, every tensor rounded to fp16 as a Neural Engine stores it unless
    the program says that it is wider."""

    program: "mil.Program"
    embedded: "Embedded | None" = None
    """The ExecuTorch program that the Core ML program is a part of."""
    audit: "mil.Audit | None" = None
    fp16: bool = field(init=False)
    runtime: str = field(init=False)
    inputs: tuple[Slot, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.fp16 = self.program.half
        self.runtime = "Core ML interpreter" + (", fp16" if self.fp16 else ", fp32")
        self.inputs = tuple(
            Slot(item.name, item.shape, item.dtype, item.kind == "image") for item in self.program.inputs
        )

    def run(self, feeds: Sequence[Array]) -> list[Array]:
        if self.embedded is not None:
            return self.embedded.run(feeds, fp16=self.fp16, audit=self.audit)
        named: dict[str, Any] = {}
        for spec, value in zip(self.program.inputs, feeds, strict=True):
            picture = spec.kind == "image" and value.ndim == 4 and value.dtype != np.uint8
            named[spec.name] = as_pixels(value) if picture else value
        outputs = self.program.run(named, fp16=self.fp16, audit=self.audit)
        return [outputs[item.name].numpy() for item in self.program.outputs]


def as_pixels(x: Array) -> Array:
    """[1, 3, S, S] in 0..1 -> 8-bit [S, S, 3]; exact for what came from 8-bit pixels."""
    pixels: Array = np.rint(x[0] * 255).astype(np.uint8).transpose(1, 2, 0)
    return pixels


def open_artifact(path: Path, target: str | None = None, threads: int = 0) -> Session:
    """Load an artifact in the runtime that fits it.

    Args:
        path: .onnx, .pte or .mlpackage.
        target: key of `TARGETS`; tells the delegates of .pte files apart (found in the file when None).
        threads: of the CPU runtimes; 0 leaves it to them.

    Raises:
        NotHere: no runtime on this machine runs it.
        ArtifactError: the file is broken or of no known kind.
    """
    if not path.exists():
        raise ArtifactError(f"{path} does not exist: give a .onnx, .pte or .mlpackage.")
    if path.suffix == ".onnx":
        return OnnxSession(path, threads)
    if path.suffix == ".mlpackage":
        from export import mil

        return CoreMLSession(mil.Program.load(path))
    if path.suffix == ".pte":
        delegates = set(_delegates(path)) if target is None else {target}
        if delegates & {"executorch-vulkan", "VulkanBackend"}:
            raise NotHere("a Vulkan device with an ExecuTorch build for it (an Android phone)")
        if delegates & {"executorch-coreml", "CoreMLBackend"}:
            return _embedded_coreml(path)
        return ExecuTorchSession(path, threads)
    raise ArtifactError(f"{path.name} is no artifact that can be run: give a .onnx, .pte or .mlpackage.")


def _read_pte(path: Path) -> Any:
    from executorch.exir._serialize._program import deserialize_pte_binary

    try:
        return deserialize_pte_binary(path.read_bytes())
    except Exception as error:  # a flatbuffer reader on foreign bytes raises anything
        raise ArtifactError(f"{path} is no ExecuTorch program ({_first_line(error)}).") from error


def _delegates(path: Path) -> list[str]:
    plans = _read_pte(path).program.execution_plan
    return [delegate.id for plan in plans for delegate in plan.delegates]


def _embedded_coreml(path: Path) -> Session:
    """The .mlpackage inside a .pte for the Core ML delegate, when the delegate holds all but a few known operators."""
    from export.embedded import Embedded

    try:
        embedded = Embedded(_read_pte(path), path)
    except NotImplementedError as error:
        raise NotHere("Core ML (the program is not one Core ML delegate alone)") from error
    return CoreMLSession(embedded.program, embedded)


def tool_versions() -> Mapping[str, str]:
    """Versions of everything that makes or runs artifacts."""
    from importlib.metadata import version

    names = ("torch", "timm", "open_clip_torch", "coremltools", "executorch", "torchao", "onnx", "onnxruntime", "numpy")
    return {name: version(name) for name in names}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
