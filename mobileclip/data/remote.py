"""Remote tars as local ones.

    path = local("s3://bucket/cc12m/00000.tar")

Unusual here: a remote tar is copied whole, once, into a folder that is kept below a stated size by removing what was
used longest ago; after that it is a local tar like any other, mapped and read at random.
"""

import hashlib
import os
import re
from pathlib import Path

from mobileclip.data.arrays import placing
from mobileclip.data.places import Mapped, filesystem_of, is_remote
from mobileclip.errors import DataError

CACHE_LIMIT = 64 << 30
"""Bytes of remote tars that are kept."""


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/mobileclip`, else `~/.cache/mobileclip`."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "mobileclip"


def local(place: str, cache: Path | None = None, limit: int = CACHE_LIMIT) -> Path:
    """A tar on this machine: a local one itself, of a remote one the copy in `cache`, made when it is missing.

    Raises:
        DataError: it cannot be read, or is larger than `limit`.
        OutputError: the copy cannot be written.
    """
    if not is_remote(place):
        return Path(place)
    folder = (cache or default_cache()) / "tars"
    name = re.sub(r"[^\w.-]", "_", place.rsplit("/", 1)[-1])[-80:]
    path = folder / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}-{name}"
    size = remote_size(place)
    if path.is_file() and (size is None or path.stat().st_size == size):
        os.utime(path)  # used now
        return path
    if size is not None and size > limit:
        raise DataError(f"'{place}' has {size:,} bytes, {limit:,} are kept at most: make smaller shards.")
    _copy(place, path, limit)
    _evict(folder, path, limit)
    return path


def remote_size(place: str) -> int | None:
    """Bytes of a remote file; None when its server does not say.

    Raises:
        DataError: it does not exist, or cannot be asked for.
    """
    with Mapped(place):
        filesystem, path = filesystem_of(place)
        size = filesystem.info(path).get("size")
    return int(size) if size is not None else None


def _copy(place: str, path: Path, limit: int) -> None:
    with Mapped(place):
        filesystem, source = filesystem_of(place)
    with placing(path) as file:
        copied = 0
        with Mapped(place):
            remote = filesystem.open(source, "rb")
        with remote:
            while True:
                with Mapped(place):
                    block = remote.read(8 << 20)
                if not block:
                    return
                copied += len(block)
                if copied > limit:
                    raise DataError(f"'{place}' has more than {limit:,} bytes, which is all that is kept.")
                file.write(block)


def _evict(folder: Path, keep: Path, limit: int) -> None:
    """Remove copies, those used longest ago first, until all take at most `limit` bytes."""
    copies = []
    for path in folder.iterdir():
        try:
            if path != keep and not path.name.startswith("."):
                status = path.stat()
                copies.append((status.st_mtime_ns, status.st_size, path))
        except FileNotFoundError:  # another process removed it
            continue
    total = keep.stat().st_size + sum(size for _, size, _ in copies)
    for _, size, path in sorted(copies):
        if total <= limit:
            return
        path.unlink(missing_ok=True)
        total -= size
