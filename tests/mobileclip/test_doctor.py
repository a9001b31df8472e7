"""The shard doctor: every kind of problem, what each reader makes of it, and that the readers agree."""

import argparse
import gzip
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from open_clip_train.data import get_wds_dataset
from PIL import Image
from shard_files import npz, write_tar

from mobileclip.data import doctor
from mobileclip.data.doctor import READERS, Report, inspect
from mobileclip.data.pack import ShardWriter, pack_shards
from mobileclip.data.problems import ADVICE
from mobileclip.data.shards import Paug, Text
from mobileclip.data.teachers import Teachers
from mobileclip.errors import DataError

POISON = Path(__file__).parents[3] / "shared" / "data" / "poison"


def jpeg(width: int = 40, height: int = 30) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 10, 30)).save(file, "JPEG")
    return file.getvalue()


JPEG = jpeg()


def rows(count: int) -> np.ndarray:
    return np.ones((count, 8), np.float32)


def dr(**changed: Any) -> dict[str, bytes]:
    """A whole DataCompDR sample; what is None is left out."""
    members: dict[str, Any] = {
        "jpg": JPEG,
        "txt": b"alt",
        "json": json.dumps({"uid": "a" * 32, "license": "CC-BY"}).encode(),
        "syn.json": json.dumps({"syn_text": ["one", "two"]}).encode(),
        "paug.json": json.dumps({"param_aug": [[[0, 0, 20, 30], None], [[5, 5, 10, 10], None]]}).encode(),
        "npz": npz(image_emb=rows(2), text_emb=rows(3)),
    } | {name.replace("_", "."): value for name, value in changed.items()}
    return {f"a.{name}": value for name, value in members.items() if value is not None}


def report_of(tmp_path: Path, files: Any, **options: Any) -> Report:
    return inspect(write_tar(tmp_path / "0.tar", files), **options)


def read(report: Report) -> dict[str, int]:
    return {verdict.reader: verdict.samples for verdict in report.readers}


def test_a_whole_sample_has_no_problem(tmp_path: Path) -> None:
    report = report_of(tmp_path, dr(), decode=True)
    assert (report.problems, report.samples, report.keys) == ({}, 1, 1)
    assert read(report) == dict.fromkeys(READERS, 1)
    assert (report.sources, report.licences) == ({"alt": 1, "syn_text": 2}, {"CC-BY": 1})
    assert report.extensions["paug.json"] == 1


def test_what_we_pack_everyone_reads(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "x", licence="CC0") as writer:
        for number in range(3):
            texts = [Text(source="alt", text=f"alt {number}", teacher=0), Text(source="syn_text", text="s", teacher=1)]
            texts.append(Text(source="syn_text_b", text="t", teacher=2))
            paug = Paug(params=[[[0, 0, 20, 30], None]], size=(40, 30))
            teachers = Teachers(image=rows(1), text=rows(3))
            writer.add(str(number), image=JPEG, texts=texts, paug=paug, teachers=teachers)
    report = inspect(tmp_path / "x", decode=True)
    assert report.problems == {}
    assert read(report) == dict.fromkeys(READERS, 3)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"jpg": None}, "no_image"),
        ({"jpg": b""}, "empty_image"),
        ({"jpg": None, "gif": JPEG}, "silent_extension"),
        ({"txt": None, "syn_json": None, "npz": None}, "no_caption"),
        ({"txt": b" "}, "empty_caption"),
        ({"txt": b"\xff\xfe"}, "not_utf8"),
        ({"txt": b"x" * 1_000_000}, "caption_too_long"),
        ({"json": b"{"}, "bad_json"),
        ({"json": b"{}"}, "licence_missing"),
        ({"syn_json": json.dumps({"syn_text": ["a"] * 400}).encode()}, "too_many_captions"),
        ({"syn_json": json.dumps({"syn_text": ["a", "b"], "cap_q": {"syn_text": ["x", 1]}}).encode()}, "bad_quality"),
        ({"paug_json": b"{}"}, "bad_augmentation"),
        ({"paug_json": None}, "augmentation_missing"),
        ({"paug_json": b'{"param_aug": [[[0, 0, 9, 9]]]}'}, "augmentation_count"),
        ({"paug_json": b'{"param_aug": [[[0, 0, 20, 200]], [[0, 0, 2, 2]]]}'}, "augmentation_size"),
        ({"paug_json": b'{"param_aug": [[[0, 0, 2, 2]], [[0, 0, 2, 2]]], "paug_size": [40, 60]}'}, "augmentation_size"),
        ({"npz": npz(image_emb=rows(2), text_emb=rows(4))}, "embedding_rows"),
        ({"npz": npz(image_emb=rows(2), text_emb=rows(1), syn_text_emb=rows(1))}, "embedding_rows"),
        ({"npz": npz(image_emb=rows(0), text_emb=rows(0))}, "embedding_empty"),
        ({"npz": npz(image_emb=rows(2))}, "bad_embeddings"),
        ({"npz": b"garbage"}, "bad_embeddings"),
        ({"npz": npz(image_emb=np.array([{}], object))}, "pickle"),
        ({"pkl": pickle.dumps([1])}, "pickle"),
        ({"pth": b"x"}, "pickle"),
        ({"jpg": JPEG[:200]}, "broken_image"),
        (
            {"syn_json": json.dumps({"syn_text": ["one", "two"], "syn_text_new": ["three"]}).encode()},
            "embedding_missing",
        ),
    ],
)
def test_each_problem_is_named(tmp_path: Path, changed: dict[str, Any], problem: str) -> None:
    report = report_of(tmp_path, dr(**changed), decode=True)
    assert problem in report.problems
    assert report.problems[problem].names[0].startswith("0/a")
    row = next(row for row in report.table() if row[0] == problem)
    assert row[3] == ADVICE[problem]
    delivered = read(report)
    if problem in ("no_image", "empty_image", "broken_image", "no_caption"):
        assert delivered["mobileclip"] == 0
    if problem.startswith(("embedding", "augmentation_missing", "augmentation_count", "bad_emb", "bad_aug")):
        assert delivered["ml-mobileclip"] == 0


def test_an_image_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobileclip.data.pixels.MAX_PIXELS", 1000)
    assert "image_too_large" in report_of(tmp_path, dr(), decode=True).problems


def test_problems_of_the_tar(tmp_path: Path) -> None:
    data = write_tar(tmp_path / "0.tar", {**dr(), "../b.jpg": JPEG, "../b.txt": b"x"}).read_bytes()
    assert "unsafe_name" in inspect(tmp_path).problems
    (tmp_path / "0.tar").write_bytes(data[:-11_000])
    assert {"truncated", "unsafe_name"} <= set(inspect(tmp_path).problems)
    (tmp_path / "1.tar").write_bytes(gzip.compress(data))
    write_tar(tmp_path / "2.tar", {"a.parquet": b"PAR1", "b.parquet": b"PAR1"})
    (tmp_path / "3.tar").write_bytes(b"")
    whole = write_tar(tmp_path / "4.tar", dr()).read_bytes()
    (tmp_path / "4.tar").write_bytes(whole[: len(whole.rstrip(b"\0")) // 512 * 512 + 512])
    found = inspect(tmp_path).problems
    assert found["not_a_tar"].count == 2
    assert "1: '" in found["not_a_tar"].names[0]
    assert "is compressed by gzip" in found["not_a_tar"].names[0]
    assert found["no_samples"].names == ("2",)
    assert found["no_end_mark"].names == ("4",)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.tar"):
        inspect(tmp_path / "empty")


def test_raygens_defects_are_found(tmp_path: Path) -> None:
    """Beyond its first batch, Apple's generator writes (0, D) embeddings; it never writes .paug.json."""
    files: dict[str, bytes] = {}
    for number in range(10):
        kept = rows(2) if number < 4 else rows(0)
        found = {"image_emb": torch.from_numpy(kept).bfloat16(), "text_emb": torch.from_numpy(kept[:1]).bfloat16()}
        file = io.BytesIO()
        torch.save(found, file)
        members = dr(npz=None, paug_json=None, syn_json=None, pth_gz=gzip.compress(file.getvalue()))
        files |= {name.replace("a.", f"{number}.", 1): content for name, content in members.items()}
    report = report_of(tmp_path, files)
    assert report.problems["embedding_empty"].count == 6
    assert report.problems["augmentation_missing"].count == 4
    assert read(report)["ml-mobileclip"] == 0


def test_apples_reader_would_pair_the_wrong_rows(tmp_path: Path) -> None:
    syn = json.dumps({"syn_text": ["one", "two"], "syn_text_b": ["three"]}).encode()
    found = npz(image_emb=rows(2), text_emb=rows(3), syn_text_b_emb=rows(1))
    report = report_of(tmp_path, dr(syn_json=syn, npz=found))
    assert report.problems == {}  # ours follows the names
    assert read(report) == {"mobileclip": 1, "webdataset": 1, "open_clip": 1, "ml-mobileclip": 0}


def test_public_param_aug_is_a_string(tmp_path: Path) -> None:
    paug = json.dumps({"param_aug": json.dumps([[[0, 0, 9, 9]], [[0, 0, 9, 9]]])}).encode()
    report = report_of(tmp_path, dr(paug_json=paug))
    assert report.readers[3].reasons == ("1 whose param_aug is a string",)
    assert report.problems == {}


LAYOUTS: dict[str, Any] = {
    "img2dataset": {f"{i}.{e}": c for i in range(4) for e, c in (("jpg", JPEG), ("txt", b"t%d" % i), ("json", b"{}"))},
    "not adjacent": [(f"{i}.jpg", JPEG) for i in range(4)] + [(f"{i}.txt", b"t%d" % i) for i in range(4)],
    "json captions": {f"{i}.{e}": c for i in range(4) for e, c in (("jpg", JPEG), ("json", b'{"caption": "x"}'))},
    "one without text": {"0.jpg": JPEG, "0.txt": b"t0", "1.jpg": JPEG, "2.jpg": JPEG, "2.txt": b"t2"},
    "upper case": {"0.JPG": JPEG, "0.txt": b"t0", "1.JPEG": JPEG, "1.txt": b"t1"},
    "prefix": {f"./{i}.{e}": c for i in range(3) for e, c in (("jpeg", JPEG), ("txt", b"t%d" % i))},
    "broken image": {"0.jpg": JPEG, "0.txt": b"t0", "1.jpg": b"nothing", "1.txt": b"t1"},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_open_clip_delivers_what_its_verdict_says(tmp_path: Path, name: str) -> None:
    report = report_of(tmp_path, LAYOUTS[name], decode=True)
    arguments = argparse.Namespace(
        val_data=str(tmp_path / "0.tar"), val_num_samples=None, batch_size=1, workers=0, seed=0
    )
    data = get_wds_dataset(arguments, lambda image: torch.zeros(1), is_train=False, tokenizer=lambda text: [text])
    assert read(report)["open_clip"] == sum(len(texts) for _, texts in data.dataloader)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "broken image"])
def test_webdataset_delivers_what_its_verdict_says(tmp_path: Path, name: str) -> None:
    report = report_of(tmp_path, LAYOUTS[name])
    delivered = list(webdataset.WebDataset(str(tmp_path / "0.tar"), shardshuffle=False))
    whole = [one for one in delivered if len(one) - sum(key.startswith("__") for key in one) > 1]
    if name != "one without text":
        assert read(report)["webdataset"] == len(whole)


def test_a_member_twice_stops_webdataset(tmp_path: Path) -> None:
    files = [("0.jpg", JPEG), ("0.txt", b"a"), ("0.txt", b"b"), ("1.jpg", JPEG), ("1.txt", b"c")]
    report = report_of(tmp_path, files)
    assert report.problems["duplicate_key"].names == ("0/0.txt",)
    assert read(report)["webdataset"] == 1
    with pytest.raises(ValueError, match="duplicate file name"):
        list(webdataset.WebDataset(str(tmp_path / "0.tar"), shardshuffle=False))


def test_as_dict_is_json(tmp_path: Path) -> None:
    report = report_of(tmp_path, dr(txt=None, jpg=JPEG[:100]), decode=True)
    found = json.loads(json.dumps(report.as_dict()))
    assert found["problems"]["broken_image"]["count"] == 1
    assert found["problems"]["broken_image"]["advice"] == ADVICE["broken_image"]
    assert found["readers"]["open_clip"] == {"samples": 0, "of": 1, "reasons": ["1 without .txt"]}
    assert ("open_clip", "0 of 1", "1 without .txt") in report.readers_table()


def test_progress_and_several_shards(tmp_path: Path) -> None:
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", dr(txt=b""))
    seen: list[tuple[int, int]] = []
    report = inspect(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert (report.shards, seen[-1]) == (3, (3, 3))
    assert report.problems["empty_caption"].names == ("0/a", "1/a", "2/a")


def test_sources_without_end_are_bounded(tmp_path: Path) -> None:
    syn = {f"list{number}": ["x"] for number in range(500)}
    files = {f"{i}.{e}": c for i in range(3) for e, c in (("jpg", JPEG), ("syn.json", json.dumps(syn).encode()))}
    assert len(report_of(tmp_path, files).sources) <= doctor._MOST


def test_poison_images(tmp_path: Path) -> None:
    if not POISON.is_dir():
        pytest.skip(f"no broken images at {POISON}")
    files: dict[str, bytes] = {}
    for number, path in enumerate(sorted(POISON.glob("*.*"))):
        files |= {f"{number}.jpg": path.read_bytes(), f"{number}.txt": b"a picture"}
    report = report_of(tmp_path, files, decode=True)
    packed = pack_shards(tmp_path / "0.tar", tmp_path / "out", broken_share=1.0)
    for problem in ("broken_image", "image_too_large"):
        assert report.problems[problem].count == packed.problems[problem].count
    assert read(report)["mobileclip"] == packed.samples
    assert inspect(tmp_path / "out", decode=True).problems.keys() == {"licence_missing"}
