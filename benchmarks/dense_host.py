"""MCi2 with a dense head against Swin-L with UPerNet on this host: both by the same rules, interleaved, proved first.

    python -m benchmarks dense_host                                  # the published pair and its parts, 1 and 2 threads
    python -m benchmarks dense_host --pairs mci2+semfpn@512:swin_l_384+uper@640 --threads 2 --runs 20
    python -m benchmarks dense_host --lower-only                     # fill the cache; Swin-L wants minutes and 8 GB

For each pair: parameters, multiply-accumulates, size of the artifact, peak memory of a process that runs it alone,
latency in one process (A B B A), the ratio of medians with its bootstrap interval, and the time of the dense layers
alone on this machine, measured in the same process. The CPU time of all threads is kept too: neighbours on the machine
disturb it less than the clock on the wall. Figures of a host do not predict a phone.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.dense_sides import TARGET, Side, answer, floor_ms, lowered, peak_memory, side_of, told
from benchmarks.sides import CACHE
from benchmarks.timing import Samples, interleave, ratio_of_medians, timed
from export.parity import compare, worst
from export.runtimes import Session, open_artifact, tool_versions
from export.targets import TARGETS
from mobileclip.errors import GateFailed, MobileClipError

PAIRS = (
    "mci2+semfpn@512:swin_l_384+uper@640",
    "mci2+semfpn@512:swin_l_384+uper@512",
    "mci2+semfpn_phone@512:swin_l_384+uper@640",
    "mci2@512:swin_l_384@640",
    "mci2@512:swin_l_384@512",
)
"""The published pair, the same at one size, our default on phones, and the encoders alone."""
Progress = Callable[[str], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write a result for each pair and number of threads."""
    parser = argparse.ArgumentParser(prog="benchmarks dense_host", description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", nargs="+", default=PAIRS, metavar="A:B", help="ENCODER[+HEAD]@SIZE:…")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=10, help="timed runs of each side")
    parser.add_argument("--warmup", type=int, default=2, help="runs of each side before, and at least a second")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of lowered models")
    parser.add_argument("--lower-only", action="store_true", help="fill the cache, measure nothing")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "dense", help="folder")
    args = parser.parse_args(argv)
    pairs = [pair_of(name) for name in args.pairs]
    for side in dict.fromkeys(side for pair in pairs for side in pair):
        lowered(side, args.cache, print)
    if args.lower_only:
        return 0
    found = []
    memory: dict[str, Mapping[str, float]] = {}
    for a, b in pairs:
        for threads in args.threads:
            result = measure((a, b), args.cache, threads=threads, runs=args.runs, warmup=args.warmup, memory=memory)
            results.write(args.out, f"{a.name}-against-{b.name}-{threads}-threads", result)
            print(
                f"{a.name}: {result['ratio']['value']:.2f} times as fast as {b.name} on {threads} thread(s)", flush=True
            )
            found.append(result)
    print(table(found))
    return 0


def pair_of(name: str) -> tuple[Side, Side]:
    """`A:B` as two sides.

    Raises:
        MobileClipError: not two names, or one that `side_of` refuses.
    """
    a, colon, b = name.partition(":")
    if not colon or ":" in b:
        raise MobileClipError(f"'{name}' names no pair: write A:B, such as {PAIRS[0]}.")
    return side_of(a), side_of(b)


def measure(
    pair: tuple[Side, Side],
    cache: Path,
    *,
    threads: int,
    runs: int,
    warmup: int,
    memory: dict[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """One comparison as a result.

    Args:
        cache: folder of lowered models; what is missing is made there.
        warmup: runs of each side before it is timed.
        memory: peaks by name that were measured already; new ones are put in.

    Raises:
        GateFailed: a side gives a wrong known answer; what is wrong has no latency.
    """
    folders = [lowered(side, cache) for side in pair]
    memory = {} if memory is None else memory
    for side, folder in zip(pair, folders, strict=True):
        if side.name not in memory:
            memory[side.name] = peak_memory(folder, threads)
    opened = [_Opened(folder, threads) for folder in folders]
    for item in opened:
        item.prove()
    first, second = interleave(opened[0].run, opened[1].run, runs=runs, warmup_runs=warmup)
    told_sides = [
        item.told(times, threads) | {"memory_mib": dict(memory[side.name])}
        for item, times, side in zip(opened, (first, second), pair, strict=True)
    ]
    return results.stamp() | {
        "study": "dense_host",
        "target": TARGET,
        "threads": threads,
        "protocol": {"order": "ABBA", "runs": runs, "warmup": warmup, "process": "one"},
        "tools": dict(tool_versions()),
        "a": told_sides[0],
        "b": told_sides[1],
        "ratio": asdict(ratio_of_medians(tuple(first), tuple(second))),
        "cpu_ratio": asdict(ratio_of_medians(*(tuple(side["cpu_ms"]) for side in told_sides))),
    }


class _Opened:
    """A lowered side that is loaded."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.note = told(folder)
        self.feed, self.expected = answer(folder)
        start = perf_counter()
        self.session: Session = open_artifact(folder / self.note["file"], TARGET, threads)
        self.load_ms = (perf_counter() - start) * 1e3
        self.first_ms = 0.0
        self.parity: Mapping[str, Any] = {}
        self.cpu_ms: list[float] = []

    def run(self) -> None:
        start = process_time()
        self.session.run([self.feed])
        self.cpu_ms.append((process_time() - start) * 1e3)

    def prove(self) -> None:
        """The first run, against the known answer."""
        outputs: list[Any] = []
        self.first_ms = timed(lambda: outputs.extend(self.session.run([self.feed])))
        found = worst([compare(a, b) for a, b in zip(outputs, self.expected, strict=True)])
        if not found.passes(TARGETS[TARGET].gate):
            raise GateFailed(
                f"{self.note['name']} gives a wrong known answer here ({found.db:.1f} dB): a wrong artifact has no "
                "latency; delete it from the cache to make it again."
            )
        self.parity = found.as_dict()

    def told(self, times: Sequence[float], threads: int) -> dict[str, Any]:
        samples = Samples(name=self.note["name"], load_ms=self.load_ms, first_ms=self.first_ms, steady_ms=tuple(times))
        note = {name: value for name, value in self.note.items() if name not in ("products", "file")}
        return note | {
            "runtime": self.session.runtime,
            "parity": self.parity,
            "load_ms": self.load_ms,
            "first_ms": self.first_ms,
            "p50_ms": samples.percentile(50),
            "p90_ms": samples.percentile(90),
            "min_ms": float(np.min(times)),
            "gemm_ms": floor_ms(self.note, threads),
            "steady_ms": list(times),
            "cpu_ms": self.cpu_ms[-len(times) :],
        }


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """What each side costs, then a line for each comparison."""
    sides = {side["name"]: side for result in found for side in (result["a"], result["b"])}
    costs = [
        "| side | parameters, M | GMAC | artifact, MB | delegates | peak memory, MiB | dB against timm's form |",
        "|---|---|---|---|---|---|---|",
        *(_cost(side) for side in sides.values()),
    ]
    speeds = [
        "| side | against | threads | parameters | GMAC | artifact | p50 ms | against p50 ms | times as fast | 95 % "
        "interval | less CPU time | × GEMM limit of each |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
        *(_speed(result) for result in found),
    ]
    return "\n".join([*costs, "", *speeds])


def _cost(side: Mapping[str, Any]) -> str:
    loose = sum(item["count"] for item in side["loose"] if item["compute"])
    memory = side["memory_mib"]
    cells = (
        side["name"],
        f"{side['params'] / 1e6:.1f}",
        f"{side['macs'] / 1e9:.1f}",
        f"{side['bytes'] / 1e6:.0f}",
        f"{side['delegates']}" + (f" + {loose} loose" if loose else ""),
        f"{memory['peak'] - memory['runtime']:.0f}",
        f"{side['parity']['db']:.0f}",
    )
    return "| " + " | ".join(cells) + " |"


def _speed(result: Mapping[str, Any]) -> str:
    a, b, ratio = result["a"], result["b"], result["ratio"]
    cells = (
        a["name"],
        b["name"],
        str(result["threads"]),
        *(f"{b[key] / a[key]:.1f} × less" for key in ("params", "macs", "bytes")),
        f"{a['p50_ms']:.0f}",
        f"{b['p50_ms']:.0f}",
        f"**{ratio['value']:.2f}**",
        f"{ratio['low']:.2f}–{ratio['high']:.2f}",
        f"{result['cpu_ratio']['value']:.2f} ×",
        f"{a['p50_ms'] / a['gemm_ms']:.2f} / {b['p50_ms'] / b['gemm_ms']:.2f}",
    )
    return "| " + " | ".join(cells) + " |"
