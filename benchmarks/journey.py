"""How long the whole journey takes, how much memory, and whether it ends in the same artifacts if it is killed.

    python -m benchmarks journey --kills 10

`mobileclip build` is run once without disturbance, its memory being read every second: of the command and all
that it started, each page that is shared counted once (PSS). Then it is run in another folder and killed (SIGKILL, no
warning) at random moments, started again each time, and at last let through; every artifact of every bundle must have
the SHA-256 that it has in the first folder. With --work the first run is kept, and kills can be tried later.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import results
from mobileclip.errors import GateFailed, MobileClipError

_PAUSE = 1.0  # seconds between two looks at the memory


def main(argv: Sequence[str] | None = None) -> int:
    """Run, kill, run again, compare, print a table, write a result."""
    parser = argparse.ArgumentParser(prog="benchmarks journey", description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", nargs="?", default="quickstart")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--set", nargs="*", default=(), help="fields of the journey")
    parser.add_argument(
        "--work",
        type=Path,
        help="folder of the two runs, gone on with where the first is done; a temporary one if left out",
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "journey", help="folder")
    args = parser.parse_args(argv)
    if not Path("/proc/self/smaps_rollup").exists():
        raise MobileClipError("memory of processes is read from /proc, which this system has not: run it on Linux.")
    work = args.work or Path(tempfile.mkdtemp(prefix="journey"))
    try:
        whole = _once(work, [args.recipe, *args.set], lambda: _whole(args.recipe, args.set, work / "whole"))
        killed, differing = {"moments": list[Any](), "seconds": 0.0}, list[str]()
        first = artifacts(work / "whole")
        if args.kills:
            killed = _killed(args.recipe, args.set, work / "killed", args.kills, args.seed, whole["seconds"])
            second = artifacts(work / "killed")
            differing = sorted(name for name in first | second if first.get(name) != second.get(name))
    finally:
        if args.work is None:
            shutil.rmtree(work, ignore_errors=True)
    result = results.stamp() | {
        "study": "journey",
        "settings": {"recipe": args.recipe, "set": list(args.set), "kills": args.kills, "seed": args.seed},
        **whole,
        "killed": killed,
        "artifacts": len(first),
        "differing": differing,
    }
    results.write(args.out, "-".join(["journey", args.recipe, *(["short"] if args.set else [])]), result)
    print(table([result]))
    if differing:
        raise GateFailed(f"after {args.kills} kills these artifacts are others: {', '.join(differing)}")
    return 0


def _once(work: Path, of: Sequence[str], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured in this folder before, or now: a run that is finished would be skipped, not timed.

    Raises:
        MobileClipError: the folder is another journey's.
    """
    path = work / "whole.json"
    if not path.exists():
        results.write(work, path.stem, {"of": list(of), "measured": measure()})
    kept = json.loads(path.read_text(encoding="utf-8"))
    if kept["of"] != list(of):
        raise MobileClipError(f"{work} holds the journey {' '.join(kept['of'])}: name another folder as --work.")
    found: dict[str, Any] = kept["measured"]
    return found


def _command(recipe: str, items: Sequence[str], out: Path) -> list[str]:
    chosen = ["--set", *items] if items else []
    return [sys.executable, "-m", "mobileclip.cli", "build", recipe, "--out", str(out), "--json", *chosen]


def _started(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _whole(recipe: str, items: Sequence[str], out: Path) -> dict[str, Any]:
    """Seconds, those of each step, and the most memory of a run that nothing disturbs."""
    start = time.monotonic()
    child = _started(_command(recipe, items, out))
    most, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(_PAUSE):
            most[0] = max(most[0], memory(child.pid))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    code = child.wait()
    over.set()
    looking.join()
    if code:
        raise GateFailed(f"the journey ended with exit code {code}: see {out / 'log.txt'}")
    seconds = time.monotonic() - start
    return {"seconds": seconds, "steps": _seconds(out), "peak_bytes": most[0]}


def _seconds(out: Path) -> dict[str, float]:
    """Step -> seconds, in the order in which they ended."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (out / "steps").glob("*.json")]
    return {record["name"]: record["seconds"] for record in sorted(records, key=lambda record: record["ended"])}


def _killed(recipe: str, items: Sequence[str], out: Path, kills: int, seed: int, whole: float) -> dict[str, Any]:
    """Kill at random moments of the time that is left of a whole run, spread over it; then let it through."""
    rng, moments, start = random.Random(seed), list[dict[str, Any]](), time.monotonic()
    while len(moments) < kills:
        child = _started(_command(recipe, items, out))
        try:
            code = child.wait(rng.uniform(0.02, 0.2) * whole)
            if code:
                raise GateFailed(f"started again, the journey ended with exit code {code}: see {out / 'log.txt'}")
            break
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            states = {path.stem: json.loads(path.read_text())["state"] for path in (out / "steps").glob("*.json")}
            done = sum(state == "done" for state in states.values())
            inside = next((name for name, state in states.items() if state != "done"), "between two steps")
            moments.append({"done": done, "inside": inside})
    code = _started(_command(recipe, items, out)).wait()
    if code:
        raise GateFailed(f"after {len(moments)} kills the journey ended with exit code {code}: see {out / 'log.txt'}")
    return {"moments": moments, "seconds": time.monotonic() - start}


def artifacts(out: Path) -> dict[str, str]:
    """Bundle and file -> SHA-256, of every artifact of a run."""
    found = {}
    for manifest in sorted(out.glob("bundle*/manifest.json")):
        for entry in json.loads(manifest.read_text(encoding="utf-8"))["artifacts"]:
            found[f"{manifest.parent.name}/{entry['file']}"] = entry["sha256"]
    return found


def memory(root: int) -> int:
    """PSS of a process and all that it started, in bytes; what ends while one looks counts for nothing."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = Path("/proc", name, "stat").read_text()
            except OSError:
                continue
            parents[int(name)] = int(text.rpartition(")")[2].split()[1])
    total, family = 0, {root}
    for pid in sorted(parents):  # children begin after their parents, and mostly have higher numbers
        if parents[pid] in family:
            family.add(pid)
    for pid in family:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def table(kept: Sequence[Mapping[str, Any]]) -> str:
    """A line a recipe."""
    head, lines = ["journey", "time", "of it", "peak memory", "killed", "artifacts that are the same"], []
    for result in kept:
        longest = sorted(result["steps"].items(), key=lambda item: -item[1])[:4]
        parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in longest)
        name = result["settings"]["recipe"] + (", shortened" if result["settings"]["set"] else "")
        kills = len(result["killed"]["moments"])
        same = f"{result['artifacts'] - len(result['differing'])} of {result['artifacts']}" if kills else "–"
        memory_used = f"{result['peak_bytes'] / 1e9:.1f} GB"
        lines.append([name, f"{result['seconds'] / 60:.1f} min", parts, memory_used, f"{kills} times", same])
    return results.markdown(head, lines)
