"""The named rules of captions: what cleaning takes away, and what a text is that cannot be mended.

    settled("IMG_0012.JPG")           # Settled("IMG_0012.JPG", flags=0): nothing to take away
    named("IMG_0012.JPG", words)      # FILE_NAME

Each rule is one bit of `Flag`. `settled` and `named` are the plain form: one text, every rule. `settle` and `name` do
the same for many texts at once, and are what stages use: RE2, through Arrow, first tells which texts any rule could
concern, in less time than Python's `re` takes for one rule; the others, which most are, are done with. A test holds the
two forms equal.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from operator import and_, eq
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from mobileclip.captions.flags import Flag
from mobileclip.captions.text import boilerplate, mend, words

ROUNDS = 64
"""Passes of cleaning after which a text that still changes is given up; each takes something away."""


class Settled(NamedTuple):
    """A text that no rule changes any more, and what was done to it."""

    text: str
    """One line, single spaces, NFC."""
    flags: int
    """Bits of `Flag`."""


_MEDIUM = r"(?:image|photo(?:graph)?|picture|pic|scene|illustration|painting|drawing|frame|video)"
_VERB = r"(?:shows?|depicts?|features?|displays?|captures?|portrays?|presents?|illustrates?|showcases?|contains?)"
_LEAD_IN = re.compile(
    rf"(?:(?:the|this|an?)\s+)?(?:\w+\s+)?{_MEDIUM}\s+(?:may\s+contain|(?:also\s+|clearly\s+)?{_VERB}|is\s+of|appears\s+to\s+(?:show|be))\b:?\s*"
    rf"(?:that\s+)?|(?:here\s+)?(?:in|on)\s+(?:the|this)\s+{_MEDIUM},?\s+(?:(?:we|you|i|one)\s+(?:can\s+)?see\s+|(?=there\b))"
    rf"|in\s+(?:the|this)\s+{_MEDIUM},\s+",
    re.I | re.A,
)
_MEDIA = frozenset(
    ["image", "photo", "photograph", "picture", "pic", "scene", "illustration", "painting", "drawing", "frame", "video"]
)
_CHAT = (
    "afraid ai alt answer apologise apologize assist assistant attached based bot caption captions cannot cant "
    "certainly comply content couldnt decline describe description descriptions dont feel final fulfil fulfill given "
    "help helps hope human included input inst instruction intelligence language limit model not output paraphrase "
    "please policies policy prompt provided question rephrase rephrased response revised revision rewrite rewritten "
    "safety sentence sentences sorry summarise summarize summary supplied sure sys system unable uploaded usage user "
    "version wont write"
)
_CHAT_WORDS = frozenset(_CHAT.split())
_CHAT_SIGNS = r"<.{0,40}>|\[/?[A-Z]{3,4}\]|```"
_REFUSAL = re.compile(
    r"\bas\s+an?\s+(?:ai|artificial\s+intelligence|(?:large\s+)?language\s+model)\b|\b(?:i(?:'m|\s+am)|we(?:'re|\s+are)|i\s+"
    r"apologi[sz]e,?\s+but\s+i(?:'m|\s+am)?)\s+(?:sorry|unable|afraid|not\s+able)\b|\bi\s+(?:cannot|can't|can\s+not|"
    r"could\s+not|couldn't|do\s+not|don't|won't|will\s+not|must\s+decline)\s+(?:\w+\s+){0,3}?(?:see|view|access|open|"
    r"help|assist|describe|provide|identify|generate|create|determine|fulfil+|comply|process|analy[sz]e|have|engage|"
    r"discuss|answer|make\s+out)\b|\bi\s+apologi[sz]e\b|\b(?:no|without\s+an?y?|missing)\s+(?:image|photo|picture|input|"
    r"text|caption)s?\s+(?:was|were|is|has\s+been|have\s+been)?\s*(?:provided|attached|given|uploaded|supplied|included)\b|"
    r"\bplease\s+(?:provide|upload|share|attach|give\s+me)\s+(?:me\s+)?(?:with\s+)?(?:an?|the|your|more)\b|\b(?:ai|language)"
    r"\s+(?:language\s+)?(?:model|assistant)\b|\b(?:content|usage|safety)\s+(?:policy|policies|guidelines)\b|\bunable\s+to\s+"
    r"(?:view|see|process|describe|provide|generate|determine|assist|identify)\b|\bcannot\s+(?:assist|fulfil+|comply|be\s+"
    r"determined|provide)\b",
    re.I | re.A,
)
_LEAKAGE = re.compile(
    r"<\|[^<>|]{1,40}\|>|<\|?(?:image|eos|bos|pad|unk|sep|cls|end_of_text|start_of_text|endoftext)\|?>|\[/?(?:inst|sys|cls|"
    r"sep|pad|mask)\]|<</?sys>>|^\s*(?:system|user|assistant|human|ai|bot|model|question|answer|q|a|prompt|instruction|input|"
    r"output|response|revised|rewritten|rephrased|rewrite|caption|final\s+(?:answer|caption))\s*(?:caption|text|\d)?\s*:|"
    r"\b(?:user|assistant|human)\s*:|#{2,}\s*(?:instruction|input|response|system|human|assistant)\b|^(?:\W*)(?:sure|certainly"
    r"|of\s+course|absolutely)\s*[,!.:]\s+(?:here|i|the|let|this|my|a)\b|\bhere(?:'s|\s+is|\s+are)\s+(?:an?|the|my|"
    r"your|some|one|\w+)\s+(?:\w+\s+){0,3}?(?:captions?|descriptions?|rewrite|rewritten|version|sentences?|revision|summary)"
    r"\b|\b(?:rewrite|rephrase|paraphrase|summari[sz]e|merge)\s+(?:and\s+\w+\s+)?(?:the|this|these|it|each)\s+(?:\w+\s+){0,3}?"
    r"(?:captions?|sentences?|texts?|descriptions?|information|alt)\b|\bsentence\s+[12]\b|\b(?:the|your|this)\s+(?:new\s+|"
    r"final\s+|rewritten\s+)?caption\s+(?:should|must|is|reads?|would|describes?)\b|\b(?:word|token|character)\s+limit\b|"
    r"\bdescribe\s+(?:the|this)\s+(?:image|photo|picture|scene)\b|\bwrite\s+(?:an?|the|one)\s+(?:\w+\s+){0,3}?(?:caption|"
    r"description|sentence)s?\b|\b(?:hope\s+this\s+helps|let\s+me\s+know\s+if|feel\s+free\s+to\s+ask|happy\s+to\s+help)\b|"
    r"\balt[\s-]?text\b|```|\bbased\s+on\s+the\s+(?:given|provided)\b",
    re.I | re.A,
)

_EXTENSION = (
    r"\.(?:jpe?g?|jfif|png|gif|webp|bmp|tiff?|svg|heic|heif|avif|psd|ai|eps|raw|cr2|nef|dng|pdf|mp4|mov|avi|mkv|webm|"
    r"html?|php|aspx?)"
)
_FILE = re.compile(
    rf"[^/\\|]{{1,160}}{_EXTENSION}(?:[?#]\S*)?|(?:img|imag|image|dsc[nf_]?|dscf?|pict?|pic|photo|picture|p|pxl|mvimg|gopr|"
    r"dji|scan|screen|screenshot|fb_img|received|received_|untitled|unnamed|thumb|thumbnail|wp|vlcsnap|capture|slide|file|"
    r"image_from|snapshot|download|copy|cover|banner|figure|fig|page)[-_ ]{0,2}[(#]?\d[\d_()-]*(?:[-_][a-z0-9]+)*|"
    r"[a-z0-9]+(?:[_-][a-z0-9]+)*[_-]\d[\w-]*|[a-z0-9]*_[a-z0-9_-]*|[a-z]*\d+[a-z0-9]*(?:[-_][a-z0-9]+){2,}|"
    r"[a-f]{0,8}\d[0-9a-f]{6,63}|(?:[a-z0-9]+-){3,}[a-z0-9]+|[\\/]?(?:[\w.-]+[\\/]){2,}[\w.-]*",
    re.I | re.A,
)
_FILE_LENGTH = 200  # characters
_DATES = (
    "jan january feb february mar march apr april may jun june jul july aug august sep sept september oct october "
    "nov november dec december mon monday tue tues tuesday wed wednesday thu thur thurs thursday fri friday sat "
    "saturday sun sunday st nd rd th of at on the and to am pm utc gmt est pst cet no nr x cm mm m px kb mb pt v vol "
    "年 月 日"
)
_DATE_WORDS = frozenset(_DATES.split())
_CODE = re.compile(r"(?=[a-z]*\d)[a-z]{0,3}(?:\d+[a-z]{1,3})*\d*")
_SAME = r"[^\w\s]{12}|" + "|".join(f"{letter}{{8}}" for letter in "abcdefghijklmnopqrstuvwxyz")
_SIGNS = re.compile(_CHAT_SIGNS)
_STRETCHED = re.compile(r"([a-z])\1{7}|([^\w\s])\2{11}", re.I | re.A)
_LED, _BOILERPLATE, _EMPTY, _REPEATED = (
    int(flag) for flag in (Flag.LEAD_IN, Flag.BOILERPLATE, Flag.EMPTY, Flag.REPEATED)
)  # integers, as operations on members of an enum take ten times as long
_SHARE, _LEAST = 0.3, 8
"""Share of trigrams that are there before, and words, from which a text counts as repeated."""


def settled(text: str) -> Settled:
    """A text cleaned until nothing changes: `settled(settled(text).text)` has the same text, and no flags."""
    flags = 0
    if len(text) > mend.LIMIT:
        text, flags = text[: mend.LIMIT], int(Flag.CUT)
    text, more = mend.settled(text)
    return _reduced(text, flags | more, words.of_text(text), boilerplate.has_sign(text))


def _reduced(text: str, flags: int, found: Sequence[str], sign: bool) -> Settled:
    """A mended text, whose words are `found`, without what is no description; `sign`: see `boilerplate.has_sign`."""
    for _ in range(ROUNDS):
        before = text
        lead = None if _MEDIA.isdisjoint(found[:4]) else _LEAD_IN.match(text)
        if lead is not None:
            text, flags = text[lead.end() :], flags | _LED
        shorter = boilerplate.without(text, found, sign)
        if shorter != text:
            text, flags = shorter, flags | _BOILERPLATE
        text = boilerplate.trimmed(text)
        if text == before:
            break
        text, more = mend.settled(text)
        flags |= more
        found, sign = words.of_text(text), boilerplate.has_sign(text)
    else:
        text, found = "", ()  # made to never end
    if found and boilerplate.is_general(found) and not is_file(text) and not is_date(found):
        found, flags = (), flags | _BOILERPLATE
    return Settled(text, flags) if found else Settled("", flags | _EMPTY)


def named(text: str, found: Sequence[str]) -> int:
    """Bits of the rules that say what a text is; `found` are its words (see `words`)."""
    flags = 0
    if is_file(text):
        flags |= Flag.FILE_NAME
    elif is_date(found):
        flags |= Flag.DATE
    if is_repeated(found) or _STRETCHED.search(text):
        flags |= Flag.REPEATED
    if not _CHAT_WORDS.isdisjoint(found) or _SIGNS.search(text):
        flags |= chat(text)
    return int(flags)


def chat(text: str) -> int:
    """Bits of the rules that find a model's own words."""
    flags = Flag.REFUSAL if _REFUSAL.search(text) else 0
    return int(flags | Flag.LEAKAGE if _LEAKAGE.search(text) else flags)


def is_file(text: str) -> bool:
    """Whether a text is a file's or a camera's name, or a hash."""
    return len(text) <= _FILE_LENGTH and _FILE.fullmatch(text.rstrip(" .")) is not None


def is_date(found: Sequence[str]) -> bool:
    """Whether words are nothing but numbers, dates, measures or codes."""
    for word in found:
        if word not in _DATE_WORDS and not word.isdigit() and not _CODE.fullmatch(word):
            return False
    return any(any(char.isdigit() for char in word) for word in found)


def is_repeated(found: Sequence[str]) -> bool:
    """Whether a word stands three times in a row, or trigrams come again and again."""
    if len(set(found)) > len(found) - 2:
        return False
    if any(map(eq, found, found[1:])):
        twice = [one == two for one, two in pairwise(found)]
        if any(map(and_, twice, twice[1:])):
            return True
    # a trigram that comes again repeats three words
    again = len(found) - len(set(found)) - 2
    return len(found) >= _LEAST and again > _SHARE * (len(found) - 2) and repetition(found) > _SHARE


def repetition(found: Sequence[str]) -> float:
    """rep-3: the share of trigrams that stood there before; 0 for fewer than three words."""
    total = len(found) - 2
    if total < 1 or len(set(found)) > total - 1:  # a trigram that comes again repeats three words
        return 0.0
    return 1 - len(set(zip(found, found[1:], found[2:], strict=False))) / total


class Column(NamedTuple):
    """Many texts, settled."""

    texts: list[str]
    """As `settled` leaves them."""
    flags: list[int]
    """What was done to each."""
    words: list[list[str]]
    """Of each."""


def settle(texts: Sequence[str]) -> Column:
    """`settled` of many."""
    out = [text if len(text) <= mend.LIMIT else text[: mend.LIMIT] for text in texts]
    flags = [0 if len(text) <= mend.LIMIT else int(Flag.CUT) for text in texts]
    for place in _matches(out, mend.DIRTY):
        out[place], more = mend.settled(out[place])
        flags[place] |= more
    found, general = words.of_texts(out), boilerplate.GENERAL
    edges, signs = set(_matches(out, boilerplate.EDGES)), set(_matches(out, boilerplate.SIGNS))
    for place, own in enumerate(found):
        if (
            place in signs
            or place in edges
            or boilerplate.has_cue(own)
            or not _MEDIA.isdisjoint(own[:4])
            or not own
            or (own[0] in general and boilerplate.is_general(own))
        ):
            before = out[place]
            out[place], flags[place] = _reduced(before, flags[place], own, place in signs)
            if out[place] != before:
                found[place] = words.of_text(out[place])
    return Column(out, flags, found)


def name(texts: Sequence[str], found: Sequence[Sequence[str]]) -> list[int]:
    """`named` of many, whose words are `found`."""
    suspects = set(_matches(texts, _ODD))
    flags = []
    for place, own in enumerate(found):
        if place in suspects or (own and (own[0] in _DATE_WORDS or not own[0].isalpha()) and is_date(own)):
            flags.append(named(texts[place], own))
            continue
        flag = _REPEATED if is_repeated(own) else 0
        flags.append(flag if _CHAT_WORDS.isdisjoint(own) else flag | chat(texts[place]))
    return flags


def _matches(texts: Sequence[str], pattern: str) -> list[int]:
    """Places of the texts in which an RE2 pattern matches."""
    try:
        column = pa.array(texts, pa.large_string())
    except UnicodeEncodeError:
        column = pa.array([_SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text) for text in texts], pa.large_string())
    places: list[int] = pc.indices_nonzero(pc.match_substring_regex(column, pattern, ignore_case=True)).to_pylist()
    return places


_SURROGATES = re.compile("[\ud800-\udfff]")
_ODD = rf"^\S+(?: \S*[0-9]\S*)?$|\.[a-z]{{2,4}}[0-9]?(?:[?#]\S*)?[. ]*$|{_SAME}|{_CHAT_SIGNS}"
