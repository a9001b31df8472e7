"""Workers as Ray actors: on a Ray that is started here, or on a cluster.

Only the number, name and place of a shard travel to an actor, and a line about it comes back; pictures and side-cars go
through the file system, so nothing is kept in Ray's object store but the stages, once. Restarts are not left to Ray:
an actor that ends is seen by the scheduler, which knows whether its shard is to blame, and makes another.

A Ray that is started here listens on loopback alone, sends no usage statistics, and ends with this process.
"""

import math
import os
import pickle
import platform
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mobileclip
from mobileclip.captions.engine.desk import Desk, Duty
from mobileclip.captions.engine.orders import Beat, Done, Event, Failed, Give, Isolated, Kill, Lost, Order, Ready, Start
from mobileclip.captions.engine.process import Memory
from mobileclip.captions.plan import Item
from mobileclip.data.arrays import writing
from mobileclip.errors import MissingExtra, MobileClipError, OutputError

STORE = 100_000_000
"""Bytes of the object store of a Ray that is started here: nothing large goes through it."""
SEEN = 60.0
"""Seconds after which a file that was written here is seen everywhere on a network file system."""

_REACH = 10.0  # seconds for an address to answer
_OFTEN = 2.0  # seconds between two questions how far an actor is
_HERE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0"}
"""No statistics; the loopback address, which Ray takes by itself on those systems; workers that are not put last."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A Ray that this process is connected to."""

    ray: Any
    """The package."""
    cpus: float
    """CPU cores a worker."""
    gpus: float
    """GPUs a worker."""

    @property
    def room(self) -> int:
        """Workers that fit in now, at least 1."""
        found = self.ray.cluster_resources()
        fits = [found.get(name, 0.0) / each for name, each in (("CPU", self.cpus), ("GPU", self.gpus)) if each]
        return max(1, math.floor(min(fits))) if fits else 1


@contextmanager
def connected(address: str | None, *, cpus: float, gpus: float, jobs: int) -> Iterator[Cluster]:
    """Ray at an address (also that of RAY_ADDRESS, or the one that is connected to already), or one that is started
    here with room for `jobs` workers and ended afterwards.

    Raises:
        MissingExtra: Ray is not installed.
        MobileClipError: it cannot be started or reached.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    with ExitStack() as stack:
        if address is None:
            stack.enter_context(_environment(_HERE))
        ray = _imported()
        if not ray.is_initialized():
            if address is None:
                stack.enter_context(_loopback(ray))
                cores = max(1, math.ceil(jobs * cpus))
                _init(ray, address="local", include_dashboard=False, num_cpus=cores, object_store_memory=STORE)
            else:
                _reach(address)
                _init(ray, address=address)
            stack.callback(ray.shutdown)
        yield Cluster(ray=ray, cpus=cpus, gpus=gpus)


def _imported() -> Any:
    try:
        import ray
    except ImportError as error:
        if error.name != "ray":
            raise
        raise MissingExtra("engine 'ray' needs Ray: pip install 'mobileclip-toolkit[ray]'") from error
    return ray


def _reach(address: str) -> None:
    """Ray itself asks for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():  # "auto"
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH).close()
    except (OSError, OverflowError) as error:
        raise _refused(f"is not reached at {address}", error) from error


def _refused(what: str, error: Exception) -> MobileClipError:
    reason = " ".join(str(error).split())[:200]
    return MobileClipError(
        f"Ray {what} ({reason}): check the address, and that versions of Ray are the same; or use another engine."
    )


def _init(ray: Any, *, address: str, **options: Any) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
    except Exception as error:  # Ray raises of many kinds here
        raise _refused(
            "cannot be started here" if address == "local" else f"is not reached at {address}", error
        ) from error


@contextmanager
def _loopback(ray: Any) -> Iterator[None]:
    """Ray looks at the environment when it is imported, which may have been long ago."""
    constants = getattr(ray._private, "ray_constants", None)
    before = getattr(constants, "ENABLE_RAY_CLUSTER", None)
    if before is None:
        yield
        return
    constants.ENABLE_RAY_CLUSTER = False  # type: ignore[union-attr]
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before  # type: ignore[union-attr]


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """What processes that are started in the block find, unless the user said something else."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@dataclass(kw_only=True)
class _Worker:
    handle: Any
    work: dict[int, Any] = field(default_factory=dict)
    why: str = ""
    beat: int = 0
    asked: float = 0.0
    waits: bool = False


class Actors:
    """A pool of actors."""

    def __init__(self, duty: Duty, items: Sequence[Item], cluster: Cluster) -> None:
        self._items, self._cluster, self._ray = items, cluster, cluster.ray
        self._folder = duty.plan.folder
        options = {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus, "max_restarts": 0}
        self._made = self._ray.remote(**options, concurrency_groups={"work": 1, "beat": 1})(Actor)
        self._duty = self._ray.put(pickle.dumps(duty))
        self._token = self._folder / f".seen-{secrets.token_hex(8)}"
        self._threads = max(1, int(cluster.cpus))
        self._workers: dict[int, _Worker] = {}
        self._refs: dict[Any, tuple[str, int]] = {}

    def __enter__(self) -> "Actors":
        with writing(self._token):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._token.touch()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def obey(self, order: Order) -> None:
        """Do it; an actor that is gone is found out by `events`."""
        number = order.worker
        if isinstance(order, Start):
            handle = self._made.remote(number, sys.path, self._threads)
            self._workers[number] = _Worker(handle=handle)
            begin = handle.begin.options(concurrency_group="work")
            ref = begin.remote(self._duty, mobileclip.__version__, str(self._token), SEEN)
            self._refs[ref] = ("begin", number)
            return
        worker = self._workers[number]
        if isinstance(order, Give):
            method = worker.handle.do.options(concurrency_group="work")
            ref = method.remote(order.item, self._items[order.item], order.isolate)
            self._refs[ref] = ("do", number)
            worker.work[order.item] = ref
            worker.asked = worker.asked or time.monotonic()
        elif isinstance(order, Kill):
            worker.why = order.why
            self._ray.kill(worker.handle)
        else:
            self._forget(number)
            self._ray.kill(worker.handle)

    def events(self, timeout: float) -> list[Event]:
        """What actors answered, and which have ended."""
        self._ask()
        if not self._refs:
            time.sleep(timeout)
            return []
        with _border(self._ray):
            some, _ = self._ray.wait(list(self._refs), num_returns=1, timeout=timeout, fetch_local=False)
            if some:
                some, _ = self._ray.wait(list(self._refs), num_returns=len(self._refs), timeout=0)
        found: list[Event] = []
        for ref in some:
            if ref in self._refs:  # a loss forgets the other questions to an actor
                found += self._answer(ref)
        return found

    def close(self) -> None:
        """End all at once."""
        for worker in self._workers.values():
            with suppress(Exception):  # a Ray that is gone has ended them
                self._ray.kill(worker.handle)
        self._workers.clear()
        self._refs.clear()
        with suppress(OSError):
            self._token.unlink(missing_ok=True)

    def _ask(self) -> None:
        """Ask actors at work how far they are; one that does not answer makes no progress that can be seen."""
        now = time.monotonic()
        for number, worker in self._workers.items():
            if worker.work and not worker.waits and now - worker.asked > _OFTEN:
                worker.asked, worker.waits = now, True
                self._refs[worker.handle.beat.options(concurrency_group="beat").remote()] = ("beat", number)

    def _answer(self, ref: Any) -> list[Event]:
        what, number = self._refs.pop(ref)
        worker, errors = self._workers[number], self._ray.exceptions
        try:
            with _border(self._ray):
                answer = self._ray.get(ref)
        except (errors.RayActorError, errors.RayTaskError, errors.WorkerCrashedError) as error:
            said = " ".join(str(error).split())
            gone = "node" in said and "died" in said and "node has died" in said
            self._forget(number)
            with suppress(Exception):
                self._ray.kill(worker.handle)
            return [Lost(number, worker.why or _short(said), blames=not gone)]
        if what == "begin":
            self._check(*answer)
            return [Ready(number)]
        if what == "beat":
            worker.waits = False
            count, done, rows = answer
            if count == worker.beat:
                return []
            worker.beat = count
            return [Beat(number, done, rows)]
        event: Done | Failed | Isolated = answer
        worker.work.pop(event.item, None)
        return [event]

    def _check(self, host: str, version: str, sees: bool) -> None:
        if version != mobileclip.__version__:
            raise MobileClipError(
                f"node '{host}' has version {version} of mobileclip-toolkit, this process {mobileclip.__version__}: "
                "install the same on all nodes."
            )
        if not sees:
            raise OutputError(
                f"node '{host}' does not see '{self._folder}': give a folder on a file system that all nodes share."
            )

    def _forget(self, number: int) -> None:
        del self._workers[number]
        self._refs = {ref: about for ref, about in self._refs.items() if about[1] != number}


class Actor:
    """One worker; lives on some node."""

    def __init__(self, worker: int, paths: Sequence[str], threads: int) -> None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        sys.path += [path for path in paths if path not in sys.path]
        self._worker = worker
        self._desk: Desk | None = None
        self._beat = (0, 0, 0)

    def begin(self, duty: bytes, version: str, token: str, patience: float) -> tuple[str, str, bool]:
        """Host, version, and whether the folder of the work is seen here."""
        same = version == mobileclip.__version__
        sees = not same or _appears(Path(token), patience)
        if same and sees:
            found: Duty = pickle.loads(duty)  # of this run's own driver
            self._desk = Desk(self._worker, found, Memory(found.memory))
        return platform.node(), mobileclip.__version__, sees

    def do(self, number: int, item: Item, isolate: bool) -> Done | Failed | Isolated:
        """Work on a shard, or search it."""
        assert self._desk is not None
        self._tell(0, 0)
        return self._desk.do(number, item, isolate, self._tell)

    def beat(self) -> tuple[int, int, int]:
        """A number that grows with progress, rows that are done, rows."""
        return self._beat

    def _tell(self, done: int, rows: int) -> None:
        self._beat = (self._beat[0] + 1, done, rows)


def _appears(token: Path, patience: float) -> bool:
    stop = time.monotonic() + patience
    while not token.exists():
        if time.monotonic() > stop:
            return False
        time.sleep(0.5)
        with suppress(OSError):
            os.listdir(token.parent)  # makes a network file system look again
    return True


@contextmanager
def _border(ray: Any) -> Iterator[None]:
    """Ray's own end becomes one sentence; that of an actor goes through."""
    errors = ray.exceptions
    try:
        yield
    except (errors.RayActorError, errors.RayTaskError, errors.WorkerCrashedError):
        raise
    except (errors.RayError, ConnectionError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise MobileClipError(
            f"Ray has gone ({reason}): start the same command again, it goes on from here."
        ) from error


def _short(said: str) -> str:
    """What Ray says of an actor's end, without numbers that differ each time."""
    for words in ("connection error code", "exit code", "node has died", "out of memory", "OOM"):
        if words in said:
            start = said.index(words)
            return said[max(0, start - 60) : start + 80].strip()
    return said[:160]
