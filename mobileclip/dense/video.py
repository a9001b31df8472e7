"""Frames of a video file, one of every so many, by PyAV (extra `dense`).

for number, image in frames("walk.mp4", every=30):            # uint8 [H, W, 3], RGB, upright
    ...
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mobileclip.errors import ImageError, MissingExtra
from mobileclip.images import MAX_PIXELS

EXTENSIONS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
"""What counts as a video, in lower or upper case."""


def is_video(path: Path) -> bool:
    """By its name."""
    return path.suffix.lower() in EXTENSIONS


def frames(path: Path, every: int = 30) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """(number, RGB uint8 [H, W, 3]) of frames 0, `every`, 2 `every`, …; turned as the file says.

    Raises:
        MissingExtra: PyAV is not installed.
        ImageError: not a video, damaged, without pictures, or with frames that are too large.
    """
    av = _av()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ImageError(f"{path.name} has no pictures: give a video file, or pictures.")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            if stream.width * stream.height > MAX_PIXELS:
                raise ImageError(f"{path.name} has frames of more than {MAX_PIXELS:,} pixels: make it smaller first.")
            for number, frame in enumerate(container.decode(stream)):
                if number % every == 0:
                    yield number, _upright(frame)
    except av.FFmpegError as error:
        reason = " ".join(str(error).split())[:120]
        raise ImageError(f"{path.name} is no video that can be read ({reason}): convert it to H.264 in MP4.") from error


def _upright(frame: Any) -> npt.NDArray[np.uint8]:
    pixels: npt.NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))  # both count counterclockwise


def _av() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise MissingExtra(
            "videos need PyAV: `pip install 'mobileclip-toolkit[dense]'`, or give pictures instead."
        ) from error
    return av
