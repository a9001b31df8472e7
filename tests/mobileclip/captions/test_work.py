"""The spine: rows of a shard, side-cars, plans, batches; what makes finished work count, and what does not."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from given import Given, jpeg, pairs, ran, tar

from mobileclip.captions import plan as plans
from mobileclip.captions import tables
from mobileclip.captions import work as works
from mobileclip.captions.plan import Plan, plan_of
from mobileclip.captions.recipe import Recipe
from mobileclip.captions.shard import SIDE, Shard
from mobileclip.captions.stage import Batch, Columns, Everything, Prepared
from mobileclip.errors import DataError, ImageError, OutputError

SEEN: Counter[str] = Counter()


@dataclass(frozen=True, kw_only=True)
class Looks(Given):
    """Mean colour of a picture; raises where a text tells it to."""

    name: str = "looks"
    after: tuple[str, ...] = ()

    def needs(self) -> tuple[str, ...]:
        return self.after

    def looks(self) -> bool:
        return True

    def worker(self, prepared: Prepared | None) -> "_Looker":  # type: ignore[override]
        return _Looker(self.name)


class _Looker:
    def __init__(self, name: str) -> None:
        self.name, self.schema, self.provenance = name, pa.schema([("mean", pa.float32())]), {"model": "mean"}

    def __call__(self, batch: Batch) -> Columns:
        SEEN[self.name] += 1
        for row in batch.rows:
            said = row.texts.get("alt", ("",))[0]
            if said == "raise":
                raise RuntimeError("this one breaks it")
            if said == "memory" and len(batch.rows) > 1:
                raise MemoryError
        return {"mean": [None if one is None else float(one.mean()) for one in batch.pixels]}


@dataclass(frozen=True, kw_only=True)
class Counts(Given):
    """Counts the texts of all shards first."""

    prepares: ClassVar[bool] = True
    name: str = "counts"
    read: str = "given"

    def needs(self) -> tuple[str, ...]:
        return (self.read,)

    def prepare(self, everything: Everything) -> pa.Table:
        total = sum(table.num_rows for _, table in everything.tables(self.read, ["key"]))
        return pa.table({"shard": list(everything.shards), "total": [total] * len(everything.shards)})

    def worker(self, prepared: Prepared | None) -> "_Counter":  # type: ignore[override]
        assert prepared is not None
        return _Counter(prepared)


class _Counter:
    def __init__(self, prepared: Prepared) -> None:
        self.prepared, self.schema, self.provenance = prepared, pa.schema([("total", pa.int64())]), {}

    def __call__(self, batch: Batch) -> Columns:
        return {"total": self.prepared.table(batch.shard).column("total").to_pylist() * len(batch.rows)}


def stage(name: str = "given", **values: Mapping[str, Any]) -> Given:
    return Given(name=name, types=dict.fromkeys(values, "string"), values=values)


def content(plan: Plan) -> dict[str, bytes]:
    """All that decides, by file."""
    found = {}
    for path in sorted(plan.folder.rglob("*")):
        if path.suffix == ".parquet":
            found[str(path.relative_to(plan.folder))] = path.read_bytes()
        elif path.name.endswith(tables.DONE):
            note = json.loads(path.read_bytes())
            del note["made"]
            found[str(path.relative_to(plan.folder))] = json.dumps(note, sort_keys=True).encode()
    return found


def test_every_key_is_a_row(tmp_path: Path) -> None:
    uid = "0123456789abcdef" * 2
    path = tar(
        tmp_path / "odd.tar",
        [
            ("a", {"jpg": jpeg(), "txt": "one", "json": {"uid": uid, "license": "CC0", "url": "u"}}),
            ("b", {"txt": "no picture"}),
            ("c", {"jpg": b"", "txt": "empty picture"}),
            ("d", {"png": b"not a picture", "json": {"caption": "x", "sha256": "ab"}}),
            ("e", {"jpg": jpeg(), "txt": b"\xff\xfe broken"}),
            ("a", {"txt": "twice"}),
        ],
    )
    with Shard.open(str(path)) as shard:
        assert [row.key for row in shard.rows] == list("abcde")
        assert (shard.rows[0].uid, shard.rows[0].license, shard.rows[0].url) == (uid, "CC0", "u")
        assert [row.texts.get("alt") for row in shard.rows] == [
            ("one",),
            ("no picture",),
            ("empty picture",),
            ("x",),
            None,
        ]
        assert all(len(row.uid) == 32 for row in shard.rows)
        assert shard.pixels(shard.rows[0]).shape == (32, 48, 3)
        for row, sentence in ((1, "no image"), (2, "empty"), (3, "picture")):
            with pytest.raises(ImageError, match=sentence):
                shard.pixels(shard.rows[row])
        assert shard.problems["duplicate_key"] == 1
        first = (shard.keys, shard.content)
    tar(tmp_path / "odd.tar", [("a", {"jpg": jpeg(), "txt": "other"})])
    with Shard.open(str(path)) as shard:
        assert (shard.keys, shard.content) != first


def test_large_pictures_are_reduced_by_whole_numbers(tmp_path: Path) -> None:
    import io

    from PIL import Image

    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (3 * SIDE + 5, 4 * SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    path = tar(tmp_path / "0.tar", [("a", {"png": file.getvalue(), "txt": "x"})])
    with Shard.open(str(path)) as shard:
        found = shard.pixels(shard.rows[0])
    assert found.shape == (SIDE + 1, 4 * SIDE // 3, 3)
    assert np.array_equal(found[0, 0], np.round(pixels[:3, :3].mean((0, 1))).astype(np.uint8))


def test_finished_work_is_not_done_again_and_stale_work_is(tmp_path: Path) -> None:
    shard = pairs(tmp_path / "in" / "0.tar", {"a": "x", "b": "y"})
    first = stage(kind_=dict.fromkeys("ab", "v"))
    stages = [first, Looks(after=("given",))]
    plan = ran(stages, tmp_path / "in", tmp_path / "work")
    assert [plan.todo(wave) for wave in plan.waves] == [[]]
    before = content(plan)
    item = plan.shards[0]
    note = tables.committed(plan.stem("given", item.name))
    assert note is not None
    assert (note.rows, note.counts, note.shard, note.provenance["licence"]) == (2, {"ok": 2}, "0", "MIT")

    tables.with_ending(plan.stem("given", item.name), tables.DONE).unlink()  # as if it had been killed just before
    assert len(plan.todo(plan.waves[0])) == 1
    works.work(plan, plan.waves[0], item)
    assert content(plan) == before

    tables.with_ending(plan.stem("looks", item.name), tables.PARQUET).write_bytes(b"half")
    works.work(plan, plan.waves[0], item)
    assert content(plan) == before

    other = ran([stage(kind_=dict.fromkeys("ab", "w")), Looks(after=("given",))], tmp_path / "in", tmp_path / "work")
    assert other.hashes["given"] != plan.hashes["given"]
    assert other.hashes["looks"] != plan.hashes["looks"]  # it reads what has changed
    assert content(plan).items() >= before.items()

    pairs(shard, {"a": "x", "b": "changed"})
    assert len(plan.todo(plan.waves[0])) == 1


def test_side_cars_of_another_version_are_refused(tmp_path: Path) -> None:
    pairs(tmp_path / "in" / "0.tar", {"a": "x"})
    plan = ran([stage(v={"a": "x"})], tmp_path / "in", tmp_path / "work")
    path = tables.with_ending(plan.stem("given", "0"), tables.DONE)
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "version": 99}))
    with pytest.raises(DataError, match=r"is a side-car of version 99, 1 is read: remove its folder"):
        plan.todo(plan.waves[0])
    path.write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        plan.todo(plan.waves[0])


def test_a_stage_looks_at_all_shards_first(tmp_path: Path) -> None:
    pairs(tmp_path / "in" / "0.tar", {"a": "x", "b": "y"})
    pairs(tmp_path / "in" / "1.tar", {"c": "x"})
    stages = (stage(v={}), Counts())
    plan = plan_of(Recipe(name="r", stages=stages), tmp_path / "in", tmp_path / "work")
    assert plan.waves == (("given",), ("counts",))
    with pytest.raises(DataError, match="stage 'counts' looks at all shards, and 'given' of shard '0' is not finished"):
        works.prepare(plan, "counts")
    for item in plan.shards:
        works.work(plan, plan.waves[0], item)
    with pytest.raises(DataError, match="stage 'counts' has not looked at all shards yet"):
        works.work(plan, plan.waves[1], plan.shards[0])
    works.prepare(plan, "counts")
    works.work(plan, plan.waves[1], plan.shards[0])
    assert tables.read(plan.stem("counts", "0")).column("total").to_pylist() == [3, 3]

    pairs(tmp_path / "in" / "2.tar", {"d": "x"})  # one more shard: what was prepared is stale, and all that read it
    plan = ran(stages, tmp_path / "in", tmp_path / "work")
    assert tables.read(plan.stem("counts", "0")).column("total").to_pylist() == [4, 4]


def test_pictures_are_decoded_once_for_stages_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: Counter[str] = Counter()
    real = Shard.pixels

    def counted(self: Shard, row: Any) -> Any:
        decoded[row.key] += 1
        return real(self, row)

    monkeypatch.setattr(Shard, "pixels", counted)
    pairs(tmp_path / "in" / "0.tar", {f"{n:03d}": "x" for n in range(150)})
    SEEN.clear()
    plan = ran([Looks(name="one"), Looks(name="two")], tmp_path / "in", tmp_path / "work")
    assert set(decoded.values()) == {1}
    assert SEEN == {"one": 2, "two": 2}  # 128 rows and 22
    assert tables.read(plan.stem("one", "0")).equals(tables.read(plan.stem("two", "0")))


def test_a_row_that_breaks_a_worker_is_alone_in_failing(tmp_path: Path) -> None:
    texts = {f"{n:03d}": "raise" if n == 37 else "memory" if n == 50 else "fine" for n in range(64)}
    pairs(tmp_path / "in" / "0.tar", texts)
    plan = ran([Looks()], tmp_path / "in", tmp_path / "work")
    rows = tables.read(plan.stem("looks", "0")).to_pylist()
    bad = [row for row in rows if row["status"] != "ok"]
    assert [(row["key"], row["status"], row["mean"]) for row in bad] == [
        ("037", "error: RuntimeError: this one breaks it", None)
    ]
    assert all(row["mean"] is not None for row in rows if row["key"] != "037")
    note = tables.committed(plan.stem("looks", "0"))
    assert note is not None
    assert note.counts["ok"] == 63


def test_a_stage_that_fails_on_every_row_is_broken(tmp_path: Path) -> None:
    pairs(tmp_path / "in" / "0.tar", dict.fromkeys("abc", "raise"))
    with pytest.raises(DataError, match="stage 'looks' fails on every row, first with 'RuntimeError: this one"):
        ran([Looks()], tmp_path / "in", tmp_path / "work")
    assert not list((tmp_path / "work").rglob("*.parquet"))


def test_blocked_rows_are_not_touched(tmp_path: Path) -> None:
    pairs(tmp_path / "in" / "0.tar", {"a": "x", "b": "raise"})
    plan = plan_of(Recipe(name="r", stages=(Looks(),)), tmp_path / "in", tmp_path / "work")
    plans.block(plan, "0", "b", "it ended a process")
    works.work(plan, plan.waves[0], plan.shards[0])
    rows = tables.read(plan.stem("looks", "0")).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "blocked: it ended a process"]


def test_empty_and_broken_shards(tmp_path: Path) -> None:
    tar(tmp_path / "in" / "empty.tar", [])
    tar(tmp_path / "in" / "one.tar", [("a", {"jpg": b"broken", "txt": "x"})])
    plan = ran([Looks(), stage(v={})], tmp_path / "in", tmp_path / "work")
    assert tables.read(plan.stem("looks", "empty")).num_rows == 0
    (row,) = tables.read(plan.stem("looks", "one")).to_pylist()
    assert row["status"].startswith("broken image: ")


def test_probe_keeps_nothing(tmp_path: Path) -> None:
    pairs(tmp_path / "in" / "0.tar", {"a": "x", "b": "y", "c": "raise"})
    plan = plan_of(Recipe(name="r", stages=(Looks(),)), tmp_path / "in", tmp_path / "work")
    works.probe(plan, plan.waves[0], plan.shards[0], range(0, 2))
    assert not list((tmp_path / "work").rglob("*.parquet"))


def test_no_room_leaves_nothing_half_written(tmp_path: Path) -> None:
    pairs(tmp_path / "in" / "0.tar", {"a": "x"})
    (tmp_path / "work").write_text("a file where the folder would be")
    with pytest.raises((OutputError, DataError), match=r"cannot be (written|read)"):
        ran([stage(v={"a": "x"})], tmp_path / "in", tmp_path / "work")


def test_shards_of_one_name_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        pairs(tmp_path / folder / "0.tar", {"a": folder})
    plan = ran([stage(v={"a": "v"})], [tmp_path / "x", tmp_path / "y"], tmp_path / "work")
    assert [item.name for item in plan.shards] == ["x--0", "y--0"]
    (tmp_path / "z" / "x").mkdir(parents=True)
    pairs(tmp_path / "z" / "x" / "0.tar", {"a": "z"})
    with pytest.raises(DataError, match="two shards would both be called 'x--0': rename one, or its folder"):
        plan_of(plan.recipe, [tmp_path / "x", tmp_path / "z" / "x"], tmp_path / "work")


def test_a_changed_tar_under_a_run_is_noticed(tmp_path: Path) -> None:
    pairs(tmp_path / "in" / "0.tar", {"a": "x"})
    plan = ran([stage(v={"a": "x"})], tmp_path / "in", tmp_path / "work")
    pairs(tmp_path / "in" / "0.tar", {"other": "x"})
    later = replace(plan, recipe=Recipe(name="r", stages=(*plan.recipe.stages, Looks(after=("given",)))))
    later = replace(later, hashes=later.recipe.hashes())
    with pytest.raises(DataError, match="has 1 rows of other keys than the shard's 1: the tar has changed"):
        works.work(later, ("looks",), later.shards[0])
