"""The study of what the runner adds, on a tiny program and a real adbd."""

import dataclasses
import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks import adbd, android, runner_overhead
from benchmarks.protocol import Plan, Subject
from benchmarks.subjects import subject
from export.manifest import Bundle
from mobileclip.errors import GateFailed

real = pytest.mark.skipif(adbd.why_not() is not None, reason=f"no real adbd: {adbd.why_not()}")


@real
def test_the_study_is_measured_and_told(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_overhead, "CACHE", tmp_path)
    # 400 runs of a fifth of a millisecond: most of them fit between two of the scheduler's interruptions
    options = ["--rounds", "2", "--runs", "400", "--out", str(tmp_path / "out")]
    assert runner_overhead.main([str(nano_bundle), *options]) == 0
    (file,) = (tmp_path / "out").glob("*.json")
    found = json.loads(file.read_text())
    assert found["study"] == "runner_overhead"
    assert len(found["runner_p50_ms"]) == len(found["python_p50_ms"]) == 2
    # a busy computer takes the processor between two runs as well: the bounds are those of something broken
    assert 0 <= found["loop_overhead"] < 0.5
    assert 0.3 < found["cpu_agreement"] < 2
    # the input's copy and the module's checks: microseconds, which only a program this small shows
    microseconds = 1000 * (np.median(found["runner_p50_ms"]) - np.median(found["bare_p50_ms"]))
    assert microseconds < 100
    assert f"| {found['artifact']} | 1 |" in capsys.readouterr().out


@real
def test_a_runner_that_disagrees_with_python_ends_it(
    nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = subject(Bundle.open(nano_bundle), "image", runner_overhead.TARGET, tmp_path)
    run = android.Android.run

    def other_input(self: android.Android, subjects: Sequence[Subject], plan: Plan, *, bare: bool) -> android.Run:
        changed = [dataclasses.replace(item, feed=item.feed * 0.5, expected=[]) for item in subjects]
        return run(self, changed, plan, bare=bare)

    monkeypatch.setattr(android.Android, "run", other_input)
    args = Namespace(serial=None, rounds=1, runs=2, threads=1)
    with adbd.device() as here:
        phone = android.find(here.serial)
        with pytest.raises(GateFailed, match="the runner's outputs are not those of Python's runtime, bit for bit"):
            runner_overhead._measured(phone, chosen, args)


def test_figures_and_table() -> None:
    rounds = [{"runner": [2.0, 2.02, 2.04], "bare": [2.0] * 3, "python": [2.0] * 6}] * 2
    figures = runner_overhead._figures(rounds, [0.001, 0.003], {"runner": [1.0, 1.0], "python": [1.0, 0.8]})
    assert figures["call_overhead"] == pytest.approx(0.01)
    assert figures["loop_overhead"] == pytest.approx(0.002)
    assert figures["agreement"] == pytest.approx(1.01)
    assert figures["cpu_agreement"] == pytest.approx(1.125)
    assert figures["spread"] == 0
    row = runner_overhead.table([{"artifact": "a", "threads": 1, **figures}]).splitlines()[-1]
    assert row == "| a | 1 | +1.00 % | +0.20 % | 0.0 % | 2.02 | 2.00 | 1.010 | 1.125 |"
    phone = {
        key: value for key, value in figures.items() if not key.startswith(("python", "agreement", "cpu_agreement"))
    }
    assert runner_overhead.table([{"artifact": "a", "threads": 4, **phone}]).endswith("| 2.02 | – | – | – |")
