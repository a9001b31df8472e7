"""A text as its author meant it: entities and tags resolved, encoding mended, addresses and what cannot be seen gone.

    mended("Caf&amp;eacute; &lt;b&gt;open&lt;/b&gt; www.cafe.com")      # Mended("Café open", ENTITY | URL)

Unusual: ftfy's repairs are taken one by one, each behind a cheap question whether it could have something to do.
Joiners without width stay between letters of scripts that spell with them, as Persian does, and go everywhere else.

Source of the repairs: ftfy, ftfy/__init__.py `fix_text`, whose order is kept.
"""

import html
import re
import unicodedata
from typing import NamedTuple

from mobileclip.captions.flags import Flag

LIMIT = 4_000
"""Characters of a text that are read; more than any text tower sees, and less than Python refuses to convert."""

ROUNDS = 64
"""Passes after which a text that still changes is given up; each takes something away."""


class Mended(NamedTuple):
    """A text and what was done to it."""

    text: str
    """With single spaces, NFC, one line."""
    flags: int
    """Bits of `Flag`."""


_INLINE = "a|abbr|b|big|em|font|i|nobr|s|small|span|strike|strong|sub|sup|tt|u|wbr"
_BLOCK = (
    "address|article|blockquote|body|br|center|cite|code|dd|div|dl|dt|figcaption|figure|footer|form|h[1-6]|head|header|"
    "hr|html|iframe|img|input|label|li|link|main|meta|ol|option|p|pre|q|section|select|table|tbody|td|th|thead|title|"
    "tr|ul|video"
)
_HIDDEN_PARTS = re.compile(r"<(script|style)\b[^<>]*>.*?</\1\s*>|<!--.*?-->|<!\[CDATA\[|\]\]>", re.I | re.S)
_TAG = re.compile(rf"</?(?:(?P<inline>{_INLINE})|{_BLOCK})(?:\s[^<>]*|/)?>", re.I)

_NAME = r"(?<![\w@.-])(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.){1,4}"
# endings that are no words of a language, and those that count only with a path behind them
_SURE = (
    "com|net|org|info|biz|edu|gov|shop|online|website|co\\.uk|com\\.au|com\\.br|co\\.jp|co\\.nz|co\\.in|ru|pl|cz|nl|eu"
)
_UNSURE = "de|fr|it|es|ch|at|be|se|no|dk|fi|io|co|tv|me|us|uk|ca|in|cn|jp|br|blog|site|store|app|ly|gl|gg"
_ADDRESS = re.compile(
    r"(?:https?|ftp)://[^\s<>()\"']+|mailto:[^\s<>()\"']+|(?<![\w.-])www\d?\.[^\s<>()\"']+"
    r"|(?<![\w.+-])[\w.+-]{1,64}@[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){1,4}"
    rf"|{_NAME}(?:(?:{_SURE})(?![\w-])(?:/[^\s<>()\"']*)?|(?:{_UNSURE})/[^\s<>()\"']*)",
    re.I,
)
_DOTTED = re.compile(r"\.\w|//|@|mailto:", re.I)
_HANDLE = re.compile(
    r"(?:\b(?:photo|picture|image|pic|shot|art|design)s?\s+)?(?:\b(?:by|via|from|cc|credit|ig|instagram)\b:?\s*)?"
    r"(?<![\w@])@[a-z0-9_](?:[a-z0-9_.]{0,28}[a-z0-9_])?(?!\w)",
    re.I,
)
_HASH = re.compile(r"(?<![\w#&])#(?=[^\W\d_])")

_C1 = re.compile("[\x80-\x9f]")
_INVISIBLE = (
    "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b\u200e\u200f\u202a-"
    "\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\ud800-\udfff\ue000-\uf8ff\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff\U000f0000-\U0010ffff"
)
_PLAIN = "[^\u0250-\uffff\U00010000-\U0010ffff]"
_JOINER = rf"(?:(?<={_PLAIN})|^)[\u200c\u200d]+|[\u200c\u200d]+(?={_PLAIN}|$)"
_HIDDEN = re.compile(f"[{_INVISIBLE}]+|{_JOINER}|(?<=[\u200c\u200d])[\u200c\u200d]+")
_ODD = re.compile(
    "[\u2018-\u201f\u02bc\u02bb\u2032\u2035\u0132\u0133\u0149\u01f1-\u01f3\u01c4-\u01cc\ufb00-\ufb06\u3000\uff01-\uffef]"
)
_MARKS = re.compile("[\u0300-\u036f]{5,}")

DIRTY = r"[^\x20-\x7e]|[&<@#]|\]\]>|//|(?i:mailto:|www\d?\.|\.(?:" + _SURE + rf")\b|\.(?:{_UNSURE})/)|  |^ | $"
"""RE2 pattern of every text that `mended` may change, and of some others."""
_ENTITY, _MOJIBAKE, _CONTROL, _URL, _HANDLED = (
    int(flag) for flag in (Flag.ENTITY, Flag.MOJIBAKE, Flag.CONTROL, Flag.URL, Flag.HANDLE)
)


def settled(text: str) -> Mended:
    """A text of at most `LIMIT` characters mended until nothing changes; empty where that takes too long."""
    flags = 0
    for _ in range(ROUNDS):
        found, more = mended(text)
        flags |= more
        if found == text:
            return Mended(text, flags)
        text = found
    return Mended("", flags)


def is_whole(text: str) -> bool:
    """Whether ftfy leaves a text of any script alone, entities apart: surely so if True."""
    import ftfy

    return not (
        _C1.search(text)
        or _ODD.search(text)
        or _HIDDEN.search(text)
        or not unicodedata.is_normalized("NFC", text)
        or ftfy.badness.is_bad(text)
    )


def mended(text: str) -> Mended:
    """One pass; what it uncovers is for the next."""
    flags = 0
    if "&" in text or "<" in text or "]]>" in text:
        found = _untagged(_unescaped(text))
        if found != text:
            text, flags = found, flags | _ENTITY
    if not text.isascii():
        text, more = _decoded(text)
        flags |= more
    elif not text.isprintable() and _HIDDEN.search(text):
        text, flags = _HIDDEN.sub("", _without_escapes(text)), flags | _CONTROL
    if _DOTTED.search(text):
        found = _ADDRESS.sub(" ", text)
        if found != text:
            text, flags = found, flags | _URL
    if "@" in text or "#" in text:
        found = _HASH.sub("", _HANDLE.sub(" ", text))
        if found != text:
            text, flags = found, flags | _HANDLED
    return Mended(" ".join(text.split()), flags)


def _unescaped(text: str) -> str:
    """Entities resolved to any depth: each pass shortens the text."""
    while "&" in text:
        found = html.unescape(text)
        if found == text:
            break
        text = found
    return text


def _untagged(text: str) -> str:
    if "<" not in text and "]]>" not in text:
        return text
    text = _HIDDEN_PARTS.sub(" ", text)
    return _TAG.sub(lambda match: "" if match["inline"] else " ", text)


def _decoded(text: str) -> Mended:
    """Encoding and characters put right."""
    import ftfy
    from ftfy import fixes

    flags = 0
    if ftfy.badness.is_bad(text):
        found = ftfy.fix_encoding(text)
        if found != text:
            text, flags = found, flags | _MOJIBAKE
    if _C1.search(text):
        found = fixes.fix_c1_controls(text)
        if found != text:
            text, flags = found, flags | _MOJIBAKE
    if _ODD.search(text):
        text = fixes.uncurl_quotes(fixes.fix_character_width(fixes.fix_latin_ligatures(text)))
    if _HIDDEN.search(text):
        text, flags = _HIDDEN.sub("", fixes.fix_surrogates(_without_escapes(text))), flags | _CONTROL
    if _MARKS.search(text):  # no script stacks so many
        text, flags = _MARKS.sub(lambda match: match[0][:4], text), flags | _CONTROL
    return Mended(unicodedata.normalize("NFC", text), flags)


def _without_escapes(text: str) -> str:
    """Without a terminal's codes for colours."""
    from ftfy import fixes

    cleaned: str = fixes.remove_terminal_escapes(text) if "\x1b" in text else text
    return cleaned
