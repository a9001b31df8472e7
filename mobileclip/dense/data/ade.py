"""ADE20K's SceneParse150, as it is published: 20,210 pictures to train on, 2,000 to measure with, 150 classes.

    ADEChallengeData2016/
      images/{training,validation}/ADE_train_00000001.jpg …
      annotations/{training,validation}/ADE_train_00000001.png      values 0..150, 0 is everything else
      objectInfo150.txt                                             Idx, Ratio, Train, Val, Stuff, Name

A value v > 0 is class v - 1; 0 counts nowhere (mmsegmentation calls that `reduce_zero_label`). Results for the
benchmark's server need the 1 added again.

Source: CSAILVision/sceneparsing, README.
"""

from pathlib import Path

from mobileclip.dense.config import IGNORE, Task
from mobileclip.dense.data import files, reading
from mobileclip.dense.data.files import FileSet, ReadLabels
from mobileclip.dense.data.skipping import Skipped
from mobileclip.dense.labels import ADE20K
from mobileclip.errors import DataError

WANTED = "images/{training,validation}/, annotations/{training,validation}/ and objectInfo150.txt"
"""What is looked for."""

CLASSES = 150
"""Of SceneParse150."""
_FOLDER = {"train": "training", "val": "validation"}
_MAX_NAMES = 1 << 20  # bytes of objectInfo150.txt, which has six thousand


def there(root: Path, task: Task, split: str) -> bool:
    """Whether the folder, or ADEChallengeData2016 in it, has this split."""
    folder = _FOLDER.get(split)
    return folder is not None and (_base(root) / "annotations" / folder).is_dir()


def open_ade(root: Path, task: Task, split: str) -> FileSet:
    """A split of SceneParse150.

    Raises:
        DataError: it is not there, has no usable pair, or its list of classes is damaged.
    """
    if not there(root, task, split):
        raise DataError(f"'{root}' holds no ADE20K with the split '{split}': looked for {WANTED}.")
    base, skipped = _base(root), Skipped()
    images, maps = base / "images" / _FOLDER[split], base / "annotations" / _FOLDER[split]
    pairs = files.paired(
        files.listed(images, files.IMAGES, skipped), files.listed(maps, (".png",), skipped), skipped, "label map"
    )
    files.some(pairs, skipped, base, WANTED)
    lookup = [IGNORE, *range(CLASSES), *[-1] * (255 - CLASSES)]
    lookup[255] = IGNORE
    return FileSet(
        name=f"ade20k/{split}",
        task=task,
        root=base,
        pairs=pairs,
        read=ReadLabels(lookup=tuple(lookup), allowed=f"0 to {CLASSES}, of which 0 is everything else"),
        skipped=skipped,
        labels=_names(base),
    )


def _base(root: Path) -> Path:
    inner = root / "ADEChallengeData2016"
    return inner if inner.is_dir() else root


def _names(base: Path) -> tuple[str, ...]:
    """The first name of each class: those of the file where it is there."""
    path = base / "objectInfo150.txt"
    if not path.exists():
        return ADE20K
    rows = [line.split("\t") for line in reading.text_of(path, _MAX_NAMES).splitlines() if line.strip()]
    found = {row[0].strip(): row[-1].strip() for row in rows[1:] if len(row) >= 2}
    wanted = [str(number) for number in range(1, CLASSES + 1)]
    if set(found) != set(wanted) or not all(found.values()):
        raise DataError(
            f"'{path}' lists {len(found)} classes: a header and 150 lines 'Idx, Ratio, Train, Val, Stuff, Name', "
            "parted by tabs, are allowed; copy it from the release again."
        )
    return tuple(found[number].split(",")[0].split(";")[0] for number in wanted)
