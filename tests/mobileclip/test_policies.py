"""Every line of the table: what it draws, with which shares, what it does without a source, what it refuses."""

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileclip.data.order import hashed
from mobileclip.data.policies import POLICIES, Choice, Policy, Texts, policy, row_hashes, sentence_ends, token_rows
from mobileclip.errors import DataError, MobileClipError, UnknownName
from mobileclip.tokenizer import END, START, decode, encode, tokenize

SOURCES = ("alt", "syn_text", "syn_text_coca", "texts:alt", "caption_blip")
LINES = (
    "alt",
    "pick",
    "pick(alt=0.3, syn_text=0.7)",
    "pick(temperature=0.5)",
    "ratio(0.4)",
    "adaptive",
    "adaptive(a=20, b=-1)",
    "adaptive(threshold=0.25)",
    "both",
    "multi(3)",
    "sub(1)",
    "sub(2, skip_first=True, alt=1)",
)


def texts(samples: list[list[str]], **columns: list[float]) -> Texts:
    """Samples as the sources of their texts; `weight` and `clip` by columns."""
    flat = [SOURCES.index(name) for sample in samples for name in sample]
    start = np.concatenate([[0], np.cumsum([len(sample) for sample in samples])])
    weight = np.array(columns.get("weight", [1.0] * len(flat)), np.float32)
    clip = np.array(columns.get("clip", [np.nan] * len(flat)), np.float32)
    return Texts(start=start, source=np.array(flat, np.uint8), weight=weight, clip=clip, sources=SOURCES)


def keys(count: int, epoch: int = 0) -> Any:
    return hashed(0, epoch, np.arange(count))


def many(line: str, sample: list[str], count: int = 4000, **columns: list[float]) -> np.ndarray:
    """Choice of a policy for many pictures with the same texts, as positions among them [count, M]."""
    repeated = {name: values * count for name, values in columns.items()}
    choice = policy(line).choose(texts([sample] * count, **repeated), keys(count))
    return np.where(choice.text < 0, -1, choice.text - np.arange(count)[:, None] * len(sample))


def shares(line: str, sample: list[str], **columns: list[float]) -> np.ndarray:
    return np.bincount(many(line, sample, **columns)[:, 0], minlength=len(sample)) / 4000


FIVE = ["alt", "syn_text", "syn_text", "syn_text_coca", "caption_blip"]


@pytest.mark.parametrize("line", LINES)
def test_every_picture_has_a_text_and_draws_depend_on_its_key_alone(line: str) -> None:
    samples = [FIVE, ["alt"], ["syn_text_coca"], ["caption_blip", "alt"], ["texts:alt", "syn_text"]] * 20
    found = policy(line)
    found.check(SOURCES)
    everything = texts(samples)
    choice = found.choose(everything, keys(100))
    assert choice.text.shape == choice.weight.shape == (100, found.texts)
    assert np.array_equal(choice.weight > 0, choice.text >= 0)
    assert (choice.weight.max(1) == 1).all()
    inside = (choice.text >= everything.start[:-1, None]) & (choice.text < everything.start[1:, None])
    assert (inside | (choice.text < 0)).all()
    for number in (0, 3, 17, 99):  # the same picture in another batch
        alone = found.choose(texts([samples[number]]), keys(100)[number : number + 1])
        here = choice.text[number]
        assert np.array_equal(np.where(here < 0, -1, here - everything.start[number]), alone.text[0])


def test_alt_is_the_web_text() -> None:
    assert (many("alt", ["syn_text", "alt", "syn_text"]) == 1).all()
    assert (many("alt", ["syn_text", "texts:alt"]) == 1).all()
    assert np.allclose(shares("alt", ["syn_text", "caption_blip"]), [0.5, 0.5], atol=0.03)


def test_pick_is_uniform_without_odds() -> None:
    assert np.allclose(shares("pick", FIVE), 0.2, atol=0.03)


def test_pick_gives_odds_to_sources_by_their_beginning() -> None:
    line = "pick(alt=0.3, syn_text=0.7)"
    assert np.allclose(shares(line, FIVE), [0.3, 0.7 / 3, 0.7 / 3, 0.7 / 3, 0], atol=0.03)
    assert np.allclose(shares(line, ["alt", "caption_blip"]), [1, 0])
    assert np.allclose(shares(line, ["syn_text", "caption_blip"]), [1, 0])
    assert np.allclose(shares("pick(syn_text=0.5, syn_text_coca=0.5)", FIVE), [0, 0.25, 0.25, 0.5, 0], atol=0.03)


def test_pick_of_one_source_falls_back_to_the_web_text_then_to_any() -> None:
    line = "pick(syn_text_coca=1)"
    assert (many(line, FIVE) == 3).all()
    assert (many(line, ["caption_blip", "alt", "syn_text"]) == 1).all()
    assert np.allclose(shares(line, ["caption_blip", "syn_text"]), 0.5, atol=0.03)


def test_pick_weighs_by_quality() -> None:
    quality = [0.0, 1.0, 2.0]
    expected = np.exp(np.array(quality) / 0.5)
    found = shares("pick(temperature=0.5)", ["alt", "syn_text", "syn_text"], weight=quality)
    assert np.allclose(found, expected / expected.sum(), atol=0.03)
    hostile = [np.nan, np.inf, -np.inf]
    assert (many("pick(temperature=0.001)", ["alt", "syn_text", "syn_text"], weight=hostile) == 1).all()


def test_ratio_is_the_share_of_synthetic_texts() -> None:
    assert np.allclose(shares("ratio(0.15)", ["syn_text", "alt", "syn_text"]), [0.075, 0.85, 0.075], atol=0.02)
    assert (many("ratio(0.5)", ["alt", "alt"]) >= 0).all()
    assert (many("ratio(0)", ["syn_text"]) == 0).all()
    assert (many("ratio(1)", ["alt"]) == 0).all()
    assert np.allclose(shares("ratio(1, caption_blip=1)", FIVE), [0, 0, 0, 0, 1])


def test_adaptive_follows_similarity() -> None:
    pair = ["alt", "syn_text"]
    p = 1 / (1 + np.exp(-(10 * (0.35 - 0.30) + 0.2)))
    assert np.allclose(shares("adaptive(a=10, b=0.2)", pair, clip=[0.30, 0.35]), [1 - p, p], atol=0.03)
    assert np.allclose(shares("adaptive", pair, clip=[np.nan, 0.35]), 0.5, atol=0.03)
    line = "adaptive(threshold=0.28)"
    assert (many(line, pair, clip=[0.29, 0.9]) == 0).all()
    assert (many(line, pair, clip=[0.27, 0.1]) == 1).all()
    assert (many(line, pair) == 0).all()
    assert (many(line, ["syn_text"]) == 0).all()


def test_both_is_a_web_text_and_a_synthetic_one() -> None:
    found = many("both", FIVE)
    assert (found[:, 0] == 0).all()
    assert np.allclose(np.bincount(found[:, 1], minlength=5)[1:] / 4000, 0.25, atol=0.03)
    assert policy("both").joint is False
    choice = policy("both").choose(texts([["alt"], ["syn_text"]]), keys(2))
    assert choice.weight.tolist() == [[1, 0], [0, 1]]
    odd = policy("both(caption_blip=1)").choose(texts([["syn_text"]]), keys(1))
    assert odd.weight.tolist() == [[0, 1]]


def test_multi_is_the_web_text_and_different_synthetic_ones() -> None:
    found = many("multi(4)", FIVE)
    assert policy("multi(4)").joint
    assert (found[:, 0] == 0).all()
    assert all(len(set(row)) == 4 for row in found.tolist())
    assert np.allclose(np.bincount(found[:, 1:].ravel(), minlength=5)[1:] / 4000, 0.75, atol=0.03)
    few = policy("multi(4)").choose(texts([["alt", "syn_text"], ["syn_text", "syn_text"]]), keys(2))
    assert few.weight.tolist() == [[1, 1, 0, 0], [0, 1, 1, 0]]
    assert len(set(few.text[1, 1:3].tolist())) == 2


def test_weights_of_captions_become_those_of_losses_when_asked() -> None:
    hostile = texts([["alt", "syn_text"], ["alt", "syn_text"]], weight=[0.25, 0.5, np.nan, -3])
    weighted: Choice = policy("both(weighted=True)").choose(hostile, keys(2))
    assert weighted.weight.tolist() == [[0.25, 0.5], [1.0, 0.0]]
    assert policy("both").choose(hostile, keys(2)).weight.tolist() == [[1, 1], [1, 1]]


LONG = "A cat sits on a mat. It is 3.5 metres long! Really? A dog is near"
SENTENCES = ["a cat sits on a mat .", "it is 3 . 5 metres long !", "really ?", "a dog is near"]


def test_sentences_end_at_full_stops_and_not_at_decimal_points() -> None:
    ids = np.array(encode(LONG), np.uint16)
    ends = sentence_ends(ids)
    assert [decode(ids[a:b]).strip() for a, b in zip([0, *ends], ends, strict=False)] == SENTENCES
    assert sentence_ends(np.zeros(0, np.uint16)) == [0]


def sentences_of(found: Policy, count: int = 300) -> set[str]:
    ids = np.array(encode(LONG), np.uint16)
    return {decode(ids[a:b]).strip() for a, b in found.spans([ids] * count, keys(count))}


def test_sub_keeps_sentences_in_a_row() -> None:
    assert sentences_of(policy("sub(1)")) == set(SENTENCES)
    assert sentences_of(policy("sub(1, skip_first=True)")) == set(SENTENCES[1:])
    assert sentences_of(policy("sub(2)")) == {" ".join(SENTENCES[i : i + 2]) for i in range(3)}
    assert sentences_of(policy("sub(9)")) == {" ".join(SENTENCES)}
    assert sentences_of(policy("pick")) == {" ".join(SENTENCES)}
    one = np.array(encode("one sentence"), np.uint16)
    assert policy("sub(1, skip_first=True)").spans([one], keys(1)) == [(0, len(one))]


def test_rows_of_tokens_are_those_of_the_tokenizer() -> None:
    written = ["a photo of a dog", LONG, "word " * 200, ""]
    rows = token_rows([np.array(encode(text), np.uint16) for text in written])
    assert np.array_equal(rows, tokenize(written).numpy())
    assert rows[2, 0] == START
    assert rows[2, -1] == END


def test_equal_rows_and_only_they_have_equal_hashes() -> None:
    rows = token_rows([np.array(encode(text), np.uint16) for text in ["a b", "b a", "a b", "a b c"] + ["w " * 80] * 2])
    hashes = row_hashes(rows)
    assert hashes.dtype == np.int64
    assert len(set(hashes.tolist())) == 4
    assert hashes[0] == hashes[2]
    assert np.array_equal(row_hashes(rows.reshape(3, 2, -1)), hashes.reshape(3, 2))


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("ratio", "the caption policy 'ratio' lacks its number p: 0 to 1 is allowed."),
        ("ratio(2)", "the caption policy 'ratio(2)' has p = 2: 0 to 1 is allowed."),
        ("multi(1.5)", "the caption policy 'multi(1.5)' has texts = 1.5: 1 to 64 is allowed."),
        ("sub(0)", "the caption policy 'sub(0)' has sentences = 0: 1 to 1000 is allowed."),
        ("both(3)", "the caption policy 'both(3)' takes no plain numbers."),
        ("ratio(0.1, 0.2)", "the caption policy 'ratio(0.1, 0.2)' takes no plain numbers but p."),
        (
            "adaptive(0.1, threshold=1)",
            "the caption policy 'adaptive(0.1, threshold=1)' gives its number threshold twice: give it once.",
        ),
        ("alt(x=1)", "the caption policy 'alt(x=1)' takes nothing but 'weighted': write 'alt'."),
        (
            "pick(alt=-1)",
            "the caption policy 'pick(alt=-1)' has a negative number: odds and a temperature are 0 or more.",
        ),
        ("pick(alt=0)", "the caption policy 'pick(alt=0)' gives every source odds of 0: give one of them more."),
    ],
)
def test_wrong_arguments_are_told(line: str, text: str) -> None:
    with pytest.raises(DataError) as error:
        policy(line)
    assert str(error.value) == text


@pytest.mark.parametrize(
    "line", ["", "1 + 1", "pick(", "__import__('os').system('x')", "pick('alt')", "pick(**{'a': 1})"]
)
def test_a_line_that_is_none_lists_what_there_is(line: str) -> None:
    with pytest.raises(DataError, match="cannot be read: a name with numbers is allowed, as in 'ratio") as error:
        policy(line)
    assert all(name in str(error.value) for name in POLICIES)


def test_an_unknown_policy_offers_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown caption policy 'ration': did you mean 'ratio'"):
        policy("ration(0.3)")


def test_a_source_that_no_shard_has_is_told() -> None:
    policy("pick(alt=1, syn_text=1, texts_alt=1)").check(SOURCES)
    with pytest.raises(DataError) as error:
        policy("pick(laion=1)").check(("syn_text", "alt"))
    assert str(error.value) == (
        "the caption policy 'pick(laion=1)' names the source 'laion', which no shard has: there are alt, syn_text."
    )


@given(
    st.text(max_size=60) | st.builds(lambda a, b: f"{a}({b})", st.sampled_from(sorted(POLICIES)), st.text(max_size=30))
)
@settings(max_examples=200, deadline=None)
def test_no_line_does_anything_but_make_a_policy_or_a_clear_error(line: str) -> None:
    with suppress(MobileClipError):
        assert isinstance(policy(line), Policy)
