"""Scores of texts: each by its definition, rare words by a bounded count, flags the same by either way."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from given import Given, ran, tar
from hypothesis import given, settings
from odd_texts import LARGE, texts

from mobileclip.captions import tables
from mobileclip.captions.flags import Flag, names
from mobileclip.captions.plan import PREPARED, Plan
from mobileclip.captions.text import text_score
from mobileclip.captions.text.clean import Clean
from mobileclip.captions.text.text_score import TextScore, TextScorer, Tokens
from mobileclip.errors import DataError
from mobileclip.tokenizer import encode, tokenize


@pytest.fixture(scope="module")
def scorer() -> TextScorer:
    return TextScorer(TextScore(), pa.table({"word": ["", "dog", "the", "lamp"], "df": [1000, 99, 800, 1]}))


def one(scorer: TextScorer, text: str) -> dict[str, Any]:
    found = scorer.scored([text])
    return {
        name: (value.to_pylist() if isinstance(value, pa.Array) else list(value))[0] for name, value in found.items()
    }


def web(folder: Path, captions: dict[str, list[str]], number: int = 0) -> str:
    """A tar whose samples have several texts each."""
    return str(tar(folder / f"{number}.tar", [(key, {"syn.json": {"syn_text": own}}) for key, own in captions.items()]))


def rows_of(plan: Plan, stage: str, shard: int = 0) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = tables.read(plan.stem(stage, plan.shards[shard].name)).to_pylist()
    return rows


def test_scores_by_their_definitions(scorer: TextScorer) -> None:
    found = one(scorer, "The dog and the Lamp, 40 zebras.")
    assert found["words"] == 7
    assert found["tokens"] == len(encode("The dog and the Lamp, 40 zebras.")) + 2
    assert found["stop"] == pytest.approx(3 / 7, abs=1e-4)
    rare = math.log(1001 / 2)
    assert found["idf"] == pytest.approx((math.log(1001 / 100) + 2 * rare) / 3, abs=1e-4)
    assert found["digits"] == pytest.approx(2 / 32, abs=1e-4)
    assert found["upper"] == pytest.approx(2 / 32, abs=1e-4)
    assert found["sentence"]
    assert found["rep3"] == 0
    assert found["concepts"] == len(found["concept_ids"]) == 1  # zebra
    assert found["flags"] == 0
    other = one(scorer, "ÉTÉ 2٣ ein Hund")
    assert (other["digits"], other["upper"]) == (pytest.approx(2 / 15, abs=1e-4), pytest.approx(4 / 15, abs=1e-4))
    assert not other["sentence"]


def test_nothing_to_score(scorer: TextScorer) -> None:
    found = one(scorer, "")
    assert found | {"flags": 0} == {
        "words": 0,
        "tokens": 2,
        "rep3": 0,
        "stop": 0,
        "idf": 0,
        "concepts": 0,
        "concept_ids": [],
        "digits": 0,
        "upper": 0,
        "sentence": False,
        "flags": 0,
    }
    assert names(found["flags"]) == ["empty"]


def test_flags_of_raw_texts(scorer: TextScorer) -> None:
    assert names(one(scorer, "Red ball - Shutterstock")["flags"]) == ["boilerplate"]
    assert names(one(scorer, "The image shows a dog")["flags"]) == ["lead_in"]
    assert names(one(scorer, "IMG_0012.JPG")["flags"]) == ["file_name"]
    assert names(one(scorer, "12 May 2014")["flags"]) == ["date"]
    assert names(one(scorer, "As an AI, I cannot see it")["flags"]) == ["refusal"]
    assert names(one(scorer, "see www.example.com &amp; so")["flags"]) == ["entity", "url"]
    many = one(scorer, "zebra lamp dog " * 40)
    assert names(many["flags"]) == ["repeated", "tokens"]
    assert many["tokens"] == 122
    assert one(scorer, "x " * 75)["flags"] & Flag.TOKENS == 0
    assert one(scorer, "x " * 76)["flags"] & Flag.TOKENS == Flag.TOKENS


@settings(deadline=None)
@given(texts())
def test_tokens_are_the_tokenizer_s(text: str) -> None:
    counter = Tokens()
    assert counter.count([text, text]) == [len(encode(text)) + 2] * 2
    assert min(counter.count([text])[0], 77) == int((tokenize(text) != 0).sum()) or 0 in encode(text)


@settings(deadline=None)
@given(texts(), texts())
def test_scores_do_not_depend_on_neighbours(scorer: TextScorer, text: str, other: str) -> None:
    alone, beside = one(scorer, text), scorer.scored([other, text, other])
    for name, value in beside.items():
        values = value.to_pylist() if isinstance(value, pa.Array) else list(value)
        assert values[1] == alone[name], name


@pytest.mark.parametrize("text", [*LARGE[:3], LARGE[12], LARGE[14]], ids=lambda text: ascii(text[:8]))
def test_megabytes(scorer: TextScorer, text: str) -> None:
    assert one(scorer, text)["words"] <= 4_000


def test_a_cleaned_source_keeps_its_flags(tmp_path: Path) -> None:
    """What `clean` found is not looked for again, and is what would be found."""
    raw = [
        "Red ball | Alamy",
        "IMG_1.JPG",
        "12 May 2014",
        "red red red red",
        "???",
        "I'm sorry, I cannot help",
        "ein rotes Auto",
    ]
    shard = web(tmp_path, {f"{number}": [text, "a dog", "A dog."] for number, text in enumerate(raw)})
    plan = ran([Clean(source="syn_text"), TextScore()], [shard], tmp_path / "work")
    cleaned = rows_of(plan, "clean")
    stage = Given(
        name="same",
        types={"texts": "list<item: string>"},
        values={"texts": {row["key"]: row["texts"] for row in cleaned}},
    )
    other = ran([stage, TextScore(name="again", source="same")], [shard], tmp_path / "work")
    for row, again in zip(rows_of(plan, "text_score"), rows_of(other, "again"), strict=True):
        assert row == again
        assert names(row["flags"][2]) == ["duplicate"]


def test_duplicates_are_of_one_row(tmp_path: Path) -> None:
    shard = web(tmp_path, {"a": ["A dog.", "a dog", "a cat", "A CAT"], "b": ["a dog", "??", "##"]})
    plan = ran([TextScore(source="syn_text", concepts="")], [shard], tmp_path / "work")
    found = [[bool(flags & Flag.DUPLICATE) for flags in row["flags"]] for row in rows_of(plan, "text_score")]
    assert found == [[False, True, False, True], [False, False, False]]


def test_counts_of_words(tmp_path: Path) -> None:
    shards = [
        web(tmp_path, {f"{number}": ["a dog", "the dog and a cat"] for number in range(3)}, shard) for shard in range(2)
    ]
    plan = ran([TextScore(source="syn_text")], shards, tmp_path / "work")
    counts = {row["word"]: row["df"] for row in tables.read(plan.stem("text_score", PREPARED)).to_pylist()}
    assert counts == {"": 12, "a": 12, "and": 6, "cat": 6, "dog": 12, "the": 6}
    first = rows_of(plan, "text_score")[0]
    assert first["idf"] == pytest.approx([0, math.log(13 / 7)], abs=1e-4)
    done = tables.committed(plan.stem("text_score", "0"))
    assert done is not None
    assert done.provenance["captions_counted"] == 12


class Counted:
    """Many shards, each of which counts how often it is read."""

    def __init__(self, shards: int, captions: int) -> None:
        self.shards = [f"{number:05d}" for number in range(shards)]
        self.captions, self.read = captions, []

    def texts(self, source: str, shard: str) -> list[list[str]]:
        self.read.append(shard)
        return [[f"w{shard}x{number} common"] for number in range(self.captions)]


def test_the_sample_is_bounded_and_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = TextScore(source="alt", sample=640)
    first, again = Counted(5_000, 100), Counted(5_000, 100)
    table = stage.prepare(first)  # type: ignore[arg-type]
    assert table == stage.prepare(again)  # type: ignore[arg-type]
    assert first.read == again.read
    assert len(first.read) == text_score.FEWEST
    assert table.to_pylist() == [{"word": "", "df": 640}, {"word": "common", "df": 640}]
    poor = Counted(5_000, 1)
    assert stage.prepare(poor).to_pylist()[0] == {"word": "", "df": text_score.MOST}  # type: ignore[arg-type]
    assert len(poor.read) == text_score.MOST
    assert stage.prepare(Counted(0, 0)).to_pylist() == [{"word": "", "df": 0}]  # type: ignore[arg-type]
    monkeypatch.setattr(text_score, "VOCABULARY", 1)
    few = stage.prepare(Counted(3, 4))  # type: ignore[arg-type]
    assert few.to_pylist() == [{"word": "", "df": 12}, {"word": "common", "df": 12}]


def test_a_list_of_concepts(tmp_path: Path) -> None:
    path = tmp_path / "concepts.json"
    path.write_text(json.dumps(["dog", "red ball", "zebra"]))
    stage = TextScore(source="syn_text", concepts=str(path))
    shard = web(tmp_path, {"a": ["two dogs, a red ball", "nothing"]})
    plan = ran([stage], [shard], tmp_path / "work")
    assert rows_of(plan, "text_score")[0]["concept_ids"] == [[0, 1], []]
    assert rows_of(plan, "text_score")[0]["concepts"] == [2, 0]
    before = stage.points_at()["concepts"]
    path.write_text(json.dumps(["dog"]))
    assert TextScore(source="syn_text", concepts=str(path)).points_at()["concepts"] != before
    with pytest.raises(DataError, match=r"missing\.txt"):
        TextScore(concepts=str(tmp_path / "missing.txt")).points_at()


def test_a_sample_that_is_none() -> None:
    with pytest.raises(DataError) as error:
        TextScore(sample=0)
    assert str(error.value) == "text_score.sample is 0: 1 to 16777216 captions are allowed; set such a number."
