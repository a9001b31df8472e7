"""What an encoder is measured on: labelled pictures, or pictures with captions.

    pets = open_classification("pets/test")             # class folders, or tars with .cls members
    photos = open_retrieval("photos")                   # captions.jsonl, COCO, Flickr30k, packed shards

Layouts are detected (classification_sets.py, retrieval_sets.py); what cannot be detected is told with the layouts that
are known.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mobileclip.errors import DataError
from mobileclip.evaluate.pictures import Pictures, Selection

LOST_SHARE = 0.01
"""Share of a set's pictures that may be missing or damaged."""


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Pictures, each of one class."""

    name: str
    pictures: Pictures
    labels: npt.NDArray[np.int64]
    """[N], each in 0..C."""
    classes: tuple[str, ...]
    """C names, in order of index."""
    templates: tuple[str, ...]
    """With `{}` or `{c}` where the name goes."""
    missing: int = 0
    """Pictures that the set names and that are not there."""

    def limited(self, limit: int | None) -> "Classification":
        """At most `limit` pictures, as many of each class as possible; all where it is None."""
        check_limit(limit)
        if limit is None or limit >= len(self.labels):
            return self
        order = np.argsort(self.labels, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(self.labels, minlength=len(self.classes)))])
        turn = np.empty(len(order), np.int64)  # how many of its class come before it
        turn[order] = np.arange(len(order)) - starts[self.labels[order]]
        rows = np.sort(np.lexsort((self.labels, turn))[:limit])
        return replace(self, pictures=Selection(self.pictures, rows), labels=self.labels[rows])


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Pictures, each with at least one caption."""

    name: str
    pictures: Pictures
    captions: tuple[tuple[str, ...], ...]
    missing: int = 0
    """Pictures that the set names and that are not there."""
    left_out: int = 0
    """Rows of the caption file, or packed samples, without a caption that can be used."""

    def limited(self, limit: int | None) -> "Retrieval":
        """At most `limit` pictures, evenly spread over the set; all where it is None."""
        check_limit(limit)
        if limit is None or limit >= len(self.captions):
            return self
        rows = np.arange(limit, dtype=np.int64) * len(self.captions) // limit
        captions = tuple(self.captions[row] for row in rows)
        return replace(self, pictures=Selection(self.pictures, rows), captions=captions)


def check_limit(limit: int | None) -> None:
    """Raise for a limit that leaves nothing."""
    if limit is not None and limit < 1:
        raise DataError(f"a limit of {limit} leaves no picture: give at least 1, or leave it out.")
