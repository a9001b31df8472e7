"""The C++ runner on this computer, and what is told to it and read from it."""

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks import runner_build, runner_job
from benchmarks.protocol import Plan, Subject
from benchmarks.runner_build import NAME, built, runner_for
from benchmarks.runner_job import Names, Side, Told, array_of, fit_of, job_text
from benchmarks.subjects import subject
from export.manifest import Bundle
from export.runtimes import open_artifact
from mobileclip.config import Preprocess
from mobileclip.dense.host import stretch
from mobileclip.dense.host_detection import letterbox
from mobileclip.errors import MobileClipError
from mobileclip.preprocessing import square

TARGET = "executorch-xnnpack"
SHORT = Plan(runs=6, seconds=0, warmup_runs=1, warmup_s=0, threads=1)


@pytest.fixture(scope="module")
def runner() -> Mapping[str, Path]:
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("cmake or a C++ compiler is missing")
    return built()


@pytest.fixture(scope="module")
def sides(nano_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    bundle, cache = Bundle.open(nano_bundle), tmp_path_factory.mktemp("pictures")
    return [subject(bundle, view, TARGET, cache) for view in ("image", "text")]


def started(runner: Mapping[str, Path], *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    libraries = str(runner["libexecutorch.so"].parent)
    return subprocess.run(
        [str(runner[NAME]), *arguments],
        cwd=cwd,
        env={"LD_LIBRARY_PATH": libraries},
        capture_output=True,
        text=True,
        timeout=120,
    )


def measured(
    runner: Mapping[str, Path], subjects: list[Subject], plan: Plan, folder: Path, **options: Any
) -> tuple[Told, "subprocess.CompletedProcess[str]"]:
    names = []
    for index, item in enumerate(subjects):
        (folder / f"input{index}").write_bytes(item.feed.tobytes())
        picture = str(item.picture) if item.picture is not None else None
        names.append(Names(program=str(item.file), input=f"input{index}", picture=picture))
    options = {"wait_s": 0, "bare": False} | options
    (folder / "job").write_text(job_text(subjects, names, plan, **options))
    ran = started(runner, "job", "log", cwd=folder)
    told = Told(sides=[Side() for _ in subjects])
    if (folder / "log").exists():
        told.read((folder / "log").read_bytes())
    return told, ran


def test_outputs_are_the_python_runtimes_bit_for_bit(
    runner: Mapping[str, Path], sides: list[Subject], tmp_path: Path
) -> None:
    told, ran = measured(runner, sides, SHORT, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert told.done
    for index, item in enumerate(sides):
        wanted = open_artifact(item.file, TARGET, 1).run([item.feed])
        assert told.sides[index].outputs == [(str(array.dtype), array.shape) for array in wanted]
        for number, array in enumerate(wanted):
            assert (tmp_path / f"out{index}.{number}.bin").read_bytes() == array.tobytes()


def test_every_part_of_the_protocol_is_told(runner: Mapping[str, Path], sides: list[Subject], tmp_path: Path) -> None:
    plan = Plan(runs=40, seconds=0.2, warmup_runs=3, warmup_s=0.05, threads=1, sustained_s=0.5, model_bench=True)
    told, ran = measured(runner, sides, plan, tmp_path, bare=True)
    assert ran.returncode == 0, ran.stderr
    assert told.hello["threads"] == 1
    assert told.hello["backends"] == ["XnnpackBackend"]
    assert told.hello["affinity"] == sorted(os.sched_getaffinity(0))
    assert told.peak_bytes is not None
    assert told.loop is not None
    assert told.loop[0] >= told.loop[1] > 0
    for side in told.sides:
        assert len(side.samples["steady"]) == len(side.samples["bare"]) >= 40
        assert sum(side.samples["steady"]) >= 200
        assert side.warmup is not None
        assert side.warmup >= 3
        assert side.load_ms
        assert side.first_ms
        assert side.loaded_bytes
        assert side.start_bytes
        assert side.samples["sustained"]
        assert [len(times) for times in side.rounds] == [50] * 20
    image, text = told.sides
    assert image.picture == [1280, 960]
    assert text.picture is None
    assert text.no_picture == "no picture was given"
    whole = np.array(image.samples["whole"])
    parts = np.sum([image.samples[part] for part in ("decode", "resize", "forward", "after")], axis=0)
    assert len(whole) >= 2
    assert np.allclose(whole, parts, atol=1e-3)
    assert [reading["when"] for reading in told.thermal] == ["before", "after"]


def test_threads_are_those_that_were_asked_for(
    runner: Mapping[str, Path], sides: list[Subject], tmp_path: Path
) -> None:
    told, _ = measured(runner, sides[:1], Plan(runs=2, seconds=0, warmup_s=0, threads=2, end_to_end=False), tmp_path)
    assert told.hello["threads"] == 2


@pytest.mark.parametrize(("word", "timed"), [("go", True), ("stop", False)])
def test_waits_for_a_word_on_its_outputs(
    runner: Mapping[str, Path], sides: list[Subject], tmp_path: Path, word: str, timed: bool
) -> None:
    (tmp_path / word).touch()
    told, ran = measured(runner, sides[:1], SHORT, tmp_path, wait_s=30)
    assert ran.returncode == 0
    assert told.proved
    assert bool(told.sides[0].samples.get("steady")) is timed
    assert told.done is timed


def test_measures_nothing_without_a_word(runner: Mapping[str, Path], sides: list[Subject], tmp_path: Path) -> None:
    told, _ = measured(runner, sides[:1], SHORT, tmp_path, wait_s=0.2)
    assert told.proved
    assert not told.sides[0].samples


SIZES = [(48, 64), (64, 48), (33, 71), (200, 41), (41, 200), (96, 96), (300, 257), (20, 90)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rule", ["shortest bicubic", "shortest bilinear", "stretch bilinear", "letterbox bilinear"])
def test_pictures_are_resized_as_by_pillow(
    runner: Mapping[str, Path], tmp_path: Path, size: tuple[int, int], rule: str
) -> None:
    kind, filter_name = rule.split()
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "in.png")
    if kind == "shortest":
        goal = (64, 64)
        about = Preprocess(size=64, mean=(0, 0, 0), std=(1, 1, 1), interpolation=filter_name)  # type: ignore[arg-type]
        wanted = np.asarray(square(picture, about))
    else:
        goal = (48, 80)
        wanted = stretch(pixels, goal) if kind == "stretch" else letterbox(pixels, goal)[0]
    rows, columns = map(str, goal)
    ran = started(runner, "resize", rows, columns, kind, filter_name, "in.png", "out.rgb", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert np.array_equal(np.fromfile(tmp_path / "out.rgb", np.uint8).reshape(wanted.shape), wanted)


def test_a_real_photo_is_decoded(runner: Mapping[str, Path], photos: Path, tmp_path: Path) -> None:
    photo = next(iter(sorted(photos.glob("*.jpg"))))
    ran = started(runner, "resize", "256", "256", "shortest", "bicubic", str(photo), "out.rgb", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    about = Preprocess(size=256, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic")
    wanted = np.asarray(square(Image.open(photo).convert("RGB"), about)).astype(int)
    got = np.fromfile(tmp_path / "out.rgb", np.uint8).reshape(wanted.shape)
    assert np.abs(got - wanted).max() <= 2  # another libjpeg, not another picture


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("threads 1\n", "the job has no side"),
        ("speed 9\n", "the job cannot be read at 'speed 9'"),
        ("runs many\nside\n", "the job cannot be read at 'runs many'"),
        ("side\nprogram none\ninput float32 1,3 none\noutputs out\n", "none cannot be read"),
        ("side\nprogram none\ninput float32 1,3 job\noutputs out\n", "another size than its shape says"),
        ("side\nprogram none\ninput float99 1,3 job\noutputs out\n", "unknown type of numbers: float99"),
    ],
)
def test_a_job_that_cannot_be_done(runner: Mapping[str, Path], tmp_path: Path, job: str, said: str) -> None:
    (tmp_path / "job").write_text(job)
    ran = started(runner, "job", "log", cwd=tmp_path)
    assert ran.returncode == 1
    assert said in ran.stderr
    assert said in json.loads((tmp_path / "log").read_text().splitlines()[-1])["text"]


def test_a_broken_program_and_a_broken_picture(
    runner: Mapping[str, Path], sides: list[Subject], tmp_path: Path
) -> None:
    (tmp_path / "broken.pte").write_bytes(b"\0" * 4096)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0" + b"\0" * 99)
    told, ran = measured(runner, [dataclasses.replace(sides[0], picture=tmp_path / "broken.jpg")], SHORT, tmp_path)
    assert ran.returncode == 0
    assert told.done
    assert told.sides[0].no_picture == "the picture is broken"
    assert not told.sides[0].samples.get("whole")
    (tmp_path / "log").unlink()
    told, ran = measured(runner, [dataclasses.replace(sides[0], file=tmp_path / "broken.pte")], SHORT, tmp_path)
    assert ran.returncode == 1
    assert told.error is not None
    assert "broken.pte cannot be loaded (Error::InvalidProgram)" in told.error


def test_a_full_disk_ends_it_with_a_reason(runner: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "job").write_text("side\nprogram a\ninput float32 1 job\n")
    ran = started(runner, "job", "/dev/full", cwd=tmp_path)
    assert ran.returncode == 1
    assert "the log cannot be written: No space left on device" in ran.stderr


@given(st.lists(st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode))))
@settings(max_examples=100, deadline=None)
def test_any_log_is_read(pieces: list[bytes]) -> None:
    told = Told(sides=[Side()])
    for piece in pieces:
        told.read(piece)
    assert told.sides[0].load_ms is None


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda item: st.lists(item, max_size=4) | st.dictionaries(st.text(max_size=5), item, max_size=3),
    max_leaves=8,
)
EVENTS = ("hello", "proved", "memory", "loop", "thermal", "first", "warm", "picture", "no_picture", "samples", "round")
KEYS = ("side", "ms", "part", "size", "reason", "outputs", "load_ms", "status", "when", "at_s", "peak_bytes", "runs")


@given(st.sampled_from(EVENTS), st.dictionaries(st.sampled_from(KEYS), JSON))
@settings(max_examples=200, deadline=None)
def test_what_a_device_tells_is_not_trusted(name: str, fields: dict[str, Any]) -> None:
    told = Told(sides=[Side()])
    told.read(json.dumps({"event": name, **fields}).encode() + b"\n")
    times = [value for part in told.sides[0].samples.values() for value in part]
    assert all(isinstance(value, float) and 0 <= value < float("inf") for value in times)


def test_a_log_in_pieces_is_the_same_log() -> None:
    lines = b'{"event":"samples","part":"steady","side":0,"ms":[1,2.5,-1,null]}\n{"event":"done"}\n'
    told = Told(sides=[Side()])
    for index in range(len(lines)):
        told.read(lines[index : index + 1])
    assert told.done
    assert told.sides[0].samples == {"steady": [1.0, 2.5]}


def test_an_endless_log_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_job, "MOST_LOG", 1000)
    told = Told(sides=[Side()])
    told.read(b"x" * 900)
    with pytest.raises(MobileClipError, match="the runner's log is longer than 1,000 bytes"):
        told.read(b"x" * 400)


def test_outputs_have_the_size_that_was_told() -> None:
    assert array_of(b"\0" * 8, "float32", (1, 2)) is not None
    assert array_of(b"\0" * 7, "float32", (1, 2)) is None


def test_the_manifests_rules_of_resizing_are_known() -> None:
    from export.dense_views import LETTERBOX, STRETCH

    def rule(text: str) -> str | None:
        return fit_of({"inputs": [{"resize": text, "dtype": "float32"}]})

    assert rule("shortest side to 256, bicubic, antialias") == "shortest 256 256 bicubic"
    assert rule(STRETCH.format(384, 512)) == "stretch 384 512 bilinear"
    assert rule(LETTERBOX.format(384, 512)) == "letterbox 384 512 bilinear"
    assert rule("as you like") is None


def test_a_build_is_kept(runner: Mapping[str, Path]) -> None:
    before = runner[NAME].stat().st_mtime_ns
    assert built()[NAME].stat().st_mtime_ns == before


def test_runners_for_other_devices_come_from_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(runner_build.VARIABLE, raising=False)
    with pytest.raises(MobileClipError, match=r"no runner for arm64-v8a Android is here: build one with the NDK"):
        runner_for("arm64-v8a", True)
    monkeypatch.setenv(runner_build.VARIABLE, str(tmp_path / "none"))
    with pytest.raises(MobileClipError, match=r"MOBILECLIP_RUNNER names .*none, which is no file"):
        runner_for("arm64-v8a", True)
    for name in (NAME, "libexecutorch.so"):
        (tmp_path / name).touch()
    monkeypatch.setenv(runner_build.VARIABLE, str(tmp_path / NAME))
    assert set(runner_for("arm64-v8a", True)) == {NAME, "libexecutorch.so"}


def test_a_build_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("cmake") is not None:
        source = tmp_path / "source"
        source.mkdir()
        (source / "CMakeLists.txt").write_text('cmake_minimum_required(VERSION 3.24)\nmessage(FATAL_ERROR "no way")\n')
        with monkeypatch.context() as patch:
            patch.setattr(runner_build, "SOURCE", source)
            with pytest.raises(MobileClipError, match=r"the runner cannot be built .*rror"):
                built(tmp_path / "cache")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MobileClipError, match="the runner cannot be built: cmake is missing"):
        built(tmp_path / "cache")
