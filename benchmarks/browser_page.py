"""The page that measures in a browser (`benchmarks/page`, TypeScript), built once by npm and Vite.

What is built lies in the cache under the hash of its sources, so that a changed page is another page.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from mobileclip.errors import MobileClipError

SOURCES = Path(__file__).parent / "page"
CACHE = Path.home() / ".cache" / "mobileclip" / "page"
LEFT_OUT = frozenset({"node_modules", "dist", "test", "package-lock.json"})
"""Of the sources: what a build does not read, or makes."""
INSTALL_S, BUILD_S = 600, 300
"""Longest that npm may take."""


def built(sources: Path = SOURCES, cache: Path = CACHE, say: Callable[[str], None] = lambda line: None) -> Path:
    """The folder with the built page's files; built now where it is not there yet.

    Raises:
        MobileClipError: no sources, no npm, or npm fails.
    """
    if not (sources / "package.json").is_file():
        raise MobileClipError(
            f"the page's sources are not at {sources}: install the toolkit from its checkout (pip install -e .)."
        )
    done = cache / fingerprint(sources)
    if (done / "index.html").is_file():
        return done
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise MobileClipError("the browser page is built by npm, which is not here: install Node.js 20.19 or newer.")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=cache) as folder:
        work = Path(folder) / "page"
        shutil.copytree(sources, work, ignore=lambda _, names: LEFT_OUT.intersection(names))
        say("fetching what the browser page is built from")
        _npm([npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"], work, INSTALL_S)
        say("building the browser page")
        _npm([npm, "run", "build"], work, BUILD_S)
        try:
            os.replace(work / "dist", done)
        except OSError:
            if not (done / "index.html").is_file():  # else another process was faster
                raise
    return done


def fingerprint(sources: Path) -> str:
    """Hash of everything that a build reads."""
    found = hashlib.sha256()
    for path in sorted(sources.rglob("*")):
        inside = path.relative_to(sources)
        if path.is_file() and not LEFT_OUT.intersection(inside.parts):
            found.update(f"{inside.as_posix()}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def _npm(command: list[str], folder: Path, seconds: float) -> None:
    told = " ".join(["npm", *command[1:3]])
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise MobileClipError(
            f"`{told}` for the browser page took more than {seconds:g} s: is the network there?"
        ) from error
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        reason = " / ".join(line.strip() for line in lines[:3]) or f"exit code {done.returncode}"
        raise MobileClipError(f"`{told}` for the browser page fails ({reason[:300]}): it needs the network once.")
