"""The rows of one screen: each from its result and no other, and none without one."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results, summary

KEPT = Path(results.__file__).with_name("results")


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    return results.read([KEPT])


def test_no_result_has_no_row() -> None:
    assert len(summary.table([]).splitlines()) == len(summary.limits([]).splitlines()) == 2


def test_a_figure_is_that_of_its_result(found: list[dict[str, Any]]) -> None:
    (step,) = [result for result in found if result.get("study") == "step"]
    assert f"**{step['ratio']['value']:.2f} ×**" in summary.table(found)
    changed = copy.deepcopy(step)
    changed["ratio"] = {"value": 3.25, "low": 3.0, "high": 3.5}
    (row,) = summary.table([changed]).splitlines()[2:]
    assert "| **3.25 ×** (3.00–3.50) as fast | `python -m benchmarks step` |" in row


def test_a_gate_that_was_missed_is_told() -> None:
    result = json.loads((KEPT / "quantise" / "dense-segmentation-w8a8.json").read_text(encoding="utf-8"))
    result["rows"][0] |= {"passed": False, "numbers": {"labels": 0.5, "labels_equal": 0.875}}
    assert "0.500, 87.50%" in summary.limits([result])
    result["rows"][0]["passed"] = True
    assert len(summary.limits([result]).splitlines()) == 2


def test_rates_below_what_was_asked_for_are_told(found: list[dict[str, Any]]) -> None:
    (text,) = [result for result in found if result.get("study") == "captions_text"]
    low = [name for name, rate in summary._rates(text).items() if rate < text["target"]]
    told = summary.limits([text])
    assert len(told.splitlines()) == 2 + len(low)
    assert all(name in told for name in low)
