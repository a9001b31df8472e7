"""Do something to each item in threads, a bounded number of items ahead of who uses the results.

Order is kept; an exception reaches the consumer at its item's turn; a consumer that stops early leaves no thread
behind. Pillow decodes and resizes without the interpreter's lock, so threads are enough for pictures.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")

THREADS = min(8, os.cpu_count() or 1)
"""Threads where the caller names no number."""


def ahead(
    function: Callable[[_In], _Out], items: Iterable[_In], *, threads: int = THREADS, depth: int | None = None
) -> Iterator[_Out]:
    """`map(function, items)`, at most `depth` results early (twice the threads if not given)."""
    waiting: deque[Future[_Out]] = deque()
    source = iter(items)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    try:
        waiting.extend(pool.submit(function, item) for item in islice(source, depth or 2 * threads))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(source, 1))
            yield done
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
