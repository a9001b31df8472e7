"""The index of a tar: random access to samples whose captions are tokens already.

    found = index("shards/00012.tar")
    found.image_bytes(7)                         # memoryview of the mapped tar
    found.tokens[found.token_start[t] : found.token_start[t + 1]]           # for t in found.texts(7)

An index lies beside its tar (`00012.tar`, `00012.index.safetensors`) or, where that folder cannot be written, in a
cache. It is built when it is missing, when the tar's size or time differ, or when it was made by another version or
tokenizer; it replaces the old one in one step, so that several processes may build it at once.

Unusual here: an index is mapped, not read, and what it says is checked against the tar's size before use, since a
broken file of offsets must not become a crash in training.
"""

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobileclip import tokenizer
from mobileclip.data import arrays, index_build, places, remote, shards, sidecar, tars, teachers
from mobileclip.data.places import stem_of as stem_of
from mobileclip.data.problems import Problem, from_json
from mobileclip.data.shards import Paug, Span
from mobileclip.data.sidecar import SideCar
from mobileclip.data.teachers import Teachers
from mobileclip.errors import DataError, MobileClipError, OutputError

SUFFIX = ".index.safetensors"
"""What takes the place of `.tar`."""

_FIELDS: dict[str, tuple[type[np.generic], int]] = {
    "keys": (np.uint8, 1),
    "key_start": (np.int64, 1),
    "uid": (np.uint64, 1),
    "image": (np.int64, 2),
    "image_kind": (np.uint8, 1),
    "paug": (np.int64, 2),
    "embeds": (np.int64, 2),
    "embeds_kind": (np.uint8, 1),
    "syn": (np.int64, 2),
    "text_start": (np.int64, 1),
    "source": (np.uint8, 1),
    "weight": (np.float32, 1),
    "teacher": (np.int32, 1),
    "text_hash": (np.uint64, 1),
    "clip": (np.float32, 1),
    "token_start": (np.int64, 1),
    "tokens": (np.uint16, 1),
    "cls": (np.int32, 1),
}


class _Tar:
    """The tar of an index, mapped when the first byte of it is wanted."""

    def __init__(self, place: str, cache: Path | None, size: int) -> None:
        self.place, self.cache, self.size = place, cache, size
        self.lock = threading.Lock()
        self.data: memoryview | None = None

    def bytes(self) -> memoryview:
        """Raises DataError when it is gone or is not the tar that was indexed."""
        if self.data is None:
            with self.lock:
                if self.data is None:
                    path = remote.local(self.place, self.cache)
                    with tars.opened(path) as data:  # the view keeps it mapped
                        if len(data) != self.size:
                            raise DataError(
                                f"'{self.place}' has {len(data):,} bytes, its index was made for {self.size:,}: "
                                "start again, so that the index is built for the tar as it is now."
                            )
                        self.data = memoryview(data)
        return self.data


@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """What a tar holds. `N` samples, `T` texts; arrays are read-only views of the mapped index."""

    path: Path
    """The index file."""
    tar: str
    """The tar, as it was named: a path or an address."""
    n: int
    """N."""
    sources: tuple[str, ...]
    """Names of the sources of texts; `source` holds their places."""
    problems: dict[str, Problem]
    """What was found wrong while it was built."""
    metadata: Mapping[str, Any]
    """All else that the index says of its tar."""
    keys: NDArray[np.uint8]
    """UTF-8 of all keys, one behind the other."""
    key_start: NDArray[np.int64]
    """[N + 1] places in `keys`."""
    uid: NDArray[np.uint64]
    """[N] hash of `uid`, else of `sha256`, in `.json`; else of the tar's name and the key."""
    image: NDArray[np.int64]
    """[N, 2] offset and bytes of the image."""
    image_kind: NDArray[np.uint8]
    """[N] 0 JPEG by its name, 1 another."""
    paug_at: NDArray[np.int64]
    """[N, 2] offset and bytes of `.paug.json`; -1 none."""
    embeds: NDArray[np.int64]
    """[N, 2] offset and bytes of the embeddings in the tar; -1 none."""
    embeds_kind: NDArray[np.uint8]
    """[N] 0 none, 1 npz, 2 pth.gz."""
    syn: NDArray[np.int64]
    """[N, 2] offset and bytes of `.syn.json`; -1 none."""
    text_start: NDArray[np.int64]
    """[N + 1] first text of each sample."""
    source: NDArray[np.uint8]
    """[T] place in `sources`."""
    weight: NDArray[np.float32]
    """[T] quality weight; 1 where none is stored."""
    teacher: NDArray[np.int32]
    """[T] row in `Teachers.text`; -1 none."""
    text_hash: NDArray[np.uint64]
    """[T] of the first 75 ids: equal token rows are equal."""
    clip: NDArray[np.float32]
    """[T] similarity of caption and image; NaN unknown."""
    token_start: NDArray[np.int64]
    """[T + 1] first token of each text."""
    tokens: NDArray[np.uint16]
    """Ids without start and end, at most 1,024 a text, not padded."""
    cls: NDArray[np.int32]
    """[N] class in `.cls`; -1 none."""
    image_rows: SideCar | None = None
    """Teacher embeddings of images beside the shard; they go before those inside it."""
    text_rows: SideCar | None = None
    """The same of texts."""
    _tar: _Tar = field(repr=False)
    """Maps the tar when it is first needed."""

    def key(self, row: int) -> str:
        """Name of a sample's members, up to the first dot."""
        return self.keys[self.key_start[row] : self.key_start[row + 1]].tobytes().decode()

    def image_bytes(self, row: int) -> memoryview:
        """The encoded image, a view of the mapped tar."""
        return self._bytes(self.image[row])

    def paug(self, row: int) -> Paug | None:
        """Stored augmentations.

        Raises:
            DataError: the member is not what it should be.
        """
        if self.paug_at[row, 0] < 0:
            return None
        return shards.parse_paug(self._bytes(self.paug_at[row]))

    def teachers(self, row: int) -> Teachers | None:
        """Stored teacher embeddings: the side-cars' where there are any, else the tar's.

        Raises:
            DataError: they are damaged, empty, or not as many as captions and augmentations.
        """
        if self.image_rows is not None and self.text_rows is not None:
            return Teachers(image=self.image_rows.rows(row), text=self.text_rows.rows(row))
        kind = int(self.embeds_kind[row])
        if kind == 0:
            return None
        notes: list[str] = []
        members = {"syn.json": Span(*self.syn[row].tolist())} if self.syn[row, 0] >= 0 else {}
        syn = shards.json_member(self._tar.bytes(), members, "syn.json", notes)
        counts = {name: len(texts) for name, texts in shards.caption_lists(syn).items()}
        found = teachers.read(teachers.KINDS[kind - 1], bytes(self._bytes(self.embeds[row])))
        paug = self.paug(row)
        return teachers.assemble(found, counts, None if paug is None else len(paug.params))

    def texts(self, row: int) -> slice:
        """Places of a sample's texts in `source`, `weight`, `teacher`, `text_hash`, `clip`, `token_start`."""
        return slice(int(self.text_start[row]), int(self.text_start[row + 1]))

    def _bytes(self, span: NDArray[np.int64]) -> memoryview:
        offset, size = span.tolist()
        return self._tar.bytes()[offset : offset + size]


def index(
    tar: str | os.PathLike[str],
    *,
    cache: Path | None = None,
    json_keys: Sequence[str] = (),
    embeddings: Path | None = None,
) -> Index:
    """The index of a tar, built when it is missing or stale. `json_keys`: string fields of `.json` that are captions.

    Raises:
        DataError: the tar cannot be read at all, or `embeddings` holds no side-cars of it.
        OutputError: neither the tar's folder nor the cache can be written.
    """
    place = os.fspath(tar)
    path, found, metadata = _prepare(place, cache, tuple(json_keys))
    image_rows, text_rows = _side_cars(embeddings, place, metadata)
    found["paug_at"] = found.pop("paug")
    return Index(
        path=path,
        tar=place,
        n=int(metadata["n"]),
        sources=tuple(metadata["sources"]),
        problems=from_json(metadata["problems"]),
        metadata=metadata,
        image_rows=image_rows,
        text_rows=text_rows,
        _tar=_Tar(place, cache, int(metadata["tar_bytes"])),
        **found,
    )


def _side_cars(folder: Path | None, place: str, metadata: Mapping[str, Any]) -> tuple[SideCar | None, SideCar | None]:
    if folder is None:
        return None, None
    stem = stem_of(place)
    keys, n = str(metadata["keys_hash"]), int(metadata["n"])
    image = SideCar.open(folder / f"{stem}{sidecar.IMAGE}").expect(keys, n)
    text = SideCar.open(folder / f"{stem}{sidecar.TEXT}").expect(keys, n, str(metadata["texts_hash"]))
    return image, text


_Loaded = tuple[Path, dict[str, NDArray[Any]], dict[str, Any]]


def _prepare(place: str, cache: Path | None, json_keys: tuple[str, ...]) -> _Loaded:
    """A fresh index of a tar: its file, arrays and metadata."""
    cached = (cache or remote.default_cache()) / "index"
    kept = cached / f"{hashlib.sha256(_absolute(place).encode()).hexdigest()[:16]}-{stem_of(place)[-80:]}{SUFFIX}"
    if places.is_remote(place):
        size = remote.remote_size(place)
        candidates, time = [kept], 0
    else:
        try:
            status = Path(place).stat()
        except OSError as error:
            raise DataError(f"'{place}' cannot be read ({error.strerror}): check the path.") from error
        size, time = status.st_size, status.st_mtime_ns
        candidates = [Path(place.removesuffix(".tar") + SUFFIX), kept]
    expected = {
        "index": index_build.VERSION,
        "tar_bytes": size,
        "mtime_ns": time,
        "tokenizer": tokenizer.tokenizer_hash(),
        "json_keys": list(json_keys),
    }
    for path in candidates:
        loaded = _fresh(path, expected)
        if loaded is not None:
            return loaded
    path = remote.local(place, cache)
    with tars.opened(path) as data:
        found, metadata = index_build.build(data, tars.walk(data, place), Path(place).name, json_keys)
    metadata["mtime_ns"] = time
    for path in candidates:
        try:
            arrays.save(path, found, metadata)
            return path, *arrays.load(path)
        except OutputError:
            if path == candidates[-1]:
                raise
    raise AssertionError("unreachable")


def _absolute(place: str) -> str:
    return place if places.is_remote(place) else str(Path(place).resolve())


def _fresh(path: Path, expected: Mapping[str, Any]) -> _Loaded | None:
    """An index file, unless it is missing, damaged or was made from something else."""
    if not path.is_file():
        return None
    try:
        found, metadata = arrays.load(path)
        _check(found, metadata)
    except (MobileClipError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if any(metadata.get(name) != value for name, value in expected.items() if value is not None):
        return None
    return path, found, metadata


def _check(found: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any]) -> None:
    """ValueError unless every offset lies where it may."""
    n, size = int(metadata["n"]), int(metadata["tar_bytes"])
    if set(found) != set(_FIELDS):
        raise ValueError("its arrays have other names")
    for name, (dtype, dimensions) in _FIELDS.items():
        if found[name].dtype != dtype or found[name].ndim != dimensions:
            raise ValueError(f"array '{name}' has another form")
    count = len(found["source"])
    for name in ("uid", "image", "image_kind", "paug", "embeds", "embeds_kind", "syn", "cls"):
        if len(found[name]) != n:
            raise ValueError(f"array '{name}' has another length")
    for name in ("weight", "teacher", "text_hash", "clip"):
        if len(found[name]) != count:
            raise ValueError(f"array '{name}' has another length")
    for name, items, total in (("key_start", n, "keys"), ("text_start", n, "source"), ("token_start", count, "tokens")):
        start = found[name]
        if len(start) != items + 1 or start[0] != 0 or start[-1] != len(found[total]) or (np.diff(start) < 0).any():
            raise ValueError(f"array '{name}' does not rise from 0 to the end")
    for name in ("image", "paug", "embeds", "syn"):
        offset, length = found[name][:, 0], found[name][:, 1]
        absent = (offset == -1) & (name != "image")
        if not (absent | ((offset >= 0) & (length >= 0) & (offset <= size) & (length <= size - offset))).all():
            raise ValueError(f"array '{name}' points outside the tar")
    if (found["source"] >= len(metadata["sources"])).any() or (found["embeds_kind"] > len(teachers.KINDS)).any():
        raise ValueError("a source or a kind is unknown")
    from_json(metadata["problems"])
    if not all(isinstance(name, str) for name in metadata["sources"]):
        raise ValueError("a source has no name")
