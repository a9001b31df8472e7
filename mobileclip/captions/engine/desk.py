"""A process that works on shards, whoever started it: takes an order, does it, says what came of it; never raises.

It also says what it is at, so that whoever watches can tell slow from stuck; and if nobody watches any more, it ends by
itself when it stands still.
"""

import faulthandler
import gc
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mobileclip.captions.engine import attempts
from mobileclip.captions.engine.isolate import search
from mobileclip.captions.engine.orders import Done, Failed, Isolated
from mobileclip.captions.engine.process import Memory, held
from mobileclip.captions.plan import Item, Plan
from mobileclip.captions.work import Workers, work
from mobileclip.errors import DataError, ImageError, MobileClipError


@dataclass(frozen=True, kw_only=True)
class Duty:
    """What a worker is made for."""

    plan: Plan
    """Without its shards, which come one by one."""
    wave: tuple[str, ...]
    """Names of the stages."""
    watchdog: float
    """Seconds without progress after which a worker is ended."""
    memory: int
    """Bytes that a worker may hold; 0: any."""


def duty(plan: Plan, wave: tuple[str, ...], watchdog: float, memory: int) -> Duty:
    """What is sent to workers; small, however many shards there are."""
    return Duty(plan=replace(plan, shards=()), wave=tuple(wave), watchdog=watchdog, memory=memory)


class Desk:
    """Does orders one after the other."""

    def __init__(self, worker: int, duty: Duty, memory: Memory | None = None) -> None:
        self._worker, self._duty = worker, duty
        self._workers = Workers(duty.plan)
        self._memory = memory or Memory(duty.memory)
        self._set = -math.inf

    def do(self, number: int, item: Item, isolate: bool, tell: Callable[[int, int], None]) -> Done | Failed | Isolated:
        """Take a shard through the wave, or search it; `tell` is called with rows that are done and rows."""

        def told(stages: str, done: int, rows: int) -> None:
            self._alive()
            tell(done, rows)

        plan, worker = self._duty.plan, self._worker
        try:
            self._alive()
            attempts.note(plan, item.name, "begun")
            if isolate:
                return self._search(number, item, lambda: told("", 0, 0))
            rows = work(plan, self._duty.wave, item, told, self._workers)
            attempts.clear(plan, item.name)
        except MobileClipError as error:
            ours = isinstance(error, DataError | ImageError)
            return Failed(worker, number, str(error), "" if ours else type(error).__name__)
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            attempts.note(plan, item.name, "ended", why)
            return Failed(worker, number, why, rows=True)
        finally:
            faulthandler.cancel_dump_traceback_later()
            self._set = -math.inf
        return Done(worker, number, rows, held(), self._memory.peak)

    def _search(self, number: int, item: Item, beat: Callable[[], None]) -> Isolated:
        """With what this process loaded let go, since the searching one loads it too."""
        duty = self._duty
        self._workers = Workers(duty.plan)
        _let_go()
        found = search(duty.plan, duty.wave, item, watchdog=duty.watchdog, memory=duty.memory, beat=beat)
        attempts.note(duty.plan, item.name, "searched", found.why if not found.rows else "")
        return Isolated(self._worker, number, tuple(found.rows.items()), found.why)

    def _alive(self) -> None:
        """Set the last watchdog anew: it needs no interpreter, and is for a process that nobody watches any more."""
        now = time.monotonic()
        if now < self._set + min(10.0, self._duty.watchdog):
            return
        self._set = now
        faulthandler.dump_traceback_later(2 * self._duty.watchdog + 60, exit=True, file=sys.__stderr__ or 2)


def _let_go() -> None:
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
