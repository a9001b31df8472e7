"""What is released: a wheel that works where no checkout is, licences, workflows, and what CONTRIBUTING says."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import mobileclip

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = ("mobileclip", "export", "benchmarks")
NOT_SHIPPED = shutil.ignore_patterns("results", "node_modules", "dist", "test", "__pycache__", ".*")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
BUILD = "import setuptools.build_meta as backend, sys; print(backend.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what is shipped, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=NOT_SHIPPED)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel; only what the wheel asks for is seen of this one, not this checkout."""
    env = tmp_path_factory.mktemp("elsewhere") / "env"
    subprocess.run([sys.executable, "-m", "venv", str(env)], check=True)
    pip = [env / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel]
    subprocess.run(list(map(str, pip)), check=True)
    (site,) = (env / "lib").glob("python*/site-packages")
    # a path in a .pth file is searched, and the .pth files in it, which lead to the checkout, are not read
    (site / "tools.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return env


def run(env: Path, *args: str, cwd: Path, code: int = 0, command: str = "mobileclip") -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(env / "bin" / command), *args], cwd=cwd, env=clean, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == code, done.stdout[-1000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_the_wheel_holds_all_that_is_needed(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    skipped = re.compile(r"(^|/)(results|node_modules|dist|test|__pycache__|\.[^/]*)(/|$)")
    for package in PACKAGES:
        there = {path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*") if path.is_file()}
        assert {name for name in there if not skipped.search(name)} <= held
    for name in ("export/manifest.schema.json", "benchmarks/result.schema.json", "benchmarks/page/index.html"):
        assert name in held
    assert any(name.startswith("benchmarks/runner/") and name.endswith(".cpp") for name in held)
    assert not [name for name in held if name.split("/")[0] not in PACKAGES and ".dist-info/" not in name]


def test_the_wheel_tells_what_it_is(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    info = f"mobileclip_toolkit-{mobileclip.__version__}.dist-info"
    about = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    assert about["License-Expression"] == "MIT"
    assert about["Version"] == mobileclip.__version__
    asked = {str(Requirement(line)) for line in about.get_all("Requires-Dist") or [] if "extra ==" not in line}
    assert asked == {str(Requirement(line)) for line in PROJECT["project"]["dependencies"]}
    for name in ("LICENSE", "NOTICE"):
        assert archive.read(f"{info}/licenses/{name}") == (ROOT / name).read_bytes()


@pytest.fixture(scope="session")
def exported(elsewhere: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, far from the checkout, with the bundle `x` that the wheel's command made."""
    folder = tmp_path_factory.mktemp("anywhere")
    run(elsewhere, "export", "seeded:nano", "--to", "onnx", "--jobs", "1", "--out", "x", cwd=folder)
    return folder


def test_nothing_of_the_checkout_is_used(elsewhere: Path, tmp_path: Path) -> None:
    program = "import mobileclip, export, benchmarks; print(*(m.__file__ for m in (mobileclip, export, benchmarks)))"
    places = run(elsewhere, "-c", program, cwd=tmp_path, command="python").split()
    assert len(places) == 3
    assert all(Path(place).is_relative_to(elsewhere) for place in places), places
    assert run(elsewhere, "--version", cwd=tmp_path).startswith(f"mobileclip {mobileclip.__version__}\n")


def test_the_wheel_exports_and_verifies(elsewhere: Path, exported: Path) -> None:
    assert (exported / "x" / "MODEL_CARD.md").is_file()
    assert "passed" in run(elsewhere, "verify", "x", cwd=exported)


def test_the_wheel_measures_and_reports(elsewhere: Path, exported: Path) -> None:
    few = ("--against", "none", "--runs", "3", "--seconds", "0.1", "--out", "results")
    assert "shorter than the protocol" in run(elsewhere, "bench", "x", *few, cwd=exported)
    run(elsewhere, "report", "results", "--html", "latency.html", cwd=exported)
    assert "<html" in (exported / "latency.html").read_text(encoding="utf-8")


def test_the_wheel_has_no_apps_and_says_so(elsewhere: Path, exported: Path) -> None:
    refused = run(elsewhere, "apps", "install", "web", "x", cwd=exported, code=2)
    assert refused.startswith("mobileclip apps: there is no web app here (apps/web/public/bundle has no place): ")
    assert refused.count("\n") == 1
    run(elsewhere, "apps", "install", "web", "x", "--into", "site", cwd=exported)
    assert (exported / "site" / "merges.txt").is_file()


def test_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    """The wheel and what it asks for, by uv from its cache alone, with nothing of this environment in sight."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    cache = subprocess.run([uv, "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    if not Path(cache).is_dir() or Path(cache).stat().st_dev != tmp_path.stat().st_dev:
        pytest.skip("uv's cache is on another disk: some gigabytes would be copied")
    env = tmp_path / "env"
    subprocess.run([uv, "venv", "--quiet", "--offline", "--python", sys.executable, str(env)], check=True)
    where = ["--python", str(env / "bin" / "python"), "--constraint", str(ROOT / "constraints.txt")]
    install = [uv, "pip", "install", "--quiet", "--offline", *where, str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True)
    try:
        if done.returncode:
            pytest.skip(f"not all is in uv's cache: {done.stderr.strip().splitlines()[-1:]}")
        assert "tested with" not in run(env, "--version", cwd=tmp_path)
        run(env, "export", "seeded:nano", "--to", "onnx", "--view", "image", "--jobs", "1", "--out", "x", cwd=tmp_path)
        assert (tmp_path / "x" / "manifest.json").is_file()
    finally:
        shutil.rmtree(env)


def test_versions_agree() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == mobileclip.__version__
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    for line in PROJECT["project"]["dependencies"]:
        wanted = Requirement(line)
        name = wanted.name.lower().replace("_", "-").replace(".", "-")
        assert wanted.specifier.contains(pins[name]), f"constraints.txt pins {name} {pins[name]}, wanted {wanted}"


def test_notice_names_what_bundles_and_apps_hold() -> None:
    from export.licences import CLIP_TOKENIZER, OPEN_CLIP

    text = " ".join((ROOT / "NOTICE").read_text(encoding="utf-8").split())
    assert CLIP_TOKENIZER in text
    assert OPEN_CLIP in text
    for name in ("Apple ML Research Model License", "executorch-android", "onnxruntime-web", "XNNPACK", "timm"):
        assert name in text
    assert (ROOT / "apps" / "golden" / "merges.txt").is_file()


def targets_of_make() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows(path: Path) -> None:
    """Valid, with actions pinned to a major version; they run what is there."""
    text = path.read_text(encoding="utf-8")
    flow = yaml.safe_load(text)
    assert set(flow) >= {"name", "jobs"}
    for job in flow["jobs"].values():
        assert job["runs-on"]
        assert 0 < job["timeout-minutes"] <= 90
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w/-]+@v\d+", step["uses"]), step["uses"]
            run_here = step.get("run", "")
            assert set(re.findall(r"\bmake ([a-z]+)", run_here)) <= targets_of_make(), run_here
            for file in re.findall(r"(?:sh|bash) ([\w./-]+)", run_here):
                assert (ROOT / file).is_file(), file
            place = ROOT / step.get("working-directory", ".")
            assert place.is_dir(), place


def test_every_promised_python_and_system_is_tested() -> None:
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]["test"]
    matrix = job["strategy"]["matrix"]
    promised = Requirement(f"python{PROJECT['project']['requires-python']}").specifier
    assert sorted(matrix["python"]) == [f"3.{minor}" for minor in range(20) if promised.contains(f"3.{minor}")]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos"}
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert any(command.startswith("make lint") for command in commands)
    assert any(command.startswith("make test") for command in commands)
    on_mac = (ROOT / "tests" / "export" / "test_coreml_on_mac.py").read_text(encoding="utf-8")
    assert 'skipif(sys.platform != "darwin"' in on_mac


def defined(path: Path) -> set[str]:
    """Names that a module defines at its top."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        for target in [*getattr(node, "targets", ()), getattr(node, "target", None)]:
            if isinstance(target, ast.Name):
                names.add(target.id)
    return names


def test_contributing_speaks_of_what_is_there() -> None:
    """Every path is there, and every name stands in the file before it."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "/" in line]
    assert len(rows) >= 20
    for what in ("model", "target", "caption policy", "dense head", "device", "precision", "study"):
        assert any(row.startswith(f"| a {what} ") for row in rows), what
    for row in rows:
        paths = re.findall(r"`([\w./-]+/[\w./-]*)`", row)
        assert paths, row
        for name in paths:
            assert (ROOT / name).exists(), f"{name} of: {row}"
        for name, listed in re.findall(r"`([\w./-]+\.py)` \(((?:`\w+`(?:, )?)+)\)", row):
            missing = set(re.findall(r"`(\w+)`", listed)) - defined(ROOT / name)
            assert not missing, f"{name} defines no {missing}"


def test_contributing_is_complete() -> None:
    """Every table of entries that it sends to is one that exists by that name; each was seen by the test above."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name in ("MODELS", "TOWERS", "TARGETS", "PRESETS", "REWRITES", "POLICIES", "HEADS", "PYRAMIDS", "STAGES", "ON"):
        assert f"`{name}`" in text
