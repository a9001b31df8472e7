"""What says that files are still those that were meant: their content; of very much, sizes and times.

    hash_of(Path("runs/quickstart/train/last"))      # of content: sorted relative paths and their files' hashes
    seen(Path("runs/quickstart/train/last"))         # of names, sizes and times: cheap, and enough to see a change

Imports nothing heavy.
"""

import glob
import hashlib
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from mobileclip.digests import sha256_of

MOST_BYTES = 4_000_000_000
"""More than this is told by names, sizes and times: reading a corpus of terabytes would take as long as training."""
_MOST_PATHS = 1_000_000  # that a pattern may mean
_BRACES = re.compile(r"\{[^{}]*\}")


def hash_of(place: Path) -> str:
    """SHA-256 of a file, a folder, or all that a glob or brace pattern can mean; empty where nothing is there."""
    paths = _paths(place)
    if not paths:
        return ""
    size = 0
    for _, path in _files(paths):
        size += path.stat().st_size
        if size > MOST_BYTES:
            return f"seen:{seen(place)}"
    if len(paths) == 1:
        return sha256_of(paths[0])
    return hashlib.sha256("\n".join(f"{path} {sha256_of(path)}" for path in paths).encode()).hexdigest()


def seen(place: Path) -> str:
    """Hash of names, sizes and times of modification; empty where nothing is there."""
    digest, count = hashlib.sha256(), 0
    for name, path in _files(_paths(place)):
        about = path.stat()
        digest.update(f"{name}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
        count += 1
    return digest.hexdigest() if count else ""


def _paths(place: Path) -> list[Path]:
    """What a pattern means: braces stand for anything, which is never too little."""
    if place.exists():
        return [place]
    pattern = _BRACES.sub("*", str(place))
    found = islice(glob.iglob(pattern), _MOST_PATHS) if glob.has_magic(pattern) else ()
    return [Path(path) for path in sorted(found)]


def _files(paths: list[Path]) -> Iterator[tuple[str, Path]]:
    """(relative name, file), in order."""
    for top in paths:
        if not top.is_dir():
            yield top.name, top
            continue
        for folder, folders, names in os.walk(top):
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                if path.is_file():
                    yield path.relative_to(top).as_posix(), path
