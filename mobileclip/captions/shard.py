"""A shard as caption work sees it: every key of the tar is a row, whatever is wrong with it.

    with Shard.open("web/00012.tar") as shard:
        shard.rows[7].texts["alt"]                # raw captions by source
        shard.image(shard.rows[7])                # the encoded picture, a view of the mapped tar
        for rows, pixels in shard.decoded(chunks): ...

Unlike the loader's index, which holds what can be trained on, nothing is left out here: a key without a picture or
with a broken one is a row whose `status` says so, so that side-cars stay aligned with the tar for ever.

Pictures are decoded once for all stages that look at them, at no less than `SIDE` pixels a side where they have them:
always at the same scale, so that what a stage makes of a picture never depends on which others run beside it.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mobileclip.data import remote, shards, sidecar, tars
from mobileclip.data.decode import Pixels, open_picture
from mobileclip.data.places import stem_of
from mobileclip.data.problems import Tally
from mobileclip.data.shards import Data, Span
from mobileclip.errors import ImageError

SIDE = 512
"""Pixels of the short side that decoding keeps, where a picture has them."""
NO_IMAGE = "no image"
"""Status of a row that has none."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One key of a tar."""

    key: str
    """Name of its members up to the first dot."""
    uid: str
    """32 hexadecimal digits: those of `.json`, else a hash of what it names, else of the shard's name and the key."""
    texts: Mapping[str, tuple[str, ...]]
    """Raw captions by source: "alt", "syn_text", ...; a source without captions is absent."""
    image: Span | None
    """The picture's bytes."""
    license: str = ""
    """What `.json` says."""
    url: str = ""
    """What `.json` says."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """The object in `.json`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shard:
    """The rows of a tar and its mapped bytes."""

    name: str
    """What side-cars call it."""
    place: str
    """Path or address of the tar."""
    rows: tuple[Row, ...]
    """In the order in which keys begin."""
    problems: Mapping[str, int]
    """What is odd in the tar, and how often."""
    keys: str
    """Hash of the keys in their order; side-cars carry it."""
    content: str
    """Hash of the tar's headers and captions: changes when its members or texts do."""
    data: Data = field(repr=False)
    """The tar's bytes."""

    @classmethod
    @contextmanager
    def open(cls, place: str, name: str = "", *, json_keys: Sequence[str] = (), cache: Any = None) -> Iterator["Shard"]:
        """Map and read a tar.

        Raises:
            DataError: it is missing or not a tar.
        """
        with tars.opened(remote.local(place, cache)) as data:
            yield _read(data, place, name or stem_of(place), tuple(json_keys))

    def image(self, row: Row) -> memoryview:
        """The encoded picture of a row that has one."""
        assert row.image is not None
        return memoryview(self.data)[row.image.offset : row.image.offset + row.image.size]

    def pixels(self, row: Row) -> Pixels:
        """RGB uint8 [H, W, 3], upright; reduced by a whole number where the short side keeps `SIDE` pixels.

        Raises:
            ImageError: there is none, or it cannot be read.
        """
        if row.image is None or row.image.size == 0:
            raise ImageError(NO_IMAGE if row.image is None else "the image is empty (0 bytes)")
        picture = open_picture(self.image(row))
        pixels, _ = picture.decode(SIDE, (0, 0, picture.height, picture.width))
        factor = min(pixels.shape[:2]) // SIDE
        if factor >= 2:  # not a JPEG, or one of more than eight times the size: box means of whole squares
            height, width = (side // factor * factor for side in pixels.shape[:2])
            blocks = pixels[:height, :width].reshape(height // factor, factor, width // factor, factor, 3)
            pixels = (blocks.mean(axis=(1, 3), dtype=np.float32) + 0.5).astype(np.uint8)
        return pixels


def _read(data: Data, place: str, name: str, json_keys: tuple[str, ...]) -> Shard:
    tally, walk = Tally(), tars.walk(data, place)
    digest = hashlib.sha256()
    rows = []
    for key, members in shards.group(walk, tally).samples.items():
        found = shards.described(data, key, members, tally, json_keys)
        texts: dict[str, list[str]] = {}
        for text in found.texts:
            texts.setdefault(text.source, []).append(text.text)
        row = Row(
            key=key,
            uid=_uid(found.uid, name, key),
            texts={source: tuple(captions) for source, captions in texts.items()},
            image=members.get(found.extension),
            license=_string(found.record, "license"),
            url=_string(found.record, "url"),
            record=found.record,
        )
        rows.append(row)
        digest.update(repr((key, row.uid, row.image, row.texts, row.license)).encode("utf-8", "surrogatepass"))
    return Shard(
        name=name,
        place=place,
        rows=tuple(rows),
        problems={reason: problem.count for reason, problem in tally.result().items()},
        keys=sidecar.keys_hash(row.key for row in rows),
        content=digest.hexdigest(),
        data=data,
    )


def _uid(found: str, name: str, key: str) -> str:
    """The 32 digits by which the world knows a sample, or a hash in their form."""
    if len(found) == 32 and not set(found) - set("0123456789abcdef"):
        return found
    return hashlib.sha256((found or f"{name}/{key}").encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _string(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    return value[:2_000] if isinstance(value, str) else ""
