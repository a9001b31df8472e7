"""Sets for retrieval: a caption file and its pictures, a folder of both, or packed shards.

Pictures are looked for where the known sets have them: beside the caption file, in `images/`, `val2017/`,
`flickr30k-images/` and the like, there or one folder up. A name that leaves these folders is refused.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from mobileclip.errors import DataError, some
from mobileclip.evaluate.caption_files import FORMS, read_captions
from mobileclip.evaluate.files import inside
from mobileclip.evaluate.packed import captioned, tars_in
from mobileclip.evaluate.pictures import Files, check_lost
from mobileclip.evaluate.sets import LOST_SHARE, Retrieval

LAYOUTS = (
    "a folder with captions.jsonl and images/, packed shards (.tar), COCO's or Flickr30k's folder, or a caption file "
    f"({FORMS})"
)
"""What is known, for messages."""
CAPTION_FILES = (
    "captions.jsonl",
    "dataset_*.json",
    "captions*.json",
    "annotations/captions*.json",
    "*_karpathy_*.json",
    "results*.csv",
    "results*.token",
    "captions.csv",
    "captions.txt",
)
"""What a folder is searched for."""
PICTURE_FOLDERS = ("", "images", "Images", "flickr30k-images", "flickr30k_images", "Flicker8k_Dataset", "val2017")
"""Where pictures are, from the caption file's folder or the one above it."""
_PROBED = 50


def open_retrieval(path: str | Path, *, source: str | None = None, lost_share: float = LOST_SHARE) -> Retrieval:
    """A set to search.

    Args:
        path: see `LAYOUTS`.
        source: of packed shards, whose captions to take (`alt`, `syn_text`, ...); all where it is None.
        lost_share: of the pictures that may be missing.

    Raises:
        DataError: an unknown or broken layout, or too many missing pictures.
    """
    root = Path(path)
    if not root.exists():
        raise DataError(f"{root} does not exist: give {LAYOUTS}.")
    if root.is_file() and root.suffix != ".tar":
        return _from_file(root, root.name, lost_share)
    files = [root] if root.is_file() else tars_in(root)
    found = [] if root.is_file() else sorted({file for form in CAPTION_FILES for file in root.glob(form)})
    if len(found) > 1:
        names = [str(file.relative_to(root)) for file in found]
        raise DataError(f"{root} has several caption files ({some(names, 10)}): give one of them.")
    if found:
        return _from_file(found[0], root.name or root.resolve().name, lost_share)
    if not files:
        raise DataError(f"{root} has neither a caption file nor tars: give {LAYOUTS}.")
    pictures, captions, left_out = captioned(files, source)
    texts = tuple(tuple(own) for own in captions)
    return Retrieval(name=root.name, pictures=pictures, captions=texts, left_out=left_out)


def _from_file(file: Path, name: str, lost_share: float) -> Retrieval:
    found = read_captions(file)
    for picture in found.texts:
        if inside(picture) is None:
            raise DataError(
                f"{file} names the picture '{picture[:80]}', which lies outside of its folder: names must be relative."
            )
    folder = _picture_folder(file, list(found.texts))
    there = {picture: folder / picture for picture in found.texts if (folder / picture).is_file()}
    missing = [picture for picture in found.texts if picture not in there]
    check_lost(len(missing), len(found.texts), [f"{m}: not in {folder}" for m in missing], what=name, share=lost_share)
    return Retrieval(
        name=name,
        pictures=Files(tuple(there.values())),
        captions=tuple(tuple(found.texts[picture]) for picture in there),
        missing=len(missing),
        left_out=found.left_out,
    )


def _picture_folder(file: Path, pictures: Sequence[str]) -> Path:
    """The folder that has most of a sample of the pictures."""
    hint = re.search(r"(train|val|test)20\d\d", f"{file.name} {pictures[0]}")
    parts = dict.fromkeys([*PICTURE_FOLDERS, *([hint[0]] if hint else [])])
    places = [base / part for base in (file.parent, file.resolve().parent.parent) for part in parts]
    probe = pictures[:: max(1, len(pictures) // _PROBED)]
    hits = [sum((place / picture).is_file() for picture in probe) for place in places]
    best = max(range(len(places)), key=lambda index: hits[index])
    if not hits[best]:
        raise DataError(
            f"{file}: none of its pictures ({some(probe, 2)}) is in {file.parent} or the folder above it, nor in "
            f"{some([part for part in parts if part], 9)} there: put them into {file.parent / 'images'}."
        )
    return places[best]
