"""The pictures that set the ranges of activations: of a folder, of packed shards, or of a corpus of scenes.

    Calibration.of("photos").inputs(fit)          # pictures in a folder
    Calibration.of("shards")                      # tars: mobileclip/data/index.py
    Calibration.of("scenes")                      # what `write_scenes` wrote: those to train on

Never calibrate with what an artifact is judged by: `shared` tells which pictures are in both.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from mobileclip.errors import DataError, ImageError, MobileClipError
from mobileclip.images import load_images, read_image

LEAST, MOST = 8, 128
"""Pictures: fewer say too little of the ranges, so many show them."""


@dataclass(frozen=True)
class Packed:
    """A picture in a tar."""

    tar: Path
    row: int

    @property
    def name(self) -> str:
        """Of its sample, with the tar's."""
        from mobileclip.data.index import index

        return f"{self.tar.name}/{index(self.tar).key(self.row)}"

    def read_bytes(self) -> bytes:
        """The picture as it is packed.

        Raises:
            DataError: the tar cannot be read.
        """
        from mobileclip.data.index import index

        return bytes(index(self.tar).image_bytes(self.row))


Picture = Path | Packed


@dataclass(frozen=True)
class Calibration:
    """Pictures of a folder, spread evenly over its names."""

    folder: str
    images: tuple[Picture, ...]

    @staticmethod
    def of(folder: str | Path) -> "Calibration":
        """At most `MOST` pictures of a folder of pictures, of tars, or with a folder `train` of one of them.

        Raises:
            ImageError: no picture.
            DataError: a tar that cannot be read.
            MobileClipError: fewer than `LEAST`.
        """
        found = found_in(folder)
        if len(found) < LEAST:
            raise MobileClipError(
                f"{folder} holds {len(found)} picture(s): calibration needs {LEAST} or more that look like what the "
                f"app will see, and takes up to {MOST}."
            )
        step = max(len(found) / MOST, 1.0)
        return Calibration(str(folder), tuple(found[int(i * step)] for i in range(min(len(found), MOST))))

    def inputs(self, fit: Callable[[Image.Image], Tensor]) -> list[Tensor]:
        """What a view takes, [1, 3, H, W] in 0..1, of each picture.

        Raises:
            ImageError: a picture that cannot be read.
            MobileClipError: all are one colour, which says nothing of the ranges, or too few are left without those
                and without copies.
        """
        inputs = [fit(_read(picture)) for picture in self.images]
        telling = [x for x in inputs if not _is_one_colour(x)]
        if not telling:
            raise MobileClipError(f"every picture of {self.folder} is of one colour alone: calibrate with photos.")
        differ = len({hashlib.sha256(x.numpy().tobytes()).digest() for x in telling})
        if differ < min(LEAST, len(inputs)):
            raise MobileClipError(
                f"of {len(inputs)} pictures of {self.folder} {len(inputs) - len(telling)} are of one colour alone, and "
                f"{differ} of the others differ: calibration needs {LEAST} or more that differ."
            )
        return inputs

    def digest(self) -> str:
        """SHA-256 over the files, in order."""
        digest = hashlib.sha256()
        for picture in self.images:
            digest.update(picture.read_bytes())
        return digest.hexdigest()

    def shared(self, folder: str | Path) -> list[str]:
        """Names of calibration pictures whose very bytes are also in a folder to measure with, whatever their names.

        Raises:
            ImageError: no picture there.
        """
        judges = set(_contents(found_in(folder)))
        mine = zip(self.images, _contents(self.images), strict=True)
        return [picture.name for picture, content in mine if content in judges]


def found_in(folder: str | Path) -> list[Picture]:
    """All pictures of a folder, in the order of names; tars are taken before single pictures.

    Raises:
        ImageError: no picture.
        DataError: a tar that cannot be read.
    """
    folder = Path(folder)
    tars = sorted(folder.glob("*.tar")) or sorted(folder.glob("train/*.tar"))
    if tars:
        from mobileclip.data.index import index

        packed = [Packed(tar, row) for tar in tars for row in range(index(tar).n)]
        if not packed:
            raise DataError(f"the tars in {folder} hold no picture: pack some, or give a folder of pictures.")
        return list(packed)
    inside = folder / "train"
    return list(load_images(inside if inside.is_dir() else folder))


def _is_one_colour(x: Tensor) -> bool:
    """Whether each channel of [1, 3, H, W] is of one value."""
    return bool((x.flatten(2).amax(2) == x.flatten(2).amin(2)).all())


def _read(picture: Picture) -> Image.Image:
    if isinstance(picture, Path):
        return read_image(picture)
    try:
        return read_image(picture.read_bytes())
    except ImageError as error:
        raise ImageError(f"{picture.name}: {error}") from error


def _contents(found: Iterable[Picture]) -> list[bytes]:
    return [hashlib.sha256(picture.read_bytes()).digest() for picture in found]
