"""Words: the same by column as alone, plain text as any other."""

from hypothesis import given, settings
from odd_texts import texts

from mobileclip.captions.text.words import _of_unicode, of_text, of_texts


def test_words_of_scripts() -> None:
    assert of_texts(["A dog's T-shirt, x_y 3.5\nline", "", "dog’s café"]) == [
        ["a", "dogs", "t", "shirt", "x", "y", "3", "5", "line"],
        [],
        ["dogs", "café"],
    ]
    assert of_text("空の犬 ok") == ["空", "の", "犬", "ok"]
    assert of_text("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert of_text("می‌خواهم کتاب") == ["می‌خواهم", "کتاب"]


@settings(deadline=None)
@given(texts(), texts())
def test_a_column_is_its_texts(one: str, other: str) -> None:
    assert of_texts([one, other, one]) == [of_text(one), of_text(other), of_text(one)]


@settings(deadline=None)
@given(texts())
def test_plain_text_takes_a_shorter_way_to_the_same_words(text: str) -> None:
    plain = "".join(char for char in text if char.isascii())
    assert of_text(plain) == _of_unicode(plain)
