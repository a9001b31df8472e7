"""Named numpy arrays in one file that is mapped, not read: the container of indices and side-cars.

The file is a safetensors file (an 8-byte length, a JSON header, the bytes), so any safetensors reader opens it; here it
is read through one memory map, whose views stay read-only. Written beside its place and moved there when complete.

Source: safetensors, README, "Format".
"""

import json
import mmap
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mobileclip.errors import DataError, OutputError

HEADER_LIMIT = 16_000_000
"""Bytes of a JSON header; an index of 10,000 samples has about two thousand."""

_DTYPES = {"U8": "u1", "I8": "i1", "U16": "<u2", "F16": "<f2", "BF16": "<u2", "I32": "<i4", "F32": "<f4"} | {
    "I64": "<i8",
    "U64": "<u8",
}
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items() if name != "BF16"}


def save(
    path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any], bf16: tuple[str, ...] = ()
) -> None:
    """Write arrays and JSON metadata; those named in `bf16` are uint16 that hold bfloat16's bits.

    Raises:
        OutputError: the place cannot be written; nothing is left behind.
    """
    header: dict[str, Any] = {"__metadata__": {"json": json.dumps(metadata, ensure_ascii=False)}}
    offset, ordered = 0, sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    for name in ordered:
        array = arrays[name]
        kind = (
            "BF16"
            if name in bf16
            else _NAMES[array.dtype.newbyteorder("<") if array.dtype.itemsize > 1 else array.dtype]
        )
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    head = json.dumps(header, ensure_ascii=False).encode()
    head += b" " * (-len(head) % 64)  # the widest arrays come first, so all are aligned
    with placing(path) as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in ordered:
            file.write(np.ascontiguousarray(arrays[name]).data)


def load(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays (read-only views of the mapped file; bfloat16 as uint16) and metadata.

    Raises:
        DataError: it is missing, or its header is not one, or claims bytes that the file does not have.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"'{path}' cannot be opened ({reason}): check the path and its permissions.") from error
    except ValueError as error:
        raise DataError(f"'{path}' is empty: make it again.") from error
    try:
        length = int.from_bytes(data[:8], "little")
        if not 0 < length <= min(HEADER_LIMIT, len(data) - 8):
            raise ValueError("its header's length is wrong")
        header = json.loads(data[8 : 8 + length])
        metadata = json.loads(header.pop("__metadata__")["json"])
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is no JSON object")
        return {name: _view(data, 8 + length, spec) for name, spec in header.items()}, metadata
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"'{path}' is damaged or of another format ({reason}): make or copy it again.") from error


@contextmanager
def placing(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path` open for writing, moved to its place when the block ends without an error.

    Raises:
        OutputError: the place cannot be written (no room, no permission); nothing is left behind.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """The border to the disk: an OSError in the block becomes an OutputError that names `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"'{path}' cannot be written ({reason}): give a place that exists and has room.") from error


def _view(data: mmap.mmap, base: int, spec: Mapping[str, Any]) -> NDArray[Any]:
    dtype, shape, (start, stop) = np.dtype(_DTYPES[spec["dtype"]]), spec["shape"], spec["data_offsets"]
    if not all(isinstance(value, int) and value >= 0 for value in (*shape, start, stop)):
        raise ValueError("a shape or an offset is no number")
    count = 1
    for side in shape:
        count *= side
    if stop - start != count * dtype.itemsize or base + stop > len(data):
        raise ValueError("an array lies outside the file")
    if count == 0:
        return np.zeros(shape, dtype)
    return np.frombuffer(data, dtype, count, base + start).reshape(shape)
