import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import benchmarks
import export
from benchmarks import limits, results
from benchmarks.end_to_end import whole
from benchmarks.host import Host, memory_of
from benchmarks.protocol import Plan, checked, filled
from benchmarks.subjects import subject, subjects_of
from benchmarks.timing import alternate, interleave, ratio_of_medians
from export import manifest
from export.manifest import Bundle
from export.views import make_views
from mobileclip.errors import MobileClipError, UnknownName
from mobileclip.fuse import fuse
from mobileclip.models import Clip

SHORT = Plan(runs=3, seconds=0, warmup_runs=1, warmup_s=0, memory=False, end_to_end=False, threads=1)


def test_order_is_abba() -> None:
    calls: list[str] = []
    a, b = interleave(lambda: calls.append("a"), lambda: calls.append("b"), runs=4, warmup_s=0, warmup_runs=2)
    assert "".join(calls) == "aa" + "bb" + "abbaabba"
    assert len(a) == len(b) == 4


def test_every_side_has_its_runs_and_its_seconds() -> None:
    rounds: list[int] = []
    slow, quick = alternate(
        [lambda: time.sleep(0.004), lambda: None],
        runs=2,
        seconds=0.02,
        warmup_s=0,
        warmup_runs=1,
        between=lambda: rounds.append(1),
    )
    assert len(slow) == len(quick) == 2 * len(rounds)
    assert min(sum(slow), sum(quick)) >= 20, "a side was timed for less than was asked for"


def test_ratio_and_its_interval() -> None:
    generator = np.random.default_rng(0)
    a = tuple(10 + generator.normal(0, 0.3, 60))
    b = tuple(25 + generator.normal(0, 0.6, 60))
    ratio = ratio_of_medians(a, b)
    assert ratio.value == pytest.approx(2.5, rel=0.02)
    assert ratio.low < ratio.value < ratio.high
    wide = ratio_of_medians(tuple(np.array(a[:5]) * [1, 2, 3, 1, 2]), tuple(b[:5]))
    assert wide.high - wide.low > ratio.high - ratio.low


def test_measure_against_naive_and_models(nano_bundle: Path, tmp_path: Path) -> None:
    for against, name in (("naive", "naive"), ("onnx", "nano image onnx fp32"), ("nano-swin", "nano_swin")):
        (result,) = benchmarks.measure(
            nano_bundle,
            against=against,
            targets=["executorch-xnnpack"],
            plan=SHORT,
            out=tmp_path,
            cache=tmp_path / "cache",
        )
        a, b = result["sides"]
        assert name in b["name"]
        assert a["delegates"] == 1
        assert len(a["steady_ms"]) == len(b["steady_ms"]) == 4, "A B B A gives each side an even number"
        assert a["known_answer"]["right"] is True
        assert a["known_answer"]["db"] > 90
        (ratio,) = result["ratios"]
        assert ratio["low"] <= ratio["value"] <= ratio["high"]
        assert a["limits"]["gemm_ms"] > 0
        assert a["limits"]["macs"] > a["limits"]["gemm_macs"] > 0, "depthwise convolutions are no matrix products"
        assert result["roofline"]["gemm_gmacs_s"] > 0
        assert a["load_ms"] > 0
        assert a["first_ms"] > 0
        assert result["protocol"]["whole"] is False
        assert filled(checked(json.loads(json.dumps(result)), "it")) == json.loads(json.dumps(result))
    naive = next((tmp_path / "cache").glob("naive-*.json"))
    assert json.loads(naive.read_text())["delegates"] > 1, (
        "the naive export fell into one piece: check what it measures"
    )
    written = results.read(
        [tmp_path / "host-nano-image-executorch-xnnpack-fp32-against-nano-image-onnx-fp32-1-threads.json"]
    )
    row = results.table(written).split("\n")[2]
    assert row.startswith("| nano image executorch-xnnpack fp32 | nano image onnx fp32 | host, ")
    assert "| 1 | 1 / – |" in row


def test_one_alone_with_all_that_can_be_asked(nano_bundle: Path, tmp_path: Path) -> None:
    plan = Plan(runs=12, seconds=0, warmup_runs=1, warmup_s=0, threads=1, sustained_s=0.2, model_bench=True)
    (result,) = benchmarks.measure(
        nano_bundle, against=[], targets=["onnx"], plan=plan, by_operator=True, cache=tmp_path
    )
    (side,) = result["sides"]
    assert result["protocol"]["order"] == "A"
    assert result["ratios"] == []
    assert result["state"] == "complete"
    parts = [side["end_to_end"][f"{part}_ms"] for part in ("decode", "resize", "forward", "after")]
    assert side["end_to_end"]["ms"] == pytest.approx(np.sum(parts, axis=0).tolist())
    assert side["end_to_end"]["picture"] == [1280, 960]
    assert side["sustained_ms"]
    assert side["model_bench"]["reloaded"] is True
    assert len(side["model_bench"]["rounds_ms"]) == 20
    kept = [sorted(times)[10:-10] for times in side["model_bench"]["rounds_ms"]]
    assert side["model_bench"]["mean_ms"] == pytest.approx(np.mean(kept))
    assert side["memory"]["start_bytes"] < side["memory"]["peak_bytes"]
    assert {row["operator"] for row in side["operators"]} >= {"Conv", "Gelu"}
    assert all(row["block"] is not None for row in side["operators"])
    blocks = {row["block"] for row in side["operators"]}
    assert {"stem.0", "head"} <= blocks <= {row["block"] for row in side["blocks"]}
    assert side["accuracy"]["cosine"] > 0.999999


def test_a_text_view_begins_with_no_picture(nano_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(nano_bundle, hashes=False)
    (mine,) = subjects_of(bundle, "host", ["onnx"], ["text"], tmp_path)
    result = Host().measure([mine], Plan(runs=2, seconds=0, warmup_runs=1, warmup_s=0, memory=False))
    assert result["sides"][0]["end_to_end"] == {"ms": [], "reason": "a text view begins with no picture."}
    assert result["sides"][0]["known_answer"]["right"] is True


def test_end_to_end_of_a_dense_bundle(tmp_path: Path) -> None:
    out = export.export("seeded:nano+semfpn_phone@64", ["onnx"], tmp_path / "seg", labels=None)
    (mine,) = subjects_of(Bundle.open(out), "host", None, ["image"], tmp_path)
    assert mine.entry["view"] == "segmentation", "a dense bundle's own view is timed"
    from benchmarks.host import load

    found = whole(mine, load(mine, 1), SHORT)
    assert len(found["ms"]) == 10
    assert min(found["decode_ms"]) > 0
    assert min(found["after_ms"]) > 0


def test_memory_is_of_a_process_of_its_own(nano_bundle: Path, tmp_path: Path) -> None:
    mine = subject(Bundle.open(nano_bundle, hashes=False), "image", "executorch-xnnpack", tmp_path)
    found = memory_of(mine, 1)
    assert 0 < found["start_bytes"] < found["peak_bytes"] < 4 << 30  # type: ignore[operator]


def test_memory_of_a_bundle_that_is_named_from_another_folder(
    nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(nano_bundle.parent)
    mine = subject(Bundle.open(Path(nano_bundle.name), hashes=False), "image", "onnx", tmp_path)
    assert not mine.file.is_absolute()
    assert memory_of(mine, 1)["peak_bytes"]


def swapped(bundle: Path, file: str, other: Path, out: Path) -> Path:
    """A bundle whose `file` is another's, with hashes that fit."""
    shutil.copytree(bundle, out)
    shutil.copy(other / file, out / file)
    content = json.loads((out / "manifest.json").read_text())
    for entry in content["artifacts"]:
        entry["sha256"] = manifest.sha256_of(out / entry["file"])
    (out / "manifest.json").write_text(json.dumps(content))
    return out


def test_a_wrong_artifact_has_no_latency(nano_bundle: Path, tmp_path: Path) -> None:
    other = export.export("seeded:nano:1", ["onnx"], tmp_path / "other")
    copy = swapped(nano_bundle, "image.onnx", other, tmp_path / "copy")
    (result,) = benchmarks.measure(copy, against="executorch-xnnpack", targets=["onnx"], plan=SHORT, out=tmp_path / "r")
    assert result["state"] == "wrong"
    assert result["problem"].startswith("nano image onnx fp32 gives a wrong known answer here (")
    assert result["problem"].endswith(" dB): a wrong artifact has no latency.")
    assert [side["known_answer"]["right"] for side in result["sides"]] == [False, True]
    assert all(side["steady_ms"] == [] for side in result["sides"])
    (written,) = results.read([tmp_path / "r"])
    assert written["state"] == "wrong", "it is the result, and kept"
    assert "a wrong artifact has no latency" in results.table([written])


def test_interrupted_runs_are_kept(nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import host

    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(host, "whole", stop)  # a key pressed after the forward runs
    plan = Plan(runs=2, seconds=0, warmup_runs=1, warmup_s=0, memory=False)
    (result,) = benchmarks.measure(nano_bundle, against=[], targets=["onnx"], plan=plan, cache=tmp_path)
    assert result["state"] == "partial"
    assert result["problem"] == "Interrupted: what was measured until then is kept."
    assert len(result["sides"][0]["steady_ms"]) == 2


def test_gemm_products_are_all_of_the_macs(nano: Clip) -> None:
    view = make_views(fuse(nano))["image"]  # type: ignore[arg-type]
    found = limits.products(view)
    assert found[(1, 256, 32)] == 1  # the head: one row, 2 x 128 channels, 32 outputs
    assert limits.macs(found) == sum(m * k * n * c for (m, k, n), c in found.items())
    assert limits.gemm_floor_ms(found, threads=1, repeats=3) > 0


def test_mistakes(nano_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown baseline 'swin_x': did you mean 'swin_"):
        benchmarks.measure(nano_bundle, against="swin_x", plan=SHORT)
    with pytest.raises(UnknownName, match="unknown device 'phone'"):
        benchmarks.measure(nano_bundle, device="phone")
    with pytest.raises(UnknownName, match="unknown device 'adb:'"):
        benchmarks.measure(nano_bundle, device="adb:")
    with pytest.raises(MobileClipError, match="nothing to time on a host for coreml: export it for onnx or executorch"):
        benchmarks.measure(nano_bundle, targets=["coreml"])
    with pytest.raises(MobileClipError, match="onnx is all that was to be timed: name another baseline"):
        benchmarks.measure(nano_bundle, targets=["onnx"], against=["onnx"], plan=SHORT)
    with pytest.raises(MobileClipError, match="1 runs cannot give a median and an interval: take at least 2"):
        Plan(runs=1)
    with pytest.raises(MobileClipError, match="-1 threads cannot be: take 1 or more, or 0"):
        Plan(threads=-1)
    onnx_only = export.export("seeded:nano", ["onnx"], tmp_path / "onnx", views=["image"])
    with pytest.raises(MobileClipError, match="holds onnx and nothing to time on an Android device for executorch-xn"):
        subjects_of(Bundle.open(onnx_only), "adb", None, ["image"], tmp_path)
    with pytest.raises(MobileClipError, match="holds no image artifact for coreml to compare with: export it with --t"):
        subject(Bundle.open(onnx_only), "image", "coreml", tmp_path)
    dense = export.export("seeded:nano+depth@64", ["onnx"], tmp_path / "depth")
    with pytest.raises(MobileClipError, match=r"has a dense view \(depth\), which the encoder swin-l has not"):
        benchmarks.measure(dense, against="swin-l", plan=SHORT)


def test_threads_of_the_host_are_its_cores(nano_bundle: Path) -> None:
    plan = Plan(runs=2, seconds=0, warmup_runs=1, warmup_s=0, memory=False, end_to_end=False)
    (result,) = benchmarks.measure(nano_bundle, against=[], targets=["onnx"], plan=plan)
    assert result["protocol"]["threads"] == os.cpu_count()
    assert result["device"]["kind"] == "host"


def test_only_one_bundle_is_served_to_phones(nano_bundle: Path) -> None:
    from mobileclip.verbs.bench import Bench

    told = "--serve shows the page of one bundle to phones, and 1 for --device host were given: give one, and --device"
    with pytest.raises(MobileClipError, match=told):
        Bench(bundle=(nano_bundle,), serve="127.0.0.1").run()
    with pytest.raises(MobileClipError, match="and 2 for --device browser were given"):
        Bench(bundle=(nano_bundle, nano_bundle), device="browser", serve="127.0.0.1").run()
