"""Samples of every layout that is read, and of what is wrong with them; places; stored embeddings."""

import gzip
import io
import json
import math
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_files import npz

from mobileclip.data import remote, shards, tars, teachers
from mobileclip.data.problems import Problem, Tally
from mobileclip.data.shards import Paug, Sample, Text
from mobileclip.errors import DataError

JPEG = b"\xff\xd8\xff not decoded here"


def tar_of(files: dict[str, bytes] | list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items() if isinstance(files, dict) else files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def read(files: dict[str, bytes] | list[tuple[str, bytes]], *keys: str) -> tuple[list[Sample], dict[str, Problem]]:
    tally, data = Tally(), tar_of(files)
    return list(shards.read(data, tars.walk(data, "x.tar"), tally, keys)), tally.result()


def texts(sample: Sample) -> list[tuple[str, str, int]]:
    return [(text.source, text.text, text.teacher) for text in sample.texts]


def dumps(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_img2dataset() -> None:
    record = {"url": "u", "caption": "a cat", "key": "000000001", "sha256": "ab" * 32, "similarity": 0.31}
    found, problems = read({"000000001.jpg": JPEG, "000000001.txt": b"a cat", "000000001.json": dumps(record)})
    assert texts(found[0]) == [("alt", "a cat", 0)]  # its `caption` says the same
    assert (found[0].uid, found[0].texts[0].clip, found[0].extension) == ("ab" * 32, 0.31, "jpg")
    assert problems == {}


def test_plain_webdataset_with_classes() -> None:
    found, _ = read({"a/0.png": b"x", "a/0.txt": "ein Käfer ".encode(), "a/0.cls": b"17\n", "a/0.mask.png": b"m"})
    assert (found[0].key, found[0].label, found[0].extension) == ("a/0", 17, "png")
    assert texts(found[0]) == [("alt", "ein Käfer", 0)]
    assert set(found[0].members) == {"png", "txt", "cls", "mask.png"}
    found, _ = read({"0.png": b"x", "0.txt": b"t", "0.cls": b"cat"})
    assert found[0].label == -1


def test_open_clip_json_keys() -> None:
    record = {"caption_a": "first", "caption_b": "second", "blip": "third", "caption_list": ["no"], "other": "no"}
    files = {"0.webp": b"x", "0.json": dumps(record)}
    assert texts(read(files)[0][0]) == [("caption_a", "first", -1), ("caption_b", "second", -1)]
    assert ("blip", "third", -1) in texts(read(files, "blip")[0][0])


def test_caption_without_txt_is_the_web_text() -> None:
    assert texts(read({"0.jpg": JPEG, "0.json": dumps({"caption": "web"})})[0][0]) == [("alt", "web", 0)]
    both = read({"0.jpg": JPEG, "0.txt": b"clean", "0.json": dumps({"caption": "web"})})[0][0]
    assert texts(both) == [("alt", "clean", 0), ("caption", "web", -1)]


def test_datacompdr() -> None:
    syn = {
        "syn_text": ["one", "two"],
        "syn_text_coca": ["three"],
        "cap_v": 1,
        "cap_q": {"syn_text": [0.5, 2], "txt": 0.25},
    }
    files = {"0.jpg": JPEG, "0.txt": b"alt", "0.syn.json": dumps(syn), "0.url.txt": b"http", "0.paug.json": b"{}"}
    (sample,), problems = read(files)
    assert texts(sample) == [
        ("alt", "alt", 0),
        ("syn_text", "one", 1),
        ("syn_text", "two", 2),
        ("syn_text_coca", "three", 3),
    ]
    assert [text.weight for text in sample.texts] == [0.25, 0.5, 2, 1]
    assert problems == {}


def test_blank_captions_keep_the_rows_of_the_others() -> None:
    (sample,), problems = read(
        {"0.jpg": JPEG, "0.syn.json": dumps({"syn_text": ["", "two"], "syn_text_b": [" ", "four"]})}
    )
    assert texts(sample) == [("syn_text", "two", 2), ("syn_text_b", "four", 4)]
    assert problems["empty_caption"] == Problem(count=2, names=("0",))


def test_metaclip() -> None:
    record = {"texts": [["alt", "one"], ["title", "two"], ["alt", "one"], "bad", ["x", 3]]}
    (sample,), _ = read([("./a.jpeg", JPEG), ("./a.json", dumps(record))])
    assert (sample.key, sample.extension) == ("a", "jpeg")
    assert texts(sample) == [("texts:alt", "one", -1), ("texts:title", "two", -1)]


def test_recorded_quality() -> None:
    qc = {
        "alt": {"text": "alt", "clip": 0.2, "q": 0.5},
        "caps": [{"src": "syn_text", "text": "one", "clip": 0.3, "q": 2}],
    }
    (sample,), _ = read(
        {"0.jpg": JPEG, "0.txt": b"alt", "0.json": dumps({"qc": qc}), "0.syn.json": dumps({"syn_text": ["one", "two"]})}
    )
    assert [text.clip for text in sample.texts[:2]] == [0.2, 0.3]
    assert math.isnan(sample.texts[2].clip)
    assert [text.weight for text in sample.texts] == [0.5, 2, 1]


@pytest.mark.parametrize(
    ("files", "problem", "usable"),
    [
        ({"0.txt": b"a"}, "no_image", 0),
        ({"0.gif": b"a", "0.txt": b"a"}, "silent_extension", 0),
        ({"0.JPG": JPEG, "0.txt": b"a"}, "silent_extension", 1),
        ({"0.jpg": b"", "0.txt": b"a"}, "empty_image", 0),
        ({"0.jpg": JPEG}, "no_caption", 0),
        ({"0.jpg": JPEG, "0.txt": b" \n"}, "empty_caption", 0),
        ({"0.jpg": JPEG, "0.txt": b"\xff\xfe\xfa"}, "not_utf8", 0),
        ({"0.jpg": JPEG, "0.txt": b"a", "0.json": b"\xff\xfe\xfa"}, "not_utf8", 1),
        ({"0.jpg": JPEG, "0.txt": b"a" * 1_000_000}, "caption_too_long", 1),
        ({"0.jpg": JPEG, "0.txt": "ä".encode() * 2_500_000}, "caption_too_long", 1),
        ({"0.jpg": JPEG, "0.txt": b"a", "0.json": b"[1]"}, "bad_json", 1),
        ({"0.jpg": JPEG, "0.txt": b"a", "0.json": b"[" * 100_000}, "bad_json", 1),
        ({"0.jpg": JPEG, "0.txt": b"a", "0.json": b'{"a": ' + b"9" * 5000 + b"}"}, "bad_json", 1),
        ({"0.jpg": JPEG, "0.txt": b"a", "0.json": b" " * 4_000_001}, "bad_json", 1),
        ({"0.jpg": JPEG, "0.syn.json": dumps({"syn_text": ["x"] * 300})}, "too_many_captions", 1),
        ({"0.jpg": JPEG, "0.syn.json": dumps({"syn_text": ["x"], "cap_q": {"syn_text": [1, 2]}})}, "bad_quality", 1),
        ({"0.jpg": JPEG, "0.syn.json": dumps({"syn_text": ["x"], "cap_q": {"syn_text": [-1]}})}, "bad_quality", 1),
        ({"../0.jpg": JPEG, "../0.txt": b"a"}, "unsafe_name", 0),
    ],
)
def test_what_is_wrong_is_counted(files: dict[str, bytes], problem: str, usable: int) -> None:
    found, problems = read(files)
    assert len(found) == usable
    assert problem in problems
    for sample in found:
        assert all(0 < len(text.text) <= shards.TEXT_LIMIT for text in sample.texts)
        assert len(sample.texts) <= shards.MAX_TEXTS


def test_members_apart_and_members_twice() -> None:
    found, problems = read([("a.jpg", JPEG), ("b.jpg", JPEG), ("a.txt", b"a"), ("b.txt", b"b"), ("b.txt", b"again")])
    assert [texts(sample) for sample in found] == [[("alt", "a", 0)], [("alt", "b", 0)]]
    assert problems["not_adjacent"].names == ("a", "b")
    assert problems["duplicate_key"].names == ("b.txt",)


def test_lone_surrogates_can_be_written() -> None:
    (sample,), _ = read({"0.jpg": JPEG, "0.syn.json": b'{"syn_text": ["a \\ud800 b"]}'})
    sample.texts[0].text.encode()


FIELDS = [
    "syn_text",
    "syn_text_x",
    "cap_q",
    "txt",
    "texts",
    "caption",
    "qc",
    "caps",
    "alt",
    "src",
    "text",
    "clip",
    "q",
    "uid",
    "similarity",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(JSON, JSON, st.binary(max_size=20))
def test_any_json_is_read_or_counted(record: Any, syn: Any, text: bytes) -> None:
    found, problems = read(
        {"0.jpg": JPEG, "0.json": dumps(record), "0.syn.json": dumps(syn), "0.txt": text, "0.cls": text}
    )
    assert found or problems
    for sample in found:
        for caption in sample.texts:
            assert caption.text.strip()
            assert math.isfinite(caption.weight)
            assert caption.weight >= 0


# --- stored augmentations


def test_param_aug_as_string_and_as_list() -> None:
    params = [[[1, 2, 3, 4], [[3, 0.5]]], [[5, 6, 7, 8], None]]
    assert shards.parse_paug(dumps({"param_aug": params})) == Paug(params=params)
    assert shards.parse_paug(dumps({"param_aug": json.dumps(params), "paug_size": [64, 48]})) == Paug(
        params=params, size=(64, 48)
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b'{"param_aug": 3}',
        b'{"param_aug": []}',
        b'{"param_aug": [3]}',
        b'{"param_aug": "["}',
        dumps({"param_aug": [[1]] * 1025}),
        dumps({"param_aug": [[1]], "paug_size": [0, 3]}),
        dumps({"param_aug": [[1]], "paug_size": "x"}),
        b" " * 4_000_001,
    ],
)
def test_other_paug_is_refused(content: bytes) -> None:
    with pytest.raises(
        DataError, match=r"^a \.paug\.json does not hold `param_aug`, a list of augmentations or a string"
    ):
        shards.parse_paug(content)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-50, 800), min_size=4, max_size=4), st.integers(1, 500), st.integers(1, 500))
def test_scaled_boxes_stay_inside(box: list[int], width: int, height: int) -> None:
    scaled = Paug(params=[[box, [[3, 1.0]]]]).scaled((640, 480), (width, height))
    top, left, tall, wide = scaled.params[0][0]
    assert 0 <= top < top + tall <= height
    assert 0 <= left < left + wide <= width
    assert scaled.params[0][1] == [[3, 1.0]]
    assert scaled.size == (width, height)


def test_scaling_to_the_same_size_changes_nothing() -> None:
    params = [[[10, 20, 300, 200], [[3, 1.0]]]]
    assert Paug(params=params).scaled((640, 480), (640, 480)).params == params
    assert Paug(params=params).scaled((640, 480), (320, 240)).params[0][0] == [5, 10, 150, 100]


# --- stored embeddings


def pth(found: object) -> bytes:
    file = io.BytesIO()
    torch.save(found, file)
    return gzip.compress(file.getvalue(), mtime=0)


def rows(count: int, dim: int = 6, first: float = 0) -> np.ndarray:
    return (np.arange(count * dim).reshape(count, dim) + first).astype(np.float32)


def test_public_form_of_embeddings() -> None:
    found = teachers.read("npz", npz(image_emb=rows(2), text_emb=rows(4, first=9)))
    assert set(found) == {"image_emb", "text_emb"}
    made = teachers.assemble(found, {"syn_text": 3}, 2)
    assert np.array_equal(made.image, rows(2))
    assert np.array_equal(made.text, rows(4, first=9))


def test_bfloat16_form_of_embeddings() -> None:
    content = pth({"image_emb": torch.from_numpy(rows(2)).bfloat16(), "text_emb": [torch.ones(6), torch.zeros(6)]})
    assert teachers.names("pth.gz", content) == {"image_emb", "text_emb"}
    made = teachers.assemble(teachers.read("pth.gz", content), {"syn_text": 1}, 2)
    assert np.array_equal(made.image, rows(2))
    assert made.text[:, 0].tolist() == [1, 0]


def test_embeddings_follow_their_list_by_name() -> None:
    content = npz(
        image_emb=rows(1), text_emb=rows(1), syn_text_emb=rows(2, first=100), syn_text_b_emb=rows(1, first=200)
    )
    assert teachers.names("npz", content) == {"image_emb", "text_emb", "syn_text_emb", "syn_text_b_emb"}
    made = teachers.assemble(teachers.read("npz", content), {"syn_text_b": 1, "syn_text": 2, "new": 1}, None)
    assert made.text[:4, 0].tolist() == [0, 200, 100, 106]
    assert np.isnan(made.text[4]).all()


@pytest.mark.parametrize(
    ("found", "counts", "paug", "text"),
    [
        (
            {"text_emb": rows(1)},
            {},
            None,
            r"embeddings are called \['text_emb'\]: 'image_emb' and 'text_emb' are needed",
        ),
        (
            {"image_emb": rows(0), "text_emb": rows(1)},
            {},
            None,
            r"image_emb has shape \[0, 6\].* loses all after its first",
        ),
        (
            {"image_emb": rows(2), "text_emb": rows(1)},
            {},
            3,
            "2 image embeddings for 3 augmentations: they must be as many",
        ),
        (
            {"image_emb": rows(1), "text_emb": rows(6)},
            {"syn_text": 4},
            1,
            "6 rows for 1 text and 4 captions in 'syn_text'",
        ),
        ({"image_emb": rows(1), "text_emb": rows(2)}, {"syn_text_b": 1}, 1, "2 rows for 1 text and 0 captions"),
        (
            {"image_emb": rows(1), "text_emb": rows(1), "b_emb": rows(2)},
            {"b": 3},
            1,
            r"'b_emb' has shape \[2, 6\] for 3 captions and 6 columns: they must agree",
        ),
    ],
)
def test_counts_that_do_not_agree(
    found: dict[str, np.ndarray], counts: dict[str, int], paug: int | None, text: str
) -> None:
    with pytest.raises(DataError, match=text):
        teachers.assemble(found, counts, paug)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/mobileclip-was-here",)


def bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image_emb.npy", bytes(70_000_000))
    return file.getvalue()


def lying_npy() -> bytes:
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 8)})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("image_emb.npy", array.getvalue() + b"1234")
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "content", "text"),
    [
        ("npz", b"", r"a \.npz of embeddings cannot be read"),
        ("npz", b"PK\x03\x04 cut", r"a \.npz of embeddings cannot be read"),
        ("npz", npz(image_emb=np.array([Evil()], object)), "holds pickled objects, which are never read"),
        ("npz", npz(image_emb=np.arange(3)), "holds numbers of kind int64: floats are allowed"),
        ("npz", npz(image_emb=np.zeros(3, np.float32)), r"has shape \[3\]: rows \[N, D\] are allowed"),
        ("npz", bomb(), "claims more than 64,000,000 bytes or 64 arrays"),
        ("npz", lying_npy(), r"claims shape \[1000000000000, 8\], which its bytes are not"),
        ("pth.gz", gzip.compress(b"x", mtime=0), r"a \.pth\.gz of embeddings cannot be read"),
        ("pth.gz", gzip.compress(bytes(65_000_000), mtime=0), "inflates to more than 64,000,000 bytes"),
        ("pth.gz", pth({"image_emb": Evil()}), r"a \.pth\.gz of embeddings cannot be read"),
        ("pth.gz", pth([torch.ones(2)]), "holds a list: a dict of tensors is allowed"),
        (
            "pth.gz",
            pth({"image_emb": torch.ones(2, 2, dtype=torch.int64)}),
            "'image_emb' in a .pth.gz is no tensor of floats",
        ),
        ("pth.gz", pth({"image_emb": torch.ones(1).expand(10**9, 8)}), r"has shape \[1000000000, 8\], more than"),
    ],
)
def test_hostile_embeddings_are_refused(kind: str, content: bytes, text: str) -> None:
    with pytest.raises(DataError, match=text):
        teachers.read(kind, content)
    assert not Path("/tmp/mobileclip-was-here").exists()


# --- places


def test_expand(tmp_path: Path) -> None:
    for name in ("00000.tar", "00001.tar", "00002.tar", "x.tar", "note.txt"):
        (tmp_path / name).write_bytes(b"")
    root = str(tmp_path)
    every = [f"{root}/{name}.tar" for name in ("00000", "00001", "00002", "x")]
    assert shards.expand(root) == every
    assert shards.expand(tmp_path) == every
    assert shards.expand(f"{root}/{{00000..00002}}.tar") == every[:3]
    assert shards.expand(f"{root}/{{00002..00001}}.tar") == [every[2], every[1]]
    assert shards.expand(f"{root}/{{x,00001}}.tar") == [every[3], every[1]]
    assert shards.expand(f"{root}/0*.tar") == every[:3]
    assert shards.expand([f"{root}/x.tar::{root}/00001.tar", root]) == [every[3], every[1], every[0], every[2]]
    assert shards.expand(f"file://{root}/x.tar") == [every[3]]
    assert shards.expand("https://host/{0..2}.tar") == [f"https://host/{i}.tar" for i in range(3)]


def test_expand_says_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds no \.tar \(1 \.txt\): give the folder in which the shards are"):
        shards.expand(str(tmp_path))
    with pytest.raises(DataError, match=r"'.*/none\.tar' does not exist: give a tar, a folder of tars, or a pattern"):
        shards.expand(str(tmp_path / "none.tar"))
    with pytest.raises(DataError, match=r"'.*/\*\.tar' matches nothing"):
        shards.expand(str(tmp_path / "*.tar"))
    with pytest.raises(DataError, match=r"no shards were given"):
        shards.expand([])
    with pytest.raises(DataError, match=r"stands for more than 2,000,000 tars"):
        shards.expand("{0..9999}/{0..9999}.tar")
    with pytest.raises(DataError, match=r"matches nothing: check the address"):
        shards.expand("memory://nothing-here/*.tar")


def test_remote_tars_are_copied_once_and_kept_below_a_limit(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in "abc":
        memory.pipe(f"/shards-test/{name}.tar", name.encode() * 1000)
    found = shards.expand("memory://shards-test/*.tar")
    assert [name.rsplit("/", 1)[-1] for name in found] == ["a.tar", "b.tar", "c.tar"]
    first = remote.local(found[0], tmp_path, limit=2500)
    assert first.read_bytes() == b"a" * 1000
    os.utime(first, (1, 1))
    again = remote.local(found[0], tmp_path, limit=2500)
    assert (again, again.stat().st_mtime > 1) == (first, True)
    os.utime(first, (1, 1))
    for name in found[1:]:
        remote.local(name, tmp_path, limit=2500)
    assert not first.exists()
    assert len(list((tmp_path / "tars").iterdir())) == 2
    with pytest.raises(DataError, match=r"has 1,000 bytes, 500 are kept at most: make smaller shards"):
        remote.local(found[0], tmp_path / "other", limit=500)
    with pytest.raises(DataError, match=r"'memory://shards-test/none\.tar' cannot be read"):
        remote.local("memory://shards-test/none.tar", tmp_path)
    with pytest.raises(DataError, match=r"cannot be read \(Protocol not known: nosuch"):
        remote.local("nosuch://x/y.tar", tmp_path)


def test_text_is_frozen_and_keyword_only() -> None:
    assert Text(source="alt", text="x") == Text(
        text="x", source="alt", weight=1.0, teacher=-1, clip=Text(source="", text="").clip
    )
