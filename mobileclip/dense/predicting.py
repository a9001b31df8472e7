"""`predict`: pictures, folders and videos to overlays, maps and one JSON file each.

    found = predict(predictor(model), ["photos", "walk.mp4"], "out")
    found.done, found.kept, found.failed

Of `photo.jpg` come `photo.jpg.json` (what is where, in numbers), `photo.jpg.overlay.jpg` and, of segmentation,
`photo.jpg.labels.png` (a palette PNG) or, of depth, `photo.jpg.depth.png` (16 bits of millimetres). The JSON is written
last: where it stands and was made of the same file by the same model and settings, a second run goes past it. A picture
that cannot be read is told and counted, and the others go on.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import mobileclip
from mobileclip.data.ahead import ahead
from mobileclip.data.arrays import placing
from mobileclip.dense.colours import depth_colours
from mobileclip.dense.files import run_lengths, write_depth, write_labels, write_picture, write_server_labels
from mobileclip.dense.host import MOST_PIXELS, stretch
from mobileclip.dense.overlays import overlay
from mobileclip.dense.samples import Depths, Detected, Prediction, Predictor, Segmented
from mobileclip.dense.video import frames, is_video
from mobileclip.errors import ImageError, MobileClipError, OutputError
from mobileclip.images import EXTENSIONS, read_image

Progress = Callable[[int, int], None]
"""Called with the files that are done and all that will be; a video is one file."""
SUMMARY = "summary.json"
"""What the last run did."""

_PERCENTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What a run did."""

    done: int
    """Pictures and frames that were predicted now."""
    kept: int
    """That were there already."""
    failed: tuple[tuple[str, str], ...]
    """(file, why it cannot be read)."""
    seconds: float
    """Of everything."""

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        failed = [{"source": source, "why": why} for source, why in self.failed]
        return {"done": self.done, "kept": self.kept, "failed": failed, "seconds": round(self.seconds, 3)}


def predict(
    predictor: Predictor,
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    settings: Mapping[str, Any] | None = None,
    every: int = 30,
    server: bool = False,
    progress: Progress | None = None,
) -> Predicted:
    """Predict all pictures and videos of `sources` into the folder `out`.

    Args:
        sources: files and folders; of a folder its pictures and videos, not those of its sub-folders.
        settings: what else decides the results, for the files and for going on; JSON values.
        every: of a video, one frame of so many.
        server: of segmentation, write also ADE20K's form (label + 1) as `….server.png`.
        progress: called as files are done.

    Raises:
        ImageError: a source does not exist, or there is no picture at all.
        OutputError: `out` is one of the sources, or cannot be written.
        MissingExtra: a video without PyAV.
    """
    if every < 1:
        raise MobileClipError(f"every {every} frames is no distance: 1 takes each frame, 30 one a second.")
    folder, start = Path(out), time.perf_counter()
    named = list_sources(sources, folder)
    made = {"model": predictor.name, "task": predictor.task, "version": mobileclip.__version__, **(settings or {})}
    counts: Counter[str] = Counter()
    failed: list[tuple[str, str]] = []
    pictures = ahead(_opened, (path for path in named.values() if not is_video(path)), threads=2)
    for place, (name, path) in enumerate(named.items(), 1):
        origin = {"source": str(path), "bytes": path.stat().st_size, "modified": path.stat().st_mtime_ns}
        try:
            for ending, image in _frames(path, every) if is_video(path) else _one(next(pictures)):
                state = _predicted(predictor, image, folder / f"{name}{ending}", origin | {"settings": made}, server)
                counts[state] += 1
        except ImageError as error:
            failed.append((str(path), str(error)))
        if progress:
            progress(place, len(named))
    found = Predicted(
        done=counts["done"], kept=counts["kept"], failed=tuple(failed), seconds=time.perf_counter() - start
    )
    _write_json(folder / SUMMARY, {"settings": made, **found.as_dict()})
    return found


def list_sources(sources: Sequence[str | os.PathLike[str]], out: Path) -> dict[str, Path]:
    """Files to predict by the name that their results get: the file's own, with a number where two are called alike.

    Raises:
        ImageError: a source does not exist, or there is no picture at all.
        OutputError: `out` is one of the sources' folders.
    """
    found: dict[Path, None] = {}
    for source in map(Path, sources):
        if source.is_dir():
            if source.resolve() == out.resolve():
                raise OutputError(f"{out} is also where pictures are read: give --out another folder.")
            inside = sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith("."))
            found |= {path.resolve(): None for path in inside if path.suffix.lower() in EXTENSIONS or is_video(path)}
        elif source.is_file():
            found[source.resolve()] = None
        else:
            raise ImageError(f"{source} does not exist: give pictures, videos, or folders of them.")
    if not found:
        raise ImageError(f"no picture or video in {', '.join(map(str, sources)) or 'an empty list'}: give some.")
    named: dict[str, Path] = {}
    for path in found:
        name, count = path.name, 1
        while name in named:
            count += 1
            name = f"{count}_{path.name}"
        named[name] = path
    return named


def described(prediction: Prediction, labels: Sequence[str], category_ids: Sequence[int] = ()) -> dict[str, Any]:
    """A prediction in numbers, as JSON values.

    Segmentation: `classes` with pixels and shares, largest first. Detection: `objects` with class, score, box (left,
    top, right, bottom), area and run lengths (`files.run_lengths`). Depth: `depth` in metres: least, most, mean and the
    5th to 95th hundredth.
    """
    match prediction:
        case Segmented(labels=found):
            counts = np.bincount(found.ravel(), minlength=len(labels))
            rows = [
                {
                    "class": int(kind),
                    "label": labels[kind],
                    "pixels": int(counts[kind]),
                    "share": counts[kind] / found.size,
                }
                for kind in np.argsort(-counts, kind="stable")
                if counts[kind]
            ]
            return {"classes": rows}
        case Detected():
            ids = category_ids or range(len(labels))
            rows = [
                {
                    "class": int(kind),
                    "label": labels[kind],
                    "category_id": int(ids[kind]),
                    "score": float(score),
                    "box": [round(float(side), 2) for side in box],
                    "area": int(mask.sum()),
                    "segmentation": run_lengths(mask),
                }
                for kind, score, box, mask in zip(
                    prediction.classes, prediction.scores, prediction.boxes, prediction.masks, strict=True
                )
            ]
            return {"objects": rows}
        case Depths(metres=metres):
            values = metres[np.isfinite(metres)].astype(np.float64)
            if not values.size:
                return {"depth": None}
            hundredths = {f"p{share}": float(np.percentile(values, share)) for share in _PERCENTILES}
            ends = {"least": float(values.min()), "most": float(values.max()), "mean": float(values.mean())}
            return {"depth": ends | hundredths}


def fitted(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The picture, made smaller where it has more pixels than are predicted at once."""
    height, width = image.shape[:2]
    if height * width <= MOST_PIXELS:
        return image
    scale = (MOST_PIXELS / (height * width)) ** 0.5
    return stretch(image, (max(int(height * scale), 1), max(int(width * scale), 1)))


def _predicted(
    predictor: Predictor, image: npt.NDArray[np.uint8], stem: Path, origin: Mapping[str, Any], server: bool
) -> str:
    target = stem.with_name(f"{stem.name}.json")
    if _same(target, origin):
        return "kept"
    start, shown = time.perf_counter(), fitted(image)
    prediction = predictor(shown)
    seconds = time.perf_counter() - start
    more: dict[str, Any] = {}
    if shown is not image:
        more["scaled_from"] = [image.shape[1], image.shape[0]]
    files = {"overlay": f"{stem.name}.overlay.jpg"}
    write_picture(stem.with_name(files["overlay"]), overlay(shown, prediction, predictor.labels))
    if isinstance(prediction, Segmented):
        files["labels"] = f"{stem.name}.labels.png"
        write_labels(stem.with_name(files["labels"]), prediction.labels)
        if server:
            files["server"] = f"{stem.name}.server.png"
            write_server_labels(stem.with_name(files["server"]), prediction.labels)
    elif isinstance(prediction, Depths):
        files["depth"] = f"{stem.name}.depth.png"
        write_depth(stem.with_name(files["depth"]), prediction.metres)
        more["colours"] = list(depth_colours(prediction.metres)[1])
    values = {
        **origin,
        "width": shown.shape[1],
        "height": shown.shape[0],
        **more,
        "seconds": round(seconds, 4),
        "files": files,
        **described(prediction, predictor.labels, predictor.category_ids),
    }
    _write_json(target, values)
    return "done"


def _same(target: Path, origin: Mapping[str, Any]) -> bool:
    """Whether a result stands that was made of the same file in the same way, with all its files."""
    try:
        values = json.loads(target.read_text(encoding="utf-8"))
        return all(values[name] == value for name, value in origin.items()) and all(
            (target.parent / name).is_file() for name in values["files"].values()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _opened(path: Path) -> npt.NDArray[np.uint8] | ImageError:
    try:
        return np.asarray(read_image(path))
    except ImageError as error:
        return error


def _one(found: npt.NDArray[np.uint8] | ImageError) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    if isinstance(found, ImageError):
        raise found
    yield "", found


def _frames(path: Path, every: int) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    for number, image in frames(path, every):
        yield f".{number:06d}", image


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    with placing(path) as file:
        file.write(json.dumps(values, indent=1).encode("utf-8"))
