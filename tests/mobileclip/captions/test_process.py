"""Processes are started although the server that makes them is killed."""

import os
import signal
import time
from multiprocessing import forkserver
from typing import Any

from mobileclip.captions.engine.process import processes, started


def test_a_killed_server_of_processes_is_started_anew() -> None:
    context = processes()
    first = started(lambda: context.Process(target=os.getpid))
    first.join(30)
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    before = server._forkserver_pid
    os.kill(before, signal.SIGKILL)
    time.sleep(0.2)
    second = started(lambda: context.Process(target=os.getpid))
    second.join(30)
    assert (first.exitcode, second.exitcode) == (0, 0)
    assert server._forkserver_pid != before
