"""What a stage of caption work is: options, then per process a worker that turns batches of rows into columns.

A stage is a frozen dataclass whose fields are its options in a recipe. It may first look at all shards at once
(`prepare`), in columns and without pictures; then its worker sees every shard, in batches that are always cut in the
same places. What a worker gives for a row must follow from that row, the options and what was prepared alone: not from
the other rows of the batch, nor from time, process or order. That makes results the same on one machine or on many.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy.typing as npt
import pyarrow as pa

from mobileclip.errors import DataError

if TYPE_CHECKING:
    from mobileclip.captions.shard import Row
    from mobileclip.data.decode import Pixels

OK = "ok"
"""Status of a row that can be worked on."""
Columns = Mapping[str, Sequence[Any] | npt.NDArray[Any] | pa.Array]
"""Name -> one value a row of the batch."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Some rows of a shard, in order, and what earlier stages say of them."""

    shard: str
    """Name of the shard."""
    rows: "Sequence[Row]"
    """B of them."""
    pixels: "Sequence[Pixels | None]"
    """[B] RGB uint8 [H, W, 3]; None where `status` is not "ok", and everywhere if the stage looks at no pictures."""
    images: Sequence[memoryview | None]
    """[B] encoded pictures, with `pixels`."""
    status: Sequence[str]
    """[B] "ok", or why the row cannot be worked on."""
    inputs: Mapping[str, pa.Table]
    """Stage before it -> its rows of this batch."""

    def texts(self, source: str) -> list[list[str]]:
        """[B] captions of a source: of a stage before this one, else those that lie in the shard."""
        if source in self.inputs:
            found: list[list[str] | None] = self.inputs[source].column("texts").to_pylist()
            return [captions or [] for captions in found]
        return [list(row.texts.get(source, ())) for row in self.rows]

    def column(self, stage: str, name: str) -> list[Any]:
        """[B] values of a column of an earlier stage's side-car."""
        values: list[Any] = self.inputs[stage].column(name).to_pylist()
        return values


class Worker(Protocol):
    """Works on batches in one process; models are loaded when it is made."""

    @property
    def schema(self) -> pa.Schema:
        """The side-car's columns apart from "key", "uid" and "status"."""
        ...

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What made the columns: model, revision, licence, prompt, sampling, ...; JSON values."""
        ...

    def __call__(self, batch: Batch) -> Columns:
        """The stage's columns for the rows of a batch; may hold "status" to overrule the batch's.

        Memory that runs out (MemoryError, torch's OutOfMemoryError) may be raised: smaller batches follow.
        """
        ...


class Everything(Protocol):
    """What `prepare` sees: finished side-cars of all shards, one shard at a time."""

    @property
    def shards(self) -> Sequence[str]:
        """Names of all shards, in order."""
        ...

    def tables(self, stage: str, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        """(shard, its columns) of an earlier stage, for all shards in order."""
        ...

    def columns(self, stage: str) -> Sequence[str]:
        """Names of the columns of an earlier stage; none for what is no stage of the recipe."""
        ...

    def texts(self, source: str, shard: str) -> list[list[str]]:
        """Captions of a source, row by row: of a stage before this one, else those that lie in the shard."""
        ...

    def rows(self, shard: str) -> "Sequence[Row]":
        """Rows of a shard: keys, uids and raw captions."""
        ...


class Stage(Protocol):
    """One entry of a recipe."""

    kind: ClassVar[str]
    """What recipes call it."""
    version: ClassVar[int]
    """Of what it does; another one makes side-cars again."""
    prepares: ClassVar[bool]
    """Whether it must look at all shards before it works on one."""
    divisible: ClassVar[bool]
    """Whether a batch may be halved when memory runs out; False where rows of a batch are compared."""

    @property
    def name(self) -> str:
        """What this entry is called, and other entries refer to; the kind where nothing is said."""
        ...

    def needs(self) -> tuple[str, ...]:
        """Names that it reads: stages before it, or sources of captions that lie in the shards."""
        ...

    def looks(self) -> bool:
        """Whether it needs pictures decoded."""
        ...

    def points_at(self) -> Mapping[str, str]:
        """What options point at -> a hash of its content (a checkpoint's, a word list's); part of the config's hash.

        Raises:
            MobileClipError: it is not there or cannot be used: said before any work.
        """
        ...

    def prepare(self, everything: Everything) -> pa.Table | None:
        """What is to be known of all shards before work on one; rows with a column "shard" are in the shards' order."""
        ...

    def worker(self, prepared: "Prepared | None") -> Worker:
        """Load what is needed."""
        ...


class Prepared(Protocol):
    """What `prepare` gave."""

    def table(self, shard: str | None = None) -> pa.Table:
        """All of it, or the rows whose column "shard" has that name."""
        ...


def chosen(batch: Batch) -> list[int]:
    """Places of the rows of a batch that can be worked on."""
    return [place for place, status in enumerate(batch.status) if status == OK]


def checked(condition: bool, sentence: str) -> None:
    """Raise `DataError(sentence)` unless the condition holds: for `__post_init__` of stages."""
    if not condition:
        raise DataError(sentence)
