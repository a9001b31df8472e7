"""Which rows of a shard end a process? Tried in processes of their own, until single keys are left.

    found = search(plan, wave, item, watchdog=900.0)
    found.rows                                      # {"000000123": "ends the process (SIGSEGV)"}

A child goes through the shard in spans of as many rows as a batch with pictures has, and says which one it begins. When
it ends or stands still, that span is divided and another child goes on, so that a process is made once for each end and
not for each trial. What is found is left out by the children that follow; nothing that they compute is kept.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

from mobileclip.captions.engine.process import Memory, ending, guard, processes, rebuilt, started
from mobileclip.captions.plan import Item, Plan, block
from mobileclip.captions.shard import Shard
from mobileclip.captions.work import PIXEL_ROWS, Workers, probe
from mobileclip.errors import MobileClipError

PARTS = 8
"""A span that ends a process is divided into as many."""
PATIENCE = 20.0
"""Times what the slowest span took, after which a span counts as stuck; `LEAST` at least, `watchdog` at most."""
LEAST = 20.0
"""Seconds that a span has at least."""

_POLL = 1.0  # seconds between two signs of life


@dataclass(kw_only=True)
class Found:
    """What a search found."""

    rows: dict[str, str] = field(default_factory=dict)
    """Key -> how it ends a process; they are blocked by now."""
    why: str = ""
    """Where no single row was found: what is known."""


def search(
    plan: Plan,
    wave: Sequence[str],
    item: Item,
    *,
    watchdog: float = 900.0,
    memory: int = 0,
    beat: Callable[[], None] = lambda: None,
) -> Found:
    """Find the rows of a shard that end a process, or keep it busy for ever, and block them.

    `beat` is called about every second. A child may take `watchdog` seconds to load, and so may the first span; it may
    hold `memory` bytes, 0 for any number.

    Raises:
        MobileClipError: the shard or an option cannot be used.
    """
    found = Found()
    with _Children(replace(plan, shards=()), tuple(wave), item, watchdog, memory, beat) as children:
        keys = children.keys()
        if keys is None:
            found.why = f"{children.why} before any row is touched: the shard's tar, or what the stages load"
            return found
        spans = [range(first, min(first + PIXEL_ROWS, len(keys))) for first in range(0, len(keys), PIXEL_ROWS)]
        while spans:
            span = spans.pop(0)
            why = children.ends(span)
            if not why:
                continue
            if len(span) == 1:
                block(plan, item.name, keys[span.start], why)
                found.rows[keys[span.start]] = why
                continue
            found.why = f"some rows together, and none of them alone: {why}"
            step = -(-len(span) // PARTS)
            spans[:0] = [range(first, min(first + step, span.stop)) for first in range(span.start, span.stop, step)]
    return found


class _Children:
    """One process after another that tries spans."""

    def __init__(
        self, plan: Plan, wave: tuple[str, ...], item: Item, watchdog: float, memory: int, beat: Callable[[], None]
    ) -> None:
        self.task = (plan, wave, item, memory)
        self.watchdog, self.beat = watchdog, beat
        self.why = ""
        self.slowest = 0.0
        self._child: Any = None
        self._pipe: Connection | None = None

    def __enter__(self) -> "_Children":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def keys(self) -> list[str] | None:
        """Keys of the shard's rows; None if no child gets so far."""
        for _ in range(2):
            keys = self._begin()
            if keys is not None:
                return keys
        return None

    def ends(self, span: range) -> str:
        """How a child ends over some rows; "" if it does not."""
        if self._pipe is None and self._begin() is None:
            return ""  # the machine has no room for a child now: nothing is said against the rows
        began = time.monotonic()
        pipe = self._pipe
        assert pipe is not None
        with suppress(OSError):  # its end is seen below
            pipe.send((span.start, span.stop))
        known = self.slowest * PATIENCE if self.slowest else self.watchdog
        answer = self._answer(max(min(known, self.watchdog), min(LEAST, self.watchdog)))
        if answer is None:
            self._end()
            return self.why
        self.slowest = max(self.slowest, time.monotonic() - began)
        said: str = answer
        return said

    def _begin(self) -> list[str] | None:
        self._end()
        context = processes()
        self._pipe, theirs = context.Pipe()
        self._child = started(lambda: context.Process(target=_try, args=(theirs, *self.task)))
        theirs.close()
        answer = self._answer(self.watchdog)
        if answer is None:
            self._end()
            return None
        keys: list[str] = answer
        return keys

    def _answer(self, limit: float) -> Any:
        """What the child says; None, and the reason in `why`, if it ends or needs too long."""
        pipe, stop = self._pipe, time.monotonic() + limit
        assert pipe is not None
        while (left := stop - time.monotonic()) > 0:
            self.beat()
            if not pipe.poll(min(_POLL, left)):
                continue
            try:
                error, answer = pipe.recv()
            except (EOFError, OSError):
                self._child.join()
                self.why = f"ends the process ({ending(self._child.exitcode)})"
                return None
            if error:
                raise rebuilt(error, answer)
            return answer
        self.why = "makes no progress"
        return None

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.join()
            self._child.close()
            self._child = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


def _try(pipe: Connection, plan: Plan, wave: tuple[str, ...], item: Item, memory: int) -> None:
    """A child: says the keys, then tries what it is told until the pipe closes."""
    guard()
    Memory(memory)
    workers = Workers(plan)
    try:
        with Shard.open(item.place, item.name, json_keys=plan.json_keys, cache=plan.cache) as shard:
            keys = [row.key for row in shard.rows]
        probe(plan, wave, item, range(0), workers)  # loads what the stages need
        pipe.send(("", keys))
        while True:
            first, last = pipe.recv()
            pipe.send(("", _tried(plan, wave, item, range(first, last), workers)))
    except MobileClipError as error:
        pipe.send((type(error).__name__, str(error)))
    except (EOFError, OSError):
        return


def _tried(plan: Plan, wave: tuple[str, ...], item: Item, span: range, workers: Workers) -> str:
    """What is wrong with some rows that raise; "" if they do not."""
    try:
        probe(plan, wave, item, span, workers)
    except MobileClipError:
        raise
    except MemoryError:
        return "out of memory"
    except Exception as error:
        return " ".join(f"error: {type(error).__name__}: {error}".split())[:200]
    return ""
