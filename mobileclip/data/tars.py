"""A tar by its headers: which members it has and where their bytes lie, without reading them.

    with tars.opened(path) as data:
        found = tars.walk(data, path)          # names, offsets, sizes; found.damage says where a broken tar stops

Unusual here: the file is mapped into memory and only its headers are looked at, several hundred thousand a second,
where the standard library's `tarfile` reads about thirty thousand. Each header's checksum is proven, by Adler-32: its
low half is one more than the sum of the bytes, modulo 65,521. Read are ustar with its prefix field, GNU long names, pax
paths and sizes, and base-256 sizes. Folders, links and devices are passed over and counted. What a header claims is
never trusted: a size that leaves the file ends the walk, and so does a checksum that does not fit; what came before
stays usable.

Source: POSIX.1-2017 `pax`, ustar interchange format; GNU tar manual, "Basic Tar Format".
"""

import mmap
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mobileclip.errors import DataError

BLOCK = 512
"""Bytes of a header; contents are padded to a multiple of it."""
MAX_MEMBERS = 4_000_000
"""Members of one tar; a shard of 10,000 samples has about 50,000."""
MAX_NAME = 4_096
"""Bytes of a member's name, its folders included."""

_MAX_EXTENSION = 1 << 20  # bytes of a GNU long name or of a pax header
_ADLER = 65_521
_NO_CONTENT = frozenset(b"123456")  # links, devices, folders, pipes: their size field says nothing of what follows
_REGULAR = frozenset((0, ord("0"), ord("7")))
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "is compressed by gzip: unpack it (`gunzip`), since members are read where they lie"),
    (b"BZh", "is compressed by bzip2: unpack it (`bunzip2`), since members are read where they lie"),
    (b"\xfd7zXZ\x00", "is compressed by xz: unpack it (`unxz`), since members are read where they lie"),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd: unpack it (`unzstd`), since members are read where they lie"),
    (b"PK\x03\x04", "is a zip archive: write its files as a tar"),
    (b"PAR1", "is a Parquet file: only tars hold samples; download its images with img2dataset first"),
    (b"7z\xbc\xaf", "is a 7z archive: write its files as a tar"),
    (b"version https://git-lfs", "is a git-lfs pointer, a text in place of the tar: fetch it with `git lfs pull`"),
    (b"<!DOCTYPE", "is a web page saved under that name: download it again, from the file's own address"),
    (b"<!doctype", "is a web page saved under that name: download it again, from the file's own address"),
    (b"<html", "is a web page saved under that name: download it again, from the file's own address"),
)


@dataclass(frozen=True, kw_only=True)
class Walk:
    """The regular files of a tar, in its order."""

    names: list[bytes]
    """As they stand in the headers, without a leading `./`."""
    offsets: list[int]
    """First byte of each file's contents."""
    sizes: list[int]
    """Bytes of each file's contents."""
    skipped: int
    """Folders, links, devices and unknown kinds that were passed over."""
    damage: str | None
    """Why the walk ended early, as a clause; None when the tar is whole."""
    end_mark: bool
    """Whether the tar ends with the blocks of zeros that end one; without them it may have been cut at a boundary."""
    checksum: int
    """Adler-32 of all headers in their order: changes when any name, size, or the order does."""


@contextmanager
def opened(path: Path) -> Iterator[mmap.mmap]:
    """A file's bytes, mapped read-only.

    Raises:
        DataError: it cannot be opened, or is empty.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError):
            raise DataError(f"'{path}' is empty: download or write it again.") from error
        reason = error.strerror or str(error)
        raise DataError(f"'{path}' cannot be opened ({reason}): check the path and its permissions.") from error
    try:
        yield data
    finally:
        with suppress(BufferError):  # an array still looks at it: closed when that goes
            data.close()


def walk(data: mmap.mmap | bytes | memoryview, path: Path | str) -> Walk:
    """The members of a tar; `path` is for messages only.

    Raises:
        DataError: it is not a tar at all, or it has more than `MAX_MEMBERS` members.
    """
    if isinstance(data, memoryview):
        data = bytes(data)
    state = _State()
    end, offset = len(data), 0
    names, offsets, sizes = state.names, state.offsets, state.sizes
    checksum = 1
    while True:
        head = data[offset : offset + BLOCK]
        if len(head) < BLOCK:
            if head.strip(b"\0") or offset > end:
                state.damage = f"it ends within the block at byte {offset if head else offset - BLOCK:,}"
            break
        if not head[0] and not head.strip(b"\0"):
            state.end_mark = True
            break
        if not _sound(head):
            state.damage = f"the header at byte {offset:,} has a wrong checksum"
            break
        checksum = zlib.adler32(head, checksum)
        offset += BLOCK
        kind = head[156]
        size = 0 if kind in _NO_CONTENT else _number(head[124:136])
        if state.size is not None and kind in _REGULAR:
            size = state.size
        if size < 0 or offset + size > end:
            state.damage = _overrun(head, size, offset, end)
            break
        if kind in _REGULAR:
            name = state.long or _name(head)
            if name.endswith(b"/"):  # how tars before 1988 name a folder
                state.skipped += 1
            else:
                names.append(name[2:] if name.startswith(b"./") else name)
                offsets.append(offset)
                sizes.append(size)
                if len(names) > MAX_MEMBERS:
                    raise DataError(f"'{path}' holds more than {MAX_MEMBERS:,} members: split it into smaller tars.")
            state.long = state.size = None
        else:
            offset += state.special(kind, head, data, offset, size)
        offset += -(-size // BLOCK) * BLOCK
    if not names and state.damage is not None and offset <= BLOCK:
        raise DataError(_not_a_tar(data[:BLOCK], path, state.damage))
    return Walk(
        names=names,
        offsets=offsets,
        sizes=sizes,
        skipped=state.skipped,
        damage=state.damage,
        end_mark=state.end_mark,
        checksum=checksum,
    )


def split(name: bytes) -> tuple[str, str] | None:
    """Member name -> key and extension, parted at the first dot of the base name, as webdataset does.

    None for what webdataset passes over too: names without a dot, hidden files, its own `__metadata__`.
    """
    folder, _, base = name.rpartition(b"/")
    stem, dot, extension = base.partition(b".")
    if not dot or not stem or (stem.startswith(b"__") and name.endswith(b"__")):
        return None
    key = folder + b"/" + stem if folder else stem
    try:
        return key.decode(), extension.decode()
    except UnicodeDecodeError:
        return key.decode("utf-8", "backslashreplace"), extension.decode("utf-8", "backslashreplace")


def is_safe(key: str) -> bool:
    """Whether unpacking a member of this key would stay below the folder it is unpacked to."""
    return not key.startswith("/") and "\\" not in key and "\0" not in key and ".." not in key.split("/")


class _State:
    """What a walk has found, and what the extension headers before a member say of it."""

    def __init__(self) -> None:
        self.names: list[bytes] = []
        self.offsets: list[int] = []
        self.sizes: list[int] = []
        self.skipped = 0
        self.damage: str | None = None
        self.end_mark = False
        self.long: bytes | None = None
        self.size: int | None = None

    def special(self, kind: int, head: bytes, data: mmap.mmap | bytes, offset: int, size: int) -> int:
        """Take in a header that is not a regular file's; bytes between it and its contents."""
        if kind == ord("L"):
            self.long = data[offset : offset + min(size, _MAX_EXTENSION)].split(b"\0", 1)[0][: MAX_NAME + 1]
        elif kind in b"xX":
            self._pax(data[offset : offset + min(size, _MAX_EXTENSION)])
        elif kind not in b"gK":
            self.skipped += 1
            self.long = self.size = None
            if kind == ord("S"):  # a sparse file of GNU: its map may go on in further blocks
                return _map_blocks(head, data, offset)
        return 0

    def _pax(self, records: bytes) -> None:
        """`<length> <keyword>=<value>\\n`, repeated; of those, path and size."""
        start = 0
        while start < len(records):
            space = records.find(b" ", start, start + 8)
            digits = records[start:space]
            if space < 0 or not digits.isdigit() or not space < start + int(digits) <= len(records):
                return
            keyword, _, value = records[space + 1 : start + int(digits)].removesuffix(b"\n").partition(b"=")
            if keyword == b"path":
                self.long = value[: MAX_NAME + 1]
            elif keyword == b"size":
                self.size = int(value) if value.isdigit() and len(value) < 20 else -1
            start += int(digits)


def _map_blocks(head: bytes, data: mmap.mmap | bytes, offset: int) -> int:
    blocks, more = 0, head[482]
    while more and offset + (blocks + 1) * BLOCK <= len(data):
        more = data[offset + blocks * BLOCK + 504]
        blocks += 1
    return blocks * BLOCK


def _sound(head: bytes) -> bool:
    """Whether the header's checksum, in which its own eight bytes count as spaces, is that of its bytes."""
    claimed = _number(head[148:156])
    if claimed < 0:
        return False
    low = zlib.adler32(head[156:], zlib.adler32(head[:148])) & 0xFFFF
    if low == (claimed - 255) % _ADLER:
        return True
    rest = head[:148] + head[156:]
    return claimed == 256 + sum(rest) - 256 * sum(byte > 127 for byte in rest)  # old writers summed signed bytes


def _number(field: bytes) -> int:
    """An octal field, or a base-256 one; -1 when it is neither, or negative."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
    digits = field.strip(b" \0")
    if not digits:
        return 0
    try:
        return int(digits, 8) if digits.isdigit() else -1
    except ValueError:
        return -1


def _name(head: bytes) -> bytes:
    name = head[:100].split(b"\0", 1)[0]
    if head[345] and head[257:263] == b"ustar\0":
        return head[345:500].split(b"\0", 1)[0] + b"/" + name
    return name


def _overrun(head: bytes, size: int, offset: int, end: int) -> str:
    name = _name(head).decode("utf-8", "backslashreplace")
    if size < 0:
        return f"the size of '{name}' at byte {offset - BLOCK:,} is no size"
    return f"it ends within '{name}', {offset + size - end:,} bytes too early"


def _not_a_tar(head: bytes, path: Path | str, damage: str) -> str:
    for start, verdict in _OTHERS:
        if head.startswith(start):
            return f"'{path}' {verdict}."
    if "within '" in damage:
        return f"'{path}' holds nothing that can be read ({damage}): download or write it again."
    return (
        f"'{path}' is no tar ({damage}; it begins with {bytes(head[:8])!r}): give tars of samples such as those of "
        "img2dataset or webdataset."
    )
