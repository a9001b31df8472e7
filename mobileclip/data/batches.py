"""A batch, and its texts: from rows of a corpus to token rows, without a string in between.

Captions are tokens in the index already. Here those of a batch's samples are gathered from their shards (one pass of
array operations a shard), the policy chooses among them, and the chosen ids are cut to rows of 77.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mobileclip.data.order import Ints, Words, hashed
from mobileclip.data.policies import Policy, Texts, row_hashes, token_rows

if TYPE_CHECKING:
    from mobileclip.data.corpus import Corpus
    from mobileclip.data.index import Index
    from mobileclip.data.reading import Sample


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one rank trains on in one step: B samples, M texts each."""

    images: Tensor
    """uint8 [B, 3, S, S], channels last, on the device; augmented, not normalised (`augment.normalise`)."""
    tokens: Tensor
    """int32 [B, M, 77]: START, ids, END, zeros; END is the last of a text that is cut."""
    text_weight: Tensor
    """float32 [B, M]: of each text's loss; 0 where a sample has no such text."""
    text_hash: Tensor
    """int64 [B, M]: equal where the token rows are equal."""
    image_id: Tensor
    """int64 [B]: equal where samples are the same picture (hash of its uid)."""
    source: npt.NDArray[np.uint8]
    """[B, M]: place in the corpus' `sources`; of no meaning where the weight is 0."""
    teacher_image: Tensor | None
    """float32 [B, D]: of the augmentation that was replayed; None without teachers."""
    teacher_text: Tensor | None
    """float32 [B, M, D]: of the chosen texts; zero where the weight is 0."""
    keys: list[str]
    """Names of the samples, `shard/key`."""
    step: int
    """Number of the batch in the run."""
    epoch: int
    """Passes over the corpus before this one."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The texts of a batch as arrays."""

    tokens: npt.NDArray[np.int32]
    """[B, M, 77]"""
    weight: npt.NDArray[np.float32]
    """[B, M]"""
    hashes: Ints
    """[B, M]"""
    source: npt.NDArray[np.uint8]
    """[B, M]"""
    teacher: Ints
    """[B, M]: row among a sample's text embeddings, -1 none."""


@lru_cache(maxsize=1_024)
def _renamed(own: tuple[str, ...], all_of_them: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    """Place of a source in a shard -> its place in the corpus."""
    return np.array([all_of_them.index(name) for name in own] or [0], np.uint8)


def _ragged(start: Ints, counts: Ints) -> Ints:
    """start[i], start[i] + 1, ... counts[i] numbers for each i, one behind the other."""
    ends = np.cumsum(counts)
    out: Ints = np.repeat(start - ends + counts, counts) + np.arange(int(ends[-1]))
    return out


def rows_of(corpus: "Corpus", samples: "Sequence[Sample]", policy: Policy) -> Rows:
    """The texts of B samples."""
    shard, row = (np.array([getattr(sample, name) for sample in samples]) for name in ("shard", "row"))
    keys = np.array([sample.key for sample in samples], np.uint64)
    indices = [sample.index for sample in samples]
    members = {number: np.flatnonzero(shard == number) for number in np.unique(shard).tolist()}
    counts, first = np.empty(len(row), np.int64), np.empty(len(row), np.int64)
    for inside in members.values():
        text_start = indices[inside[0]].text_start
        first[inside] = text_start[row[inside]]
        counts[inside] = text_start[row[inside] + 1] - first[inside]
    start = np.concatenate(([0], np.cumsum(counts)))
    total = int(start[-1])
    source, weight, clip = np.empty(total, np.uint8), np.empty(total, np.float32), np.empty(total, np.float32)
    teacher, origin = np.empty(total, np.int64), np.empty(total, np.int64)
    for inside in members.values():
        index = indices[inside[0]]
        there, here = _ragged(first[inside], counts[inside]), _ragged(start[inside], counts[inside])
        source[here] = _renamed(index.sources, corpus.sources)[index.source[there]]
        weight[here], clip[here], teacher[here] = index.weight[there], index.clip[there], index.teacher[there]
        origin[here] = there
    texts = Texts(start=start, source=source, weight=weight, clip=clip, sources=corpus.sources)
    choice = policy.choose(texts, keys)
    chosen = np.maximum(choice.text, 0)
    tokens = _tokens(policy, indices, choice.text, origin[chosen], keys)
    return Rows(
        tokens=tokens,
        weight=choice.weight,
        hashes=row_hashes(tokens),
        source=source[chosen],
        teacher=np.where(choice.text < 0, -1, teacher[chosen]),
    )


_NOTHING = np.zeros(0, np.uint16)


def _tokens(policy: Policy, indices: "list[Index]", text: Ints, origin: Ints, keys: Words) -> npt.NDArray[np.int32]:
    """int32 [B, M, 77] of the chosen texts [B, M] (-1: an empty row), which are number `origin` in their shards."""
    ids = []
    for index, wanted, places in zip(indices, text.tolist(), origin.tolist(), strict=True):
        for which, place in zip(wanted, places, strict=True):
            begin, end = index.token_start[place : place + 2].tolist()
            ids.append(_NOTHING if which < 0 else index.tokens[begin:end])
    if policy.sentences:
        spans = policy.spans(ids, hashed(keys[:, None], np.arange(text.shape[1])).reshape(-1))
        ids = [row[begin:end] for row, (begin, end) in zip(ids, spans, strict=True)]
    return token_rows(ids).reshape(*text.shape, -1)
