"""Stage `score`: how well captions fit their picture, find it again among others, and agree with the alt text.

    [[stage]]
    kind = "score"
    sources = ["clean", "coca"]         # stages with texts, or sources in the shards
    alt = "clean"                       # what captions are compared with

For each source s, lists beside its texts: `clip_s`, the cosine of a caption and its picture (CLIPScore without its
factor and floor); `rank_s`, how many pictures of the same block of rows fit the caption better than its own, 0 being
found at once, as captions that fit everything are not (`pool` says among how many); `agree_s`, the cosine of a caption
and the row's alt text as the text tower sees them, with phrases such as "a photo of" left out of both. For each row,
`spread_s` says how different its captions are from one another.

Texts go through the text tower of the model that made the embeddings, which the embeddings name; there is no second
place to name it. A text that is empty has nulls; so has a row without an embedding, whose status is taken over.

Sources: CLIPScore, Hessel et al. (2021), section 3; agreement after SIEVE, Mahmoud et al. (2024), section 3.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mobileclip.captions.pictures import scorer as scorer_
from mobileclip.captions.pictures.embed import COLUMN, embeddings, made_by
from mobileclip.captions.stage import OK, Batch, Columns, Everything, Prepared, checked
from mobileclip.errors import DataError

if TYPE_CHECKING:
    from mobileclip.captions.pictures.scorer import Scorer

_AS_GOOD = 1e-9
"""Cosines that differ by less are the same picture's, twice."""
_TEXTS = 2_048  # of a product with all pictures of a block
_WORD = re.compile(r"\w+")
_MEDIUM = re.compile(
    r"\b(?:(?:this|it|here|there)\s+is\s+)?(?:(?:an?|the|some)\s+)?"
    r"(?:(?:black[\s-]and[\s-]white|close[\s-]?up|full|stock|aerial|high[\s-]resolution|vector|digital|colou?r|vintage|old"
    r"|beautiful|blurry|cropped|professional)\s+){0,3}"
    r"(?:photograph|photo|picture|image|pic|illustration|drawing|painting|rendering|render|sketch|portrait|screenshot"
    r"|close[\s-]?up|shot|view|scene)s?\s+(?:of|showing|depicting|featuring|that\s+shows|which\s+shows)\s+",
    re.IGNORECASE,
)

Vectors = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Captions against pictures and alt texts."""

    kind: ClassVar[str] = "score"
    version: ClassVar[int] = 1
    prepares: ClassVar[bool] = False
    divisible: ClassVar[bool] = False

    name: str = "score"
    """What other stages call it."""
    embed: str = "embed"
    """Stage with the pictures' embeddings."""
    sources: tuple[str, ...] = ("clean",)
    """Stages with texts, or sources in the shards."""
    alt: str = "clean"
    """Which of these, or another, holds the alt text."""
    device: str = "cpu"
    """Where to compute."""
    bf16: bool = False
    """Compute in bfloat16 where torch's autocast does."""
    batch: int = 64
    """Texts of a pass; part of what decides the last bits."""

    def __post_init__(self) -> None:
        scorer_.check(self.device, self.bf16, self.batch, self.name)
        checked(len(self.sources) > 0, f"{self.name}.sources is empty: name what is to be scored.")
        checked(len(set(self.sources)) == len(self.sources), f"{self.name}.sources names one twice: name each once.")

    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.embed, *self.sources, self.alt)))

    def looks(self) -> bool:
        return False

    def points_at(self) -> Mapping[str, str]:
        return {}

    def prepare(self, everything: Everything) -> pa.Table | None:
        return None

    def worker(self, prepared: Prepared | None) -> "ScoreWorker":
        return ScoreWorker(self)


class ScoreWorker:
    """Texts and embeddings -> cosines and ranks; loads the model that the first embeddings name."""

    def __init__(self, stage: Score) -> None:
        self.stage = stage
        self._scorer: Scorer | None = None
        fields = []
        for source in stage.sources:
            fields += [
                pa.field(f"clip_{source}", pa.list_(pa.float32())),
                pa.field(f"rank_{source}", pa.list_(pa.uint16())),
                pa.field(f"agree_{source}", pa.list_(pa.float32())),
                pa.field(f"spread_{source}", pa.float32()),
            ]
        self.schema = pa.schema([*fields, pa.field("pool", pa.uint16())])

    @property
    def provenance(self) -> Mapping[str, Any]:
        found = {} if self._scorer is None else dict(self._scorer.provenance)
        return {**found, "batch": self.stage.batch, "text": "CLIP's text tower", "ranks": "within a block of rows"}

    def __call__(self, batch: Batch) -> Columns:
        table = batch.inputs[self.stage.embed]
        rows, there = embeddings(table.column(COLUMN))
        there &= np.array([status == OK for status in batch.status], np.bool_)
        said = table.column("status").to_pylist()
        status = [said[place] if mine == OK and not there[place] else mine for place, mine in enumerate(batch.status)]
        texts = {name: batch.texts(name) for name in (*self.stage.sources, self.stage.alt)}
        encoded = self._encoded(table.schema.field(COLUMN), texts, there)
        pictures = rows[there].astype(np.float64)
        pictures /= np.maximum(np.linalg.norm(pictures, axis=1, keepdims=True), 1e-12)  # float16 has moved them
        own = np.cumsum(there) - 1  # a row's place among the pictures
        out: dict[str, Any] = {"status": status, "pool": [len(pictures) if one else None for one in there.tolist()]}
        for source in self.stage.sources:
            clip, rank = _fits(texts[source], encoded, pictures, own, there)
            out[f"clip_{source}"], out[f"rank_{source}"] = clip, rank
            out[f"agree_{source}"] = self._agree(source, texts, encoded, there)
            out[f"spread_{source}"] = [
                spread(captions) if one else None for captions, one in zip(texts[source], there.tolist(), strict=True)
            ]
        return out

    def _encoded(
        self, column: pa.Field, texts: Mapping[str, Sequence[Sequence[str]]], there: npt.NDArray[np.bool_]
    ) -> Mapping[str, Vectors]:
        """Every distinct text of the rows that are there, as it is and without its medium -> unit vector [D]."""
        distinct: dict[str, None] = {}
        for name, of_rows in texts.items():
            for place in np.flatnonzero(there).tolist():
                for text in of_rows[place]:
                    if name in self.stage.sources:
                        distinct[text] = None
                    distinct[unmediated(text)] = None
        wanted = [text for text in distinct if text.strip()]
        if not wanted:
            return {}
        vectors = self._loaded(column).texts(wanted, self.stage.batch).astype(np.float64)
        return {text: vector for text, vector in zip(wanted, vectors, strict=True) if np.isfinite(vector).all()}

    def _loaded(self, column: pa.Field) -> "Scorer":
        model, weights = made_by(column)
        found = self._scorer
        if found is None or found.model != model:
            found = self._scorer = scorer_.scorer_of(model, self.stage.device, self.stage.bf16)
        if found.weights != weights:
            then, now = (digest[:12] or "none" for digest in (weights, found.weights))
            raise DataError(
                f"stage '{self.stage.embed}' was made with other weights of '{model}' (sha256 {then}, there are now "
                f"{now}): restore them, or run '{self.stage.embed}' again."
            )
        return found

    def _agree(
        self,
        source: str,
        texts: Mapping[str, Sequence[Sequence[str]]],
        encoded: Mapping[str, Vectors],
        there: npt.NDArray[np.bool_],
    ) -> list[list[float | None] | None]:
        """Cosine with the nearest of the row's alt texts; nothing for the alt texts themselves."""
        if source == self.stage.alt:
            return [None] * len(there)
        out: list[list[float | None] | None] = []
        for place, one in enumerate(there.tolist()):
            known = [encoded.get(unmediated(text)) for text in texts[self.stage.alt][place]] if one else []
            alts = [vector for vector in known if vector is not None]
            if not alts:
                out.append([None] * len(texts[source][place]) if one else None)
                continue
            mine = [encoded.get(unmediated(text)) for text in texts[source][place]]
            out.append([None if vector is None else max(float(alt @ vector) for alt in alts) for vector in mine])
        return out


def _fits(
    texts: Sequence[Sequence[str]],
    encoded: Mapping[str, Vectors],
    pictures: Vectors,
    own: npt.NDArray[np.int64],
    there: npt.NDArray[np.bool_],
) -> tuple[list[list[float | None] | None], list[list[int | None] | None]]:
    """Cosine of each text with its own picture, and how many pictures have a larger one."""
    clip: list[list[float | None] | None] = [
        [None] * len(found) if one else None for found, one in zip(texts, there.tolist(), strict=True)
    ]
    rank: list[list[int | None] | None] = [None if found is None else [None] * len(found) for found in clip]
    asked = [
        (place, index)
        for place in np.flatnonzero(there).tolist()
        for index, text in enumerate(texts[place])
        if text in encoded
    ]
    for first in range(0, len(asked), _TEXTS):
        some = asked[first : first + _TEXTS]
        vectors = np.stack([encoded[texts[place][index]] for place, index in some])
        cosines = vectors @ pictures.T  # [T, P]
        mine = cosines[np.arange(len(some)), own[[place for place, _ in some]]]
        better = (cosines > mine[:, None] + _AS_GOOD).sum(axis=1)
        for (place, index), cosine, count in zip(some, mine.tolist(), better.tolist(), strict=True):
            mine_clip, mine_rank = clip[place], rank[place]
            assert mine_clip is not None, "asked of rows that are there"
            assert mine_rank is not None, "asked of rows that are there"
            mine_clip[index], mine_rank[index] = cosine, count
    return clip, rank


def unmediated(text: str) -> str:
    """A text without phrases that name the medium; itself where nothing else is in it.

    Source: SIEVE (2024), section 3.2, masks such phrases; this list is our own.
    """
    if not _MEDIUM.search(f"{text} "):
        return text
    found = " ".join(_MEDIUM.sub(" ", f"{text} ").split())
    return found or text


def spread(captions: Sequence[str]) -> float | None:
    """1 - mean pairwise Jaccard index of the captions' sets of words; None for fewer than two that have words."""
    sets = [found for text in captions if (found := frozenset(_WORD.findall(text.lower())))]
    pairs = list(itertools.combinations(sets, 2))
    if not pairs:
        return None
    return 1 - sum(len(a & b) / len(a | b) for a, b in pairs) / len(pairs)
