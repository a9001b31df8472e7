"""One measurement as JSON, and tables made of many: nothing in a report is written by hand."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mobileclip.errors import MobileClipError

SCHEMA_VERSION = 1
START, END = "<!-- results: made by `mobileclip report` -->", "<!-- /results -->"
"""Between these lines of a Markdown file the table is written."""


def machine() -> dict[str, Any]:
    """This machine, as far as it can be told."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    return {"device": "host", "cpu": cpu, "cores": os.cpu_count(), "os": platform.platform(), "thermal": None}


def commit() -> str | None:
    """The commit of the checkout that this runs from, with `+` when files differ from it; None outside of one."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def stamp() -> dict[str, Any]:
    """What every result carries: schema, date, commit and machine."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"schema": SCHEMA_VERSION, "date": now, "commit": commit(), "machine": machine()}


def write(folder: Path, name: str, result: Mapping[str, Any]) -> Path:
    """Write one result, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return path


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Results from files and folders.

    Raises:
        MobileClipError: no result, or one that is broken or of another schema version.
    """
    files = [file for path in paths for file in (sorted(path.rglob("*.json")) if path.is_dir() else [path])]
    results = []
    for file in files:
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MobileClipError(
                f"{file} is no result ({error}): give files that `mobileclip bench` wrote."
            ) from error
        version = result.get("schema") if isinstance(result, dict) else None
        if version != SCHEMA_VERSION:
            raise MobileClipError(
                f"{file} is a result of schema version {version!r}, this version reads {SCHEMA_VERSION}: measure again."
            )
        results.append(result)
    if not results:
        raise MobileClipError("no results there: measure with `mobileclip bench` first.")
    return results


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Comparisons as a Markdown table, one row each; delegates and loose compute operators of both sides."""
    return "\n".join(["| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS), *map(_row, results)])


_COLUMNS = (
    "artifact",
    "against",
    "threads",
    "delegates",
    "p50 ms",
    "against p50 ms",
    "times as fast",
    "95 % interval",
    "× GEMM limit",
)


def _row(result: Mapping[str, Any]) -> str:
    a, b, ratio, limit = result["a"], result["b"], result["ratio"], result["gemm_ms"]
    cells = (
        a["name"],
        b["name"],
        str(result["threads"]),
        f"{_count(a)} / {_count(b)}",
        f"{a['p50_ms']:.0f}",
        f"{b['p50_ms']:.0f}",
        f"**{ratio['value']:.2f}**",
        f"{ratio['low']:.2f}–{ratio['high']:.2f}",
        f"{a['p50_ms'] / limit:.2f}",
    )
    return "| " + " | ".join(cells) + " |"


def _count(side: Mapping[str, Any]) -> str:
    if side["delegates"] is None:
        return "–"
    loose = sum(item["count"] for item in side["loose"] if item["compute"])
    return f"{side['delegates']}" + (f" + {loose} loose" if loose else "")


def insert(file: Path, text: str, start: str = START, end: str = END) -> None:
    """Replace what stands between the marks of a Markdown file.

    Raises:
        MobileClipError: the file has no marks.
    """
    content = file.read_text(encoding="utf-8")
    if start not in content or end not in content:
        raise MobileClipError(f"{file} has no lines '{start}' and '{end}': put them where the table belongs.")
    before, rest = content.split(start, 1)
    temporary = file.with_suffix(file.suffix + ".partial")
    temporary.write_text(before + start + "\n\n" + text + "\n\n" + end + rest.split(end, 1)[1], encoding="utf-8")
    os.replace(temporary, file)
