"""Results as files, as a table, and as a page."""

import copy
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import report, report_plots, results
from benchmarks.measure import completed
from benchmarks.protocol import Plan, added_memory, checked, filled, in_rounds, model_bench, percentiles
from benchmarks.published import PUBLISHED, published
from mobileclip.config import MODELS
from mobileclip.errors import MobileClipError

TARGETS = ("onnx", "executorch-xnnpack", "executorch-coreml", "executorch-vulkan", "coreml")
DEVICES = {"host": "host, Linux x86_64", "android": "Pixel 9", "iphone": "iPhone 17 Pro"}


def made(kind: str, names: list[str], seed: int, *, runs: int = 200) -> dict[str, Any]:
    """A result as a device hands it back: whole in form, its samples drawn, for what becomes of results."""
    generator = np.random.default_rng(seed)
    sides = []
    for index, name in enumerate(names):
        middle = 3.0 + 40 * generator.random() + 30 * index
        sides.append(
            {
                "name": name,
                "sha256": f"{seed:032x}{index:032x}",
                "bytes": int(1e7 + 1e8 * generator.random()),
                "runtime": {"name": "executorch", "version": "1.5.1", "provider": "xnnpack", "threads": 4},
                "known_answer": {"right": True, "db": 101.0, "cosine": 1.0, "max_error": 1e-6},
                "load_ms": 20.0,
                "first_ms": 2 * middle,
                "steady_ms": (middle * generator.lognormal(0, 0.05, runs)).tolist(),
                "end_to_end": {"ms": [middle + 4] * 20, "reason": None},
                "sustained_ms": [1.3 * middle] * 30,
                "model_bench": {"mean_ms": middle, "reloaded": False},
                "memory": {"peak_bytes": 300_000_000},
            }
        )
    return {
        "schema": 2,
        "date": "2026-11-30T12:00:00+00:00",
        "device": {
            "kind": kind,
            "name": DEVICES[kind],
            "model": "maker model",
            "soc": None,
            "os": "system 1",
            "cores": 8,
            "memory_bytes": 8 << 30,
        },
        "protocol": {
            "order": "ABBA",
            "runs": 200,
            "seconds": 10.0,
            "warmup_runs": 10,
            "warmup_s": 1.0,
            "threads": 4,
            "process": "runner",
        },
        "thermal": [
            {"when": "before", "status": "nominal", "headroom": 0.4, "celsius": 31.0},
            {"when": "during", "status": "light", "headroom": 0.8, "celsius": 36.5},
            {"when": "cooling", "status": "light", "headroom": None, "celsius": 35.0},
        ],
        "sides": sides,
        "state": "complete",
        "problem": None,
    }


def matrix() -> list[dict[str, Any]]:
    """2 encoders x 5 targets x 3 precisions x 3 devices, each against the other encoder."""
    found = []
    for number, kind in enumerate(DEVICES):
        for target in TARGETS:
            for precision in ("fp32", "fp16", "w8a8"):
                names = [f"{model} image {target} {precision}" for model in ("mobileclip_s2", "swin_l")]
                found.append(filled(checked(made(kind, names, len(found) + 1000 * number), "made")))
    return found


def test_a_full_matrix_is_rendered_quickly_and_loads_nothing(tmp_path: Path) -> None:
    found = matrix()
    assert sum(len(result["sides"]) for result in found) == 90
    start = time.process_time()
    page = report.write(found, tmp_path / "latency.html")
    took = time.process_time() - start
    print(f"90 artifacts in {took:.2f} s of CPU time, {page.stat().st_size:,} bytes")
    text = page.read_text()
    assert "<script" not in text
    assert 'src="http' not in text
    assert "default-src &#x27;none&#x27;" in text
    for word in ("mobileclip_s2 image coreml fp16", "iPhone 17 Pro", "They predict no phone", "ModelBench", "3.6"):
        assert word in text


def test_the_page_fits_a_phone_in_a_real_browser(tmp_path: Path) -> None:
    browser = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium here")
    page = report.write(matrix(), tmp_path / "latency.html")
    measured = tmp_path / "measure.html"
    measured.write_text(
        f'<iframe src="{page.name}" width="400" height="800" onload="document.title='
        "this.contentDocument ? this.contentDocument.documentElement.scrollWidth : 'closed'\"></iframe>"
    )
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--disable-background-networking", "--dump-dom"]
    done = subprocess.run([*command, measured.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    told = re.search(r"<title>(\d+)</title>", done.stdout)
    assert told is not None, done.stdout
    assert int(told[1]) <= 400, "the page is wider than a phone"


def test_what_is_wrong_or_short_is_told(tmp_path: Path) -> None:
    wrong = made("android", ["nano image executorch-xnnpack fp32"], 1)
    wrong["sides"][0] |= {
        "steady_ms": [],
        "known_answer": {"right": False, "db": -3.0},
        "end_to_end": {"ms": [], "reason": "x"},
    }
    wrong |= {"state": "wrong", "problem": "nano gives a wrong known answer: a wrong artifact has no latency."}
    short = made("host", ["a image onnx fp32", "b image onnx fp32"], 2, runs=20)
    short["protocol"] |= {"runs": 20}
    short |= {"state": "partial", "problem": "The device went away after 20 runs."}
    page = report.write([filled(wrong), filled(short)], tmp_path / "page.html").read_text()
    for word in ("WRONG", "a wrong artifact has no latency", "The device went away after 20 runs", "1 of 2 runs asked"):
        assert word in page
    table = results.table([filled(wrong), filled(short)])
    assert "a wrong artifact has no latency" in table


def test_hostile_names_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    result = made("android", ["<script>alert(1)</script>"], 3)
    result["device"]["name"] = '"><img src=x onerror=alert(1)>'
    page = report.write([filled(checked(result, "it"))], tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "<img" not in page


def test_published_figures_stand_apart() -> None:
    told = published("mobileclip_s2", "image")
    assert told is not None
    assert told.ms == 3.6
    assert {model for model, _ in PUBLISHED} <= set(MODELS)
    row = results.table([filled(made("iphone", ["mobileclip_s2 image coreml fp16"], 4))]).splitlines()[-1]
    assert row.endswith("| 3.6 |")


def test_modelbench_drops_the_lowest_and_highest_of_each_round() -> None:
    rounds = [[float(value) for value in range(50)], [100.0 + value for value in range(50)]]
    assert model_bench(rounds) == pytest.approx((24.5 + 124.5) / 2)
    assert model_bench([[1.0] * 49]) is None
    assert [len(part) for part in in_rounds(range(149))] == [50, 50]
    assert percentiles([]) == {}


def test_a_device_without_a_driver_is_read_as_well() -> None:
    result = filled(checked(made("iphone", ["nano image coreml fp16", "nano text coreml fp16"], 5), "it"))
    side = result["sides"][0]
    assert (side["model"], side["view"], side["target"], side["precision"]) == ("nano", "image", "coreml", "fp16")
    assert side["ms"]["p50"] == pytest.approx(float(np.median(side["steady_ms"])))
    assert result["ratios"][0]["b"] == 1
    assert result["protocol"]["whole"] is True


def test_the_front_has_what_nothing_beats() -> None:
    points = [("a", 1.0, 9.0), ("b", 2.0, 4.0), ("c", 3.0, 5.0), ("d", 4.0, 1.0)]
    assert [point[0] for point in report_plots._front(points)] == ["a", "b", "d"]
    assert report_plots.scatter(points[:1], "x", "y", "t") == ""


def test_results_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MobileClipError, match="nowhere does not exist: give files and folders that `mobileclip bench`"):
        results.read([tmp_path / "nowhere"])
    with pytest.raises(MobileClipError, match="no results there: measure with"):
        results.read([tmp_path])
    file = tmp_path / "a.json"
    file.write_text("{")
    with pytest.raises(MobileClipError, match="is no result"):
        results.read([tmp_path])
    for version in (1, 3):
        file.write_text(json.dumps(made("host", ["a b c d"], 1) | {"schema": version}))
        told = f"is a result of schema version {version}, this version reads 2: measure again with the runner, page or"
        with pytest.raises(MobileClipError, match=told):
            results.read([tmp_path])
    broken = copy.deepcopy(made("host", ["a b c d"], 1))
    broken["sides"][0]["steady_ms"] = ["fast"]
    file.write_text(json.dumps(broken))
    with pytest.raises(MobileClipError, match="is no whole result: at sides/0/steady_ms/0, 'fast' is not of type 'num"):
        results.read([tmp_path])
    file.write_text('{"schema": 9, "study": "loader"}')
    with pytest.raises(MobileClipError, match="is a study of schema version 9, this version reads 1: measure again"):
        results.read([tmp_path])
    with pytest.raises(MobileClipError, match="there is no latency among these results: measure with"):
        report.write([], tmp_path / "page.html")


def test_table_goes_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"above\n{results.START}\nold\n{results.END}\nbelow\n")
    results.insert(page, "| new |")
    assert page.read_text() == f"above\n{results.START}\n\n| new |\n\n{results.END}\nbelow\n"
    page.write_text("nothing")
    with pytest.raises(MobileClipError, match="has no lines '<!-- results"):
        results.insert(page, "| new |")


def test_what_the_driver_adds_comes_from_the_manifest(nano_bundle: Path, tmp_path: Path) -> None:
    from benchmarks.subjects import subjects_of
    from export.manifest import Bundle

    subjects = subjects_of(Bundle.open(nano_bundle, hashes=False), "adb", ["executorch-xnnpack"], ["image"], tmp_path)
    result = completed(made("android", ["whatever"], 6), subjects, Plan(runs=5))
    side = result["sides"][0]
    assert side["name"] == "nano image executorch-xnnpack fp32"
    assert side["delegates"] == 1
    assert result["protocol"]["whole"] is False
    checked(result, "it")


def test_what_iphones_hand_back_is_in_the_table_and_on_the_page(tmp_path: Path) -> None:
    recorded = Path(__file__).parent / "recorded"
    found = results.read([recorded])
    assert len(found) == len(list(recorded.glob("*.json")))
    assert {result["device"]["kind"] for result in found} == {"iphone"}
    page = report.write(found, tmp_path / "page.html").read_text()
    assert "compares no outputs" in page, "coremltools' benchmarker proves nothing, and the page says so"
    assert "iPhone" in results.table(found)


def test_memory_is_what_the_artifact_adds_where_that_is_known() -> None:
    assert added_memory({"memory": {"start_bytes": 300, "peak_bytes": 1000}}) == 700
    assert added_memory({"memory": {"start_bytes": None, "peak_bytes": 1000}}) == 1000
    assert added_memory({"memory": {"peak_bytes": None}}) is None
