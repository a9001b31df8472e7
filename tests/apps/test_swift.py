"""The Swift kit against the golden vectors, its speed, its result JSON; the Xcode project's references."""

import json
import os
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

import export
from benchmarks.protocol import checked

ROOT = Path(__file__).parents[2]
IOS = ROOT / "apps" / "ios"
PROJECT = IOS / "MobileCLIP.xcodeproj" / "project.pbxproj"
CAPTIONS_MS, SEARCH_MS = 50, 20
"""Processor time that 1,000 captions and a search of 100,000 embeddings may take."""


@pytest.fixture(scope="module")
def swift(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The lines that the script prints, and where the result JSON lies."""
    folder = tmp_path_factory.mktemp("swift")
    result = folder / "result.json"
    bundle = export.export("seeded:nano", ["coreml"], folder / "nano")
    run = subprocess.run(
        ["sh", str(ROOT / "tests" / "swift.sh")],
        capture_output=True,
        text=True,
        env={**os.environ, "MOBILECLIP_RESULT": str(result), "MOBILECLIP_BUNDLES": str(bundle)},
    )
    if run.returncode == 77:
        pytest.skip(run.stdout.strip().splitlines()[-1])
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    return run.stdout.strip().splitlines(), result


def test_the_kit_passes_the_golden_vectors(swift: tuple[list[str], Path]) -> None:
    lines, _ = swift
    print(lines[-1])
    found = re.fullmatch(r"passed: (\d+) tests of the kit, (\d+) sources parsed", lines[-1])
    assert found, lines
    assert int(found[1]) >= 34  # among them the one that reads the exported bundle
    sources = [*(IOS / "App").rglob("*.swift"), *(IOS / "MobileCLIPKit" / "Sources").rglob("*.swift")]
    assert int(found[2]) == len(sources)


def test_the_kit_is_fast(swift: tuple[list[str], Path]) -> None:
    lines, _ = swift
    figures = json.loads(next(line for line in lines if line.startswith("{")))
    print(figures)
    assert 0 < figures["tokenise_1000_captions_ms"] < CAPTIONS_MS
    assert 0 < figures["search_100000_int8_ms"] < SEARCH_MS
    assert figures["search_100000_signs_first_ms"] < figures["search_100000_int8_ms"]


def test_the_result_is_of_the_schema(swift: tuple[list[str], Path]) -> None:
    _, file = swift
    result = checked(json.loads(file.read_text()), "the kit's result")
    assert result["state"] == "complete"
    assert [side["known_answer"]["right"] for side in result["sides"]] == [True, True]
    assert all(len(side["steady_ms"]) == 60 for side in result["sides"])


def objects() -> dict[str, dict[str, Any]]:
    """The project's objects: id -> its isa and its fields, as text."""
    text = PROJECT.read_text()
    found = {}
    for match in re.finditer(r"^\t\t(C119\w{20})(?: /\*.*?\*/)? = \{(.*?)\};$", text, re.MULTILINE | re.DOTALL):
        fields = dict(re.findall(r"(\w+) = (\"(?:[^\"\\]|\\.)*\"|[^;{(]+?)(?: /\*[^*]*\*/)?;", match[2]))
        found[match[1]] = {key: value.strip('"') for key, value in fields.items()} | {"text": match[2]}
    return found


def test_every_reference_of_the_project_is_defined() -> None:
    held, text = objects(), PROJECT.read_text()
    used = set(re.findall(r"C119\w{20}", text))
    assert used == set(held), used ^ set(held)
    for identifier in held:
        assert len(re.findall(identifier, text)) >= 2, f"{identifier} is used nowhere"
    assert text.count("{") == text.count("}")
    assert text.count("(") == text.count(")")
    kinds = {item["isa"] for item in held.values()}
    assert {"PBXNativeTarget", "PBXFileSystemSynchronizedRootGroup", "XCLocalSwiftPackageReference"} <= kinds


def test_every_path_of_the_project_exists() -> None:
    paths = []
    for item in objects().values():
        if item["isa"] == "PBXFileSystemSynchronizedRootGroup" or item.get("sourceTree") == "SOURCE_ROOT":
            paths.append(item["path"])
        if item["isa"] == "XCLocalSwiftPackageReference":
            paths.append(item["relativePath"])
    assert len(paths) == 5
    for path in paths:
        assert not Path(path).is_absolute()
        assert (IOS / path).exists(), path
    text = PROJECT.read_text()
    assert not re.search(r"/(Users|home|Volumes|Applications)/", text)
    assert "objectVersion = 77;" in text
    # every Swift file is in a group that a target has: none is forgotten
    groups = [IOS / path for path in paths if path.startswith("App/")]
    for file in (IOS / "App").rglob("*.swift"):
        assert any(file.is_relative_to(group) for group in groups), file
    for key in ("NSCameraUsageDescription", "NSPhotoLibraryUsageDescription"):
        assert text.count(f"INFOPLIST_KEY_{key}") == 2


def test_the_scheme_names_the_project_s_targets() -> None:
    scheme = IOS / "MobileCLIP.xcodeproj" / "xcshareddata" / "xcschemes" / "MobileCLIP.xcscheme"
    held = objects()
    names = set()
    for reference in ElementTree.parse(scheme).iter("BuildableReference"):  # a file of this project
        assert held[reference.attrib["BlueprintIdentifier"]]["name"] == reference.attrib["BlueprintName"]
        names.add(reference.attrib["BlueprintName"])
    assert names == {"MobileCLIP", "MobileCLIPBenchmarks"}


def test_the_installed_bundle_is_where_the_project_copies_it_from() -> None:
    from export.install import APPS

    assert "App/Resources/bundle" in PROJECT.read_text()
    assert (ROOT / APPS["ios"].folder).parent == IOS / "App" / "Resources"
    engine = (IOS / "App" / "Sources" / "Engine.swift").read_text()
    for target in APPS["ios"].targets:
        assert f'"{target}"' in engine
