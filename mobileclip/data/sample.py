"""The members of one packed sample: what goes into `.jpg`, `.txt`, `.json`, `.syn.json`, `.paug.json` and `.npz`.

Unusual here: captions are grouped by who wrote them. "alt" is the `.txt`; sources that begin with "caption_" or
"texts:" live in `.json`, where they came from; every other source is a list in `.syn.json` of the same name. Embeddings
follow the lists by name. Reading what was written gives the same texts, weights and rows (tested).
"""

import hashlib
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobileclip.data import tars
from mobileclip.data.shards import IMAGES, MAX_TEXTS, MEMBER_LIMIT, TEXT_LIMIT, Paug, Text
from mobileclip.data.teachers import KINDS, Teachers
from mobileclip.errors import DataError

RESERVED = frozenset((*IMAGES, *KINDS, "txt", "json", "syn.json", "paug.json"))
"""Extensions whose content is made here."""

_UID = re.compile(r"[0-9a-f]{32}")


def encode(image: bytes | memoryview | NDArray[np.uint8], quality: int) -> bytes:
    """An encoded image itself, or RGB pixels uint8 [H, W, 3] as JPEG."""
    if not isinstance(image, np.ndarray):
        return bytes(image)
    import simplejpeg

    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"pixels came as {image.dtype} {list(image.shape)}: uint8 [H, W, 3] are allowed, RGB.")
    pixels = np.ascontiguousarray(image)
    content: bytes = simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling="420")
    return content


def extension_of(image: bytes) -> str:
    """Extension of an encoded image, by its first bytes.

    Raises:
        DataError: it is none of those that readers of shards take.
    """
    if image.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    raise DataError(f"an image begins with {image[:8]!r}: JPEG, PNG and WebP are allowed in shards; convert it first.")


def sample_members(
    key: str,
    image: bytes,
    texts: Sequence[Text],
    record: Mapping[str, Any],
    members: Mapping[str, bytes],
    paug: Paug | None,
) -> dict[str, bytes]:
    """Extension -> content, in the order in which they are written.

    Raises:
        DataError: the key, a caption, the image or a member is not what readers can take.
    """
    parted = tars.split(f"{key}.jpg".encode("utf-8", "surrogatepass"))
    if parted is None or parted[0] != key or not tars.is_safe(key) or not key.isprintable():
        raise DataError(f"key {key!r} cannot name a sample: letters, digits, '-', '_' and '/' are allowed, no dot.")
    taken = sorted(set(members) & RESERVED)
    if taken or any(name.lower() != name or not name or "/" in name or not name.isascii() for name in members):
        raise DataError(f"members of '{key}' are called {sorted(members)}: lower case, and none of {sorted(RESERVED)}.")
    kept = [_named(text) for text in texts if text.text.strip()]
    if not kept or len(kept) > MAX_TEXTS or any(len(text.text) > TEXT_LIMIT for text in kept):
        raise DataError(
            f"'{key}' has {len(kept)} captions that are not blank: 1 to {MAX_TEXTS} of up to {TEXT_LIMIT:,} characters "
            "are allowed."
        )
    alt = [text for text in kept if text.source == "alt"]
    if len(alt) > 1:
        raise DataError(f"'{key}' has {len(alt)} captions of source 'alt': one is allowed; call the others otherwise.")
    extension = extension_of(image)
    out = {extension: image}
    if alt:
        out["txt"] = alt[0].text.strip().encode("utf-8", "replace")
    out["json"] = _json(_record(key, image, kept, dict(record)))
    lists = caption_lists(kept)
    if lists or any(text.weight != 1 for text in alt):
        quality: dict[str, Any] = {name: [text.weight for text in found] for name, found in lists.items()}
        if alt:
            quality["txt"] = alt[0].weight
        syn: dict[str, Any] = {name: [text.text.strip() for text in found] for name, found in lists.items()}
        out["syn.json"] = _json({**syn, "cap_v": 1, "cap_q": quality})
    if paug is not None:
        size = {} if paug.size is None else {"paug_size": list(paug.size)}
        out["paug.json"] = _json({"param_aug": paug.params, **size})
    out.update(sorted(members.items()))
    for name in ("json", "syn.json", "paug.json"):
        if len(out.get(name, b"")) > MEMBER_LIMIT:
            raise DataError(f"'{key}.{name}' would have more than {MEMBER_LIMIT:,} bytes, which is all that is read.")
    return out


def caption_lists(texts: Sequence[Text]) -> dict[str, list[Text]]:
    """Source -> its captions, for those that go to `.syn.json`, in the order in which sources occur.

    Raises:
        DataError: a source's name would not be read back as a caption list.
    """
    lists: dict[str, list[Text]] = {}
    for text in texts:
        name = text.source
        if name == "alt" or in_record(name) or not text.text.strip():
            continue
        if not name or "emb" in name or name.startswith("cap_") or len(name) > 64:
            raise DataError(
                f"a caption's source is called '{name}': not empty, no 'emb', not 'cap_...', up to 64 letters."
            )
        lists.setdefault(name, []).append(text)
    return lists


def in_record(source: str) -> bool:
    """Whether captions of a source live in `.json`."""
    return source.startswith(("caption_", "texts:")) or source == "caption"


def text_rows(key: str, texts: Sequence[Text], teachers: Teachers) -> dict[str, NDArray[np.float32]]:
    """Rows of the `.txt` ("text") and of each caption list that has embeddings, in the order of writing.

    Raises:
        DataError: some captions of a list have embeddings and others none, or a row does not exist.
    """
    kept = [text for text in texts if text.text.strip()]
    out = {"text": teachers.text[:1]}
    if any(text.teacher >= len(teachers.text) for text in kept) or not np.isfinite(out["text"]).all():
        raise DataError(f"'{key}' has {len(teachers.text)} rows of text embeddings, fewer than its captions point at.")
    for name, found in caption_lists(kept).items():
        places = [text.teacher for text in found]
        rows = teachers.text[places] if min(places) >= 0 else np.full((1, 1), np.nan, np.float32)
        if np.isfinite(rows).all():
            out[name] = rows
        elif max(places) >= 0 and np.isfinite(rows).any():
            raise DataError(f"'{key}' has embeddings of some captions of '{name}' only: all or none must have one.")
    return out


def embeddings_file(image: NDArray[np.float32], rows: Mapping[str, NDArray[np.float32]]) -> bytes:
    """`.npz`: `image_emb`, `text_emb` and `<list>_emb`; of `syn_text` alone the public DataCompDR form."""
    arrays = {"image_emb": image, "text_emb": rows["text"]}
    if list(rows) == ["text", "syn_text"]:
        arrays["text_emb"] = np.concatenate([rows["text"], rows["syn_text"]])
    else:
        arrays |= {f"{name}_emb": found for name, found in rows.items() if name != "text"}
    file = io.BytesIO()
    contiguous: dict[str, Any] = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    np.savez(file, **contiguous)
    return file.getvalue()


def _record(key: str, image: bytes, texts: Sequence[Text], record: dict[str, Any]) -> dict[str, Any]:
    """`.json`: the caller's fields, and what readers look for."""
    digest = hashlib.sha256(image)
    uid = record.get("uid")
    if not isinstance(uid, str) or not _UID.fullmatch(uid):
        if uid is not None:
            record["original_uid"] = uid
        digest_with_key = digest.copy()
        digest_with_key.update(key.encode("utf-8", "surrogatepass"))
        uid = digest_with_key.hexdigest()[:32]
    record = {name: value for name, value in record.items() if name not in ("caption", "text", "texts", "qc")}
    if not record.get("license"):
        record.pop("license", None)
    record |= {"key": key, "uid": uid, "sha256": digest.hexdigest()}
    best: dict[str, Text] = {}
    pairs = []
    for text in texts:
        if text.source.startswith("texts:"):
            pairs.append([text.source.removeprefix("texts:"), text.text.strip()])
            continue
        name = _field(text.source)
        if name not in best or (text.weight, _number(text.clip)) > (best[name].weight, _number(best[name].clip)):
            best[name] = text
    record |= {name: text.text.strip() for name, text in best.items()}
    if pairs:
        record["texts"] = pairs
    return record | {"qc": _quality(uid, texts, record)}


def _field(source: str) -> str:
    """Field of `.json` with the best caption of a source."""
    return source if source == "alt" or source.startswith("caption_") else f"caption_{source.removeprefix('syn_text_')}"


def _named(text: Text) -> Text:
    # as top-level fields, `caption` and `text` make RayGen skip a record that has a `.txt` too
    return replace(text, source="caption_original") if text.source == "caption" else text


def _quality(uid: str, texts: Sequence[Text], record: Mapping[str, Any]) -> dict[str, Any]:
    """The `qc` block."""
    alt = next((_said(text) for text in texts if text.source == "alt"), {"text": ""})
    caps = [{"src": text.source, **_said(text)} for text in texts if text.source != "alt"]
    block: dict[str, Any] = {"v": 1, "uid": uid, "alt": alt, "caps": caps}
    size = {short: record.get(name) for short, name in (("w", "width"), ("h", "height"))}
    if all(isinstance(side, int) for side in size.values()):
        block["img"] = size
    if record.get("license"):
        block["lic"] = str(record["license"])
    return block


def _said(text: Text) -> dict[str, Any]:
    out: dict[str, Any] = {"text": text.text.strip()}
    if math.isfinite(text.clip):
        out["clip"] = text.clip
    if text.weight != 1:
        out["q"] = text.weight
    return out


def _number(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _json(value: object) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"a record cannot be written as JSON ({error}): give numbers, strings, lists, dicts."
        ) from error
