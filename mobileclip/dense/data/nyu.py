"""NYU Depth v2 in its three published forms: BTS' tree of PNGs, the labelled `.mat`, FastDepth's `.h5` a frame.

    nyu_depth_v2/sync/<scene>/rgb_00000.jpg, sync_depth_00000.png               train: 24,231 pairs
    nyu_depth_v2/official_splits/{train,test}/<scene>/rgb_*.jpg, sync_depth_*.png    train795, val: 654 pairs
    nyu_depth_v2_labeled.mat and splits.mat (or splits.json) beside it           train = train795, val: 654
    {train,val}/**/*.h5 with rgb [3, H, W] and depth [H, W] in metres

A list `train_list.txt` or `nyudepthv2_train_files_with_gt.txt` in the folder (BTS' form: picture, depth, focal length a
line) chooses the pairs of `sync/`. Of the `.mat` the raw depth is taken, whose holes are 0, in whole millimetres, and
the picture is black outside rows 7..473 and columns 7..631, so that it equals the tree. A frame without any depth is
delivered: it has no pixel that counts.

Source: cleinc/bts, utils/extract_official_train_test_set_from_mat.py and download scripts; fangchangma/sparse-to-dense.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mobileclip.data.tars import is_safe
from mobileclip.dense.config import Task
from mobileclip.dense.data import files, reading
from mobileclip.dense.data.files import FileSet, Pair, Read, ReadDepth
from mobileclip.dense.data.frames import ReadFrame, ReadLabelled, frames_of
from mobileclip.dense.data.skipping import Skipped
from mobileclip.errors import DataError

WANTED = (
    "sync/ (train) and official_splits/{test,train}/ (val, train795) with rgb_*.jpg and sync_depth_*.png, "
    "nyu_depth_v2_labeled.mat, or {train,val}/**/*.h5"
)
"""What is looked for."""

LISTS = ("train_list.txt", "nyudepthv2_train_files_with_gt.txt")
"""Lists of pairs to train on."""
_TREES = {"train": "sync", "val": "official_splits/test", "train795": "official_splits/train"}
_MAT = "nyu_depth_v2_labeled.mat"
_MAX_LIST = 1 << 26  # bytes


def there(root: Path, task: Task, split: str) -> bool:
    """Whether one of the three forms is there with this split."""
    return _form(root, split) is not None


def open_nyu(root: Path, task: Task, split: str, *, max_depth: float = 10.0) -> FileSet:
    """A split of NYUv2: `train`, `val` or `train795`.

    Raises:
        DataError: it is not there, nothing of it can be used, a list names what is not there, or the `.mat` has no
            splits beside it.
        MissingExtra: a `.mat` or `.h5` without h5py.
    """
    found = _form(root, split)
    if found is None:
        raise DataError(f"'{root}' holds no NYUv2 with the split '{split}': looked for {WANTED}.")
    place, form = found
    skipped = Skipped()
    read: Read
    notes: tuple[str, ...] = ()
    if form == "tree":
        listing = next((place.parent / name for name in LISTS if (place.parent / name).is_file()), None)
        pairs = _from_list(place, listing) if split == "train" and listing is not None else _tree(place, skipped)
        read = ReadDepth(max_depth=max_depth)
    elif form == "mat":
        numbers = _numbers(place, "test" if split == "val" else "train")
        size = place.stat().st_size
        pairs = [Pair(image=f"{place}#{number}", truth=str(place), bytes=size) for number in numbers]
        read = ReadLabelled(count=frames_of(place), max_depth=max_depth)
        if split == "train":
            notes = (f"the labelled .mat has {len(pairs)} frames to train on; the protocol trains on 24,231 of sync/.",)
    else:
        pairs = [Pair(image=path, truth=path, bytes=size) for path, size in _walk(place, ".h5")]
        read = ReadFrame(max_depth=max_depth)
    files.some(pairs, skipped, root, WANTED)
    return FileSet(
        name=f"nyu_depth_v2/{split}", task=task, root=place.parent, pairs=pairs, read=read, skipped=skipped, notes=notes
    )


def _form(root: Path, split: str) -> tuple[Path, str] | None:
    """The place of a split, and which form it has."""
    if split not in _TREES:
        return None
    if root.is_file():
        return (root, "mat") if root.suffix == ".mat" else None
    for base in (root, root / "nyu_depth_v2", root / "nyudepthv2"):
        if (base / _TREES[split]).is_dir():
            return base / _TREES[split], "tree"
        if (base / _MAT).is_file():
            return base / _MAT, "mat"
        if split in ("train", "val") and next(_walk(base / split, ".h5"), None) is not None:
            return base / split, "h5"
    return None


def _walk(folder: Path, ending: str) -> Iterator[tuple[str, int]]:
    """Files below a folder, sorted: path and bytes; links to folders are not followed."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.endswith(ending) and not name.startswith("."):
                path = os.path.join(place, name)
                yield path, os.stat(path).st_size


def _tree(folder: Path, skipped: Skipped) -> list[Pair]:
    """All pairs of all scenes, sorted."""
    pairs = []
    scenes = sorted(path for path in folder.iterdir() if path.is_dir())
    for scene in [folder, *scenes]:
        found = files.listed(scene, (".jpg", ".jpeg", ".png"), skipped)
        images = {stem.removeprefix("rgb_"): entry for stem, entry in found.items() if stem.startswith("rgb_")}
        maps = {
            stem.removeprefix("sync_depth_"): entry for stem, entry in found.items() if stem.startswith("sync_depth_")
        }
        pairs += files.paired(images, maps, skipped, "depth map")
    return pairs


def _from_list(folder: Path, path: Path) -> list[Pair]:
    """The pairs that a list names, by paths below `sync/` or its parent."""
    pairs = []
    for number, line in enumerate(reading.text_of(path, _MAX_LIST).splitlines(), 1):
        words = line.split()
        if not words or words[1:2] == ["None"]:
            continue
        names = [word.lstrip("/") for word in words[:2]]
        if len(names) < 2 or not all(is_safe(name) for name in names):
            raise DataError(
                f"'{path}' line {number} is '{line[:80]}': a picture and its depth map are allowed, as paths that stay "
                "below the folder."
            )
        found = next(
            (
                [base / name for name in names]
                for base in (folder, folder.parent)
                if all((base / name).is_file() for name in names)
            ),
            None,
        )
        if found is None:
            raise DataError(f"'{path}' line {number} names '{names[0]}', which is not there with its depth: get both.")
        size = sum(one.stat().st_size for one in found)
        pairs.append(Pair(image=str(found[0]), truth=str(found[1]), bytes=size))
    return pairs


def _numbers(mat: Path, part: str) -> list[int]:
    """Which frames of the `.mat` are in a part of the official split, from 0."""
    key = f"{part}Ndxs"
    text, matlab = mat.with_name("splits.json"), mat.with_name("splits.mat")
    try:
        if text.is_file():
            values = json.loads(reading.text_of(text, _MAX_LIST))[key]
        elif matlab.is_file():
            values = _matlab(matlab, key)
        else:
            raise DataError(
                f"'{mat.parent}' has no splits.mat beside the .mat: get it from the data set's page, or write "
                'splits.json with {"trainNdxs": [...], "testNdxs": [...]}, counted from 1.'
            )
        numbers = [int(value) - 1 for value in values]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"'{text if text.is_file() else matlab}' cannot be read ({error}): trainNdxs and testNdxs, lists of "
            "numbers counted from 1, are allowed."
        ) from error
    if not numbers or min(numbers) < 0 or max(numbers) >= frames_of(mat):
        raise DataError(
            f"the split '{part}' beside '{mat}' names frames that it does not have: it has 1 to {frames_of(mat):,}."
        )
    return sorted(numbers)


def _matlab(path: Path, key: str) -> list[Any]:
    """A list of numbers in a MATLAB 5 file."""
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError as error:
        raise DataError(
            f"'{path}' is a MATLAB 5 file, for which scipy is needed: pip install scipy, or write splits.json with "
            "trainNdxs and testNdxs."
        ) from error
    try:
        found: list[Any] = loadmat(path, variable_names=(key,))[key].ravel().tolist()
    except Exception as error:  # scipy's reader raises what it likes on foreign bytes
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(reason) from error
    return found
