"""What is said between the one who decides about shards and those who work on them.

Decisions become orders to a pool of workers; what happens there comes back as events. A pool may be processes, the
actors of a cluster, or a simulation in virtual time: the scheduler cannot tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Start:
    """Make a worker."""

    worker: int
    """Its number; never used again."""


@dataclass(frozen=True, slots=True)
class Give:
    """Let a worker take a shard, after those that it holds."""

    worker: int
    """Its number."""
    item: int
    """The shard's place in the list."""
    isolate: bool
    """Find the rows that end a process, instead of working on all."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Let a worker go that holds nothing, or nothing that is still wanted; it is not heard of again."""

    worker: int
    """Its number."""


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker that makes no progress; `Lost` follows, with the same reason."""

    worker: int
    """Its number."""
    why: str
    """In words."""


Order = Start | Give | Stop | Kill


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has begun and takes shards."""

    worker: int
    """Its number."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A worker makes progress with the shard that it has held longest."""

    worker: int
    """Its number."""
    done: int = 0
    """Rows of the group of stages at work that are done."""
    rows: int = 0
    """Rows of the shard; 0 while they are not known."""


@dataclass(frozen=True, slots=True)
class Done:
    """A shard went through the wave."""

    worker: int
    """Its number."""
    item: int
    """The shard."""
    rows: int = 0
    """Rows that were worked on, a group of stages each."""
    memory: int = 0
    """Bytes that the process holds now."""
    peak: int = 0
    """Bytes that it held at most."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A shard was refused by an exception; the worker goes on."""

    worker: int
    """Its number."""
    item: int
    """The shard."""
    why: str
    """The exception's sentence."""
    error: str = ""
    """Name of the `MobileClipError` that ends the run, since it would meet every shard; "" for one of this shard."""
    rows: bool = False
    """Whether single rows may be the cause, so that it is worth to look for them."""


@dataclass(frozen=True, slots=True)
class Isolated:
    """A search for rows that end a process has ended."""

    worker: int
    """Its number."""
    item: int
    """The shard."""
    found: tuple[tuple[str, str], ...]
    """Keys that are blocked from now on, and why."""
    why: str = ""
    """What is known where no single row was found."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker ended that was not told to."""

    worker: int
    """Its number."""
    why: str
    """How: a signal, an exit code."""
    blames: bool = True
    """Whether the shard at work may be the cause; not so where a machine went away."""


Event = Ready | Beat | Done | Failed | Isolated | Lost


class Pool(Protocol):
    """Workers of one kind."""

    def obey(self, order: Order) -> None:
        """Begin to do it; returns at once."""
        ...

    def events(self, timeout: float) -> Sequence[Event]:
        """What has happened since the last call; waits up to `timeout` seconds for the first."""
        ...

    def close(self) -> None:
        """End all workers at once."""
        ...
