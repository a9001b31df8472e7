"""The manifest: the JSON beside artifacts, and the only thing that apps read about them.

`write` makes it last, when everything that it speaks of is there; `Bundle.open` refuses a bundle that is not what was
written: another schema version, a file that is missing, changed (by its hash) or outside of the folder.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from mobileclip.digests import sha256_of as sha256_of
from mobileclip.errors import BundleError

SCHEMA_VERSION = 1
MAX_MANIFEST = 8 << 20
"""Largest manifest that is read, in bytes."""


@dataclass(frozen=True)
class Bundle:
    """A folder of artifacts and its manifest, checked."""

    path: Path
    manifest: Mapping[str, Any]

    @staticmethod
    def open(path: str | Path, *, hashes: bool = True) -> "Bundle":
        """Read and check a bundle.

        Raises:
            BundleError: no bundle, a broken or newer manifest, a missing or changed file.
        """
        folder = Path(path)
        manifest = _read(folder)
        bundle = Bundle(folder, manifest)
        for file, expected in _files(manifest):
            inside = bundle.file(file)
            if not inside.exists():
                raise BundleError(f"{folder} is incomplete: {file} is missing; export it again.")
            if hashes and sha256_of(inside) != expected:
                raise BundleError(
                    f"{folder / file} was changed after export (its sha256 is not the manifest's); export it again."
                )
        return bundle

    def file(self, name: str) -> Path:
        """Path of a file of the bundle, which must lie inside of it."""
        relative = PurePosixPath(name)
        inside = self.path / relative
        escapes = relative.is_absolute() or ".." in relative.parts or not name
        if escapes or not inside.resolve().is_relative_to(self.path.resolve()):
            raise BundleError(f"{self.path} names the file '{name}', which lies outside of it; do not use this bundle.")
        return inside


def write(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Check `manifest` against the schema and write it to `folder`, whole or not at all."""
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    _validator().validate(json.loads(text))
    temporary = folder / ".manifest.json.partial"
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, folder / "manifest.json")


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    if path.is_dir():
        return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
    return path.stat().st_size


def _files(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    listed = [(item["file"], item["sha256"]) for item in manifest["artifacts"]]
    return listed + list(manifest["files"].items())


def _read(folder: Path) -> Mapping[str, Any]:
    file = folder / "manifest.json"
    if not file.is_file():
        raise BundleError(f"{folder} is no bundle: it has no manifest.json; make one with `mobileclip export`.")
    if file.stat().st_size > MAX_MANIFEST:
        raise BundleError(f"{file} is larger than {MAX_MANIFEST >> 20} MB, which no manifest is; export it again.")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{file} is not JSON ({error}); export it again.") from error
    version = manifest.get("schema") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{file} is of schema version {version!r}, this version reads {SCHEMA_VERSION}; "
            "export it again, or use the version that wrote it."
        )
    problem = next(iter(_validator().iter_errors(manifest)), None)
    if problem is not None:
        where = "/".join(map(str, problem.absolute_path)) or "the manifest"
        raise BundleError(f"{file} breaks the schema at {where} ({problem.message[:200]}); export it again.")
    result: Mapping[str, Any] = manifest
    return result


@cache
def _validator() -> Any:
    import jsonschema

    schema = json.loads((Path(__file__).parent / "manifest.schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema)
