"""`open_set`: a data set of a dense task in the layout that its publisher gives it, found out by looking.

    truth = open_set("ADEChallengeData2016", "segmentation", "val")
    len(truth), truth.labels, truth.skipped          # 2000, ("wall", "building, edifice", …), {reason: count}
    sample = truth[0]                                # read and decoded now

Opening lists files and reads annotations, and decodes no picture. What cannot be used is left out and counted in
`skipped` where a listing shows it (a picture without a mask); a file that turns out to be broken when it is read is a
`DataError` that names it. `LAYOUTS` holds every layout by name.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from mobileclip.dense.config import Task, task_of
from mobileclip.dense.data.skipping import Skipped
from mobileclip.dense.samples import DenseSet
from mobileclip.errors import DataError, UnknownName


class OpenedSet(DenseSet, Protocol):
    """What `open_set` gives: a `DenseSet`, safe in threads and processes."""

    skipped: Skipped
    """What was left out at opening, by reason."""
    notes: tuple[str, ...]
    """Sentences that a user should read before training."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A layout by name."""

    home: str
    """Module of this package with `WANTED`, `there(root, task, split)` and the function `opener`."""
    opener: str
    """(root, task, split, **options) -> set."""
    tasks: tuple[Task, ...]
    """What it has truth for."""
    options: tuple[str, ...] = ()
    """Keywords that the opener takes."""


LAYOUTS: Mapping[str, Layout] = {
    "ade": Layout(home="ade", opener="open_ade", tasks=("segmentation",)),
    "coco": Layout(home="coco", opener="open_coco", tasks=("detection",), options=("images", "keep_empty")),
    "nyu": Layout(home="nyu", opener="open_nyu", tasks=("depth",), options=("max_depth",)),
    "scenes": Layout(
        home="scenes", opener="open_scenes", tasks=("segmentation", "detection", "depth"), options=("max_depth",)
    ),
    "folder": Layout(home="folder", opener="open_folder", tasks=("segmentation", "depth"), options=("max_depth",)),
}
"""Name -> layout, in the order in which they are looked for."""


def open_set(
    path: str | os.PathLike[str],
    task: str,
    split: str = "val",
    layout: str | None = None,
    *,
    max_depth: float = 10.0,
    images: str | os.PathLike[str] | None = None,
    keep_empty: bool | None = None,
) -> OpenedSet:
    """Open the pictures of a split with their truth for a task.

    Args:
        path: Folder of the data set, or its file: COCO's JSON, NYU's `.mat`.
        task: One of `TASKS`.
        split: `train` or `val`; NYU also has `train795`.
        layout: Key of `LAYOUTS`; None: the first that is there.
        max_depth: Of depth, in metres; what is farther has no truth.
        images: Of COCO, the folder of pictures where it is not beside the annotations.
        keep_empty: Of COCO, whether pictures without an object stay; None: in `val` only.

    Raises:
        UnknownName: no such task or layout.
        DataError: nothing is there, nothing of it can be used, or its annotations are damaged.
    """
    task, root = task_of(task), _place(path)
    if not max_depth > 0:
        raise DataError(f"max_depth is {max_depth}: more than 0 metres is allowed; 10 is usual indoors.")
    if layout is None:
        layout = _found(root, task, split)
    elif layout not in LAYOUTS:
        raise UnknownName("layout", layout, LAYOUTS)
    entry = LAYOUTS[layout]
    if task not in entry.tasks:
        raise DataError(
            f"the layout '{layout}' has no truth for {task}: it has {' and '.join(entry.tasks)}; ask for that, or give "
            "another data set."
        )
    given = {"max_depth": max_depth, "images": images, "keep_empty": keep_empty}
    opened: OpenedSet = getattr(_module(entry), entry.opener)(
        root, task, split, **{name: given[name] for name in entry.options}
    )
    return opened


def layout_of(path: str | os.PathLike[str], task: str, split: str = "val") -> str:
    """The layout that `open_set` would take.

    Raises:
        DataError: none is there.
    """
    return _found(_place(path), task_of(task), split)


def _place(path: str | os.PathLike[str]) -> Path:
    root = Path(path).expanduser()
    if not root.exists():
        raise DataError(f"'{path}' does not exist: give the folder of a data set.")
    return root


def _found(root: Path, task: Task, split: str) -> str:
    fitting = {name: entry for name, entry in LAYOUTS.items() if task in entry.tasks}
    for name, entry in fitting.items():
        if _module(entry).there(root, task, split):
            return name
    looked = "; ".join(f"{name}: {_module(entry).WANTED}" for name, entry in fitting.items())
    raise DataError(
        f"'{root}' is no data set for {task} with the split '{split}' that is known here: looked for {looked}."
    )


def _module(entry: Layout) -> Any:
    return import_module(f"mobileclip.dense.data.{entry.home}")
