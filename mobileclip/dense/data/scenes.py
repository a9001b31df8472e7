"""The rendered scenes as a data set of all three tasks: shards of `mobileclip pack scenes`, read where they lie.

    scenes = open_scenes(Path("scenes"), "segmentation", "val")      # scenes/val/*.tar

Segmentation has the 19 shapes and, as class 0, the background; detection the shapes; depth is in metres, and what is
farther than `max_depth` (the sky is at 60 m) has none. Opening looks at the tars' headers only; a sample is two or
three small reads.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mobileclip.data import tars
from mobileclip.data.scene_words import SHAPES
from mobileclip.dense.config import IGNORE, Task
from mobileclip.dense.data import reading
from mobileclip.dense.data.skipping import Skipped
from mobileclip.dense.samples import Objects, Sample
from mobileclip.errors import DataError

BACKGROUND = "background"
"""Name of class 0 of segmentation."""
WANTED = "tars with .jpg, .mask.png, .instances.png and .depth.png in <split>/ or in the folder itself"
"""What is looked for."""

_IMAGES = ("jpg", "jpeg", "png", "webp")
_TRUTHS: dict[Task, tuple[str, ...]] = {
    "segmentation": ("mask.png",),
    "detection": ("instances.png", "json"),
    "depth": ("depth.png",),
}
_MAX_RECORD = 1 << 20  # bytes of a .json; those of scenes have about three thousand
_MAX_OBJECTS = 254


class Scenes:
    """Scenes of one split; `DenseSet`, safe in threads and processes."""

    def __init__(self, shards: list[Path], task: Task, name: str, max_depth: float) -> None:
        self.name, self.task, self.max_depth = name, task, max_depth
        self.labels: tuple[str, ...] = {"segmentation": (BACKGROUND, *SHAPES), "detection": SHAPES, "depth": ()}[task]
        self.category_ids: tuple[int, ...] = ()
        self.skipped = Skipped()
        self.notes: tuple[str, ...] = ()
        self._shards = [str(path) for path in shards]
        digest = hashlib.sha256(b"scenes")
        rows: list[tuple[int, ...]] = []
        keys: list[str] = []
        for number, path in enumerate(shards):
            with tars.opened(path) as data:
                found = tars.walk(data, path)
            digest.update(f"{path.name} {found.checksum} {len(found.names)}\n".encode())
            if found.damage is not None:
                self.skipped.add("shard that is damaged: what comes after", str(path))
            for key, members in _grouped(found):
                row = self._row(members)
                if row is None:
                    self.skipped.add("sample without a picture or its truth", f"{path.name}/{key}")
                    continue
                rows.append((number, *row))
                keys.append(key)
        self.fingerprint = digest.hexdigest()
        self._where = np.array(rows, np.int64).reshape(
            len(rows), 3 + 2 * len(_TRUTHS[task])
        )  # shard, (offset, size) of picture and truths
        self._keys = np.array(keys, "S") if all(key.isascii() for key in keys) else np.array(keys, np.str_)

    def _row(self, members: dict[str, tuple[int, int]]) -> list[int] | None:
        image = next((members[ending] for ending in _IMAGES if ending in members), None)
        truths = [members.get(ending) for ending in _TRUTHS[self.task]]
        if image is None or None in truths:
            return None
        return [value for part in (image, *truths) if part is not None for value in part]

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: int) -> Sample:
        """Read one.

        Raises:
            DataError: the tar changed or cannot be read, or a member is damaged or holds what no scene has.
        """
        key = self._keys[index]
        text = key.decode() if isinstance(key, bytes) else str(key)
        shard, *spans = self._where[index].tolist()
        path = self._shards[shard]
        name = f"{Path(path).name}/{text}"
        parts = [_span(path, spans[at], spans[at + 1]) for at in range(0, len(spans), 2)]
        image = reading.rgb(parts[0], f"{name}.jpg")
        if self.task == "depth":
            metres = reading.millimetres(parts[1], f"{name}.depth.png")
            reading.same_size(image, metres, f"{name}.jpg", f"{name}.depth.png")
            metres[metres > self.max_depth] = 0
            return Sample(name=name, image=image, depth=metres, image_id=index)
        kind = _TRUTHS[self.task][0]
        ids = reading.class_ids(parts[1], f"{name}.{kind}")
        reading.same_size(image, ids, f"{name}.jpg", f"{name}.{kind}")
        if self.task == "segmentation":
            _check(ids, len(self.labels), f"{name}.{kind}")
            return Sample(name=name, image=image, labels=ids, image_id=index)
        return Sample(name=name, image=image, objects=_objects(ids, parts[2], name), image_id=index)


def there(root: Path, task: Task, split: str) -> bool:
    """Whether the folder holds shards of this split, or is one of them itself."""
    return bool(_shards(root, split))


def open_scenes(root: Path, task: Task, split: str, *, max_depth: float = 10.0) -> Scenes:
    """The scenes of a split.

    Raises:
        DataError: no shard, or none of its samples has this truth.
    """
    shards = _shards(root, split)
    if not shards:
        raise DataError(f"'{root}' holds no scenes of the split '{split}': looked for {WANTED}.")
    found = Scenes(shards, task, f"scenes/{split}", max_depth)
    if not len(found):
        wanted = " and ".join(f".{ending}" for ending in _TRUTHS[task])
        raise DataError(f"'{shards[0]}' holds no sample with a picture and {wanted}: write the scenes with dense=True.")
    return found


def _shards(root: Path, split: str) -> list[Path]:
    for folder in (root / split, root):
        found = sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))
        if found:
            return found
    return []


def _grouped(found: tars.Walk) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Key -> extension -> offset and size; the members of a sample lie together."""
    last: str | None = None
    members: dict[str, tuple[int, int]] = {}
    for name, offset, size in zip(found.names, found.offsets, found.sizes, strict=True):
        parts = tars.split(name)
        if parts is None:
            continue
        key, ending = parts
        if key != last:
            if last is not None:
                yield last, members
            last, members = key, {}
        members[ending.lower()] = (offset, size)
    if last is not None:
        yield last, members


def _span(path: str, offset: int, size: int) -> bytes:
    """Some bytes of a file, by a handle of its own: sets are read in threads and after forks."""
    try:
        with open(path, "rb", buffering=0) as file:
            content = os.pread(file.fileno(), size, offset)
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error.strerror}): check the path and its permissions.") from error
    if len(content) != size:
        raise DataError(f"'{path}' became shorter after it was opened: open the set again.")
    return content


def _check(ids: npt.NDArray[np.uint8], classes: int, name: str) -> None:
    highest = int(ids.max(where=ids != IGNORE, initial=0))
    if highest >= classes:
        raise DataError(f"'{name}' holds the label {highest}: 0 to {classes - 1} are allowed, and {IGNORE} for none.")


def _objects(ids: npt.NDArray[np.uint8], record: bytes, name: str) -> Objects:
    """Instances by their pixels, classes by the record; those of which no pixel is seen are left out."""
    try:
        if len(record) > _MAX_RECORD:
            raise ValueError(f"{len(record):,} bytes")
        listed = json.loads(record)["objects"]
        classes = {int(one["instance"]): int(one["label"]) for one in listed[:_MAX_OBJECTS]}
        if not all(0 <= label < len(SHAPES) for label in classes.values()):
            raise ValueError(f"a label is not 0 to {len(SHAPES) - 1}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"'{name}.json' does not say which objects there are ({error}): write the scenes again."
        ) from error
    pixels = reading.counts(ids)
    unknown = [value for value in np.flatnonzero(pixels).tolist() if value and value not in classes]
    if unknown:
        raise DataError(f"'{name}.instances.png' holds the object {unknown[0]}, which '{name}.json' does not list.")
    seen = [value for value in sorted(classes) if pixels[value]]
    masks = ids[None] == np.array(seen, np.uint8)[:, None, None]  # [N, H, W]
    return Objects(
        boxes=boxes_of(masks),
        classes=np.array([classes[value] for value in seen], np.int64),
        masks=masks,
        crowd=np.zeros(len(seen), np.bool_),
        area=pixels[seen].astype(np.float32),
    )


def boxes_of(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Bounds of masks [N, H, W], none of them empty: float32 [N, 4], right and bottom outside."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes
