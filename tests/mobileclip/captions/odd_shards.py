"""Shards for tests of the engine, and what can be said of a folder of caption work."""

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mobileclip.captions.plan import Plan, plan_of
from mobileclip.captions.recipe import build

HERE = Path(__file__).parent
STAGES: Sequence[Mapping[str, Any]] = (
    {"kind": "odd_stages:Shout", "name": "shout"},
    {"kind": "odd_stages:Brightness", "name": "brightness"},
    {"kind": "odd_stages:Deadly", "name": "deadly"},
    {"kind": "odd_stages:Share", "name": "share"},
)
"""Texts, pictures, what dies of certain captions, and one that looks at all shards."""


def texts_tar(path: Path, texts: Iterable[tuple[str, str]]) -> Path:
    """A shard of captions without pictures: (key, caption)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, text in texts:
            info = tarfile.TarInfo(f"{key}.txt")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


def many(folder: Path, shards: int, rows: int = 20, **said: str) -> Path:
    """Shards of numbered captions; `said` replaces some, as `s3_7="exit"`: of shard 3, row 7."""
    for shard in range(shards):
        texts = [(f"{row:06d}", said.get(f"s{shard}_{row}", f"text {shard} {row}")) for row in range(rows)]
        texts_tar(folder / f"{shard:05d}.tar", texts)
    return folder


def planned(shards: Any, out: Path, *names: str, **options: Any) -> Plan:
    """A plan of `STAGES` or some of them; `options` as `deadly_at_load="exit"`."""
    entries = [dict(entry) for entry in STAGES if not names or entry["name"] in names]
    for entry in entries:
        start = f"{entry['name']}_"
        entry.update({name.removeprefix(start): value for name, value in options.items() if name.startswith(start)})
    return plan_of(build("odd", entries), shards, out)


def print_of(folder: Path) -> dict[str, Any]:
    """All that counts in a folder of caption work: bytes of side-cars, and notes but for who made them when."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.parquet")):
        found[str(path.relative_to(folder))] = path.read_bytes()
    for path in sorted(folder.rglob("*.done.json")):
        note = json.loads(path.read_bytes())
        del note["made"]
        found[str(path.relative_to(folder))] = note
    return found


DRIVER = """
import sys
from pathlib import Path
import odd_shards
from mobileclip.captions import engine
if __name__ == "__main__":
    shards, out, seconds, kind, address = sys.argv[1:]
    plan = odd_shards.planned([Path(shards)], Path(out), "shout", "share", shout_seconds=float(seconds))
    engine.run(plan, engine=kind, jobs=2, address=address or None)
"""


def driver(
    shards: Path, out: Path, *, seconds: float, engine: str = "local", address: str = ""
) -> "subprocess.Popen[bytes]":
    """A process that runs the stages on two workers; each batch takes `seconds`."""
    script = out.parent / "driver.py"
    script.write_text(DRIVER)
    paths = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(script), str(shards), str(out), str(seconds), engine, address]
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def below(pid: int) -> dict[int, str]:
    """Processes that a process started, and that these started: id -> command."""
    listed = subprocess.run(["ps", "-wweo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    parents, commands = {}, {}
    for line in listed.splitlines():
        one, parent, command = line.split(None, 2)
        parents[int(one)], commands[int(one)] = int(parent), command
    found: dict[int, str] = {}
    level = [pid]
    while level:
        level = [one for one, parent in parents.items() if parent in level]
        found.update({one: commands[one] for one in level if not commands[one].startswith("ps -wweo")})
    return found


def gone(pids: Iterable[int], seconds: float = 20.0) -> bool:
    """Whether processes end within some time."""
    stop, left = time.monotonic() + seconds, set(pids)
    while left and time.monotonic() < stop:
        left = {pid for pid in left if _lives(pid)}
        time.sleep(0.05)
    return not left


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
