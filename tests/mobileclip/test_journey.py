"""From nothing to a measured artifact, by the command alone: draw, inspect, pack, train, evaluate, export, evaluate."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(*args: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "mobileclip.cli", *map(str, args)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("journey") / "scenes"
    args = ("--count", 120, "--val-count", 40, "--size", 72, "--per-shard", 60, "--no-dense", "--jobs", 1)
    assert "120 scenes in train, 40 in val" in run("pack", "scenes", out, *args).stdout
    return out


@pytest.fixture(scope="module")
def trained(scenes: Path) -> Path:
    out = scenes.parent / "run"
    settings = ("--set", "steps=8", "warmup=2", "batch=32", "threads=1")
    said = run("train", "nano-scenes", "--shards", scenes / "train", "--val", scenes / "val", "--out", out, *settings)
    assert "step 8 of 8; `mobileclip export` takes this folder" in said.stdout
    assert "top1" in said.stderr
    return out


def test_scenes_of_other_arguments_do_not_mix(scenes: Path) -> None:
    said = run("pack", "scenes", scenes, "--count", 121, "--jobs", 1, code=2)
    assert "count" in said.stderr


def test_inspect(scenes: Path) -> None:
    report = json.loads(run("inspect", scenes / "train", "--decode", "--json").stdout)
    assert report["samples"] == report["keys"] == 120
    assert set(report["sources"]) == {"alt", "syn_text_short", "syn_text_quality"}
    assert report["readers"]["open_clip"]["samples"] == 120
    assert "samples in 2 shards" in run("inspect", scenes / "train").stdout


def test_pack_shards(scenes: Path, tmp_path: Path) -> None:
    said = run("pack", "shards", scenes / "train", "--out", tmp_path / "packed", "--size", 64, "--jobs", 1)
    assert "120 samples in 1 shards" in said.stdout
    assert json.loads(run("inspect", tmp_path / "packed", "--json").stdout)["samples"] == 120


def test_the_record_of_a_run_names_the_captions_that_were_used(trained: Path) -> None:
    record = json.loads((trained / "last" / "config.json").read_text())["record"]
    assert set(record["captions"]) == {"syn_text_short", "syn_text_quality"}
    assert sum(record["captions"].values()) == 8 * 32


def test_accuracy_before_and_after_export(scenes: Path, trained: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    run("export", trained / "last", "--to", "onnx", "executorch-xnnpack", "--out", bundle, "--jobs", 1)
    sets = ("--zero-shot", scenes / "val", "--retrieval", scenes / "val")
    found = json.loads(run("evaluate", trained / "last", bundle, *sets, "--json").stdout)
    assert [row["task"] for row in found["results"]] == ["zero-shot", "retrieval"] * 2
    for row in found["compared"]:
        assert row["agreement"] == 1.0
        assert row["cosine_mean"] > 0.9999
    assert "mean cosine" in run("evaluate", trained / "last", bundle, *sets, "--target", "executorch-xnnpack").stdout
    assert "onxx" in run("evaluate", bundle, *sets, "--target", "onxx", code=2).stderr
