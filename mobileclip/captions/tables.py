"""Side-cars of caption work: one Parquet file per shard and stage, and a `done.json` without which it does not count.

    tables.commit(folder / "00012", table, done)                # 00012.parquet, then 00012.done.json
    done = tables.committed(folder / "00012")                   # None: not there yet, or half of it
    table = tables.read(folder / "00012", columns=["texts"])

A file is written beside its place and moved there; the note that makes it count comes last. Two workers that make the
same shard write the same bytes, so whoever is last does no harm. A side-car of another version is refused.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mobileclip.data.arrays import placing
from mobileclip.digests import sha256_of
from mobileclip.errors import DataError

VERSION = 1
"""Of the side-cars' layout; another one is refused."""
DONE, PARQUET = ".done.json", ".parquet"
"""Endings of the two files."""

_DONE_LIMIT = 16_000_000  # bytes of a note that are read


@dataclass(frozen=True, kw_only=True)
class Done:
    """What is known of a finished side-car: all that decides whether it still counts, and where it comes from."""

    version: int = VERSION
    """Of the layout."""
    stage: str
    """Name of the stage in its recipe."""
    kind: str
    """What the stage is."""
    config: Mapping[str, Any]
    """Its options."""
    config_hash: str
    """12 digits: of the kind, its version, the options, what they point at, and the same of the stages before it."""
    shard: str
    """Name of the shard; "" for what was prepared from all of them."""
    place: str
    """Path or address of the tar."""
    content: str
    """Hash of the tar's headers and captions."""
    inputs: Mapping[str, str]
    """Stage before it -> hash of the side-car that was read; "prepared" -> of what was prepared for all shards."""
    keys: str
    """Hash of the rows' keys in their order."""
    rows: int
    """How many."""
    size: int
    """Bytes of the Parquet file."""
    sha256: str
    """Of the Parquet file."""
    counts: Mapping[str, int]
    """Rows by status."""
    flags: Mapping[str, int] = field(default_factory=dict)
    """Captions by flag."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Model, revision, prompt, licence, ...: what the worker says of itself."""
    made: Mapping[str, Any] = field(default_factory=dict)
    """When, where, with which versions and in how many seconds; alone in differing between two runs."""

    def json(self) -> bytes:
        """As it lies in the file."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1, sort_keys=True).encode() + b"\n"


def encode(table: pa.Table) -> bytes:
    """Parquet bytes: the same for the same table."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, row_group_size=16_384, store_schema=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def commit(stem: Path, content: bytes, done: Done) -> None:
    """Write `stem.parquet`, then `stem.done.json`.

    Raises:
        OutputError: no room or no permission; nothing half-written is left.
    """
    with placing(with_ending(stem, PARQUET)) as file:
        file.write(content)
    with placing(with_ending(stem, DONE)) as file:
        file.write(done.json())


def committed(stem: Path) -> Done | None:
    """The note of a finished side-car whose Parquet file has the size that it says; None where there is none.

    Raises:
        DataError: it is of another version, or damaged.
    """
    path = with_ending(stem, DONE)
    try:
        with path.open("rb") as file:
            content = file.read(_DONE_LIMIT)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error.strerror}): check its permissions.") from error
    try:
        found = json.loads(content)
        if found.get("version") != VERSION:
            raise DataError(
                f"'{path}' is a side-car of version {found.get('version')}, {VERSION} is read: remove its folder, or "
                "use the release that wrote it."
            )
        done = Done(**found)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"'{path}' is damaged ({reason}): remove it, and run again.") from error
    try:
        return done if with_ending(stem, PARQUET).stat().st_size == done.size else None
    except OSError:
        return None


def read(stem: Path, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
    """The table of a finished side-car, or some of its columns and rows.

    Raises:
        DataError: it is missing, damaged, or has no such column.
    """
    path = with_ending(stem, PARQUET)
    try:
        return pq.read_table(
            path,
            columns=None if columns is None else list(columns),
            filters=filters,
            memory_map=True,
            use_threads=False,
            partitioning=None,
        )
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"'{path}' cannot be read ({reason}): remove it and its .done.json, and run again.") from error


def columns(stem: Path) -> tuple[str, ...]:
    """Names of a finished side-car's columns.

    Raises:
        DataError: it is missing or damaged.
    """
    path = with_ending(stem, PARQUET)
    try:
        return tuple(pq.read_schema(path).names)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"'{path}' cannot be read ({reason}): remove it and its .done.json, and run again.") from error


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file or folder that an option names.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error.strerror}): check the path.") from error


def with_ending(stem: Path, ending: str) -> Path:
    """`00012` -> `00012.parquet`; names of shards may hold dots."""
    return stem.with_name(stem.name + ending)
