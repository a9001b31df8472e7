"""Every command of the documentation and of the help texts is run, small, in one folder where its names are there.

They run in the order of reading, since one makes what the next one takes; each in this process, by the command's own
`main`, in the folder of the world. What this machine cannot do says so, and that is what is asserted then.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import world as worlds
from commands import ROOT, SMALLER_PYTHON, Command, blocks, commands, pages, parsed, small, values_of

from benchmarks.__main__ import STUDIES
from mobileclip import cli

COMMANDS = commands()
OWN = [command for command in COMMANDS if command.own]
REFUSED: Mapping[str, str] = {
    "--device adb": r"no (Android )?device .*connected|adb is not installed",
    "--device iphone": "an iPhone is measured from a Mac with Xcode",
    "--serve": "the page cannot be served at 192.0.2.1|npm",
}
"""Part of a command that wants what is not here -> what it says, with exit code 2."""
READ_ONLY: Mapping[str, str] = {
    "npm": "tests/apps/test_web.py installs, builds and tests the app",
    "cd": "",
    "make": "it installs everything; its commands are read by their parser",
}
"""First word of a command that is not run here -> why."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = worlds.make(tmp_path_factory.mktemp("documented"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("SLURM_ARRAY_TASK_ID", "0")
        patch.setenv("SLURM_ARRAY_TASK_COUNT", "1")
        yield root


@pytest.fixture(scope="module")
def done() -> set[tuple[str, ...]]:
    """What was run already, as it was run."""
    return set()


def run(argv: tuple[str, ...]) -> int:
    """In this process, in the place of what is there already."""
    if argv[0] in ("train", "finetune", "export", "pack"):
        shutil.rmtree((values_of(argv, "--out") or argv[2:3])[0], ignore_errors=True)
    if "any.mlpackage" in argv and not Path("any.mlpackage").exists():
        worlds.single_files(Path())
    try:
        return cli.main(argv)
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.mark.parametrize("command", OWN, ids=lambda command: command.line)
def test_command(command: Command, world: Path, done: set[tuple[str, ...]], capsys: pytest.CaptureFixture[str]) -> None:
    parsed(command.own)
    if "browser" in command.own and not (shutil.which("npm") and shutil.which("chromium")):
        pytest.skip("npm or Chromium is not here")
    if "iphone" in command.own and sys.platform == "darwin":
        pytest.skip("a Mac measures a phone, if there is one")
    argv = small(command.own)
    if argv in done:
        return
    done.add(argv)
    refused = next((why for part, why in REFUSED.items() if part in command.line), None)
    code = run(argv)
    said = capsys.readouterr().err
    assert code == (2 if refused else 0), said[-2000:]
    assert refused is None or re.search(refused, said)


def test_two_ranks(world: Path) -> None:
    command = next(one for one in OWN if one.argv[0] == "torchrun")
    words = [*small(command.own), "--out", "runs/ranks"]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    done = subprocess.run(
        [*start, "mobileclip.cli", *words], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, "\n".join(line for line in done.stderr.splitlines() if "Error" in line)
    assert (world / "runs" / "ranks" / "last" / "model.safetensors").is_file()


@pytest.mark.parametrize("page", [page for page in pages() if list(blocks(page, "python"))], ids=lambda page: page.name)
def test_python(page: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for block in blocks(page, "python"):
        for text, smaller in SMALLER_PYTHON.items():
            block = block.replace(text, smaller)
        exec(compile(block, page.name, "exec"), {"__name__": "documented"})


def test_other_programs() -> None:
    """What they are asked for is there; make's own commands can be read."""
    folder = ROOT
    others = [command for command in COMMANDS if not command.own]
    assert {command.argv[0] for command in others} <= set(READ_ONLY)
    for command in others:
        words = command.argv
        if words[0] == "cd":
            folder = ROOT / words[1]
            assert folder.is_dir()
        elif words[0] == "npm":
            scripts = json.loads((folder / "package.json").read_text(encoding="utf-8"))["scripts"]
            assert words[1] == "install" or words[-1] in scripts, command.line
        else:
            told = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True)
            for line in told.stdout.splitlines():
                found = re.search(r"\.venv/bin/mobileclip (.*)", line)
                if found:
                    parsed(shlex.split(found[1]))


def test_commands_in_sentences_are_there() -> None:
    """`mobileclip VERB …` and `python -m benchmarks A|B` name verbs and studies that are known."""
    verbs = {command.own[0] for command in OWN}
    for page in pages():
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for verb in re.findall(r"`mobileclip ([a-z]+)", text):
            assert verb in verbs, (page.name, verb)
        for names in re.findall(r"`python -m benchmarks ([a-z0-9_|]+)", text):
            assert set(names.split("|")) <= {*STUDIES, "report"}, (page.name, names)
