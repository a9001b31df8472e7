"""Languages: told from few words, never wrongly where it matters, and unknown where they are too few."""

import sys

import pytest
from hypothesis import given, settings
from odd_texts import texts

from mobileclip.captions.text import language, words
from mobileclip.captions.text.language import Languages, languages
from mobileclip.errors import MissingExtra, UnknownName


@pytest.fixture(scope="module")
def english() -> Languages:
    return Languages(("en",))


@pytest.fixture(scope="module")
def slavic() -> Languages:
    return Languages(("ru", "uk"))


def tag(of: Languages, text: str) -> str:
    return of.tags([text], [words.of_text(text)])[0]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a red car parked near the old house", "en"),
        ("Vintage Leather Armchair Antique Wooden Legs", "en"),
        ("Men's Waterproof Hiking Boots", "en"),
        ("ein rotes Auto steht neben dem Haus", "de"),
        ("une voiture rouge devant la maison", "fr"),
        ("un coche rojo al lado de la casa", "es"),
        ("una macchina rossa davanti alla casa", "it"),
        ("um carro vermelho ao lado da casa", "pt"),
        ("een rode auto naast het huis", "nl"),
        ("czerwony samochód przed domem na ulicy", "pl"),
        ("en röd bil som står vid ett hus", "sv"),
        ("evin önünde kırmızı bir araba ve bir köpek", "tr"),
        ("花の写真です", "ja"),
        ("家旁边的红色汽车", "zh"),
        ("집 옆에 있는 빨간 자동차", "ko"),
        ("סירה אדומה ליד הבית", "he"),
        ("سيارة حمراء بجانب المنزل", "ar"),
        ("ماشین قرمز کنار خانه پارک شده", "fa"),
        ("κόκκινο αυτοκίνητο δίπλα στο σπίτι", "el"),
        ("รถสีแดงข้างบ้าน", "th"),
        ("красная машина стоит у дома", "und-Cyrl"),
        ("घर के पास लाल गाड़ी", "und-Deva"),
    ],
)
def test_languages_of_captions(english: Languages, text: str, wanted: str) -> None:
    assert tag(english, text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("красная машина стоит у дома", "ru"),
        ("червоний автомобіль стоїть біля будинку", "uk"),
        ("a red car parked near the old house", "en"),
    ],
)
def test_a_script_is_looked_into_where_it_is_wanted(slavic: Languages, text: str, wanted: str) -> None:
    assert tag(slavic, text) == wanted


def test_few_words_and_names_are_never_unwanted(english: Languages) -> None:
    for text in ("", "vestido rojo", "Casa Lima ring", "Orbita 30 cm", "xyzzy", "красная машина", "IKEA", "🐶"):
        assert not english.unwanted(tag(english, text), words.of_text(text)), text
    assert english.unwanted("de", ["ein", "rotes", "Auto"])
    assert not english.unwanted("en", ["a", "red", "car"])
    assert not english.unwanted("", ["foo", "bar", "baz"])


def test_without_languages_wanted_none_is_unwanted_and_lingua_is_not_asked() -> None:
    free = Languages(())
    assert tag(free, "ein rotes Auto steht neben dem Haus") == "de"
    assert tag(free, "vestido largo elegante noche") in ("es", "")
    assert not free.unwanted("de", ["ein", "rotes", "Auto"])


def test_answers_do_not_depend_on_what_was_asked_before(english: Languages, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["vestido largo elegante noche", "sukienka wieczorowa dluga elegancka", "langes abendkleid elegant damen"]
    found = [words.of_text(text) for text in asked]
    before = english.tags(asked, found)
    monkeypatch.setattr(language, "_MEMO", 1)
    english._memo.clear()
    assert english.tags(asked[::-1], found[::-1]) == before[::-1]
    assert len(english._memo) == 1


@settings(deadline=None)
@given(texts())
def test_any_text_has_an_answer(english: Languages, text: str) -> None:
    assert tag(english, text) in {"", *languages(), "und-Cyrl", "und-Deva"}


def test_unknown_language() -> None:
    with pytest.raises(UnknownName, match="unknown language 'english': did you mean"):
        Languages(("english",))


def test_lingua_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    language._lingua.cache_clear()
    monkeypatch.setitem(sys.modules, "lingua", None)
    with pytest.raises(MissingExtra) as error:
        Languages(("en",))
    assert str(error.value) == (
        "languages are told by lingua, which is not installed: pip install 'mobileclip-toolkit[captions]'"
    )
    language._lingua.cache_clear()
