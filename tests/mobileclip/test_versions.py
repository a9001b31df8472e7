"""`--version` and the guard, on real metadata: folders as pip writes them, before the installed ones on the path."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mobileclip import __version__, versions
from mobileclip.errors import MobileClipError

BROKEN = {
    ("numpy", "coremltools"): (
        {"numpy": "2.4.1", "coremltools": "9.0"},
        "numpy 2.4.1 does not go with coremltools 9.0: its conversion calls int() on arrays of one element, which "
        "numpy 2.4 refuses (coremltools issue 2633); run `pip install 'numpy<2.4'`.",
    ),
    ("numpy", "executorch"): (
        {"numpy": "1.26.4"},
        "numpy 1.26.4 does not go with executorch 1.5.1: ExecuTorch 1.5 is built for numpy 2, and the coremltools that "
        "it needs for less than 2.4; run `pip install 'numpy>=2,<2.4'`.",
    ),
    ("torchao", "executorch"): (
        {"torchao": "0.19.0"},
        "torchao 0.19.0 does not go with executorch 1.5.1: its quantisers are written for the PT2E of torchao 0.18 "
        "(ExecuTorch 1.5.1's own requirement); run `pip install 'torchao==0.18.*'`.",
    ),
    ("coremltools", "executorch"): (
        {"coremltools": "8.3.0"},
        "coremltools 8.3.0 does not go with executorch 1.5.1: its Core ML delegate is written for coremltools 9.0 "
        "(ExecuTorch 1.5.1's own requirement); run `pip install 'coremltools==9.0'`.",
    ),
    ("torch", ""): (
        {"torch": "2.15.0.dev20261201+cu130"},
        f"torch 2.15.0.dev20261201+cu130 does not go with mobileclip {__version__}: graphs of torch.export and "
        "converters change with every release, and these were verified with 2.14; run `pip install 'torch==2.14.*'`.",
    ),
    ("torchvision", "torch"): (
        {"torchvision": "0.28.0"},
        "torchvision 0.28.0 does not go with torch 2.14.1: its operators are compiled for one release of torch, 0.29 "
        "for 2.14, and fail to register with another; run `pip install 'torchvision==0.29.*'`.",
    ),
    ("timm", ""): (
        {"timm": "1.0.25"},
        f"timm 1.0.25 does not go with mobileclip {__version__}: fusing reads the parts of its towers by name, which "
        "other releases call otherwise; run `pip install 'timm==1.0.31'`.",
    ),
    ("open_clip_torch", ""): (
        {"open_clip_torch": "2.32.0"},
        f"open_clip_torch 2.32.0 does not go with mobileclip {__version__}: names and configurations of published "
        "weights are those of 3.3.0; run `pip install 'open_clip_torch==3.3.0'`.",
    ),
    ("executorch", ""): (
        {"executorch": "1.4.0"},
        f"executorch 1.4.0 does not go with mobileclip {__version__}: delegates and operators outside of them are told "
        "from the graphs of 1.5, and apps run its runtime; run `pip install 'executorch==1.5.*'`.",
    ),
}
"""Rule (package, beside) -> versions that break it where the rest is as installed, and the sentence."""


def installed(folder: Path, packages: dict[str, str]) -> Path:
    """A folder whose packages are found before those of this environment."""
    for name, version in packages.items():
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n")
    return folder


def command(folder: Path | None, *args: str) -> subprocess.CompletedProcess[str]:
    path = {"PYTHONPATH": str(folder)} if folder else {}
    return subprocess.run(
        [sys.executable, "-m", "mobileclip.cli", *args],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | path,
    )


def test_this_environment_is_sound() -> None:
    done = command(None, "--version")
    assert done.returncode == 0, done.stderr
    first, python, *rest = done.stdout.splitlines()
    assert first == f"mobileclip {__version__}"
    assert python.startswith(f"python {sys.version_info.major}.{sys.version_info.minor}.")
    names = {line.split()[0] for line in rest}
    assert {"torch", "torchvision", "timm", "open_clip_torch", "coremltools", "executorch", "torchao"} <= names
    assert {"numpy", "onnx", "onnxruntime", "pyarrow"} <= names
    assert "pytest" not in names
    assert "tested with" not in done.stdout
    assert versions.problems() == []
    versions.require("export")


def test_as_json() -> None:
    told = json.loads(command(None, "--version", "--json").stdout)
    assert told["mobileclip"] == __version__
    assert told["problems"] == []
    by_name = {tool["name"]: tool for tool in told["tools"]}
    assert by_name["coremltools"] == {
        "name": "coremltools",
        "found": "9.0",
        "tested": "==9.0",
        "extra": "",
        "untested": False,
    }


def test_every_rule_has_a_case() -> None:
    assert {(rule.package, rule.beside) for rule in versions.RULES} == set(BROKEN)
    for rule in versions.RULES:
        assert rule.verbs, rule


@pytest.mark.parametrize("rule", BROKEN, ids="-".join)
def test_a_rule(rule: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages, sentence = BROKEN[rule]
    monkeypatch.syspath_prepend(installed(tmp_path, packages))
    (found,) = (item for item in versions.problems() if item.startswith(f"{rule[0]} ") and item == sentence)
    assert found
    with pytest.raises(MobileClipError) as refused:
        versions.require("export")
    assert sentence in str(refused.value)


@pytest.mark.parametrize("verb", ["export", "verify", "sensitivity", "bench"])
def test_verbs_refuse_at_once(verb: str, tmp_path: Path) -> None:
    folder = installed(tmp_path / "site", {"numpy": "2.4.0"})
    subject = ["seeded:nano"] if verb in ("export", "sensitivity") else [str(tmp_path)]
    more = {"export": ["--out", str(tmp_path / "x")], "sensitivity": ["--calibration", str(tmp_path)]}.get(verb, [])
    done = command(folder, verb, *subject, *more)
    assert done.returncode == 2
    assert done.stderr.startswith(f"mobileclip {verb}: numpy 2.4.0 does not go with coremltools 9.0: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()


def test_version_tells_problems_and_what_was_not_tested(tmp_path: Path) -> None:
    folder = installed(tmp_path, {"numpy": "2.4.0", "torchao": "0.19.0", "onnxruntime": "1.40.0"})
    done = command(folder, "--version")
    assert done.returncode == 2
    assert "onnxruntime 1.40.0  (tested with <1.32,>=1.31)\n" in done.stdout
    assert [line.split(" does")[0] for line in done.stderr.splitlines()] == [
        "problem: numpy 2.4.0",
        "problem: numpy 2.4.0",
        "problem: torchao 0.19.0",
    ]
    told = json.loads(command(folder, "--version", "--json").stdout)
    assert len(told["problems"]) == 3
    assert [tool["name"] for tool in told["tools"] if tool["untested"]] == ["torchao", "numpy", "onnxruntime"]


def test_training_goes_on_with_another_torch(tmp_path: Path) -> None:
    folder = installed(tmp_path, {"torch": "2.13.0", "torchvision": "0.28.0"})
    assert command(folder, "train", "nano-scenes", "--out", "x", "--show").returncode == 0
    done = command(folder, "export", "seeded:nano", "--out", str(tmp_path / "x"))
    assert done.returncode == 2
    assert "torch 2.13.0 does not go with mobileclip" in done.stderr
    assert "torchvision" not in done.stderr


@pytest.mark.parametrize(
    ("found", "allowed", "inside"),
    [
        ("2.14.1+cpu", "==2.14.*", True),
        ("2.14.0a0+git", "==2.14.*", True),
        ("2.4.0rc1", "<2.4", False),
        ("2.3.5", "<2.4", True),
        ("", "<2.4", False),
        ("unknown", "", False),
    ],
)
def test_within(found: str, allowed: str, inside: bool) -> None:
    assert versions.within(found, allowed) is inside
