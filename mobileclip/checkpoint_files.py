"""Reading and writing files of weights and their JSON, with nothing in a file trusted.

A file is known by its first bytes, whatever it is called. A PyTorch archive is listed before it is opened (stored
records only, together no larger than the file), then read with `weights_only=True` and mapped into memory; nothing in
it runs. Tensors returned are views of the mapped file: their shapes are the file's claim, so compare shapes before
computing with them. Files are written beside their place and moved there when complete.
"""

import json
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mobileclip import digests
from mobileclip.errors import CheckpointError, OutputError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
"""Names of weights files end so."""
JSON_LIMIT = 1_000_000
"""Bytes of a config.json; ours have about a thousand."""
PICKLE_LIMIT = 64_000_000
"""Bytes of the index (names and shapes) inside a PyTorch archive; MobileCLIP-S2's has 200 thousand."""
WRAPPED = ("state_dict", "model_state_dict", "model")
"""Keys under which training programs keep a state dict, in the order in which they are tried."""
AGAIN = "download or copy it again"

_ZIP, _LEGACY = b"PK\x03\x04", b"\x80"
_STAND_INS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    (
        (b"version https://git-lfs",),
        "is a git-lfs pointer, a text in place of the weights: fetch them with `git lfs pull`",
    ),
    ((b"<!doctype", b"<html", b"<?xml"), f"is a web page saved under that name: {AGAIN}, from the file's own address"),
)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Names and tensors of a PyTorch archive (a state dict, perhaps wrapped) or a safetensors file.

    Raises:
        CheckpointError: what the file is instead, or why it is not read.
    """
    with _reading(path):
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
    if size == 0:
        raise CheckpointError(f"'{path}' is empty: {AGAIN}.")
    for starts, verdict in _STAND_INS:
        if head.lstrip().lower().startswith(starts):
            raise CheckpointError(f"'{path}' {verdict}.")
    if head[8:9] == b"{" and head[6:8] == b"\0\0":  # a length of any bytes, also those that begin a pickle or a zip
        return _read_safetensors(path)
    if head.startswith(_ZIP):
        return _read_archive(path, size)
    if head.startswith(_LEGACY):
        raise CheckpointError(
            f"'{path}' is a bare pickle (PyTorch's format before 1.6, or another program's), which is not read: open "
            "it where you trust it and write its state dict with today's torch.save."
        )
    raise CheckpointError(
        f"'{path}' is no file of weights: it begins with {head[:8]!r}, where a PyTorch archive begins with {_ZIP!r} "
        "and a safetensors file with a length and '{'; give one of these."
    )


def sha256_of(path: Path) -> str:
    """Of a file of weights, hexadecimal.

    Raises:
        CheckpointError: it cannot be read.
    """
    with _reading(path):
        return digests.sha256_of(path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of at most `JSON_LIMIT` bytes.

    Raises:
        CheckpointError: not JSON, not an object, or too large.
    """
    with _reading(path), path.open("rb") as file:
        data = file.read(JSON_LIMIT + 1)
    if len(data) > JSON_LIMIT:
        raise CheckpointError(f"'{path}' has more than {JSON_LIMIT:,} bytes, which no configuration needs: remove it.")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"'{path}' is not JSON ({_first_line(error)}): {AGAIN}.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"'{path}' holds a JSON {type(values).__name__} where an object is expected: {AGAIN}.")
    return values


def as_json(values: Mapping[str, Any], what: str) -> bytes:
    """UTF-8 JSON that `read_json` takes; `what` names it in the error."""
    try:
        data = json.dumps(values, indent=2, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{what} cannot be written as JSON ({error}): give numbers, strings, lists, dicts."
        ) from error
    if len(data) > JSON_LIMIT:
        raise CheckpointError(
            f"{what} takes {len(data):,} bytes of JSON, {JSON_LIMIT:,} are allowed: leave out what is long."
        )
    return data


@contextmanager
def placing(*paths: Path) -> Iterator[list[Path]]:
    """Temporary paths beside `paths` (of one folder), moved to their places when the block ends without an error.

    Raises:
        OutputError: the place cannot be written; nothing is left behind.
    """
    folder = paths[0].parent
    parts = [path.with_name(f".{path.name}.{os.getpid()}.part") for path in paths]
    try:
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield parts
            for part, path in zip(parts, paths, strict=True):
                with part.open("rb") as file:
                    os.fsync(file.fileno())
                part.replace(path)
        except BaseException:
            for part in parts:
                part.unlink(missing_ok=True)
            if new:
                folder.rmdir()
            raise
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own for a full disk
        raise OutputError(
            f"'{paths[0]}' cannot be written ({_first_line(error)}): give a place that exists and has room."
        ) from error


def write_weights(path: Path, tensors: Mapping[str, Tensor], *, safetensors: bool) -> None:
    """Write contiguous tensors, each with a storage that it uses wholly and alone (a mask may be shared by layers)."""
    own, seen = {}, set()
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        storage = value.untyped_storage()
        own[name] = value.clone() if storage.nbytes() != value.nbytes or storage.data_ptr() in seen else value
        seen.add(storage.data_ptr())
    if safetensors:
        save_file(own, path, metadata={"format": "pt"})
    else:
        with path.open("wb") as file:
            torch.save(own, file)


def _read_archive(path: Path, size: int) -> dict[str, Tensor]:
    _inspect_archive(path, size)
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"'{path}' holds Python objects other than tensors ({_named(error)}), which are not read because "
            "unpickling them could run any code: open it where you trust it and save its state dict alone."
        ) from error
    except Exception as error:  # whatever a crafted index makes torch raise
        raise CheckpointError(f"'{path}' is damaged ({_first_line(error)}): {AGAIN}.") from error
    return _state_dict(values, path)


def _inspect_archive(path: Path, size: int) -> None:
    """Refuse what torch.load must not see: compressed or oversized records, and zip files of other programs."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise CheckpointError(f"'{path}' is cut short or damaged ({_first_line(error)}): {AGAIN}.") from error
    claimed = sum(record.file_size for record in records)
    packed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
    if packed or claimed > size:
        how = "compressed" if packed else "overlapping"
        raise CheckpointError(
            f"'{path}' has {how} records that claim {claimed:,} bytes in a file of {size:,}, which torch.save never "
            f"writes and is not unpacked: {AGAIN}, from a source that you trust."
        )
    indices = [record for record in records if record.filename.endswith("data.pkl")]
    if any("/code/" in record.filename for record in records):
        raise CheckpointError(
            f"'{path}' is a TorchScript program and not a file of weights: give the state dict (.pt)."
        )
    if not indices:
        raise CheckpointError(f"'{path}' is a zip archive of another program: give a .pt that torch.save wrote.")
    if max(record.file_size for record in indices) > PICKLE_LIMIT:
        raise CheckpointError(
            f"'{path}' has an index of more than {PICKLE_LIMIT:,} bytes, which no model needs: {AGAIN}."
        )


def _state_dict(values: object, path: Path) -> dict[str, Tensor]:
    """The names and tensors in what was unpickled."""
    if isinstance(values, dict):
        for key in WRAPPED:
            if isinstance(values.get(key), dict):
                values = values[key]
                break
    if not isinstance(values, dict):
        raise CheckpointError(f"'{path}' holds a {type(values).__name__} and no state dict: save `model.state_dict()`.")
    if ("param_groups" in values and "state" in values) or set(values) == {"optimizer"}:
        raise CheckpointError(f"'{path}' holds the state of an optimizer and no weights: give the file of the model.")
    odd = [key for key, value in values.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if odd or not values:
        what = f"{odd[0]!r}, a {type(values[odd[0]]).__name__}," if odd else "nothing"
        raise CheckpointError(f"'{path}' holds {what} where only tensors belong: save `model.state_dict()` alone.")
    return dict(values)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except Exception as error:  # SafetensorError, and what torch raises for an odd type
        raise CheckpointError(
            f"'{path}' is cut short or has a false header ({_first_line(error)}): {AGAIN}."
        ) from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"'{path}' cannot be read ({error.strerror or error}): see that it is a file of yours."
        ) from error


def _first_line(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).strip().splitlines()[0][:160].rstrip(".:")


def _named(error: Exception) -> str:
    """The object that torch refused, from its long advice on how to allow it."""
    text = str(error)
    for mark in ("GLOBAL ", "global "):
        if mark in text:
            return text.split(mark, 1)[1].split()[0].strip("'`,.")
    return _first_line(error)
