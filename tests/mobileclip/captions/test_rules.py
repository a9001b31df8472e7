"""Rules: each by its name, the fast form equal to the plain one, and time bounded for hostile texts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_texts import LARGE, texts

from mobileclip.captions.flags import Flag, names
from mobileclip.captions.text import words
from mobileclip.captions.text.rules import name, named, repetition, settle, settled


def rules_of(text: str) -> list[str]:
    return names(named(text, words.of_text(text)))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("IMG_0012.JPG", "file_name"),
        ("Dsc00034", "file_name"),
        ("photo (23)", "file_name"),
        ("my summer holiday.jpeg", "file_name"),
        ("red_ball_3", "file_name"),
        ("9f3a00bc77", "file_name"),
        ("blue-striped-dress-large", "file_name"),
        ("2014-05-12 13.45.12", "date"),
        ("Monday, 3rd of June 2019", "date"),
        ("B00X4WHP5E", "date"),
        ("40 x 60 cm", "date"),
        ("red red red", "repeated"),
        ("nooooooooooo", "repeated"),
        ("wow !!!!!!!!!!!!!", "repeated"),
        ("a dog on a bed a dog on a bed a dog on a bed", "repeated"),
        ("As an AI language model, I cannot see images", "refusal"),
        ("I'm sorry, but I can't help with that", "refusal"),
        ("Please provide the image you want described", "refusal"),
        ("Sure, here is a caption: a dog", "leakage"),
        ("Rewrite the following caption in your own words", "leakage"),
        ("<|im_start|>user a dog", "leakage"),
        ("[INST] a dog [/INST]", "leakage"),
        ("Assistant: a dog on a bed", "leakage"),
    ],
)
def test_rules_by_name(text: str, rule: str) -> None:
    assert rule in rules_of(text)
    assert names(name([text], words.of_texts([text]))[0]) == rules_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "a t-shirt",
        "covers of two albums",
        "a man who is sorry hugs a woman",
        "may flowers",
        "a sign that says user parking",
        "the dog and the cat and the bird and the fish",
        "a woman reads her description of the town",
        "three men, one of them an assistant",
        "U2 in concert",
        "a boy can't see the screen",
        "a red ball to the left of a blue ball, and a green cube to the left of the red ball",
    ],
)
def test_captions_that_break_no_rule(text: str) -> None:
    assert rules_of(text) == []


def test_settling() -> None:
    assert settled("The image shows a dog | Shutterstock") == ("a dog", Flag.LEAD_IN | Flag.BOILERPLATE)
    assert settled("In this photo, there is a dog.") == ("there is a dog.", Flag.LEAD_IN)
    assert settled("image not available") == ("", Flag.BOILERPLATE | Flag.EMPTY)
    assert settled("???") == ("", Flag.EMPTY)
    assert settled("") == ("", Flag.EMPTY)
    assert settled("x" * 10_000).flags == Flag.CUT


def test_repetition_is_the_share_of_trigrams_seen_before() -> None:
    assert repetition(["a", "b"]) == 0
    assert repetition(["a", "b", "a", "b", "a", "b"]) == pytest.approx(0.5)
    assert repetition(["x", "a", "b", "c", "y", "a", "b", "c"]) == pytest.approx(1 / 6)


@settings(deadline=None)
@given(st.lists(texts(), max_size=5))
def test_many_are_as_each_alone(column: list[str]) -> None:
    alone = [settled(text) for text in column]
    found = settle(column)
    assert found.texts == [one.text for one in alone]
    assert found.flags == [one.flags for one in alone]
    assert found.words == words.of_texts(found.texts)
    assert name(found.texts, found.words) == [named(one.text, words.of_text(one.text)) for one in alone]


@settings(deadline=None)
@given(texts())
def test_settled_is_settled(text: str) -> None:
    once = settled(text).text
    again = settled(once)
    assert again.text == once
    assert again.flags == (0 if once else Flag.EMPTY)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=30))
def test_repetition_has_no_short_cut_that_errs(found: list[str]) -> None:
    grams = list(zip(found, found[1:], found[2:], strict=False))
    assert repetition(found) == pytest.approx(1 - len(set(grams)) / len(grams) if grams else 0)


@pytest.mark.parametrize("text", LARGE, ids=lambda text: ascii(text[:8]))
def test_a_megabyte_does_not_take_for_ever(text: str) -> None:
    found = settle([text, "a dog"])
    assert found.flags[0] & Flag.CUT
    assert len(found.texts[0]) <= 4_000
    assert found.texts[1] == "a dog"
    name(found.texts, found.words)
    name([text[:4_000]], words.of_texts([text[:4_000]]))
