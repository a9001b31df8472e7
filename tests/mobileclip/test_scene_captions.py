"""Captions of scenes: claims of the true ones parsed back against the objects; faults of the others at their rates."""

import re
import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileclip.data.scene_captions import (
    QUALITIES,
    RELATIONS,
    WORDS,
    AltNoise,
    Quality,
    alt_caption,
    captions,
    class_names,
    fine_label,
    templates,
)
from mobileclip.data.scene_layout import Layout, Thing, layout, relations
from mobileclip.data.scene_words import COLOURS, MATERIALS, SETTINGS, SHAPES
from mobileclip.errors import DataError, UnknownName
from mobileclip.tokenizer import encode

MEANING = {word: name for name, words in WORDS.items() for word in words}
SIDE = {phrase: name for name, phrases in RELATIONS.items() for phrase in phrases}
OPPOSITE = {"left": "right", "right": "left", "behind": "front", "front": "behind"}
NAME = (
    rf"(?:(?P<size>{'|'.join(WORDS['small'] + WORDS['large'])}) )?(?P<colour>{'|'.join(COLOURS)}) "
    rf"(?:(?P<material>{'|'.join(word for name in MATERIALS for word in WORDS[name])}) )?(?P<shape>{'|'.join(SHAPES)})"
)
MENTION = re.compile(rf"\b(?:an?) {NAME}\b")
ANCHOR = re.compile(rf"the (?:(?P<colour>{'|'.join(COLOURS)}) )?(?P<shape>{'|'.join(SHAPES)})\b")
RELATION = re.compile("|".join(sorted(SIDE, key=len, reverse=True)))
INDICES = st.integers(0, 10**9)
WITHOUT = AltNoise(**{field.name: 0.0 for field in fields(AltNoise)})


def meant(match: re.Match[str], things: tuple[Thing, ...]) -> Thing:
    """The one object that a name fits; a test fails where it fits none or several."""
    said = {key: value for key, value in match.groupdict().items() if value is not None}
    for key in ("size", "material"):
        if key in said:
            said[key] = MEANING[said[key]]
    fitting = [thing for thing in things if all(getattr(thing, key) == value for key, value in said.items())]
    assert len(fitting) == 1, (match.group(), [thing.phrase for thing in things])
    return fitting[0]


def check_place_and_light(text: str, plan: Layout) -> None:
    for name, setting in SETTINGS.items():
        if any(re.search(rf"\b{re.escape(phrase)}\b", text) for phrase in setting.phrases):
            own = any(re.search(rf"\b{re.escape(phrase)}\b", text) for phrase in SETTINGS[plan.setting].phrases)
            assert name == plan.setting or own, text
    for word in re.findall(r"in (\w+) light", text):
        assert word in (plan.light.warmth, plan.light.brightness), text
    for side in re.findall(r"lit from the (\w+)", text):
        assert side == plan.light.side, text


@settings(max_examples=60, deadline=None)
@given(index=INDICES)
def test_short_captions_are_true_of_the_main_object(index: int) -> None:
    plan = layout(3, index)
    for text in captions(plan, "short", 4):
        mentions = list(MENTION.finditer(text))
        assert [meant(mention, (plan.main,)) for mention in mentions] == [plan.main], text
        check_place_and_light(text, plan)


@settings(max_examples=100, deadline=None)
@given(index=INDICES)
def test_quality_captions_are_true_and_complete(index: int) -> None:
    plan = layout(3, index)
    for text in captions(plan, "quality", 4):
        mentions = {mention.end(): meant(mention, plan.things) for mention in MENTION.finditer(text)}
        assert Counter(map(id, mentions.values())) == Counter(map(id, plan.things)), text
        for mention in MENTION.finditer(text):
            thing = meant(mention, plan.things)
            assert mention["material"] is not None
            assert (mention["size"] is None) == (thing.size == "medium")
        for relation in RELATION.finditer(text):
            before = [thing for end, thing in mentions.items() if end <= relation.start()]
            rest = text[relation.end() :].lstrip()
            anchor = ANCHOR.match(rest) or MENTION.match(rest)
            if anchor is None:  # "in front of a wall" is a place
                assert any(phrase in text for phrase in SETTINGS[plan.setting].phrases)
                continue
            assert SIDE[relation.group()] in relations(before[-1], meant(anchor, plan.things)), text
        check_place_and_light(text, plan)


def test_quality_captions_say_how_objects_stand() -> None:
    several = [plan for plan in (layout(0, index) for index in range(200)) if len(plan.things) > 1]
    said = sum(RELATION.search(captions(plan, "quality", 1)[0]) is not None for plan in several)
    assert said > 0.9 * len(several)


@settings(max_examples=50, deadline=None)
@given(index=INDICES)
def test_relations_are_those_of_the_picture(index: int) -> None:
    things = layout(1, index).things
    for first in things:
        for second in things:
            found = relations(first, second)
            assert {OPPOSITE[name] for name in found} == set(relations(second, first))
            if first is second:
                assert not found
            if "behind" in found:
                assert first.depth > second.depth
            if "left" in found:
                assert first.extent[0] + first.extent[2] < second.extent[0] + second.extent[2]


def test_wordings_differ_and_depend_on_nothing_else() -> None:
    for index in range(40):
        plan = layout(0, index)
        for quality in QUALITIES:
            four = captions(plan, quality, 4)
            assert captions(plan, quality, 2) == four[:2]
            if quality != "alt":
                assert len(set(four)) >= 3
    texts = [text for index in range(100) for text in captions(layout(0, index), "short", 3)]
    assert len(set(texts)) > 250


def test_captions_are_the_same_in_another_process() -> None:
    code = (
        "from mobileclip.data.scene_captions import *; from mobileclip.data.scene_layout import layout;"
        "print([captions(layout(5, i), q, 2) for i in range(20) for q in QUALITIES])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str([captions(layout(5, i), quality, 2) for i in range(20) for quality in QUALITIES])


def test_captions_fit_the_text_tower() -> None:
    for quality, share in (("alt", 0.03), ("short", 0.0), ("quality", 0.005)):
        wanted: Quality = quality  # type: ignore[assignment]
        lengths = [len(encode(text)) + 2 for i in range(600) for text in captions(layout(0, i), wanted, 2)]
        assert sum(length > 77 for length in lengths) <= share * len(lengths)


def test_rates_of_bad_web_text_are_the_arguments() -> None:
    noise = AltNoise()
    plans = [layout(0, index) for index in range(4000)]
    alts = [alt_caption(plan) for plan in plans]
    kinds = Counter(alt.kind for alt in alts)
    several = sum(len(plan.things) > 1 for plan in plans) / len(plans)
    for name in ("other_image", "no_content", "file_name", "background_only", "terse"):
        assert kinds[name] / len(alts) == pytest.approx(getattr(noise, name), abs=0.015)
    assert kinds["side_object"] / len(alts) == pytest.approx(noise.side_object * several, abs=0.015)
    described = [alt for alt in alts if alt.kind in ("described", "side_object")]
    for name in ("wrong_shape", "no_colour", "no_material"):
        assert sum(name in alt.faults for alt in described) / len(described) == pytest.approx(
            getattr(noise, name), abs=0.025
        )
    coloured = [alt for alt in described if "no_colour" not in alt.faults]
    wrong = sum("wrong_colour" in alt.faults for alt in coloured) / len(coloured)
    assert wrong == pytest.approx(noise.wrong_colour, abs=0.025)
    assert sum("boilerplate" in alt.faults for alt in alts) / len(alts) == pytest.approx(noise.boilerplate, abs=0.015)
    assert sum("long" in alt.faults for alt in alts) / len(alts) == pytest.approx(noise.long, abs=0.006)
    assert sum(alt.text == alt.text.title() for alt in alts) / len(alts) == pytest.approx(noise.title_case, abs=0.1)


def test_web_text_without_noise_names_the_main_object() -> None:
    for index in range(300):
        plan = layout(2, index)
        alt = alt_caption(plan, noise=WITHOUT)
        assert (alt.kind, alt.faults) == ("described", ())
        assert f"{plan.main.colour} " in alt.text
        assert plan.main.shape in alt.text


def test_faults_do_what_they_are_called() -> None:
    shapes = re.compile(rf"\b(?:{'|'.join(SHAPES)})\b")
    for index in range(120):
        plan = layout(2, index)
        wrong = alt_caption(plan, noise=replace(WITHOUT, wrong_shape=1.0))
        assert wrong.faults == ("wrong_shape",)
        assert not {thing.shape for thing in plan.things} & set(shapes.findall(wrong.text))
        colour = alt_caption(plan, noise=replace(WITHOUT, wrong_colour=1.0)).text
        assert f"{plan.main.colour} {WORDS[plan.main.material][0]}" not in colour
        terse = alt_caption(plan, noise=replace(WITHOUT, terse=1.0)).text
        assert len(terse.split()) <= 2
        bare = alt_caption(plan, noise=replace(WITHOUT, no_content=1.0)).text
        assert not shapes.search(bare)
        assert len(encode(alt_caption(plan, noise=replace(WITHOUT, long=1.0)).text)) > 77
        other = alt_caption(plan, noise=replace(WITHOUT, other_image=1.0), corpus=1)
        source = layout(2, 0 if index else 1)
        assert source.main.shape in other.text, (other, source.main.phrase)


def test_classes_and_templates() -> None:
    assert class_names() == list(SHAPES)
    assert len(SHAPES) >= 12
    assert len(class_names(fine=True)) == len(SHAPES) * len(COLOURS) == len(set(class_names(fine=True)))
    for index in range(50):
        plan = layout(0, index)
        assert class_names()[plan.label] == plan.main.shape
        assert class_names(fine=True)[fine_label(plan)] == f"{plan.main.colour} {plan.main.shape}"
    assert len(set(templates())) == len(templates())
    assert all(template.count("{}") == 1 for template in templates())


def test_errors() -> None:
    plan = layout(0, 0)
    with pytest.raises(UnknownName, match="unknown caption quality 'qualty': did you mean 'quality'"):
        captions(plan, "qualty")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="0 captions: at least 1 is allowed"):
        captions(plan, "short", 0)
    with pytest.raises(DataError, match=r"noise boilerplate is 1\.2: a share of 0 to 1 is allowed"):
        AltNoise(boilerplate=1.2)
    with pytest.raises(DataError, match=r"add up to 1\.\d+: they exclude one another"):
        AltNoise(other_image=0.6, no_content=0.6)
