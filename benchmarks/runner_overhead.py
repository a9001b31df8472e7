"""What the adb runner adds to a run, how far two runs of it differ, and whether it says what Python's runtime says.

    python -m benchmarks runner_overhead runs/s2                    # an adbd of this computer (root, tests/trixie.sh)
    python -m benchmarks runner_overhead runs/s2 --serial R58M123   # a phone: no Python side

Three questions, one program. Overhead: inside one process the module's call is timed in turns with the bare
`Method::execute()`, and the loop's wall time is held against the sum of what was timed in it. Spread: the medians of
several runs, each a process of its own. Agreement: Python's runtime with as many threads between those runs, in the
same minutes, and outputs equal to the bit. On a computer that is not quiet the clock on the wall tells of its
neighbours, which the spread shows; processor time for a run, told beside it, does so much less.
"""

import argparse
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import adbd, android, results
from benchmarks.protocol import Plan, Subject
from benchmarks.sides import CACHE
from benchmarks.subjects import subject
from benchmarks.timing import timed
from export.manifest import Bundle
from export.runtimes import open_artifact
from mobileclip.errors import GateFailed

TARGET = "executorch-xnnpack"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write a result."""
    parser = argparse.ArgumentParser(prog="benchmarks runner_overhead", description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path, help=f"with an artifact for {TARGET}")
    parser.add_argument("--view", default="image", help="which of its views")
    parser.add_argument("--serial", help="a device of `adb devices`; an adbd of this computer without it")
    parser.add_argument("--rounds", type=int, default=5, help="runs of the runner, each beside one of Python's")
    parser.add_argument("--runs", type=int, default=100, help="timed runs of each")
    parser.add_argument("--threads", type=int, default=1, help="of both runtimes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "runner", help="folder")
    args = parser.parse_args(argv)
    chosen = subject(Bundle.open(args.bundle), args.view, TARGET, CACHE)
    with _device(args.serial) as phone:
        found = _measured(phone, chosen, args)
    result = results.stamp() | {"study": "runner_overhead", "artifact": chosen.name, "threads": args.threads, **found}
    results.write(args.out, f"overhead-{chosen.name}-{args.threads}-threads".replace(" ", "-"), result)
    print(table([result]))
    return 0


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Results of this study as a Markdown table."""
    head = "| artifact | threads | call over bare method | loop over what it times | spread of p50 | runner p50 ms "
    rows = [
        head + "| Python p50 ms | runner / Python, wall p50 | in processor time |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for item in found:
        python = item.get("python_p50_ms")
        cells = (
            item["artifact"],
            item["threads"],
            f"{100 * item['call_overhead']:+.2f} %",
            f"{100 * item['loop_overhead']:+.2f} %",
            f"{100 * item['spread']:.1f} %",
            f"{np.median(item['runner_p50_ms']):.2f}",
            f"{np.median(python):.2f}" if python else "–",
            f"{item['agreement']:.3f}" if python else "–",
            f"{item['cpu_agreement']:.3f}" if python else "–",
        )
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


@contextmanager
def _device(serial: str | None) -> Iterator[android.Android]:
    if serial is not None:
        with android.find(serial) as phone:
            yield phone
        return
    with adbd.device() as here, android.find(here.serial) as phone:
        yield phone


def _measured(phone: android.Android, chosen: Subject, args: Namespace) -> dict[str, Any]:
    """All rounds, and the figures of them.

    Raises:
        GateFailed: the runner's outputs are not those of Python's runtime.
    """
    plan = Plan(
        runs=args.runs, seconds=0, warmup_runs=10, warmup_s=1, threads=args.threads, end_to_end=False, memory=False
    )
    local = args.serial is None
    session = open_artifact(chosen.file, TARGET, args.threads) if local else None
    wanted = [sha256(array.tobytes()).hexdigest() for array in session.run([chosen.feed])] if session else None
    rounds: list[dict[str, list[float]]] = []
    loops: list[float] = []
    spent: dict[str, list[float]] = {"runner": [], "python": []}
    for _ in range(args.rounds):
        run = phone.run([chosen], plan, bare=True)
        result = run.result()
        if run.state != "complete" or (wanted and result["sides"][0]["known_answer"]["sha256"] != wanted):
            raise GateFailed(run.problem or "the runner's outputs are not those of Python's runtime, bit for bit")
        assert run.told.loop is not None and run.told.cpu_ms is not None  # noqa: PT018
        loops.append(run.told.loop[0] / run.told.loop[1] - 1)
        samples = run.told.sides[0].samples
        entry = {"runner": samples["steady"], "bare": samples["bare"]}
        spent["runner"].append(run.told.cpu_ms / (2 * len(samples["steady"])))
        if session is not None:
            for _ in range(plan.warmup_runs):
                session.run([chosen.feed])
            # as many pairs as the runner's, so that both sides last as long and see the same neighbours
            before = time.process_time()
            entry["python"] = [timed(lambda: session.run([chosen.feed])) for _ in range(2 * len(entry["runner"]))]
            spent["python"].append(1000 * (time.process_time() - before) / len(entry["python"]))
        rounds.append(entry)
    return _figures(rounds, loops, spent)


def _figures(
    rounds: Sequence[Mapping[str, Sequence[float]]], loops: Sequence[float], spent: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    medians = {part: [float(np.median(entry[part])) for entry in rounds] for part in rounds[0]}
    runner = medians["runner"]
    found: dict[str, Any] = {
        "call_overhead": float(np.median(np.divide(runner, medians["bare"]))) - 1,
        "loop_overhead": float(np.median(loops)),
        "spread": (max(runner) - min(runner)) / float(np.median(runner)),
        "runner_p50_ms": runner,
        "bare_p50_ms": medians["bare"],
        "cpu_ms": {part: list(values) for part, values in spent.items()},
        "rounds_ms": [{part: list(values) for part, values in entry.items()} for entry in rounds],
    }
    if "python" in medians:
        python = medians["python"]
        found |= {
            "python_p50_ms": python,
            "agreement": float(np.median(np.divide(runner, python))),
            "cpu_agreement": float(np.median(np.divide(spent["runner"], spent["python"]))),
        }
    return found
