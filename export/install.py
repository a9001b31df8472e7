"""A bundle into an app: what the app runs, with a manifest that speaks of nothing else.

    install("web", "out/s2")                       # -> apps/web/public/bundle
    mobileclip apps install ios out/s2

Everything is checked before anything is written: hashes, target, preset, tokenizer. The copy is made beside the place,
read back as a bundle, and then put there whole; a bundle that was there is replaced, anything else is left alone.

With `small`, a second bundle of the same model with fewer bits, the app gets both, and offers the small one where
memory is short. The Android app takes several bundles by name, so it lies beside the first; elsewhere it is in it.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export import manifest
from export.manifest import Bundle
from export.targets import preset_of, targets_of
from mobileclip.errors import BundleError, MobileClipError, OutputError, UnknownName
from mobileclip.tokenizer import merges, tokenizer_hash

MERGES = "merges.txt"
"""The tokenizer's file, which apps read."""
SMALL = "small"
"""Folder of what has fewer bits."""


@dataclass(frozen=True, kw_only=True)
class App:
    """One of the sample apps."""

    targets: tuple[str, ...]
    """What it runs, the best first."""
    dtypes: tuple[str, ...]
    """Types of inputs that it can give."""
    folder: str
    """Where its bundle belongs, from the root of the repository; `{}` is the model's name."""
    several: bool = False
    """Whether it takes several bundles by name."""
    most: int
    """Bytes from which `why` is said."""
    why: str
    """What is wrong with more."""


APPS: Mapping[str, App] = {
    "ios": App(
        targets=("coreml", "executorch-coreml", "executorch-xnnpack"),
        dtypes=("image", "float32", "int32", "int64"),
        folder="apps/ios/App/Resources/bundle",
        most=200_000_000,
        why="iPhones ask before they load an app of more than 200 MB over the mobile network",
    ),
    "android": App(
        targets=("executorch-xnnpack", "executorch-vulkan"),
        dtypes=("float32", "int32", "int64"),
        folder="apps/android/app/src/main/assets/bundles/{}",
        several=True,
        most=200_000_000,
        why="Google Play takes no base module of more than 200 MB",
    ),
    "web": App(
        targets=("onnx",),
        dtypes=("float32", "int32", "int64"),
        folder="apps/web/public/bundle",
        most=150_000_000,
        why="everyone who opens the page loads all of it, and browsers of phones end pages that need much memory",
    ),
}
"""Name -> app."""


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What was put where."""

    folder: Path
    """The bundle in the app."""
    artifacts: tuple[str, ...]
    """Its artifacts."""
    beside: Path | None
    """The bundle with fewer bits, where it is one of its own."""
    bytes: int
    """Of all files of both."""
    warnings: tuple[str, ...]
    """Sentences that whoever ships the app must know."""


def install(
    app: str,
    bundle: str | Path,
    *,
    into: str | Path | None = None,
    targets: Sequence[str] = (),
    small: str | Path | None = None,
) -> Installed:
    """Copy a bundle into an app.

    Args:
        app: one of `APPS`.
        bundle: folder that `export` wrote.
        into: folder that becomes the bundle; the app's own in this repository where left out.
        targets: what to copy; of each view the best that the app runs where left out.
        small: bundle of the same model with fewer bits.

    Raises:
        UnknownName: no such app, target or preset.
        BundleError: a broken bundle, one for other apps, or two bundles that do not belong together.
        OutputError: the place is not there, or holds something else.
    """
    if app not in APPS:
        raise UnknownName("app", app, APPS)
    chosen = _targets(app, targets)
    opened = Bundle.open(bundle)
    entries = _artifacts(app, opened, chosen, bool(targets))
    views = {entry["view"] for entry in entries}
    second = None if small is None else _second(app, opened, Bundle.open(small), chosen, views)
    folder = _place(app, into, opened.manifest["model"]["name"])
    beside = None
    if second is not None and APPS[app].several:
        _require_views(second, entries)
        beside = _place(app, folder.with_name(f"{folder.name}-{SMALL}"), "")
    cut = _write(opened, entries, folder, None if beside else second)
    cuts = [cut]
    if second is not None and beside is not None:
        cuts.append(_write(*second, beside, None))
    size = sum(manifest.size_of(place) for place in (folder, beside) if place is not None)
    told = [warning for item in cuts for warning in _warnings(item)]
    return Installed(
        folder=folder,
        artifacts=tuple(entry["file"] for entry in cut["artifacts"]),
        beside=beside,
        bytes=size,
        warnings=tuple(dict.fromkeys([*told, *_warnings_of_place(app, folder, beside, size)])),
    )


def _write(
    bundle: Bundle,
    entries: Sequence[Mapping[str, Any]],
    folder: Path,
    second: tuple[Bundle, Sequence[Mapping[str, Any]]] | None,
) -> dict[str, Any]:
    """Make the bundle beside its place, read it back, put it there; gives its manifest without `files`."""
    cut = _cut(bundle.manifest, entries)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
        partial = Path(name) / "bundle"
        partial.mkdir()
        _copy(bundle, cut, partial)
        if second is not None:
            cut["artifacts"] += _copy_small(second, partial)
        _finish(cut, partial)
        Bundle.open(partial)
        _swap(partial, folder, Path(name) / "before")
    return cut


def _targets(app: str, asked: Sequence[str]) -> tuple[str, ...]:
    runs = APPS[app].targets
    for name in targets_of(asked):
        if name not in runs:
            raise MobileClipError(f"the {app} app does not run {name}: it runs {', '.join(runs)}.")
    return tuple(asked) or runs


def _artifacts(app: str, bundle: Bundle, targets: Sequence[str], every: bool) -> list[Mapping[str, Any]]:
    """Of each view the artifact of the first target that it has, or of all of them."""
    found: list[Mapping[str, Any]] = []
    for view in dict.fromkeys(entry["view"] for entry in bundle.manifest["artifacts"]):
        of = [entry for entry in bundle.manifest["artifacts"] if entry["view"] == view]
        fit = [entry for target in targets for entry in of if entry["target"] == target]
        found += fit if every else fit[:1]
    if not found:
        has = sorted({entry["target"] for entry in bundle.manifest["artifacts"]})
        raise BundleError(
            f"{bundle.path} was exported for {', '.join(has)}, and the {app} app runs {' or '.join(targets)}: export "
            f"it again with --to {targets[0]}."
        )
    preset = preset_of(bundle.manifest["preset"])
    for entry in found:
        _check_inputs(app, bundle, entry, {"image": preset.image[0], "text": preset.text[0]})
    return found


def _check_inputs(app: str, bundle: Bundle, entry: Mapping[str, Any], names: Mapping[str, str]) -> None:
    for item in entry["inputs"]:
        if item["name"] != names[item["kind"]]:
            raise BundleError(
                f"{bundle.path / entry['file']} takes '{item['name']}', and the preset {bundle.manifest['preset']} of "
                f"its manifest calls that '{names[item['kind']]}': export it again."
            )
        if item["dtype"] not in APPS[app].dtypes:
            raise BundleError(
                f"{bundle.path / entry['file']} takes {item['dtype']}, which the {app} app cannot give "
                f"({', '.join(APPS[app].dtypes)}): export it again for {APPS[app].targets[0]}."
            )


def _second(
    app: str, bundle: Bundle, small: Bundle, targets: Sequence[str], views: Set[str]
) -> tuple[Bundle, Sequence[Mapping[str, Any]]]:
    """The bundle with fewer bits and its artifacts, which must be of the same model and take the same inputs."""
    for key in ("model", "tokenizer", "preset"):
        if bundle.manifest[key] != small.manifest[key]:
            raise BundleError(
                f"{small.path} is of another {key} than {bundle.path}: export both from one checkpoint and with one "
                "preset."
            )
    entries = [entry for entry in _artifacts(app, small, targets, False) if entry["quantisation"] is not None]
    if not entries:
        raise BundleError(f"{small.path} has no fewer bits: export it with --precision w8a8, or leave --small out.")
    of = {entry["view"] for entry in entries}
    shared = [entry for entry in entries if entry["view"] in views]
    if not shared:
        raise BundleError(
            f"{small.path} has fewer bits of its {' and '.join(sorted(of))} view, and {bundle.path} has "
            f"{' and '.join(sorted(views))}: export both with the same views."
        )
    return small, shared


def _require_views(second: tuple[Bundle, Sequence[Mapping[str, Any]]], entries: Sequence[Mapping[str, Any]]) -> None:
    """A bundle of its own must do all that the first does."""
    bundle, found = second
    lacking = {entry["view"] for entry in entries} - {entry["view"] for entry in found}
    if lacking:
        raise BundleError(
            f"{bundle.path} has no {' and '.join(sorted(lacking))} view with fewer bits, and this app needs both "
            "whole: export all views with --precision w8a8."
        )


def _place(app: str, into: str | Path | None, model: str) -> Path:
    if into is None:
        roots = (Path.cwd(), Path(__file__).parents[1])
        name = APPS[app].folder.format(re.sub(r"[^A-Za-z0-9_.-]", "-", model).strip(".") or "model")
        there = next((root / name for root in roots if (root / Path(*Path(name).parts[:2])).is_dir()), None)
        if there is None:
            raise OutputError(
                f"there is no {app} app here ({name} has no place): start this in the repository, or name the folder "
                "of your own app's bundle with --into."
            )
        there.parent.mkdir(parents=True, exist_ok=True)
        folder = there
    else:
        folder = Path(into)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputError(f"{folder} is not a folder: choose another place with --into.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "manifest.json").is_file():
        raise OutputError(f"{folder} holds something that is no bundle: choose another place, or empty it yourself.")
    if not folder.parent.is_dir():
        raise OutputError(f"{folder.parent} does not exist: make it first, or choose another place with --into.")
    if not os.access(folder.parent, os.W_OK):
        raise OutputError(f"{folder.parent} cannot be written: check its permissions, or choose another place.")
    return folder


def _cut(whole: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The manifest of `entries` alone; `files` comes last."""
    views = {entry["view"] for entry in entries}
    files = {entry["file"] for entry in entries}
    recipe = dict(whole["recipe"])
    if "jobs" in recipe:
        recipe["jobs"] = [job for job in recipe["jobs"] if job.get("file") in files]
    answers = {view: answer for view, answer in whole["known_answer"].items() if view in views}
    return {**whole, "recipe": recipe, "artifacts": list(entries), "known_answer": answers, "files": {}}


def _copy(bundle: Bundle, cut: Mapping[str, Any], partial: Path) -> None:
    files = [entry["file"] for entry in cut["artifacts"]]
    files += [cut["labels"], *(name for name in ("LICENSES",) if name in bundle.manifest["files"])]
    for answer in cut["known_answer"].values():
        files += [*_arrays(answer), *([answer["picture"]] if "picture" in answer else [])]
    for entry in cut["artifacts"]:
        files += _answers(entry)
    for name in dict.fromkeys(files):
        _copy_file(bundle.file(name), partial / name)
    if cut["tokenizer"] is not None:
        if cut["tokenizer"]["sha256"] != tokenizer_hash():
            raise BundleError(
                f"{bundle.path} was made with another tokenizer, and the app would misread texts: export it again with "
                "this version."
            )
        text = "".join(f"{line}\n" for line in merges())
        (partial / MERGES).write_text(text, encoding="utf-8", newline="\n")


def _copy_small(second: tuple[Bundle, Sequence[Mapping[str, Any]]], partial: Path) -> list[dict[str, Any]]:
    """The artifacts with fewer bits and their known answers, in a folder of their own."""
    bundle, entries = second
    out: list[dict[str, Any]] = []
    for entry in entries:
        renamed: dict[str, Any] = json.loads(json.dumps(entry))
        renamed["file"] = f"{SMALL}/{entry['file']}"
        _copy_file(bundle.file(entry["file"]), partial / renamed["file"])
        answer = renamed["quantisation"]["known_answer"]
        for array in (answer["output"], *answer.get("others", ())):
            _copy_file(bundle.file(array["file"]), partial / SMALL / array["file"])
            array["file"] = f"{SMALL}/{array['file']}"
        out.append(renamed)
    return out


def _arrays(answer: Mapping[str, Any]) -> Iterator[str]:
    for array in (answer.get("input"), answer["output"], *answer.get("others", ())):
        if array is not None:
            yield array["file"]


def _answers(entry: Mapping[str, Any]) -> list[str]:
    quantisation = entry["quantisation"]
    return [] if quantisation is None else list(_arrays(quantisation["known_answer"]))


def _copy_file(source: Path, into: Path) -> None:
    """A file, or the folder of a package; links, which could lead anywhere, are refused."""
    into.parent.mkdir(parents=True, exist_ok=True)
    if not source.is_dir():
        shutil.copyfile(source, into)
        return
    if any(item.is_symlink() for item in source.rglob("*")):
        raise BundleError(f"{source} holds links to other places; do not use this bundle.")
    shutil.copytree(source, into)


def _finish(cut: Mapping[str, Any], partial: Path) -> None:
    """Write the manifest, last."""
    artifacts = [partial / entry["file"] for entry in cut["artifacts"]]
    others = [
        path
        for path in sorted(partial.rglob("*"))
        if path.is_file() and not any(path == item or item in path.parents for item in artifacts)
    ]
    files = {path.relative_to(partial).as_posix(): manifest.sha256_of(path) for path in others}
    manifest.write(partial, {**cut, "files": files})


def _swap(partial: Path, folder: Path, before: Path) -> None:
    """Put a finished bundle in its place; what was there goes only when the new one stands."""
    if folder.exists():
        os.replace(folder, before)
    try:
        os.replace(partial, folder)
    except OSError:
        if before.exists():
            os.replace(before, folder)
        raise


def _warnings(cut: Mapping[str, Any]) -> Iterator[str]:
    heads = [head.get("checkpoint", {}) for head in cut.get("dense", {}).get("heads", ())]
    for source in (cut["model"]["checkpoint"], *heads):
        if source.get("research_only"):
            yield (
                f"the weights of {source['source']} are for research only ({source['licence']}): do not ship this app "
                "in a product."
            )
    for entry in cut["artifacts"]:
        if entry["gate"]["passed"] is False:
            yield f"{entry['file']} missed its gate when it was exported: its answers will differ from the model's."
    if not any(entry["view"] == "text" for entry in cut["artifacts"]) and cut["tokenizer"] is not None:
        yield "there is no text tower in it: the app can neither classify by words nor search."


def _warnings_of_place(app: str, folder: Path, beside: Path | None, size: int) -> Iterator[str]:
    if size > APPS[app].most:
        yield (
            f"the bundle is {size / 1e6:.0f} MB: {APPS[app].why}. Export it with fewer bits (--precision), or a "
            "smaller model."
        )
    if APPS[app].several:
        others = (path for path in folder.parent.iterdir() if (path / "manifest.json").is_file())
        names = sorted(path.name for path in others if path not in (folder, beside))
        if names:
            yield f"the app also holds {', '.join(names)}: remove from {folder.parent} what is not wanted."
