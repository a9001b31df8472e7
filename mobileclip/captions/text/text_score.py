"""What a caption's text says of its worth, without picture or model: length, repetition, rarity, concepts, form.

    [[stage]]
    kind = "text_score"
    source = "clean"              # also "alt", "syn_text", or a captioner's stage

How rare words are is counted first, over a sample of all shards that follows from their names alone: no more than
`sample` captions are held, of a few shards, however many there are. Concepts are found by one automaton in a whole
batch. Scores are of the text as it is; to score what will be trained on, give a cleaned source.

Sources: rep-3, Welleck et al. (2020), section 6; concepts, Xu et al. (2023), section 3.1; the other measures are those
by which CapsFusion, Recap-DataComp and VeCap describe their captions.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from mobileclip.captions.flags import Flag
from mobileclip.captions.stage import OK, Batch, Columns, Everything, Prepared, checked
from mobileclip.captions.text import mend, rules, words
from mobileclip.captions.text.clean import texts_of, version_of
from mobileclip.captions.text.concepts import Concepts, content, needed
from mobileclip.evaluate.templates import IMAGENET, read_classes
from mobileclip.tokenizer import CONTEXT, encode, merges, tokenizer_hash

FEWEST, MOST = 64, 256
"""Shards over which a sample is spread, and shards that are read for it at most; all, where there are fewer."""
VOCABULARY = 1 << 18
"""Words whose document frequency is kept: the most frequent ones."""
_LONGEST = 40  # characters of a word that is counted
_MEMO = 1 << 17  # pieces of text whose tokens are known
_MEMO_LENGTH = 64  # characters
_MOST_16 = (1 << 16) - 1
_KEPT = int(Flag.EMPTY | Flag.FILE_NAME | Flag.DATE | Flag.REPEATED | Flag.REFUSAL | Flag.LEAKAGE)
_FOUND = int(
    Flag.EMPTY | Flag.ENTITY | Flag.MOJIBAKE | Flag.CONTROL | Flag.URL | Flag.BOILERPLATE | Flag.HANDLE | Flag.LEAD_IN
)
_DUPLICATE, _TOKENS = int(Flag.DUPLICATE), int(Flag.TOKENS)


@dataclass(frozen=True, kw_only=True)
class TextScore:
    """Scores the texts of one source."""

    kind: ClassVar[str] = "text_score"
    version: ClassVar[int] = 1
    prepares: ClassVar[bool] = True
    divisible: ClassVar[bool] = True

    name: str = "text_score"
    """What this entry is called."""
    source: str = "clean"
    """Captions to score: a stage with texts, or a source in the shards."""
    concepts: str = IMAGENET
    """File with one concept a line, or a JSON list of them; "imagenet": its class names; "": none are looked for."""
    sample: int = 262_144
    """Captions in which words are counted."""

    def __post_init__(self) -> None:
        checked(
            1 <= self.sample <= 1 << 24,
            f"{self.name}.sample is {self.sample}: 1 to {1 << 24} captions are allowed; set such a number.",
        )

    def needs(self) -> tuple[str, ...]:
        """The source."""
        return (self.source,)

    def looks(self) -> bool:
        """Not at pictures."""
        return False

    def points_at(self) -> Mapping[str, str]:
        """Hashes of the concepts and of the tokenizer, and the version of ftfy, by which tokens change.

        Raises:
            DataError: the file of concepts cannot be read.
            MissingExtra: concepts are looked for, and pyahocorasick is not installed.
        """
        if self.concepts:
            needed()
        return {"concepts": content(self.names), "tokenizer": tokenizer_hash(), "ftfy": version_of("ftfy")}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The concepts.

        Raises:
            DataError: the file cannot be read.
        """
        return read_classes(self.concepts) if self.concepts else ()

    def prepare(self, everything: Everything) -> pa.Table:
        """word, df: in how many captions of the sample each word stands; "" stands for the captions themselves."""
        counts: Counter[str] = Counter()
        total = 0
        shards = sorted(everything.shards, key=lambda name: hashlib.sha256(name.encode("utf-8", "replace")).digest())
        share = -(-self.sample // max(1, min(FEWEST, len(shards))))
        for shard in shards[:MOST]:
            captions = [text[: mend.LIMIT] for own in everything.texts(self.source, shard) for text in own if text]
            take = min(share, len(captions), self.sample - total)
            chosen = [captions[place * len(captions) // take] for place in range(take)]
            for own in words.of_texts(chosen):
                counts.update({word for word in own if len(word) <= _LONGEST})
            total += take
            if total == self.sample:
                break
        kept = sorted((word for word, count in counts.items() if count > 1), key=lambda word: (-counts[word], word))
        kept = sorted(kept[:VOCABULARY])
        return pa.table({"word": ["", *kept], "df": pa.array([total, *(counts[word] for word in kept)], pa.uint32())})

    def worker(self, prepared: Prepared | None) -> "TextScorer":
        """With concepts and frequencies loaded."""
        assert prepared is not None
        return TextScorer(self, prepared.table())


class TextScorer:
    """The worker of `TextScore`."""

    schema = pa.schema(
        [
            pa.field("words", pa.list_(pa.uint16())),
            pa.field("tokens", pa.list_(pa.uint16())),  # with start and end: a tower of 77 cuts what has more
            pa.field("rep3", pa.list_(pa.float32())),  # 1 - different / all trigrams
            pa.field("stop", pa.list_(pa.float32())),  # share of words that are function words
            pa.field("idf", pa.list_(pa.float32())),  # mean over content words, ln((captions + 1) / (df + 1))
            pa.field("concepts", pa.list_(pa.uint16())),
            pa.field("concept_ids", pa.list_(pa.list_(pa.uint32()))),  # lines of the list, from 0
            pa.field("digits", pa.list_(pa.float32())),  # share of characters
            pa.field("upper", pa.list_(pa.float32())),  # share of characters
            pa.field("sentence", pa.list_(pa.bool_())),  # ends like one
            pa.field("flags", pa.list_(pa.uint32())),
        ]
    )

    def __init__(self, stage: TextScore, frequencies: pa.Table) -> None:
        self._stage = stage
        self._concepts = Concepts(stage.names) if stage.names else None
        self._idf = _Idf(frequencies)
        self._tokens = Tokens()

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What scores were measured by."""
        return {
            **self._stage.points_at(),
            "concept_source": self._stage.concepts,
            "concept_count": len(self._stage.names),
            "captions_counted": self._idf.captions,
            "words_counted": self._idf.known,
        }

    def __call__(self, batch: Batch) -> Columns:
        """The columns of `schema` for the batch's captions."""
        texts, lists = texts_of(batch, self._stage.source)
        columns = self.scored(texts, self._said(batch))
        for first, last in zip(lists.ends[:-1], lists.ends[1:], strict=True):
            if last - first > 1:
                for number in _duplicates(texts[first:last]):
                    columns["flags"][first + number] |= _DUPLICATE
        return lists.columns(self.schema, columns)

    def _said(self, batch: Batch) -> list[int] | None:
        """Flags of a source that `clean` made: no rule changes its texts again, and what they are has been found."""
        table = batch.inputs.get(self._stage.source)
        if table is None or not {"flags", "lang"} <= set(table.column_names):
            return None
        found = table.filter(pa.array([status == OK for status in batch.status])).column("flags")
        return (found.combine_chunks().flatten().to_numpy() & np.uint32(_KEPT)).tolist()  # type: ignore[no-any-return]

    def scored(self, texts: Sequence[str], flags: Sequence[int] | None = None) -> dict[str, Any]:
        """The columns of `schema` for texts, one value each, but for duplicates; `flags` are what is known of them."""
        texts = [text if len(text) <= mend.LIMIT else text[: mend.LIMIT] for text in texts]
        found = words.of_texts(texts)
        if flags is None:
            done = (flag & _FOUND for flag in rules.settle(texts).flags)
            flags = [one | other for one, other in zip(done, rules.name(texts, found), strict=True)]
        tokens = self._tokens.count(texts)
        ids = self._concepts.of(found) if self._concepts is not None else [()] * len(texts)
        digits, upper = _shares(texts)
        return {
            "words": np.minimum(_lengths(found), _MOST_16).astype(np.uint16),
            "tokens": np.minimum(np.array(tokens, np.int64), _MOST_16).astype(np.uint16),
            "rep3": np.array([rules.repetition(own) for own in found], np.float32),
            "stop": np.array([_stop(own) for own in found], np.float32),
            "idf": np.array(self._idf.means(found), np.float32),
            "concepts": np.minimum(_lengths(ids), _MOST_16).astype(np.uint16),
            "concept_ids": _nested(ids),
            "digits": digits,
            "upper": upper,
            "sentence": [text[-1:] in _ENDS and text != "" for text in texts],
            "flags": [flag | _TOKENS if count > CONTEXT else flag for flag, count in zip(flags, tokens, strict=True)],
        }


class Tokens:
    """Counts tokens as the tokenizer makes them, remembering those of the pieces between spaces."""

    def __init__(self) -> None:
        # a word that one merge spells is one token
        whole = (line.replace(" ", "")[:-4] for line in merges() if line.endswith("</w>"))
        self._whole = {word: 1 for word in whole if word.isalpha() and word.isascii()}
        self._known = dict(self._whole)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, with start and end."""
        known, out = self._known, []
        for text in texts:
            # no token spans a space; what the tokenizer cleans first must be clean
            if "&" not in text.replace("& ", "") and text.isprintable() and (text.isascii() or mend.is_whole(text)):
                pieces = text.lower().split() if text.isascii() else text.split()
                try:
                    out.append(sum([known[piece] for piece in pieces]) + 2)
                except KeyError:
                    out.append(sum(map(self._count, pieces)) + 2)
            else:
                out.append(len(encode(text)) + 2)
        return out

    def _count(self, piece: str) -> int:
        found = self._known.get(piece)
        if found is None:
            found = len(encode(piece))
            if len(piece) <= _MEMO_LENGTH:
                if len(self._known) >= _MEMO:
                    self._known.clear()
                    self._known.update(self._whole)
                self._known[piece] = found
        return found


class _Idf(dict[str, float]):
    """Inverse document frequency of words: 0 of those that say nothing, most of those that were not counted."""

    def __init__(self, frequencies: pa.Table) -> None:
        counts = dict(zip(*(frequencies.column(name).to_pylist() for name in ("word", "df")), strict=True))
        self.captions = counts.pop("", 0)
        self.known = len(counts)
        self._rare = math.log((self.captions + 1) / 2)
        super().__init__(
            (word, math.log((self.captions + 1) / (count + 1)))
            for word, count in counts.items()
            if word not in words.STOP and word.isalpha()
        )
        self.update(dict.fromkeys(words.STOP, 0.0))
        self._limit = len(self) + _MEMO

    def __missing__(self, word: str) -> float:
        value = self._rare if word.isalpha() else 0.0
        if len(self) < self._limit and len(word) <= _LONGEST:
            self[word] = value
        return value

    def means(self, found: Sequence[Sequence[str]]) -> list[float]:
        """Means over the content words of each text; 0 where there are none."""
        out = []
        for own in found:
            values = [value for word in own if (value := self[word])]
            out.append(round(sum(values) / len(values), 4) if values else 0.0)
        return out


_ENDS = frozenset(".!?…。！？।॥؟۔")


def _stop(own: Sequence[str]) -> float:
    return round(sum(map(words.STOP.__contains__, own)) / len(own), 4) if own else 0.0


def _lengths(values: Sequence[Sequence[Any]]) -> Any:
    return np.fromiter(map(len, values), np.int64, len(values))


def _nested(values: Sequence[Sequence[int]]) -> pa.Array:
    ends = np.concatenate([[0], np.cumsum(_lengths(values))])
    flat = pa.array([number for own in values for number in own], pa.uint32())
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), flat)


def _shares(texts: Sequence[str]) -> tuple[Any, Any]:
    """Shares of digits and of capitals among each text's characters."""
    plain = [text if text.isascii() else "" for text in texts]
    codes = np.frombuffer("".join(plain).encode(), np.uint8)
    ends = np.cumsum(_lengths(plain))
    sizes = np.maximum(_lengths(texts), 1)
    out = []
    for first, count, is_one in ((48, 10, str.isdigit), (65, 26, str.isupper)):
        sums = np.concatenate([[0], np.cumsum(codes - np.uint8(first) < count)])[np.concatenate([[0], ends])]
        found = np.diff(sums)
        for place, text in enumerate(texts):
            if not plain[place] and text:
                found[place] = sum(map(is_one, text))
        out.append(np.round(found / sizes, 4).astype(np.float32))
    return out[0], out[1]


def _duplicates(own: Sequence[str]) -> list[int]:
    """Places of captions that stood there before, whatever their capitals and what ends them."""
    seen: set[str] = set()
    out = []
    for place, text in enumerate(own):
        said = text.casefold().strip(" .!")
        if said and said in seen:
            out.append(place)
        seen.add(said)
    return out
