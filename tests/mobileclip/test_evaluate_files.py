"""Text files that cannot be read, and names that leave their folder."""

from pathlib import Path

import pytest

from mobileclip.errors import DataError
from mobileclip.evaluate import files
from mobileclip.evaluate.files import inside, read_text


def test_text_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"missing cannot be opened \(No such file or directory\): check the path"):
        read_text(tmp_path / "missing")
    with pytest.raises(DataError, match=r"cannot be opened \(.*null.*\): check the path"):
        read_text(Path("a\0b"))
    with pytest.raises(DataError, match="is not a file: give a text or JSON file"):
        read_text(tmp_path)
    (tmp_path / "x").write_bytes(b"fine\nfine\n\xe9t\xe9")
    with pytest.raises(DataError, match=r"x is not UTF-8 \(byte 0xe9 in line 3\): save it as UTF-8"):
        read_text(tmp_path / "x")
    monkeypatch.setattr(files, "MAX_TEXT", 5)
    with pytest.raises(DataError, match=r"x has 13 bytes: at most 5 are read; split it"):
        read_text(tmp_path / "x")


def test_paths_that_leave_their_folder() -> None:
    for name in ("../a", "a/../../b", "/a", "\\a", "..\\a", "a\0b", "", "~/a"):
        assert inside(name) is None, name
    for name in ("a", "a/b.png", "..a", "a..b/c", "~a"):
        assert inside(name) is not None, name
