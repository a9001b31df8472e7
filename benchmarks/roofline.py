"""How far from the machine's limit: multiply-accumulates, bytes and their ratio for each block of a network.

The numbers of a block are those of its fused graph, not of what a runtime makes of it: products and convolutions for
the arithmetic; every operator's inputs, outputs and weights once for the bytes, as if nothing stayed in a cache between
two operators. Ceilings are measured in the same run on the same threads: a large fp32 matrix product, and a copy that
no cache holds. A block takes at least as long as the slower of the two ceilings lets it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from benchmarks import limits
from benchmarks.protocol import Subject
from benchmarks.work import Work, work_of
from export.manifest import Bundle
from export.reference import reference_subject
from export.views import View

_BYTES = {"fp32": 4.0, "fp16": 2.0, "w8a8": 1.0}
"""Bytes of an activation by precision; others keep fp32 or fp16 activations, and only their weights are smaller."""
_WEIGHT_BYTES = {"fp32": 4.0, "fp16": 2.0, "w8": 1.0, "w8a8": 1.0, "w8p": 1.0, "w6p": 0.75, "w6pj": 0.75} | {
    "w4p": 0.5,
    "w4pj": 0.5,
}


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What this machine can do on a number of threads, measured."""

    threads: int
    gmacs: float
    """10^9 multiply-accumulates a second of an fp32 matrix product."""
    gbytes: float
    """10^9 bytes a second, read and written, of a copy."""


def add(sides: Sequence[dict[str, Any]], subjects: Sequence[Subject], threads: int) -> dict[str, Any]:
    """Put `blocks` and `limits` into sides that were measured here; returns the ceilings."""
    import os

    found = ceilings(threads or os.cpu_count() or 1)
    for side, subject in zip(sides, subjects, strict=True):
        view = view_of(subject)
        if view is None:
            continue
        blocks = [row(name, work, side["precision"], found) for name, work in work_of(view).items()]
        products = limits.products(view)
        side["blocks"] = blocks
        side["limits"] = {
            "macs": sum(block["macs"] for block in blocks),
            "bytes": sum(block["bytes"] for block in blocks),
            "roofline_ms": sum(block["limit_ms"] for block in blocks),
            "gemm_ms": limits.gemm_floor_ms(products, found.threads, repeats=7),
            "gemm_macs": limits.macs(products),
        }
    return {"threads": found.threads, "gemm_gmacs_s": found.gmacs, "copy_gbytes_s": found.gbytes}


def view_of(subject: Subject) -> View | None:
    """The fused view of a subject, loaded again from its checkpoint; None for a file without a bundle."""
    if subject.bundle is None:
        return None
    found: View = _views(str(subject.bundle))[subject.entry["view"]]
    return found


@cache
def _views(path: str) -> Any:
    bundle = Bundle.open(path, hashes=False)
    return reference_subject(bundle, bundle.manifest["model"]["checkpoint"]["source"]).deployed()


def row(name: str, work: Work, precision: str, found: Ceilings) -> dict[str, Any]:
    """A block against the ceilings. Integer products have no ceiling measured here: theirs is that of fp32."""
    size = _BYTES.get(precision, 4.0) * work.activations + _WEIGHT_BYTES.get(precision, 4.0) * work.weights
    arithmetic, traffic = work.macs / (found.gmacs * 1e6), size / (found.gbytes * 1e6)
    return {
        "block": name,
        "macs": work.macs,
        "bytes": int(size),
        "macs_per_byte": work.macs / size if size else 0.0,
        "limit_ms": max(arithmetic, traffic),
        "bound": "arithmetic" if arithmetic >= traffic else "memory",
    }


def ceilings(threads: int, *, side: int = 1536, copied: int = 1 << 26, repeats: int = 7) -> Ceilings:
    """Measure both ceilings: a product of two `side` x `side` matrices, a copy of `copied` fp32 values (least of
    `repeats`: a ceiling is what the machine can do when nothing disturbs it)."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b, out = torch.randn(side, side), torch.randn(side, side), torch.empty(side, side)
        source, target = torch.ones(copied), torch.zeros(copied)
        product = min(_seconds(lambda: torch.mm(a, b, out=out)) for _ in range(repeats))
        copy = min(_seconds(lambda: target.copy_(source)) for _ in range(repeats))
    finally:
        torch.set_num_threads(before)
    return Ceilings(threads=threads, gmacs=side**3 / product / 1e9, gbytes=2 * 4 * copied / copy / 1e9)


def _seconds(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
