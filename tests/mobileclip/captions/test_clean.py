"""Cleaning as a stage: one text for each, idempotent, and what is blocked is an option."""

from pathlib import Path
from typing import Any

import pytest
from given import pairs, ran, tar
from hypothesis import given, settings
from odd_texts import LARGE, texts

from mobileclip.captions import tables
from mobileclip.captions.flags import Flag, names
from mobileclip.captions.plan import block, plan_of
from mobileclip.captions.recipe import Recipe, recipe_of
from mobileclip.captions.text.clean import Clean, Cleaner
from mobileclip.captions.work import work
from mobileclip.errors import DataError, UnknownName


@pytest.fixture(scope="module")
def cleaner() -> Cleaner:
    return Cleaner(Clean())


def one(cleaner: Cleaner, text: str) -> tuple[str, list[str], str]:
    cleaned, flags, tags = cleaner.cleaned([text])
    return cleaned[0], names(flags[0]), tags[0]


def rows_of(folder: Path, shard: Path, stage: Clean) -> dict[str, dict[str, Any]]:
    plan = ran([stage], [str(shard)], folder)
    return {row["key"]: row for row in tables.read(plan.stem(stage.name, plan.shards[0].name)).to_pylist()}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A red &amp; a blue ball | Shutterstock", ("A red & a blue ball", ["entity", "boilerplate"], "en")),
        ("IMG_0012.JPG", ("IMG_0012.JPG", ["file_name", "blocked"], "")),
        ("12 May 2014, 13.45", ("12 May 2014, 13.45", ["date", "blocked"], "")),
        ("", ("", ["empty", "short", "blocked"], "")),
        ("???", ("", ["empty", "short", "blocked"], "")),
        ("I'm sorry, I cannot help", ("I'm sorry, I cannot help", ["refusal", "blocked"], "en")),
        ("ein rotes Auto neben dem Haus", ("ein rotes Auto neben dem Haus", ["language", "blocked"], "de")),
        ("rotes Auto", ("rotes Auto", ["short"], "")),
        ("red ball", ("red ball", ["short"], "")),
        ("שלום\u200f עולם טוב", ("שלום עולם טוב", ["control", "language", "blocked"], "he")),
        ("a dog a dog a dog a dog a dog", ("a dog a dog a dog a dog a dog", ["repeated"], "en")),
    ],
)
def test_texts_flags_and_languages(cleaner: Cleaner, text: str, wanted: tuple[str, list[str], str]) -> None:
    found = one(cleaner, text)
    assert (found[0], sorted(found[1]), found[2]) == (wanted[0], sorted(wanted[1]), wanted[2])


def test_long_texts_are_flagged(cleaner: Cleaner) -> None:
    assert "long" in one(cleaner, "a red ball lies on the green grass of the field " * 20)[1]


@settings(deadline=None)
@given(texts())
def test_cleaning_again_changes_nothing(cleaner: Cleaner, text: str) -> None:
    done = Flag.CUT | Flag.ENTITY | Flag.MOJIBAKE | Flag.CONTROL | Flag.URL | Flag.BOILERPLATE | Flag.HANDLE
    done |= Flag.LEAD_IN
    (once,), (first,), lang = cleaner.cleaned([text])
    (twice,), (again,), same = cleaner.cleaned([once])
    assert twice == once
    assert lang == same
    assert again == first & ~done


@pytest.mark.parametrize("text", LARGE[:4] + LARGE[13:17], ids=lambda text: ascii(text[:8]))
def test_megabytes(cleaner: Cleaner, text: str) -> None:
    cleaned, flags, _ = one(cleaner, text)
    assert len(cleaned) <= 4_000
    assert "cut" in flags


def test_a_shard(tmp_path: Path) -> None:
    shard = tar(
        tmp_path / "0.tar",
        [
            (
                "a",
                {"txt": "a red ball on the grass", "syn.json": {"syn_text": ["The image shows a dog", "\ud800\u200b"]}},
            ),
            ("b", {"syn.json": {"syn_text": []}}),
            ("c", {"txt": b"\xff\xfe\x00broken"}),
        ],
    )
    alt = rows_of(tmp_path / "work", shard, Clean())
    assert list(alt) == ["a", "b", "c"]
    assert alt["a"] | {"uid": ""} == {
        "key": "a",
        "uid": "",
        "status": "ok",
        "texts": ["a red ball on the grass"],
        "flags": [0],
        "lang": ["en"],
    }
    assert alt["b"]["texts"] == alt["b"]["flags"] == alt["b"]["lang"] == []
    assert alt["c"]["texts"] == []  # no UTF-8: not read
    syn = rows_of(tmp_path / "work", shard, Clean(name="clean-syn", source="syn_text"))
    assert syn["a"]["texts"] == ["a dog", ""]
    assert [names(flags) for flags in syn["a"]["flags"]] == [
        ["short", "lead_in"],
        ["empty", "control", "short", "blocked"],
    ]
    assert syn["c"]["texts"] == []


def test_a_key_that_ended_a_process_is_not_touched(tmp_path: Path) -> None:
    shard = pairs(tmp_path / "0.tar", {"a": "a red ball", "b": "a blue ball"})
    plan = plan_of(Recipe(name="test", stages=(Clean(),)), [str(shard)], tmp_path / "work")
    block(plan, "0", "a", "exit code -11")
    work(plan, ("clean",), plan.shards[0])
    rows = tables.read(plan.stem("clean", "0")).to_pylist()
    assert (rows[0]["status"], rows[0]["texts"], rows[0]["flags"]) == ("blocked: exit code -11", None, None)
    assert rows[1]["texts"] == ["a blue ball"]


def test_what_blocks_is_an_option() -> None:
    free = Cleaner(Clean(blocks=("repeated",), languages=(), min_words=0))
    assert one(free, "IMG_0012.JPG")[1] == ["file_name"]
    assert one(free, "red red red")[1] == ["repeated", "blocked"]
    assert one(free, "ein rotes Auto neben dem Haus")[1] == []
    german = Cleaner(Clean(languages=("de",)))
    assert "language" in one(german, "a red car near the house")[1]
    assert one(german, "ein rotes Auto neben dem Haus")[1] == []


def test_options_that_are_none() -> None:
    with pytest.raises(UnknownName, match="unknown rule that blocks 'refusals': did you mean 'refusal'"):
        Clean(blocks=("refusals",))
    with pytest.raises(UnknownName, match="unknown language 'xx'"):
        Clean(languages=("xx",))
    with pytest.raises(DataError) as error:
        Clean(min_words=9, max_words=3)
    assert str(error.value) == (
        "clean.min_words is 9 and max_words 3: 0 <= min_words <= max_words is allowed; change one."
    )


def test_a_recipe_names_it() -> None:
    stage = recipe_of("text-only", ["clean.languages=['en', 'de']", "clean.min_words=2"]).stage("clean")
    assert stage == Clean(languages=("en", "de"), min_words=2)
    assert set(stage.points_at()) == {"lingua", "ftfy"}
