"""What requests cost, kept below a cap before the money is spent.

    spending = Spending(cap=20.0, price_in=0.15, price_out=0.6, file=Path("answers/spent.json"))
    with spending.held(prompt_tokens, written_tokens) as hold:      # ServerError instead, where the cap would be passed
        hold.used(usage)                                            # what the server says that it was

A request is counted at the most that it may cost before it is sent, and at what it did cost once that is known; one of
which nothing is known stays at the most. With a file the sum holds for all processes and runs that share it.
"""

import fcntl
import json
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mobileclip.data.arrays import writing
from mobileclip.errors import DataError, ServerError


class Spending:
    """A sum that does not pass a cap.

    Args:
        cap: in the currency of the prices; 0: none.
        price_in: of 1,000 tokens that are read.
        price_out: of 1,000 tokens that are written.
        file: where the sum is kept; None: in this process alone.
    """

    def __init__(self, cap: float, price_in: float, price_out: float, file: Path | None = None) -> None:
        self.cap, self.price_in, self.price_out, self.file = cap, price_in, price_out, file
        self._sum, self._lock = 0.0, threading.Lock()

    @property
    def spent(self) -> float:
        """What has been spent, and what requests under way may cost."""
        return self._add(0.0)

    @contextmanager
    def held(self, read: int, written: int) -> Iterator["Hold"]:
        """Hold back what a request may cost.

        Raises:
            ServerError: the cap would be passed.
        """
        most = self.price(read, written)
        self._add(most)
        hold = Hold(self, most)
        try:
            yield hold
        finally:
            if hold.actual is not None:
                self._add(hold.actual - most)

    def price(self, read: int, written: int) -> float:
        """Of so many tokens."""
        return (read * self.price_in + written * self.price_out) / 1_000

    def _add(self, amount: float) -> float:
        with self._lock:
            if self.file is None:
                self._sum = self._allowed(self._sum, amount)
                return self._sum
            with writing(self.file):
                self.file.parent.mkdir(parents=True, exist_ok=True)
                with os.fdopen(os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
                    fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file is closed
                    total = self._allowed(_sum(file.read(1_000), self.file), amount)
                    file.seek(0)
                    file.write(json.dumps({"spent": round(total, 9)}).encode().ljust(64) + b"\n")
                    return total

    def _allowed(self, total: float, amount: float) -> float:
        if self.cap and amount > 0 and total + amount > self.cap:
            raise ServerError(
                f"{total:.4g} of max_cost {self.cap:g} is spent, and the next request may cost {amount:.4g}: raise "
                "max_cost to go on; what is finished is kept."
            )
        return total + amount


class Hold:
    """What one request may cost, until it is known."""

    def __init__(self, spending: Spending, most: float) -> None:
        self._spending, self.most = spending, most
        self.actual: float | None = None

    def free(self) -> None:
        """It cost nothing."""
        self.actual = 0.0

    def used(self, usage: Any) -> int:
        """What the server says of its tokens, believed if it makes sense; returns those that it read."""
        values = [
            usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")
        ]
        read, written = (value if type(value) is int and 0 <= value < 10**9 else None for value in values)
        if read is not None and written is not None:
            self.actual = self._spending.price(read, written)
        return read or 0


def _sum(content: bytes, file: Path) -> float:
    if not content:
        return 0.0
    try:
        found = float(json.loads(content)["spent"])
        if math.isfinite(found) and found >= 0:
            return found
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise DataError(f"'{file}' does not say what was spent: write {{\"spent\": 0}} into it, or what it was.")
