"""The training step on 1, 2, 4, ... ranks: the same batch divided over more of them, by gloo here and NCCL on GPUs.

    python -m benchmarks scaling --ranks 1 2 4
    python -m benchmarks scaling --model mobileclip_s2 --size 256 --batch 4096 --ranks 1 2 4 8       # where GPUs are

Each number of ranks is `torchrun` of this very file, there and back (1 2 4 4 2 1), so that drift hits all alike. A rank
runs `Stepper.step`, as `mobileclip train` does, on its rows of one batch in memory; what changes with the number of
ranks is who computes what, and not the result: without BatchNorm the losses of all steps must agree, with it each
rank's statistics are of its own rows, and only the first figures are near.

On a CPU each rank has one thread. Ranks beyond the cores share them: then the clock on the wall can gain nothing, and
CPU seconds a sample tell what dividing costs. The share of communication is the time in which a collective was under
way, from torch's profiler over steps of their own, waiting for slower ranks included.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import results
from benchmarks.step import synthetic
from mobileclip.config import config_of
from mobileclip.data.batches import Batch
from mobileclip.distributed import barrier, group, rank, total, world
from mobileclip.errors import GateFailed, MobileClipError
from mobileclip.models import create
from mobileclip.recipes import recipe_of
from mobileclip.train_step import Stepper

WARM, PROFILED = 2, 2
"""Steps before those that are timed, and after them for the profiler."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write a result."""
    parser = argparse.ArgumentParser(prog="benchmarks scaling", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="nano_scenes_vit", help="name of a model with both towers")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures in pixels")
    parser.add_argument("--batch", type=int, default=128, help="pictures a step, over all ranks")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4], help="numbers of processes")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a turn")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, default=1, help="ways there and back")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "train", help="folder")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    config_of(args.model)
    if args.worker is not None:
        with group() as device:
            told = _worker(args, device)
            (args.worker / f"{rank()}.json").write_text(json.dumps(told))
            barrier()
        return 0
    _check(args.batch, args.ranks)
    turns: dict[int, list[list[dict[str, Any]]]] = {count: [] for count in args.ranks}
    for turn in range(2 * args.rounds):
        for count in args.ranks if turn % 2 == 0 else args.ranks[::-1]:
            turns[count].append(_launch(args, count))
            print(f"{count} rank(s): {_samples_per_second(args.batch, turns[count][-1:]):.1f} samples/s", flush=True)
    rows = [_row(count, args, turns[count]) for count in args.ranks]
    _require_one_result(rows)
    result = results.stamp() | {
        "study": "scaling",
        "device": rows[0]["device"],
        "backend": rows[-1]["backend"],
        "settings": {name: getattr(args, name) for name in ("model", "size", "batch", "steps", "precision", "rounds")},
        "versions": {"torch": version("torch")},
        "load": os.getloadavg(),
        "rows": rows,
    }
    print(table([result]))
    kind = "cpu" if result["device"] == "cpu" else "cuda"
    results.write(args.out, f"scaling_{kind}_{args.model}_{args.size}px_{args.batch}", result)
    return 0


def table(found: Sequence[dict[str, Any]]) -> str:
    """A line for each number of ranks of each result."""
    head = ["model", "device", "ranks", "batch of each", "samples/s", "of one rank", "CPU ms a sample", "of one rank"]
    head += ["collectives under way", "peak memory a rank, MiB", "loss of the last step"]
    lines = []
    for result in found:
        one = result["rows"][0]
        cores = result["machine"]["cores"]
        for row in result["rows"]:
            shared = f", on {cores} cores" if result["device"] == "cpu" and row["ranks"] > cores else ""
            cells = [result["settings"]["model"], result["device"], f"{row['ranks']}{shared}", str(row["batch"])]
            cells += [f"{row['per_second']:.1f}", f"**{row['per_second'] / one['per_second']:.2f}**"]
            cells += [f"{row['cpu_ms']:.2f}", f"{row['cpu_ms'] / one['cpu_ms']:.2f}"]
            cells += [f"{row['communication']:.0%}", f"{row['peak_mib']:.0f}", f"{row['losses'][-1]:.6f}"]
            lines.append(cells)
    return results.markdown(head, lines)


def _check(batch: int, ranks: Sequence[int]) -> None:
    for count in ranks:
        if count < 1 or batch % count:
            raise MobileClipError(
                f"a batch of {batch} cannot be divided over {count} ranks: give numbers of ranks that divide it."
            )
    if ranks[0] != min(ranks):
        raise MobileClipError(f"--ranks begins with {ranks[0]}: begin with the fewest, which others are held against.")
    gpus = torch.cuda.device_count()
    if gpus and max(ranks) > gpus:
        raise MobileClipError(f"{max(ranks)} ranks need as many GPUs, and {gpus} are here: give fewer.")


def _launch(args: argparse.Namespace, count: int) -> list[dict[str, Any]]:
    """One run of so many ranks; what each of them measured."""
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--{name}={getattr(args, name)}" for name in ("model", "size", "batch", "steps", "precision")]
        run = ["torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m", "benchmarks.scaling"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", *run, f"--worker={folder}", *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise MobileClipError(f"{count} ranks ended with {done.returncode}: {done.stderr[-800:]}")
        return [json.loads((Path(folder) / f"{number}.json").read_text()) for number in range(count)]


def _worker(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Steps of this rank: time, CPU time, losses, peak memory, and the share of collectives."""
    if device.type == "cpu":
        torch.set_num_threads(1)
    options = {"model": args.model, "batch": args.batch, "precision": args.precision, "warmup": 100}
    stepper = Stepper(create(args.model, seed=0), recipe_of("nano-scenes", options), device)
    mine = rows_of_rank(synthetic(args.batch, args.size))
    own, wall, cpu = [], [], []
    for step in range(WARM + args.steps):
        barrier()
        begun = time.perf_counter(), time.process_time()
        own.append(float(stepper.step(mine, step).loss))
        wall.append((time.perf_counter() - begun[0]) * 1e3)
        cpu.append((time.process_time() - begun[1]) * 1e3)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as seen:
        begun_at = time.perf_counter()
        for step in range(PROFILED):
            stepper.step(mine, WARM + args.steps + step)
        if device.type == "cuda":
            torch.cuda.synchronize()
        profiled = (time.perf_counter() - begun_at) * 1e6
    spans = [(e.time_range.start, e.time_range.end) for e in seen.events() or () if _collective(e.name)]
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else kib / 1024
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "backend": torch.distributed.get_backend() if world() > 1 else "none",
        "statistics": any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in stepper.clip.modules()),
        "losses": (total(torch.tensor(own, dtype=torch.float64)) / world()).tolist(),  # each has its own rows'
        "wall_ms": wall[WARM:],
        "cpu_ms": cpu[WARM:],
        "communication": covered(spans) / profiled,
        "peak_mib": peak,
    }


def rows_of_rank(batch: Batch) -> Batch:
    """This rank's rows of a batch, in the order in which the loss puts them together again."""
    count = len(batch.keys) // world()
    mine = slice(rank() * count, (rank() + 1) * count)
    own = {item.name: getattr(batch, item.name) for item in fields(batch)}
    return replace(batch, **{name: value[mine] for name, value in own.items() if hasattr(value, "__len__")})


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of what intervals cover together."""
    total, end = 0.0, -math.inf
    for begin, stop in sorted(spans):
        total += max(0.0, stop - max(begin, end))
        end = max(end, stop)
    return total


def _collective(name: str) -> bool:
    return name.startswith(("gloo:", "nccl:", "ncclDevKernel"))


def _samples_per_second(batch: int, turns: Sequence[Sequence[dict[str, Any]]]) -> float:
    """The slowest rank of a step is the step."""
    steps = [max(times) for turn in turns for times in zip(*(told["wall_ms"] for told in turn), strict=True)]
    return batch / float(np.median(steps)) * 1e3


def _row(count: int, args: argparse.Namespace, turns: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    ranks = [told for turn in turns for told in turn]
    steps = [sum(times) for turn in turns for times in zip(*(told["cpu_ms"] for told in turn), strict=True)]
    return {
        "ranks": count,
        "batch": args.batch // count,
        "device": ranks[0]["device"],
        "backend": ranks[0]["backend"],
        "statistics": ranks[0]["statistics"],
        "per_second": _samples_per_second(args.batch, turns),
        "cpu_ms": float(np.median(steps)) / args.batch,
        "communication": float(np.median([told["communication"] for told in ranks])),
        "peak_mib": max(told["peak_mib"] for told in ranks),
        "losses": ranks[0]["losses"],
        "raw": [[{key: told[key] for key in ("wall_ms", "cpu_ms", "losses")} for told in turn] for turn in turns],
    }


def _require_one_result(rows: Sequence[dict[str, Any]]) -> None:
    """The number of ranks may not change what is learned.

    Raises:
        GateFailed: a loss is another one.
    """
    for row in rows:
        for turn in row["raw"]:
            for told in turn:
                pairs = list(zip(told["losses"], rows[0]["losses"], strict=True))
                same = all(math.isclose(a, b, rel_tol=1e-3) for a, b in pairs)
                if not (same or row["statistics"]):
                    raise GateFailed(f"{row['ranks']} ranks learn otherwise than {rows[0]['ranks']}: {pairs}")


if __name__ == "__main__":
    sys.exit(main())
