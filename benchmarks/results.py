"""One measurement as JSON, and tables made of many: nothing in a report is written by hand."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import protocol
from benchmarks.published import published
from mobileclip.errors import MobileClipError

STUDY_VERSION = 1
"""Of what `python -m benchmarks STUDY` writes; latencies have protocol.SCHEMA_VERSION."""
START, END = "<!-- results: made by `mobileclip report` -->", "<!-- /results -->"
"""Between these lines of a Markdown file the table is written."""
MAX_RESULT = 64 << 20
"""Largest file that is read, in bytes."""


def cpuinfo() -> dict[str, str]:
    """What Linux says of its last core; nothing elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, sign, value in pairs if sign}


def machine() -> dict[str, Any]:
    """This machine, as far as it can be told."""
    cpu = cpuinfo().get("model name") or platform.processor() or platform.machine()
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
    """What every study's result carries: schema, date, commit and machine."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"schema": STUDY_VERSION, "date": now, "commit": commit(), "machine": machine()}


def write(folder: Path, name: str, result: Mapping[str, Any]) -> Path:
    """Write one result, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return path


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Results from files and folders, of latency and of studies (those have a `study`).

    Raises:
        MobileClipError: no result, or one that is broken or of another schema version.
    """
    paths = list(paths)
    missing = next((path for path in paths if not path.exists()), None)
    if missing is not None:
        raise MobileClipError(f"{missing} does not exist: give files and folders that `mobileclip bench` wrote.")
    files = [file for path in paths for file in (sorted(path.rglob("*.json")) if path.is_dir() else [path])]
    found = [_read(file) for file in files]
    if not found:
        raise MobileClipError("no results there: measure with `mobileclip bench` first.")
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_RESULT:
            raise ValueError(f"{file.stat().st_size:,} bytes, at most {MAX_RESULT:,} are read")
        result = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MobileClipError(f"{file} is no result ({error}): give files that `mobileclip bench` wrote.") from error
    if isinstance(result, dict) and "predict" in result and "schema" not in result:
        from benchmarks.iphone_results import read_harness  # coremltools' benchmarker, kept on a Mac

        return protocol.filled(read_harness(file))
    if not isinstance(result, dict) or "study" not in result:
        return protocol.filled(protocol.checked(result, str(file)))
    if result.get("schema") != STUDY_VERSION:
        raise MobileClipError(
            f"{file} is a study of schema version {result.get('schema')!r}, this version reads {STUDY_VERSION}: "
            "measure again."
        )
    return result


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table, or nothing without a line."""
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows]) if rows else ""


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Latency results as a Markdown table: a row for each comparison, and one for each artifact timed alone."""
    rows = [row for result in results for row in _rows(result)]
    return "\n".join(["| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS), *rows])


_COLUMNS = (
    "artifact",
    "against",
    "device",
    "threads",
    "delegates",
    "p50 ms",
    "against p50 ms",
    "times as fast",
    "95 % interval",
    "× GEMM limit",
    "published, iPhone 12 Pro Max, ms",
)


def _rows(result: Mapping[str, Any]) -> list[str]:
    sides = result["sides"]
    if result["state"] == "wrong" or not any(side["steady_ms"] for side in sides):
        return [_line(sides[0]["name"], "–", result, "–", result["problem"] or "nothing was timed")]
    if not result.get("ratios"):
        return [_line(side["name"], "–", result, delegates_of(side), *_times(side)) for side in sides]
    return [
        _line(
            sides[ratio["a"]]["name"],
            sides[ratio["b"]]["name"],
            result,
            f"{delegates_of(sides[ratio['a']])} / {delegates_of(sides[ratio['b']])}",
            *_times(sides[ratio["a"]], sides[ratio["b"]], ratio),
        )
        for ratio in result["ratios"]
    ]


def _line(name: str, against: str, result: Mapping[str, Any], *cells: str) -> str:
    told = [name, against, result["device"]["name"], str(result["protocol"]["threads"] or "–"), *cells]
    return "| " + " | ".join([*told, *["–"] * (len(_COLUMNS) - len(told))]) + " |"


def _times(
    side: Mapping[str, Any], other: Mapping[str, Any] | None = None, ratio: Mapping[str, Any] | None = None
) -> list[str]:
    told = published(side.get("model", ""), side.get("view", ""))
    floor = side.get("limits", {}).get("gemm_ms")
    return [
        _ms(side["ms"]["p50"]),
        "–" if other is None else _ms(other["ms"]["p50"]),
        "–" if ratio is None else f"**{ratio['value']:.2f}**",
        "–" if ratio is None else f"{ratio['low']:.2f}–{ratio['high']:.2f}",
        f"{side['ms']['p50'] / floor:.2f}" if floor else "–",
        "–" if told is None else f"{told.ms:g}",
    ]


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.3f}"


def delegates_of(side: Mapping[str, Any]) -> str:
    """Delegates of a side and the operators outside of them that compute; a dash where there are none to count."""
    if side.get("delegates") is None:
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
