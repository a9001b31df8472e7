"""Stages for tests of the engine: quick ones, slow ones, and one that dies of certain captions.."""

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from mobileclip.captions.stage import Batch, Columns, Everything, Prepared
from mobileclip.errors import OutputError


@dataclass(frozen=True, kw_only=True)
class _Stage:
    version: ClassVar[int] = 1
    prepares: ClassVar[bool] = False
    divisible: ClassVar[bool] = True

    def looks(self) -> bool:
        return False

    def points_at(self) -> Mapping[str, str]:
        return {}

    def prepare(self, everything: Everything) -> pa.Table | None:
        return None


@dataclass(frozen=True, kw_only=True)
class Shout(_Stage):
    """Captions in capitals, a while for each batch."""

    kind: ClassVar[str] = "odd_stages:Shout"
    name: str = "shout"
    source: str = "alt"
    seconds: float = 0.0

    def needs(self) -> tuple[str, ...]:
        return (self.source,)

    def worker(self, prepared: Prepared | None) -> "Shouter":
        return Shouter(self)


@dataclass
class Shouter:
    stage: Shout
    schema: pa.Schema = field(default_factory=lambda: pa.schema([("texts", pa.list_(pa.string()))]))
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, batch: Batch) -> Columns:
        time.sleep(self.stage.seconds)
        return {"texts": [[text.upper() for text in texts] for texts in batch.texts(self.stage.source)]}


@dataclass(frozen=True, kw_only=True)
class Deadly(_Stage):
    """Does what a caption says: "exit", "segv", "hang", "memory", "grow", "raise", "full"; else gives its length."""

    kind: ClassVar[str] = "odd_stages:Deadly"
    name: str = "deadly"
    at_load: str = ""

    def needs(self) -> tuple[str, ...]:
        return ("alt",)

    def worker(self, prepared: Prepared | None) -> "Dying":
        die(self.at_load)
        return Dying()


@dataclass
class Dying:
    schema: pa.Schema = field(default_factory=lambda: pa.schema([("length", pa.int32())]))
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, batch: Batch) -> Columns:
        lengths: list[int | None] = []
        for status, texts in zip(batch.status, batch.texts("alt"), strict=True):
            if status.startswith("blocked"):
                lengths.append(None)
                continue
            for text in texts:
                die(text)
            lengths.append(sum(map(len, texts)))
        return {"length": lengths}


def die(text: str) -> None:
    if text == "exit":
        os._exit(3)
    if text == "segv":
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(10)
    if text == "hang":
        time.sleep(10_000)
    if text == "memory":
        raise MemoryError
    if text == "grow":
        held = []
        while True:
            held.append(np.ones(8_000_000, np.uint8))
            time.sleep(0.01)
    if text == "raise":
        raise ValueError("a caption that raises")
    if text == "full":
        raise OutputError("'x' cannot be written (No space left on device): give a place that exists and has room.")


@dataclass(frozen=True, kw_only=True)
class Share(_Stage):
    """Looks at all shards first: captions by the number of all."""

    kind: ClassVar[str] = "odd_stages:Share"
    prepares: ClassVar[bool] = True
    name: str = "share"
    source: str = "shout"

    def needs(self) -> tuple[str, ...]:
        return (self.source,)

    def prepare(self, everything: Everything) -> pa.Table | None:
        counts = [
            (shard, table.num_rows, sum(map(len, table.column("texts").to_pylist())))
            for shard, table in everything.tables(self.source, ["texts"])
        ]
        return pa.table({name: [count[place] for count in counts] for place, name in enumerate(("shard", "rows", "n"))})

    def worker(self, prepared: Prepared | None) -> "Sharer":
        assert prepared is not None
        return Sharer(sum(prepared.table().column("n").to_pylist()), self.source)


@dataclass
class Sharer:
    every: int
    source: str
    schema: pa.Schema = field(default_factory=lambda: pa.schema([("share", pa.float32())]))
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, batch: Batch) -> Columns:
        return {"share": [len(texts) / self.every for texts in batch.texts(self.source)]}


@dataclass(frozen=True, kw_only=True)
class Brightness(_Stage):
    """Means of pictures."""

    kind: ClassVar[str] = "odd_stages:Brightness"
    name: str = "brightness"

    def needs(self) -> tuple[str, ...]:
        return ()

    def looks(self) -> bool:
        return True

    def worker(self, prepared: Prepared | None) -> "Meter":
        return Meter()


@dataclass
class Meter:
    schema: pa.Schema = field(default_factory=lambda: pa.schema([("mean", pa.float32())]))
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, batch: Batch) -> Columns:
        return {"mean": [None if one is None else float(one.mean()) for one in batch.pixels]}
