"""Ids against open_clip's SimpleTokenizer, in the Unicode that captions are written in and in text made to break it."""

import hashlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("open_clip")
from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES
from open_clip.tokenizer import SimpleTokenizer

from mobileclip import tokenizer
from mobileclip.errors import MissingExtra, MobileClipError
from mobileclip.tokenizer import CONTEXT, END, PAD, START, VOCABULARY, decode, encode, merges, tokenize, tokenizer_hash

ORACLE = SimpleTokenizer()
CAPTIONS = Path(__file__).parents[3] / "shared" / "data" / "photos" / "captions.jsonl"

TEXTS = {
    "latin": "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich",
    "vietnamese": "Một con chó đang chạy trên bãi cỏ",
    "turkish": "ISPARTA'da Iğdır ve İstanbul, ılık bir ışık",
    "greek": "Ο ΣΚΥΛΟΣ ΤΟΥ ΟΔΥΣΣΕΩΣ, σοφός",
    "cyrillic": "Собака бежит по траве; ЁЖИК",
    "hebrew": "כלב רץ על הדשא \u200fabc\u200e",
    "arabic": "كلب يركض على العشب ١٢٣",
    "devanagari": "कुत्ता घास पर दौड़ रहा है",
    "thai": "สุนัขวิ่งบนสนามหญ้า",
    "chinese": "一只狗在草地上跑步。两只猫",
    "japanese": "犬が芝生の上を走っている ｶﾞ が",
    "korean": "개가 잔디 위를 달린다 \u1112\u1161\u11ab",
    "combining": "e\u0301 a\u0323\u0302 o\u0302\u0323 n\u0303 \u0301start",
    "emoji": "👍🏽 a 🐶 and 🐱!",
    "zwj": "👩‍👩‍👧‍👦 👨🏿‍🚀 🏴󠁧󠁢󠁷󠁬󠁳󠁿 🇩🇪 ❤️‍🔥",
    "entities": "fish &amp; chips &lt;b&gt; &#39;x&#39; &#x1F600; &eacute; &EACUTE; &notit; &nbsp;. &#xD800; &#0;",
    "nested entities": "&amp;amp;lt; &a&#109;p;amp;",
    "entities behind <": "<b> fish &amp; chips\nsalt &amp;amp; pepper",
    "mojibake": "schÃ¶n â€œquotedâ€\x9d naÃ¯ve Ã la mode",
    "quotes": "\u201cdon\u2019t\u201d \u2018it\u2019s\u2019 we'LL I'D you're I'm they've",
    "ligatures": "ﬁne ﬂuﬀy ŉ ǆ ＦＵＬＬ　ＷＩＤＴＨ",
    "controls": "a\x00b\x01c\x0bd\x0ce\x1cf\x1fg\x7fh\x85i\xa0j\xadk\u2028l\u2029m\ufeffn\u200bo\x1b[31mp",
    "line ends": "a\r\nb\rc\n\n\td",
    "nul": "\x00",
    "surrogates": "a \ud83d\ude00 b \ud83d c \ude00 d",
    "specials": "<start_of_text>a <END_OF_TEXT>b <<end_of_text>> <start_of_text <ſtart_of_text>",
    "kelvin": "300 \u212a, \u017fong, ß, ẞ, Ǆ",
    "numbers": "12,345.67 ½ ² Ⅷ ٣ 五",
    "punctuation": "!!! -- __init__ ... #hash @you 100% $5 a/b\\c ^_^ `x` ~",
    "empty": "",
    "blank": " \t\n\u3000\xa0 ",
    "long": "a photo of a very long list of things: " + ", ".join(f"thing {n}" for n in range(99)),
    "long word": "pneumonoultramicroscopicsilicovolcanoconiosis" * 4,
}


def _same(text: str, context: int = CONTEXT) -> None:
    assert encode(text) == ORACLE.encode(text), ascii(text)
    assert tokenize(text, context).tolist() == ORACLE(text, context).tolist(), ascii(text)


@pytest.mark.parametrize("name", TEXTS)
def test_equals_open_clip(name: str) -> None:
    _same(TEXTS[name])
    _same(TEXTS[name], context=5)


def test_equals_open_clip_on_imagenet_prompts() -> None:
    prompts = [template("Komodo dragon") for template in OPENAI_IMAGENET_TEMPLATES]
    texts = [*IMAGENET_CLASSNAMES, *prompts]
    assert (len(IMAGENET_CLASSNAMES), len(prompts)) == (1000, 80)
    assert torch.equal(tokenize(texts).long(), ORACLE(texts))


def test_equals_open_clip_on_real_captions() -> None:
    if not CAPTIONS.exists():
        pytest.skip(f"no captions at {CAPTIONS}")
    captions = [text for line in CAPTIONS.read_text("utf-8").splitlines() for text in json.loads(line)["captions"]]
    assert torch.equal(tokenize(captions).long(), ORACLE(captions))


_PIECES = sorted(
    {word for text in TEXTS.values() for word in text.split(" ") if len(word) < 30} | set(" \n\r\x85&;<#'Σ")
)
_ANY = st.text(st.characters(exclude_categories=()), max_size=60)
_MIXED = st.lists(st.one_of(st.sampled_from(_PIECES), st.text(max_size=4)), max_size=12).map("".join)
_PRINTABLE = st.text(st.characters(max_codepoint=127), max_size=100)
_context = st.integers(2, 24)


@settings(max_examples=250, deadline=None)
@given(st.one_of(_ANY, _MIXED, _PRINTABLE), _context)
def test_equals_open_clip_on_any_text(text: str, context: int) -> None:
    _same(text, context)


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from([*map(chr, range(128))]), max_size=80))
def test_plain_ascii_needs_no_cleaning(text: str) -> None:
    if tokenizer._PLAIN.fullmatch(text):
        assert " ".join(text.split()).lower() == ORACLE.clean_fn(text)


def test_plain_ascii_is_every_character_that_cleaning_keeps() -> None:
    for char in map(chr, range(128)):
        kept = ORACLE.clean_fn(f"a{char}b") == " ".join(f"a{char}b".split()).lower() and char != "&"
        assert bool(tokenizer._PLAIN.fullmatch(char)) == kept, ascii(char)


@settings(max_examples=150, deadline=None)
@given(st.one_of(_ANY, _MIXED))
def test_long_lines_are_cleaned_as_short_ones(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "_SHORT_LINE", 0)
        assert encode(text) == ORACLE.encode(text)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from("ae\u0301\u0323\u0344\u0f73क\u093f\u094d é"), min_size=70, max_size=200).map("".join))
def test_marks_are_ordered_as_nfc_orders_them(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "_SHORT_LINE", 0)
        assert encode("a" + "\u0301\u0323" * 40 + text) == ORACLE.encode("a" + "\u0301\u0323" * 40 + text)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["a", "ah", "the", "lo!", "-=", "_~.", "éa", "中国", "nas"]),
    st.integers(0, 2**32),
    st.integers(900, 1500),
    st.integers(2, 8),
)
def test_only_the_beginning_of_a_long_word_is_worked_out(alphabet: str, seed: int, length: int, context: int) -> None:
    word = "".join(random.Random(seed).choices(alphabet, k=length))
    assert tokenize(word, context).tolist() == [[START, *encode(word)[: context - 2], END]]


@settings(max_examples=40, deadline=None)
@given(st.one_of(st.text(letters, min_size=1, max_size=150) for letters in ("aehtln", "!-._=")))
def test_what_a_cut_word_keeps_is_in_the_whole(word: str) -> None:
    ids = tokenizer._vocabulary().ids
    whole = encode(word)
    assert whole == ORACLE.encode(word)
    for end in range(1, len(word), 7):
        begin = tokenizer._merge([ids[char] for char in word[:end]], cut=True)
        assert whole[: len(begin)] == begin


def test_every_merge_that_ends_a_word_is_that_word() -> None:
    table = tokenizer._vocabulary()
    for index in range(512, START):
        symbols = table.names[index].removesuffix("</w>")
        if symbols != table.names[index]:
            parts = [*(table.ids[char] for char in symbols[:-1]), table.ids[symbols[-1] + "</w>"]]
            assert tokenizer._merge(parts, cut=False) == [index], symbols


def test_merges_come_after_their_parts() -> None:
    parts = tokenizer._vocabulary().parts
    assert len(parts) == 48_894
    assert all(left < made and right < made for made, (left, right) in parts.items())


def test_vocabulary_is_that_of_open_clip() -> None:
    table = tokenizer._vocabulary()
    assert table.names == [ORACLE.decoder[index] for index in range(VOCABULARY)]
    assert (ORACLE.sot_token_id, ORACLE.eot_token_id, 0, ORACLE.context_length) == (START, END, PAD, CONTEXT)


def test_row_layout() -> None:
    out = tokenize(["a cat", "", "cat " * 100])
    assert out.dtype == torch.int32
    assert out.shape == (3, 77)
    assert out[0, :4].tolist() == [START, 320, 2368, END]
    assert out[0, 4:].count_nonzero() == 0
    assert out[1, :3].tolist() == [START, END, PAD]
    assert out[2, -2:].tolist() == [2368, END]
    assert tokenize([]).shape == (0, 77)
    assert tokenize(text for text in ("a", "b")).shape == (2, 77)


def test_a_decimal_reference_of_too_many_digits_is_a_replacement_character() -> None:
    text = "a &#" + "9" * 5000 + "; b"
    with pytest.raises(ValueError, match="4300"):
        ORACLE.encode(text)
    assert encode(text) == ORACLE.encode("a \ufffd b")


@pytest.mark.parametrize(
    "text",
    [
        "a" * 1_000_000,
        "a small dog runs " * 60_000,
        "läuft über\n" * 90_000,
        "&" + "amp;" * 250_000,
        "&#5&#5&#5&#5&#4" * 50_000 + "9" + ";" * 250_000,
        "a" + "\u0301\u0323" * 500_000,
    ],
    ids=["word", "words", "lines", "nested", "nested digits", "marks"],
)
def test_a_megabyte_takes_bounded_time(text: str) -> None:
    start = time.process_time()
    out = tokenize(text)
    assert time.process_time() - start < 10  # 0.01 to 2.5 s; without the bounds the worst take hours
    assert out[0, 0] == START
    assert END in out[0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, VOCABULARY - 1), max_size=20))
def test_decode_equals_open_clip(ids: list[int]) -> None:
    assert decode(ids) == ORACLE.decode(ids)


def test_decode_takes_a_row() -> None:
    assert decode(tokenize("A  Cat!")[0][:5]) == "<start_of_text>a cat ! <end_of_text>"


def test_hash_is_that_of_the_merges() -> None:
    assert len(merges()) == 48_894
    assert merges()[0] == "i n"
    assert tokenizer_hash() == hashlib.sha256(("\n".join(merges()) + "\n").encode()).hexdigest()
    assert tokenizer_hash() == "d308b7377a8ceaa9707a21614fe8c831b9196e197b7aeb69833359362907af02"


def test_import_and_plain_text_need_no_heavy_package() -> None:
    code = (
        "import sys, mobileclip.tokenizer as t; t.encode('a cat'); "
        "print([m for m in ('torch', 'open_clip', 'ftfy', 'regex') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tokenize(3), "text came as int: a str or a sequence of str is allowed."),
        (lambda: tokenize(None), "text came as NoneType: a str or a sequence of str is allowed."),
        (lambda: tokenize(b"cat"), "text came as bytes: a str or a sequence of str is allowed."),
        (lambda: tokenize({"a": 1}), "text came as dict: a str or a sequence of str is allowed."),
        (
            lambda: tokenize(["a", 2.0]),
            "text 1 is float: only str is allowed; decode, convert or leave out.",
        ),
        (lambda: encode(b"cat"), "text 0 is bytes: only str is allowed; decode, convert or leave out."),
        (
            lambda: tokenize("cat", context=1),
            "context is 1: it must hold a start and an end token; MobileCLIP takes 77.",
        ),
        (
            lambda: decode([49408]),
            "id 49408 is not a token: allowed are 0 to 49407; was it made by another tokenizer?",
        ),
        (lambda: decode([-1]), "id -1 is not a token: allowed are 0 to 49407; was it made by another tokenizer?"),
    ],
)
def test_refusals(call, message: str) -> None:
    with pytest.raises(MobileClipError) as error:
        call()
    assert str(error.value) == message


def test_absent_open_clip_names_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingExtra) as error:
        merges()
    message = "the tokenizer's merges come with open_clip: pip install open_clip_torch==3.3.0"
    assert str(error.value) == message


def test_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "_CACHED_CHUNKS", 10)
    texts = [f"word{n}" for n in range(50)]
    assert torch.equal(tokenize(texts).long(), ORACLE(texts))
    assert len(tokenizer._cache) <= 10
