"""Which of a picture's captions a step trains on: one line of a recipe.

    policy("ratio(0.3)").choose(texts, keys)      # Choice: text [B, M], weight [B, M]

| line | a picture's texts | from |
| --- | --- | --- |
| `alt` | the web text | CLIP |
| `pick` | one of all, uniformly | LaCLIP, RWKV-CLIP, VeCLIP |
| `pick(alt=0.3, syn_text=0.7)` | a source by these odds, one of its texts | open_clip `--json-text-key-probs` |
| `ratio(0.15)` | a synthetic one with this probability, else the web text | MetaCLIP 1.2, CLIPA, DR `mix-synthetic` |
| `adaptive(a=50, b=0)` | synthetic with p = sigmoid(a (clip_syn - clip_alt) + b) | Nguyen et al. 2023, ALIP |
| `adaptive(threshold=0.28)` | the web text where its similarity is above, else a synthetic one | the hard form |
| `both` | the web text and a synthetic one; the two losses are summed | MobileCLIP DR |
| `multi(4)` | the web text and 3 different synthetic ones, all positives of one loss | DreamLIP |
| `sub(1, skip_first=True)` | `pick`, of which 1 sentence in a row, never its first | CLIPS, DeBias-CLIP |

Words. *alt* is the web text: a source called `alt`, or whose name ends in `:alt`. *synthetic* is every other source. In
a line, a source's name stands for all that begin with it (`syn_text` for `syn_text_coca`), the longest wins; where
Python does not allow a character in a name, write `_` (`texts_alt`). Every policy but `alt` takes such odds, over what
it draws from; a source without any is not drawn. `temperature=T` weighs the texts of a source by softmax(quality / T).
`weighted=True` makes a caption's own weight the weight of its loss; else every text that is there weighs 1.

What is missing. `pick`, `sub`: odds are renormalised over the sources that a picture has; with none of them, its web
text; without that, any text. `alt`, `ratio`, `adaptive`: the other kind. `adaptive` without a similarity: p = 0.5, and
under a threshold the web text. `both`, `multi`: an empty row of weight 0. Whatever the line, a picture has a text.

Draws are hashes of a sample's key and nothing else: ranks, threads and resuming do not change them. Rules work on
arrays [B, K] of all texts of a batch; there is no loop over samples but in `sub`.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mobileclip.data.order import Ints, Words, hashed, uniform
from mobileclip.errors import DataError, UnknownName
from mobileclip.tokenizer import CONTEXT, END, START

Floats = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

_PICK, _KIND, _SENTENCE = 101, 102, 103  # streams of draws
_MOST = 64  # texts of one sample that `multi` may ask for
_HEAVIEST = 1e6  # weight of a caption; a shard may say anything


@dataclass(frozen=True, kw_only=True)
class Texts:
    """All captions of the pictures of a batch, one behind the other."""

    start: Ints
    """int64 [B + 1]: the captions of picture i are start[i] to start[i + 1], at least one."""
    source: npt.NDArray[np.uint8]
    """[T]: index in `sources`."""
    weight: Floats
    """float [T]: quality, 1 where nothing is known."""
    clip: Floats
    """float [T]: similarity of caption and picture, NaN where nothing is known."""
    sources: tuple[str, ...]
    """Names of the sources of the corpus."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The texts of a step."""

    text: Ints
    """int64 [B, M]: index in the batch's captions; -1 where there is none."""
    weight: npt.NDArray[np.float32]
    """float32 [B, M]: of its loss; 0 where there is no text."""


@dataclass(frozen=True, kw_only=True)
class _Dense:
    """`Texts` as rectangles [B, K], K the most captions that a picture of the batch has."""

    there: Mask
    source: Ints
    weight: Floats
    clip: Floats
    alt: Mask
    odds: Floats
    """Relative odds of each text from the line's names; all 1 where it has none."""


_Rule = Callable[[_Dense, Words], Ints]
"""(captions [B, K], keys [B]) -> column of the text [B, M], -1 for none."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What one line means; made by `policy`."""

    line: str
    """As it was written."""
    texts: int
    """M: texts of a picture in a step."""
    joint: bool
    """The M texts are positives of one loss (`multi`); else their losses are summed."""
    sentences: int
    """Sentences to keep of a text; 0 is all of it."""
    skip_first: bool
    """Never keep the first sentence of a text that has several."""
    odds: Mapping[str, float]
    """Source's name, or its beginning -> odds; empty: every text alike."""
    temperature: float
    """Of the softmax of the weights within a source; 0: all alike."""
    weighted: bool
    """A caption's weight is the weight of its loss."""
    rule: _Rule

    def check(self, sources: Sequence[str]) -> None:
        """Whether a corpus with these sources can be trained on by this line.

        Raises:
            DataError: a name of the line is that of no source; lists those that there are.
        """
        for name in self.odds:
            if not any(_matches(name, source) for source in sources):
                raise DataError(
                    f"the caption policy '{self.line}' names the source '{name}', which no shard has: there are "
                    f"{', '.join(sorted(sources)) or 'none'}."
                )

    def choose(self, texts: Texts, keys: Words) -> Choice:
        """The texts of a step; `keys` uint64 [B] are all that chance depends on."""
        dense = self._dense(texts)
        column = self.rule(dense, keys)  # [B, M]
        text = np.where(column < 0, -1, texts.start[:-1, None] + column)
        weight = (column >= 0).astype(np.float32)
        if self.weighted:
            own = np.nan_to_num(texts.weight[np.maximum(text, 0)], nan=1.0)
            weight *= own.clip(0, _HEAVIEST).astype(np.float32)
        return Choice(text=text, weight=weight)

    def spans(self, ids: Sequence[npt.NDArray[Any]], keys: Words) -> list[tuple[int, int]]:
        """For each text (its token ids; `keys` uint64, one each) the part from, to that is trained on."""
        if not self.sentences:
            return [(0, len(row)) for row in ids]
        chance = uniform(keys, _SENTENCE)
        return [self._span(row, u) for row, u in zip(ids, chance.tolist(), strict=True)]

    def _span(self, ids: npt.NDArray[Any], chance: float) -> tuple[int, int]:
        cuts = [0, *sentence_ends(ids)]
        if self.skip_first and len(cuts) > 2:
            cuts = cuts[1:]
        starts = max(1, len(cuts) - self.sentences)
        first = int(chance * starts)
        return cuts[first], cuts[min(first + self.sentences, len(cuts) - 1)]

    def _dense(self, texts: Texts) -> _Dense:
        counts = np.diff(texts.start)
        columns = np.arange(int(counts.max()))
        there = columns < counts[:, None]
        at = np.where(there, texts.start[:-1, None] + columns, 0)
        source = texts.source[at].astype(np.int64)
        is_alt = np.array([_is_alt(name) for name in texts.sources])
        weight = np.nan_to_num(texts.weight[at].astype(np.float64), nan=1.0).clip(-_HEAVIEST, _HEAVIEST)
        odds = there.astype(np.float64)
        if self.temperature:
            quality = np.where(there, weight, -np.inf) / self.temperature
            odds *= np.exp(quality - quality.max(1, keepdims=True))
        if self.odds:
            odds = self._of_groups(odds, source, texts.sources)
        clip = np.where(there, texts.clip[at], np.nan)
        return _Dense(there=there, source=source, weight=weight, clip=clip, alt=is_alt[source] & there, odds=odds)

    def _of_groups(self, odds: Floats, source: Ints, sources: Sequence[str]) -> Floats:
        """Odds of a name are those of all its texts together."""
        names = list(self.odds)
        group = np.array([_group(names, name) for name in sources])[source]
        out = np.zeros_like(odds)
        for index, name in enumerate(names):
            inside = np.where(group == index, odds, 0.0)
            out += self.odds[name] * inside / np.maximum(inside.sum(1, keepdims=True), 1e-300)
        return out


def policy(line: str) -> Policy:
    """One line -> the policy.

    Raises:
        UnknownName: no policy is called so; the nearest is offered.
        DataError: the line cannot be read, or an argument is not allowed.
    """
    name, args, named = _parse(line)
    if name not in POLICIES:
        raise UnknownName("caption policy", name, POLICIES)
    return POLICIES[name](line, args, named)


def _parse(line: str) -> tuple[str, list[Any], dict[str, Any]]:
    wrong = DataError(
        f"the caption policy '{line}' cannot be read: a name with numbers is allowed, as in 'ratio(0.3)' or "
        f"'pick(alt=0.3, syn_text=0.7)'; known are {', '.join(sorted(POLICIES))}."
    )
    if len(line) > 1_000:
        raise wrong
    try:
        node = ast.parse(line.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, [], {}
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            raise wrong
        args = [ast.literal_eval(arg) for arg in node.args]
        named = {str(keyword.arg or ""): ast.literal_eval(keyword.value) for keyword in node.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise wrong from error
    for value in (*args, *named.values()):
        if not isinstance(value, bool | int | float) or not abs(value) <= 1e6 or "" in named:
            raise wrong
    return node.func.id, args, named


def _make(line: str, named: dict[str, Any], rule: _Rule, **fixed: Any) -> Policy:
    """The common arguments off `named`; what is left are odds of sources."""
    temperature, weighted = float(named.pop("temperature", 0.0)), bool(named.pop("weighted", False))
    odds = {name: float(value) for name, value in named.items()}
    if temperature < 0 or any(value < 0 for value in odds.values()):
        raise DataError(f"the caption policy '{line}' has a negative number: odds and a temperature are 0 or more.")
    if odds and not any(odds.values()):
        raise DataError(f"the caption policy '{line}' gives every source odds of 0: give one of them more.")
    defaults: dict[str, Any] = {"texts": 1, "joint": False, "sentences": 0, "skip_first": False}
    return Policy(line=line, rule=rule, odds=odds, temperature=temperature, weighted=weighted, **(defaults | fixed))


def _arguments(line: str, args: list[Any], named: dict[str, Any], **allowed: tuple[float, float, float | None]) -> Any:
    """Positional or named arguments, each with (least, most, default); None: it must be given."""
    if len(args) > len(allowed):
        names = f" but {', '.join(allowed)}" if allowed else ""
        raise DataError(f"the caption policy '{line}' takes no plain numbers{names}.")
    out = []
    for index, (name, (low, high, default)) in enumerate(allowed.items()):
        if index < len(args) and name in named:
            raise DataError(f"the caption policy '{line}' gives its number {name} twice: give it once.")
        value = args[index] if index < len(args) else named.pop(name, default)
        if value is None:
            raise DataError(f"the caption policy '{line}' lacks its number {name}: {low:g} to {high:g} is allowed.")
        if not low <= value <= high or (isinstance(low, int) and value != int(value)):
            raise DataError(f"the caption policy '{line}' has {name} = {value}: {low:g} to {high:g} is allowed.")
        out.append(value)
    return out


def _alt(line: str, args: list[Any], named: dict[str, Any]) -> Policy:
    if args or named.keys() - {"weighted"}:
        raise DataError(f"the caption policy '{line}' takes nothing but 'weighted': write 'alt'.")
    return _make(line, named, lambda dense, keys: _mixed(dense, keys, np.zeros(len(keys))))


def _pick(line: str, args: list[Any], named: dict[str, Any]) -> Policy:
    _arguments(line, args, named)
    return _make(line, named, _picked)


def _ratio(line: str, args: list[Any], named: dict[str, Any]) -> Policy:
    (share,) = _arguments(line, args, named, p=(0.0, 1.0, None))
    return _make(line, named, lambda dense, keys: _mixed(dense, keys, np.full(len(keys), float(share))))


def _adaptive(line: str, args: list[Any], named: dict[str, Any]) -> Policy:
    if "threshold" in named:
        (threshold,) = _arguments(line, args, named, threshold=(-1.0, 1.0, None))

        def hard(dense: _Dense, keys: Words) -> Ints:
            alt, _ = _kinds(dense, keys)
            known = _at(dense.clip, alt)
            return _mixed(dense, keys, np.where(known <= threshold, 1.0, 0.0))  # NaN is not <=

        return _make(line, named, hard)
    a, b = _arguments(line, args, named, a=(-1e6, 1e6, 50.0), b=(-1e6, 1e6, 0.0))

    def soft(dense: _Dense, keys: Words) -> Ints:
        alt, synthetic = _kinds(dense, keys)
        better = _at(dense.clip, synthetic) - _at(dense.clip, alt)
        share = 1 / (1 + np.exp(-(a * better + b).clip(-700, 700)))
        return _mixed(dense, keys, np.where(np.isnan(better), 0.5, share))

    return _make(line, named, soft)


def _both(line: str, args: list[Any], named: dict[str, Any]) -> Policy:
    _arguments(line, args, named)

    def rule(dense: _Dense, keys: Words) -> Ints:
        return _never_nothing(np.stack(_kinds(dense, keys), 1), dense, keys)

    return _make(line, named, rule, texts=2)


def _multi(line: str, args: list[Any], named: dict[str, Any]) -> Policy:
    (count,) = _arguments(line, args, named, texts=(1, _MOST, None))

    def rule(dense: _Dense, keys: Words) -> Ints:
        alt, _ = _kinds(dense, keys)
        times = _race(np.where(dense.alt, 0.0, dense.odds), keys, _PICK)
        order = np.argsort(times, axis=1, kind="stable")[:, : count - 1]
        found = np.where(np.isfinite(np.take_along_axis(times, order, 1)), order, -1)
        out = np.full((len(keys), count), -1, np.int64)
        out[:, 0], out[:, 1 : 1 + found.shape[1]] = alt, found
        return _never_nothing(out, dense, keys)

    return _make(line, named, rule, texts=int(count), joint=True)


def _sub(line: str, args: list[Any], named: dict[str, Any]) -> Policy:
    skip = bool(named.pop("skip_first", False))
    (count,) = _arguments(line, args, named, sentences=(1, 1_000, None))
    return _make(line, named, _picked, sentences=int(count), skip_first=skip)


POLICIES: dict[str, Callable[[str, list[Any], dict[str, Any]], Policy]] = {
    "alt": _alt,
    "pick": _pick,
    "ratio": _ratio,
    "adaptive": _adaptive,
    "both": _both,
    "multi": _multi,
    "sub": _sub,
}


def _race(odds: Floats, keys: Words, stream: int) -> Floats:
    """float [B, K]: times at which texts arrive; the first is text k with probability odds[k] / sum(odds). inf: never.

    Exponential clocks; their order is a draw without replacement (Efraimidis and Spirakis 2006).
    """
    chance = uniform(keys[:, None], stream, np.arange(odds.shape[1]))
    with np.errstate(divide="ignore"):
        return np.where(odds > 0, -np.log1p(-chance) / odds, np.inf)


def _only(times: Floats) -> Ints:
    """Column [B] that arrives first, -1 where none ever does."""
    out = times.argmin(1)
    return np.where(np.isfinite(_at(times, out)), out, -1)


def _at(values: Floats, column: Ints) -> Floats:
    """float [B]: the value in this column, NaN for column -1."""
    found = np.take_along_axis(values, np.maximum(column, 0)[:, None], 1)[:, 0]
    return np.where(column < 0, np.nan, found)


def _kinds(dense: _Dense, keys: Words) -> tuple[Ints, Ints]:
    """Columns [B] of a web text and of a synthetic one, -1 where there is none."""
    alt = _only(_race(dense.alt.astype(np.float64), keys, _PICK))
    return alt, _only(_race(np.where(dense.alt, 0.0, dense.odds), keys, _PICK))


def _mixed(dense: _Dense, keys: Words, share: Floats) -> Ints:
    """Column [B, 1]: synthetic with probability `share` [B], else the web text; the other kind where one is missing."""
    alt, synthetic = _kinds(dense, keys)
    want = uniform(keys, _KIND) < share
    out = np.where(want & (synthetic >= 0) | (alt < 0), synthetic, alt)
    return np.where(out < 0, _picked(dense, keys)[:, 0], out)[:, None]


def _never_nothing(columns: Ints, dense: _Dense, keys: Words) -> Ints:
    """Columns [B, M], with some text as the last of a picture whose odds leave it none."""
    nothing = (columns < 0).all(1)
    columns[nothing, -1] = _picked(dense, keys)[nothing, 0]
    return columns


def _picked(dense: _Dense, keys: Words) -> Ints:
    """Column [B, 1] by odds; without any, a web text; without that, any."""
    out = _only(_race(dense.odds, keys, _PICK))
    for other in (dense.alt, dense.there):
        out = np.where(out < 0, _only(_race(other.astype(np.float64), keys, _PICK)), out)
    return out[:, None]


def _is_alt(source: str) -> bool:
    return source == "alt" or source.endswith(":alt")


def _matches(name: str, source: str) -> bool:
    plain = "".join(char if char.isidentifier() or char.isdigit() else "_" for char in source)
    return plain.startswith(name) or (name == "alt" and _is_alt(source))


def _group(names: Sequence[str], source: str) -> int:
    """Index of the longest name that stands for a source, -1 for none."""
    found = [(len(name), index) for index, name in enumerate(names) if _matches(name, source)]
    return max(found)[1] if found else -1


@lru_cache(maxsize=1)
def _marks() -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """bool [vocabulary] each: ids that are a word of punctuation with a full stop, '!' or '?'; ids that are a digit."""
    from mobileclip.tokenizer import VOCABULARY, decode

    words = [decode([index]) for index in range(VOCABULARY)]
    ends = [word[-1:] == " " and not any(map(str.isalnum, word)) and any(c in ".!?" for c in word) for word in words]
    return np.array(ends), np.array([word[:-1].isdigit() for word in words])


def sentence_ends(ids: npt.NDArray[Any]) -> list[int]:
    """Token ids of a text -> the place behind each of its sentences; the last is the end of the text.

    A full stop before a digit ends none ("3.5 metres").
    """
    ends, digits = _marks()
    after = np.flatnonzero(ends[ids]) + 1
    inside = after[after < len(ids)]
    return [*inside[~digits[ids[inside]]].tolist(), len(ids)]


def token_rows(ids: Sequence[npt.NDArray[Any]], context: int = CONTEXT) -> npt.NDArray[np.int32]:
    """Token ids of R texts -> int32 [R, context]: START, ids, END, zeros; END is the last of a text that is cut."""
    out = np.zeros((len(ids), context), np.int32)
    out[:, 0] = START
    for into, row in zip(out, ids, strict=True):
        size = min(len(row), context - 2)
        into[1 : size + 1] = row[:size]
        into[size + 1] = END
    return out


@lru_cache(maxsize=4)
def _factors(context: int) -> Words:
    return hashed(np.arange(context)) | np.uint64(1)


def row_hashes(rows: npt.NDArray[np.int32]) -> Ints:
    """int32 [..., context] -> int64 [...]: equal for equal rows, and by chance for two of 2**64 others."""
    with np.errstate(over="ignore"):
        total = (rows.astype(np.uint64) * _factors(rows.shape[-1])).sum(-1, dtype=np.uint64)
    return hashed(total).view(np.int64)
