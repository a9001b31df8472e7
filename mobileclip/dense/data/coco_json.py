"""COCO's annotations as compact arrays: 860,000 objects in 450 MB of JSON become 230 MB that are mapped, not held.

    found = annotations(Path("annotations/instances_train2017.json"))
    found.boxes[found.start[i] : found.start[i + 1]]                # of picture i

The JSON is read once, an element at a time, so that its million small objects never exist together. Files from `KEEP`
bytes on are kept as arrays in the cache (`$XDG_CACHE_HOME/mobileclip/dense`, by path, size and time), which every
process then maps; smaller ones are parsed each time.
"""

import hashlib
import json
import math
import re
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mobileclip.data import arrays
from mobileclip.data.remote import default_cache
from mobileclip.data.tars import is_safe
from mobileclip.dense.data import masks
from mobileclip.dense.data.skipping import Skipped
from mobileclip.errors import DataError, OutputError
from mobileclip.images import MAX_PIXELS

MAX_JSON = 4 << 30
"""Bytes of a file of annotations; COCO's largest has 470 MB."""
KEEP = 32 << 20
"""Bytes from which on the arrays are kept in the cache."""
BOX, POLYGONS, RUNS = 0, 1, 2
"""Kinds of masks: none but the box, polygons, run lengths."""

_VERSION = 1
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """Pictures I in the order of their ids, their objects A in the order of the file, M parts of masks."""

    names: npt.NDArray[np.uint8]
    """File names, UTF-8, one after the other."""
    name_start: npt.NDArray[np.int64]
    """[I + 1]"""
    ids: npt.NDArray[np.int64]
    """[I]"""
    sizes: npt.NDArray[np.int32]
    """[I, 2] rows, columns."""
    start: npt.NDArray[np.int64]
    """[I + 1], of objects."""
    boxes: npt.NDArray[np.float32]
    """[A, 4] left, top, right, bottom, inside the picture."""
    classes: npt.NDArray[np.int32]
    """[A], positions in `category_ids`."""
    crowd: npt.NDArray[np.uint8]
    """[A]"""
    area: npt.NDArray[np.float32]
    """[A]"""
    kind: npt.NDArray[np.uint8]
    """[A]: BOX, POLYGONS or RUNS."""
    part_start: npt.NDArray[np.int64]
    """[A + 1], of parts."""
    point_start: npt.NDArray[np.int64]
    """[M + 1], of points."""
    points: npt.NDArray[np.int32]
    """Vertices on the fine grid; of RUNS, rows, columns and then the lengths."""
    category_ids: tuple[int, ...] = ()
    """In ascending order."""
    labels: tuple[str, ...] = ()
    """Their names."""
    skipped: Mapping[str, tuple[int, str]]
    """Reason -> how often, and the first."""
    digest: str
    """Of all that the file says."""

    def file_name(self, index: int) -> str:
        """Of picture `index`."""
        return self.names[self.name_start[index] : self.name_start[index + 1]].tobytes().decode()


def annotations(path: Path) -> Annotations:
    """Read a file of COCO's instances, or map what was kept of it.

    Raises:
        DataError: it cannot be read, is too large, no such JSON, or holds ids, boxes or masks that are none.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"'{path}' cannot be opened ({error.strerror}): check the path and its permissions.") from error
    stamp = {"version": _VERSION, "bytes": stat.st_size, "time": stat.st_mtime_ns}
    place = default_cache() / "dense" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]}.safetensors"
    if stat.st_size >= KEEP and place.exists():
        try:
            kept, meta = arrays.load(place)
            if meta.get("stamp") == stamp:
                return _restored(kept, meta)
        except (DataError, TypeError, KeyError):
            pass  # made again below
    found = _parse(path)
    if stat.st_size >= KEEP:
        try:
            arrays.save(place, _arrays_of(found), {"stamp": stamp, **_rest_of(found)})
            kept, meta = arrays.load(place)
            return _restored(kept, meta)
        except OutputError:
            pass  # no cache: the arrays are held
    return found


_REST = ("category_ids", "labels", "skipped", "digest")


def _arrays_of(found: Annotations) -> dict[str, npt.NDArray[Any]]:
    return {item.name: getattr(found, item.name) for item in fields(found) if item.name not in _REST}


def _rest_of(found: Annotations) -> dict[str, Any]:
    return {name: getattr(found, name) for name in _REST}


def _restored(kept: Mapping[str, npt.NDArray[Any]], meta: Mapping[str, Any]) -> Annotations:
    return Annotations(
        **kept,
        category_ids=tuple(meta["category_ids"]),
        labels=tuple(meta["labels"]),
        skipped={reason: (count, first) for reason, (count, first) in meta["skipped"].items()},
        digest=meta["digest"],
    )


def _parse(path: Path) -> Annotations:
    """The file, element by element."""
    from mobileclip.dense.data.reading import content_of

    try:
        text = content_of(path, MAX_JSON).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is no UTF-8 text ({error}): get it again.") from error
    read = _Reader(path)
    try:
        _sections(text, {"images": read.image, "annotations": read.annotation, "categories": read.category})
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"'{path}' is no JSON of COCO's instances ({str(error)[:120]}): an object with images, annotations and "
            "categories is allowed; get it again."
        ) from error
    del text  # before the arrays are put in order
    return read.finished()


def _sections(text: str, elements: Mapping[str, Callable[[Any], None]]) -> None:
    """Hand each element of the top-level lists that are asked for to its reader.

    Raises:
        ValueError: not such a JSON.
    """
    at, seen = _skip(text, 0), set()
    if text[at : at + 1] != "{":
        raise ValueError("it does not begin with an object")
    at = _skip(text, at + 1)
    while text[at : at + 1] != "}":
        key, at = _DECODER.raw_decode(text, at)
        at = _skip(text, at)
        if not isinstance(key, str) or text[at : at + 1] != ":":
            raise ValueError(f"no key at character {at:,}")
        at = _skip(text, at + 1)
        if key in elements and text[at : at + 1] == "[":
            seen.add(key)
            at = _elements(text, at, elements[key])
        else:
            _, at = _DECODER.raw_decode(text, at)
        at = _next(text, at, "}")
    missing = sorted(set(elements) - seen)
    if missing:
        raise ValueError(f"it has no list '{missing[0]}'")


def _elements(text: str, at: int, take: Callable[[Any], None]) -> int:
    at = _skip(text, at + 1)
    while text[at : at + 1] != "]":
        value, at = _DECODER.raw_decode(text, at)
        take(value)
        at = _next(text, at, "]")
    return at + 1


def _next(text: str, at: int, end: str) -> int:
    """Past a comma, or at the end."""
    at = _skip(text, at)
    if text[at : at + 1] == ",":
        return _skip(text, at + 1)
    if text[at : at + 1] != end:
        raise ValueError(f"no ',' or '{end}' at character {at:,}")
    return at


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


class _Reader:
    """Takes elements in any order and joins them at the end."""

    def __init__(self, path: Path) -> None:
        self.path, self.skipped = path, Skipped()
        self.categories: dict[int, str] = {}
        self.images: dict[int, tuple[str, int, int]] = {}
        self.image_of, self.category_of = array("q"), array("q")
        self.boxes, self.area = array("d"), array("d")
        self.crowd, self.kind = array("B"), array("B")
        self.part_start, self.point_start, self.points = array("q", [0]), array("q", [0]), array("i")

    def category(self, value: Any) -> None:
        number, name = self._of(value, "a category", "id"), str(self._of(value, "a category", "name", str))
        self.categories[int(number)] = name

    def image(self, value: Any) -> None:
        number = int(self._of(value, "an image", "id"))
        name = str(self._of(value, "an image", "file_name", str))
        name.encode()  # half of a surrogate pair is a ValueError
        height, width = int(self._of(value, "an image", "height")), int(self._of(value, "an image", "width"))
        if not is_safe(name) or not name:
            raise DataError(
                f"'{self.path}' names the picture '{name[:80]}': a path that stays below the folder of pictures is "
                "allowed."
            )
        if height < 1 or width < 1 or height * width > MAX_PIXELS:
            raise DataError(
                f"'{self.path}' says that '{name}' has {width} x {height} pixels: 1 to {MAX_PIXELS:,} are allowed."
            )
        if number in self.images:
            raise DataError(f"'{self.path}' has two pictures with the id {number}: ids must differ.")
        self.images[number] = (name, height, width)

    def annotation(self, value: Any) -> None:
        image, category = (
            int(self._of(value, "an annotation", "image_id")),
            int(self._of(value, "an annotation", "category_id")),
        )
        name = f"{self.path.name}, annotation {value.get('id')}"
        box = value.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(_finite, box)):
            raise DataError(f"'{name}' has the box {str(box)[:60]}: left, top, width and height in pixels are allowed.")
        area = value.get("area", box[2] * box[3])
        kind = self._mask(value.get("segmentation"), name)
        self.image_of.append(image)
        self.category_of.append(category)
        self.boxes.extend(map(float, box))
        self.area.append(float(area) if _finite(area) else float(box[2] * box[3]))
        self.crowd.append(1 if value.get("iscrowd") else 0)
        self.kind.append(kind)
        self.part_start.append(len(self.point_start) - 1)

    def _mask(self, value: Any, name: str) -> int:
        if isinstance(value, dict):
            size = value.get("size")
            if (
                not isinstance(size, list)
                or len(size) != 2
                or not all(isinstance(n, int) and 0 < n < 1 << 31 for n in size)
            ):
                raise DataError(f"'{name}' has run lengths without a size: [height, width] is needed.")
            self._part(np.concatenate((np.array(size, np.int32), masks.unpacked(value.get("counts"), name))))
            return RUNS
        if isinstance(value, list) and value:
            for part in value:
                self._part(masks.vertices(part, name))
            return POLYGONS
        return BOX

    def _part(self, numbers: npt.NDArray[np.int32]) -> None:
        self.points.frombytes(numbers.tobytes())
        self.point_start.append(len(self.points))

    def _of(self, value: Any, what: str, key: str, kind: type = int) -> Any:
        found = value.get(key) if isinstance(value, dict) else None
        if isinstance(found, float) and found.is_integer() and kind is int:
            found = int(found)
        fits = isinstance(found, kind) and not isinstance(found, bool)
        if not fits or (isinstance(found, int) and not -(1 << 62) < found < 1 << 62):
            said = "nothing" if found is None else f"'{str(found)[:40]}'"
            wanted = "a number" if kind is int else "a text"
            raise DataError(f"'{self.path}' has {what} whose {key} is {said}: {wanted} is allowed.")
        return found

    def finished(self) -> Annotations:
        """Everything joined: objects by picture, those that cannot be used counted and left out."""
        if not self.categories or not self.images:
            raise DataError(f"'{self.path}' lists no {'picture' if self.categories else 'category'}: it is empty.")
        ids, category_ids = np.array(sorted(self.images), np.int64), np.array(sorted(self.categories), np.int64)
        sizes = np.array([self.images[number][1:] for number in ids.tolist()], np.int32)
        owner, classes = np.array(self.image_of, np.int64), np.array(self.category_of, np.int64)
        boxes = np.array(self.boxes, np.float64).reshape(-1, 4)
        place, position = _position(ids, owner), _position(category_ids, classes)
        self._leave(place < 0, "object of a picture that is not listed")
        self._leave((place >= 0) & (position < 0), "object of a category that is not listed")
        edges = sizes[np.maximum(place, 0)][:, ::-1].astype(np.float64)
        low = np.clip(boxes[:, :2], 0, edges)
        high = np.clip(boxes[:, :2] + boxes[:, 2:], 0, edges)
        listed = (place >= 0) & (position >= 0)
        sound = (high > low).all(1)
        self._leave(listed & ~sound, "object whose box has no area inside the picture")
        kept = np.flatnonzero(listed & sound)
        kept = kept[np.argsort(place[kept], kind="stable")]
        names = [self.images[number][0].encode() for number in ids.tolist()]
        part_start, order = _gathered(np.array(self.part_start), kept)
        point_start, points = _gathered(np.array(self.point_start), order)
        found: dict[str, Any] = {
            "names": np.frombuffer(b"".join(names), np.uint8),
            "name_start": np.cumsum([0, *map(len, names)], dtype=np.int64),
            "ids": ids,
            "sizes": sizes,
            "start": np.searchsorted(place[kept], np.arange(len(ids) + 1)).astype(np.int64),
            "boxes": np.concatenate((low, high), 1)[kept].astype(np.float32),
            "classes": position[kept].astype(np.int32),
            "crowd": np.array(self.crowd, np.uint8)[kept],
            "area": np.array(self.area, np.float32)[kept],
            "kind": np.array(self.kind, np.uint8)[kept],
            "part_start": part_start,
            "point_start": point_start,
            "points": np.array(self.points, np.int32)[points],
        }
        digest = hashlib.sha256(json.dumps(sorted(self.categories.items())).encode())
        for name in sorted(found):
            digest.update(np.ascontiguousarray(found[name]).tobytes())
        return Annotations(
            **found,
            category_ids=tuple(category_ids.tolist()),
            labels=tuple(self.categories[number] for number in category_ids.tolist()),
            skipped={reason: (count, self.skipped.first[reason]) for reason, count in self.skipped.items()},
            digest=digest.hexdigest(),
        )

    def _leave(self, which: npt.NDArray[np.bool_], reason: str) -> None:
        found = np.flatnonzero(which)
        if len(found):
            image = self.image_of[int(found[0])]
            first = self.images.get(image, (f"image {image}", 0, 0))[0]
            self.skipped.add(reason, first, len(found))


def _finite(value: Any) -> bool:
    """Whether it is a number of a size that pixels have."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and abs(value) < 1e9


def _position(ordered: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Positions in ascending numbers; -1 for what is not there."""
    at = np.searchsorted(ordered, wanted).clip(max=len(ordered) - 1)
    return np.where(ordered[at] == wanted, at, -1)


def _gathered(
    start: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Runs [start[i], start[i + 1]) of the chosen i, one after the other: their new starts, and every old place."""
    lengths = (start[1:] - start[:-1])[chosen]
    new = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    places = np.repeat(start[:-1][chosen] - new[:-1], lengths) + np.arange(new[-1])
    return new, places
