"""Work on shards in several processes, and how many that should be."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from mobileclip.errors import MobileClipError

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(work: Callable[[_Task], _Result], tasks: Sequence[_Task], jobs: int) -> Iterator[tuple[_Task, _Result]]:
    """Every task and what `work` makes of it, as they end; in this process where one job or one task is left.

    Raises:
        MobileClipError: a process was ended from outside.
    """
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        for task in tasks:
            yield task, work(task)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(work, task): task for task in tasks}
        try:
            for future in as_completed(pending):
                yield pending[future], future.result()
        except BrokenProcessPool as error:
            raise MobileClipError(
                "a working process was ended from outside (out of memory?): start again, it goes on from here."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
