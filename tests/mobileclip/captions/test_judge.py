"""Judging: q follows its formula, guards block, alarms are raised, weights can be fitted again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from given import Given, pairs, ran

from mobileclip.captions import tables
from mobileclip.captions.flags import Flag
from mobileclip.captions.judge import PARTS, WEIGHTS, Judge, refit
from mobileclip.captions.plan import PREPARED, Plan
from mobileclip.errors import DataError, UnknownName

FLOATS, TEXTS, BITS = "list<item: float32>", "list<item: string>", "list<item: uint32>"


def rows_of(plan: Plan) -> dict[str, dict[str, Any]]:
    rows = tables.read(plan.stem("judge", plan.shards[0].name)).to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    return {row["key"]: row for row in rows}


def stage(name: str, **columns: tuple[Any, dict[str, Any]]) -> Given:
    return Given(
        name=name,
        types={column: kind for column, (kind, _) in columns.items()},
        values={column: values for column, (_, values) in columns.items()},
    )


def test_q_is_its_formula(tmp_path: Path) -> None:
    shard = pairs(tmp_path / "in" / "0.tar", {"a": "first text", "b": "second text"})
    coca = stage(
        "coca", texts=(TEXTS, {"a": ["one", "first text"], "b": []}), lp=(FLOATS, {"a": [-1.0, -3.0], "b": []})
    )
    clip = {"a": [0.3], "b": [0.1]}
    score = stage(
        "score",
        clip_alt=(FLOATS, clip),
        rank_alt=("list<item: uint16>", {"a": [0], "b": [3]}),
        clip_coca=(FLOATS, {"a": [0.2, 0.2], "b": []}),
        rank_coca=("list<item: uint16>", {"a": [1, 1], "b": []}),
        pool=("uint16", {"a": 16, "b": 16}),
    )
    text = stage(
        "text",
        idf=(FLOATS, {"a": [2.0], "b": [4.0]}),
        rep3=(FLOATS, {"a": [0.0], "b": [0.25]}),
        concepts=("list<item: uint16>", {"a": [2], "b": [0]}),
        tokens=("list<item: uint16>", {"a": [5], "b": [78]}),
        flags=(BITS, {"a": [0], "b": [int(Flag.BOILERPLATE)]}),
    )
    judge = Judge(sources=("alt", "coca"), score="score", text={"alt": "text"}, bias=0.1)
    rows = rows_of(ran([coca, score, text, judge], shard, tmp_path / "work"))
    std = float(np.std(np.float32([0.3, 0.1, 0.2, 0.2])))
    terms = {
        "clip": (np.float32(0.1) - 0.2) / std,
        "retrieval": 1 - 2 * np.log(4) / np.log(16),
        "idf": 1.0,
        "rep": 0.25,
        "boilerplate": 1,
        "tokens": 1,
    }
    logit = 0.1 + sum(WEIGHTS[name] * value for name, value in terms.items())
    assert rows["b"]["q_alt"][0] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)
    parts = dict(zip(PARTS, rows["b"]["parts_alt"][0], strict=True))
    assert {name: parts[name] for name in terms} == pytest.approx(terms, abs=1e-5)
    parts = dict(zip(PARTS, rows["a"]["parts_coca"][1], strict=True))
    assert parts["lp"] == pytest.approx(-1.0)
    assert parts["duplicate"] == 1  # word for word the web text
    ordered = sorted(rows["a"]["q_alt"] + rows["a"]["q_coca"], reverse=True)
    assert rows["a"]["best_q"] == ordered[0]
    assert sorted(rows["a"]["order_alt"] + rows["a"]["order_coca"]) == [0, 1, 2]
    assert rows["b"]["q_coca"] == []
    assert rows["b"]["best"] == "alt/0"


def test_guards(tmp_path: Path) -> None:
    shard = pairs(tmp_path / "in" / "0.tar", {"a": "a red car by the sea", "b": "a dog"})
    fused = stage(
        "fused",
        texts=(TEXTS, {"a": ["a red car near the sea"], "b": ["golden retriever puppy playing chess"]}),
        flags=(BITS, {"a": [0], "b": [0]}),
    )
    text = stage(
        "text",
        idf=(FLOATS, {}),
        rep3=(FLOATS, {"a": [0.1], "b": [0.7]}),
        concepts=("list<item: uint16>", {}),
        tokens=("list<item: uint16>", {}),
        flags=(BITS, {"a": [int(Flag.REFUSAL)], "b": [0]}),
    )
    judge = Judge(sources=("alt", "fused"), text={"alt": "text"}, fused_from={"fused": ("alt",)})
    rows = rows_of(ran([fused, text, judge], shard, tmp_path / "work"))
    assert rows["b"]["flags_alt"] == [Flag.REPEATED | Flag.BLOCKED]
    assert rows["a"]["q_alt"] == [0.0]  # a refusal is ruled out, whatever else is good
    assert rows["b"]["flags_fused"] == [Flag.INVENTED | Flag.BLOCKED]
    assert rows["b"]["q_fused"] == [0.0]
    assert rows["a"]["flags_fused"] == [0]
    assert 0 < rows["a"]["q_fused"][0] < 1


def test_a_collapsed_captioner_raises_an_alarm(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    syllables = ["ka", "lo", "mi", "ra", "tu", "se", "no", "vi", "pe", "du"]
    words = ["".join(rng.choice(syllables, 3)) for _ in range(3_000)]
    texts = {f"k{n:04d}": " ".join(rng.choice(words, 12)) for n in range(1_200)}
    shard = pairs(tmp_path / "in" / "0.tar", texts)
    coca = stage(
        "coca",
        texts=(
            TEXTS,
            {key: [f"a picture of a {'cat' if n % 2 else 'dog'} on a table in a room"] for n, key in enumerate(texts)},
        ),
    )
    plan = ran([coca, Judge(sources=("alt", "coca"))], shard, tmp_path / "work")
    prepared = tables.read(plan.stem("judge", PREPARED)).to_pylist()
    alarms = [(row["source"], row["note"]) for row in prepared if row["what"] == "alarm"]
    assert len(alarms) == 2
    assert {source for source, _ in alarms} == {"coca"}
    assert any("vocabulary" in note for _, note in alarms)
    assert any("openings" in note for _, note in alarms)
    done = plan.done("judge", plan.shards[0])
    assert done is not None
    assert len(done.provenance["alarms"]) == 2


def test_refit_finds_what_matters() -> None:
    rng = np.random.default_rng(1)
    parts = rng.normal(size=(4_000, len(PARTS)))
    truth = np.zeros(len(PARTS))
    truth[PARTS.index("clip")], truth[PARTS.index("rep")] = 2.0, -1.0
    good = rng.random(4_000) < 1 / (1 + np.exp(-(parts @ truth + 0.5)))
    weights, bias = refit(parts, good)
    assert weights["clip"] == pytest.approx(2.0, abs=0.2)
    assert weights["rep"] == pytest.approx(-1.0, abs=0.2)
    assert bias == pytest.approx(0.5, abs=0.15)
    assert max(abs(weights[name]) for name in PARTS if name not in ("clip", "rep")) < 0.2


def test_options_that_make_no_sense() -> None:
    with pytest.raises(DataError, match="stage 'judge' has no sources: name at least one"):
        Judge(sources=())
    with pytest.raises(UnknownName, match="unknown term of q 'clipp': did you mean 'clip'"):
        Judge(weights={"clipp": 1.0})
    with pytest.raises(UnknownName, match="unknown source of stage 'judge' 'coca'"):
        Judge(text={"coca": "text"})
