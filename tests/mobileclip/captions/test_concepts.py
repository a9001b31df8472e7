"""Concepts: found as whole words, the same as by looking for each one."""

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobileclip.captions.text import concepts, words
from mobileclip.captions.text.concepts import Concepts
from mobileclip.errors import DataError, MissingExtra


def test_whole_words_capitals_plurals_and_overlaps() -> None:
    found = Concepts(["golden retriever", "retriever", "T-shirt", "berry", "box", "dog's bed", "dog"])
    texts = ["Two Golden Retrievers!", "a t shirt and berries in boxes", "the dogs' beds", "hotdog, boxer", ""]
    assert found.of(words.of_texts(texts)) == [(0, 1), (2, 3, 4), (5, 6), (), ()]
    assert found.of(words.of_texts(["a dog's bed"])) == [(5, 6)]


def test_the_first_of_two_that_read_the_same_counts() -> None:
    assert Concepts(["crane", "Crane", "cranes"]).of([["crane"], ["cranes"]]) == [(0,), (0,)]


def test_captions_do_not_run_into_one_another() -> None:
    found = Concepts(["red ball"])
    assert found.of(words.of_texts(["a red", "ball", "", "red ball", "red ball red"])) == [(), (), (), (0,), (0,)]


def test_imagenet_has_no_surprise() -> None:
    from mobileclip.evaluate.templates import imagenet_classes

    names = imagenet_classes()
    (found,) = Concepts(names).of(words.of_texts(["a tabby cat and two golden retrievers near a school bus"]))
    assert {names[number] for number in found} >= {"Golden Retriever", "school bus"}


@given(st.lists(st.sampled_from(["a", "b", "ab", "b a", "a b a", "c"]), min_size=1, unique=True), st.data())
def test_as_by_looking_for_each(names: list[str], data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.lists(st.sampled_from(["a", "b", "c", "ab"]), max_size=6), max_size=6))
    plain = [
        tuple(n for n, name in enumerate(names) if re.search(rf"(?<!\S){name}(?!\S)", " ".join(own))) for own in texts
    ]
    assert Concepts(names).of(texts) == plain


def test_lists_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="the list of concepts has no word: write one concept a line"):
        Concepts(["!!", ""])
    monkeypatch.setattr(concepts, "PLACES", 4)
    with pytest.raises(DataError, match="has 6 characters, 4 are allowed: give a shorter one"):
        Concepts(["dog", "cat"])


def test_pyahocorasick_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ahocorasick", None)
    with pytest.raises(MissingExtra) as error:
        Concepts(["dog"])
    assert str(error.value) == (
        "concepts are found by pyahocorasick, which is not installed: pip install 'mobileclip-toolkit[captions]'"
    )
