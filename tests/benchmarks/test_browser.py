"""The browser page in real Chromium: right, wrong, changed, killed, without a provider, beside a bundle.

`python tests/benchmarks/test_browser.py` writes what Pillow makes of pictures, which the page's own tests compare with.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from benchmarks import browser, protocol
from benchmarks.browser import Browser, find
from benchmarks.browser_page import SOURCES, built, fingerprint
from benchmarks.browser_server import PageServer, files_of, job_of
from benchmarks.protocol import Plan, Subject
from benchmarks.subjects import subjects_of
from export.manifest import Bundle
from export.targets import MADE
from mobileclip.config import Preprocess
from mobileclip.dense.host import stretch
from mobileclip.errors import MobileClipError, UnknownName
from mobileclip.preprocessing import square

GOLDEN = SOURCES / "test" / "pillow.json"
SHORT = Plan(runs=20, seconds=0.2, warmup_runs=3, warmup_s=0.1)
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not here")


@pytest.fixture(scope="module")
def page() -> Path:
    """The built page; skipped where npm or Chromium is missing."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not here")
    if not any(map(shutil.which, browser.CHROMIUM)):
        pytest.skip("Chromium is not here")
    return built()


@pytest.fixture(scope="module")
def subjects(nano_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    """The image and the text view of the tiny model."""
    cache = tmp_path_factory.mktemp("pictures")
    return subjects_of(Bundle.open(nano_bundle), "browser", None, ("image", "text"), cache)


def changed(subject: Subject, file: Path, content: bytes, *, told: bool) -> Subject:
    """The subject with another artifact; `told`: whether its manifest knows."""
    file.write_bytes(content)
    entry = dict(subject.entry)
    if told:
        entry |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    return dataclasses.replace(subject, file=file, entry=entry)


def test_a_result_is_whole_and_right(page: Path, subjects: list[Subject]) -> None:
    said: list[str] = []
    plan = dataclasses.replace(SHORT, model_bench=True, sustained_s=1.0)
    result = protocol.checked(find(say=said.append).measure(subjects, plan), "the page")
    assert (result["state"], result["problem"]) == ("complete", None)
    device, told = result["device"], result["device"]["details"]
    assert device["kind"] == "browser"
    assert "Chrome" in device["name"]
    assert told["cross_origin_isolated"] is True
    assert told["providers"] == {"wasm": "used"}
    assert 0 < told["timer_step_ms"] <= 0.1
    assert told["wasm_heap_bytes"] > subjects[0].entry["bytes"]
    assert result["protocol"]["order"] == "ABBA"
    assert result["protocol"]["process"] == "page"
    assert result["protocol"]["threads"] == min(os.cpu_count() or 1, 4)
    assert [side["name"] for side in result["sides"]] == [subject.name for subject in subjects]
    for side, subject in zip(result["sides"], subjects, strict=True):
        assert side["known_answer"]["right"] is True
        assert side["known_answer"]["db"] >= subject.gate.db
        assert (side["sha256"], side["bytes"]) == (subject.entry["sha256"], subject.entry["bytes"])
        assert side["runtime"]["provider"] == "wasm"
        assert re.fullmatch(r"1\.\d+\.\d+", side["runtime"]["version"])
        assert len(side["steady_ms"]) >= plan.runs
        assert sum(side["steady_ms"]) >= 1000 * plan.seconds
        assert side["warmup"] >= plan.warmup_runs
        assert min(side["load_ms"], side["first_ms"], *side["steady_ms"]) > 0
        assert side["model_bench"]["reloaded"] is True
        assert [len(times) for times in side["model_bench"]["rounds_ms"]] == [50] * 20
        assert side["model_bench"]["mean_ms"] == pytest.approx(protocol.model_bench(side["model_bench"]["rounds_ms"]))
        assert side["sustained_ms"]
    image, text = (side["end_to_end"] for side in result["sides"])
    assert image["picture"] == [1280, 960]
    assert len(image["ms"]) == 10
    parts = np.sum([image[f"{part}_ms"] for part in ("decode", "resize", "forward", "after")], axis=0)
    assert image["ms"] == pytest.approx(parts.tolist())
    assert (text["ms"], text["reason"]) == ([], "a text view begins with no picture here.")
    if sys.platform == "linux":
        assert all(side["memory"]["peak_bytes"] > 30 << 20 for side in result["sides"])
    assert any("timing nano image" in line for line in said)


def test_a_wrong_artifact_has_no_latency(page: Path, subjects: list[Subject], tmp_path: Path) -> None:
    model = onnx.load(subjects[0].file)
    for weight in model.graph.initializer:
        if len(weight.dims) == 4:
            weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.01, weight.name))
    wrong = changed(subjects[0], tmp_path / "wrong.onnx", model.SerializeToString(), told=True)
    result = find().measure([wrong, subjects[1]], SHORT)
    assert result["state"] == "wrong"
    assert re.fullmatch(
        r"nano image onnx fp32 gives a wrong known answer on wasm \(\d+\.\d dB\): a wrong artifact has no latency\.",
        result["problem"],
    )
    assert result["sides"][0]["known_answer"]["right"] is False
    assert result["sides"][0]["steady_ms"] == []
    assert len(result["sides"][1]["steady_ms"]) >= SHORT.runs


def test_a_file_without_known_answer_is_timed_and_says_so(page: Path, subjects: list[Subject]) -> None:
    plain = dataclasses.replace(subjects[0], expected=[], bundle=None, picture=None)
    result = find().measure([plain], SHORT)
    side = result["sides"][0]
    assert (result["state"], side["known_answer"]["right"]) == ("complete", None)
    assert len(side["known_answer"]["sha256"]) == 1
    assert result["protocol"]["order"] == "A"


def test_an_artifact_that_does_not_run_is_told(page: Path, subjects: list[Subject], tmp_path: Path) -> None:
    broken = changed(subjects[0], tmp_path / "broken.onnx", b"no model at all", told=True)
    result = protocol.checked(find().measure([broken, subjects[1]], SHORT), "the page")
    assert result["state"] == "partial"
    assert result["problem"].startswith("nano image onnx fp32 does not run on wasm: ")
    assert [bool(side["steady_ms"]) for side in result["sides"]] == [False, True]


def test_a_changed_file_is_not_measured(page: Path, subjects: list[Subject], tmp_path: Path) -> None:
    content = bytearray(subjects[0].file.read_bytes())
    content[len(content) // 2] ^= 1
    flipped = changed(subjects[0], tmp_path / "flipped.onnx", bytes(content), told=False)
    with pytest.raises(MobileClipError, match=r"artifact\.onnx is not the file of its manifest \(another sha256\)"):
        find().measure([flipped], SHORT)
    short = changed(subjects[0], tmp_path / "short.onnx", bytes(content[:-9]), told=False)
    with pytest.raises(MobileClipError, match=rf"has {len(content) - 9} bytes, its manifest says {len(content)}"):
        find().measure([short], SHORT)


def test_a_provider_that_is_absent_is_told_not_replaced(page: Path, subjects: list[Subject]) -> None:
    chosen = dataclasses.replace(find("webgpu"), flags=("--disable-gpu", "--disable-software-rasterizer"))
    with pytest.raises(
        MobileClipError,
        match=r"measured nothing: webgpu is absent: (this browser has no WebGPU|WebGPU finds no graphics)",
    ):
        chosen.measure(subjects[:1], SHORT)


def test_webgpu_computes_the_same(page: Path, subjects: list[Subject]) -> None:
    chosen = dataclasses.replace(find("webgpu"), software=True)
    plan = Plan(runs=2, seconds=0, warmup_runs=1, warmup_s=0, end_to_end=False)
    try:
        result = chosen.measure(subjects[:1], plan)
    except MobileClipError as error:
        if "WebGPU finds no graphics processor" in str(error):
            pytest.skip("this Chromium has no WebGPU, not even in software")
        raise
    side = result["sides"][0]
    assert (result["state"], side["runtime"]["provider"], side["known_answer"]["right"]) == ("complete", "webgpu", True)
    assert result["device"]["details"]["gpu"]["architecture"]
    if result["device"]["details"]["gpu"]["architecture"] == "swiftshader":  # no figure of a graphics processor
        with pytest.raises(MobileClipError, match=r"WebGPU finds only software \(swiftshader\) here"):
            find("webgpu").measure(subjects[:1], plan)


def wrapped(folder: Path, text: str) -> Path:
    program = folder / "browser.sh"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return program


def test_what_a_killed_browser_had_measured_is_kept(page: Path, subjects: list[Subject], tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    program = wrapped(tmp_path, f'echo $$ > {noted}; exec {find().program} "$@"')
    posted = threading.Event()

    def kill() -> None:
        posted.wait(120)
        time.sleep(12)  # the page hands over what it has every 5 s
        os.kill(int(noted.read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    chosen = Browser(program=program, say=lambda line: posted.set() if line.startswith("timing") else None)
    result = protocol.checked(chosen.measure(subjects[:1], Plan(runs=100_000, seconds=600)), "the page")
    killer.join()
    assert result["state"] == "partial"
    assert result["problem"].startswith("Chromium was killed by SIGKILL, while timing nano image onnx fp32 on wasm: ")
    assert len(result["sides"][0]["steady_ms"]) > 0


def test_a_browser_that_ends_at_once_is_told(page: Path, subjects: list[Subject], tmp_path: Path) -> None:
    program = wrapped(tmp_path, "echo no display >&2; exit 3")
    with pytest.raises(MobileClipError, match=r"Chromium ended with code 3 \(no display\), .*nothing was measured"):
        Browser(program=program).measure(subjects[:1], SHORT)


def test_a_silent_page_is_given_up(page: Path, subjects: list[Subject], monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(browser, "SILENT_S", 1.0)
    with pytest.raises(MobileClipError, match="the page has said nothing for 1 s"):
        Browser(program=wrapped(tmp_path, "exec sleep 60")).measure(subjects[:1], SHORT)


def test_a_page_that_gets_no_farther_is_given_up(page: Path, subjects: list[Subject], monkeypatch: Any) -> None:
    monkeypatch.setattr(browser, "STUCK_S", 2.0)  # what is measured is handed over every 5 s
    try:
        result = find().measure(subjects[:1], Plan(runs=100_000, seconds=600))
    except MobileClipError as error:  # before anything was handed over
        told = str(error)
        assert "nothing was measured" in told
    else:
        told = result["problem"]
        assert result["state"] == "partial"
        assert len(result["sides"][0]["steady_ms"]) > 0
    assert re.search("the page has got no farther than '.*' for 2 s, while ", told), told


def test_without_browser_or_provider_there_is_a_sentence(monkeypatch: Any, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown provider of a browser 'webgl'"):
        find("webgl")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MobileClipError, match="no browser is here that can be driven: looked for chromium, "):
        find()


def test_without_npm_there_is_a_sentence(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MobileClipError, match=r"built by npm, which is not here: install Node\.js"):
        built(cache=tmp_path / "cache")
    with pytest.raises(MobileClipError, match="the page's sources are not at"):
        built(sources=tmp_path)


@needs_npm
def test_a_failing_build_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    sources = tmp_path / "page"
    sources.mkdir()
    (sources / "package.json").write_text('{"scripts": {"build": "echo out of clay >&2; exit 4"}}')
    with pytest.raises(MobileClipError, match=r"`npm run build` for the browser page fails \(.*out of clay"):
        built(sources=sources, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_another_source_is_another_page(tmp_path: Path) -> None:
    shutil.copytree(SOURCES, tmp_path / "page", ignore=shutil.ignore_patterns("node_modules", "dist"))
    assert fingerprint(tmp_path / "page") == fingerprint(SOURCES)
    (tmp_path / "page" / "src" / "main.ts").write_text("else")
    assert fingerprint(tmp_path / "page") != fingerprint(SOURCES)


@needs_npm
def test_the_pages_own_tests_pass(tmp_path: Path) -> None:
    work = tmp_path / "page"
    shutil.copytree(SOURCES, work, ignore=shutil.ignore_patterns("node_modules", "dist"))
    install = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
    for command in (install, ["npm", "run", "check"], ["npm", "test"]):
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_page_beside_a_bundle_needs_no_server_of_ours(page: Path, nano_bundle: Path) -> None:
    beside = {
        f"bundle/{path.relative_to(nano_bundle).as_posix()}": path for path in nano_bundle.rglob("*") if path.is_file()
    }
    with PageServer(files_of(page) | beside, None) as server, find()._chromium(f"{server.url}?start&quick&report"):
        while (event := server.events.get(timeout=240))[0] not in ("result", "failed"):
            pass
    result = protocol.checked(event[1], "the page")
    assert [side["name"] for side in result["sides"]] == ["nano image onnx fp32", "nano text onnx fp32"]
    assert [side["known_answer"]["right"] for side in result["sides"]] == [True, True]
    assert result["sides"][0]["end_to_end"]["picture"] == [64, 64]


def test_the_page_knows_the_same_plan_and_gate() -> None:
    main, bundle = ((SOURCES / "src" / name).read_text() for name in ("main.ts", "bundle.ts"))
    told = re.search(r"const PLAN: Plan = (\{.*?\});", main, re.S)
    assert told is not None
    plan = json.loads(re.sub(r"(\w+):", r'"\1":', re.sub(r",\s*\}", "}", told[1])))
    assert {name: getattr(Plan(), name) for name in plan} == plan
    gate = re.search(r"const MADE: Gate = (\{.*?\});", bundle)
    assert gate is not None
    assert json.loads(re.sub(r"(\w+):", r'"\1":', gate[1])) == dataclasses.asdict(MADE)


def test_what_the_page_is_asked_is_what_python_asks(subjects: list[Subject]) -> None:
    job, files = job_of(subjects, SHORT, ["wasm"], start=True)
    first = job["subjects"][0]
    assert job["plan"]["runs"] == SHORT.runs
    assert first["labels"] == 10
    assert files[first["feed"]["url"]] == subjects[0].feed.astype("<f4").tobytes()
    assert first["gate"]["db"] == subjects[0].gate.db
    assert first["artifact"]["sha256"] == subjects[0].entry["sha256"]


RULES: tuple[tuple[int, int, str, str, tuple[int, int]], ...] = (
    (13, 9, "shortest side to 4, bicubic, antialias", "centre", (4, 4)),
    (9, 14, "shortest side to 6, bilinear, antialias", "centre", (6, 6)),
    (5, 4, "shortest side to 7, bicubic, antialias", "centre", (7, 7)),
    (6, 6, "shortest side to 6, bicubic, antialias", "centre", (6, 6)),
    (11, 6, "shortest side to 6, bilinear, antialias", "centre", (6, 6)),
    (17, 11, "stretch to 5 rows and 8 columns, bilinear, antialias", "none", (5, 8)),
    (7, 12, "stretch to 12 rows and 5 columns, bilinear, antialias", "none", (12, 5)),
)
"""Width, height, rule, crop, rows and columns that come out."""


def golden() -> list[dict[str, Any]]:
    """What Python makes of pictures of numbers that the page's tests can make too."""
    found = []
    for width, height, rule, crop, size in RULES:
        index = np.arange(width * height * 3, dtype=np.int64)
        pixels = ((index * index * 7 + index * 13) % 256).astype(np.uint8).reshape(height, width, 3)
        if crop == "centre":
            filter_name = "bicubic" if "bicubic" in rule else "bilinear"
            made = np.asarray(square(Image.fromarray(pixels), Preprocess(size=size[0], interpolation=filter_name)))
        else:
            made = stretch(pixels, size)
        told = {"width": width, "height": height, "resize": rule, "crop": crop, "shape": [1, 3, *size]}
        found.append(told | {"pixels": made.ravel().tolist()})
    return found


def test_the_golden_pictures_are_pillows() -> None:
    assert json.loads(GOLDEN.read_text()) == golden()


if __name__ == "__main__":
    GOLDEN.write_text("[\n" + ",\n".join(json.dumps(item) for item in golden()) + "\n]\n")
