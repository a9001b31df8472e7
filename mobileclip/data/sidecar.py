"""Embeddings beside a shard: row-aligned with its samples, bfloat16 or int8, mapped into memory.

    sidecar.write(folder / "00012.image.safetensors", rows, kind="bf16", keys=keys_hash, counts=counts)
    SideCar.open(folder / "00012.image.safetensors").rows(7)         # float32 [A, D] of sample 7

A folder of side-cars holds `{shard}.image.safetensors` (one row for each stored augmentation) and
`{shard}.text.safetensors` (the `.txt`'s row, then those of the caption lists of `.syn.json` in its order). Samples are
in the order of the shard's index.

Unusual here: the header carries the hash of the keys, and for texts that of the captions, so that a side-car of another
shard, or of the same one before its captions changed, is refused.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mobileclip.data import arrays
from mobileclip.errors import DataError

Kind = Literal["bf16", "int8"]
VERSION = 1
"""Of the layout; another one is refused."""
IMAGE, TEXT = ".image.safetensors", ".text.safetensors"
"""Endings of a shard's two side-cars."""

_HEAD = 65_536  # bytes kept free for the header, which is written last


@dataclass(frozen=True, kw_only=True, eq=False)
class SideCar:
    """Embeddings of the samples of one shard."""

    path: Path
    """The file."""
    n: int
    """Samples."""
    dim: int
    """Columns."""
    kind: Kind
    """How rows are stored."""
    keys: str
    """`keys_hash` of the samples' keys."""
    texts: str
    """`keys_hash` of the captions; empty for images."""
    start: NDArray[np.int64]
    """[n + 1] row at which each sample begins."""
    data: NDArray[Any]
    """[R, D] int8, or uint16 that holds bfloat16's bits."""
    scale: NDArray[np.float32] | None
    """[R] what int8 is multiplied by."""

    @classmethod
    def open(cls, path: Path) -> "SideCar":
        """Map a side-car.

        Raises:
            DataError: it is missing, damaged or of another version.
        """
        found, metadata = arrays.load(path)
        if metadata.get("sidecar") != VERSION:
            raise DataError(
                f"'{path}' is a side-car of version {metadata.get('sidecar')}, {VERSION} is read: make it again."
            )
        try:
            car = cls(
                path=path,
                n=int(metadata["n"]),
                dim=int(metadata["dim"]),
                kind=metadata["kind"],
                keys=str(metadata["keys"]),
                texts=str(metadata["texts"]),
                start=found["start"],
                data=found["data"],
                scale=found.get("scale"),
            )
            _check(car)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"'{path}' is damaged ({error}): make it again.") from error
        return car

    def expect(self, keys: str, n: int, texts: str = "") -> "SideCar":
        """Itself, when it belongs to the shard with these samples and captions.

        Raises:
            DataError: it belongs to another shard, or its captions have changed.
        """
        if (self.n, self.keys) != (n, keys):
            raise DataError(
                f"'{self.path}' belongs to another shard: it has {self.n} samples with keys {self.keys[:12]}, this "
                f"shard has {n} with {keys[:12]}; make it again for this one, or give the right folder."
            )
        if self.texts and texts and self.texts != texts:
            raise DataError(f"'{self.path}' was made for other captions of this shard: make it again.")
        return self

    def rows(self, sample: int) -> NDArray[np.float32]:
        """Rows of one sample, float32 [count, D]."""
        first, last = self.start[sample], self.start[sample + 1]
        part = self.data[first:last]
        if self.scale is None:
            return _from_bf16(part)
        scaled: NDArray[np.float32] = part.astype(np.float32) * self.scale[first:last, None]
        return scaled

    def row(self, sample: int, place: int) -> NDArray[np.float32]:
        """One row of one sample, float32 [D]."""
        row = int(self.start[sample]) + place
        if self.scale is None:
            return _from_bf16(self.data[row])
        scaled: NDArray[np.float32] = self.data[row].astype(np.float32) * self.scale[row]
        return scaled


def write(
    path: Path,
    rows: NDArray[np.float32],
    *,
    kind: Kind,
    keys: str,
    counts: Sequence[int] | NDArray[np.int64],
    texts: str = "",
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write `rows` [R, D]: `counts[i]` of them belong to sample `i`; `keys` and `texts` are `keys_hash`es.

    Raises:
        DataError: counts and rows do not agree, or a value is not finite.
        OutputError: the place cannot be written.
    """
    start = np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64))]).astype(np.int64)
    if rows.ndim != 2 or start[-1] != len(rows) or np.any(np.diff(start) < 0):
        raise DataError(
            f"'{path}' would hold rows of shape {list(rows.shape)} for samples that count {int(start[-1])}: they must "
            "agree."
        )
    with Writer(path, kind) as writer:
        for first, last in pairwise(start.tolist()):
            writer.add(rows[first:last])
        writer.finish(keys=keys, texts=texts, provenance=provenance)


class Writer:
    """Writes a side-car sample by sample, in little memory; nothing is at `path` before `finish`."""

    def __init__(self, path: Path, kind: Kind) -> None:
        self.path, self.kind = path, kind
        self._counts: list[int] = []
        self._scales: list[NDArray[np.float32]] = []
        self._dim = 0
        self._stack = ExitStack()
        self._finished = False

    def __enter__(self) -> "Writer":
        self._file = self._stack.enter_context(arrays.placing(self.path))
        self._file.write(b" " * _HEAD)
        return self

    def __exit__(self, *error: Any) -> bool | None:
        assert self._finished or error[0] is not None, "finish() was not called"
        return self._stack.__exit__(*error)

    def check(self, rows: NDArray[np.float32]) -> None:
        """Raises DataError where `add` would."""
        dim = self._dim or rows.shape[-1]
        if rows.ndim != 2 or rows.shape[1] != dim or not np.isfinite(rows).all():
            raise DataError(
                f"'{self.path}' would hold embeddings of shape {list(rows.shape)} that are not finite or not of {dim} "
                "columns: look for what made them."
            )

    def add(self, rows: NDArray[np.float32]) -> None:
        """The rows [count, D] of the next sample."""
        self.check(rows)
        self._dim = rows.shape[1]
        rows = np.ascontiguousarray(rows, np.float32)
        if self.kind == "bf16":
            self._file.write(_to_bf16(rows).data)
        else:
            scale = (np.maximum(np.abs(rows).max(axis=1, initial=0), 1e-30) / 127).astype(np.float32)
            self._file.write(np.clip(np.rint(rows / scale[:, None]), -127, 127).astype(np.int8).data)
            self._scales.append(scale)
        self._counts.append(len(rows))

    def finish(self, *, keys: str, texts: str = "", provenance: Mapping[str, Any] | None = None) -> None:
        """Write what the header needs; hashes are `keys_hash`es of the samples' keys and captions."""
        start = np.concatenate([[0], np.cumsum(np.asarray(self._counts, np.int64))]).astype(np.int64)
        total, itemsize = int(start[-1]), 2 if self.kind == "bf16" else 1
        sizes = {"data": total * self._dim * itemsize}
        header: dict[str, Any] = {"data": {"dtype": "BF16" if itemsize == 2 else "I8", "shape": [total, self._dim]}}
        for name, array in (("scale", np.concatenate([*self._scales, []])), ("start", start)):
            if name == "scale" and self.kind == "bf16":
                continue
            array = array.astype(np.float32) if name == "scale" else array
            header[name] = {"dtype": "F32" if name == "scale" else "I64", "shape": list(array.shape)}
            sizes[name] = array.nbytes
            self._file.write(array.data)
        offset = 0
        for name, size in sizes.items():
            header[name]["data_offsets"] = [offset, offset + size]
            offset += size
        metadata = {"sidecar": VERSION, "n": len(start) - 1, "dim": self._dim, "kind": self.kind} | {
            "keys": keys,
            "texts": texts,
            "provenance": dict(provenance or {}),
        }
        head = json.dumps({"__metadata__": {"json": json.dumps(metadata)}, **header}).encode()
        if len(head) > _HEAD - 8:
            raise DataError(f"the provenance of '{self.path}' has more than {_HEAD - 1024:,} bytes: make it shorter.")
        self._file.seek(0)
        self._file.write((_HEAD - 8).to_bytes(8, "little") + head.ljust(_HEAD - 8))
        self._finished = True


def keys_hash(values: Iterable[str]) -> str:
    """SHA-256 of strings in their order, each behind its length."""
    digest = sha256()
    for value in values:
        content = value.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def _from_bf16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    wide: NDArray[np.uint32] = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def _to_bf16(rows: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to nearest, ties to even."""
    bits = rows.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _check(car: SideCar) -> None:
    if car.kind not in ("bf16", "int8"):
        raise ValueError(f"kind {car.kind!r}")
    if car.start.dtype != np.int64 or car.start.shape != (car.n + 1,) or np.any(np.diff(car.start) < 0):
        raise ValueError("its row starts")
    if car.data.dtype != (np.uint16 if car.kind == "bf16" else np.int8) or car.data.ndim != 2:
        raise ValueError("its rows")
    if car.start[0] != 0 or car.start[-1] != len(car.data) or car.data.shape[1] != car.dim:
        raise ValueError("its number of rows")
    if (car.scale is None) != (car.kind == "bf16") or (car.scale is not None and car.scale.shape != (len(car.data),)):
        raise ValueError("its scales")
