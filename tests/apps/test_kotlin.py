"""The Kotlin kit and the Android app, compiled and tested by Maven with what Maven Central has (tests/kotlin.sh)."""

import json
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.protocol import checked

ROOT = Path(__file__).parents[2]
ANDROID = ROOT / "apps" / "android"
NAMESPACE = "{http://schemas.android.com/apk/res/android}"


@pytest.fixture(scope="module")
def told() -> str:
    """What the script printed; skipped where it says that it cannot run."""
    found = subprocess.run(
        ["sh", str(ROOT / "tests" / "kotlin.sh")], capture_output=True, text=True, timeout=2400, check=False
    )
    print(found.stdout, found.stderr)
    if found.returncode == 77:
        pytest.skip(found.stderr.strip().removeprefix("skipped: "))
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_kit_and_app_pass(told: str) -> None:
    totals = [
        tuple(map(int, numbers))
        for numbers in re.findall(
            r"Tests run: (\d+), Failures: (\d+), Errors: (\d+), Skipped: (\d+)$", told, re.MULTILINE
        )
    ]
    assert len(totals) == 2, told  # of the kit, of the app
    for run, *others in totals:
        assert run >= 15
        assert others == [0, 0, 0]
    assert "BUILD SUCCESS" in told


@pytest.mark.parametrize("name", ["kit/target/result.json", "app/target/app-result.json"])
def test_results_are_those_of_every_device(told: str, name: str) -> None:
    result = checked(json.loads((ANDROID / name).read_text(encoding="utf-8")), name)
    assert result["device"]["kind"] == "android"
    assert result["state"] == "complete"
    assert all(side["known_answer"]["right"] for side in result["sides"])


def test_nothing_can_leave_the_device() -> None:
    manifest = ElementTree.parse(ANDROID / "app" / "src" / "main" / "AndroidManifest.xml").getroot()
    asked = {item.get(f"{NAMESPACE}name") for item in manifest.iter("uses-permission")}
    assert "android.permission.CAMERA" in asked
    assert "android.permission.INTERNET" not in asked


def test_versions_are_the_same_in_both_builds() -> None:
    """The Maven build, which is for tests, against the one that makes the app."""
    gradle = (ANDROID / "gradle" / "libs.versions.toml").read_text(encoding="utf-8")
    maven = (ANDROID / "pom.xml").read_text(encoding="utf-8")
    for name in ("kotlin", "junit"):
        version = re.search(rf'^{name} = "([^"]+)"', gradle, re.MULTILINE)
        assert version is not None
        assert f"<{name}.version>{version[1]}</{name}.version>" in maven


def test_the_script_refuses_what_it_does_not_know() -> None:
    found = subprocess.run(
        ["sh", str(ROOT / "tests" / "kotlin.sh"), "everything"], capture_output=True, text=True, check=False
    )
    if found.returncode == 77:
        pytest.skip(found.stderr.strip())
    assert found.returncode == 2
    assert found.stderr == "everything is unknown: give kit, speed, or nothing.\n"
