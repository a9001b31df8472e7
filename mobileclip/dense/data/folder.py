"""A plain folder: pictures and label maps, or 16-bit depth maps, of the same stems.

    mine/
      images/{train,val}/a.jpg      masks/{train,val}/a.png      depth/{train,val}/a.png      labels.txt
    or  mine/{train,val}/images/ …, or images/, masks/ and depth/ without splits, with train.txt and val.txt (stems)

Values of a mask are class ids from 0, 255 for none; line i of `labels.txt` names class i. Without that file the masks
are read once to find the highest id. Depth is in millimetres, 0 for none.
"""

from pathlib import Path

import numpy as np

from mobileclip.dense.config import IGNORE, Task
from mobileclip.dense.data import files, reading
from mobileclip.dense.data.files import FileSet, Pair, Read, ReadDepth, ReadLabels
from mobileclip.dense.data.skipping import Skipped
from mobileclip.errors import DataError

WANTED = (
    "images/ with masks/ (segmentation) or depth/ (depth) of the same stems, each with or inside {train,val}/ where "
    "there are splits"
)
"""What is looked for."""

_SPLITS = {"train": ("train", "training"), "val": ("val", "validation", "valid")}
_TRUTH: dict[Task, str] = {"segmentation": "masks", "depth": "depth"}
_MAX_TEXT = 1 << 26  # bytes of labels.txt or of a list of stems


def there(root: Path, task: Task, split: str) -> bool:
    """Whether there are pictures and the truth of this task."""
    return _folders(root, task, split) is not None


def open_folder(root: Path, task: Task, split: str, *, max_depth: float = 10.0) -> FileSet:
    """Pictures of a folder with masks or depth.

    Raises:
        DataError: a folder or a stem of a list is missing, nothing can be used, or `labels.txt` is empty or too long.
    """
    found = _folders(root, task, split)
    if found is None:
        raise DataError(f"'{root}' holds no pictures with {_TRUTH[task]}: looked for {WANTED}.")
    images, truths, whole = found
    skipped = Skipped()
    what = "mask" if task == "segmentation" else "depth map"
    pairs = files.paired(
        files.listed(images, files.IMAGES, skipped), files.listed(truths, files.MAPS, skipped), skipped, what
    )
    notes: tuple[str, ...] = ()
    if whole:
        pairs, notes = _listed_only(root, split, pairs)
    files.some(pairs, skipped, root, WANTED)
    labels: tuple[str, ...] = ()
    read: Read = ReadDepth(max_depth=max_depth)
    if task == "segmentation":
        labels, more = _labels(root, pairs)
        notes += more
        read = ReadLabels(lookup=files.plain_lookup(len(labels)), allowed=f"0 to {len(labels) - 1}, and 255 for none")
    return FileSet(
        name=f"{root.name}/{split}",
        task=task,
        root=root,
        pairs=pairs,
        read=read,
        skipped=skipped,
        labels=labels,
        notes=notes,
    )


def _folders(root: Path, task: Task, split: str) -> tuple[Path, Path, bool] | None:
    """Folders of pictures and of truth, and whether they hold all splits."""
    truth = _TRUTH[task]
    for name in _SPLITS.get(split, (split,)):
        for images, truths in (
            (root / "images" / name, root / truth / name),
            (root / name / "images", root / name / truth),
        ):
            if images.is_dir() and truths.is_dir():
                return images, truths, False
    whole = (root / "images", root / truth)
    return (*whole, True) if all(folder.is_dir() for folder in whole) else None


def _listed_only(root: Path, split: str, pairs: list[Pair]) -> tuple[list[Pair], tuple[str, ...]]:
    """The pairs whose stems the split's list names; all of them where there is no list."""
    path = root / f"{split}.txt"
    if not path.exists():
        return pairs, (
            f"'{root}' has no {split}/ and no {split}.txt, so every split is all of it: figures on pictures that were "
            "trained on say little.",
        )
    by_stem = {Path(pair.image).stem: pair for pair in pairs}
    chosen = []
    for line in reading.text_of(path, _MAX_TEXT).splitlines():
        stem = line.strip()
        if stem and stem not in by_stem and Path(stem).stem not in by_stem:
            raise DataError(f"'{path}' names '{stem}', which has no picture with truth: correct the list.")
        if stem:
            chosen.append(by_stem.get(stem) or by_stem[Path(stem).stem])
    return chosen, ()


def _labels(root: Path, pairs: list[Pair]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the classes, and what is to be told of them."""
    path = root / "labels.txt"
    if path.exists():
        names = tuple(line.strip() for line in reading.text_of(path, _MAX_TEXT).splitlines() if line.strip())
        if not 1 <= len(names) <= IGNORE:
            raise DataError(f"'{path}' names {len(names)} classes: 1 to {IGNORE} are allowed, one a line.")
        return names, ()
    highest = 0
    for pair in pairs:
        ids = reading.class_ids(reading.content_of(Path(pair.truth)), pair.truth)
        highest = max(highest, int(np.max(ids, where=ids != IGNORE, initial=0)))
    names = tuple(f"class {number}" for number in range(highest + 1))
    return names, (
        f"'{root}' has no labels.txt: {len(names)} classes were found by reading {len(pairs):,} masks; name them "
        "there.",
    )
