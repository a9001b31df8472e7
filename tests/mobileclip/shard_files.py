"""What tests of shards make: pictures, arrays, tars."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Smooth, so that JPEG keeps it."""
    noise = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def jpeg(seed: int, width: int = 64, height: int = 48, orientation: int = 1) -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture(seed, width, height)).save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


def rows(count: int, first: float = 0) -> np.ndarray:
    return (np.arange(count * 8).reshape(count, 8) + first).astype(np.float32)


def npz(**found: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **found)
    return file.getvalue()


def write_tar(path: Path, files: Mapping[str, bytes] | Sequence[tuple[str, bytes]]) -> Path:
    """A tar of members in this order; a name may come twice in a sequence."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode="w") as tar:
        for name, content in files.items() if isinstance(files, Mapping) else files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def files_of(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
