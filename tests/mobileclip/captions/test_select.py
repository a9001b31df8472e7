"""Selection: every reason to leave a sample out, every use of sources, balancing, top share, uid lists."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from given import Given, pairs, ran, tar
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileclip.captions import tables, uids
from mobileclip.captions.flags import Flag
from mobileclip.captions.plan import Plan
from mobileclip.captions.select import Select
from mobileclip.captions.uids import Uids
from mobileclip.errors import DataError

FLOATS, TEXTS = "list<item: float32>", "list<item: string>"
KEYS = ["a", "b", "c", "d"]


def given_(name: str, **columns: tuple[Any, dict[str, Any]]) -> Given:
    return Given(
        name=name,
        types={column: kind for column, (kind, _) in columns.items()},
        values={column: values for column, (_, values) in columns.items()},
    )


def judged(q: dict[str, list[float]], flags: dict[str, list[int]] | None = None) -> Given:
    flags = flags or {key: [0] * len(values) for key, values in q.items()}
    best = {key: max(values, default=None) for key, values in q.items()}
    return given_("judge", q_alt=(FLOATS, q), flags_alt=("list<item: uint32>", flags), best_q=("float32", best))


def selected(plan: Plan, name: str = "select") -> dict[str, dict[str, Any]]:
    rows = tables.read(plan.stem(name, plan.shards[0].name)).to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    return {row["key"]: row for row in rows}


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return pairs(tmp_path / "in" / "0.tar", {key: f"text of {key}" for key in KEYS})


def test_thresholds_flags_and_duplicates(shard: Path, tmp_path: Path) -> None:
    q = {"a": [0.9], "b": [0.2], "c": [0.8], "d": [0.7]}
    flags = {"a": [0], "b": [0], "c": [int(Flag.BLOCKED | Flag.REFUSAL)], "d": [int(Flag.ENTITY)]}
    dedup = given_("dedup", duplicate_of=("string", {"d": "0/a"}), how=("string", {"d": "phash"}))
    stage = Select(sources=("alt",), judge="judge", dedup="dedup", min_q=0.5)
    rows = selected(ran([judged(q, flags), dedup, stage], shard, tmp_path / "work"))
    assert {key: row["why"] for key, row in rows.items()} == {
        "a": "",
        "b": "no caption passes",
        "c": "no caption passes",
        "d": "duplicate: phash",
    }
    assert rows["a"]["w_alt"] == [pytest.approx(0.9)]
    assert rows["a"]["weight"] == pytest.approx(0.9)
    assert rows["d"]["w_alt"] == [0.0]
    assert [row["keep"] for row in rows.values()] == [True, False, False, False]


def test_clip_and_rank(shard: Path, tmp_path: Path) -> None:
    score = given_(
        "score",
        clip_alt=(FLOATS, {"a": [0.3], "b": [0.1], "c": [0.3], "d": None}),
        rank_alt=("list<item: uint16>", {"a": [0], "b": [0], "c": [9], "d": None}),
    )
    stage = Select(sources=("alt",), score="score", min_clip=0.2, max_rank=3, weigh="one")
    rows = selected(ran([score, stage], shard, tmp_path / "work"))
    assert [row["keep"] for row in rows.values()] == [True, False, False, False]
    assert rows["a"]["w_alt"] == [1.0]


def test_pictures_and_heads(tmp_path: Path) -> None:
    shard = tar(
        tmp_path / "in" / "0.tar", [(key, {"txt": key, "jpg": b"x"}) for key in "abcde"] + [("f", {"txt": "f"})]
    )
    size = {"a": (512, 512), "b": (100, 512), "c": (2_000, 512), "d": (512, 512), "e": (None, None)}
    images = given_(
        "images",
        width=("uint32", {key: side[0] for key, side in size.items()}),
        height=("uint32", {key: side[1] for key, side in size.items()}),
        status=("string", dict.fromkeys("abcdf", "ok") | {"e": "broken image: 'x'"}),
    )
    images = Given(name="images", types={k: v for k, v in images.types.items() if k != "status"}, values=images.values)
    heads = given_("embed", head_nsfw=("float32", {"a": 0.1, "b": 0.1, "c": 0.1, "d": 0.9, "e": 0.1}))
    stage = Select(
        sources=("alt",), images="images", embed="embed", min_side=200, max_aspect=3, heads={"nsfw": (-1.0, 0.5)}
    )
    shard = pairs(tmp_path / "in" / "0.tar", {key: key for key in "abcd"})
    rows = selected(ran([images, heads, stage], shard, tmp_path / "work"))
    assert [rows[key]["why"] for key in "abcd"] == ["", "small image", "long image", "head nsfw"]


def test_a_sample_without_a_picture(tmp_path: Path) -> None:
    shard = tar(tmp_path / "in" / "0.tar", [("a", {"txt": "a"})])
    assert selected(ran([Select(sources=("alt",))], shard, tmp_path / "work"))["a"]["why"] == "no image"


@pytest.mark.parametrize(
    ("use", "weighing"),
    [
        ("all", {"a": (1, 1), "b": (1, 1), "c": (1, 0)}),
        ("web", {"a": (1, 0), "b": (1, 0), "c": (1, 0)}),
        ("synthetic", {"a": (0, 1), "b": (0, 1), "c": (1, 0)}),
        ("adaptive", {"a": (1, 0), "b": (0, 1), "c": (1, 0)}),
    ],
)
def test_which_source_weighs(use: Any, weighing: dict[str, tuple[int, int]], tmp_path: Path) -> None:
    shard = pairs(tmp_path / "in" / "0.tar", {key: key for key in "abc"})
    coca = given_("coca", texts=(TEXTS, {"a": ["one", "two"], "b": ["one", "one"], "c": None}))
    score = given_(
        "score",
        clip_alt=(FLOATS, {"a": [0.4], "b": [0.1], "c": [0.1]}),
        clip_coca=(FLOATS, {"a": [0.3, 0.3], "b": [0.3, 0.3], "c": None}),
    )
    stage = Select(sources=("alt", "coca"), score="score", use=use, web_clip=0.28, weigh="one", captions=1)
    rows = selected(ran([coca, score, stage], shard, tmp_path / "work"))
    found = {key: (int(sum(row["w_alt"])), int(sum(row["w_coca"] or [0]))) for key, row in rows.items()}
    assert found == weighing


def test_top_share_is_exact_to_a_bin(tmp_path: Path) -> None:
    keys = {f"k{n:03d}": f"text {n}" for n in range(400)}
    shard = pairs(tmp_path / "in" / "0.tar", keys)
    q = dict(zip(keys, ([float(value)] for value in np.random.default_rng(0).random(400)), strict=True))
    plan = ran([judged(q), Select(sources=("alt",), judge="judge", top_share=0.25)], shard, tmp_path / "work")
    rows = selected(plan)
    best = {key for key, _ in sorted(q.items(), key=lambda item: -item[1][0])[:100]}
    assert {key for key, row in rows.items() if row["keep"]} == best
    assert {row["why"] for row in rows.values()} == {"", "not in the top share"}


def test_balancing_thins_what_is_frequent(tmp_path: Path) -> None:
    keys = [f"k{n:04d}" for n in range(1_500)]
    shard = pairs(tmp_path / "in" / "0.tar", dict.fromkeys(keys, "x"))
    concepts = {
        key: [[0] if n < 1_200 else [1] if n < 1_250 else [0, 1] if n < 1_260 else []] for n, key in enumerate(keys)
    }
    text = given_("text", concept_ids=("list<item: list<item: uint32>>", concepts))
    stage = Select(sources=("alt",), concepts="text", balance=121, unmatched=0.5)
    first = selected(ran([text, stage], shard, tmp_path / "work"))
    again = selected(ran([text, stage], shard, tmp_path / "again"))
    assert first == again
    kept = [first[key]["keep"] for key in keys]
    assert 85 < sum(kept[:1_200]) < 160  # 1,210 hold concept 0: a tenth each
    assert all(kept[1_200:1_260])  # 60 hold concept 1: none is too many
    assert 90 < sum(kept[1_260:]) < 150


def test_uid_lists(tmp_path: Path) -> None:
    ids = {key: f"{n:016x}{7 * n:016x}" for n, key in enumerate(KEYS)}
    shard = tar(
        tmp_path / "in" / "0.tar", [(key, {"jpg": b"x", "txt": key, "json": {"uid": ids[key]}}) for key in KEYS]
    )
    assert uids.write(tmp_path / "in.npy", [ids["c"], ids["a"], ids["a"], ids["b"]]) == 3
    uids.write(tmp_path / "out.npy", [ids["b"]])
    stage = Select(sources=("alt",), include=str(tmp_path / "in.npy"), exclude=str(tmp_path / "out.npy"))
    rows = selected(ran([stage], shard, tmp_path / "work"))
    assert [rows[key]["why"] for key in KEYS] == ["", "excluded", "", "not included"]
    found = np.load(tmp_path / "in.npy", allow_pickle=False)
    assert found.dtype == np.dtype("u8,u8")
    assert found["f1"].tolist() == [0, 7, 14]


@settings(max_examples=30, deadline=None)
@given(ids=st.sets(st.integers(0, (1 << 128) - 1), max_size=40), others=st.lists(st.integers(0, (1 << 128) - 1)))
def test_uids_are_found(ids: set[int], others: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("uids") / "x.npy"
    uids.write(path, [f"{one:032x}" for one in ids])
    found = Uids(path)
    assert len(found) == len(ids)
    assert all(f"{one:032x}" in found for one in ids)
    assert [f"{one:032x}" in found for one in others] == [one in ids for one in others]


def test_bad_uid_lists(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"uid list '.*none.npy' cannot be read"):
        Uids(tmp_path / "none.npy")
    np.save(tmp_path / "floats.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"holds float64 \[3\]: one dimension of dtype 'u8,u8' is allowed"):
        Uids(tmp_path / "floats.npy")
    np.save(tmp_path / "unsorted.npy", np.array([(2, 0), (1, 0)], uids.DTYPE))
    with pytest.raises(DataError, match="is not sorted"):
        Uids(tmp_path / "unsorted.npy")
    np.save(tmp_path / "pickled.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        Uids(tmp_path / "pickled.npy")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sources": ()}, "stage 'select' has no sources"),
        ({"top_share": 0.0}, "select.top_share is 0.0: above 0, up to 1 is allowed."),
        ({"top_share": 0.5}, "asks for what a 'judge' stage finds, and names none: set select.judge."),
        ({"min_side": 10}, "a 'images' stage finds"),
        ({"use": "adaptive"}, "a 'score' stage finds"),
        ({"balance": 5}, "a 'concepts' stage finds"),
        (
            {"heads": {"nsfw": (0.1,)}, "embed": "embed"},
            r"select.heads.nsfw is \[0.1\]: least and greatest are wanted.",
        ),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        Select(**options)
    assert Select(max_aspect=math.inf).needs() == ("clean",)
