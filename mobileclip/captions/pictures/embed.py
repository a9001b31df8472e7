"""Stage `embed`: a picture as a CLIP model sees it, and what the user's own heads make of that.

    [[stage]]
    kind = "embed"
    model = "runs/mobileclip_s2/best"                 # or "open_clip:ViT-L-14:openai", ...: see scorer.py
    device = "cuda"
    bf16 = true
    heads = { aesthetic = "aesthetic.safetensors" }   # a column head_aesthetic; see heads.py

Pixels are those that the other stages see, resized as the model is evaluated: nothing is encoded as JPEG in between.
The column says of itself which model made it, so that `score` takes the text tower of the same.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mobileclip.captions.pictures import heads as heads_
from mobileclip.captions.pictures import scorer as scorer_
from mobileclip.captions.stage import Batch, Columns, Everything, Prepared, checked
from mobileclip.errors import DataError, ImageError

if TYPE_CHECKING:
    from mobileclip.captions.pictures.heads import Head
    from mobileclip.captions.pictures.scorer import Scorer

COLUMN = "image_emb"
"""Name of the column of embeddings."""
MADE_BY = b"scorer"
"""Key of that column's metadata: which model made it, as JSON."""
NOT_FINITE = "the embedding is not finite"
"""Status of a picture that the model fails on."""


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Embeddings of pictures."""

    kind: ClassVar[str] = "embed"
    version: ClassVar[int] = 1
    prepares: ClassVar[bool] = False
    divisible: ClassVar[bool] = True

    name: str = "embed"
    """What other stages call it."""
    model: str
    """What `mobileclip.load` takes, or `open_clip:NAME:WEIGHTS`."""
    device: str = "cpu"
    """Where to compute."""
    bf16: bool = False
    """Compute in bfloat16 where torch's autocast does."""
    batch: int = 32
    """Pictures of a pass; part of what decides the last bits."""
    heads: Mapping[str, str] = field(default_factory=dict)
    """Name -> safetensors file of a head on the embedding."""

    def __post_init__(self) -> None:
        scorer_.check(self.device, self.bf16, self.batch, self.name)
        for head in self.heads:
            checked(
                head.isidentifier() and len(head) <= 48,
                f"{self.name}.heads has one called '{head[:60]}': letters, digits and '_' are allowed, up to 48.",
            )

    def needs(self) -> tuple[str, ...]:
        return ()

    def looks(self) -> bool:
        return True

    def points_at(self) -> Mapping[str, str]:
        found = {"model": scorer_.points_at(self.model)}
        return found | {f"heads.{head}": heads_.load(Path(path)).sha256 for head, path in sorted(self.heads.items())}

    def prepare(self, everything: Everything) -> pa.Table | None:
        return None

    def worker(self, prepared: Prepared | None) -> "EmbedWorker":
        found = {head: heads_.load(Path(path)) for head, path in sorted(self.heads.items())}
        scorer = scorer_.scorer_of(self.model, self.device, self.bf16)
        for head, loaded in found.items():
            loaded.require(scorer.dim, f"{self.name}.heads.{head}")
        return EmbedWorker(scorer, found, self.batch)


class EmbedWorker:
    """Pixels -> embeddings and heads' values."""

    def __init__(self, scorer: "Scorer", heads: Mapping[str, "Head"], batch: int) -> None:
        self.scorer, self.heads, self.batch = scorer, heads, batch
        made_by = {MADE_BY: json.dumps({"model": scorer.model, "weights": scorer.weights}).encode()}
        self.schema = pa.schema(
            [
                pa.field(COLUMN, pa.list_(pa.float16(), scorer.dim), metadata=made_by),
                *(pa.field(f"head_{head}", pa.float32()) for head in heads),
            ]
        )
        self.provenance: Mapping[str, Any] = {
            **scorer.provenance,
            "batch": batch,
            "heads": {name: head.sha256 for name, head in heads.items()},
        }

    def __call__(self, batch: Batch) -> Columns:
        squares = self.scorer.squares(batch.pixels)
        rows = self.scorer.images(squares, self.batch).astype(np.float16)
        there: npt.NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(rows), axis=1)
        status = list(batch.status)
        for place, square in enumerate(squares):
            if isinstance(square, ImageError):
                status[place] = f"broken image: {square}"
            elif square is not None and not there[place]:
                status[place] = NOT_FINITE
        flat = pa.array(np.where(there[:, None], rows, np.float16(0)).reshape(-1), pa.float16())
        column = pa.FixedSizeListArray.from_arrays(flat, self.scorer.dim, mask=pa.array(~there))
        out: dict[str, Any] = {"status": status, COLUMN: column}
        for name, head in self.heads.items():
            values = head(rows[there])
            found: list[float | None] = [None] * len(rows)
            for place, value in zip(np.flatnonzero(there).tolist(), values.tolist(), strict=True):
                found[place] = value
            out[f"head_{name}"] = found
        return out


def embeddings(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.bool_]]:
    """A column of embeddings -> float16 [N, D], and bool [N]: which rows have one; the others are zeros."""
    array = column.combine_chunks()
    dim, there = array.type.list_size, np.asarray(array.is_valid())
    rows = np.zeros((len(array), dim), np.float16)
    rows[there] = array.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)  # without those that are null
    return rows, there


def made_by(column: pa.Field) -> tuple[str, str]:
    """(model, hash of its weights) that a column of embeddings says of itself.

    Raises:
        DataError: it says nothing.
    """
    try:
        found = json.loads((column.metadata or {})[MADE_BY])
        return str(found["model"]), str(found["weights"])
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"the column '{column.name}' does not say which model made it: remove its folder, and run the stage again."
        ) from error
