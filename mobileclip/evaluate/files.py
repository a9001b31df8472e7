"""The border for foreign text: bounded size, UTF-8, JSON; each failure one `DataError` with the file's name."""

import json
import stat
from pathlib import Path, PurePosixPath
from typing import Any

from mobileclip.errors import DataError

MAX_TEXT = 1 << 30
"""Largest file of captions, classes or templates that is read, in bytes. COCO's largest has 100 MB."""


def read_text(path: Path) -> str:
    """A UTF-8 file, with or without a byte order mark.

    Raises:
        DataError: no such file, too large, or not UTF-8.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would block
            raise DataError(f"{path} is not a file: give a text or JSON file.")
        if status.st_size > MAX_TEXT:
            raise DataError(f"{path} has {status.st_size:,} bytes: at most {MAX_TEXT:,} are read; split it.")
        raw = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise DataError(f"{path} cannot be opened ({reason}): check the path and its permissions.") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not UTF-8 (byte 0x{raw[error.start]:02x} in line {line}): save it as UTF-8."
        ) from error


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        DataError: as `read_text`, or not JSON.
    """
    return parse(read_text(path), str(path))


def parse(text: str, where: str) -> Any:
    """JSON out of a file.

    Raises:
        DataError: it is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}): save it again.") from error


def inside(name: str) -> PurePosixPath | None:
    """A relative path that stays in its folder, or None for one that does not."""
    path = PurePosixPath(name.replace("\\", "/"))
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts or path.parts[:1] == ("~",):
        return None
    return path
