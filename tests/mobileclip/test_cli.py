"""The command: its options are frozen here; mistakes are one sentence and exit code 2; help loads nothing heavy."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mobileclip import cli
from mobileclip.verbs import captions, pack

OPTIONS = {
    cli.Captions: "what",
    captions.Run: "recipe shards out set engine jobs min_jobs address gpus "
    "cpus array wait watchdog memory_gb broken_share threads json_keys show json",
    captions.Status: "work json",
    captions.Report: "work out samples seed json",
    captions.Select: "work set uids jobs json",
    cli.Pack: "what",
    pack.Scenes: "out count val_count size seed caption_quality wordings noise per_shard dense jobs json",
    pack.Shards: "shards out captions size quality per_shard embeddings side_cars json_keys licence broken_share jobs "
    "json",
    cli.Inspect: "shards decode json_keys task split layout out json",
    cli.Train: "recipe shards out qat val set show json",
    cli.Evaluate: "subjects zero_shot retrieval classes templates captions target limit dense task split layout mode "
    "flip multi_scale out json",
    cli.Predict: "subject images out task target mode flip score every server device json",
    cli.Finetune: "task recipe checkpoint qat data out val labels sweep sweep_steps set show json",
    cli.Export: "checkpoint out to preset without_rewrite labels output size heads view precision "
    "calibration gate timed accept jobs force json",
    cli.Sensitivity: "checkpoint calibration out to view json",
    cli.Verify: "subject images text checkpoint heads against inputs outputs limit audit json",
    cli.Bench: "bundle device against to view runs seconds threads sustained model_bench operators serve https "
    "out json",
    cli.Report: "results html into json",
    cli.Apps: "what app bundle into to small json",
    cli.Build: "recipe out shards set until plan show json",
}


@pytest.mark.parametrize("verb", OPTIONS)
def test_options_are_frozen(verb: type) -> None:
    assert " ".join(field.name for field in dataclasses.fields(verb)) == OPTIONS[verb]


def run(*args: str | Path, code: int) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "mobileclip.cli", *map(str, args)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_help_and_mistakes_load_nothing_heavy() -> None:
    program = (
        "import sys\nfrom mobileclip import cli\n"
        "try:\n    code = cli.main(sys.argv[1:])\nexcept SystemExit as e:\n    code = e.code\n"
        "heavy = {'torch', 'coremltools', 'executorch', 'open_clip', 'timm', 'onnx'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy), 'CODE', code)"
    )
    for args, code in (
        (["--help"], 0),
        (["export", "--help"], 0),
        (["pack", "scenes", "--help"], 0),
        (["captions", "run", "--help"], 0),
        (["captions", "run", "text-only", "--show"], 0),
        (["captions", "run", "quality", "--set", "embed.model=x", "coca.model=x", "--show"], 0),
        (["captions", "run", "text-onyl"], 2),
        (["captions", "status", "missing"], 2),
        (["train", "nano-scenes", "--out", "x", "--show"], 0),
        (["train", "nano-scene", "--out", "x"], 2),
        (["train", "nano-scenes", "--out", "x"], 2),
        (["train", "nano-scenes", "--out", "x", "--set", "batch"], 2),
        (["train", "nano-scenes", "--out", "x", "--set", "bach=3"], 2),
        (["finetune", "segmentation", "ade-semfpn", "--out", "x", "--show"], 0),
        (["finetune", "segmentation", "ade-semfp", "--out", "x"], 2),
        (["finetune", "depth", "ade-semfpn", "--out", "x"], 2),
        (["finetune", "depth", "nyu-depth", "--out", "x"], 2),
        (["inspect", "missing"], 2),
        (["inspect", "missing", "--task", "depht"], 2),
        (["evaluate", "missing.pt", "--zero-shot", "."], 2),
        (["evaluate", "seeded:nano"], 2),
        (["evaluate", "seeded:nano", "--dense", "."], 2),
        (["predict", "seeded:nano+semfpn@64", "missing", "--out", "x"], 2),
        (["evaluate", "seeded:nano", "--zero-shot", "missing"], 2),
        (["export", "seeded:nano", "--out", "x", "--to", "onxx"], 2),
        (["export", "seeded:nanno", "--out", "x"], 2),
        (["export", "seeded:nano", "--out", "x", "--preset", "appel"], 2),
        (["export", "missing.pt", "--out", "x"], 2),
        (["verify", "missing"], 2),
        (["verify", ".", "--images", "missing"], 2),
        (["bench", "missing"], 2),
        (["bench", ".", "--against", "swim-l"], 2),
        (["report", "missing"], 2),
        (["apps", "install", "web", "missing"], 2),
        (["build", "--help"], 0),
        (["build", "quickstart", "--show"], 0),
        (["build", "quickstart", "--out", "missing", "--plan"], 0),
        (["build", "mci2-real", "--plan"], 0),
        (["build", "quickstart", "--set", "scenes=x"], 2),
    ):
        done = subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=60)
        assert f"HEAVY [] CODE {code}" in done.stdout, (args, done.stdout[-300:], done.stderr[-300:])


def test_a_recipe_is_shown_without_a_folder() -> None:
    assert json.loads(run("train", "mci2-scratch", "--show", code=0).stdout)["name"] == "mci2-scratch"


@pytest.mark.parametrize(("line", "code"), [("--help", 141), ("--version", 141), ("build mci2-real --plan", 1)])
def test_a_reader_that_goes_away(line: str, code: int) -> None:
    """`mobileclip --help | head -1` is no fault; a table is ended by rich, with a code of its own."""
    program = [sys.executable, "-m", "mobileclip.cli", *line.split()]
    child = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    assert child.stderr.read() == b""
    assert child.wait(60) == code


def test_version() -> None:
    assert run("--version", code=0).stdout.startswith("mobileclip 0.")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["export", "seeded:nano", "--out", "x", "--to", "onxx"], "unknown target 'onxx': did you mean 'onnx'?"),
        (["export", "seeded:mobileclip_s9", "--out", "x"], "unknown model 'mobileclip_s9': did you mean 'mobileclip_s"),
        (["export", "missing.pt", "--out", "x"], "missing.pt does not exist: give a checkpoint, or seeded:"),
        (["train", "nano-scenes", "--shards", "missing"], "a run needs --out with its folder; only --show does"),
        (["verify", "missing"], "missing does not exist: give a bundle, or a .mlpackage, .onnx or .pte."),
        (["bench", "missing", "--runs", "1"], "1 runs cannot give a median and an interval: take at least 2."),
        (["bench", "missing", "--device", "phone"], "unknown device 'phone': did you mean 'iphone'? Known: adb, adb:S"),
        (["bench", ".", "--device", "host", "--serve", "127.0.0.1"], ". is no bundle: it has no manifest.json"),
        (["bench", ".", "--against", "swim_l"], "unknown baseline 'swim_l': did you mean 'swin_l'?"),
        (["verify", ".", "--images", "nowhere"], "nowhere does not exist: give a path that does."),
        (["bench", "missing"], "missing is no bundle: it has no manifest.json; make one with `mobileclip export`."),
        (["export"], "required"),
    ],
)
def test_mistakes(args: list[str], text: str, tmp_path: Path) -> None:
    assert text in run(*args, code=2).stderr.replace("\n", " ")


def test_export_verify_and_a_changed_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("export", "seeded:nano", "--to", "onnx", "coreml", "--out", out, code=0)
    assert "image.mlpackage" in done.stdout
    assert "seeded:nano:0" in done.stdout
    again = run("export", "seeded:nano", "--to", "onnx", "--out", out, code=2)
    assert "exists already: choose another folder, or pass --force to replace it." in again.stderr
    report = json.loads(run("verify", out, "--json", code=0).stdout)
    assert report["passed"] is True
    assert "largest |x|" in run("verify", out, "--audit", code=0).stdout
    single = run("verify", out / "image.mlpackage", "--against", out / "image.onnx", code=0)
    assert "passed" in single.stdout
    (out / "image.onnx").write_bytes((out / "image.onnx").read_bytes()[:-1] + b"!")
    assert "was changed after export (its sha256" in run("verify", out, code=2).stderr


def test_a_gate_that_fails_is_exit_code_1(nano_bundle: Path, tmp_path: Path) -> None:
    import numpy as np

    np.save(tmp_path / "in.npy", np.full((1, 77), 49407, np.int32))
    np.save(tmp_path / "out.npy", np.ones((1, 32), np.float32))
    args = ["--inputs", tmp_path / "in.npy", "--outputs", tmp_path / "out.npy"]
    assert "FAILED" in run("verify", nano_bundle / "text.mlpackage", *args, code=1).stdout


def test_labels(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("otter\nheron\n")
    out = tmp_path / "out"
    run("export", "seeded:nano_swin", "--to", "onnx", "--out", out, "--labels", tmp_path / "labels.txt", code=0)
    assert json.loads((out / "labels.json").read_text())["labels"] == ["otter", "heron"]
    (tmp_path / "labels.txt").write_text("\n")
    mistake = run("export", "seeded:nano", "--out", tmp_path / "b", "--labels", tmp_path / "labels.txt", code=2)
    assert "holds no label: put one a line." in mistake.stderr
