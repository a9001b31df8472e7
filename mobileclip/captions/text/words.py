"""Words of captions, as rules and scores count them: lower case, without punctuation.

    of_texts(["A dog's T-shirt", "空の犬"])        # [["a", "dogs", "t", "shirt"], ["空", "の", "犬"]]

A word is a run of letters, marks and digits; apostrophes are dropped and every other character divides. Characters of
scripts that are written without spaces are words of their own. Texts are split a column at a time: plain ASCII, which
most are, in one go.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

_ONE = str.maketrans({chr(code): " " for code in range(128) if not chr(code).isalnum()} | {"'": None})
_MANY = _ONE | {ord("\n"): "\n"}

_STOP = (
    "a about above across after again against all along also although am among an and another any are arent around "
    "as at away back be because been before behind being below beneath beside between beyond both but by can cannot "
    "cant could couldnt did didnt do does doesnt doing dont down during each either else every few for from further "
    "had has have having he her here hers herself him himself his how however i if im in inside into is isnt it its "
    "itself just like many me might more most much must my myself near neither no nor not of off on once one only "
    "onto or other our ours out outside over own per s same shall she should since so some such t than that thats "
    "the their theirs them themselves then there theres these they this those though through to together too toward "
    "towards under until up upon us very via was wasnt we were what when where which while who whom whose why will "
    "with within without wont would you your yours yourself"
)
STOP = frozenset(_STOP.split())
"""Function words of English, apostrophes dropped."""


def of_texts(texts: Sequence[str]) -> list[list[str]]:
    """The words of each text."""
    plain = [text for text in texts if text.isascii()]
    # a text's own line breaks would part it from its words
    joined = "\n".join(text.replace("\n", " ") if "\n" in text else text for text in plain)
    lines = iter(joined.lower().translate(_MANY).split("\n"))
    return [next(lines).split() if text.isascii() else _of_unicode(text) for text in texts]


def of_text(text: str) -> list[str]:
    """The words of one text."""
    return text.lower().translate(_ONE).split() if text.isascii() else _of_unicode(text)


def _of_unicode(text: str) -> list[str]:
    found: list[str] = _pattern().findall(text.lower().replace("'", "").replace("\N{RIGHT SINGLE QUOTATION MARK}", ""))
    return found


@lru_cache(maxsize=1)
def _pattern() -> Any:
    import regex

    alone = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    joiners = "\u200c\u200d"
    return regex.compile(rf"[{alone}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}{joiners}]--[{alone}]]+", regex.VERSION1)
