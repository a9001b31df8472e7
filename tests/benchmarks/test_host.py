"""Timing on the host: interleaved, proved right first, told whole. No time is asserted."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import benchmarks
from benchmarks import limits, results
from benchmarks.timing import interleave, ratio_of_medians
from export.views import make_views
from mobileclip.errors import GateFailed, MobileClipError, UnknownName
from mobileclip.fuse import fuse
from mobileclip.models import Clip


def test_order_is_abba() -> None:
    calls: list[str] = []
    a, b = interleave(lambda: calls.append("a"), lambda: calls.append("b"), runs=4, warmup_s=0, warmup_runs=3)
    assert "".join(calls) == "aaabbb" + "abba" * 2
    assert len(a) == len(b) == 4
    assert min(a + b) >= 0


def test_ratio_and_its_interval() -> None:
    generator = np.random.default_rng(1)
    a, b = 10 + generator.normal(0, 0.1, 50), 25 + generator.normal(0, 0.1, 50)
    ratio = ratio_of_medians(tuple(a), tuple(b))
    assert ratio.value == pytest.approx(2.5, rel=0.02)
    assert ratio.low < ratio.value < ratio.high
    wide = ratio_of_medians(tuple(a[:5] * [1, 2, 3, 1, 2]), tuple(b[:5]))
    assert wide.high - wide.low > ratio.high - ratio.low


def test_measure_against_naive_and_models(nano_bundle: Path, tmp_path: Path) -> None:
    for against, name in (("naive", "naive"), ("onnx", "nano image onnx"), ("nano-swin", "nano_swin")):
        found = benchmarks.measure(
            nano_bundle, against=against, targets=["executorch-xnnpack"], runs=3, out=tmp_path, cache=tmp_path / "cache"
        )
        (result,) = found
        assert name in result["b"]["name"]
        assert result["a"]["delegates"] == 1
        assert len(result["a"]["steady_ms"]) == len(result["b"]["steady_ms"]) == 3
        assert result["a"]["parity"]["db"] > 90
        assert result["ratio"]["low"] <= result["ratio"]["value"] <= result["ratio"]["high"]
        assert result["gemm_ms"] > 0
        assert {"load_ms", "first_ms", "p50_ms", "p90_ms", "p99_ms"} <= set(result["b"])
    naive = next((tmp_path / "cache").glob("naive-*.json"))
    assert json.loads(naive.read_text())["delegates"] > 1, (
        "the naive export fell into one piece: check what it measures"
    )
    written = results.read(
        [tmp_path / f"nano-image-executorch-xnnpack-against-nano-image-onnx-{os.cpu_count()}-threads.json"]
    )
    assert written[0]["schema"] == results.SCHEMA_VERSION
    row = results.table(written).split("\n")[2]
    assert row.startswith(f"| nano image executorch-xnnpack | nano image onnx | {os.cpu_count()} | 1 / – |")


def test_a_wrong_artifact_has_no_latency(nano_bundle: Path, tmp_path: Path) -> None:
    import shutil

    import export
    from export import manifest

    other = export.export("seeded:nano:1", ["onnx"], tmp_path / "other")
    shutil.copytree(nano_bundle, tmp_path / "copy")
    shutil.copy(other / "image.onnx", tmp_path / "copy" / "image.onnx")
    path = tmp_path / "copy" / "manifest.json"
    content = json.loads(path.read_text())
    for entry in content["artifacts"]:
        entry["sha256"] = manifest.sha256_of(tmp_path / "copy" / entry["file"])
    path.write_text(json.dumps(content))
    with pytest.raises(GateFailed, match=r"gives a wrong known answer here .* a wrong artifact has no latency"):
        benchmarks.measure(tmp_path / "copy", against="executorch-xnnpack", targets=["onnx"], runs=2)


def test_gemm_products_are_all_of_the_macs(nano: Clip) -> None:
    view = make_views(fuse(nano))["image"]  # type: ignore[arg-type]
    found = limits.products(view)
    assert found[(1, 256, 32)] == 1  # the head: one row, 2 x 128 channels, 32 outputs
    assert limits.macs(found) == sum(m * k * n * c for (m, k, n), c in found.items())
    assert limits.gemm_floor_ms(found, threads=1, repeats=3) > 0


def test_mistakes(nano_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown baseline 'swin_x': did you mean 'swin_"):
        benchmarks.measure(nano_bundle, against="swin_x", runs=2)
    with pytest.raises(UnknownName, match="unknown device 'phone'"):
        benchmarks.measure(nano_bundle, device="phone")
    with pytest.raises(MobileClipError, match="holds nothing to time on a host for coreml"):
        benchmarks.measure(nano_bundle, targets=["coreml"])


def test_results_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MobileClipError, match="no results there: measure with"):
        results.read([tmp_path])
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(MobileClipError, match="is no result"):
        results.read([tmp_path])
    (tmp_path / "a.json").write_text('{"schema": 9}')
    with pytest.raises(MobileClipError, match="is a result of schema version 9, this version reads 1: measure again"):
        results.read([tmp_path])


def test_table_goes_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"above\n{results.START}\nold\n{results.END}\nbelow\n")
    results.insert(page, "| new |")
    assert page.read_text() == f"above\n{results.START}\n\n| new |\n\n{results.END}\nbelow\n"
    page.write_text("nothing")
    with pytest.raises(MobileClipError, match="has no lines '<!-- results"):
        results.insert(page, "| new |")
