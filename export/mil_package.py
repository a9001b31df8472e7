"""A .mlpackage opened with suspicion: its parts are found, its protobuf is parsed, its stored constants are decoded.

A package is a folder: `Manifest.json` names a model file (a protobuf, `Model.proto` of coremltools) and a folder of
weights (`weight.bin`: 64-byte records that say type, size and offset, then the numbers). Nothing is believed before it
is checked: paths and links stay inside of the package, sizes are bounded, weights are read inside of their file.

Unusual here: the weights are read by this module, not by coremltools' native reader, and the graph is read from the
protobuf, not through `frontend.milproto`, which folds constants while it loads. So a damaged file ends in one sentence,
a hostile one computes nothing, and a compressed weight is decoded independently of the code that encoded it.

Sources: file layout, MILBlob `StorageFormat.hpp`; the `constexpr_*` formulas, coremltools 9.0
`converters/mil/mil/ops/defs/iOS16/constexpr_ops.py` and `iOS18/compression.py`.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
from coremltools.proto import MIL_pb2, Model_pb2
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray

from mobileclip.errors import ArtifactError

Array: TypeAlias = NDArray[Any]
Constant: TypeAlias = Array | str | list[str]

MANIFEST_BYTES = 1 << 20
SPEC_BYTES = 1 << 30
MAX_FILES = 10_000
MAX_ELEMENTS = 1 << 30  # of one tensor: 4 GiB as fp32, more than any phone takes

# What torch, numpy and Python raise when an operator or decoder is given the impossible.
FOREIGN = (
    *(RuntimeError, IndexError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, MemoryError),
    *(AssertionError, ArtifactError),
)

_BLOB_VERSION = 2
_BLOB_SENTINEL = 0xDEADBEEF
_RECORD = np.dtype([("sentinel", "<u4"), ("type", "<u4"), ("bytes", "<u8"), ("offset", "<u8"), ("reserved", "V40")])

# Stored types as numpy types, and the types of less than a byte as (bits, signed).
_WHOLE: dict[str, str] = {
    "BOOL": "?", "FLOAT16": "<f2", "FLOAT32": "<f4", "FLOAT64": "<f8", "INT8": "i1", "INT16": "<i2", "INT32": "<i4",
    "INT64": "<i8", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
}  # fmt: skip
_PACKED: dict[str, tuple[int, bool]] = {
    "INT4": (4, True), "UINT1": (1, False), "UINT2": (2, False), "UINT3": (3, False), "UINT4": (4, False),
    "UINT6": (6, False),
}  # fmt: skip


@dataclass(kw_only=True)
class Package:
    """A checked package. `spec` is the parsed protobuf, `data` the folder that `@model_path` stands for."""

    path: Path
    spec: Any
    data: Path
    blob_bytes: dict[tuple[str, int], int] = field(default_factory=dict)
    "Stored bytes of each blob that was read, by (file, offset)."
    _files: dict[str, Array] = field(default_factory=dict)

    def constant(self, value: Any, name: str) -> Constant:
        """The numpy array (or string, or strings) of a protobuf `Value`; `name` is for the error text."""
        if value.type.WhichOneof("type") == "listType":
            return [str(self.constant(item, name)) for item in value.immediateValue.list.values]
        if value.type.WhichOneof("type") != "tensorType":
            raise ArtifactError(f"{self.path.name}: constant '{name}' is no tensor; this reads tensors and strings.")
        kind = data_type(value.type.tensorType)
        shape = static_shape(value.type.tensorType)
        if shape is None or math.prod(shape) > MAX_ELEMENTS:
            raise ArtifactError(
                f"{self.path.name}: constant '{name}' has no size, or more than {MAX_ELEMENTS} elements."
            )
        if value.WhichOneof("value") == "blobFileValue":
            blob = value.blobFileValue
            return self._blob(blob.fileName, blob.offset, kind, shape, name)
        stored = value.immediateValue.tensor
        which = stored.WhichOneof("value")
        if kind == "STRING":
            if which != "strings" or len(stored.strings.values) != 1:
                raise ArtifactError(f"{self.path.name}: constant '{name}' should be one string.")
            return str(stored.strings.values[0])
        if which == "bytes":
            return self._numbers(np.frombuffer(stored.bytes.values, np.uint8), kind, shape, name)
        numbers = np.array(getattr(stored, which).values if which else [], dtype=_WHOLE.get(kind, "<f4"))
        if numbers.size != math.prod(shape):
            raise ArtifactError(f"{self.path.name}: constant '{name}' has {numbers.size} values for shape {shape}.")
        return numbers.reshape(shape)

    def _blob(self, file: str, offset: int, kind: str, shape: tuple[int, ...], name: str) -> Array:
        content = self._content(file)
        if offset + _RECORD.itemsize > content.size:
            raise ArtifactError(self._cut(file, offset + _RECORD.itemsize, content.size, name))
        record = content[offset : offset + _RECORD.itemsize].view(_RECORD)[0]
        if record["sentinel"] != _BLOB_SENTINEL:
            raise ArtifactError(
                f"{self.path.name}: {_base(file)} holds no record of constant '{name}' at byte {offset}: "
                "the weights are damaged or of another model; copy or export the package again."
            )
        start, size = int(record["offset"]), int(record["bytes"])
        if start + size > content.size:
            raise ArtifactError(self._cut(file, start + size, content.size, name))
        self.blob_bytes[file, offset] = size
        return self._numbers(content[start : start + size], kind, shape, name)

    def _numbers(self, stored: Array, kind: str, shape: tuple[int, ...], name: str) -> Array:
        """Bytes to an array: `kind` is a name of `MIL.proto`'s DataType; small types unpack to int8 / uint8."""
        count = math.prod(shape)
        if kind in _PACKED:
            bits, signed = _PACKED[kind]
            needed = (count * bits + 7) // 8
        elif kind in _WHOLE:
            needed = count * np.dtype(_WHOLE[kind]).itemsize
        else:
            raise ArtifactError(f"{self.path.name}: constant '{name}' is {kind.lower()}, which this does not read.")
        if stored.size < needed:
            raise ArtifactError(
                f"{self.path.name}: constant '{name}' needs {needed} bytes for shape {shape}, {stored.size} are stored."
            )
        if kind in _WHOLE:
            return stored[:needed].view(_WHOLE[kind]).reshape(shape)
        numbers = unpack(stored[:needed], bits, count)
        if signed:
            numbers = (numbers << (8 - bits)).view(np.int8) >> (8 - bits)  # copies the sign bit upwards
        return numbers.reshape(shape)

    def _content(self, file: str) -> Array:
        if file not in self._files:
            inside = PurePosixPath(file).parts
            if inside[:1] != ("@model_path",) or ".." in inside or "\\" in file:
                raise ArtifactError(f"{self.path.name} refers to weights in '{file}', outside of the package.")
            path = self.data.joinpath(*inside[1:])
            if not path.is_file():
                raise ArtifactError(
                    f"{self.path.name} has no {_base(file)}: the package is incomplete; copy or export it again."
                )
            content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
            if content.size < 8 or int(content[4:8].view("<u4")[0]) != _BLOB_VERSION:
                raise ArtifactError(
                    f"{self.path.name}: {_base(file)} is no weight file of version {_BLOB_VERSION}: "
                    "the package is damaged; copy or export it again."
                )
            self._files[file] = content
        return self._files[file]

    def _cut(self, file: str, needed: int, size: int, name: str) -> str:
        return (
            f"{self.path.name}: {_base(file)} is cut short: constant '{name}' ends at byte {needed}, the file has "
            f"{size}: copy or export the package again."
        )


def open_package(path: str | Path) -> Package:
    """Find and parse the model of a .mlpackage.

    Raises ArtifactError for what is missing, compiled, damaged, hostile or not an ML Program.
    """
    root = Path(path)
    if not root.exists():
        raise ArtifactError(f"no model at '{root}': give the folder of a .mlpackage.")
    if root.is_file():
        raise ArtifactError(
            f"'{root}' is a file; an ML Program is a folder ending in .mlpackage (a single .mlmodel is of an older "
            "kind: convert the model again with convert_to='mlprogram')."
        )
    if (root / "coremldata.bin").exists():
        raise ArtifactError(f"'{root}' is a compiled model; give the .mlpackage that it was compiled from.")
    if not (root / "Manifest.json").is_file():
        raise ArtifactError(f"'{root}' is no model package: it has no Manifest.json.")
    _refuse_links(root)
    model = _model_file(root)
    spec = Model_pb2.Model()
    if model.stat().st_size > SPEC_BYTES:
        raise ArtifactError(f"{root.name}: {model.name} is larger than {SPEC_BYTES} bytes, which no ML Program is.")
    try:
        spec.ParseFromString(model.read_bytes())
    except DecodeError as error:
        raise ArtifactError(
            f"{root.name}: {model.name} cannot be parsed: the package is damaged; copy or export it again."
        ) from error
    kind = spec.WhichOneof("Type")
    if kind is None:
        raise ArtifactError(f"{root.name}: {model.name} holds no model: the package is damaged; export it again.")
    if kind != "mlProgram":
        raise ArtifactError(
            f"{root.name} is a {kind} model; only ML Programs can be run here: convert it again with "
            "convert_to='mlprogram'."
        )
    return Package(path=root, spec=spec, data=model.parent)


def _refuse_links(root: Path) -> None:
    inside = root.resolve()
    seen = 0
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            seen += 1
            entry = Path(folder, name)
            if entry.is_symlink() and not entry.resolve().is_relative_to(inside):
                raise ArtifactError(f"{root.name}: '{entry.relative_to(root)}' is a link that leaves the package.")
        if seen > MAX_FILES:
            raise ArtifactError(f"{root.name} has more than {MAX_FILES} files; a model package has a handful.")


def _model_file(root: Path) -> Path:
    """The model file that Manifest.json names as the root."""
    file = root / "Manifest.json"
    damaged = "the package is damaged; copy or export it again."
    if file.stat().st_size > MANIFEST_BYTES:
        raise ArtifactError(f"{root.name}: Manifest.json is larger than {MANIFEST_BYTES} bytes: {damaged}")
    try:
        manifest = json.loads(file.read_bytes())
        items = {str(key): str(item["path"]) for key, item in manifest["itemInfoEntries"].items()}
        model = items[manifest["rootModelIdentifier"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{root.name}: Manifest.json does not name a model: {damaged}") from error
    for item in items.values():
        parts = PurePosixPath(item)
        if parts.is_absolute() or ".." in parts.parts or "\\" in item or "\0" in item:
            raise ArtifactError(f"{root.name}: Manifest.json names '{item}', which lies outside of the package.")
        if not (root / "Data" / item).exists():
            raise ArtifactError(f"{root.name}: Manifest.json names '{item}', which is missing: {damaged}")
    if not (root / "Data" / model).is_file():
        raise ArtifactError(f"{root.name}: '{model}', the root model, is not a file: {damaged}")
    return root / "Data" / model


def data_type(tensor: Any) -> str:
    """The name of a `TensorType`'s element type, as in `MIL.proto`: 'FLOAT16', 'INT32', 'STRING', ..."""
    return str(MIL_pb2.DataType.Name(tensor.dataType))


def declared_shape(tensor: Any) -> tuple[int, ...]:
    """The sizes of a `TensorType`; -1 where the program leaves a size open."""
    return tuple(int(d.constant.size) if d.WhichOneof("dimension") == "constant" else -1 for d in tensor.dimensions)


def static_shape(tensor: Any) -> tuple[int, ...] | None:
    """As `declared_shape`, or None where a size is open."""
    shape = declared_shape(tensor)
    return None if -1 in shape else shape


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Names in a damaged or hostile file may hold line breaks or terminal codes; no ArtifactError shows them."""
    try:
        yield
    except ArtifactError as error:
        if str(error).isprintable():
            raise
        raise ArtifactError(printable(str(error))) from error


def printable(text: str) -> str:
    """The text with every character that cannot be printed as a question mark."""
    return "".join(c if c.isprintable() else "?" for c in text)


def first(error: BaseException) -> str:
    """The first line of a foreign error, without its full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def unpack(packed: Array, bits: int, count: int) -> Array:
    """`count` unsigned numbers of `bits` bits, least significant bit first and across bytes, as uint8."""
    stream = np.unpackbits(packed, count=bits * count, bitorder="little").reshape(count, bits)
    numbers = np.zeros(count, np.uint8)
    for bit in range(bits):
        numbers |= stream[:, bit] << bit
    return numbers


def _base(file: str) -> str:
    return file.removeprefix("@model_path/")


# Compressed constants. Each function takes the parameters of its op by name and returns the op's outputs.


def _affine_dequantize(quantized_data: Array, zero_point: Array, scale: Array, axis: Array) -> tuple[Array, ...]:
    """scale * (q - zero_point), scale and zero_point scalars or one per index of `axis`; iOS 16."""
    along = [1] * quantized_data.ndim
    along[int(axis)] = -1
    zero, gain = (v.astype(np.float32).reshape(along if v.ndim else ()) for v in (zero_point, scale))
    return (((quantized_data.astype(np.float32) - zero) * gain).astype(scale.dtype),)


def _blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> tuple[Array, ...]:
    """scale * (q - offset) with one scale per block: block size = data size / scale size, per axis; iOS 18."""
    blocks = [n // m for n, m in zip(data.shape, scale.shape, strict=True)]

    def spread(values: Array) -> Array:
        values = values.astype(np.float32)
        for axis, block in enumerate(blocks):
            values = np.repeat(values, block, axis) if block > 1 else values
        return values

    shifted = data.astype(np.float32) - (0 if offset is None else spread(offset))
    return ((shifted * spread(scale)).astype(scale.dtype),)


def _lut_to_dense(
    indices: Array, lut: Array, shape: Array | None = None, vector_axis: Array | None = None
) -> tuple[Array, ...]:
    """Palette entries for indices. iOS 16: packed indices and a shape; iOS 18: one palette a group, of vectors."""
    if shape is not None:
        size = tuple(int(n) for n in shape)
        return (lut[unpack(indices, int(math.log2(lut.size)), math.prod(size))].reshape(size),)
    # lut: [*groups, palette, vector]; index i of an axis of n belongs to group i // (n / groups).
    groups = [np.arange(n) // (n // g) for n, g in zip(indices.shape, lut.shape[:-2], strict=True)]
    dense = lut[(*np.ix_(*groups), indices)]  # [*indices, vector]
    if lut.shape[-1] == 1:
        return (dense[..., 0],)
    axis = int(vector_axis) % indices.ndim if vector_axis is not None else 0
    size = tuple(n * (lut.shape[-1] if i == axis else 1) for i, n in enumerate(indices.shape))
    return (np.moveaxis(dense, -1, axis + 1).reshape(size),)


def _sparse_to_dense(nonzero_data: Array, mask: Array, shape: Array | None = None) -> tuple[Array, ...]:
    """Values where the mask is set, zero elsewhere. iOS 16 packs the mask's bits and gives `shape`."""
    if shape is not None:
        size = tuple(int(n) for n in shape)
        mask = unpack(mask, 1, math.prod(size)).reshape(size)
    dense = np.zeros(mask.shape, nonzero_data.dtype)
    dense[mask != 0] = nonzero_data
    return (dense,)


def _lut_to_sparse(
    indices_mask: Array, indices_nonzero_data: Array, lut: Array, vector_axis: Array | None = None
) -> tuple[Array, ...]:
    (indices,) = _sparse_to_dense(indices_nonzero_data, indices_mask)
    (dense,) = _lut_to_dense(indices, lut, vector_axis=vector_axis)
    mask = indices_mask
    if lut.shape[-1] > 1 and vector_axis is not None:
        mask = np.repeat(mask, lut.shape[-1], axis=int(vector_axis))
    return mask, dense[mask != 0]


def _sparse_blockwise_shift_scale(
    data_mask: Array, nonzero_data: Array, scale: Array, offset: Array | None = None
) -> tuple[Array, ...]:
    (data,) = _sparse_to_dense(nonzero_data, data_mask)
    (dense,) = _blockwise_shift_scale(data, scale, offset)
    return data_mask, dense[data_mask != 0]


DECODERS: dict[str, Callable[..., tuple[Array, ...]]] = {
    "constexpr_affine_dequantize": _affine_dequantize,
    "constexpr_blockwise_shift_scale": _blockwise_shift_scale,
    "constexpr_cast": lambda source_val, output_dtype: (source_val.astype(np.float32),),
    "constexpr_lut_to_dense": _lut_to_dense,
    "constexpr_lut_to_sparse": _lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": _sparse_blockwise_shift_scale,
    "constexpr_sparse_to_dense": _sparse_to_dense,
}
