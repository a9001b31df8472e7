"""Mending: what is removed, what stays, and that nothing takes for ever."""

import unicodedata

import pytest
from hypothesis import given, settings
from odd_texts import texts

from mobileclip.captions.flags import Flag
from mobileclip.captions.text.mend import DIRTY, LIMIT, settled
from mobileclip.captions.text.rules import _matches


@pytest.mark.parametrize(
    ("text", "wanted", "flags"),
    [
        ("Caf&amp;eacute; &lt;b&gt;open&lt;/b&gt;", "Café open", Flag.ENTITY),
        ("one<br/>two <i>thr</i>ee", "one two three", Flag.ENTITY),
        ("<script>var a;</script>a dog", "a dog", Flag.ENTITY),
        ("x < y and 3<4, I <3 it", "x < y and 3<4, I <3 it", 0),
        ("Black & White, R&B", "Black & White, R&B", 0),
        ("schÃ¶n â€“ so", "schön – so", Flag.MOJIBAKE),
        ("a\x00b \x1b[31mred\x1b[0m", "ab red", Flag.CONTROL),
        ("it\u200fem\u200b \ufeffone", "item one", Flag.CONTROL),
        ("\ud83d\ude00 smile \ud800", "😀 smile", Flag.CONTROL),
        ("ｆｕｌｌ ﬁsh “in” a dog’s", 'full fish "in" a dog\'s', 0),
        ("see http://a.b/c?d=e, or www.cafe.com now", "see or now", Flag.URL),
        ("write to joe.b@example.co.uk today", "write to today", Flag.URL),
        ("a dog.In the park, cat.it", "a dog.In the park, cat.it", 0),
        ("dress from shop.de/item/4 here", "dress from here", Flag.URL),
        ("photo by @joe_b #sunset #5 C#", "sunset #5 C#", Flag.HANDLE),
        ("  many \t\n spaces\u00a0 ", "many spaces", 0),
        ("e\u0301te\u0301", "été", 0),
    ],
)
def test_what_is_mended(text: str, wanted: str, flags: int) -> None:
    assert settled(text) == (wanted, int(flags))


def test_right_to_left_and_joined_scripts_stay() -> None:
    for text in ("שלום עולם", "صورة كلب أحمر", "می‌خواهم کتاب", "हिन्दी क्ष", "空の犬", "👩\u200d🍳"):
        assert settled(text) == (text, 0)
    assert settled("a\u200cb \u200cک").text == "ab ک"


def test_stacked_marks_are_cut() -> None:
    text, flags = settled("Z" + "\u0301\u0323" * 40 + "algo")
    assert len(text) < 12
    assert flags == Flag.CONTROL


@settings(deadline=None)
@given(texts())
def test_mended_is_settled_and_plain(text: str) -> None:
    found = settled(text[:LIMIT]).text
    assert settled(found) == (found, 0)
    assert found == " ".join(found.split()) == unicodedata.normalize("NFC", found)
    assert found.encode("utf-8").decode("utf-8") == found
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Co") for char in found)
    assert not set(found) & set("\u200b\u200e\u200f\u202a\u202e\u2066\ufeff\ufffd")


@settings(deadline=None)
@given(texts())
def test_what_is_not_dirty_is_not_changed(text: str) -> None:
    if not _matches([text], DIRTY):
        assert settled(text) == (text, 0)
