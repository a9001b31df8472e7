"""Writes packed shards: tars that open_clip, Apple's trainer, webdataset and this project's loader read as they are.

    with ShardWriter(folder, per_shard=10_000, licence="CC-BY-4.0") as writer:
        writer.add("000000001", image=jpeg, texts=[Text(source="alt", text="..."), Text(source="syn_text", text="...")])

A folder gets `00000.tar` and so on, their indices, `sizes.json` (open_clip's), side-cars in `emb/` where asked for, and
last `manifest.json`. A sample's members: `.jpg` (or `.png`, `.webp`), `.txt` (the text of source "alt"), `.json` (the
caller's record, with `uid`, `sha256`, `license`, the best caption of each source as a string `caption_<source>`, and
the `qc` block), `.syn.json` (all other captions, a list for each source, and their weights `cap_q`), `.paug.json`,
`.npz`.

Unusual here: the same samples give the same bytes, whenever and wherever they are written; a tar appears under its name
when it is complete; and embeddings are written per caption list, so that no reader pairs them with another list.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from mobileclip.data import index as indices
from mobileclip.data import sidecar, tars
from mobileclip.data.arrays import placing, writing
from mobileclip.data.sample import caption_lists, embeddings_file, encode, sample_members, text_rows
from mobileclip.data.shards import Paug, Text
from mobileclip.data.teachers import Teachers
from mobileclip.errors import DataError, OutputError

SCHEMA = 1
"""Version of the layout, in the manifest."""
MANIFEST, SIZES, MARKER = "manifest.json", "sizes.json", ".packing.json"
"""Files beside the tars; the marker is there while they are written."""
EMBEDDINGS = "emb"
"""Folder of side-cars beside the tars."""

Form = Literal["npz", "sidecar-bf16", "sidecar-int8", "none"]
"""Where embeddings go: into the tar as float32, beside it, or nowhere."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """One finished tar."""

    name: str
    """Its file name."""
    count: int
    """Samples."""
    bytes: int
    """Of the file."""
    sha256: str
    """Of the file."""
    licences: dict[str, int]
    """Licence -> samples."""


class ShardWriter:
    """A folder of packed shards; use it as a context. After an error its finished tars stay, without a manifest."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        per_shard: int = 10_000,
        licence: str = "",
        provenance: Mapping[str, Any] | None = None,
        quality: int = 92,
        embeddings: Form = "npz",
    ) -> None:
        """`licence` is that of samples whose record has none; `quality` is for images that come as pixels.

        Raises:
            DataError: `per_shard` is less than 1.
            OutputError: the folder holds tars or a finished corpus already, or cannot be written.
        """
        if per_shard < 1:
            raise DataError(f"per_shard is {per_shard}: a shard holds at least 1 sample; 10,000 are usual.")
        self.folder, self.per_shard = Path(folder), per_shard
        self.licence, self.provenance, self.quality, self.embeddings = licence, provenance or {}, quality, embeddings
        self.written: list[Written] = []
        claim(self.folder)
        self._tar: TarWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        tar, self._tar = self._tar, None
        if tar is not None:
            tar.__exit__(kind, error, trace)
        if kind is None:
            if tar is not None:
                self.written.append(tar.written())
            finish(self.folder, self.written, self.provenance)

    def add(
        self,
        key: str,
        *,
        image: bytes | memoryview | NDArray[np.uint8],
        texts: Sequence[Text],
        record: Mapping[str, Any] | None = None,
        members: Mapping[str, bytes] | None = None,
        paug: Paug | None = None,
        teachers: Teachers | None = None,
    ) -> None:
        """Append a sample.

        `image` is an encoded file, or RGB pixels [H, W, 3]; `record` are fields of `.json`; `members` are further
        files by extension ("mask.png"). Text rows of `teachers` are chosen by each text's `teacher`.

        Raises:
            DataError: a key, caption, image or member that readers could not take; nothing was written.
            OutputError: no room, or no permission.
        """
        if self._tar is not None and key in self._tar.keys:
            raise DataError(f"key '{key}' was added before: give every sample its own.")
        fields = dict(record or {})
        if not fields.get("license"):
            fields["license"] = self.licence
        files = sample_members(key, encode(image, self.quality), texts, fields, members or {}, paug)
        if self._tar is None:
            self._tar = TarWriter(self.folder / f"{len(self.written):05d}.tar", self.embeddings).__enter__()
        self._tar.add(key, files, texts, teachers)
        if self._tar.count == self.per_shard:
            tar, self._tar = self._tar, None
            tar.__exit__(None, None, None)
            self.written.append(tar.written())


class TarWriter:
    """One tar, its index and its side-cars; as a context. The tar has its name when the context ends without error."""

    def __init__(self, path: Path, embeddings: Form = "npz") -> None:
        self.path, self.embeddings = path, embeddings
        self.keys: set[str] = set()
        self._licences: dict[str, int] = {}
        self._stack, self._cars = ExitStack(), ExitStack()
        self._writers: dict[str, sidecar.Writer] = {}
        self._embedded = False

    def __enter__(self) -> Self:
        self._file = self._stack.enter_context(placing(self.path))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if kind is None:
            with writing(self.path), self._cars, self._stack:
                self._file.write(bytes(2 * tars.BLOCK))
                self._stack.close()
                metadata = indices.index(self.path).metadata
                for writer in self._writers.values():
                    writer.finish(keys=metadata["keys_hash"], texts=metadata["texts_hash"])
            return
        with suppress(OutputError):  # the error that is on its way says why
            self._cars.__exit__(kind, error, trace)
        with suppress(OutputError):
            self._stack.__exit__(kind, error, trace)

    def add(
        self, key: str, members: Mapping[str, bytes], texts: Sequence[Text] = (), teachers: Teachers | None = None
    ) -> None:
        """Append the members of a sample, in their order.

        Raises:
            DataError: its embeddings are incomplete; nothing was written.
            OutputError: no room, or no permission.
        """
        rows = None if teachers is None or self.embeddings == "none" else text_rows(key, texts, teachers)
        if self.embeddings == "npz":
            if teachers is not None and rows is not None:
                members = {**members, "npz": embeddings_file(teachers.image, rows)}
        elif self.count and (rows is not None) != self._embedded:
            raise DataError(f"'{key}' differs from those before it in having embeddings: give them to all or to none.")
        elif teachers is not None and rows is not None:
            for name in caption_lists(texts):
                if name not in rows:
                    raise DataError(
                        f"'{key}' has no embeddings of '{name}', which a side-car needs: give them, or npz."
                    )
            beside = {sidecar.IMAGE: teachers.image, sidecar.TEXT: np.concatenate(list(rows.values()))}
            for ending, found in beside.items():
                self._beside(ending).check(found)
            for ending, found in beside.items():
                self._beside(ending).add(found)
        with writing(self.path):
            for extension, content in members.items():
                self._file.write(_header(f"{key}.{extension}", len(content)))
                self._file.write(content)
                self._file.write(bytes(-len(content) % tars.BLOCK))
        licence = str(json.loads(members.get("json", b"{}")).get("license") or "")
        self._licences[licence] = self._licences.get(licence, 0) + 1
        self.keys.add(key)
        self._embedded = rows is not None

    @property
    def count(self) -> int:
        """Samples so far."""
        return len(self.keys)

    def written(self) -> Written:
        """What the finished tar is."""
        with tars.opened(self.path) as data:
            digest, size = hashlib.sha256(data).hexdigest(), len(data)
        return Written(
            name=self.path.name,
            count=self.count,
            bytes=size,
            sha256=digest,
            licences=dict(sorted(self._licences.items())),
        )

    def _beside(self, ending: str) -> sidecar.Writer:
        if ending not in self._writers:
            path = self.path.parent / EMBEDDINGS / (self.path.stem + ending)
            kind: sidecar.Kind = "bf16" if self.embeddings == "sidecar-bf16" else "int8"
            self._writers[ending] = self._cars.enter_context(sidecar.Writer(path, kind))
        return self._writers[ending]


def claim(folder: Path) -> None:
    """Make a folder that shards may be written into; what an interrupted run of ours left there may be overwritten.

    Raises:
        OutputError: it holds a finished corpus, or tars that are not such left-overs, or cannot be written.
    """
    if (folder / MANIFEST).exists():
        raise OutputError(f"'{folder}' holds a finished corpus ({MANIFEST}): give another folder, or remove it first.")
    if not (folder / MARKER).exists():
        if folder.is_dir() and any(folder.glob("*.tar")):
            raise OutputError(f"'{folder}' holds tars that would be overwritten: give a new or empty folder.")
        with placing(folder / MARKER) as file:
            file.write(b"{}\n")


def finish(folder: Path, written: Sequence[Written], provenance: Mapping[str, Any]) -> None:
    """Write `sizes.json`, then `manifest.json`; remove tars of an earlier, interrupted and larger run, and the marker.

    Raises:
        OutputError: no room, or no permission.
    """
    names = {one.name for one in written}
    for path in folder.glob("[0-9]*.tar"):
        if path.name not in names:
            path.unlink()
            path.with_suffix(".index.safetensors").unlink(missing_ok=True)
    licences: dict[str, int] = {}
    for one in written:
        for licence, count in one.licences.items():
            licences[licence] = licences.get(licence, 0) + count
    manifest = {
        "schema": SCHEMA,
        "samples": sum(one.count for one in written),
        "licences": licences,
        "shards": [{"name": w.name, "count": w.count, "bytes": w.bytes, "sha256": w.sha256} for w in written],
        "provenance": dict(provenance),
    }
    for name, value in ((SIZES, {one.name: one.count for one in written}), (MANIFEST, manifest)):
        with placing(folder / name) as file:
            file.write(_json(value, indent=1) + b"\n")
    (folder / MARKER).unlink(missing_ok=True)


def _header(name: str, size: int) -> bytes:
    """A ustar header that depends on name and size alone."""
    info = tarfile.TarInfo(name)
    info.size = size
    try:
        return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except ValueError as error:
        raise DataError(f"'{name[:300]}' cannot be a name in a ustar tar ({error}): use shorter keys.") from error


def _json(value: object, indent: int | None = None) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"a record cannot be written as JSON ({error}): give numbers, strings, lists, dicts."
        ) from error
