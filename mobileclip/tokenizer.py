"""Text to token ids: CLIP's byte-pair encoding of lowercased text, the same ids as open_clip's `SimpleTokenizer`.

    ids = tokenize(["a photo of a cat"])          # int32 [1, 77], zero padded

Unusual here: only the first tokens of a text are worked out, exactly, so that a megabyte costs what its first 75 tokens
cost, and its cleaning; and plain ASCII (no `&`, no control characters), which the cleaning would not change, skips it.
Neither torch, ftfy nor regex is imported before it is needed. The 48,894 merges are read from the installed open_clip
package, which is not imported.

Where open_clip fails, this does not: a decimal HTML reference of more digits than Python converts (4,300) is U+FFFD.
Entities nested in entities (`&amp;amp;lt;`) are resolved to any depth in lines of up to 2,000 characters, and to
`8 + 1,000,000 / length` levels in longer ones, over which open_clip may sit for hours. Lone surrogates are U+FFFD, as
there.

Source: Sennrich et al. (2016), section 3.2; openai/CLIP clip/simple_tokenizer.py; open_clip src/open_clip/tokenizer.py.
"""

import gzip
import hashlib
import heapq
import html
import importlib.util
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, groupby, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mobileclip.errors import MissingExtra, MobileClipError

if TYPE_CHECKING:
    from torch import Tensor

CONTEXT = 77
"""Tokens a row, start and end included."""
VOCABULARY = 49408
"""Ids: 256 bytes, 256 bytes that end a word, 48,894 merges, start and end."""
START = 49406
"""First token of a row."""
END = 49407
"""Last token of a row, also of one that was cut; the text towers pool there."""
PAD = 0
"""Fills a row behind END. Not END (Hugging Face's CLIPTokenizer): towers without a causal mask see the padding."""

_END_OF_WORD = "</w>"
_SPECIAL = {"<start_of_text>": START, "<end_of_text>": END}
_PLAIN = re.compile(r"[\t\n\f\r -%'-~]*")  # whitespace and printable ASCII without '&'
_PARTS = r"|'s|'t|'re|'ve|'m|'ll|'d|"
_ASCII_WORD = re.compile("|".join(_SPECIAL) + _PARTS + r"[a-z]+|[0-9]|[^\sa-z0-9]+")  # of lowercase ASCII
_SHORT_LINE = 2_000  # characters; at 4 a level, no entity nests deeper in them than the passes that are allowed
_CLEANING = 1_000_000  # characters of a line times passes over it
_FTFY_SEGMENT = 1_000_000  # ftfy's max_decode_length
_CACHED_CHUNK = 64  # characters
_CACHED_CHUNKS = 100_000


def tokenize(texts: str | Iterable[str], context: int = CONTEXT) -> "Tensor":
    """Text -> int32 ids [N, context]: START, tokens, END, zeros. A text that is too long is cut, its last id is END.

    Raises:
        MobileClipError: something in `texts` is not a str, or `context` has no room for START and END.
    """
    import numpy as np
    import torch

    if context < 2:
        raise MobileClipError(
            f"context is {context}: it must hold a start and an end token; MobileCLIP takes {CONTEXT}."
        )
    rows = [list(islice(_tokens(text, context - 2), context - 2)) for text in _texts(texts)]
    out = np.zeros((len(rows), context), np.int32)
    for into, row in zip(out, rows, strict=True):
        into[: len(row) + 2] = [START, *row, END]
    return torch.from_numpy(out)


def encode(text: str) -> list[int]:
    """Text -> all of its ids, without START and END.

    Raises:
        MobileClipError: `text` is not a str.
    """
    (text,) = _texts([text])
    return list(_tokens(text, None))


def decode(ids: Iterable[int]) -> str:
    """Ids -> lowercase text, a space behind each word; bytes that are not UTF-8 become U+FFFD.

    Raises:
        MobileClipError: an id is not in the vocabulary.
    """
    names, out = _vocabulary().names, []
    for index in map(int, ids):
        if not 0 <= index < VOCABULARY:
            raise MobileClipError(
                f"id {index} is not a token: allowed are 0 to {VOCABULARY - 1}; was it made by another tokenizer?"
            )
        out.append(names[index])
    raw = "".join(out).translate(_SYMBOL_TO_BYTE).encode("latin-1")
    return raw.decode("utf-8", errors="replace").replace(_END_OF_WORD, " ")


def merges() -> tuple[str, ...]:
    """The 48,894 merges in order of rank, each `left right`; merge `i` makes id `512 + i`.

    Raises:
        MissingExtra: open_clip, which holds the file, is not installed.
    """
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("the tokenizer's merges come with open_clip: pip install open_clip_torch==3.3.0")
    path = Path(spec.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
        # behind the first line, as many as the vocabulary has room for: the file holds 262,144
        return tuple(line.rstrip("\n") for line in islice(lines, 1, 49152 - 256 - 2 + 1))


@lru_cache(maxsize=1)
def tokenizer_hash() -> str:
    """SHA-256 of the merges, one a line, each line ended by a newline: what a manifest says of its tokenizer."""
    return hashlib.sha256("".join(f"{line}\n" for line in merges()).encode()).hexdigest()


def _texts(texts: object) -> list[str]:
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Iterable) or isinstance(texts, bytes | bytearray | Mapping):
        raise MobileClipError(f"text came as {type(texts).__name__}: a str or a sequence of str is allowed.")
    found = list(texts)
    for index, text in enumerate(found):
        if not isinstance(text, str):
            raise MobileClipError(
                f"text {index} is {type(text).__name__}: only str is allowed; decode, convert or leave out."
            )
    return found


def _chunks(text: str) -> Iterator[str]:
    """What is between whitespace after cleaning, not yet lowercased."""
    if _PLAIN.fullmatch(text):
        yield from text.split()
        return
    entities = True  # ftfy goes by lines; all that one does to the next is that a '<' turns its HTML entities off
    for match in re.finditer(r"[^\n]*\n|[^\n]+", text):
        fixed = []
        for start in range(match.start(), match.end(), _FTFY_SEGMENT):
            segment = text[start : min(start + _FTFY_SEGMENT, match.end())]
            entities = entities and "<" not in segment
            fixed.append(_fix(segment, entities))
        yield from _unescape(_unescape("".join(fixed))).split()


def _fix(segment: str, entities: bool) -> str:
    """`ftfy.fix_text` of one line, in bounded time."""
    import ftfy
    from ftfy import fixes

    if len(segment) <= _SHORT_LINE:
        fixed: str = ftfy.fix_text(segment, ftfy.TextFixerConfig(unescape_html=entities, explain=False))
        return fixed
    for _ in range(8 + _CLEANING // len(segment)):  # the loop of ftfy.fix_and_explain, which has no bound
        before = segment
        if entities:
            segment = fixes.unescape_html(segment)
        segment = ftfy.fix_encoding(segment)
        segment = fixes.fix_c1_controls(segment)
        segment = fixes.fix_character_width(fixes.fix_latin_ligatures(segment))
        segment = fixes.fix_line_breaks(fixes.uncurl_quotes(segment))
        segment = fixes.remove_terminal_escapes(fixes.fix_surrogates(segment))
        segment = unicodedata.normalize("NFC", _order_marks(fixes.remove_control_chars(segment)))
        if segment == before:
            break
    return segment


def _order_marks(text: str) -> str:
    """Combining marks in canonical order, which NFC would give them in time quadratic in the length of their run."""
    if not _unicode().marks.search(text):
        return text
    runs = ((marks, list(run)) for marks, run in groupby(text, lambda char: unicodedata.combining(char) > 0))
    return "".join(chain.from_iterable(sorted(run, key=unicodedata.combining) if marks else run for marks, run in runs))


def _unescape(text: str) -> str:
    try:
        return html.unescape(text)
    except ValueError:  # int() of more than 4,300 digits
        return html.unescape(re.sub(r"&#[0-9]{4301,};?", "\N{REPLACEMENT CHARACTER}", text))


def _tokens(text: str, limit: int | None) -> Iterator[int]:
    """Ids of `text`, lazily; more than `limit` of them are not wanted."""
    for chunk in _chunks(text):
        known = _cache.get(chunk)
        if known is None:
            if len(chunk) > _CACHED_CHUNK:
                yield from _chunk(chunk, limit)
                continue
            if len(_cache) >= _CACHED_CHUNKS:
                _cache.clear()
            known = _cache[chunk] = tuple(_chunk(chunk, None))
        yield from known


_cache: dict[str, tuple[int, ...]] = {}


def _chunk(chunk: str, limit: int | None) -> Iterator[int]:
    # Lowercasing looks at neighbours (a final sigma), but never past whitespace.
    lower = chunk.lower()
    words = _ASCII_WORD if lower.isascii() else _unicode().word
    for match in words.finditer(lower):
        yield from _word(match[0], limit)


def _word(word: str, limit: int | None) -> Sequence[int]:
    """Ids of a word, or at least the first `limit` of them."""
    if word in _SPECIAL:
        return (_SPECIAL[word],)
    ids, size = _vocabulary().ids, None if limit is None else 256 + 8 * limit
    while size is not None and size < len(word):
        begin = _merge([ids[symbol] for symbol in _symbols(word[:size])], cut=True)
        if limit is not None and len(begin) >= limit:
            return begin
        size *= 8
    symbols = _symbols(word)
    # every merge that ends a word is what the word it spells comes to (tested on all of them)
    whole = ids.get(symbols + _END_OF_WORD)
    if whole is not None:
        return (whole,)
    return _merge([*(ids[symbol] for symbol in symbols[:-1]), ids[symbols[-1] + _END_OF_WORD]], cut=False)


def _merge(ids: list[int], cut: bool) -> list[int]:
    """Apply the merges to the symbols of a word: lowest rank first, leftmost first within a rank.

    A merge makes an id that only it makes, ids are in order of rank, and a merge comes after those that make its parts;
    so one queue of (made id, place) gives the order.

    With `cut` the word goes on behind `ids`, and what is returned is certain whatever follows. `edge` is the last
    symbol that is: its right neighbour is unknown, so once the ranks reach a merge that has it on the left, it is not.
    """
    table = _vocabulary()
    after = list(range(1, len(ids) + 1))
    before = list(range(-1, len(ids) - 1))
    queue = [(made, place) for place, pair in enumerate(pairwise(ids)) if (made := table.pairs.get(pair)) is not None]
    heapq.heapify(queue)
    edge = len(ids) - 1

    def watch_edge(rank: int) -> None:
        if cut and edge >= 0:
            later = next((made for made in table.starts.get(ids[edge], ()) if made > rank), None)
            if later is not None:
                heapq.heappush(queue, (later, edge))

    watch_edge(-1)
    while queue and edge >= 0:
        made, place = heapq.heappop(queue)
        if place > edge or ids[place] != table.parts[made][0]:
            continue  # merged into something, or beyond what is certain
        if place == edge:
            if cut:
                edge = before[edge]
                watch_edge(made)
            continue
        right = after[place]
        if ids[right] != table.parts[made][1]:
            continue
        ids[place], ids[right] = made, -1
        after[place] = after[right]
        if right == edge:
            edge = place
            watch_edge(made)
        else:
            before[after[place]] = place
            _offer(queue, table, ids, place, after[place])
        if place > 0:
            _offer(queue, table, ids, before[place], place)
    return [index for index in ids[: edge + 1] if index >= 0]


def _offer(queue: list[tuple[int, int]], table: "_Vocabulary", ids: list[int], left: int, right: int) -> None:
    made = table.pairs.get((ids[left], ids[right]))
    if made is not None:
        heapq.heappush(queue, (made, left))


def _byte_symbols() -> dict[int, str]:
    """Byte -> the printable character that stands for it in the merges, in order of id."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


_BYTE_TO_SYMBOL = _byte_symbols()
_SYMBOL_TO_BYTE = {ord(symbol): byte for byte, symbol in _BYTE_TO_SYMBOL.items()}


def _symbols(word: str) -> str:
    return word.encode().decode("latin-1").translate(_BYTE_TO_SYMBOL)


class _Vocabulary(NamedTuple):
    names: list[str]  # id -> symbols
    ids: dict[str, int]  # symbols -> id
    pairs: dict[tuple[int, int], int]  # (left id, right id) -> id of the merge
    parts: dict[int, tuple[int, int]]  # its inverse
    starts: dict[int, list[int]]  # left id -> ids of its merges, ascending


@lru_cache(maxsize=1)
def _vocabulary() -> _Vocabulary:
    names = [*_BYTE_TO_SYMBOL.values(), *(symbol + _END_OF_WORD for symbol in _BYTE_TO_SYMBOL.values())]
    ids = {name: index for index, name in enumerate(names)}
    pairs: dict[tuple[int, int], int] = {}
    starts: dict[int, list[int]] = {}
    for line in merges():
        left, right = line.split()
        made = len(names)
        pairs[ids[left], ids[right]] = made
        starts.setdefault(ids[left], []).append(made)
        names.append(left + right)
        ids[left + right] = made
    names += _SPECIAL
    assert len(names) == VOCABULARY
    assert len(ids) == VOCABULARY - len(_SPECIAL), "two merges make the same symbols"
    return _Vocabulary(names, ids, pairs, {made: pair for pair, made in pairs.items()}, starts)


class _Unicode(NamedTuple):
    word: Any  # the pattern of open_clip's tokenizer
    marks: Any  # a run of combining marks that is long enough to matter


@lru_cache(maxsize=1)
def _unicode() -> _Unicode:
    import regex

    word = "|".join(_SPECIAL) + _PARTS + r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    return _Unicode(regex.compile(word, regex.IGNORECASE), regex.compile(r"[^\p{ccc=0}]{64}"))
