"""Teacher embeddings inside a shard: DataCompDR's `.npz` (float32) and `.pth.gz` (bfloat16), without trusting them.

Unusual here: embeddings are joined to captions by name, and a count that does not agree is refused. `text_emb` holds
the `.txt`'s row and, in public DataCompDR, those of `syn_text` behind it; any other caption list `<name>` needs
`<name>_emb` of its own. (Apple's reader takes the rows of `text_emb` for whichever list it drew.)

Nothing is unpickled: `.npz` members are parsed as plain arrays; `.pth.gz` is inflated to a bounded size, listed, and
read with `weights_only=True`.

Source: DataCompDR data card; apple/ml-mobileclip training/open_clip_v2.patch, `preprocess_dr`.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobileclip.errors import DataError

KINDS = ("npz", "pth.gz")
"""Extensions of members with embeddings; the first that a sample has is read."""
LIMIT = 64_000_000
"""Bytes of all arrays of one sample; 30 augmentations and 6 texts of 1,536 float32 are 222 thousand."""

_STRING = re.compile(rb"(?:X(.)\0\0\0|\x8c(.))", re.DOTALL)  # a pickle's short strings: their length, then their bytes
_AGAIN = "make it again with numpy.savez or torch.save"


@dataclass(frozen=True, kw_only=True)
class Teachers:
    """Embeddings of one sample, un-normalised as stored."""

    image: NDArray[np.float32]
    """[A, D], one row for each stored augmentation."""
    text: NDArray[np.float32]
    """[1 + K, D]: the `.txt`, then the caption lists of `.syn.json` in its order; NaN where a list has none."""


def names(kind: str, content: bytes) -> frozenset[str]:
    """Which embeddings a member says it has, from its directory alone; empty when it cannot be read."""
    try:
        if kind == "npz":
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                return frozenset(name.removesuffix(".npy") for name in archive.namelist()[:256])
        head = zlib.decompressobj(31).decompress(content, 1 << 16)
        found = (head[m.end() : m.end() + (m[1] or m[2])[0]] for m in _STRING.finditer(head))
        return frozenset(name.decode() for name in found if name.endswith(b"_emb") and name.isascii())
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError):
        return frozenset()


def read(kind: str, content: bytes) -> dict[str, NDArray[np.float32]]:
    """Name -> rows [N, D].

    Raises:
        DataError: the member is damaged, too large, needs unpickling, or holds what is no table of numbers.
    """
    try:
        arrays = _read_npz(content) if kind == "npz" else _read_torch(content)
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and torch raise what they like on a foreign file
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"a .{kind} of embeddings cannot be read ({reason}): {_AGAIN}.") from error
    for name, array in arrays.items():
        if array.ndim != 2:
            raise DataError(f"'{name}' in a .{kind} has shape {list(array.shape)}: rows [N, D] are allowed; {_AGAIN}.")
    return arrays


def assemble(
    arrays: Mapping[str, NDArray[np.float32]], counts: Mapping[str, int], augmentations: int | None
) -> Teachers:
    """Rows in the order of the captions; `counts` are the lengths of the caption lists of `.syn.json`.

    Raises:
        DataError: embeddings are missing or empty, or their counts are not those of captions and augmentations.
    """
    image, text = arrays.get("image_emb"), arrays.get("text_emb")
    if image is None or text is None:
        raise DataError(f"embeddings are called {sorted(arrays)}: 'image_emb' and 'text_emb' are needed; {_AGAIN}.")
    if 0 in image.shape or 0 in text.shape:
        raise DataError(
            f"image_emb has shape {list(image.shape)}, text_emb {list(text.shape)}: embeddings without rows come from "
            "a generator that loses all after its first batch; make them again."
        )
    if augmentations is not None and augmentations != len(image):
        raise DataError(
            f"there are {len(image)} image embeddings for {augmentations} augmentations: they must be as many; make "
            "both again."
        )
    own = {name: arrays[f"{name}_emb"] for name in counts if f"{name}_emb" in arrays}
    behind = counts.get("syn_text", 0) if "syn_text" not in own else 0
    if len(text) != 1 + behind:
        raise DataError(
            f"text_emb has {len(text)} rows for 1 text and {behind} captions in 'syn_text': they must be as many; make "
            "the embeddings again."
        )
    out = np.full((1 + sum(counts.values()), text.shape[1]), np.nan, np.float32)
    out[0], row = text[0], 1
    for name, count in counts.items():
        rows = own.get(name, text[1:] if name == "syn_text" else None)
        if rows is not None:
            if rows.shape != (count, text.shape[1]):
                raise DataError(
                    f"'{name}_emb' has shape {list(rows.shape)} for {count} captions and {text.shape[1]} columns: they "
                    "must agree; make the embeddings again."
                )
            out[row : row + count] = rows
        row += count
    return Teachers(image=image, text=out)


def has_rows(name: str, found: frozenset[str]) -> bool:
    """Whether a caption list (or "txt") has embeddings among those called `found`."""
    return f"{name}_emb" in found or (name in ("txt", "syn_text") and "text_emb" in found)


def _read_npz(content: bytes) -> dict[str, NDArray[np.float32]]:
    arrays, room = {}, LIMIT
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = archive.infolist()
        if len(infos) > 64 or sum(info.file_size for info in infos) > LIMIT:
            raise DataError(f"a .npz claims more than {LIMIT:,} bytes or 64 arrays: that many are allowed; {_AGAIN}.")
        for info in infos:
            if not info.filename.removesuffix(".npy").endswith("_emb"):
                continue
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"a .npz is compressed by method {info.compress_type}: deflate is allowed; {_AGAIN}.")
            with archive.open(info) as member:
                raw = member.read(room + 1)
            room -= len(raw)
            if room < 0:
                raise DataError(f"a .npz holds more than {LIMIT:,} bytes: that many are allowed; {_AGAIN}.")
            arrays[info.filename.removesuffix(".npy")] = _array(raw, info.filename)
    return arrays


def _array(raw: bytes, name: str) -> NDArray[np.float32]:
    file = io.BytesIO(raw)
    form: Any = np.lib.format
    header = form.read_array_header_1_0 if form.read_magic(file) == (1, 0) else form.read_array_header_2_0
    shape, fortran, dtype = header(file)
    if dtype.kind != "f":
        what = "pickled objects, which are never read" if dtype.hasobject else f"numbers of kind {dtype}"
        raise DataError(f"'{name}' in a .npz holds {what}: floats are allowed; {_AGAIN}.")
    count = 1
    for side in shape:
        count *= side
    if count * dtype.itemsize != len(raw) - file.tell():
        raise DataError(f"'{name}' in a .npz claims shape {list(shape)}, which its bytes are not: {_AGAIN}.")
    values = np.frombuffer(raw, dtype, count, file.tell()).reshape(shape, order="F" if fortran else "C")
    return np.ascontiguousarray(values, np.float32)


def _read_torch(content: bytes) -> dict[str, NDArray[np.float32]]:
    import torch

    inflate = zlib.decompressobj(31)
    raw = inflate.decompress(content, LIMIT)
    if inflate.unconsumed_tail:
        raise DataError(f"a .pth.gz inflates to more than {LIMIT:,} bytes: that many are allowed; {_AGAIN}.")
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:  # torch.save's form since 1.6; a bare pickle is none
        infos = archive.infolist()
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos) or sum(i.file_size for i in infos) > len(
            raw
        ):
            raise DataError(f"a .pth.gz holds compressed records, which torch.save does not write: {_AGAIN}.")
    loaded: Any = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    if not isinstance(loaded, dict):
        raise DataError(f"a .pth.gz holds a {type(loaded).__name__}: a dict of tensors is allowed; {_AGAIN}.")
    arrays = {}
    for name, value in loaded.items():
        if not str(name).endswith("_emb"):
            continue
        if isinstance(value, list | tuple) and value and all(isinstance(row, torch.Tensor) for row in value):
            value = torch.stack([row.detach() for row in value])
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            raise DataError(f"'{name}' in a .pth.gz is no tensor of floats: that is allowed; {_AGAIN}.")
        if value.numel() * 4 > LIMIT:  # its shape is the file's claim: an expanded one may have no bytes behind it
            raise DataError(
                f"'{name}' in a .pth.gz has shape {list(value.shape)}, more than {LIMIT:,} bytes: {_AGAIN}."
            )
        arrays[str(name)] = value.detach().to(torch.float32).contiguous().numpy()
    return arrays
