"""What the journey takes: memory of a family of processes, artifacts by their hash, the table."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import journey
from mobileclip.errors import MobileClipError

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from /proc")


def test_memory_is_that_of_a_process_and_its_children() -> None:
    child = "import sys; held = bytearray(b'1') * 60_000_000; print(flush=True); sys.stdin.read()"
    parent = (
        "import subprocess, sys; held = bytearray(b'1') * 90_000_000;"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=sys.stdin); child.wait()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        running.stdout.readline()
        found = journey.memory(running.pid)
        running.communicate("")
    assert 150e6 < found < 220e6
    assert journey.memory(running.pid) == 0


def test_artifacts_are_known_by_bundle_and_file(tmp_path: Path) -> None:
    for bundle in ("bundle", "bundle-small", "other"):
        (tmp_path / bundle).mkdir()
        entry = {"file": "image.onnx", "sha256": bundle}
        (tmp_path / bundle / "manifest.json").write_text(json.dumps({"artifacts": [entry]}))
    assert journey.artifacts(tmp_path) == {
        "bundle/image.onnx": "bundle",
        "bundle-small/image.onnx": "bundle-small",
    }


def test_a_run_that_is_finished_is_not_timed_again(tmp_path: Path) -> None:
    times = iter([300.0, 2.0])
    for _ in range(2):
        assert journey._once(tmp_path, ["quickstart"], lambda: {"seconds": next(times)}) == {"seconds": 300.0}
    with pytest.raises(MobileClipError, match=r"holds the journey quickstart: name another folder as --work\.$"):
        journey._once(tmp_path, ["quickstart", "scenes=9"], lambda: {"seconds": next(times)})


def test_the_table_tells_what_was_not_done() -> None:
    kept = {
        "settings": {"recipe": "quickstart", "set": []},
        "seconds": 300.0,
        "steps": {"train": 60.0, "bundle": 90.0},
        "peak_bytes": 3_000_000_000,
        "killed": {"moments": [], "seconds": 0.0},
        "artifacts": 12,
        "differing": [],
    }
    assert "| quickstart | 5.0 min | bundle 90 s, train 60 s | 3.0 GB | 0 times | – |" in journey.table([kept])
    short = kept | {"settings": {"recipe": "quickstart", "set": ["scenes=9"]}, "differing": ["bundle/image.onnx"]}
    short |= {"killed": {"moments": [{}] * 10, "seconds": 1.0}}
    assert journey.table([short]).endswith(
        "| quickstart, shortened | 5.0 min | bundle 90 s, train 60 s | 3.0 GB | 10 times | 11 of 12 |"
    )
