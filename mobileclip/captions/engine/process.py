"""What every process that works on shards does: end with its parent, mind its memory, say how it ended."""

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import connection, get_context, parent_process
from multiprocessing.context import ForkServerContext, ForkServerProcess

from mobileclip import errors
from mobileclip.errors import MobileClipError

TRIES = 4
"""How often a process is started, while the server that makes processes is found killed."""
TOO_MUCH = 70
"""Exit code of a process that held more memory than it may."""

_BY_ITSELF = ("pandas",)  # pyarrow imports it with the first list that it takes, where it is installed
_LOOK = 0.25  # seconds between two looks at the memory
_PAGE = os.sysconf("SC_PAGE_SIZE")


def processes() -> ForkServerContext:
    """Processes that begin at once: a server that has imported what they need, and no more, makes them."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["__main__", "mobileclip.captions.engine.desk", *_BY_ITSELF])
    return context


def started(make: Callable[[], ForkServerProcess]) -> ForkServerProcess:
    """A process that runs; where the server that forks them has been killed, another try starts that anew."""
    for left in reversed(range(TRIES)):
        process = make()
        try:
            process.start()
            return process
        except (EOFError, ConnectionError):
            if not left:
                raise
            time.sleep(0.2)
    raise AssertionError("unreachable")


def guard() -> None:
    """End this process when its parent does, and leave the keyboard's interrupt to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, name="guard", daemon=True).start()


class Memory:
    """Looks at what this process holds, from now on, and ends it when that is more than it may."""

    def __init__(self, limit: int = 0, full: Callable[[], None] = lambda: os._exit(TOO_MUCH)) -> None:
        """`limit` is in bytes, 0 for none; `full` is called from another thread."""
        self._limit, self._full = limit, full
        self._peak = held()
        threading.Thread(target=self._look, name="memory", daemon=True).start()

    @property
    def peak(self) -> int:
        """Bytes that the process held at most since then."""
        return max(self._peak, held())

    def _look(self) -> None:
        while True:
            now = held()
            self._peak = max(self._peak, now)
            if 0 < self._limit < now:
                self._full()
                return
            time.sleep(_LOOK)


def held() -> int:
    """Bytes that this process holds, without those of mapped files, which the system takes back when it needs them."""
    try:
        with open("/proc/self/statm", "rb") as file:
            _, resident, shared, *_ = map(int, file.read().split())
        return (resident - shared) * _PAGE
    except (OSError, ValueError):  # not Linux: the most that it ever held
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def ending(code: int | None) -> str:
    """How a process ended, in words."""
    if code == TOO_MUCH:
        return "more memory than a worker may hold"
    if code is None or code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def rebuilt(kind: str, text: str) -> MobileClipError:
    """An error that was raised in another process, of the same class and with the same sentence."""
    found = getattr(errors, kind, MobileClipError)
    made = found if isinstance(found, type) and issubclass(found, MobileClipError) else MobileClipError
    return made.__new__(made, text)  # not every class takes its sentence
