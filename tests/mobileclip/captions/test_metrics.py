"""Figures of captions as a whole: by hand on a few, by definition on random ones, and what the alarm hears."""

import math
import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileclip.captions.text.metric_list import METRICS
from mobileclip.captions.text.metrics import TextStats, collapse, common, content_words, specificity
from mobileclip.tokenizer import encode

ALT = [
    "Buy Canon EOS 80D | Free shipping",
    "Lake Bled, Slovenia",
    "dog",
    "IMG 2031",
    "Lake Bled, Slovenia",
]


def filled(texts: list[str], **options: object) -> TextStats:
    stats = TextStats()
    for place, text in enumerate(texts):
        stats.add([text], key=str(place), **options)  # type: ignore[arg-type]
    return stats


def words(seed: int, count: int, vocabulary: int) -> list[str]:
    """Captions of eight words that are drawn alike."""
    draw = random.Random(seed)
    known = ["".join(draw.choices(string.ascii_lowercase, k=7)) for _ in range(vocabulary)]
    return [" ".join(draw.choices(known, k=8)) for _ in range(count)]


def test_figures_by_hand() -> None:
    found = filled(ALT).result()
    values = found.values
    assert found.captions == 5
    lengths = [6, 3, 1, 2, 3]
    assert values["words"] == sum(lengths) / 5
    assert (values["words_p5"], values["words_p95"]) == (1, 6)
    assert values["short"] == 2 / 5
    assert values["vocabulary"] == 12
    assert found.words == 15
    assert values["distinct_1"] == 12 / 15
    assert values["distinct_2"] == 8 / 10, "five of the first caption, two of the lake, once more, and one of the file"
    assert values["trigrams"] == 5
    assert values["duplicates"] == pytest.approx(1 / 5)
    assert values["boilerplate"] == 1 / 5
    assert values["openings"] == 1, "three captions have three words, and ten openings are allowed"
    joined = "".join("".join(text.split()) for text in ALT)
    assert values["digits"] == sum(char.isdigit() for char in joined) / len(joined)
    assert values["upper"] == sum(char.isupper() for char in joined) / len(joined)
    assert values["sentence"] == 0
    assert values["tokens"] == sum(len(encode(text)) + 2 for text in ALT) / 5
    assert values["long"] == 0
    assert values["repetition"] == 0
    assert values["idf"] == pytest.approx((9 * math.log(5) + 6 * math.log(5 / 2)) / 15)
    assert {name for name, value in values.items() if value is None} == {
        "concept", "concepts", "entropy", "head", "tail", "recall", "nouns", "invented", "diversity"
    }  # fmt: skip


def test_sentences_and_function_words() -> None:
    values = filled(["A dog on the grass.", 'He says "no!"', "a dog of the the the the the the"]).result().values
    assert values["sentence"] == pytest.approx(2 / 3)
    assert values["stop"] == pytest.approx((3 + 2 + 8) / 17)
    assert values["repetition"] == pytest.approx(3 / 7 / 3), "the third's seven triples are four"


def test_what_stays_of_the_alt_text() -> None:
    stats = TextStats()
    stats.add(["a boat on the lake in Slovenia"], key="0", alt="View of Lake Bled, Slovenia")
    values = stats.result().values
    assert values["recall"] == 2 / 4, "lake and slovenia; view and bled are gone"
    assert values["nouns"] == 2 / 3


def test_words_that_no_source_has() -> None:
    stats = TextStats()
    stats.add(["a red boat on Lake Bled"], key="0", originals=["Lake Bled", "a boat"])
    assert stats.result().values["invented"] == 1 / 4


def test_a_source_that_is_not_rewritten_has_no_invention() -> None:
    assert filled(["a boat"]).result().values["invented"] is None
    assert filled(["a boat"], originals=[]).result().values["invented"] == 1


def test_diversity_of_an_images_captions() -> None:
    stats = TextStats()
    stats.add(["a red ball", "a blue ball", "a red ball"], key="0")
    assert stats.result().values["diversity"] == pytest.approx((0.5 + 0 + 0.5) / 3)


def test_concepts() -> None:
    stats = TextStats()
    for place, concepts in enumerate([[1, 2], [], [1], [1]]):
        stats.add(["x"], key=str(place), concepts=[concepts])
    values = stats.result().values
    assert (values["concept"], values["concepts"]) == (3 / 4, 1)
    assert values["entropy"] == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))
    assert (values["head"], values["tail"]) == (1, 0)


def test_a_sample_does_not_depend_on_order_or_parts() -> None:
    texts = words(0, 600, 300)
    whole, first, second, back = (TextStats(100) for _ in range(4))
    for place, text in enumerate(texts):
        whole.add([text], key=str(place))
        (first if place % 3 else second).add([text], key=str(place))
    for place in reversed(range(600)):
        back.add([texts[place]], key=str(place))
    first.merge(second)
    assert len(whole.texts()) == 100
    assert whole.texts() == first.texts() == back.texts()
    assert (first.rows, first.count) == (600, 600)
    assert whole.result() == first.result() == back.result()


def test_sources_are_sampled_on_the_same_images() -> None:
    one, other = TextStats(50), TextStats(50)
    for place in range(500):
        one.add([f"{place}"], key=str(place))
        other.add([f"{place} a", f"{place} b"], key=str(place))
    assert [text.split()[0] for text in other.texts()] == one.texts()
    assert {text.split()[1] for text in other.texts()} == {"a", "b"}


def test_memory_is_bounded() -> None:
    stats = TextStats(10)
    for place in range(2_000):
        stats.add(["x" * 100_000], key=str(place))
    assert len(stats._kept) < 20
    assert max(map(len, stats.texts())) == 2_000
    assert stats.rows == 2_000


def test_captions_are_drawn_by_weight() -> None:
    stats = TextStats()
    for place in range(2_000):
        stats.add(["none", "one", "three", ""], key=str(place), weights=[0, 1, 3, 9])
    found = stats.texts()
    assert set(found) == {"one", "three"}
    assert 0.7 < found.count("three") / len(found) < 0.8


def test_nothing_gives_nothing() -> None:
    stats = TextStats()
    stats.add([], key="0")
    stats.add(["", " "], key="1")
    found = stats.result()
    assert (stats.rows, stats.count, found.captions, found.words) == (2, 2, 0, 0)
    assert set(found.values) == {metric.name for metric in METRICS}
    assert set(found.values.values()) == {None}
    assert collapse(stats, stats) == []
    assert common([]) == (10_000, 80_000)


def test_vocabulary_is_counted_in_as_many_words() -> None:
    rich, poor = filled(words(1, 400, 5_000)), filled(words(2, 200, 5_000))
    assert common([rich, poor]) == (400, 3_200), "a source with fewer captions than the alarm needs sets no size"
    assert poor.vocabulary(10_000)[0] == 1_600
    assert rich.vocabulary(1_600)[0] == 1_600
    assert rich.vocabulary(1_600)[1] == len(set(" ".join(rich.texts(200)).split()))


def test_collapse_is_heard() -> None:
    alt = filled(words(3, 400, 3_000))
    assert collapse(alt, filled(words(4, 400, 3_000))) == []
    (few,) = collapse(alt, filled(words(5, 400, 100)))
    assert few.startswith("its vocabulary in 3,200 words is 100, 0.0")
    assert few.endswith("at least 0.5 is wanted")
    templates = filled([f"a photo of {text}" for text in words(6, 400, 3_000)])
    (alike,) = collapse(alt, templates)
    assert alike == "100.0% of 400 captions begin with one of ten openings: at most 10% is wanted"


def test_too_little_raises_no_alarm() -> None:
    assert collapse(filled(words(7, 100, 1_000)), filled(["a photo of a dog"] * 100)) == []


def test_specificity_is_of_all_sources() -> None:
    found = specificity([filled(["a dog", "a cat"]), filled(["a dog", "dog dog"])])
    assert found == {"a": math.log(4 / 3), "dog": math.log(4 / 3), "cat": math.log(4)}


def test_content_words() -> None:
    assert content_words("The dog's on a Skateboard, of course") == ["dogs", "skateboard", "course"]
    assert len(content_words("word " * 100_000)) == 400


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.text(max_size=40), max_size=4), max_size=12), st.text(max_size=30))
def test_any_text_can_be_measured(rows: list[list[str]], alt: str) -> None:
    stats = TextStats()
    for place, captions in enumerate(rows):
        stats.add(captions, key=str(place), alt=alt, originals=[alt], concepts=[[1]] * len(captions))
    values = stats.result().values
    for metric in METRICS:
        value = values[metric.name]
        assert value is None or (math.isfinite(value) and value >= -1e-12), metric.name
        assert value is None or metric.form != "share" or value <= 1 + 1e-12, metric.name
