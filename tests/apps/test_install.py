"""A bundle into an app: what is copied, what is said of it, what is refused, and that nothing is left half-written."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from export import manifest
from export.bundle import read_array
from export.install import APPS, install
from export.manifest import Bundle
from mobileclip.errors import BundleError, MobileClipError, OutputError, UnknownName
from mobileclip.tokenizer import tokenizer_hash

ROOT = Path(__file__).parents[2]
GOOD = ROOT / "apps" / "golden" / "bundles" / "good"
module = import_module("export.install")
Change = Callable[[dict[str, Any]], None]


def changed(into: Path, change: Change | None = None) -> Path:
    """A copy of the good bundle, with something else in its manifest."""
    shutil.copytree(GOOD, into)
    if change is not None:
        whole = json.loads((into / "manifest.json").read_text(encoding="utf-8"))
        change(whole)
        manifest.write(into, whole)
    return into


def with_fewer_bits(into: Path) -> Path:
    """The good bundle as one of w8a8, with a known answer of its integers."""

    def change(whole: dict[str, Any]) -> None:
        for entry in whole["artifacts"]:
            answer = {"file": f"known_answer/{entry['view']}.w8a8.bin", "dtype": "float32", "shape": [1, 4]}
            shutil.copyfile(GOOD / f"known_answer/{entry['view']}.output.bin", into / answer["file"])
            whole["files"][answer["file"]] = manifest.sha256_of(into / answer["file"])
            entry["precision"] = "w8a8"
            entry["quantisation"] = {"calibration": 1, "held_out": 1, "known_answer": {"output": answer}}

    return changed(into, change)


def test_web_gets_what_it_runs_and_nothing_else(tmp_path: Path) -> None:
    found = install("web", GOOD, into=tmp_path / "bundle")
    assert found.artifacts == ("image.onnx", "text.onnx")
    assert found.warnings == ()
    assert found.bytes == manifest.size_of(found.folder)
    bundle = Bundle.open(found.folder)
    assert {entry["target"] for entry in bundle.manifest["artifacts"]} == {"onnx"}
    assert "image.mlpackage" not in {item.name for item in found.folder.iterdir()}
    assert bundle.manifest["files"]["merges.txt"] == bundle.manifest["tokenizer"]["sha256"] == tokenizer_hash()
    assert (found.folder / "merges.txt").read_bytes() == (ROOT / "apps/golden/merges.txt").read_bytes()
    words = json.loads((found.folder / "labels.json").read_text(encoding="utf-8"))
    assert words["labels"] == ["cat", "dog", "red car"]
    assert (found.folder / "LICENSES").is_file()
    for view in ("image", "text"):
        answer = bundle.manifest["known_answer"][view]
        session = onnxruntime.InferenceSession(found.folder / f"{view}.onnx", providers=["CPUExecutionProvider"])
        (output,) = session.run(None, {view: read_array(found.folder, answer["input"])})
        np.testing.assert_allclose(output, read_array(found.folder, answer["output"]), atol=1e-6)
    assert [item.name for item in tmp_path.iterdir()] == ["bundle"]


def test_ios_gets_a_package_and_only_its_known_answer(tmp_path: Path) -> None:
    found = install("ios", GOOD, into=tmp_path / "bundle")
    assert found.artifacts == ("image.mlpackage",)
    assert "there is no text tower in it: the app can neither classify by words nor search." in found.warnings
    bundle = Bundle.open(found.folder)
    assert set(bundle.manifest["known_answer"]) == {"image"}
    assert (found.folder / "image.mlpackage" / "Data" / "com.apple.CoreML" / "model.mlmodel").is_file()
    assert not (found.folder / "known_answer" / "text.input.bin").exists()


def test_a_real_bundle_for_every_app(nano_bundle: Path, tmp_path: Path) -> None:
    for app in APPS:
        found = install(app, nano_bundle, into=tmp_path / app)
        views = {entry["view"]: entry["target"] for entry in Bundle.open(found.folder).manifest["artifacts"]}
        assert views == dict.fromkeys(("image", "text"), APPS[app].targets[0])
    both = install("ios", nano_bundle, into=tmp_path / "both", targets=("coreml", "executorch-xnnpack"))
    assert set(both.artifacts) == {"image.mlpackage", "text.mlpackage", "image.xnnpack.pte", "text.xnnpack.pte"}


def test_with_fewer_bits_beside(tmp_path: Path) -> None:
    small = with_fewer_bits(tmp_path / "int8")
    found = install("web", GOOD, into=tmp_path / "bundle", small=small)
    assert found.artifacts == ("image.onnx", "text.onnx", "small/image.onnx", "small/text.onnx")
    bundle = Bundle.open(found.folder)
    entry = next(item for item in bundle.manifest["artifacts"] if item["file"] == "small/image.onnx")
    answer = entry["quantisation"]["known_answer"]["output"]
    assert answer["file"] == "small/known_answer/image.w8a8.bin"
    np.testing.assert_array_equal(
        read_array(found.folder, answer), read_array(small, {**answer, "file": answer["file"][6:]})
    )
    alone = install("web", small, into=tmp_path / "alone")
    assert Bundle.open(alone.folder).manifest["artifacts"][0]["precision"] == "w8a8"


def test_a_bundle_that_is_there_is_replaced_and_other_things_are_not(tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    install("ios", GOOD, into=place)
    install("web", GOOD, into=place)
    assert not (place / "image.mlpackage").exists()
    install("web", place, into=place)  # into itself
    assert Bundle.open(place).manifest["artifacts"][0]["file"] == "image.onnx"
    mine = tmp_path / "mine"
    mine.mkdir()
    install("web", GOOD, into=mine)  # empty: taken
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    with pytest.raises(
        OutputError, match="holds something that is no bundle: choose another place, or empty it yourself"
    ):
        install("web", GOOD, into=other)
    assert (other / "letter.txt").read_text() == "dear"


def _android(whole: dict[str, Any]) -> None:
    for entry in whole["artifacts"][:2]:
        entry["target"] = "executorch-xnnpack"


def _other_android(whole: dict[str, Any]) -> None:
    _android(whole)
    whole["model"]["name"] = "a+b@64"


def test_the_android_app_gets_fewer_bits_as_a_bundle_of_its_own(tmp_path: Path) -> None:
    bundle = changed(tmp_path / "in", _android)
    small = with_fewer_bits(tmp_path / "int8")
    whole = json.loads((small / "manifest.json").read_text(encoding="utf-8"))
    _android(whole)
    manifest.write(small, whole)
    found = install("android", bundle, into=tmp_path / "out", small=small)
    assert found.beside == tmp_path / "out-small"
    assert found.bytes == manifest.size_of(found.folder) + manifest.size_of(found.beside)
    assert {entry["precision"] for entry in Bundle.open(found.folder).manifest["artifacts"]} == {"fp32"}
    assert {entry["precision"] for entry in Bundle.open(found.beside).manifest["artifacts"]} == {"w8a8"}
    whole["artifacts"][1].update(quantisation=None, precision="fp32")
    manifest.write(small, whole)
    with pytest.raises(
        BundleError, match="has no text view with fewer bits, and this app needs both whole: export all"
    ):
        install("android", bundle, into=tmp_path / "out", small=small)


def test_the_apps_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "apps" / "android").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    bundle = changed(tmp_path / "in", _android)
    found = install("android", bundle)
    assert found.folder == tmp_path / "apps/android/app/src/main/assets/bundles/golden"
    assert found.warnings == ()
    other = changed(tmp_path / "other", _other_android)
    found = install("android", other)
    assert found.folder.name == "a-b-64"
    assert f"the app also holds golden: remove from {found.folder.parent} what is not wanted." in found.warnings
    monkeypatch.setattr(module, "__file__", str(tmp_path / "nowhere" / "export" / "install.py"))
    with pytest.raises(
        OutputError, match=r"there is no web app here \(apps/web/public/bundle has no place\): start this"
    ):
        install("web", GOOD)


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "bundle"
    install("web", GOOD, into=place)
    before = sorted(path.relative_to(place) for path in place.rglob("*"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_finish", full)
    with pytest.raises(OSError, match="No space left"):
        install("ios", GOOD, into=place)
    assert sorted(path.relative_to(place) for path in place.rglob("*")) == before
    Bundle.open(place)
    assert [item.name for item in tmp_path.iterdir()] == ["bundle"]


def test_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(whole: dict[str, Any]) -> None:
        whole["model"]["checkpoint"].update(research_only=True, licence="apple-amlr", source="mobileclip_s2.pt")
        whole["artifacts"][0]["gate"]["passed"] = False

    bundle = changed(tmp_path / "in", change)
    monkeypatch.setitem(APPS, "web", module.App(**{**vars(APPS["web"]), "most": 1000}))  # type: ignore[index]
    told = " ".join(install("web", bundle, into=tmp_path / "out").warnings)
    assert (
        "the weights of mobileclip_s2.pt are for research only (apple-amlr): do not ship this app in a product." in told
    )
    assert "everyone who opens the page loads all of it" in told
    assert "Export it with fewer bits (--precision), or a smaller model." in told
    assert "image.onnx missed its gate when it was exported: its answers will differ from the model's." in told


def _name(whole: dict[str, Any]) -> None:
    whole["artifacts"][0]["inputs"][0]["name"] = "picture"


def _dtype(whole: dict[str, Any]) -> None:
    whole["artifacts"][0]["inputs"][0]["dtype"] = "image"


@pytest.mark.parametrize(
    ("app", "change", "text"),
    [
        (
            "android",
            None,
            "was exported for coreml, onnx, and the android app runs executorch-xnnpack or executorch-vulkan",
        ),
        ("web", _name, "takes 'picture', and the preset apple of its manifest calls that 'image': export it again."),
        (
            "web",
            _dtype,
            r"takes image, which the web app cannot give \(float32, int32, int64\): export it again for onnx.",
        ),
        ("web", lambda whole: whole.update(preset="appel"), "unknown preset 'appel': did you mean 'apple'"),
        (
            "web",
            lambda whole: whole["tokenizer"].update(sha256="0" * 64),
            "was made with another tokenizer, and the app",
        ),
    ],
)
def test_bundles_that_do_not_fit(app: str, change: Change | None, text: str, tmp_path: Path) -> None:
    bundle = changed(tmp_path / "in", change)
    with pytest.raises(MobileClipError, match=text):
        install(app, bundle, into=tmp_path / "out")
    assert [item.name for item in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no-manifest", "is no bundle: it has no manifest.json"),
        ("newer", "is of schema version 2, this version reads 1"),
        ("missing", "is incomplete: text.onnx is missing"),
        ("changed", "was changed after export"),
        ("escape", "names the file '../good/image.onnx', which lies outside of it"),
    ],
)
def test_broken_bundles(name: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=text):
        install("web", GOOD.parent / name, into=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_two_bundles_that_do_not_belong_together(tmp_path: Path) -> None:
    other = changed(tmp_path / "other", lambda whole: whole["model"].update(logit_scale=1.0))
    with pytest.raises(BundleError, match=r"is of another model than .*: export both from one checkpoint and with one"):
        install("web", GOOD, into=tmp_path / "out", small=other)
    with pytest.raises(BundleError, match="has no fewer bits: export it with --precision w8a8, or leave --small out"):
        install("web", GOOD, into=tmp_path / "out", small=GOOD)


def test_only_views_of_the_first_come_along(tmp_path: Path) -> None:
    def image_alone(whole: dict[str, Any]) -> None:
        del whole["artifacts"][1]

    bundle = changed(tmp_path / "in", image_alone)
    small = with_fewer_bits(tmp_path / "int8")
    assert install("web", bundle, into=tmp_path / "out", small=small).artifacts == ("image.onnx", "small/image.onnx")
    whole = json.loads((small / "manifest.json").read_text(encoding="utf-8"))
    image_alone(whole)
    whole["artifacts"][0]["view"] = "multitask"
    manifest.write(small, whole)
    with pytest.raises(
        BundleError, match=r"has fewer bits of its multitask view, and .* has image: export both with the"
    ):
        install("web", bundle, into=tmp_path / "out", small=small)


def test_a_package_with_a_link_is_refused(tmp_path: Path) -> None:
    bundle = changed(tmp_path / "in")
    (bundle / "image.mlpackage" / "link").symlink_to(bundle / "labels.json")
    whole = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    whole["artifacts"][2]["sha256"] = manifest.sha256_of(bundle / "image.mlpackage")
    manifest.write(bundle, whole)
    with pytest.raises(BundleError, match="holds links to other places; do not use this bundle"):
        install("ios", bundle, into=tmp_path / "out")


def test_places(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(OutputError, match="file is not a folder: choose another place with --into"):
        install("web", GOOD, into=file)
    with pytest.raises(OutputError, match="a does not exist: make it first, or choose another place with --into"):
        install("web", GOOD, into=tmp_path / "a" / "b")
    with pytest.raises(UnknownName, match="unknown app 'wab': did you mean 'web'"):
        install("wab", GOOD)
    with pytest.raises(UnknownName, match="unknown target 'onxx': did you mean 'onnx'"):
        install("web", GOOD, targets=("onxx",))
    with pytest.raises(MobileClipError, match="the web app does not run coreml: it runs onnx"):
        install("web", GOOD, targets=("coreml",))


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="cannot be written: check its permissions, or choose another place"):
        install("web", GOOD, into=tmp_path / "out")


def test_the_command(tmp_path: Path) -> None:
    def run(*args: str | Path, code: int) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "mobileclip.cli", "apps", "install", *map(str, args)]
        done = subprocess.run(program, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    told = run("web", GOOD, "--into", tmp_path / "out", code=0).stdout
    assert "image.onnx, text.onnx;" in told
    found = json.loads(run("ios", GOOD, "--into", tmp_path / "out", "--json", code=0).stdout)
    assert found["artifacts"] == ["image.mlpackage"]
    assert found["warnings"]
    assert "mobileclip apps: missing is no bundle: it has no manifest.json" in run("web", "missing", code=2).stderr
    assert "export it again with --to executorch-xnnpack." in run("android", GOOD, code=2).stderr
    assert "invalid choice" in run("windows", GOOD, code=2).stderr
