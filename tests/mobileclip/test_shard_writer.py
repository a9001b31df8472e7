"""What `ShardWriter` writes and refuses, interruption, a full disk; and that other readers load its shards."""

import argparse
import functools
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip_train.data
import pytest
import simplejpeg
import torch
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip_train.data import get_wds_dataset
from PIL import Image
from shard_files import files_of, jpeg, picture, rows, write_tar

from mobileclip.data import tars
from mobileclip.data.corpus import corpus
from mobileclip.data.index import Index, index
from mobileclip.data.problems import Tally
from mobileclip.data.sample import sample_members
from mobileclip.data.shard_writer import ShardWriter
from mobileclip.data.shards import Paug, Text, read
from mobileclip.data.teachers import Teachers
from mobileclip.errors import DataError, OutputError


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


MASK = png(np.arange(12, dtype=np.uint8).reshape(3, 4))


def captions(number: int) -> list[Text]:
    return [
        Text(source="alt", text=f"alt text {number} für alle", weight=0.5, clip=0.25),
        Text(source="syn_text", text=f"a first caption {number}", teacher=1),
        Text(source="syn_text", text=f"a second caption {number}", weight=2.0, teacher=2),
        Text(source="syn_text_coca", text=f"a third caption {number}", clip=0.5, teacher=3),
    ]


def write(folder: Path, count: int = 5, per_shard: int = 2, **options: Any) -> Path:
    with ShardWriter(folder, per_shard=per_shard, licence="CC0-1.0", **options) as writer:
        for number in range(count):
            writer.add(
                f"{number:09d}",
                image=picture(number),
                texts=captions(number),
                record={"url": "u", "width": 64, "height": 48},
                members={"mask.png": MASK},
                paug=Paug(params=[[[0, 1, 20, 30], [[3, 0.5]]], [[5, 6, 7, 8], [[0, 0.0]]]], size=(64, 48)),
                teachers=Teachers(image=rows(2, number), text=rows(4, 100 + number)),
            )
    return folder


def test_the_members_of_a_sample(tmp_path: Path) -> None:
    files = files_of(write(tmp_path / "x") / "00000.tar")
    names = ["jpg", "txt", "json", "syn.json", "paug.json", "mask.png", "npz"]
    assert list(files) == [f"{key:09d}.{name}" for key in range(2) for name in names]
    assert files["000000000.txt"].decode() == "alt text 0 für alle"
    record = json.loads(files["000000000.json"])
    image = files["000000000.jpg"]
    assert record["sha256"] == hashlib.sha256(image).hexdigest()
    assert record["uid"] == hashlib.sha256(image + b"000000000").hexdigest()[:32]
    assert (record["license"], record["url"], record["key"]) == ("CC0-1.0", "u", "000000000")
    assert (record["alt"], record["caption_coca"]) == ("alt text 0 für alle", "a third caption 0")
    assert record["caption_syn_text"] == "a second caption 0"  # the heavier one
    syn = json.loads(files["000000000.syn.json"])
    assert syn["syn_text"] == ["a first caption 0", "a second caption 0"]
    assert syn["cap_q"] == {"syn_text": [1.0, 2.0], "syn_text_coca": [1.0], "txt": 0.5}
    assert json.loads(files["000000000.paug.json"])["paug_size"] == [64, 48]
    assert np.abs(simplejpeg.decode_jpeg(image).astype(int) - picture(0)).mean() < 3


def test_the_qc_block_fits_its_schema(tmp_path: Path) -> None:
    qc = json.loads(files_of(write(tmp_path / "x") / "00000.tar")["000000000.json"])["qc"]
    assert qc["v"] == 1
    assert re.fullmatch("[0-9a-f]{32}", qc["uid"])
    assert qc["img"] == {"w": 64, "h": 48}
    assert qc["alt"] == {"text": "alt text 0 für alle", "clip": 0.25, "q": 0.5}
    assert [cap["src"] for cap in qc["caps"]] == ["syn_text", "syn_text", "syn_text_coca"]
    assert qc["lic"] == "CC0-1.0"


def test_manifest_and_sizes_come_last_and_agree(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", provenance={"recipe": "test"})
    manifest = json.loads((folder / "manifest.json").read_text())
    assert json.loads((folder / "sizes.json").read_text()) == {"00000.tar": 2, "00001.tar": 2, "00002.tar": 1}
    assert (manifest["schema"], manifest["samples"], manifest["provenance"]) == (1, 5, {"recipe": "test"})
    assert manifest["licences"] == {"CC0-1.0": 5}
    for shard in manifest["shards"]:
        content = (folder / shard["name"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    for name in ("00000.tar", "00001.tar", "00002.tar", "manifest.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    with tarfile.open(first / "00000.tar") as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in tar} == {(0, 0, 0, "", 0o644)}


@pytest.mark.parametrize("form", ["npz", "sidecar-bf16", "sidecar-int8"])
def test_what_is_written_is_read_back(tmp_path: Path, form: Any) -> None:
    folder = write(tmp_path / "x", embeddings=form)
    found = corpus(folder, embeddings=None if form == "npz" else folder / "emb")
    assert (found.n, found.problems) == (5, {})
    one: Index = found.shards[1]
    assert one.key(1) == "000000003"
    assert one.weight[one.texts(1)].tolist() == [0.5, 1, 2, 1]
    assert one.teacher[one.texts(1)].tolist() == [0, 1, 2, 3]
    assert [None if np.isnan(c) else c for c in one.clip[one.texts(1)].tolist()] == [0.25, None, None, 0.5]
    teachers = one.teachers(1)
    assert teachers is not None
    close = {"npz": 0, "sidecar-bf16": 0.5, "sidecar-int8": 0.6}[form]
    assert np.abs(teachers.image - rows(2, 3)).max() <= close
    assert np.abs(teachers.text - rows(4, 103)).max() <= close
    assert ("000000003.npz" in files_of(folder / "00001.tar")) == (form == "npz")


SOURCES = st.sampled_from(["alt", "syn_text", "syn_text_a", "quality", "caption_b", "texts:c", "caption"])
CAPTIONS = st.tuples(SOURCES, st.text(max_size=20), st.floats(0, 100, width=32), st.none() | st.floats(-1, 1, width=32))


@settings(max_examples=100, deadline=None)
@given(st.lists(CAPTIONS, min_size=1, max_size=8))
def test_captions_survive_the_round_trip(given_captions: list[tuple[str, str, float, float | None]]) -> None:
    nan, seen = float("nan"), dict[tuple[str, str], None]()
    texts = []
    for source, text, weight, clip in given_captions:
        text = text.strip().removeprefix("\ufeff").strip()
        once = source in ("alt", "caption", "caption_b") and any(source == other for other, _ in seen)
        if text and not once and not any(text == other for _, other in seen):
            seen[source, text] = None
            texts.append(Text(source=source, text=text, weight=weight, clip=nan if clip is None else clip))
    if not texts:
        return
    members = sample_members("k", jpeg(0), texts, {}, {}, None)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"k.{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (sample,) = read(out.getvalue(), tars.walk(out.getvalue(), "x"), Tally())
    moved = {"caption": "caption_original"}
    expected = {(moved.get(t.source, t.source), t.text, t.weight, str(t.clip)) for t in texts if t.source != "texts:c"}
    found = {(t.source, t.text, t.weight, str(t.clip)) for t in sample.texts if t.source != "texts:c"}
    assert found == expected
    assert {t.text for t in sample.texts} == {t.text for t in texts}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"key": "a.b"}, r"key 'a\.b' cannot name a sample: letters, digits, '-', '_' and '/' are allowed, no dot"),
        ({"key": "../a"}, "cannot name a sample"),
        ({"key": ""}, "cannot name a sample"),
        ({"key": "a\nb"}, "cannot name a sample"),
        ({"key": "x" * 300}, r"cannot be a name in a ustar tar .*: use shorter keys"),
        ({"texts": []}, "has 0 captions that are not blank: 1 to 255 of up to 20,000 characters are allowed"),
        ({"texts": [Text(source="alt", text="x" * 20_001)]}, "1 to 255 of up to 20,000 characters"),
        ({"texts": [Text(source="alt", text="x")] * 2}, "has 2 captions of source 'alt': one is allowed"),
        ({"texts": [Text(source="my_emb", text="x")]}, "a caption's source is called 'my_emb': not empty, no 'emb'"),
        ({"image": b"GIF89a"}, r"an image begins with b'GIF89a': JPEG, PNG and WebP are allowed in shards"),
        ({"image": np.zeros((4, 4), np.uint8)}, r"pixels came as uint8 \[4, 4\]: uint8 \[H, W, 3\] are allowed, RGB"),
        ({"record": {"x": float("nan")}}, "a record cannot be written as JSON"),
        (
            {"record": {"x": "y" * 5_000_000}},
            r"'k\.json' would have more than 4,000,000 bytes, which is all that is read",
        ),
        ({"members": {"txt": b""}}, r"members of 'k' are called \['txt'\]: lower case, and none of"),
        ({"members": {"../x": b""}}, "members of 'k' are called"),
        ({"teachers": Teachers(image=rows(1), text=rows(1))}, "has 1 rows of text embeddings, fewer than its captions"),
    ],
)
def test_what_readers_could_not_take_is_refused(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    sample: dict[str, Any] = {"key": "k", "image": jpeg(0), "texts": captions(0)} | change
    with ShardWriter(tmp_path / "x") as writer:
        with pytest.raises(DataError, match=text):
            writer.add(**sample)
        writer.add("good", image=jpeg(1), texts=captions(1))
    assert corpus(tmp_path / "x").n == 1


def test_partial_embeddings_are_refused(tmp_path: Path) -> None:
    teachers = Teachers(image=rows(1), text=rows(4))
    mixed = [Text(source="a", text="x", teacher=1), Text(source="a", text="y", teacher=2)]
    holes = rows(4)
    holes[2] = np.nan
    with ShardWriter(tmp_path / "x", embeddings="sidecar-bf16") as writer:
        with pytest.raises(
            DataError, match="'k' has embeddings of some captions of 'a' only: all or none must have one"
        ):
            writer.add("k", image=jpeg(0), texts=mixed, teachers=Teachers(image=rows(1), text=holes))
        writer.add("a", image=jpeg(0), texts=captions(0), teachers=teachers)
        with pytest.raises(
            DataError, match="'b' differs from those before it in having embeddings: give them to all or"
        ):
            writer.add("b", image=jpeg(0), texts=captions(0))
        no_row = [Text(source="syn_text", text="x")]
        with pytest.raises(DataError, match="'c' has no embeddings of 'syn_text', which a side-car needs"):
            writer.add("c", image=jpeg(0), texts=no_row, teachers=teachers)
    assert corpus(tmp_path / "x", embeddings=tmp_path / "x" / "emb").n == 1


def test_folders_that_hold_something(tmp_path: Path) -> None:
    write(tmp_path / "done")
    with pytest.raises(OutputError, match=r"done' holds a finished corpus \(manifest\.json\): give another folder"):
        ShardWriter(tmp_path / "done")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "00000.tar").write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"other' holds tars that would be overwritten: give a new or empty folder"):
        ShardWriter(tmp_path / "other")
    with pytest.raises(OutputError, match="cannot be written"):
        ShardWriter("/proc/none")
    with pytest.raises(DataError, match="per_shard is 0: a shard holds at least 1 sample"):
        ShardWriter(tmp_path / "new", per_shard=0)
    with ShardWriter(tmp_path / "twice") as writer:
        writer.add("k", image=jpeg(0), texts=captions(0))
        with pytest.raises(DataError, match="key 'k' was added before"):
            writer.add("k", image=jpeg(0), texts=captions(0))


def test_an_interrupted_writer_leaves_only_whole_tars(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ShardWriter(tmp_path / "x", per_shard=2, embeddings="sidecar-int8") as writer:
            for number in range(5):
                writer.add(
                    f"{number}",
                    image=jpeg(number),
                    texts=captions(number),
                    teachers=Teachers(image=rows(1), text=rows(4)),
                )
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    left = sorted(path.name for path in (tmp_path / "x").iterdir())
    assert left == [
        ".packing.json",
        "00000.index.safetensors",
        "00000.tar",
        "00001.index.safetensors",
        "00001.tar",
        "emb",
    ]
    write(tmp_path / "x", count=2)  # the same folder again: what was left is ours
    assert corpus(tmp_path / "x").n == 2
    assert not (tmp_path / "x" / "00001.tar").exists()


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
from mobileclip.data.pack import ShardWriter, pack_shards
from mobileclip.data.shards import Text
from mobileclip.errors import OutputError
image = open(sys.argv[1], "rb").read()
try:
    if sys.argv[3] == "pack":
        pack_shards(sys.argv[1], sys.argv[2])
    with ShardWriter(sys.argv[2]) as writer:
        for number in range(1000):
            writer.add(str(number), image=image, texts=[Text(source="alt", text="x")])
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file size are POSIX")
@pytest.mark.parametrize("what", ["write", "pack"])
def test_a_full_disk(tmp_path: Path, what: str) -> None:
    files = {f"{i}.{ext}": content for i in range(100) for ext, content in (("jpg", jpeg(i)), ("txt", b"text"))}
    source = write_tar(tmp_path / "in.tar", files)
    index(source)
    given = source if what == "pack" else tmp_path / "one.jpg"
    (tmp_path / "one.jpg").write_bytes(jpeg(0))
    command = [sys.executable, "-c", FULL, str(given), str(tmp_path / "x"), what]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.match(
        r"'.*00000\.tar' cannot be written \(File too large\): give a place that exists and has room\.", done.stdout
    )
    assert [path.name for path in (tmp_path / "x").iterdir()] == [".packing.json"]


# Other readers


def shrink(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB").resize((8, 8)))).clone()


def open_clip_arguments(**changed: Any) -> argparse.Namespace:
    values = {"train_data": None, "val_data": None, "dataset_resampled": False, "train_num_samples": None}
    values |= {"val_num_samples": None, "train_data_upsampling_factors": None, "seed": 0, "batch_size": 2}
    return argparse.Namespace(**values | {"workers": 0, "world_size": 1} | changed)


def delivered(loader: Iterator[Any]) -> dict[str, torch.Tensor]:
    return {text: image for images, texts in loader for image, text in zip(images, texts, strict=True)}


@pytest.mark.parametrize("training", [True, False])
def test_open_clip_loads_them(tmp_path: Path, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # open_clip 3.3 was written for a webdataset that puts no marks between tars
    plain = functools.partial(webdataset.tariterators.tar_file_expander, eof_value=None)
    monkeypatch.setattr(open_clip_train.data, "tar_file_expander", plain)
    folder = write(tmp_path / "x", count=6)
    shards = f"{folder}/{{00000..00002}}.tar"
    arguments = open_clip_arguments(train_data=shards, val_data=shards)
    data = get_wds_dataset(arguments, shrink, is_train=training, tokenizer=lambda text: [text])
    if training:
        assert data.dataloader.num_samples == 6  # of sizes.json
    found = delivered(data.dataloader)
    assert sorted(found) == [f"alt text {number} für alle" for number in range(6)]
    for number in range(6):
        jpg = files_of(folder / f"{number // 2:05d}.tar")[f"{number:09d}.jpg"]
        assert torch.equal(found[f"alt text {number} für alle"], shrink(Image.open(io.BytesIO(jpg))))


def test_webdataset_loads_them(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", count=6)
    data = webdataset.WebDataset(f"{folder}/{{00000..00002}}.tar", shardshuffle=False).decode("pil")
    samples = list(data.to_tuple("__key__", "jpg", "txt", "json", "syn.json", "paug.json", "npz"))
    assert [sample[0] for sample in samples] == [f"{number:09d}" for number in range(6)]
    for number, (_, image, text, record, syn, paug, arrays) in enumerate(samples):
        assert image.size == (64, 48)
        assert text == f"alt text {number} für alle"
        assert isinstance(record["caption_coca"], str)
        assert len(syn["syn_text"]) == 2
        assert len(paug["param_aug"]) == len(arrays["image_emb"]) == 2


def apples_rows(sample: dict[str, Any], pattern: str = "^syn_text.*$") -> dict[tuple[str, int], np.ndarray]:
    """(caption list, place) -> the embedding that Apple's trainer would pair with it, whichever it draws."""
    kind = "npz" if "npz" in sample else "pth.gz"
    every = sample[kind]["text_emb"]
    out = {("txt", 0): every[0]}
    for name in filter(lambda name: re.match(pattern, name), sample["syn.json"]):
        for place in range(len(sample["syn.json"][name])):
            row = every[1 + place] if len(every) > 1 else sample[kind][f"{name}_emb"][place]
            out[name, place] = np.asarray(row)
    return out


@pytest.mark.parametrize(
    "sources", [("syn_text",), ("syn_text", "syn_text_b"), ("syn_text_b",), ("quality", "syn_text")]
)
def test_apples_reader_pairs_captions_with_their_embeddings(tmp_path: Path, sources: tuple[str, ...]) -> None:
    texts = [Text(source="alt", text="alt", teacher=0)]
    texts += [
        Text(source=name, text=f"{name} {i}", teacher=1 + 2 * n + i) for n, name in enumerate(sources) for i in range(2)
    ]
    with ShardWriter(tmp_path / "x") as writer:
        paug = Paug(params=[[[0, 1, 20, 30], [[3, 0.5], [0, 0.0]]]])
        writer.add("k", image=jpeg(0), texts=texts, paug=paug, teachers=Teachers(image=rows(1), text=rows(5, 7)))
    (sample,) = webdataset.WebDataset(str(tmp_path / "x" / "00000.tar"), shardshuffle=False).decode()
    assert isinstance(sample["paug.json"]["param_aug"], list)
    found = apples_rows(sample)
    for text in texts[1:]:
        if text.source.startswith("syn_text"):
            assert np.array_equal(found[text.source, int(text.text[-1])], rows(5, 7)[text.teacher])
    assert np.array_equal(found["txt", 0], rows(5, 7)[0])
