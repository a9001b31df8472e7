"""What can be wrong with a sample or a shard: a stable name, and one sentence of what to do.

The index counts problems while it is built, packing counts what it leaves out, the doctor (`mobileclip inspect`) shows
them all. A name is a key in JSON and does not change its meaning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NAMED = 20
"""So many samples of each problem are named; the rest is only counted."""

ADVICE: dict[str, str] = {
    "not_a_tar": "Nothing of the file can be read: download or write it again, as an uncompressed tar.",
    "truncated": "The file is damaged or cut; samples before that place are used: download or write it again.",
    "no_end_mark": "The blocks of zeros that end a tar are missing, so it may have been cut: compare its size or hash.",
    "no_samples": "Not one sample of the shard can be used: see the other problems, or leave it out.",
    "unsafe_name": "A name would leave the folder it is unpacked to and is not read: do not unpack this tar.",
    "duplicate_key": "A member occurs twice and the first is used: give every sample its own key.",
    "not_adjacent": "A sample's members do not lie together, so webdataset makes several of it: pack the shard again.",
    "silent_extension": "An extension is upper case or no reader's image extension: rename to .jpg, .png or .webp.",
    "no_image": "A sample has no .jpg, .png, .jpeg or .webp and is left out: join the images, or remove it.",
    "empty_image": "An image has no bytes and its sample is left out: download it again, or remove it.",
    "no_caption": "A sample has no caption that can be used and is left out: caption it, or name its .json field.",
    "empty_caption": "A caption is blank and is not used: remove it.",
    "not_utf8": "A text is not UTF-8 and is not used: convert it.",
    "bad_json": "A .json member is not a JSON object, or is too large, and is not used: write it again.",
    "caption_too_long": "A caption is longer than is ever read and was cut: shorten it, or check where it came from.",
    "too_many_captions": "A sample has more captions than are kept; the first are used: remove some.",
    "bad_quality": "A caption weight (`cap_q`) is no number from 0 on, or their count is not that of the captions.",
    "bad_augmentation": "A .paug.json is not the parameters of augmentations: write it again, or remove it.",
    "augmentation_missing": "A sample has embeddings without .paug.json, so they belong to unknown augmentations.",
    "augmentation_count": "There are not as many augmentations as image embeddings: make both again.",
    "augmentation_size": "The boxes of augmentations do not lie in the image that is stored: make them for this image.",
    "embedding_rows": "There are not as many text embeddings as captions: make the embeddings again.",
    "embedding_empty": "Embeddings have no rows, as some generators write beyond their first batch: make them again.",
    "embedding_missing": "A caption list has no embeddings of its own; Apple's reader may pair it with another list's.",
    "bad_embeddings": "A file of embeddings cannot be read without trusting it, or at all: write it again as .npz.",
    "pickle": "A pickle can run anything when it is opened and is never read here: convert it to .npz or .json.",
    "licence_missing": "No licence is recorded for a sample: write `license` into its .json.",
    "broken_image": "An image cannot be decoded: download it again, or remove it.",
    "image_too_large": "An image has more pixels than are decoded: make it smaller first.",
}
"""Problem -> what it means and what to do."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One kind of problem in one shard or corpus."""

    count: int
    """How often it occurs."""
    names: tuple[str, ...]
    """Keys (or files) of the first `NAMED`."""


class Tally:
    """Counts problems, and names the first of each kind."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, list[str]]] = {}

    def add(self, problem: str, name: str, count: int = 1) -> None:
        """One more of `problem`, in the sample or file called `name`."""
        assert problem in ADVICE, problem
        number, names = self._found.get(problem, (0, []))
        if len(names) < NAMED:
            names.append(name[:200] if name.isprintable() else ascii(name[:200])[1:-1])  # a name may hold escape codes
        self._found[problem] = (number + count, names)

    def merge(self, problems: Mapping[str, Problem], prefix: str = "") -> None:
        """Those of another shard, whose names are put behind `prefix`."""
        for problem, found in problems.items():
            number, names = self._found.get(problem, (0, []))
            names.extend(prefix + name for name in found.names[: NAMED - len(names)])
            self._found[problem] = (number + found.count, names)

    def result(self) -> dict[str, Problem]:
        """Problem -> count and names, most frequent first."""
        ordered = sorted(self._found.items(), key=lambda item: (-item[1][0], item[0]))
        return {name: Problem(count=count, names=tuple(names)) for name, (count, names) in ordered}


def as_json(problems: Mapping[str, Problem]) -> dict[str, Any]:
    """For metadata and `--json`."""
    return {name: {"count": found.count, "names": list(found.names)} for name, found in problems.items()}


def from_json(value: object) -> dict[str, Problem]:
    """The inverse of `as_json`; ValueError when it is something else."""
    if not isinstance(value, dict):
        raise ValueError("problems are no JSON object")
    out = {}
    for name, found in value.items():
        out[str(name)] = Problem(count=int(found["count"]), names=tuple(str(n) for n in found["names"][:NAMED]))
    return out


def sentence(problems: Mapping[str, Problem], limit: int = 4) -> str:
    """`12 no_image (00001, 00002, 00003, ...), 3 not_utf8 (00007, ...)`, for error messages."""
    parts = []
    for name, found in list(problems.items())[:limit]:
        shown = ", ".join(found.names[:3]) + (", ..." if found.count > min(3, len(found.names)) else "")
        parts.append(f"{found.count} {name} ({shown})")
    return ", ".join(parts)
