"""Indices and corpora: what they hold, when they are built, damage, remote tars, broken images."""

import io
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_files import npz, rows, write_tar

from mobileclip import tokenizer
from mobileclip.data import arrays, index_build, sidecar
from mobileclip.data.corpus import Corpus, corpus
from mobileclip.data.index import SUFFIX, Index, index
from mobileclip.data.shards import Paug
from mobileclip.errors import DataError

JPEG = b"\xff\xd8\xff not decoded here"
POISON = Path(__file__).parents[3] / "shared" / "data" / "poison"


def simple(path: Path, count: int = 5, first: int = 0) -> Path:
    files = [
        (f"{i:04d}.{ext}", f"{ext} of {i}".encode()) for i in range(first, first + count) for ext in ("jpg", "txt")
    ]
    return write_tar(path, files)


def token_rows(found: Index, row: int) -> list[list[int]]:
    return [
        found.tokens[found.token_start[t] : found.token_start[t + 1]].tolist()
        for t in range(*found.texts(row).indices(10**9))
    ]


def test_what_an_index_holds(tmp_path: Path) -> None:
    syn = {"syn_text": ["a dog", "a red cat"], "cap_q": {"syn_text": [0.5, 2]}}
    files = {
        "a/1.jpg": JPEG,
        "a/1.txt": "Ein Käfer &amp; more".encode(),
        "a/1.json": json.dumps({"uid": "u1", "caption_x": "third"}).encode(),
        "a/1.syn.json": json.dumps(syn).encode(),
        "a/1.paug.json": b'{"param_aug": "[[[1, 2, 3, 4]]]"}',
        "a/1.npz": npz(image_emb=rows(1), text_emb=rows(3, 50)),
        "2.png": b"png!",
        "2.txt": b"a dog",
        "2.cls": b"7",
        "3.txt": b"no image",
    }
    found = index(write_tar(tmp_path / "0.tar", files))
    assert (found.n, found.sources) == (2, ("alt", "syn_text", "caption_x"))
    assert [found.key(row) for row in range(2)] == ["a/1", "2"]
    assert [bytes(found.image_bytes(row)) for row in range(2)] == [JPEG, b"png!"]
    assert found.image_kind.tolist() == [0, 1]
    assert found.cls.tolist() == [-1, 7]
    assert found.source.tolist() == [0, 1, 1, 2, 0]
    assert found.teacher.tolist() == [0, 1, 2, -1, 0]
    assert found.weight.tolist() == [1, 0.5, 2, 1, 1]
    assert np.isnan(found.clip).all()
    expected = ["Ein Käfer &amp; more", "a dog", "a red cat", "third"]
    assert token_rows(found, 0) == [tokenizer.encode(text) for text in expected]
    assert found.text_hash[1] == found.text_hash[4]
    assert len(set(found.text_hash.tolist())) == 4
    assert found.uid[0] == index_build.hash64(b"u1")
    assert found.paug(0) == Paug(params=[[[1, 2, 3, 4]]])
    assert found.paug(1) is None
    teachers = found.teachers(0)
    assert teachers is not None
    assert np.array_equal(teachers.text, rows(3, 50))
    assert found.teachers(1) is None
    assert {name: problem.count for name, problem in found.problems.items()} == {"no_image": 1}
    assert not any(array.flags.writeable for array in (found.tokens, found.image, found.keys))


def test_lists_without_embeddings_have_no_teacher(tmp_path: Path) -> None:
    syn = json.dumps({"syn_text": ["one"], "syn_text_new": ["two"]}).encode()
    for name, found, teacher in (
        ("npz", npz(image_emb=rows(1), text_emb=rows(2)), [0, 1, -1]),
        ("npz", npz(image_emb=rows(1), text_emb=rows(1), syn_text_new_emb=rows(1)), [0, 1, 2]),
        ("npz", b"damaged", [0, 1, 2]),
    ):
        files = {"0.jpg": JPEG, "0.txt": b"alt", "0.syn.json": syn, f"0.{name}": found}
        (tmp_path / "0.tar").unlink(missing_ok=True)
        made = index(write_tar(tmp_path / "0.tar", files))
        assert made.teacher.tolist() == teacher
        assert ("bad_embeddings" in made.problems) == (found == b"damaged")


def test_pth_gz_embeddings(tmp_path: Path) -> None:
    import gzip

    file = io.BytesIO()
    torch.save({"image_emb": torch.ones(2, 8).bfloat16(), "text_emb": torch.zeros(1, 8).bfloat16()}, file)
    paug = b'{"param_aug": [[[0, 0, 1, 1]], [[0, 0, 2, 2]]]}'
    files = {"0.jpg": JPEG, "0.txt": b"alt", "0.pth.gz": gzip.compress(file.getvalue()), "0.paug.json": paug}
    found = index(write_tar(tmp_path / "0.tar", files))
    assert (found.embeds_kind.tolist(), found.teacher.tolist()) == ([2], [0])
    teachers = found.teachers(0)
    assert teachers is not None
    assert (teachers.image.shape, teachers.image.dtype) == ((2, 8), np.float32)


def test_counts_that_do_not_agree_are_refused_when_read(tmp_path: Path) -> None:
    files = {"0.jpg": JPEG, "0.txt": b"alt", "0.npz": npz(image_emb=rows(0), text_emb=rows(0))}
    with pytest.raises(DataError, match=r"image_emb has shape \[0, 8\].*make them again"):
        index(write_tar(tmp_path / "0.tar", files)).teachers(0)


LONG = "x" * 1_000_000


@pytest.mark.parametrize(
    "text", ["a" * 2001, "word " * 3000, "!" * 5000, "<end_of_text>" * 3000, LONG, "é" * 19_999, "! !" * 900]
)
def test_long_captions_keep_their_first_tokens(text: str) -> None:
    text = text[:20_000]
    assert index_build.tokens_of(text) == tokenizer.encode(text)[: index_build.MAX_TOKENS]


def test_a_megabyte_caption_costs_little_and_is_flagged(tmp_path: Path) -> None:
    files = {f"{i}.{ext}": content for i in range(20) for ext, content in (("jpg", JPEG), ("txt", LONG.encode()))}
    found = index(write_tar(tmp_path / "0.tar", files))
    assert found.problems["caption_too_long"].count == 20
    assert np.diff(found.token_start).max() <= index_build.MAX_TOKENS


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=6))
def test_tokens_are_the_tokenizers(tmp_path_factory: pytest.TempPathFactory, captions: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "tokens.tar"
    syn = json.dumps({"syn_text": [*captions, "end"]}).encode()
    found = index(write_tar(path, {"0.jpg": JPEG, "0.syn.json": syn}))
    kept = [text.strip().removeprefix("\ufeff") for text in captions]
    assert token_rows(found, 0) == [tokenizer.encode(text) for text in [*filter(None, kept), "end"]]


def test_built_once_and_again_when_something_changes(tmp_path: Path) -> None:
    path = simple(tmp_path / "0.tar")
    first = index(path)
    assert first.path == tmp_path / f"0{SUFFIX}"
    stamp = first.path.stat().st_mtime_ns
    assert index(path).path.stat().st_mtime_ns == stamp
    assert index(path, json_keys=("blip",)).path.stat().st_mtime_ns != stamp
    simple(path, 7)
    assert index(path).n == 7
    metadata: dict[str, Any] = dict(first.metadata) | {"tokenizer": "another"}
    found, _ = arrays.load(first.path)
    arrays.save(first.path, found, metadata)
    assert index(path).metadata["tokenizer"] == tokenizer.tokenizer_hash()


def test_a_damaged_index_is_built_again(tmp_path: Path) -> None:
    path = simple(tmp_path / "0.tar")
    made = index(path)
    for damage in (b"", b"garbage", made.path.read_bytes()[:900]):
        made.path.unlink()
        made.path.write_bytes(damage)
        assert index(path).n == 5


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("image", lambda a: a + 10**9, "points outside the tar"),
        ("image", lambda a: -a, "points outside the tar"),
        ("text_start", lambda a: a[::-1].copy(), "does not rise"),
        ("token_start", lambda a: a + 1, "does not rise"),
        ("source", lambda a: a + 200, "a source or a kind is unknown"),
        ("weight", lambda a: a[:-1], "has another length"),
        ("uid", lambda a: a.astype(np.int64), "has another form"),
    ],
)
def test_offsets_that_lie_are_not_used(tmp_path: Path, name: str, change: Callable[[Any], Any], text: str) -> None:
    from mobileclip.data.index import _check

    made = index(simple(tmp_path / "0.tar"))
    found, metadata = arrays.load(made.path)
    lying = {**found, name: change(found[name])}
    with pytest.raises(ValueError, match=text):
        _check(lying, metadata)
    arrays.save(made.path, lying, metadata)
    assert bytes(index(tmp_path / "0.tar").image_bytes(0)) == b"jpg of 0"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "read-only").mkdir()
    path = simple(tmp_path / "read-only" / "0.tar")
    path.parent.chmod(0o500)
    try:
        assert index(path, cache=tmp_path / "cache").path.parent == tmp_path / "cache" / "index"
    finally:
        path.parent.chmod(0o700)


def test_the_cache_is_used_where_the_index_cannot_lie(tmp_path: Path) -> None:
    path = simple(tmp_path / "0.tar")
    (tmp_path / f"0{SUFFIX}").mkdir()  # in the way
    made = index(path, cache=tmp_path / "cache")
    assert made.path.parent == tmp_path / "cache" / "index"
    stamp = made.path.stat().st_mtime_ns
    assert index(path, cache=tmp_path / "cache").path.stat().st_mtime_ns == stamp


def test_a_tar_that_changed_behind_its_index(tmp_path: Path) -> None:
    path = simple(tmp_path / "0.tar")
    made = index(path)
    with path.open("ab") as file:
        file.write(bytes(512))
    with pytest.raises(DataError, match=r"its index was made for .*: start again"):
        made.image_bytes(0)


def test_several_threads_build_at_once(tmp_path: Path) -> None:
    path, found = simple(tmp_path / "0.tar", 50), []
    threads = [threading.Thread(target=lambda: found.append(index(path).n)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [50] * 4
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"0{SUFFIX}", "0.tar"]


def test_corpus_numbers_all_samples(tmp_path: Path) -> None:
    for number, count in enumerate((3, 0, 4)):
        simple(tmp_path / f"{number}.tar", count, number * 10)
    seen: list[tuple[int, int]] = []
    found = corpus(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert (found.n, len(found.shards), found.start.tolist()) == (7, 3, [0, 3, 3, 7])
    assert seen == [(1, 3), (2, 3), (3, 3)]
    shard, row = found.locate(np.arange(7))
    assert shard.tolist() == [0, 0, 0, 2, 2, 2, 2]
    assert row.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert [found.shards[int(s)].key(int(r)) for s, r in zip(shard, row, strict=True)][-1] == "0023"
    assert found.fingerprint == corpus(tmp_path).fingerprint
    simple(tmp_path / "2.tar", 4, 30)
    assert found.fingerprint != corpus(tmp_path).fingerprint


def test_corpus_by_processes_is_the_same(tmp_path: Path) -> None:
    for number in range(3):
        simple(tmp_path / f"{number}.tar", 4, number * 10)
    assert corpus(tmp_path, jobs=2).fingerprint == corpus(tmp_path).fingerprint


def test_few_indices_stay_open(tmp_path: Path) -> None:
    for number in range(20):
        simple(tmp_path / f"{number:02d}.tar", 1, number)
    found = corpus(tmp_path)
    found.shards._room = 3
    assert [bytes(one.image_bytes(0)) for one in found.shards] == [f"jpg of {i}".encode() for i in range(20)]
    assert len(found.shards._open) == 3
    assert found.shards[19] is found.shards[19]


def test_nothing_usable_says_so_at_once(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"a.parquet": b"x", "b.parquet": b"y"})
    with pytest.raises(
        DataError,
        match=r"none of 1 shards holds a sample that can be used \(2 no_image \(0/a, 0/b\)\); found were 2",
    ):
        corpus(tmp_path)
    write_tar(tmp_path / "0.tar", {"a.JPEG2": b"x", "README": b"y", "b.jpg": JPEG, "c.txt": b"z"})
    with pytest.raises(DataError, match=r"2 no_image \(0/a, 0/c\), 1 no_caption \(0/b\)\)"):
        corpus(tmp_path)
    write_tar(tmp_path / "0.tar", {})
    with pytest.raises(DataError, match="found were no files"):
        corpus(tmp_path)


def test_damaged_tars(tmp_path: Path) -> None:
    path = simple(tmp_path / "0.tar", 10)
    data = path.read_bytes()
    path.write_bytes(data[: 512 * 4 * 6 + 700])
    found = corpus(path)
    assert found.n == 6
    assert found.problems["truncated"].names == ("0/0.tar: it ends within the block at byte 12,800",)
    (tmp_path / "1.tar").write_bytes(b"\x1f\x8b\x08" + data)
    with pytest.raises(DataError, match=r"1\.tar' is compressed by gzip: unpack it"):
        corpus(tmp_path)


def test_side_cars_come_first_and_belong_to_their_shard(tmp_path: Path) -> None:
    path = simple(tmp_path / "0.tar", 3)
    made, emb = index(path), tmp_path / "emb"
    keys, texts = made.metadata["keys_hash"], made.metadata["texts_hash"]
    sidecar.write(emb / f"0{sidecar.IMAGE}", rows(6), kind="bf16", keys=keys, counts=[2, 2, 2])
    sidecar.write(emb / f"0{sidecar.TEXT}", rows(3, 9), kind="bf16", keys=keys, counts=[1, 1, 1], texts=texts)
    found = corpus(path, embeddings=emb).shards[0].teachers(1)
    assert found is not None
    assert np.array_equal(found.image, rows(6)[2:4])
    assert found.text.shape == (1, 8)
    simple(path, 3, 1)
    with pytest.raises(DataError, match="belongs to another shard"):
        corpus(path, embeddings=emb)
    with pytest.raises(DataError, match=r"1\.image\.safetensors' cannot be opened"):
        corpus(simple(tmp_path / "1.tar"), embeddings=emb)
    files = [(f"{i:04d}.{ext}", f"{ext} OF {i}".encode()) for i in range(3) for ext in ("jpg", "txt")]
    with pytest.raises(DataError, match="was made for other captions of this shard"):
        corpus(write_tar(path, files), embeddings=emb)


def test_remote_corpus(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for number in range(2):
        memory.pipe(f"/index-test/{number}.tar", simple(tmp_path / f"{number}.tar", 3, number * 10).read_bytes())
    found: Corpus = corpus("memory://index-test/{0..1}.tar", cache=tmp_path / "cache")
    assert (found.n, bytes(found.shards[1].image_bytes(2))) == (6, b"jpg of 12")
    assert found.shards[1].path.parent == tmp_path / "cache" / "index"
    for path in (tmp_path / "cache" / "tars").iterdir():
        path.unlink()
    again = corpus("memory://index-test/{0..1}.tar", cache=tmp_path / "cache")
    assert again.n == 6
    assert not list((tmp_path / "cache" / "tars").iterdir())  # indices alone were needed
    assert bytes(again.shards[0].image_bytes(0)) == b"jpg of 0"
    with pytest.raises(DataError, match=r"'memory://index-test/9\.tar' cannot be read"):
        corpus("memory://index-test/9.tar", cache=tmp_path / "cache")


def test_poison_images_are_rows_that_the_loader_judges(tmp_path: Path) -> None:
    if not POISON.is_dir():
        pytest.skip(f"no broken images at {POISON}")
    pictures = [path for path in sorted(POISON.iterdir()) if path.suffix in (".jpg", ".png", ".webp", ".gif")]
    files = [(f"{i:03d}{path.suffix}", path.read_bytes()) for i, path in enumerate(pictures)]
    files += [(f"{i:03d}.txt", path.stem.encode()) for i, path in enumerate(pictures)]
    found = index(write_tar(tmp_path / "0.tar", files))
    assert found.n == sum(path.suffix != ".gif" for path in pictures)
    assert found.problems["not_adjacent"].count == len(pictures)
    assert found.problems["silent_extension"].count == found.problems["no_image"].count


def test_importing_the_index_is_light() -> None:
    import subprocess

    code = "import sys, mobileclip.data.corpus; print('torch' in sys.modules, 'fsspec' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False False\n"
    )
