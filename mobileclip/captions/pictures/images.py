"""Stage `images`: what a picture is, whatever it shows: its bytes' hash, a perceptual hash, its size.

    [[stage]]
    kind = "images"

Perceptual hashes are made from the pixels that other stages look at in the same pass, so they cost no decode of their
own. A picture without structure (one colour, or nearly) has no perceptual hash: it would be a hash of noise.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image

from mobileclip.captions.pictures import phash
from mobileclip.captions.shard import SIDE
from mobileclip.captions.stage import Batch, Columns, Everything, Prepared, chosen
from mobileclip.data.decode import Pixels, open_picture
from mobileclip.images import FORMATS

_TURNED = (5, 6, 7, 8)  # EXIF's orientations that swap height and width
_ORIENTATION = 0x0112


@dataclass(frozen=True, kw_only=True)
class Images:
    """Hashes and sizes of pictures."""

    kind: ClassVar[str] = "images"
    version: ClassVar[int] = 1
    prepares: ClassVar[bool] = False
    divisible: ClassVar[bool] = True

    name: str = "images"
    """What other stages call it."""

    def needs(self) -> tuple[str, ...]:
        return ()

    def looks(self) -> bool:
        return True

    def points_at(self) -> Mapping[str, str]:
        return {}

    def prepare(self, everything: Everything) -> pa.Table | None:
        return None

    def worker(self, prepared: Prepared | None) -> "ImagesWorker":
        return ImagesWorker()


class ImagesWorker:
    """Pictures -> hashes and sizes."""

    schema: ClassVar[pa.Schema] = pa.schema(
        [
            pa.field("sha256", pa.string()),  # of the file, hexadecimal
            pa.field("phash", pa.uint64()),  # null: none, or of one colour
            pa.field("width", pa.uint32()),  # pixels of the full picture, upright
            pa.field("height", pa.uint32()),
            pa.field("bytes", pa.uint32()),
        ]
    )
    provenance: ClassVar[Mapping[str, Any]] = {"phash": "64 bits, cosine transform of 32 x 32 grey", "flat": phash.FLAT}

    def __call__(self, batch: Batch) -> Columns:
        count, places = len(batch.rows), chosen(batch)
        out: dict[str, list[Any]] = {name: [None] * count for name in self.schema.names}
        grey = np.zeros((len(places), phash.GRID, phash.GRID), np.float32)
        for into, place in zip(grey, places, strict=True):
            pixels, data = batch.pixels[place], batch.images[place]
            assert pixels is not None, "a row that is ok has pixels"
            assert data is not None, "a row that is ok has a file"
            into[:] = phash.reduced(pixels)
            out["sha256"][place] = hashlib.sha256(data).hexdigest()
            out["width"][place], out["height"][place] = full_size(data, pixels)
            out["bytes"][place] = len(data)
        words, structured = phash.hashes(grey)
        for place, word, some in zip(places, words.tolist(), structured.tolist(), strict=True):
            out["phash"][place] = word if some else None
        return out


def full_size(data: memoryview, pixels: Pixels) -> tuple[int, int]:
    """(width, height) of the upright picture in `data`, of which `pixels` may be a reduced form."""
    if min(pixels.shape[:2]) < SIDE:  # what is this small was not reduced
        return pixels.shape[1], pixels.shape[0]
    if bytes(data[:2]) == b"\xff\xd8":
        picture = open_picture(data)
        return picture.width, picture.height
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:  # it has been decoded, so it is harmless
        width, height = image.size
        turned = image.format != "TIFF" and _orientation(image) in _TURNED  # Pillow turns a TIFF by itself
    return (height, width) if turned else (width, height)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # as `read_image`: a broken EXIF block says nothing
        return 1
