"""Walking tars by their headers, against the standard library; damaged and hostile ones."""

import io
import mmap
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileclip.data import tars
from mobileclip.errors import DataError


def tar_of(files: list[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def contents(data: bytes) -> list[tuple[bytes, bytes]]:
    found = tars.walk(data, "x.tar")
    assert found.damage is None
    spans = zip(found.names, found.offsets, found.sizes, strict=True)
    return [(name, data[offset : offset + size]) for name, offset, size in spans]


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=30)
PATHS = st.lists(NAMES, min_size=1, max_size=12).map("/".join)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(PATHS, st.binary(max_size=1200)), min_size=1, max_size=8),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_same_members_as_tarfile(files: list[tuple[str, bytes]], form: int) -> None:
    data = tar_of(files, form)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(m.name.encode(), tar.extractfile(m).read()) for m in tar if m.isreg()]  # type: ignore[union-attr]
    found = contents(data)
    assert [content for _, content in found] == [content for _, content in expected]
    assert [name for name, _ in found] == [name.removeprefix(b"./") for name, _ in expected]


def test_ustar_prefix_and_skipped_kinds() -> None:
    long = "folder" * 20 + "/" + "name" * 20 + ".jpg"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, kind in (
            ("d", tarfile.DIRTYPE),
            ("l", tarfile.SYMTYPE),
            ("h", tarfile.LNKTYPE),
            ("f", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "elsewhere"
            tar.addfile(info)
        info = tarfile.TarInfo(long)
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    assert contents(out.getvalue()) == [(long.encode(), b"abc")]
    assert tars.walk(out.getvalue(), "x").skipped == 4


def test_pax_size_and_base_256_size() -> None:
    header = bytearray(tar_of([("a.txt", b"12345")])[:512])
    header[124:136] = b"\x80" + (5).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data = bytes(header) + b"12345".ljust(512, b"\0") + bytes(1024)
    assert contents(data) == [(b"a.txt", b"12345")]
    info = tarfile.TarInfo("b.txt")
    info.size = 5
    info.pax_headers = {"size": "5", "path": "renamed.txt"}
    data = info.tobuf(tarfile.PAX_FORMAT) + b"12345".ljust(512, b"\0") + bytes(1024)
    assert contents(data) == [(b"renamed.txt", b"12345")]


def test_old_writers_sum_signed_bytes() -> None:
    header = bytearray(tar_of([("é.txt", b"1")], tarfile.GNU_FORMAT)[:512])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(byte - 256 * (byte > 127) for byte in header)
    assert contents(bytes(header) + b"1".ljust(512, b"\0") + bytes(1024)) == [("é.txt".encode(), b"1")]


def test_a_cut_tar_keeps_what_came_before() -> None:
    data = tar_of([("a.jpg", b"1" * 700), ("b.jpg", b"2" * 700), ("c.jpg", b"3" * 700)])
    cut = tars.walk(data[:4200], "x.tar")
    assert cut.names == [b"a.jpg", b"b.jpg"]
    assert cut.damage == "it ends within 'c.jpg', 84 bytes too early"
    assert tars.walk(data[:3200], "x.tar").damage == "it ends within the block at byte 3,072"
    assert tars.walk(data[:1600], "x.tar").names == [b"a.jpg"]
    assert tars.walk(data[:1300], "x.tar").damage == "it ends within the block at byte 1,024"
    at_boundary = tars.walk(data[:3072], "x.tar")
    assert at_boundary.damage is None
    assert not at_boundary.end_mark
    assert tars.walk(data, "x.tar").end_mark


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_flipped_bytes_never_read_outside(data: st.DataObject) -> None:
    whole = bytearray(tar_of([("a.jpg", b"1" * 700), ("./b.txt", b"2"), ("c" * 150, b"3")], tarfile.GNU_FORMAT))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = tars.walk(bytes(whole), "x.tar")
    except DataError:
        return
    assert all(o >= 0 and s >= 0 and o + s <= len(whole) for o, s in zip(found.offsets, found.sizes, strict=True))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=4000))
def test_any_bytes_give_members_or_a_sentence(data: bytes) -> None:
    try:
        found = tars.walk(data, "x.tar")
    except DataError:
        return
    assert len(found.names) <= len(data) // 512


@pytest.mark.parametrize(
    "size", [b"77777777777\0", b"\xff" * 12, b"\x80" + b"\x7f" * 11, b"-0000000001\0", b"0000x000001\0"]
)
def test_hostile_sizes_are_refused(size: bytes) -> None:
    good = tar_of([("a.jpg", b"1"), ("b.jpg", b"2")])[:2048]
    header = bytearray(good[1024:1536])
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    found = tars.walk(good[:1024] + bytes(header) + good[1536:], "x.tar")
    assert found.names == [b"a.jpg"]
    assert found.damage is not None
    assert "b.jpg" in found.damage


def test_pax_records_of_a_megabyte_take_no_time() -> None:
    records = b"6 a=b\n" * 170_000
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    data = info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512) + tar_of([("a.jpg", b"1")])
    assert contents(data) == [(b"a.jpg", b"1")]


def test_too_many_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "MAX_MEMBERS", 2)
    with pytest.raises(DataError, match=r"^'x.tar' holds more than 2 members: split it into smaller tars\.$"):
        tars.walk(tar_of([(f"{i}.txt", b"") for i in range(3)]), "x.tar")


@pytest.mark.parametrize(
    ("start", "text"),
    [
        (b"\x1f\x8b\x08", r"is compressed by gzip: unpack it \(`gunzip`\)"),
        (b"BZh9", "is compressed by bzip2"),
        (b"\xfd7zXZ\x00", "is compressed by xz"),
        (b"\x28\xb5\x2f\xfd", "is compressed by zstd"),
        (b"PK\x03\x04", "is a zip archive: write its files as a tar"),
        (b"PAR1", "is a Parquet file: only tars hold samples"),
        (b"7z\xbc\xaf", "is a 7z archive"),
        (b"version https://git-lfs", "is a git-lfs pointer"),
        (b"<!DOCTYPE html>", "is a web page"),
        (b"<html>", "is a web page"),
        (b"some text", r"is no tar \(.*; it begins with b'some tex'\): give tars of samples"),
    ],
)
@pytest.mark.parametrize("size", [40, 5000])
def test_another_format_is_named(start: bytes, text: str, size: int) -> None:
    with pytest.raises(DataError, match=f"^'x.tar' {text}"):
        tars.walk(start.ljust(size, b"\x01"), "x.tar")


def test_a_tar_cut_in_its_first_member() -> None:
    with pytest.raises(DataError, match=r"'x.tar' holds nothing that can be read \(it ends within 'a.jpg', 244 bytes"):
        tars.walk(tar_of([("a.jpg", b"1" * 700)])[:968], "x.tar")


def test_opened(tmp_path: Path) -> None:
    (tmp_path / "empty.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty.tar' is empty: download or write it again\.$"):
        tars.opened(tmp_path / "empty.tar").__enter__()
    with pytest.raises(DataError, match=r"none.tar' cannot be opened \(No such file or directory\): check the path"):
        tars.opened(tmp_path / "none.tar").__enter__()
    (tmp_path / "a.tar").write_bytes(b"abc")
    with tars.opened(tmp_path / "a.tar") as data:
        assert isinstance(data, mmap.mmap)
        assert data[:] == b"abc"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (b"0001.jpg", ("0001", "jpg")),
        (b"0001.syn.json", ("0001", "syn.json")),
        (b"v1.0/a/0001.JPG", ("v1.0/a/0001", "JPG")),
        ("ü.jpg".encode(), ("ü", "jpg")),
        (b"\xff.jpg", ("\\xff", "jpg")),
        (b"README", None),
        (b".hidden", None),
        (b"._0001.jpg", None),
        (b"__meta.x__", None),
    ],
)
def test_split(name: bytes, parts: tuple[str, str] | None) -> None:
    assert tars.split(name) == parts


@pytest.mark.parametrize(
    ("key", "safe"), [("a/b", True), ("/a", False), ("../a", False), ("a/../../b", False), ("a\\b", False)]
)
def test_is_safe(key: str, safe: bool) -> None:
    assert tars.is_safe(key) == safe
