"""The pictures of a set, read one at a time and only when they are needed, and their embeddings.

A picture that is missing or damaged is counted, named and left out, up to a share of the set; beyond it that is an
error, at once.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from mobileclip.data.ahead import ahead
from mobileclip.errors import DataError, ImageError
from mobileclip.images import read_image

if TYPE_CHECKING:
    from mobileclip.evaluate.encoder import Embeddings, Encoder

Progress = Callable[[str], None]
NAMED = 5
"""So many of the missing pictures are named."""


class Pictures(Protocol):
    """Pictures by number."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What messages call it."""
        ...

    def read(self, index: int) -> Image.Image:
        """Upright RGB picture.

        Raises:
            ImageError: it cannot be read.
        """
        ...


@dataclass(frozen=True)
class Files:
    """Pictures in files."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index].name

    def read(self, index: int) -> Image.Image:
        return read_image(self.paths[index])


@dataclass(frozen=True)
class Selection:
    """Some pictures of others, in a given order."""

    of: Pictures
    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return self.of.name(int(self.rows[index]))

    def read(self, index: int) -> Image.Image:
        return self.of.read(int(self.rows[index]))


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """The pictures of a set as an encoder sees them."""

    rows: "Embeddings"
    """[N, E]."""
    kept: npt.NDArray[np.int64]
    """[N]: which picture of the set each row is."""
    lost: tuple[str, ...]
    """What could not be read, and why."""
    seconds: float
    """Reading and encoding together."""


def embed(
    encoder: "Encoder", pictures: Pictures, *, what: str, share: float, gone: int = 0, progress: Progress
) -> Embedded:
    """Encode all pictures that can be read.

    Args:
        what: name of the set, for messages.
        share: of the set that may be missing or damaged.
        gone: how many the set misses already.

    Raises:
        DataError: more than `share` is missing or damaged.
    """
    kept: list[int] = []
    lost: list[str] = []
    total = len(pictures) + gone
    start = told = time.perf_counter()

    def read(index: int) -> Image.Image | ImageError:
        try:
            return pictures.read(index)
        except ImageError as error:
            return error

    def readable() -> Iterator[Image.Image]:
        nonlocal told
        for index, found in enumerate(ahead(read, range(len(pictures)))):
            if isinstance(found, ImageError):
                lost.append(f"{pictures.name(index)}: {found}")
                check_lost(gone + len(lost), total, lost, what=what, share=share)
                continue
            kept.append(index)
            if (now := time.perf_counter()) > told + 2:
                told = now
                progress(
                    f"{what}: {index + 1:,} of {len(pictures):,} pictures, {len(kept) / (now - start):.1f} a second"
                )
            yield found

    rows = encoder.encode_images(readable())
    assert len(rows) == len(kept), f"{encoder.name} gave {len(rows)} rows for {len(kept)} pictures"
    seconds = time.perf_counter() - start
    return Embedded(rows=rows, kept=np.array(kept, np.int64), lost=tuple(lost), seconds=seconds)


def check_lost(lost: int, total: int, named: Sequence[str], *, what: str, share: float) -> None:
    """Raise when more than `share` of a set's `total` pictures is lost."""
    if lost > share * total or (lost and lost == total):
        names = "; ".join(text.rstrip(".") for text in named[:NAMED])
        raise DataError(
            f"{what}: {lost:,} of {total:,} pictures are missing or cannot be read ({names}): at most "
            f"{share:.1%} may be; get them again, or allow a larger share."
        )
