"""Shorter names of constants in XNNPACK programs.

ExecuTorch calls each constant by the 64 hexadecimal digits of its SHA-256, in its table of names and again in the
delegate's graph: 0.3 % of MCi2 in 8 bits, which has 747 of them. The first 16 digits tell them apart as well; two
constants of one name would be refused while lowering (`NamedDataStore`), never mixed up. Nothing else changes, and any
runtime that reads named constants reads these.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

DIGITS = 16
"""Of a name."""


@contextlib.contextmanager
def short_keys() -> Iterator[None]:
    """XNNPACK's serialiser names constants by `DIGITS` digits inside of this, in this process."""
    from executorch.backends.xnnpack.operators import node_visitor

    module: Any = node_visitor
    before = module.hashlib
    module.hashlib = _Hashes()
    try:
        yield
    finally:
        module.hashlib = before


class _Hashes:
    """What the serialiser uses of `hashlib`."""

    def sha256(self, data: bytes) -> "_Digest":
        return _Digest(data)


class _Digest:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def hexdigest(self) -> str:
        return hashlib.sha256(self._data).hexdigest()[:DIGITS]
