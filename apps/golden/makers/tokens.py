"""Tokens: texts and the ids that open_clip's own tokenizer gives for them; the merges; the tables of the cleaning."""

import functools
import html
import html.entities
import random
import re
import unicodedata
from typing import Any

import ftfy
import ftfy.chardata
import ftfy.fixes
from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES
from open_clip.tokenizer import SimpleTokenizer
from open_clip.zero_shot_metadata import SIMPLE_IMAGENET_TEMPLATES

from makers.form import file
from makers.texts import ENTITIES, MOJIBAKE, SINGLE, SURROGATES, WORDS
from mobileclip.tokenizer import CONTEXT, END, PAD, START, merges, tokenizer_hash

KEPT = CONTEXT - 2
"""Tokens of a text that a row has room for."""
_TEMPLATED = ("Komodo dragon", "stethoscope", "Cardigan Welsh Corgi")
_SWEEPS = (
    (0x80, 0x0600),
    (0x0600, 0x0E80),
    (0x10A0, 0x1100),
    (0x13A0, 0x1400),
    (0x1C80, 0x2000),
    (0x2000, 0x2800),
    (0x2C00, 0x2E00),
    (0x3000, 0x3200),
    (0xA640, 0xA800),
    (0xFB00, 0xFB50),
    (0xFE10, 0xFE70),
    (0xFF00, 0xFFF0),
    (0x10400, 0x10450),
    (0x1D400, 0x1D460),
    (0x1F1E6, 0x1F200),
    (0x1F600, 0x1F640),
)
_LATER = (
    *(0x061D, 0x08B5, 0x0C3C, 0x0C5D, 0x0CDD, 0x1DFA, 0x20C0, 0x2C2F, 0x2C5F),
    *range(0x0870, 0x08A0),
    *range(0x08C8, 0x08D3),
    *range(0x2E53, 0x2E5E),
    *range(0xA7C0, 0xA7C2),
    *range(0xA7D0, 0xA7DA),
    *range(0xA7F2, 0xA7F5),
)
"""What Unicode 14 added in `_SWEEPS`. Java 17 has 13, and no text on a phone needs more."""


def merges_file() -> str:
    """merges.txt: 48,894 lines, each `left right`, in order of rank; its SHA-256 is a manifest's `tokenizer.sha256`."""
    return "".join(f"{line}\n" for line in merges())


def cleaning() -> dict[str, Any]:
    """The tables that the cleaning needs, as the reference's packages have them."""
    html5 = dict(sorted(html.entities.html5.items()))
    # ftfy's further names are those in capitals; what it lacks of html5 has no semicolon
    capitals = {name[1:]: value for name, value in sorted(ftfy.chardata.HTML_ENTITIES.items()) if name[1:] not in html5}
    numeric = {str(number): text for number in range(0xA0) if (text := html.unescape(f"&#{number};")) != chr(number)}
    empty = [number for number in range(0xFDD0, 0x110000) if html.unescape(f"&#{number};") == ""]
    characters = {}
    for number in [*range(0x80, 0xD800), *range(0xE000, 0x10000)]:
        text = chr(number)
        fixed = ftfy.fixes.fix_c1_controls(text)
        fixed = ftfy.fixes.fix_character_width(ftfy.fixes.fix_latin_ligatures(fixed))
        fixed = ftfy.fixes.uncurl_quotes(fixed)
        if fixed != text:
            characters[str(number)] = fixed
    return {
        "version": 1,
        "entities": html5,
        "capitals": capitals,
        "numeric": numeric,
        "removed_numeric": empty,
        "characters": characters,
        "removed": sorted(ftfy.chardata.CONTROL_CHARS),
        "spaces": [number for number in range(0x110000) if chr(number).isspace()],
    }


def cases() -> dict[str, Any]:
    """tokenization.json."""
    found: dict[str, list[dict[str, Any]]] = {"cases": [], "repaired": []}
    for text in dict.fromkeys([*_texts(), *MOJIBAKE]):
        _add(found, text)
    surrogates = [{"utf16": units, "ids": _ids(_of_utf16(units))} for units in SURROGATES]
    assert len(found["cases"]) >= 2000, len(found["cases"])
    return file(
        found["cases"],
        context=CONTEXT,
        start=START,
        end=END,
        pad=PAD,
        merges_sha256=tokenizer_hash(),
        repaired=found["repaired"],
        surrogates=surrogates,
    )


def _add(found: dict[str, list[dict[str, Any]]], text: str) -> None:
    whole, plain = _ids(text), _plain_ids(text)
    case: dict[str, Any] = {"text": text, "ids": whole[:KEPT]}
    if len(whole) > KEPT:
        case["tokens"] = len(whole)
    if whole == plain:
        found["cases"].append(case)
    else:
        found["repaired"].append({"text": text, "ids": plain[:KEPT], "reference": whole[:KEPT]})


@functools.cache
def _oracle() -> SimpleTokenizer:
    return SimpleTokenizer()


def _ids(text: str) -> list[int]:
    ids: list[int] = _oracle().encode(text)
    return ids


def _plain_ids(text: str) -> list[int]:
    """Without the repair of mojibake, which the kits leave out."""
    oracle = _oracle()
    kept = oracle.clean_fn
    try:
        oracle.clean_fn = _plain_clean
        return _ids(text)
    finally:
        oracle.clean_fn = kept


def _plain_clean(text: str) -> str:
    fixed = ftfy.fix_text(text, fix_encoding=False)
    return " ".join(html.unescape(html.unescape(fixed)).split()).lower()


def _of_utf16(units: list[int]) -> str:
    return "".join(map(chr, units))


def _texts() -> list[str]:
    templates = [*OPENAI_IMAGENET_TEMPLATES, *SIMPLE_IMAGENET_TEMPLATES]
    prompts = [template(name) for template in templates for name in _TEMPLATED]
    capitals = [f"A Photo of a {name.upper()}." for name in IMAGENET_CLASSNAMES[::4]]
    return [*IMAGENET_CLASSNAMES, *prompts, *capitals, *SINGLE, *ENTITIES, *_long(), *_swept(), *_mixed()]


def _long() -> list[str]:
    words = ["a"] * 74, ["a"] * 75, ["a"] * 76, ["the quick brown fox,"] * 40
    return [
        *(" ".join(many) for many in words),
        ("photo " * 1667)[:10_000],
        "\u732b" * 10_000,
        "pneumonoultramicroscopicsilicovolcanoconiosis" * 20,
        "!?" * 200,
        " " * 10_000,
        "&amp;" * 2_000,
        "e\u0301" * 300,
    ]


def _swept() -> list[str]:
    """Sixteen characters after another, alone and between letters: classes, lower case, spaces, normal form."""
    out = []
    for first, last in _SWEEPS:
        for start in range(first, last, 16):
            marks = [chr(code) for code in range(start, start + 16) if _known(chr(code))]
            if marks:
                out += [" ".join(marks), "a" + "B".join(marks) + "c"]
    return out


def _known(char: str) -> bool:
    return unicodedata.category(char) not in ("Cn", "Cs", "Co") and ord(char) not in _LATER


def _mixed() -> list[str]:
    """Pieces of all kinds, run together."""
    rng = random.Random(20)
    pieces = [*WORDS, *re.findall(r"\S+", " ".join(SINGLE))]
    pieces = [piece for piece in pieces if len(piece) < 24]
    joints = ["", "", " ", " ", "  ", "\n", "\t", "\u00a0", "'", "-", ",", "&", ";"]
    return ["".join(rng.choice(pieces) + rng.choice(joints) for _ in range(rng.randint(1, 7))) for _ in range(500)]
