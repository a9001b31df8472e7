"""The stage `dedup`: planted duplicates go, others stay, and the order of shards or a score decides which is kept."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from given import Given, jpeg, ran, tar
from PIL import Image

from mobileclip.captions import tables
from mobileclip.captions.pictures import dedup
from mobileclip.captions.pictures.dedup import Dedup
from mobileclip.captions.pictures.embed import Embed
from mobileclip.captions.pictures.images import Images
from mobileclip.captions.plan import Plan
from mobileclip.captions.shard import Row
from mobileclip.errors import DataError, OutputError, UnknownName
from mobileclip.images import load_images


def saved(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def cut(image: Image.Image, share: float) -> Image.Image:
    width, height = image.size
    box = (round(width * share), round(height * share), round(width * (1 - share)), round(height * (1 - share)))
    return image.crop(box)


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "recompressed": lambda image: saved(image, 40),
    "half": lambda image: saved(scaled(image, 0.5), 85),
    "larger": lambda image: saved(scaled(image, 1.4), 85),
    "cut by a two-hundredth": lambda image: saved(cut(image, 0.005), 90),
}


def said(plan: Plan, name: str = "dedup") -> dict[str, tuple[str | None, str | None]]:
    """shard/key -> (duplicate of, how)."""
    return {
        f"{item.name}/{row['key']}": (row["duplicate_of"], row["how"])
        for item in plan.shards
        for row in tables.read(plan.stem(name, item.name)).to_pylist()
    }


@dataclass
class Columns:
    """What `prepare` sees, from memory: shards of columns of one stage after another."""

    stages: dict[str, dict[str, pa.Table]]

    @property
    def shards(self) -> Sequence[str]:
        return list(next(iter(self.stages.values())))

    def tables(self, stage: str, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        for shard, table in self.stages[stage].items():
            yield shard, table.select(columns)

    def columns(self, stage: str) -> Sequence[str]:
        names: list[str] = next(iter(self.stages[stage].values())).column_names
        return names

    def texts(self, source: str, shard: str) -> list[list[str]]:
        raise AssertionError("captions are not looked at")

    def rows(self, shard: str) -> Sequence[Row]:
        raise AssertionError("captions are not looked at")


def hashed(words: Sequence[int | None], files: Sequence[str | None], edges: Sequence[int]) -> Columns:
    keys = [f"{n:05d}" for n in range(len(words))]
    table = pa.table({"key": keys, "sha256": pa.array(files, pa.string()), "phash": pa.array(words, pa.uint64())})
    bounds = [0, *edges, len(words)]
    cut = {f"s{n}": table.slice(low, high - low) for n, (low, high) in enumerate(pairwise(bounds))}
    return Columns({"images": cut})


def test_planted_copies_go_and_other_photos_stay(photos: Path, tmp_path: Path) -> None:
    paths = load_images(photos)
    samples: list[tuple[str, dict[str, Any]]] = [(f"{n:03d}", {"jpg": p.read_bytes()}) for n, p in enumerate(paths)]
    copies = []
    for n, path in enumerate(paths[:40]):
        image = Image.open(path).convert("RGB")
        name = list(COPIES)[n % len(COPIES)]
        copies.append((f"copy-{n:03d}", {"jpg": COPIES[name](image)}))
    copies += [(f"same-{n:03d}", {"jpg": path.read_bytes()}) for n, path in enumerate(paths[:5])]
    shards = [tar(tmp_path / "a.tar", samples), tar(tmp_path / "b.tar", copies)]
    found = said(ran([Images(), Dedup()], shards, tmp_path / "work"))
    assert [key for key, (of, _) in found.items() if of is not None and key.startswith("a/")] == []
    assert all(found[f"b/same-{n:03d}"] == (f"a/{n:03d}", "sha256") for n in range(5))
    caught = [found[f"b/copy-{n:03d}"] == (f"a/{n:03d}", "phash") for n in range(40)]
    assert sum(caught) >= 38
    assert all(of in (None, f"a/{key[-3:]}") for key, (of, _) in found.items() if "copy" in key)


def test_embeddings_find_copies_and_nothing_else(photos: Path, tmp_path: Path) -> None:
    paths = load_images(photos)[:40]
    samples: list[tuple[str, dict[str, Any]]] = [(f"{n:03d}", {"jpg": p.read_bytes()}) for n, p in enumerate(paths)]
    copies = [
        (f"cut-{n:03d}", {"jpg": saved(cut(Image.open(p).convert("RGB"), 0.01), 90)}) for n, p in enumerate(paths)
    ]
    stages = [Images(), Embed(model="seeded:nano_vit"), Dedup(radius=-1, embed="embed", eps=6e-4)]
    found = said(ran(stages, [tar(tmp_path / "a.tar", samples + copies)], tmp_path / "work"))
    assert [found[f"a/{n:03d}"] for n in range(40)] == [(None, None)] * 40
    caught = [found[f"a/cut-{n:03d}"] == (f"a/{n:03d}", "semantic") for n in range(40)]
    assert sum(caught) >= 38
    assert all(of in (None, f"a/{key[-3:]}") for key, (of, _) in found.items())


def test_the_best_is_kept(tmp_path: Path) -> None:
    shards = [
        tar(tmp_path / f"{name}.tar", [(name, {"jpg": jpeg(1)}), (f"{name}2", {"jpg": jpeg(2)})]) for name in "abc"
    ]
    values = {"a": 0.1, "b": 0.9, "c": 0.9, "a2": None, "b2": 0.0, "c2": float("nan")}
    given = Given(name="given", types={"good": "float"}, values={"good": values})
    lists = Given(
        name="lists",
        types={"good": "list<item: float>"},
        values={"good": {key: None if one is None else [0.0, one, None] for key, one in values.items()}},
    )
    first = said(ran([Images(), Dedup()], shards, tmp_path / "1"))
    best = said(ran([Images(), given, Dedup(keep="best:given.good")], shards, tmp_path / "2"))
    of_lists = said(ran([Images(), lists, Dedup(keep="best:lists.good")], shards, tmp_path / "3"))
    assert first == {
        "a/a": (None, None),
        "a/a2": (None, None),
        "b/b": ("a/a", "sha256"),
        "b/b2": ("a/a2", "sha256"),
        "c/c": ("a/a", "sha256"),
        "c/c2": ("a/a2", "sha256"),
    }
    assert {key: of for key, (of, _) in best.items() if of} == {
        "a/a": "b/b",
        "c/c": "b/b",
        "a/a2": "b/b2",
        "c/c2": "b/b2",
    }
    assert of_lists["a/a"] == of_lists["c/c"] == ("b/b", "sha256")


def test_what_a_row_duplicates_is_kept_itself() -> None:
    """Files 0 and 1 are equal, 1's hash is near 2's and best is 2: all three end at 2."""
    everything = hashed([0b1, 0b1, 0b11], ["a" * 64, "a" * 64, "b" * 64], [])
    everything.stages["s"] = {"s0": pa.table({"q": [2.0, 1.0, 3.0]})}
    table = Dedup(keep="best:s.q").prepare(everything)
    assert table is not None
    assert table.to_pylist() == [
        {"shard": "s0", "key": "00000", "duplicate_of": "s0/00002", "how": "phash"},
        {"shard": "s0", "key": "00001", "duplicate_of": "s0/00002", "how": "sha256"},
    ]


def test_rows_without_hashes_are_left_alone() -> None:
    files = [None, None, "a" * 64, "b" * 64, "c" * 64, "c" * 64]
    everything = hashed([None, None, None, None, None, None], files, [1, 2])
    table = Dedup().prepare(everything)
    assert table is not None
    assert table.to_pylist() == [{"shard": "s2", "key": "00005", "duplicate_of": "s2/00004", "how": "sha256"}]


def test_how_rows_are_cut_into_shards_changes_nothing() -> None:
    generator = np.random.default_rng(0)
    words = (generator.integers(0, 2**20, 2_000) << 5).tolist()
    files = [f"{value:032x}" * 2 for value in generator.integers(0, 1_500, 2_000)]
    rows = np.random.default_rng(1).standard_normal((300, 8))[generator.integers(0, 300, 2_000)].astype(np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 8)
    found = set()
    for edges in ([], [1_000], [1, 2, 3, 700, 700, 1_999]):
        everything = hashed(words, files, edges)
        whole = pa.table({"image_emb": column})
        bounds = [0, *edges, 2_000]
        everything.stages["embed"] = {
            f"s{n}": whole.slice(low, high - low) for n, (low, high) in enumerate(pairwise(bounds))
        }
        table = Dedup(embed="embed", eps=0.01, cells=9).prepare(everything)
        assert table is not None
        key_of = [(row["key"], row["duplicate_of"].partition("/")[2], row["how"]) for row in table.to_pylist()]
        found.add(tuple(key_of))
    assert len(found) == 1
    (only,) = found
    assert {how for _, _, how in only} == set(dedup.HOW)


def test_many_embeddings_lie_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float16)
    rows[40:] = rows[:10]
    everything = hashed([n << 40 for n in range(50)], [f"{n:032x}" * 2 for n in range(50)], [20])
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 8)
    table = pa.table({"image_emb": column})
    everything.stages["embed"] = {"s0": table.slice(0, 20), "s1": table.slice(20)}
    stage = Dedup(radius=-1, embed="embed")
    in_memory = stage.prepare(everything)
    monkeypatch.setattr(dedup, "_IN_MEMORY", 16)
    assert isinstance(dedup._room(50, 8), np.memmap)
    on_disk = stage.prepare(everything)
    assert on_disk == in_memory
    assert on_disk is not None
    assert on_disk.num_rows == 10


def test_no_room_for_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup, "_IN_MEMORY", 16)
    with pytest.raises(OutputError, match="cannot be written"):
        dedup._room(1 << 40, 1 << 12)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"radius": 17}, "dedup.radius is 17: 0 to 16 bits are allowed, or -1 for none"),
        ({"eps": 0.0}, "dedup.eps is 0.0: more than 0 and less than 1 is allowed"),
        ({"cells": -1}, "dedup.cells is -1: give a number of cells, or 0"),
        ({"keep": "last"}, "dedup.keep is 'last': 'first' or 'best:STAGE.COLUMN' is allowed"),
        ({"keep": "best:score"}, "dedup.keep is 'best:score': 'first' or"),
    ],
)
def test_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=text):
        Dedup(**options)


def test_a_score_that_is_no_number(tmp_path: Path) -> None:
    given = Given(name="given", types={"good": "string"}, values={"good": {"0": "x"}})
    shard = tar(tmp_path / "a.tar", [("0", {"jpg": jpeg(1)})])
    with pytest.raises(DataError, match=r"best:given.good is a column of string: name one of numbers"):
        ran([Images(), given, Dedup(keep="best:given.good")], [shard], tmp_path / "work")
    with pytest.raises(UnknownName, match="unknown column of stage 'given' 'goood': did you mean 'good'"):
        ran([Images(), given, Dedup(keep="best:given.goood")], [shard], tmp_path / "work")
    assert Dedup(keep="best:given.good", embed="embed").needs() == ("images", "embed", "given")
