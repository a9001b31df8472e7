"""What captions of a source are like as a whole: length, diversity, templates, specificity, what of the alt text stays.

    stats = TextStats()
    for row in rows:
        stats.add(row.captions, key=row.uid, alt=row.alt)
    stats.result().values["openings"]             # share of captions that begin with one of ten openings
    collapse(alt_stats, stats)                    # sentences; empty: nothing is wrong

Unusual here: most of these figures depend on how much text they are measured on (more captions, more words that are
new, more duplicates), so they are measured on a sample of one size: the images whose hashed keys are the smallest, one
caption of each. Such samples of parts of a corpus merge into the sample of the whole, whatever the order, hold the same
images for every source, and need the same memory for a thousand captions as for a billion. `common` finds the largest
size that several sources share.

Source: the measures are those that papers on captions report (CapsFusion, Recap-DataComp-1B, DreamLIP, BLIP3-KALE);
`metric_list` describes each.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import NamedTuple

from mobileclip.captions.text.boilerplate import without
from mobileclip.captions.text.metric_list import METRICS
from mobileclip.captions.text.words import STOP, of_text, of_texts
from mobileclip.tokenizer import CONTEXT, encode

SAMPLE = 16_384
"""Images that are remembered of a source, one caption of each."""
CAPTIONS = 10_000
"""Captions that figures are measured on, if there are as many; the reference values were measured on as many."""
WORDS = 80_000
"""Running words in which the vocabulary is counted, if there are as many."""
LEAST_VOCABULARY, MOST_OPENINGS = 0.5, 0.1
"""A source has collapsed below this share of the alt text's vocabulary, or above this share of ten openings."""
LEAST_CAPTIONS, LEAST_WORDS = 300, 1_500
"""What the alarm needs to be told from chance."""

_LIMIT = 2_000  # characters of a caption that are looked at
_CAPITALISED = re.compile(r"(?<=[^\W_])\W+([^\W\d_]\w+)")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Figures of one source."""

    captions: int
    """Captions that were measured, one an image."""
    words: int
    """Running words in which the vocabulary was counted."""
    values: Mapping[str, float | None]
    """Name of a metric -> value; None where it does not apply or nothing is known."""


class _Kept(NamedTuple):
    place: int  # hash of the key
    key: str
    text: str
    concepts: tuple[int, ...] | None
    recall: float | None
    nouns: float | None
    invented: float | None
    diversity: float | None


class TextStats:
    """A sample of one source's captions; memory is bounded by `size` captions."""

    def __init__(self, size: int = SAMPLE) -> None:
        self.rows = 0
        """Images that were added."""
        self.count = 0
        """Captions that were added, empty ones included."""
        self._size = size
        self._limit = 1 << 64  # hashes from here on are not among the smallest
        self._kept: list[_Kept] = []
        self._sorted = True

    def add(
        self,
        captions: Sequence[str],
        *,
        key: str = "",
        alt: str = "",
        originals: Sequence[str] | None = None,
        weights: Sequence[float] | None = None,
        concepts: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """Captions [K] of one image.

        `key` is the image's uid (none: a running number; then a sample depends on the order); `alt` the alt text that
        is to stay; `originals` what the captions were written from; `weights` [K] how often each is trained on;
        `concepts` [K] what each of them names.
        """
        self.rows += 1
        self.count += len(captions)
        key = key or str(self.rows)
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        place = int.from_bytes(digest[:8], "big")
        if place >= self._limit:
            return
        found = _drawn(captions, weights, int.from_bytes(digest[8:], "big") / (1 << 64))
        if found is None:
            return
        text = captions[found][:_LIMIT]
        words = set(of_text(text)) if alt or originals else set()
        kept = _Kept(
            place=place,
            key=key,
            text=text,
            concepts=None if concepts is None else tuple(islice(concepts[found] or (), 64)),
            recall=_share_kept(set(content_words(alt)), words),
            nouns=_share_kept(set(_names(alt)), words),
            invented=_invented(text, originals),
            diversity=_diversity(captions),
        )
        self._kept.append(kept)
        self._sorted = False
        if len(self._kept) >= 2 * self._size:
            self._cut()

    def merge(self, other: "TextStats") -> None:
        """Take in what another has seen of other images."""
        self.rows += other.rows
        self.count += other.count
        self._kept += other._kept
        self._sorted = False
        self._limit = min(self._limit, other._limit)
        self._cut()

    def texts(self, captions: int = SAMPLE) -> list[str]:
        """The sample's captions, or the first so many of them."""
        return [kept.text for kept in self._sample(captions)]

    def lengths(self) -> list[int]:
        """Words of each caption of the sample."""
        return [len(words) for words in of_texts(self.texts())]

    def words(self) -> int:
        """Running words of the sample."""
        return sum(self.lengths())

    def vocabulary(self, words: int = WORDS) -> tuple[int, int]:
        """Running words that were counted, at most `words`, and how many different ones they are."""
        found: set[str] = set()
        left = words
        for each in of_texts(self.texts()):
            if left <= 0:
                break
            here = each[:left]
            left -= len(here)
            found.update(here)
        return words - left, len(found)

    def result(self, captions: int = CAPTIONS, words: int = WORDS, idf: Mapping[str, float] | None = None) -> Measured:
        """All figures, on so many captions and words at most; `idf` of words (`specificity`), where sources compare."""
        kept = self._sample(captions)
        counted, vocabulary = self.vocabulary(words)
        values: dict[str, float | None] = dict.fromkeys(metric.name for metric in METRICS)
        if kept:
            texts = [one.text for one in kept]
            split = of_texts(texts)
            values |= _lengths(split) | _phrases(split) | _characters(texts, split) | _tokens(texts)
            values |= _mentions([one.concepts for one in kept])
            values["vocabulary"] = vocabulary
            values["duplicates"] = 1 - len(set(texts)) / len(texts)
            known = specificity([self]) if idf is None else idf
            rare = [known.get(word, 0.0) for words_ in split for word in words_ if word not in STOP]
            values["idf"] = _mean(rare)
            for name in ("recall", "nouns", "invented", "diversity"):
                values[name] = _mean([value for one in kept if (value := getattr(one, name)) is not None])
        return Measured(captions=len(kept), words=counted, values=values)

    def _sample(self, captions: int) -> list[_Kept]:
        self._cut()
        return self._kept[:captions]

    def _cut(self) -> None:
        if not self._sorted:
            self._kept.sort(key=lambda kept: kept[:3])
            del self._kept[self._size :]
            self._sorted = True
            if len(self._kept) == self._size:
                self._limit = min(self._limit, self._kept[-1].place + 1)


def collapse(alt: TextStats, synthetic: TextStats) -> list[str]:
    """What shows that synthetic captions have become few templates, as sentences; none: nothing does, or too little
    was seen to tell."""
    found = []
    words = min(WORDS, alt.words(), synthetic.words())
    if words >= LEAST_WORDS:
        _, before = alt.vocabulary(words)
        _, after = synthetic.vocabulary(words)
        if after < LEAST_VOCABULARY * before:
            found.append(
                f"its vocabulary in {words:,} words is {after:,}, {after / before:.2f} of the alt text's {before:,}: "
                f"at least {LEAST_VOCABULARY} is wanted"
            )
    texts = synthetic.texts(CAPTIONS)
    if len(texts) >= LEAST_CAPTIONS:
        share = _openings(of_texts(texts))
        if share > MOST_OPENINGS:
            found.append(
                f"{share:.1%} of {len(texts):,} captions begin with one of ten openings: at most {MOST_OPENINGS:.0%} "
                "is wanted"
            )
    return found


def common(stats: Iterable[TextStats]) -> tuple[int, int]:
    """Captions and words that all sources have which are not nearly empty: what `result` compares them on."""
    sizes = [(len(one.texts(CAPTIONS)), min(WORDS, one.words())) for one in stats]
    enough = [size for size in sizes if size[0] >= LEAST_CAPTIONS and size[1] >= LEAST_WORDS] or sizes
    return (min(size[0] for size in enough), min(size[1] for size in enough)) if enough else (CAPTIONS, WORDS)


def specificity(stats: Iterable[TextStats]) -> dict[str, float]:
    """Word -> inverse document frequency ln(N / n), where n of N captions of all sources together have it."""
    documents: Counter[str] = Counter()
    count = 0
    for one in stats:
        for words in of_texts(one.texts(CAPTIONS)):
            count += 1
            documents.update(set(words))
    return {word: math.log(count / often) for word, often in documents.items()}


def content_words(text: str) -> list[str]:
    """Its words in lower case, without function words."""
    return [word for word in of_text(text[:_LIMIT]) if word not in STOP]


def _names(text: str) -> list[str]:
    """A proxy of names: capitalised words behind the first that are no function words, in lower case."""
    found = [match[1] for match in _CAPITALISED.finditer(text[:_LIMIT]) if match[1][0].isupper()]
    return content_words(" ".join(found))


def _drawn(captions: Sequence[str], weights: Sequence[float] | None, chance: float) -> int | None:
    """The place of the caption that stands for an image; None where none is to."""
    each = [1.0] * len(captions) if weights is None else [max(float(weight), 0.0) for weight in weights]
    each = [weight if caption.strip() else 0.0 for weight, caption in zip(each, captions, strict=True)]
    left = chance * math.fsum(each)
    last = None
    for place, weight in enumerate(each):
        if weight > 0:
            last, left = place, left - weight
            if left < 0:
                return place
    return last


def _share_kept(wanted: set[str], words: set[str]) -> float | None:
    return len(wanted & words) / len(wanted) if wanted else None


def _invented(text: str, originals: Sequence[str] | None) -> float | None:
    """Share of a caption's words, function words apart, that none of its originals has."""
    if originals is None:
        return None
    words = set(content_words(text))
    known = {word for original in originals for word in of_text(original[:_LIMIT])}
    return len(words - known) / len(words) if words else None


def _diversity(captions: Sequence[str]) -> float | None:
    """1 - the mean Jaccard similarity of the word sets of pairs of captions, of the first eight."""
    sets = [set(of_text(caption[:_LIMIT])) for caption in captions[:8] if caption.strip()]
    return _mean([1 - len(a & b) / max(len(a | b), 1) for a, b in combinations(sets, 2)])


def _lengths(split: Sequence[Sequence[str]]) -> dict[str, float]:
    lengths = sorted(len(words) for words in split)
    return {
        "words": sum(lengths) / len(lengths),
        "words_p5": _quantile(lengths, 0.05),
        "words_p95": _quantile(lengths, 0.95),
        "short": sum(length <= 2 for length in lengths) / len(lengths),
    }


def _phrases(split: Sequence[Sequence[str]]) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    repeated = []
    for size in (1, 2, 3):
        total, found = 0, set[tuple[str, ...]]()
        for words in split:
            grams = list(zip(*(words[start:] for start in range(size)), strict=False))
            total += len(grams)
            own = set(grams)
            found |= own
            if size == 3 and grams:
                repeated.append(1 - len(own) / len(grams))
        out[f"distinct_{size}"] = len(found) / total if total else None
    out["trigrams"] = len(found)
    out["repetition"] = _mean(repeated)
    out["openings"] = _openings(split)
    return out


def _openings(split: Sequence[Sequence[str]]) -> float:
    """Share of captions of three words and more that begin with one of the ten commonest three words."""
    openings = Counter(tuple(words[:3]) for words in split if len(words) >= 3)
    return sum(count for _, count in openings.most_common(10)) / max(openings.total(), 1)


def _characters(texts: Sequence[str], split: Sequence[Sequence[str]]) -> dict[str, float | None]:
    joined = "".join("".join(text.split()) for text in texts)
    count, words = max(len(joined), 1), sum(map(len, split))
    pairs = zip(texts, split, strict=True)
    return {
        "digits": sum(map(str.isdigit, joined)) / count,
        "upper": sum(map(str.isupper, joined)) / count,
        "stop": sum(word in STOP for one in split for word in one) / words if words else None,
        "sentence": sum(text.rstrip("\"'”’)] \t\n").endswith((".", "!", "?")) for text in texts) / len(texts),
        "boilerplate": sum(without(text, one) != text for text, one in pairs) / len(texts),
    }


def _tokens(texts: Sequence[str]) -> dict[str, float]:
    lengths = sorted(len(encode(text)) + 2 for text in texts)
    return {
        "tokens": sum(lengths) / len(lengths),
        "tokens_p99": _quantile(lengths, 0.99),
        "long": sum(length > CONTEXT for length in lengths) / len(lengths),
    }


def _mentions(found: Sequence[tuple[int, ...] | None]) -> dict[str, float | None]:
    known = [concepts for concepts in found if concepts is not None]
    if not known:
        return {}
    often = sorted(Counter(one for concepts in known for one in concepts).values(), reverse=True)
    total = sum(often)
    return {
        "concept": sum(bool(concepts) for concepts in known) / len(known),
        "concepts": sum(map(len, known)) / len(known),
        "entropy": -math.fsum(n / total * math.log2(n / total) for n in often) if total else None,
        "head": sum(often[:10]) / total if total else None,
        "tail": sum(often[100:]) / total if total else None,
    }


def _quantile(ordered: Sequence[int], share: float) -> float:
    """The smallest value that at least so many are not above."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
