"""What the engines of caption work cost: Ray against processes, what a shard costs without work, a run at scale.

    python -m benchmarks captions_engine --only overhead        # 100 shards of 1,000; --mix wait on a busy machine
    python -m benchmarks captions_engine --only simulation      # the scheduler at 128,000 shards

Both engines run the same recipe over the same shards with as many workers, in processes of their own, in the order A B
B A, so that drift hits both alike. Time is told with and without the start of Ray, and CPU time of all processes that
belong to a run is summed; the wall clock of a machine that is shared says less. The simulation knows no wall clock but
its own: its figures are the same on every machine.
"""

import argparse
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from benchmarks import results
from mobileclip.captions import engine, tables
from mobileclip.captions.engine.desk import Desk, duty
from mobileclip.captions.engine.scheduler import Rules, Scheduler
from mobileclip.captions.engine.simulate import World, simulate
from mobileclip.captions.plan import Item, plan_of
from mobileclip.captions.recipe import build
from mobileclip.captions.stage import Batch, Columns, Everything, Prepared
from mobileclip.data.shard_writer import ShardWriter
from mobileclip.data.shards import Text

MIXES: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "work": tuple({"kind": kind, "name": kind} for kind in ("images", "clean", "text_score")),
    "wait": ({"kind": "benchmarks.captions_engine:Wait", "name": "wait"},),
}
"""What is run: pictures decoded and hashed, captions cleaned and scored; or waiting, as for a GPU, which other users of
the machine do not disturb."""
CALM: Mapping[str, float] = {}
STORM: Mapping[str, float] = {
    "least_room": 0.5,
    "preempted": 0.05,
    "crashes": 0.01,
    "flaky": 0.002,
    "poisoned": 0.001,
    "hanging": 0.0002,
    "broken": 0.0002,
}
"""Half of the machines gone at the worst hour, each lost once in 20 h besides, and some shards bad."""
_LOOK = 0.1  # seconds between two looks at the processes of a run
_TICK = os.sysconf("SC_CLK_TCK")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print tables, write a result."""
    parser = argparse.ArgumentParser(prog="benchmarks captions_engine", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("overhead", "simulation", "costs"), nargs="+", help="parts; all if left out")
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--rows", type=int, default=1_000, help="samples a shard")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each engine")
    parser.add_argument("--jobs", type=int, default=2, help="workers")
    parser.add_argument("--mix", choices=tuple(MIXES), default="work")
    parser.add_argument("--items", type=int, default=128_000, help="shards of the simulation")
    parser.add_argument("--workers", type=int, default=512, help="workers of the simulation")
    parser.add_argument("--work", type=Path, help="folder; a temporary one if left out")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "captions", help="folder")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.run:
        return _one(Path(args.run[0]), args.run[1], args)
    work = args.work or Path(tempfile.mkdtemp(prefix="engine"))
    parts = {"simulation": _simulation, "costs": _costs, "overhead": _overhead}
    try:
        for name in args.only or parts:
            found = parts[name](args, work)
            result = results.stamp() | {"study": "captions_engine", "part": name, **found}
            results.write(args.out, f"engine_{name}" + (f"_{args.mix}" if name == "overhead" else ""), result)
            print(table([result]))
    finally:
        if args.work is None:
            shutil.rmtree(work, ignore_errors=True)
    return 0


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown tables of kept results."""
    rows = {"overhead": _overhead_rows, "simulation": _simulation_rows, "costs": _cost_rows}
    parts = []
    for result in found:
        head, *body = rows[result["part"]](result)
        parts.append(results.markdown(head, body))
    return "\n\n".join(parts)


@dataclass(frozen=True, kw_only=True)
class Wait:
    """A stage that waits, as one does that a GPU works for."""

    kind: ClassVar[str] = "benchmarks.captions_engine:Wait"
    version: ClassVar[int] = 1
    prepares: ClassVar[bool] = False
    divisible: ClassVar[bool] = True
    name: str = "wait"
    """What it is called."""
    milliseconds: float = 1.5
    """A row."""

    def needs(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def looks(self) -> bool:
        """It sees no pictures."""
        return False

    def points_at(self) -> Mapping[str, str]:
        """Nowhere."""
        return {}

    def prepare(self, everything: Everything) -> pa.Table | None:
        """Nothing."""
        return None

    def worker(self, prepared: Prepared | None) -> "Waiter":
        """Begins at once."""
        return Waiter(self.milliseconds / 1e3)


class Waiter:
    """Gives the number of its rows' captions, late."""

    schema: ClassVar[pa.Schema] = pa.schema([("captions", pa.int32())])
    provenance: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, batch: Batch) -> Columns:
        time.sleep(self._seconds * len(batch.rows))
        return {"captions": [len(texts) for texts in batch.texts("alt")]}


def _overhead(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    shards = work / "shards"
    if not shards.exists():
        _write_shards(shards, args.shards, args.rows)
    runs: dict[str, list[dict[str, float]]] = {"local": [], "ray": []}
    order = ("local", "ray", "ray", "local")
    for number in range(2 * args.rounds):
        kind = order[number % 4]
        out = work / f"out-{kind}"
        shutil.rmtree(out, ignore_errors=True)
        runs[kind].append(_watched(work, kind, args))
        print(kind, {key: round(value, 1) for key, value in runs[kind][-1].items()}, flush=True)
    assert _content(work / "out-local") == _content(work / "out-ray"), "both engines write the same side-cars"
    settings = {key: getattr(args, key) for key in ("shards", "rows", "jobs", "rounds", "mix")}
    return {"settings": settings | {"stages": list(MIXES[args.mix])}, "runs": runs, "load": os.getloadavg()}


def _write_shards(folder: Path, count: int, rows: int) -> None:
    """Samples of 64 px and a caption of some words, from a seed."""
    luck = np.random.default_rng(0)
    words = ["".join(chr(97 + letter) for letter in luck.integers(0, 26, luck.integers(2, 9))) for _ in range(3_000)]
    pictures = [luck.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(256)]
    with ShardWriter(folder, per_shard=rows, licence="CC0-1.0") as writer:
        for number in range(count * rows):
            picture = pictures[number % 256].copy()
            picture[0, :2] = [number % 256, number // 256 % 256, number // 65_536]
            text = " ".join(words[index] for index in luck.integers(0, len(words), 10))
            writer.add(f"{number:09d}", image=picture, texts=[Text(source="alt", text=text)])


def _watched(work: Path, kind: str, args: argparse.Namespace) -> dict[str, float]:
    """Run in a process of its own; wall and CPU seconds of it and all that it starts."""
    command = [sys.executable, "-m", "benchmarks", "captions_engine", "--run", str(work), kind]
    command += ["--jobs", str(args.jobs), "--mix", args.mix]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        usage = _Usage(process.pid)
        told, _ = process.communicate()
        wall = time.monotonic() - began
    if process.returncode:
        raise RuntimeError(f"the run on {kind} ended with code {process.returncode}")
    inner = json.loads(told.splitlines()[-1])
    return {"wall_s": wall, "waves_s": inner["seconds"], "cpu_s": usage.seconds(), "memory": inner["memory"]}


def _one(work: Path, kind: str, args: argparse.Namespace) -> int:
    plan = plan_of(build(args.mix, MIXES[args.mix]), [work / "shards"], work / f"out-{kind}")
    summary = engine.run(plan, engine=kind, jobs=args.jobs)
    print(json.dumps({"seconds": summary.seconds, "memory": summary.memory}))
    return 0


def _content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): tables.digest(path.read_bytes()) for path in sorted(folder.rglob("*.parquet"))
    }


class _Usage:
    """CPU seconds of a process and of all that it starts, also of those that nobody waits for."""

    def __init__(self, root: int) -> None:
        self._known: dict[int, float] = {root: 0.0}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def seconds(self) -> float:
        """Of all, when they have ended."""
        self._stop.set()
        self._thread.join()
        return sum(self._known.values())

    def _look(self) -> None:
        while not self._stop.wait(_LOOK):
            for path in Path("/proc").glob("[0-9]*/stat"):
                try:
                    rest = path.read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                pid, parent = int(path.parent.name), int(rest[1])
                if pid in self._known or parent in self._known:
                    self._known[pid] = (int(rest[11]) + int(rest[12])) / _TICK


def _overhead_rows(result: Mapping[str, Any]) -> list[list[str]]:
    rows = [["seconds, least (median)", "processes", "Ray", "Ray more"]]
    names = {"waves_s": "waves", "wall_s": "with the start", "cpu_s": "CPU of all processes"}
    for key, name in names.items():
        times = {kind: [run[key] for run in runs] for kind, runs in result["runs"].items()}
        more = min(times["ray"]) / min(times["local"]) - 1
        cells = [f"{min(times[kind]):.1f} ({median(times[kind]):.1f})" for kind in ("local", "ray")]
        rows.append([name, *cells, f"{more:+.1%}"])
    held = [f"{max(run['memory'] for run in result['runs'][kind]) / 1e6:.0f} MB" for kind in ("local", "ray")]
    return [*rows, ["memory a worker", *held, ""]]


def _simulation(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    rows = []
    variants: list[tuple[str, Mapping[str, float], dict[str, Any]]] = [
        ("calm", CALM, {}),
        ("storm", STORM, {}),
        ("storm, two shards a worker (Ray)", STORM, {"depth": 2}),
        ("storm, no taking over", STORM, {"hedge": 0.0}),
    ]
    for name, world, rules in variants:
        began = time.process_time()
        outcome = simulate(World(shards=args.items, **world), Rules(most=args.workers, **rules))  # type: ignore[arg-type]
        rows.append({"name": name, "cpu_s": time.process_time() - began, **asdict(outcome)})
    settings = {"items": args.items, "workers": args.workers, "storm": dict(STORM), "world": asdict(World())}
    return {"settings": settings, "rows": rows}


def _simulation_rows(result: Mapping[str, Any]) -> list[list[str]]:
    head = ["simulated", "hours", "of the ideal", "time redone", "shards again", "given up", "events/s", "last 1 %"]
    rows = []
    for row in result["rows"]:
        rows.append(
            [
                row["name"],
                f"{row['seconds'] / 3600:.1f}",
                f"{row['seconds'] / row['ideal']:.3f}",
                f"{row['redone'] / row['asked']:.2%}",
                f"{row['counts'].get('again', 0):,}",
                f"{row['failed']}",
                f"{(row['events'] + row['orders']) / row['cpu_s']:,.0f}",
                f"{row['tail'] / 3600:.2f} h",
            ]
        )
    return [head, *rows]


def _costs(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """What a shard costs apart from its work: in the driver, in a worker, on the disk; CPU time where it is time."""
    shards, count = work / "tiny", 400
    if not shards.exists():
        _write_shards(shards, count, 1)
    shutil.rmtree(work / "out-tiny", ignore_errors=True)
    recipe = build("tiny", [{"kind": "images", "name": "images"}])
    plan = plan_of(recipe, [shards], work / "out-tiny")
    desk = Desk(1, duty(plan, plan.waves[0], 900.0, 0))
    desk.do(0, plan.shards[0], False, lambda done, rows: None)  # loads
    fresh = _cpu(lambda: plan.todo(plan.waves[0]))
    work_ = _cpu(lambda: [desk.do(1, item, False, lambda done, rows: None) for item in plan.shards[1:]])
    known = _cpu(lambda: plan.todo(plan.waves[0]))
    state = _cpu(lambda: engine.status(plan))
    files = [path.stat().st_size for path in plan.home("images").iterdir()]
    tracemalloc.start()
    every = tuple(Item(name=f"{number:08d}", place=f"/data/{number:08d}.tar") for number in range(args.items))
    of_plan = tracemalloc.get_traced_memory()[0]
    scheduler = Scheduler(range(args.items), Rules(most=args.workers))
    scheduler.decide(0.0)
    of_scheduler = tracemalloc.get_traced_memory()[0] - of_plan
    tracemalloc.stop()
    whole = replace(plan, shards=every)
    return {
        "settings": {"shards": count, "items": args.items},
        "fresh_us": fresh / count * 1e6,
        "known_us": known / count * 1e6,
        "status_us": state / count * 1e6,
        "shard_ms": work_ / (count - 1) * 1e3,
        "bytes": sum(files) / count,
        "plan_bytes": of_plan / args.items,
        "scheduler_bytes": of_scheduler / args.items,
        "duty_bytes": len(pickle.dumps(duty(whole, plan.waves[0], 900.0, 0))),
        "order_bytes": len(pickle.dumps((7, every[7], False))),
    }


def _cpu(do: Callable[[], object]) -> float:
    began = time.process_time()
    do()
    return time.process_time() - began


def _cost_rows(result: Mapping[str, Any]) -> list[list[str]]:
    return [
        ["of a shard and stage, apart from its work", ""],
        ["CPU to find that it is missing", f"{result['fresh_us']:.0f} us"],
        ["CPU to find that it is finished", f"{result['known_us']:.0f} us"],
        ["CPU of status", f"{result['status_us']:.0f} us"],
        ["CPU of a worker, with one sample", f"{result['shard_ms']:.1f} ms"],
        ["its side-car and note, with one sample", f"{result['bytes']:,.0f} bytes"],
        ["memory of the driver: the plan", f"{result['plan_bytes']:.0f} bytes"],
        ["memory of the driver: the scheduler", f"{result['scheduler_bytes']:.0f} bytes"],
        ["sent to a worker, once", f"{result['duty_bytes']:,} bytes"],
        ["sent to a worker, a shard", f"{result['order_bytes']:,} bytes"],
    ]
