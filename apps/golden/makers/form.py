"""How values are written: one JSON form for arrays, one case a line."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

VERSION = 1
"""Of the golden files' form; a kit refuses another."""


def array(values: npt.NDArray[Any]) -> dict[str, Any]:
    """An array: type, shape, and its little-endian bytes, row by row, in base64."""
    raw = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes()
    return {"dtype": str(values.dtype), "shape": list(values.shape), "base64": base64.b64encode(raw).decode()}


def read(entry: Mapping[str, Any]) -> npt.NDArray[Any]:
    """The inverse of `array`."""
    dtype = np.dtype(entry["dtype"])
    values = np.frombuffer(base64.b64decode(entry["base64"]), dtype.newbyteorder("<"))
    return values.astype(dtype).reshape(entry["shape"])


def file(cases: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """A golden file."""
    return {"version": VERSION, **more, "cases": list(cases)}


def write(path: Path, content: Mapping[str, Any]) -> None:
    """As JSON in ASCII, each entry of `cases` on a line of its own, so that a change is a readable difference."""
    lines = []
    for key, value in content.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n".join(_json(item) for item in value)
            lines.append(f"{_json(key)}: [\n{rows}\n]")
        else:
            lines.append(f"{_json(key)}: {_json(value)}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="ascii", newline="\n")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
