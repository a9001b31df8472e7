"""Files that are something else, cut short or hostile, places that cannot be read, and writing that fails."""

import json
import os
import pickle
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from weight_files import write

from mobileclip.checkpoint import save
from mobileclip.checkpoint_files import read_weights
from mobileclip.errors import OutputError
from mobileclip.models import Clip

pytestmark = pytest.mark.usefixtures("one_thread")


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.target}'",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_does_not_run(zipped: bool, tmp_path: Path, refused: Callable[..., str]) -> None:
    path, proof = tmp_path / "evil.pt", tmp_path / "ran"
    torch.save({"a": torch.zeros(2), "b": Evil(proof)}, path, _use_new_zipfile_serialization=zipped)
    message = refused(path)
    assert not proof.exists()
    if zipped:
        assert (
            "holds Python objects other than tensors (posix.system), which are not read because unpickling" in message
        )
    else:
        assert "is a bare pickle (PyTorch's format before 1.6, or another program's), which is not read" in message
    torch.load(path, weights_only=False)
    assert proof.exists()  # the file would have done it


def test_a_whole_model_in_a_pickle(tmp_path: Path, refused: Callable[..., str]) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    assert "(torch.nn.modules.linear.Linear)" in refused(tmp_path / "x.pt")


def _cut(path: Path, apple: Path) -> None:
    path.write_bytes(apple.read_bytes()[:200_000])


def _bomb(path: Path, apple: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(50_000_000))


def _overlapping(path: Path, apple: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"x")
    data = path.read_bytes()
    at = data.index(b"PK\x01\x02")
    huge = struct.pack("<II", 4_000_000_000, 4_000_000_000)
    path.write_bytes(data[: at + 20] + huge + data[at + 28 :])


def _script(path: Path, apple: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"x")
        archive.writestr("x/code/model.py", b"pass")


def _other_zip(path: Path, apple: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", b"x")


def _large_index(path: Path, apple: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", bytes(64_000_001))


def _bad_index(path: Path, apple: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"a": 1}, 2)[:-3])
        archive.writestr("x/version", b"3\n")


def _lying_header(path: Path, apple: Path) -> None:
    header = json.dumps({"image.a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))


HOSTILE: list[tuple[Callable[[Path, Path], object], str]] = [
    (lambda path, apple: path.touch(), "is empty: download or copy it again."),
    (lambda path, apple: path.write_bytes(b"\n<!DOCTYPE html><p>404"), "is a web page saved under that name"),
    (
        lambda path, apple: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "is a git-lfs pointer, a text in place of the weights: fetch them with `git lfs pull`",
    ),
    (lambda path, apple: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "is no file of weights: it begins with b'\\x89PNG"),
    (lambda path, apple: path.write_bytes(pickle.dumps({"a": 1})), "is a bare pickle"),
    (_cut, "is cut short or damaged (File is not a zip file)"),
    (_bomb, "has compressed records that claim 50,000,000 bytes in a file of"),
    (_overlapping, "has overlapping records that claim 4,000,000,000 bytes in a file of"),
    (_script, "is a TorchScript program and not a file of weights"),
    (_other_zip, "is a zip archive of another program"),
    (_large_index, "has an index of more than 64,000,000 bytes"),
    (_bad_index, "is damaged ("),
    (_lying_header, "is cut short or has a false header ("),
    (lambda path, apple: write(path, {"a": 1}), "holds 'a', a int, where only tensors belong"),
    (lambda path, apple: write(path, {}), "holds nothing where only tensors belong"),
    (lambda path, apple: torch.save(torch.zeros(2), path), "holds a Tensor and no state dict"),
    (
        lambda path, apple: torch.save(
            {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}, path
        ),
        "holds the state of an optimizer and no weights",
    ),
    (
        lambda path, apple: write(path, {f"layer1.{i}.conv1.weight": torch.zeros(1) for i in range(5)}),
        "holds another model: its 5 tensors are called layer1.0.conv1.weight, layer1.1.conv1.weight, "
        "layer1.2.conv1.weight, ..., which is none of the forms apple, open_clip, timm, toolkit",
    ),
]


@pytest.mark.parametrize(("make", "verdict"), HOSTILE, ids=[verdict[:30] for _, verdict in HOSTILE])
def test_files_that_are_something_else(
    make: Callable[[Path, Path], object], verdict: str, apple: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    path = tmp_path / "mobileclip_s2.pt"
    make(path, apple)
    message = refused(path)
    assert f"'{path}' {verdict}" in message


def test_places_that_are_no_file(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "there is no file or folder 'nowhere.pt': give a path" in refused("nowhere.pt")
    assert "(mobileclip_s2 names an architecture: `mobileclip.create` builds it" in refused("mobileclip_s2")
    os.mkfifo(tmp_path / "pipe")
    assert "is neither a file nor a folder" in refused(tmp_path / "pipe")
    assert f"the folder '{tmp_path}' holds no weights (open_clip_model.safetensors," in refused(tmp_path)
    (tmp_path / "a.pt").touch()
    assert f"'{tmp_path / 'a.pt'}' is empty" in refused(tmp_path)  # one file is unambiguous
    (tmp_path / "b.pt").touch()
    assert "holds 2 files of weights (a.pt, b.pt): give one file" in refused(tmp_path)


def test_a_file_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    def deny(self: Path, *args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x.pt").write_bytes(b"x")
    monkeypatch.setattr(Path, "open", deny)  # the tests may run as root, whom no mode denies
    assert "cannot be read (Permission denied): see that it is a file of yours." in refused(tmp_path / "x.pt")


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    """One safetensors file in 32 begins with the byte that begins a pickle."""
    for length in range(64):
        save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors", metadata={"note": "n" * length})
        head = (tmp_path / "x.safetensors").read_bytes()[:1]
        assert list(read_weights(tmp_path / "x.safetensors")) == ["x"], head


# Writing


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "x"])
def test_a_full_disk_leaves_nothing(name: str, tmp_path: Path, model: Callable[[str], Clip]) -> None:
    form = "timm" if "." in name else "toolkit"
    path = tmp_path / name
    save(model("nano_swin"), path, form)
    kept = {item: item.read_bytes() for item in tmp_path.rglob("*") if item.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot be written \(.*\): give a place that exists and has room\."):
            save(model("nano_swin"), path, form, force=True)
        with pytest.raises(OutputError, match="cannot be written"):
            save(model("nano_swin"), tmp_path / "new" / name, form)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {item: item.read_bytes() for item in tmp_path.rglob("*") if item.is_file()} == kept


def test_a_place_that_cannot_be_written(tmp_path: Path, model: Callable[[str], Clip]) -> None:
    (tmp_path / "file").touch()
    for name, form in (("file/x.pt", "timm"), ("file/x", "toolkit")):
        with pytest.raises(OutputError, match=r"cannot be written \(.*\): give a place"):
            save(model("nano_swin"), tmp_path / name, form)
