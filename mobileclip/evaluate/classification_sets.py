"""Sets for zero-shot classification: class folders, or tars with `.cls` members.

Class names come from a list (one a line, or JSON; `classes.txt` beside the pictures is found), or are the folders'
names; folders of WordNet ids are ImageNet's classes, all of them or some. Templates come from a list (`templates.txt`
is found), else ImageNet has the 80 of CLIP's authors and every other set has "a photo of a {}.".
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mobileclip.errors import DataError, some
from mobileclip.evaluate.packed import labelled, tars_in
from mobileclip.evaluate.pictures import Files, check_lost
from mobileclip.evaluate.sets import LOST_SHARE, Classification
from mobileclip.evaluate.templates import (
    PLAIN,
    imagenet_classes,
    imagenet_synsets,
    imagenet_templates,
    read_classes,
    read_templates,
)
from mobileclip.images import EXTENSIONS

LAYOUTS = (
    "a folder of class folders with pictures in them, a folder of tars whose samples have .cls members "
    "(with classes.txt beside them), or one such tar"
)
"""What is known, for messages."""
CLASS_LISTS = ("classes.txt", "classes.json", "classnames.txt")
"""Looked for beside the pictures and one folder up; the last is CLIP benchmark's."""
TEMPLATE_LISTS = ("templates.txt", "templates.json", "zeroshot_classification_templates.txt")
_SPLITS = {"train", "training", "val", "valid", "validation", "test"}
_WORDNET = re.compile(r"n\d{8}")


def open_classification(
    path: str | Path,
    *,
    classes: str | Path | None = None,
    templates: str | Path | None = None,
    lost_share: float = LOST_SHARE,
) -> Classification:
    """A set to classify.

    Args:
        path: see `LAYOUTS`.
        classes: file of class names, or `imagenet`.
        templates: file of templates, or `imagenet`.
        lost_share: of packed samples that may lack their picture or class.

    Raises:
        DataError: an unknown layout, lists that do not fit it, or too many incomplete samples.
    """
    root = Path(path)
    if not root.exists():
        raise DataError(f"{root} does not exist: give {LAYOUTS}.")
    if root.is_file():
        if root.suffix != ".tar":
            raise DataError(f"{root} is a file: give {LAYOUTS}.")
        return _packed(root, [root], classes, templates, lost_share)
    files = tars_in(root)
    if not files and not _folders(root, EXTENSIONS) and (root / "test").is_dir():
        files = tars_in(root / "test")  # CLIP benchmark's layout
    if files:
        return _packed(root, files, classes, templates, lost_share)
    return _foldered(root, classes, templates)


def _packed(
    root: Path, files: list[Path], classes: str | Path | None, templates: str | Path | None, lost_share: float
) -> Classification:
    folder = root if root.is_dir() else root.parent
    source = classes or _beside(folder, CLASS_LISTS)
    if source is None:
        raise DataError(
            f"{root} has tars and no list of classes: put {CLASS_LISTS[0]} beside them, one name a line in order of "
            "class, or name a list."
        )
    names = read_classes(source)
    pictures, labels, lost = labelled(files, len(names))
    check_lost(len(lost), len(lost) + len(labels), lost, what=root.name, share=lost_share)
    return Classification(
        name=root.name,
        pictures=pictures,
        labels=labels,
        classes=names,
        templates=_templates(folder, templates, imagenet=names == _imagenet(names)),
        missing=len(lost),
    )


def _foldered(root: Path, classes: str | Path | None, templates: str | Path | None) -> Classification:
    folders = _folders(root)
    if not folders:
        raise DataError(f"{root} has no folders and no tars: give {LAYOUTS}.")
    names = [folder.name for folder in folders]
    if {name.lower() for name in names} <= _SPLITS:
        raise DataError(f"{root} has the parts {some(names)} of a set, not its classes: give one of them.")
    known, index = _resolve(root, names, classes)
    paths: list[Path] = []
    labels: list[int] = []
    for folder, label in zip(folders, index, strict=True):
        found = _pictures(folder)
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise DataError(
            f"{root}: no picture in {len(folders)} folders ({some(names)}): allowed are {' '.join(EXTENSIONS)}; give "
            f"{LAYOUTS}."
        )
    return Classification(
        name=root.name or root.resolve().name,
        pictures=Files(tuple(paths)),
        labels=np.array(labels, np.int64),
        classes=known,
        templates=_templates(root, templates, imagenet=set(known) <= set(_imagenet(known, names))),
    )


def _resolve(root: Path, folders: Sequence[str], classes: str | Path | None) -> tuple[tuple[str, ...], list[int]]:
    """Class names, and the class of each folder (sorted by name)."""
    source = classes or _beside(root, CLASS_LISTS)
    wordnet = all(_WORDNET.fullmatch(name) for name in folders)
    if source is None:
        if not wordnet:
            return tuple(name.replace("_", " ") for name in folders), list(range(len(folders)))
        synsets, names = _synsets(root, folders), imagenet_classes()
        return tuple(names[synsets[name]] for name in folders), list(range(len(folders)))
    known = read_classes(source)
    place = {_plain(name): index for index, name in enumerate(known)}
    if len(place) == len(known) and all(_plain(name) in place for name in folders):
        return known, [place[_plain(name)] for name in folders]
    if all(name.isdecimal() for name in folders) and max(map(int, folders)) < len(known):
        return known, [int(name) for name in folders]
    if len(folders) == len(known):  # the order of sorted folders, as torchvision's ImageFolder numbers them
        return known, list(range(len(folders)))
    if wordnet and len(known) == len(imagenet_synsets()):
        synsets = _synsets(root, folders)
        return known, [synsets[name] for name in folders]
    raise DataError(
        f"{root}: its {len(folders)} folders ({some(folders)}) do not fit the {len(known)} class names of {source} "
        f"({some(known)}): folders must bear the names or the indices of classes, or be as many, in their order."
    )


def _synsets(root: Path, folders: Sequence[str]) -> dict[str, int]:
    place = {name: index for index, name in enumerate(imagenet_synsets())}
    strange = [name for name in folders if name not in place]
    if strange:
        raise DataError(
            f"{root}: the WordNet ids {some(strange)} are none of ImageNet's 1,000 classes: give a list of class names."
        )
    return place


def _imagenet(names: Sequence[str], folders: Sequence[str] = ()) -> tuple[str, ...]:
    """ImageNet's class names where these may be theirs, else none."""
    wordnet = bool(folders) and all(_WORDNET.fullmatch(name) for name in folders)
    return imagenet_classes() if wordnet or len(names) == 1000 else ()


def _templates(folder: Path, source: str | Path | None, *, imagenet: bool) -> tuple[str, ...]:
    found = source or _beside(folder, TEMPLATE_LISTS)
    if found is not None:
        return read_templates(found)
    return imagenet_templates() if imagenet else PLAIN


def _beside(folder: Path, names: Sequence[str]) -> Path | None:
    places = [folder / name for name in names] + [folder.resolve().parent / name for name in names]
    return next((place for place in places if place.is_file()), None)


def _folders(root: Path, endings: Sequence[str] = ()) -> list[Path]:
    """Folders in `root`, sorted; with `endings`, only those that hold such files themselves."""
    found = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not endings:
        return found
    return [folder for folder in found if any(item.suffix.lower() in endings for item in folder.iterdir())]


def _pictures(folder: Path) -> list[Path]:
    """Pictures of a class, also in sub-folders, in a fixed order."""
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(parent, name)
            for name in sorted(files)
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS
        ]
    return found


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())
