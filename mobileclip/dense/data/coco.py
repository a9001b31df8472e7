"""COCO 2017 and whatever has its JSON: objects with boxes and masks.

    coco/{train2017,val2017}/000000000009.jpg, annotations/instances_{train,val}2017.json       118,287 / 5,000
    instances.json and images/;  {train,valid}/_annotations.coco.json among the pictures;  any .json, with `images`

Classes are the categories in the order of their ids, which `category_ids` keeps (COCO: 80 of 1..90). Pictures without
an object that is no crowd are left out of `train` and counted; crowds stay, for evaluation, and the transforms drop
them. Pictures that are too large to predict a hundred masks of are left out of every other split and counted. Boxes are
cut at the picture's edge; those without area are left out and counted. An object without a mask has its box as one.

Source: cocodataset.org, "Data format"; Lin et al., arXiv:1405.0312.
"""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mobileclip.dense.config import Task
from mobileclip.dense.data import coco_json, masks, reading
from mobileclip.dense.data.skipping import Skipped
from mobileclip.dense.host import MOST_PIXELS
from mobileclip.dense.samples import Objects, Sample
from mobileclip.errors import DataError
from mobileclip.images import MAX_PIXELS

WANTED = (
    "annotations/instances_{train,val}2017.json with {train,val}2017/, instances.json with images/, "
    "{train,val}/_annotations.coco.json, or a .json of instances"
)
"""What is looked for."""

MAX_MASKS = 1 << 30
"""Bytes of one picture's masks: twenty objects of 7,300 x 7,300."""
_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation")}


class CocoSet:
    """Pictures with objects; a `DenseSet`, safe in threads and processes."""

    def __init__(self, path: Path, images: Path, split: str, keep_empty: bool) -> None:
        self.task: Task = "detection"
        self.name = f"{path.stem}/{split}"
        self.notes: tuple[str, ...] = ()
        self.skipped = Skipped()
        self._made = (path, images, split, keep_empty)
        self._said = coco_json.annotations(path)
        said = self._said
        self.labels, self.category_ids, self.fingerprint = said.labels, said.category_ids, said.digest
        for reason, (count, first) in said.skipped.items():
            self.skipped.add(reason, first, count)
        self._chosen = self._usable(images, keep_empty)
        boxes_only = int((said.kind == coco_json.BOX).sum())
        if boxes_only:
            self.notes = (f"{boxes_only:,} of {len(said.kind):,} objects have no mask; their boxes are taken.",)

    def __reduce__(self) -> tuple[type["CocoSet"], tuple[Path, Path, str, bool]]:
        return CocoSet, self._made  # another process maps the arrays itself

    def _usable(self, images: Path, keep_empty: bool) -> npt.NDArray[np.int64]:
        """Pictures that are there, have an object where one is wanted, and are not too large for their masks."""
        said = self._said
        count = said.start[1:] - said.start[:-1]
        single = np.concatenate(([0], np.cumsum(said.crowd == 0)))
        empty = single[said.start[1:]] == single[said.start[:-1]]
        pixels = said.sizes.prod(axis=1, dtype=np.int64)
        large = count * pixels > MAX_MASKS
        unseen = pixels > (MAX_PIXELS if self._made[2] == "train" else MOST_PIXELS)
        there = _Files(images)
        chosen = []
        for index in range(len(said.ids)):
            name = said.file_name(index)
            if empty[index] and not keep_empty:
                self.skipped.add("image without an object", name)
            elif large[index]:
                self.skipped.add("image too large for masks of all its objects", name)
            elif unseen[index]:
                self.skipped.add(f"image of more than {MOST_PIXELS:,} pixels, whose objects are not predicted", name)
            elif not there.has(name):
                self.skipped.add("image that is not there", name)
            else:
                chosen.append(index)
        return np.array(chosen, np.int64)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Sample:
        """Read one.

        Raises:
            DataError: the picture is damaged or has another size than the annotations say, or a mask is none.
        """
        said, number = self._said, int(self._chosen[index])
        name = said.file_name(number)
        path = self._made[1] / name
        size = (int(said.sizes[number, 0]), int(said.sizes[number, 1]))
        image = reading.rgb(reading.content_of(path), str(path), size)
        if image.shape[:2] != size:
            raise DataError(
                f"'{path}' has {image.shape[1]} x {image.shape[0]} pixels, and {size[1]} x {size[0]} in "
                f"'{self._made[0]}': take both from the same release."
            )
        first, last = int(said.start[number]), int(said.start[number + 1])
        drawn = np.zeros((last - first, *size), np.bool_)
        for place, mask in zip(range(first, last), drawn, strict=True):
            self._draw(place, mask, name)
        objects = Objects(
            boxes=said.boxes[first:last].copy(),
            classes=said.classes[first:last].astype(np.int64),
            masks=drawn,
            crowd=said.crowd[first:last].astype(np.bool_),
            area=said.area[first:last].copy(),
        )
        return Sample(name=name, image=image, objects=objects, image_id=int(said.ids[number]))

    def _draw(self, place: int, mask: npt.NDArray[np.bool_], name: str) -> None:
        """The mask of one object into bool [H, W] of False."""
        said, size = self._said, (mask.shape[0], mask.shape[1])
        kind = int(said.kind[place])
        if kind == coco_json.BOX:
            left, top, right, bottom = said.boxes[place]
            mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
            return
        for part in range(int(said.part_start[place]), int(said.part_start[place + 1])):
            points = said.points[said.point_start[part] : said.point_start[part + 1]]
            if kind == coco_json.POLYGONS:
                mask |= masks.polygon(points, size, name)
            elif tuple(points[:2].tolist()) == size:
                mask |= masks.run_lengths(points[2:], size, name)
            else:
                raise DataError(
                    f"'{name}' has a mask of {points[1]} x {points[0]} pixels and is {size[1]} x {size[0]}: they must "
                    "be the same; correct the annotations."
                )


class _Files:
    """Which files are below a folder; each folder is listed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, frozenset[str]] = {}

    def has(self, name: str) -> bool:
        folder, _, base = name.rpartition("/")
        if folder not in self._known:
            try:
                self._known[folder] = frozenset(os.listdir(self._root / folder))
            except OSError:
                self._known[folder] = frozenset()
        return base in self._known[folder]


def there(root: Path, task: Task, split: str) -> bool:
    """Whether a JSON with pictures is there."""
    return _places(root, split, None) is not None


def open_coco(
    root: Path, task: Task, split: str, *, images: str | os.PathLike[str] | None = None, keep_empty: bool | None = None
) -> CocoSet:
    """A split of COCO, or a JSON like it.

    Raises:
        DataError: it is not there, its annotations are damaged or empty, or no picture of it is there.
    """
    found = _places(root, split, Path(images) if images is not None else None)
    if found is None:
        raise DataError(f"'{root}' holds no COCO with the split '{split}': looked for {WANTED}.")
    path, folder = found
    opened = CocoSet(path, folder, split, split != "train" if keep_empty is None else keep_empty)
    if not len(opened._said.kind):
        why = f" ({opened.skipped.sentence()})" if opened.skipped else ""
        raise DataError(f"'{path}' has no object that can be used{why}: there is nothing to learn or to measure.")
    if not len(opened):
        raise DataError(
            f"'{path}' has no picture that can be used ({opened.skipped.sentence()}): looked in '{folder}'; give the "
            "folder of pictures as `images`."
        )
    return opened


def _places(root: Path, split: str, images: Path | None) -> tuple[Path, Path] | None:
    """The JSON, and the folder of its pictures."""
    if root.is_file():
        if root.suffix.lower() != ".json":
            return None
        beside = [root.parent / "images", root.parent.parent / root.stem.removeprefix("instances_")]
        return root, images or next((folder for folder in beside if folder.is_dir()), root.parent)
    for name in _SPLITS.get(split, (split,)):
        for path, folders in (
            (root / "annotations" / f"instances_{name}2017.json", (f"{name}2017", f"images/{name}2017")),
            (root / "annotations" / f"instances_{name}.json", (name, f"images/{name}", "images")),
            (root / name / "_annotations.coco.json", (name,)),
        ):
            if path.is_file():
                return path, images or next((root / one for one in folders if (root / one).is_dir()), root / folders[0])
    path = root / "instances.json"
    return (path, images or root / "images") if path.is_file() else None
