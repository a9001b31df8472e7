"""The whole of caption work by the command: every stage, real models of small size, photos and broken files."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from given import jpeg, pairs, tar
from small_coca import saved

from mobileclip.captions import plan as plans
from mobileclip.captions import tables
from mobileclip.data.index import index

SHARED = Path(__file__).parents[4] / "shared" / "data"
ALL = [
    *("images", "embed", "coca", "clean", "clean-coca", "text_score", "text_score-coca", "score"),
    *("dedup", "judge", "select"),
]


def mobileclip(*args: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "mobileclip.cli", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def coca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("coca") / "small")


def quality(shards: Path, work: Path, coca: Path, *options: object) -> dict[str, Any]:
    """Run the `quality` recipe with small models, nothing thrown away for its score; returns the state."""
    settings = ("embed.model=seeded:nano", f"coca.model={coca}", "coca.k=2", "coca.max_tokens=12", "select.min_q=0")
    done = mobileclip(
        "captions", "run", "quality", "--shards", shards, "--out", work, "--set", *settings, "--json", *options
    )
    state: dict[str, Any] = json.loads(done.stdout)
    assert state["finished"]
    return state


def rows(work: Path, stage: str, shard: str) -> dict[str, dict[str, Any]]:
    plan = plans.load(work)
    return {row["key"]: row for row in tables.read(plan.stem(stage, shard)).to_pylist()}


def files(work: Path) -> dict[str, bytes]:
    return {str(path.relative_to(work)): path.read_bytes() for path in sorted(work.rglob("*.parquet"))}


def test_the_whole_pipeline(tmp_path: Path, coca: Path) -> None:
    odd = {
        "a": "A red car &amp; a dog | Shutterstock",
        "b": "IMG_0123.JPG",
        "c": "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd\x00\x07",
        "d": "word " * 200_000,
        "e": "<script>alert(1)</script> a wooden table",
        "f": "A red car &amp; a dog | Shutterstock",
    }
    pairs(tmp_path / "in" / "00000.tar", odd)
    same = jpeg(1_000)
    tar(
        tmp_path / "in" / "00001.tar",
        [
            ("g", {"jpg": same, "txt": "the same picture"}),
            ("h", {"jpg": same, "txt": "the same picture again"}),
            ("i", {"jpg": b"\xff\xd8 broken", "txt": "a broken picture"}),
            ("j", {"txt": "no picture at all"}),
            ("k", {"jpg": jpeg(7)}),
            ("g", {"txt": "a key that is there twice"}),
        ],
    )
    tar(tmp_path / "in" / "00002.tar", [])
    tar(tmp_path / "in" / "00003.tar", [("z", {"jpg": jpeg(9), "txt": "alone in its shard"})])
    work = tmp_path / "work"
    state = quality(tmp_path / "in", work, coca, "--jobs", 2)
    assert [stage["name"] for stage in state["stages"]] == ALL
    assert all(stage["rows"] == 12 and stage["done"] == 4 for stage in state["stages"])

    clean = rows(work, "clean", "00000")
    assert clean["a"]["texts"] == ["A red car & a dog"]
    assert clean["e"]["texts"] == ["a wooden table"] or "<" not in clean["e"]["texts"][0]
    assert not {"\x00", "\x07", "\u202e"} & set(clean["c"]["texts"][0])
    assert len(clean["d"]["texts"][0]) <= 20_000
    captions = rows(work, "coca", "00001")
    assert [len(captions[key]["texts"] or ()) for key in "ghijk"] == [2, 2, 0, 0, 2]
    assert captions["g"]["texts"] != rows(work, "coca", "00003")["z"]["texts"]
    select = rows(work, "select", "00001")
    assert {key: row["why"] for key, row in select.items() if not row["keep"]} == {
        "h": "duplicate: sha256",
        "i": "image: broken image",
        "j": "no image",
    }
    assert not rows(work, "select", "00000")["b"]["w_clean"][0]  # a file's name is no caption

    before = files(work)
    quality(tmp_path / "in", work, coca)  # nothing is left to do
    assert files(work) == before

    page = tmp_path / "page.html"
    assert str(page) in mobileclip("captions", "report", work, "--out", page).stdout
    assert "<script" not in page.read_text(encoding="utf-8").lower()
    done = mobileclip("captions", "select", work, "--set", "select.use=web", "--uids", tmp_path / "u.npy", "--json")
    kept = json.loads(done.stdout)["kept"]
    assert len(np.load(tmp_path / "u.npy", allow_pickle=False)) == kept > 0

    mobileclip("pack", "shards", "--captions", work, "--out", tmp_path / "packed", "--size", 0, "--jobs", 1)
    packed = index(tmp_path / "packed" / "00000.tar")
    assert packed.n == kept
    assert packed.sources == ("alt",)
    mobileclip("captions", "select", work, "--set", "select.use=all")
    mobileclip("pack", "shards", "--captions", work, "--out", tmp_path / "both", "--size", 0, "--jobs", 1)
    assert set(index(tmp_path / "both" / "00000.tar").sources) == {"alt", "syn_text_coca"}


def test_photos_and_broken_files(tmp_path: Path, coca: Path, photos: Path) -> None:
    said = [json.loads(line) for line in (SHARED / "photos" / "captions.jsonl").read_text().splitlines()][:24]
    samples = [
        (Path(one["file"]).stem, {"jpg": (photos / Path(one["file"]).name).read_bytes(), "txt": one["captions"][0]})
        for one in said
    ]
    broken = [path for path in sorted((SHARED / "poison").iterdir()) if path.name not in ("LICENSE", "README.md")]
    names = {".jpg": "jpg", ".webp": "webp"}
    poison = [
        (f"p{n:03d}", {names.get(path.suffix, "png"): path.read_bytes(), "txt": f"file {path.name} of the tests"})
        for n, path in enumerate(broken)
    ]
    tar(tmp_path / "in" / "photos.tar", samples)
    tar(tmp_path / "in" / "poison.tar", poison)
    work = tmp_path / "work"
    quality(tmp_path / "in", work, coca, "--jobs", 2)
    assert {row["status"] for row in rows(work, "images", "photos").values()} == {"ok"}
    assert all(row["keep"] for row in rows(work, "select", "photos").values())
    status = Counter(row["status"].split(":")[0] for row in rows(work, "images", "poison").values())
    assert set(status) <= {"ok", "broken image"}
    assert status["broken image"] >= 3
    for key, row in rows(work, "images", "poison").items():
        if row["status"] != "ok":
            assert not rows(work, "select", "poison")[key]["keep"]
    mobileclip("captions", "report", work, "--out", tmp_path / "page.html")
    mobileclip("pack", "shards", "--captions", work, "--out", tmp_path / "packed", "--size", 128, "--jobs", 1)
    assert index(tmp_path / "packed" / "00000.tar").n >= 24


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["run", "qualty", "--shards", "x", "--out", "w"], "unknown caption recipe 'qualty': did you mean 'quality'"),
        (["run", "mine.toml", "--shards", "x", "--out", "w"], "recipe 'mine.toml' cannot be read"),
        (["run", "text-only", "--out", "w"], "no shards were given"),
        (["run", "text-only", "--shards", "nowhere", "--out", "w"], "nowhere"),
        (["run", "text-only", "--set", "clean.min_wrds=2"], "did you mean 'min_words'"),
        (["run", "filter"], "stage 'embed' needs the option 'model'"),
        (["run", "text-only", "--shards", ".", "--engine", "array", "--array", "3/2"], "index/count is wanted"),
        (["status", "nowhere"], "is no folder of caption work"),
        (["report", "nowhere"], "is no folder of caption work"),
        (["select", "nowhere"], "is no folder of caption work"),
    ],
)
def test_mistakes(args: list[str], text: str, tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", [("a", {"txt": "a"})])
    done = subprocess.run(
        [sys.executable, "-m", "mobileclip.cli", "captions", *args],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["0.tar"]


def test_only_selection_is_done_again_by_select(tmp_path: Path) -> None:
    pairs(tmp_path / "in" / "0.tar", {"a": "a red car in the rain", "b": "a blue boat on a lake"})
    work = tmp_path / "work"
    mobileclip("captions", "run", "text-only", "--shards", tmp_path / "in", "--out", work)
    done = mobileclip("captions", "select", work, "--set", "clean.min_words=9", code=2)
    assert (
        "clean, text_score, judge would have to run again: only options of select stages can be set here" in done.stderr
    )
    assert "2 of 2 samples kept" in mobileclip("captions", "select", work).stdout
