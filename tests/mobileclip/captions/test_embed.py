"""The stage `embed`: its columns, whatever batches are cut, and what it says of itself."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from given import jpeg, ran, tar
from safetensors.torch import save_file

from mobileclip.captions import tables
from mobileclip.captions.pictures.embed import NOT_FINITE, Embed, EmbedWorker, embeddings, made_by
from mobileclip.captions.pictures.scorer import scorer_of
from mobileclip.captions.shard import Row
from mobileclip.captions.stage import Batch
from mobileclip.errors import CheckpointError, DataError


def shard(folder: Path, count: int) -> Path:
    members = [(f"{n:03d}", {"jpg": jpeg(n, size=(40 + n % 60, 70)), "txt": "a"}) for n in range(count)]
    members[3] = ("003", {"txt": "no picture"})
    members[5] = ("005", {"jpg": b"\xff\xd8 broken"})
    return tar(folder / "a.tar", members)


def batch(count: int) -> Batch:
    generator = np.random.default_rng(0)
    pixels = [generator.integers(0, 256, (50, 40 + n, 3)).astype(np.uint8) for n in range(count)]
    rows = [Row(key=f"{n}", uid=f"{n:032x}", texts={}, image=None) for n in range(count)]
    return Batch(shard="a", rows=rows, pixels=pixels, images=[None] * count, status=["ok"] * count, inputs={})


def test_columns(tmp_path: Path) -> None:
    plan = ran([Embed(model="seeded:nano")], [shard(tmp_path, 150)], tmp_path / "work")
    table = tables.read(plan.stem("embed", "a"))
    rows, there = embeddings(table.column("image_emb"))
    assert table.schema.field("image_emb").type == pa.list_(pa.float16(), 32)
    assert np.flatnonzero(~there).tolist() == [3, 5]
    assert np.abs(np.linalg.norm(rows[there].astype(float), axis=1) - 1).max() < 1e-3
    assert table.column("status")[3].as_py() == "no image"
    assert table.column("status")[5].as_py().startswith("broken image: ")
    assert made_by(table.schema.field("image_emb")) == ("seeded:nano", "")
    done = tables.committed(plan.stem("embed", "a"))
    assert done is not None
    assert done.provenance["model"] == "seeded:nano"
    assert done.provenance["licence"] == "MIT (weights of this project)"


def test_how_batches_are_cut_changes_no_byte() -> None:
    worker = EmbedWorker(scorer_of("seeded:nano"), {}, 8)
    whole = batch(21)
    rows, _ = embeddings(pa.chunked_array([worker(whole)["image_emb"]]))
    for size in (10, 8, 3):
        parts = [
            Batch(
                shard="a",
                rows=whole.rows[low : low + size],
                pixels=whole.pixels[low : low + size],
                images=whole.images[low : low + size],
                status=whole.status[low : low + size],
                inputs={},
            )
            for low in range(0, 21, size)
        ]
        found, _ = embeddings(pa.chunked_array([worker(part)["image_emb"] for part in parts]))
        assert (found.view(np.uint16) == rows.view(np.uint16)).all(), size


def test_the_same_work_gives_the_same_bytes(tmp_path: Path) -> None:
    place = shard(tmp_path, 150)
    stages = [Embed(model="seeded:nano", batch=16)]
    digests = set()
    for name in ("one", "two"):
        done = tables.committed(ran(stages, [place], tmp_path / name).stem("embed", "a"))
        assert done is not None
        digests.add(done.sha256)
    assert len(digests) == 1


def test_heads_are_columns(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(1, 32), "bias": torch.tensor([0.5])}, tmp_path / "sum.safetensors")
    stage = Embed(model="seeded:nano", heads={"total": str(tmp_path / "sum.safetensors")})
    plan = ran([stage], [shard(tmp_path, 12)], tmp_path / "work")
    table = tables.read(plan.stem("embed", "a"))
    rows, there = embeddings(table.column("image_emb"))
    values = table.column("head_total").to_pylist()
    assert [value is None for value in values] == (~there).tolist()
    wanted = rows[there].astype(float).sum(axis=1) + 0.5
    np.testing.assert_allclose([value for value in values if value is not None], wanted, rtol=1e-5)
    before = stage.points_at()
    save_file({"weight": torch.zeros(1, 32)}, tmp_path / "sum.safetensors")
    assert stage.points_at() != before


def test_an_embedding_that_is_not_finite_is_a_status() -> None:
    class Fails(EmbedWorker):
        pass

    scorer = scorer_of("seeded:nano:7")
    tower = scorer.image_tower
    broken = Fails(scorer, {}, 4)
    object.__setattr__(scorer, "image_tower", lambda x: tower(x) * torch.tensor([[1.0], [float("inf")], [1.0], [1.0]]))
    out = broken(batch(4))
    assert list(out["status"]) == ["ok", NOT_FINITE, "ok", "ok"]
    assert out["image_emb"].is_valid().to_pylist() == [True, False, True, True]  # type: ignore[union-attr]


def test_a_head_for_another_model(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(1, 768)}, tmp_path / "head.safetensors")
    stage = Embed(model="seeded:nano", heads={"aesthetic": str(tmp_path / "head.safetensors")})
    with pytest.raises(CheckpointError, match=r"embed.heads.aesthetic is a head for embeddings of 768 numbers"):
        stage.worker(None)


def test_names_of_heads() -> None:
    with pytest.raises(DataError, match=r"embed.heads has one called 'a b': letters, digits and '_' are allowed"):
        Embed(model="seeded:nano", heads={"a b": "x"})


def test_a_column_that_does_not_say_who_made_it() -> None:
    with pytest.raises(DataError, match="the column 'image_emb' does not say which model made it"):
        made_by(pa.field("image_emb", pa.list_(pa.float16(), 4)))
