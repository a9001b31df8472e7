"""Where the time goes inside of an artifact: by operator, and by block of the network.

ExecuTorch tells every operator of a delegate in its ETDump, onnxruntime in its profile; neither says which part of the
network an operator came from. Convolutions and matrix products run in the order of the view, however a runtime fuses
what stands between them, so the n-th of the profile is the n-th of the view, and what follows belongs to the same
block. Where their numbers differ, no block is told rather than a wrong one.

A profiled run is slower than a plain one; the sum of operators is told beside the plain time and never in its place.
"""

import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import work
from benchmarks.protocol import Subject
from export.rewrites import rewrite
from export.targets import TARGETS
from export.views import View

RUNS = 12
"""Profiled runs; the least of each operator counts."""
_PRODUCT = re.compile(r"Convolution|Fully Connected|Batch Matrix|Conv|Gemm|MatMul", re.IGNORECASE)
_NUMBER = re.compile(r" #\d+$")
Event = tuple[str, float]
"""Name of an operator's kind and its time in ms, in the order of a run."""


def add(
    sides: Sequence[dict[str, Any]], subjects: Sequence[Subject], views: Sequence[View | None], threads: int
) -> None:
    """Put `operators` into sides whose runtime can be profiled here: rows of operator, block, count, ms.

    Args:
        views: the fused view of each subject, where there is one (`roofline.view_of`).
    """
    for side, subject, view in zip(sides, subjects, views, strict=True):
        events = events_of(subject, threads)
        blocks = places(events, _order(subject, view))
        side["operators"] = [
            {"operator": kind, "block": block, "count": count, "ms": ms}
            for (kind, block), (count, ms) in _summed(events, blocks).items()
        ]


def events_of(subject: Subject, threads: int) -> list[Event]:
    """The operators of one run in order, each with its least time over `RUNS` runs.

    Args:
        threads: of the runtime; 0 is its own choice.
    """
    run = _onnxruntime if subject.file.suffix == ".onnx" else _executorch
    return run(subject, threads)


def places(events: Sequence[Event], order: Sequence[str]) -> list[str | None]:
    """The block of each event; all None where the products of `events` are not as many as those of `order`."""
    products = [bool(_PRODUCT.search(name)) for name, _ in events]
    if sum(products) != len(order):
        return [None] * len(events)
    found, here, block = iter(order), list[str | None](), order[0] if order else None
    for product in products:
        block = next(found) if product else block
        here.append(block)
    return here


def _summed(events: Iterable[Event], blocks: Iterable[str | None]) -> dict[tuple[str, str | None], tuple[int, float]]:
    found: dict[tuple[str, str | None], tuple[int, float]] = {}
    for (kind, ms), block in zip(events, blocks, strict=True):
        count, before = found.get((kind, block), (0, 0.0))
        found[kind, block] = (count + 1, before + ms)
    return found


def _order(subject: Subject, view: View | None) -> list[str]:
    """The block of each product of the view as it was lowered."""
    if view is None:
        return []
    lowered = rewrite(view, TARGETS[subject.entry["target"]].rewrites)
    assert isinstance(lowered, View)
    return work.products_of(lowered)


def _executorch(subject: Subject, threads: int) -> list[Event]:
    import torch
    from executorch.devtools import Inspector
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    if threads:
        portable_lib._unsafe_reset_threadpool(threads)
    # a debug buffer that is too small for what it is asked to hold ends the process; of no size it holds nothing
    program = Runtime.get().load_program(subject.file, enable_etdump=True, debug_buffer_size=0)
    method = program.load_method("forward")
    feed = torch.from_numpy(np.ascontiguousarray(subject.feed))
    for _ in range(RUNS):
        method.execute([feed])
    with tempfile.TemporaryDirectory() as folder:
        dump = Path(folder) / "run.etdp"
        program.write_etdump_result_to_file(str(dump), str(Path(folder) / "run.bin"))
        blocks = Inspector(etdump_path=str(dump)).event_blocks
    events = next(block.events for block in blocks if block.name == "Execute")
    return [
        (_NUMBER.sub("", event.name), min(event.perf_data.raw))
        for event in events
        # DELEGATE_CALL and Method::execute hold all others
        if event.perf_data and (event.is_delegated_op or event.name.startswith(("OPERATOR_CALL", "native_call")))
    ]


def _onnxruntime(subject: Subject, threads: int) -> list[Event]:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        session = onnxruntime.InferenceSession(str(subject.file), options, providers=["CPUExecutionProvider"])
        (taken,) = session.get_inputs()
        dtype = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(int64)": np.int64}[taken.type]
        for _ in range(RUNS):
            session.run(None, {taken.name: subject.feed.astype(dtype)})
        told = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [event for event in told if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    assert len(nodes) % RUNS == 0, "an operator did not run each time"
    count = len(nodes) // RUNS
    return [
        (nodes[place]["args"]["op_name"], min(nodes[run * count + place]["dur"] for run in range(RUNS)) / 1000)
        for place in range(count)
    ]
