"""Workers as processes of this machine: each has a pipe, is replaced when it ends, and ends when this process does."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobileclip.captions.engine.orders import Beat, Event, Give, Kill, Lost, Order, Ready, Start
from mobileclip.captions.engine.process import ending, guard, processes, started
from mobileclip.captions.plan import Item

if TYPE_CHECKING:
    from mobileclip.captions.engine.desk import Duty

_OFTEN = 0.5  # seconds between two beats of a worker
_ASKED = "SIGTERM"  # how a process ends that someone else asked to


@dataclass(kw_only=True)
class _Worker:
    process: Any
    pipe: Connection
    gpu: str
    why: str = ""


class Processes:
    """A pool of processes."""

    def __init__(self, duty: "Duty", items: Sequence[Item], *, cpus: float = 1.0, gpus: float = 0.0) -> None:
        """`cpus` are threads of a worker's numerical code; with `gpus`, each sees the one GPU that has fewest."""
        self._duty, self._items = duty, items
        self._threads, self._gpus = max(1, int(cpus)), _gpus() if gpus else []
        self._context = processes()
        self._workers: dict[int, _Worker] = {}

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def obey(self, order: Order) -> None:
        """Do it; a worker that is gone is found out by `events`."""
        if isinstance(order, Start):
            self._start(order.worker)
            return
        worker = self._workers[order.worker]
        if isinstance(order, Give):
            with suppress(OSError):
                worker.pipe.send((order.item, self._items[order.item], order.isolate))
        elif isinstance(order, Kill):
            worker.why = order.why
            worker.process.kill()
        else:
            self._end(self._workers.pop(order.worker))

    def events(self, timeout: float) -> list[Event]:
        """What workers say, and which have ended."""
        by_handle: dict[Any, int] = {}
        for number, worker in self._workers.items():
            by_handle[worker.pipe] = by_handle[worker.process.sentinel] = number
        found: list[Event] = []
        for number in dict.fromkeys(by_handle[handle] for handle in wait(list(by_handle), timeout)):
            found += self._heard(number)
        return found

    def close(self) -> None:
        """End all at once."""
        for worker in self._workers.values():
            worker.process.kill()
        for worker in self._workers.values():
            self._end(worker)
        self._workers.clear()

    def _start(self, number: int) -> None:
        ours, theirs = self._context.Pipe()
        process = started(lambda: self._context.Process(target=_main, args=(theirs, number), name=f"worker {number}"))
        theirs.close()
        taken = [worker.gpu for worker in self._workers.values()]
        gpu = min(self._gpus, key=taken.count, default="")
        environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(self._threads))}
        if gpu:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        with suppress(OSError):  # its end is seen by `events`
            ours.send(environment)
            ours.send(self._duty)
        self._workers[number] = _Worker(process=process, pipe=ours, gpu=gpu)

    def _heard(self, number: int) -> list[Event]:
        worker = self._workers[number]
        found: list[Event] = []
        try:
            while worker.pipe.poll():
                found.append(worker.pipe.recv())
        except (EOFError, OSError):  # it has ended, or is about to
            worker.process.join()
        if not worker.process.is_alive():
            why = worker.why or ending(worker.process.exitcode)
            found.append(Lost(number, why, blames=why != _ASKED))
            self._end(self._workers.pop(number))
        return found

    @staticmethod
    def _end(worker: _Worker) -> None:
        worker.process.kill()
        worker.process.join()
        worker.process.close()
        worker.pipe.close()


def _gpus() -> list[str]:
    """GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return [name for name in said.split(",") if name]
    return sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))


def _main(pipe: Connection, number: int) -> None:
    """A worker: does what comes through the pipe until it closes."""
    guard()
    os.environ.update(pipe.recv())  # before the stages and what they import, which may read it
    from mobileclip.captions.engine.desk import Desk  # which only a worker needs

    desk, told = Desk(number, pipe.recv()), 0.0

    def tell(done: int, rows: int) -> None:
        nonlocal told
        if time.monotonic() - told > _OFTEN:
            told = time.monotonic()
            pipe.send(Beat(number, done, rows))

    pipe.send(Ready(number))
    while True:
        try:
            item, place, isolate = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(desk.do(item, place, isolate, tell))
