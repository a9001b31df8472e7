"""SHA-256 of files and folders: what says that a file is still the one that was meant."""

import hashlib
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Of a file; or of a folder: of its sorted relative paths and their files' hashes. Hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for item in sorted(path.rglob("*")):
        if item.is_file():
            digest.update(item.relative_to(path).as_posix().encode() + b"\0" + sha256_of(item).encode() + b"\n")
    return digest.hexdigest()
