"""Where shards are: folders, patterns and addresses to single tars.

    expand(["data/{00000..00099}.tar", "s3://bucket/cc12m/*.tar"])

Unusual here: what matches nothing is an error that says what was there instead.
"""

import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mobileclip.errors import DataError

MAX_SHARDS = 2_000_000
"""Tars that patterns may expand to; the largest published corpus has 128,000."""
_BRACE = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_GLOB = re.compile(r"[*?\[]")


def is_remote(place: str) -> bool:
    """Whether it is an address that fsspec opens, and not a local path."""
    return "://" in place


def stem_of(place: str) -> str:
    """Name of a shard: its file's, without `.tar`."""
    return place.rsplit("/", 1)[-1].removesuffix(".tar")


def expand(specs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """Folders, globs, brace patterns (`x/{00000..00099}.tar`, `{a,b}.tar`), `::` between several, fsspec addresses.

    The order of `specs` is kept, what one of them matches is sorted, and a tar that is named twice is taken once.

    Raises:
        DataError: one of them matches nothing, or they match more than `MAX_SHARDS`.
    """
    given = [specs] if isinstance(specs, str | os.PathLike) else list(specs)
    found: dict[str, None] = {}
    for spec in given:
        for part in os.fspath(spec).split("::"):
            for place in _braces(part):
                found.update(dict.fromkeys(_match(place.removeprefix("file://"))))
    if not found:
        raise DataError(
            "no shards were given: name a folder of tars, a tar, or a pattern such as 'x/{00000..00099}.tar'."
        )
    return list(found)


class Mapped:
    """The border to fsspec, whose backends raise what they like."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ImportError):
            raise DataError(f"'{self.place}' needs a package that is not installed ({error}): install it.") from error
        if isinstance(error, Exception) and not isinstance(error, DataError):
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise DataError(
                f"'{self.place}' cannot be read ({reason}): check the address and what it needs to be opened."
            ) from error


def filesystem_of(place: str) -> tuple[Any, str]:
    """fsspec's file system of an address, and the path in it."""
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(place)
    return filesystem, path


def _braces(pattern: str) -> Iterator[str]:
    """Each string that a brace pattern stands for, in order."""
    parts = _BRACE.split(pattern)
    choices: list[list[str]] = []
    count = 1
    for place, part in enumerate(parts):
        if place % 2 == 0:
            choices.append([part])
            continue
        match = _RANGE.fullmatch(part)
        if match:
            first, last = int(match[1]), int(match[2])
            width = len(match[1]) if match[1].startswith("0") else 0
            count *= abs(last - first) + 1
            if count > MAX_SHARDS:
                raise DataError(f"'{pattern}' stands for more than {MAX_SHARDS:,} tars: that many are allowed.")
            step = 1 if last >= first else -1
            choices.append([f"{number:0{width}d}" for number in range(first, last + step, step)])
        else:
            values = part.split(",")
            choices.append(values if len(values) > 1 else ["{" + part + "}"])
            count *= len(choices[-1])
    for chosen in itertools.product(*choices):
        yield "".join(chosen)


def _match(place: str) -> list[str]:
    if is_remote(place):
        return _match_remote(place)
    path = Path(place).expanduser()
    if path.is_file():
        return [str(path)]
    if path.is_dir():
        found = sorted(str(file) for file in path.iterdir() if file.suffix == ".tar" and not file.name.startswith("."))
        if not found:
            kinds = Counter(file.suffix or "no extension" for file in path.iterdir() if file.is_file())
            held = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5)) or "no file"
            raise DataError(f"'{place}' holds no .tar ({held}): give the folder in which the shards are.")
        return found
    found = sorted(name for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
    if not found:
        what = "matches nothing" if _GLOB.search(place) else "does not exist"
        raise DataError(
            f"'{place}' {what}: give a tar, a folder of tars, or a pattern such as 'x/{{00000..00099}}.tar'."
        )
    return found


def _match_remote(place: str) -> list[str]:
    pattern = place + "*.tar" if place.endswith("/") else place
    if not _GLOB.search(pattern) or pattern.startswith(("http://", "https://")):
        return [place]  # asked for when it is read
    with Mapped(place):
        filesystem, path = filesystem_of(pattern)
        found = sorted(filesystem.unstrip_protocol(name) for name in filesystem.glob(path))
    if not found:
        raise DataError(f"'{place}' matches nothing: check the address.")
    return found
