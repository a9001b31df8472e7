"""HTML of the report: elements whose text is always escaped, and the page around them.

    table(["source", "words"], [["alt", number(11.0)]])          # Markup
    page("Captions", [el("p", hostile)])                         # whatever `hostile` is, it is shown, not obeyed

Captions are foreign and hostile: markup, a megabyte, control characters, text that turns the direction of what follows.
So only `Markup`, which this module and its callers make, goes into the page as it is; every other value is text, and
`foreign` shows what cannot be seen. The page loads nothing, runs no script and says so to the browser: its content
security policy allows its own style sheet, by its hash, and pictures in `data:` addresses.
"""

import base64
import hashlib
import html
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence

from mobileclip.captions.report.style import STYLE

LONGEST = 600
"""Characters of a caption that are shown."""

_VOID = frozenset(("img", "meta", "br"))
_CLASSES = {"n": "n", "e": "n edge", "p": "wide"}
_HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]")
_MARKS = re.compile(r"[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]{3,}")
_JOINER = "\u200d"  # between emoji and in several scripts; harmless


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


Part = object
"""Something that becomes a child of an element: `Markup` as it is, None as nothing, anything else as text."""


def el(tag: str, *children: Part, **attributes: object) -> Markup:
    """An element; `class_` and `for_` are attributes without the underscore, `aria_label` one with a hyphen, None
    leaves an attribute out and True gives it no value."""
    said = []
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        said.append(f" {name}" if value is True else f' {name}="{html.escape(_clean(str(value)), quote=True)}"')
    head = f"<{tag}{''.join(said)}>"
    return Markup(head if tag in _VOID else f"{head}{joined(children)}</{tag}>")


def joined(children: Iterable[Part]) -> Markup:
    """Children one behind the other."""
    out: list[str] = []
    for child in children:
        if isinstance(child, Markup):
            out.append(child)
        elif isinstance(child, list | tuple):
            out.append(joined(child))
        elif child is not None:
            out.append(html.escape(_clean(str(child)), quote=False))
    return Markup("".join(out))


def foreign(text: str, longest: int = LONGEST, tag: str = "span") -> Markup:
    """Somebody else's text: in its own direction, cut, with what cannot be seen shown as its code."""
    shown, children = text[:longest], list[Part]()
    shown = _MARKS.sub(lambda run: f"{run[0][:2]}\u2026", shown)
    last = 0
    for match in _HIDDEN.finditer(shown):
        if match[0] == _JOINER:
            continue
        children += [shown[last : match.start()], el("span", f"U+{ord(match[0]):04X}", class_="code")]
        last = match.end()
    children.append(shown[last:])
    if len(text) > longest:
        children += [" … ", el("span", f"{len(text):,} characters", class_="code")]
    return el(tag, children, dir="auto", class_="foreign")


def table(head: Sequence[Part], rows: Iterable[Sequence[Part]], columns: str = "", caption: str = "") -> Markup:
    """A table whose first column names its rows; it scrolls sideways where it is too wide.

    `columns` has a letter a column: "n" for numbers, "e" for numbers behind a line, "p" for plots, "t" for text.
    Columns in which nothing stands are not shown; a row may be shorter than the head.
    """
    found = list(rows)
    if not found:
        return Markup("")
    shown = [
        place
        for place in range(len(head))
        if not place or any(row[place : place + 1] not in ([], [""]) for row in found)
    ]
    classes = {place: _CLASSES.get(letter) for place, letter in enumerate(columns)}
    body = []
    for row in found:
        cells = [el("td", row[place], class_=classes.get(place)) for place in shown[1:] if place < len(row)]
        body.append(el("tr", el("th", row[0], scope="row"), cells))
    titles = [el("th", head[place], scope="col", class_=classes.get(place)) for place in shown]
    name = el("caption", el("span", caption)) if caption else None
    inner = el("table", name, el("thead", el("tr", titles)), el("tbody", body))
    return el("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption or "table")


def section(title: str, *children: Part, id_: str) -> Markup:
    """A part of the page with its heading; nothing where there are no children."""
    shown = [child for child in children if child is not None and child != ""]
    return el("section", el("h2", title), shown, id=id_) if shown else Markup("")


def number(value: float | int | None, form: str = "number") -> str:
    """ "number": whole, "mean": three digits, "share": per cent; a dash where nothing is known."""
    if value is None or not math.isfinite(value):
        return "–"
    if form == "share":
        percent = 100 * value
        return f"{percent:.0f}%" if percent == 0 or percent >= 99.95 else f"{percent:.{1 if percent >= 1 else 2}f}%"
    if form == "mean":
        shown = f"{value:#.3g}" if 1e-4 <= abs(value) < 100 else f"{value:,.0f}"
        return shown.replace("-", "−")
    return f"{value:,.0f}"


def seconds(value: float) -> str:
    """A time that is easy to read."""
    if value < 60:
        return f"{value:.1f} s"
    minutes = value / 60
    return f"{minutes:.1f} min" if minutes < 60 else f"{minutes / 60:,.1f} h"


def size(count: float) -> str:
    """Bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def page(title: str, body: Iterable[Part], style: str = "") -> str:
    """The whole document; `style` goes behind the style sheet of all reports."""
    style = STYLE + style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="referrer", content="no-referrer"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", Markup(style)),
    )
    return f"<!doctype html>\n{el('html', head, el('body', list(body)), lang='en')}\n"


def _clean(text: str) -> str:
    """What UTF-8 and HTML can hold: no lone surrogates, no control characters but line ends and tabs."""
    if text.isascii() and text.isprintable():
        return text
    return "".join("\ufffd" if _is_broken(char) else char for char in text)


def _is_broken(char: str) -> bool:
    return unicodedata.category(char) in ("Cs", "Cc") and char not in "\n\t"
