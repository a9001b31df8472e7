"""The language of a caption, as far as a few words tell it.

    Languages(("en",)).tags(["a red car", "ein rotes Auto"], words)     # ["en", "de"]: BCP 47; "" where it is not known

Scripts and frequent words decide most captions in a microsecond or two; the rest are asked of lingua, which takes some
hundred times as long. Names of makers and places make short titles look foreign, so doubt is an answer: a text with
English words, or of words that mostly stand in the tokenizer's vocabulary (which was learnt from English captions), is
not called foreign on lingua's word. A script in which no wanted language is written is told as such (`und-Cyrl`).

Source of the detector: lingua (pemistahl/lingua-py), low-accuracy mode, over `languages()` alone.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from mobileclip.captions.text.language_words import SCRIPTS, WORDS
from mobileclip.errors import MissingExtra, UnknownName
from mobileclip.tokenizer import merges

_ONLY_LATIN = ("ca", "hr", "sk", "et", "lt", "lv", "sl", "tl")  # of lingua's, with no words in WORDS
_SHARED = {"Cyrl": ("ru", "uk", "bg"), "Arab": ("ar", "fa", "ur"), "Deva": ("hi", "mr")}
_FAR = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last, _ in SCRIPTS) + "]")
_LETTERS = {"uk": "іїєґ", "ru": "ыэё", "ur": "ٹڈڑںے", "fa": "پچژگ"}
_SURE, _ENGLISH = 0.5, 0.1  # least of lingua's confidence in a language, and most of that in English beside it
_FOUND, _DOUBT = 0.75, 0.5  # share of a text's words in the vocabulary: it is English; it may be
_FEW = 3  # words that tell something
_MEMO = 1 << 16  # texts

_EN = WORDS["en"]
_FOREIGN = frozenset().union(*(found for code, found in WORDS.items() if code != "en")) - _EN
_ENGLISH_ONLY = _EN - frozenset().union(*(found for code, found in WORDS.items() if code != "en"))
_CODES: dict[str, tuple[str, ...]] = {
    word: tuple(code for code, found in WORDS.items() if word in found) for word in frozenset().union(*WORDS.values())
}


def languages() -> tuple[str, ...]:
    """ISO 639-1 codes of those that can be told."""
    single = (code for *_, code in SCRIPTS if len(code) == 2)
    return tuple(sorted({*WORDS, *_ONLY_LATIN, *single, *(code for codes in _SHARED.values() for code in codes)}))


def needed() -> None:
    """Raise unless lingua is installed.

    Raises:
        MissingExtra: it is not.
    """
    if find_spec("lingua") is None:
        raise MissingExtra(
            "languages are told by lingua, which is not installed: pip install 'mobileclip-toolkit[captions]'"
        )


class Languages:
    """Tells languages; `wanted` decides how closely: scripts that none of them is written in are not looked into.

    Raises:
        UnknownName: one of `wanted` cannot be told.
        MissingExtra: `wanted` names languages, and lingua is not installed.
    """

    def __init__(self, wanted: Sequence[str] = ()) -> None:
        self.check(wanted)
        self._wanted = frozenset(wanted)
        self._lingua = _lingua() if wanted else None
        self._vocabulary = _vocabulary()
        self._memo: dict[str, str] = {}

    @staticmethod
    def check(wanted: Sequence[str]) -> None:
        """Raise unless all of `wanted` can be told.

        Raises:
            UnknownName: one cannot.
        """
        for code in wanted:
            if code not in languages():
                raise UnknownName("language", code, languages())

    def tags(self, texts: Sequence[str], found: Sequence[Sequence[str]]) -> list[str]:
        """A tag for each text, whose words are `found`."""
        out = []
        for text, words in zip(texts, found, strict=True):
            if not text.isascii() and _FAR.search(text):
                out.append(self._far(text, words))
            elif len(words) >= _FEW and _FOREIGN.isdisjoint(words) and not _ENGLISH_ONLY.isdisjoint(words):
                out.append("en")
            else:
                out.append(self._near(words))
        return out

    def unwanted(self, tag: str, words: Sequence[str]) -> bool:
        """Whether a text is surely in none of the wanted languages; two words never are."""
        return tag != "" and tag not in self._wanted and len(words) >= _FEW and bool(self._wanted)

    def _far(self, text: str, words: Sequence[str]) -> str:
        """Of a text that has letters beyond Latin ones."""
        counts: dict[str, int] = {}
        for letter in text[:400]:
            code = _script(ord(letter)) if letter > "\u024f" else "" if letter < "A" or not letter.isalpha() else "Latn"
            if code:
                counts[code] = counts.get(code, 0) + 1
        for pictograph in ("zh", "ja", "ko"):  # one of these says what two letters do
            if pictograph in counts:
                counts[pictograph] *= 2
        if counts.get("ja", 0) * 8 > counts.get("zh", 0) > 0 and "ja" in counts:
            counts["ja"] += counts.pop("zh")
        script = max(sorted(counts), key=lambda code: counts[code])
        if script == "Latn":
            return self._near(words)
        codes = _SHARED.get(script)
        if codes is None:
            return script
        for code, letters in _LETTERS.items():
            if code in codes and not set(letters).isdisjoint(text):
                return code
        if script == "Arab":
            return "ar"
        if self._wanted.isdisjoint(codes):
            return f"und-{script}"
        return _by_words(words) or self._ask(words)

    def _near(self, words: Sequence[str]) -> str:
        """Of a text in Latin letters that no English word and no foreign one decides at once."""
        letters = [word for word in words if len(word) > 2 and word.isalpha()]
        if len(letters) < _FEW:
            return _by_words(words) if len(words) > _FEW else ""
        tag = _by_words(words)
        if tag or not _ENGLISH_ONLY.isdisjoint(words):
            return tag
        foreign = sum([word in _FOREIGN for word in words])
        known = sum([word in self._vocabulary and word not in _FOREIGN for word in letters])
        if foreign < 2 and known >= _DOUBT * len(letters):
            return "en" if not foreign and known >= _FOUND * len(letters) else ""
        return self._ask(words)

    def _ask(self, words: Sequence[str]) -> str:
        """Lingua's answer, or "" where it is not sure."""
        if self._lingua is None:
            return ""
        text = " ".join(words)[:400]
        known = self._memo.get(text)
        if known is None:
            if len(self._memo) >= _MEMO:
                self._memo.clear()
            values = self._lingua.compute_language_confidence_values(text)
            said = {value.language.iso_code_639_1.name.lower(): value.value for value in values}
            tag, sure = max(said.items(), key=lambda item: item[1])
            known = tag if sure >= _SURE and (tag == "en" or said["en"] <= _ENGLISH) else ""
            self._memo[text] = known
        return known


def _by_words(words: Sequence[str]) -> str:
    """The language that has most of the words, and more than any other; at least two of them."""
    counts: dict[str, int] = {}
    for word in words:
        for code in _CODES.get(word, ()):
            counts[code] = counts.get(code, 0) + 1
    best = sorted(counts.items(), key=lambda item: -item[1])[:2]
    if not best or best[0][1] < 2 or (len(best) == 2 and best[1][1] == best[0][1]):
        return ""
    return best[0][0]


@lru_cache(maxsize=4096)
def _script(code: int) -> str:
    return next((name for first, last, name in SCRIPTS if first <= code <= last), "")


@lru_cache(maxsize=1)
def _vocabulary() -> frozenset[str]:
    """Words of three letters and more that are one token."""
    whole = (line.replace(" ", "")[:-4] for line in merges() if line.endswith("</w>"))
    return frozenset(word for word in whole if len(word) > 2 and word.isalpha())


@lru_cache(maxsize=1)
def _lingua() -> Any:
    needed()
    import lingua

    codes = [getattr(lingua.IsoCode639_1, code.upper()) for code in (*WORDS, *_ONLY_LATIN, "hi", "mr")]
    found = [lingua.Language.from_iso_code_639_1(code) for code in codes]
    return lingua.LanguageDetectorBuilder.from_languages(*found).with_low_accuracy_mode().build()
