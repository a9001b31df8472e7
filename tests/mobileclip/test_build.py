"""The journey: its steps are commands that are understood; what is done is skipped, and what changed is not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

from mobileclip import cli
from mobileclip.errors import GateFailed, MobileClipError, OutputError, TrainingError, UnknownName
from mobileclip.journey.products import hash_of, seen
from mobileclip.journey.recipes import RECIPES, Journey, planned, recipe_of
from mobileclip.journey.records import read, state_of
from mobileclip.journey.runner import build
from mobileclip.journey.steps import Step, rooted, steps_of
from mobileclip.journey.told import told

SHORT = (
    "scenes=60",
    "val_count=64",
    "size=64",
    "train.steps=4",
    "train.warmup=1",
    "train.batch=16",
    "train.save_every=1",
)
FEW = (*SHORT, "segmentation=", "depth=", "precision=", "targets=onnx", "devices=", "apps=")


@pytest.mark.parametrize("name", RECIPES)
def test_every_step_is_a_command_that_is_understood(name: str) -> None:
    journey, _ = planned(recipe_of(name))
    before = set[str]()
    for step in steps_of(journey):
        assert set(step.needs) <= before, step.name
        verb = tyro.cli(cli.Verb, args=[*step.arguments, "--json"])
        assert verb is not None
        before.add(step.name)
    assert {"captions", "pack", "train", "bundle", "verify", "bench", "latency", "app-web"} <= before


def test_fields_reach_the_journey_and_the_recipes_of_its_steps() -> None:
    journey = recipe_of("quickstart", ["scenes=7", "depth=", "train.steps=90", "captions.select.min_q=0.5"])
    steps = {step.name: step for step in steps_of(journey)}
    assert "7" in steps["scenes"].args
    assert "depth" not in steps
    assert steps["train"].arguments[-1] == "steps=90"
    assert steps["captions"].args[-2:] == ("--set", "select.min_q=0.5")
    assert steps["train"].needs == ("pack",)
    assert steps["bundle-small"].needs == ("photos",) or "train" in steps["bundle-small"].needs


@pytest.mark.parametrize(
    ("item", "timed"),
    [
        ("timed=", ("{bundle}", "{bundle-small}", "{bundle-segmentation}", "{bundle-depth}")),
        ("timed=bundle-depth,bundle", ("{bundle}", "{bundle-depth}")),
        ("timed=bundle-detection", None),
    ],
)
def test_bundles_that_are_timed(item: str, timed: tuple[str, ...] | None) -> None:
    steps = {step.name: step for step in steps_of(recipe_of("quickstart", ["depth=scenes-depth", item]))}
    if timed is None:
        assert not {"bench", "latency"} & set(steps)
    else:
        assert steps["bench"].args[1 : 1 + len(timed) + 1] == (*timed, "--device")


def test_a_launcher_starts_training() -> None:
    journey = recipe_of("quickstart", ["launch=torchrun --nproc-per-node 2"])
    command = {step.name: step.command for step in steps_of(journey)}
    assert command["train"][:5] == ("torchrun", "--nproc-per-node", "2", "-m", "mobileclip.cli")
    assert command["segmentation"][0] == "torchrun"
    assert command["bundle"][0] == "mobileclip"


def test_a_model_that_is_there_is_not_trained(tmp_path: Path) -> None:
    (tmp_path / "s2.pt").write_bytes(b"x")
    journey = rooted(recipe_of("quickstart", ["model=s2.pt", "segmentation=", "depth="]), tmp_path)
    steps = {step.name: step for step in steps_of(journey)}
    assert not {"captions", "pack", "train"} & set(steps)
    assert steps["bundle"].args[1] == f"{tmp_path}/s2.pt"
    assert steps["bundle"].inputs == (f"{tmp_path}/s2.pt",)
    assert steps["evaluate-bundles"].args[1] == f"{tmp_path}/s2.pt"


def test_the_users_paths_are_seen_from_the_runs_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "s2.pt").write_bytes(b"x")
    given = ["scenes=0", "shards=web/{000..127}.tar", "photos=photos", "segmentation=", "depth=", "train.init=s2.pt"]
    journey = rooted(recipe_of("quickstart", given), tmp_path)
    assert journey.shards == (f"{tmp_path}/web/{{000..127}}.tar",)
    steps = {step.name: step for step in steps_of(journey)}
    assert steps["captions"].inputs == (f"{tmp_path}/web/{{000..127}}.tar",)
    assert steps["bundle-small"].inputs == (f"{tmp_path}/photos",)
    assert f"{tmp_path}/s2.pt" in steps["train"].inputs
    assert not steps["train"].needs or steps["train"].needs == ("pack",)


@pytest.mark.parametrize(
    ("items", "text"),
    [
        (["scenes=0"], "it has no corpus: pass --shards with folders, globs or URLs of tars, or --set scenes=6000."),
        (["shards=web"], "scenes and shards are both given: leave one of them out."),
        (
            ["captions=", "captions.select.min_q=1"],
            "captions '' has options of captions.…, and no caption work is done.",
        ),
        (["scenes=0", "shards=web", "model=s2.pt"], "shards and a model are both given: leave one of them out."),
        (
            ["timed=bundle,bundles"],
            "timed names bundle, bundles: bundle, bundle-small, bundle-segmentation, bundle-detection, bundle-depth "
            "are allowed.",
        ),
        (["runs=1"], "runs is 1: at least 2."),
        (["gpus=0"], "gpus is 0: at least 1."),
        (["scenes=0", "shards=web"], "precision w8a8 needs pictures: --set photos=FOLDER, or precision= for none."),
        (
            ["scenes=0", "shards=web", "photos=x", "depth="],
            "segmentation has no data: --set segmentation_data=FOLDER, or segmentation= to leave it out.",
        ),
    ],
)
def test_journeys_that_cannot_begin(items: list[str], text: str) -> None:
    with pytest.raises(TrainingError) as caught:
        steps_of(recipe_of("quickstart", items))
    assert str(caught.value) == f"journey quickstart: {text}"


def test_mistakes_in_names(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown recipe 'quickstrat': did you mean 'quickstart'"):
        recipe_of("quickstrat")
    with pytest.raises(UnknownName, match="unknown field of a recipe 'scene': did you mean 'scenes'"):
        recipe_of("quickstart", ["scene=1"])
    with pytest.raises(UnknownName, match="unknown field of a recipe 'stepps': did you mean 'steps'"):
        steps_of(recipe_of("quickstart", ["train.stepps=1"]))
    with pytest.raises(TrainingError, match=r"'train\.steps' sets nothing: write FIELD=VALUE"):
        recipe_of("quickstart", ["train.steps"])
    with pytest.raises(TrainingError, match="val is nowhere, which does not exist: give a path that does"):
        rooted(recipe_of("quickstart", ["val=nowhere"]), tmp_path)
    with pytest.raises(MobileClipError, match="no step 'trian': this journey has scenes, photos, captions"):
        build(recipe_of("quickstart"), tmp_path / "run", until="trian")
    assert not (tmp_path / "run").exists()


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.binary(max_size=20), min_size=1, max_size=5))
def test_a_product_is_known_by_its_content(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    root = tmp_path_factory.mktemp("product")
    for name, data in files.items():
        (root / name).write_bytes(data)
    first, sight = hash_of(root), seen(root)
    for name, data in files.items():
        (root / name).write_bytes(data)
        os.utime(root / name, ns=(1, 1))
    assert hash_of(root) == first
    assert seen(root) != sight
    (root / next(iter(files))).write_bytes(b"another thing that is longer than all others")
    assert hash_of(root) != first


def test_patterns_and_what_is_not_there(tmp_path: Path) -> None:
    assert hash_of(tmp_path / "nothing") == seen(tmp_path / "nothing") == ""
    (tmp_path / "00000.tar").write_bytes(b"a")
    pattern = tmp_path / "{00000..00009}.tar"
    one = hash_of(pattern)
    assert one
    (tmp_path / "00001.tar").write_bytes(b"b")
    assert hash_of(pattern) not in ("", one)
    assert hash_of(tmp_path / "*.tar") == hash_of(pattern)


def test_answers_that_are_not_understood_are_told_as_done() -> None:
    assert told(Step(name="x", args=("train",)), {"step": "?"}) == "done"
    assert told(Step(name="x", args=("train",)), None) == "done"
    assert told(Step(name="x", args=("report", "{bench}", "--html", "{x}/a.html")), []) == "x/a.html"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Journey, Path]:
    """A short journey to verified artifacts, run once, and never written to."""
    journey, root = recipe_of("quickstart", FEW), tmp_path_factory.mktemp("build") / "run"
    done = build(journey, root)
    assert done.ran == [step.name for step in steps_of(journey)]
    return journey, root


@pytest.fixture
def run(finished: tuple[Journey, Path], tmp_path: Path) -> tuple[Journey, Path]:
    """A copy that a test may change; times of files are kept."""
    import shutil

    shutil.copytree(finished[1], tmp_path / "run", symlinks=True)
    return finished[0], tmp_path / "run"


def test_what_is_done_is_skipped_wherever_the_folder_lies(run: tuple[Journey, Path]) -> None:
    journey, root = run
    said = list[str]()
    done = build(journey, root, say=said.append)
    assert done.ran == []
    assert done.skipped == [step.name for step in steps_of(journey)]
    assert all(line.endswith("done already") for line in said)


def test_a_changed_recipe_runs_what_depends_on_it(run: tuple[Journey, Path]) -> None:
    journey, root = run
    other = replace(journey, options=(*journey.options, "train.steps=5"))
    assert state_of(root, steps_of(other))["pack"] == "done"
    assert state_of(root, steps_of(other))["bundle"] == "changed"
    before = json.loads((root / "train" / "last" / "config.json").read_text())["record"]["step"]
    done = build(other, root, until="evaluate", say=lambda line: None)
    assert done.skipped == ["scenes", "photos", "captions", "captions-page", "pack"]
    assert done.ran == ["train", "evaluate"]
    (aside,) = (root / "replaced").glob("train-*")
    assert json.loads((aside / "train" / "last" / "config.json").read_text())["record"]["step"] == before == 4
    assert json.loads((root / "train" / "last" / "config.json").read_text())["record"]["step"] == 5


def test_a_product_that_was_changed_is_made_again(run: tuple[Journey, Path]) -> None:
    journey, root = run
    model = root / "bundle" / "image.onnx"
    whole = model.read_bytes()
    model.write_bytes(whole[:-1] + b"!")
    assert state_of(root, steps_of(journey))["bundle"] == "changed"
    done = build(journey, root, until="verify", say=lambda line: None)
    assert done.ran == ["bundle", "verify"]
    assert model.read_bytes() == whole
    assert len(list((root / "replaced").iterdir())) == 1


def test_touched_files_are_not_changed_ones(run: tuple[Journey, Path]) -> None:
    journey, root = run
    for path in (root / "bundle").rglob("*"):
        os.utime(path)
    assert build(journey, root, say=lambda line: None).ran == []


def test_the_page_tells_what_was_reached(finished: tuple[Journey, Path]) -> None:
    page = (finished[1] / "report.html").read_text()
    record = read(finished[1], "evaluate")["answer"]["results"][0]
    assert f"top-1 {record['top1']:.1%}" in page
    assert "mobileclip export train/last --out bundle" in page
    assert "bundle/image.onnx" in page
    assert 'href="captions-page/captions.html"' in page
    assert "<script" not in page
    assert "http" not in page.partition("<body")[2]
    log = (finished[1] / "log.txt").read_text()
    assert "train | $ mobileclip train nano-scenes --shards pack" in log
    assert "verify | exit code 0" in log


def test_a_steps_mistake_is_told_and_nothing_after_it_runs(run: tuple[Journey, Path], tmp_path: Path) -> None:
    journey, root = run
    (tmp_path / "empty").mkdir()
    other = replace(journey, val=str(tmp_path / "empty"))
    with pytest.raises(MobileClipError, match=r"^step 'evaluate': .*empty"):
        build(other, root, say=lambda line: None)
    record = read(root, "evaluate")
    assert record["state"] == "failed"
    assert record["code"] == 2
    page = (root / "report.html").read_text()
    assert "failed" in page
    assert record["said"].split(": ", 1)[1][:40] in page


def test_a_gate_that_fails_is_told(run: tuple[Journey, Path]) -> None:
    journey, root = run
    checkpoint = root / "train" / "last" / "model.safetensors"
    data = bytearray(checkpoint.read_bytes())
    data[-4000:-2000] = os.urandom(2000)
    checkpoint.write_bytes(bytes(data))
    record = read(root, "train")
    record["product"], record["seen"] = hash_of(root / "train" / "last"), seen(root / "train" / "last")
    (root / "steps" / "train.json").write_text(json.dumps(record))
    bundle = read(root, "bundle")
    from mobileclip.journey.records import key_of

    steps = {step.name: step for step in steps_of(journey)}
    bundle["key"] = key_of(root, steps["bundle"])  # as if the bundle were of these weights, which it is not
    (root / "steps" / "bundle.json").write_text(json.dumps(bundle))
    with pytest.raises((GateFailed, MobileClipError), match=r"^step '(evaluate|verify)'"):
        build(journey, root, say=lambda line: None)


def test_one_build_in_a_folder(run: tuple[Journey, Path]) -> None:
    import fcntl

    with (run[1] / ".build").open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match=r"another build works in .*: wait for it, or take another folder"):
            build(*run)


def command(root: Path) -> list[str]:
    items = ("--set", *FEW)
    return [sys.executable, "-m", "mobileclip.cli", "build", "quickstart", "--out", str(root), *items]


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM], ids=lambda sign: sign.name)
def test_killed_and_started_again_it_ends_in_the_same(
    sign: signal.Signals, finished: tuple[Journey, Path], tmp_path: Path
) -> None:
    """Three kills at random moments of a journey of fifteen seconds or more; then to the end."""
    root, rng, killed = tmp_path / "run", random.Random(sign), 0
    while killed < 3:
        child = subprocess.Popen(command(root), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            child.wait(rng.uniform(2, 9))
        except subprocess.TimeoutExpired:
            child.send_signal(sign)
            assert child.wait(60) in (130, -sign)  # the signal itself, before anything is begun
            killed += 1
            continue
        assert child.returncode == 0
        break
    done = subprocess.run(command(root), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    manifests = [json.loads((path / "bundle" / "manifest.json").read_text()) for path in (finished[1], root)]
    shas = [{entry["file"]: entry["sha256"] for entry in manifest["artifacts"]} for manifest in manifests]
    assert shas[0] == shas[1]
    assert not (root / "replaced").exists()
    assert [path.name for path in root.glob(".*partial*")] == []


def test_what_a_kill_leaves_behind_ends(tmp_path: Path) -> None:
    """The step of a build that was killed is gone before another begins to work."""
    root = tmp_path / "run"
    child = subprocess.Popen(command(root), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600
    while not (root / "steps" / "photos.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    group = int((root / ".steps").read_text())
    child.kill()
    child.wait()
    done = subprocess.run([*command(root), "--until", "pack"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)


def test_the_command(finished: tuple[Journey, Path], tmp_path: Path) -> None:
    def said(*args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "mobileclip.cli", "build", *args]
        done = subprocess.run(program, capture_output=True, text=True, timeout=300, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        return done

    root = str(finished[1])
    assert json.loads(said("quickstart", "--show").stdout)["scenes"] == 5000
    steps = json.loads(said("quickstart", "--out", root, "--set", *FEW, "--plan", "--json").stdout)["steps"]
    assert {step["state"] for step in steps} == {"done"}
    needed = said("mci2-real", "--plan").stdout
    assert "still to be given: --shards SHARDS, --set photos=PHOTOS" in " ".join(needed.split())
    again = json.loads(said("quickstart", "--out", root, "--set", *FEW, "--json").stdout)
    assert again["ran"] == []
    assert again["page"] == f"{root}/report.html"
    wrong = said("quickstrat", code=2)
    assert wrong.stderr.startswith("mobileclip build: unknown recipe 'quickstrat': did you mean 'quickstart'?")
