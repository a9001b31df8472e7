"""A shard's samples: which members belong together, and what captions, weights and labels they hold.

    with tars.opened(path) as data:
        for sample in shards.read(data, tars.walk(data, path), tally):
            ...                                    # sample.texts, sample.image, sample.paug, ...

Read unchanged: img2dataset (`.jpg .txt .json`), plain webdataset, open_clip's JSON fields (`caption*`, or those that
the caller names), DataCompDR (`.syn.json .paug.json .npz .pth.gz`), MetaCLIP (`texts` in `.json`, `./` in names,
`.jpeg`), and what `mobileclip pack` writes.

Unusual here: members are joined by key over the whole tar, adjacent or not; the first of equal members is used. A
sample without an image or without a caption is counted in the tally, with its reason, and left out. Nothing in a member
is trusted: sizes, lengths and counts are bounded, and what breaks a bound is counted.

Caption lists: `teacher` is the row of a caption's embedding: row 0 is the `.txt`, then come the lists of `.syn.json` in
the order of that file.
"""

import json
import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mobileclip.data import tars
from mobileclip.data.places import expand as expand
from mobileclip.data.problems import Tally
from mobileclip.errors import DataError

IMAGES = ("jpg", "png", "jpeg", "webp")
"""Extensions of images, in open_clip's order of preference."""
SILENT = frozenset(("jpe", "jfif", "jp2", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "ppm", "svg"))
"""Extensions of images that neither this reader nor open_clip's takes."""
PICKLES = frozenset(("pkl", "pickle", "pyd", "pth", "pt", "joblib"))
"""Extensions of members that only unpickling would read; they are not read."""
MEMBER_LIMIT = 4_000_000
"""Bytes of a text or JSON member that are read."""
TEXT_LIMIT = 20_000
"""Characters of a caption that are used."""
MAX_TEXTS = 255
"""Captions of one sample that are used."""
MAX_AUGMENTATIONS = 1_024
"""Stored augmentations of one sample."""

_SIMILARITIES = ("clip_l14_similarity_score", "clip_b32_similarity_score", "similarity")  # DataComp's, LAION's


Data = mmap.mmap | bytes | memoryview
"""A tar's bytes."""


class Span(NamedTuple):
    """Where a member's bytes lie in its tar."""

    offset: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Text:
    """One caption of one sample."""

    source: str
    """Who wrote it: "alt" is the web text, "syn_text", "syn_text_coca", "caption_coca", "texts:alt", ..."""
    text: str
    """The caption."""
    weight: float = 1.0
    """Its quality weight (`cap_q`)."""
    teacher: int = -1
    """Row of its embedding among the sample's text embeddings; -1 none."""
    clip: float = math.nan
    """Similarity of caption and image, as the shard records it; NaN unknown."""


@dataclass(frozen=True, kw_only=True)
class Paug:
    """Parameters of the stored augmentations of one image (DataCompDR)."""

    params: list[list[Any]]
    """One entry an augmentation: `[top, left, height, width]` of the crop, then `[[operation, magnitude], ...]`."""
    size: tuple[int, int] | None = None
    """Width and height of the image that the boxes refer to, as decoded, not turned by EXIF; None: the stored image."""

    def scaled(self, old: tuple[int, int], new: tuple[int, int]) -> "Paug":
        """For the same image at another size (width, height): boxes in whole pixels, at least one and inside it."""
        x, y = new[0] / old[0], new[1] / old[1]
        entries = []
        for entry in self.params:
            parts: list[Any] = list(entry)
            place = box_of(entry)
            if place is not None:
                top, left, height, width = entry[place]
                ys = _interval(top * y, height * y, new[1])
                xs = _interval(left * x, width * x, new[0])
                parts[place] = [ys[0], xs[0], ys[1], xs[1]]
            entries.append(parts)
        return Paug(params=entries, size=new)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One usable sample of a shard."""

    key: str
    """Name of its members up to the first dot."""
    uid: str
    """What `.json` calls it (`uid`, else `sha256`); empty when it does not."""
    image: Span
    """The image's bytes."""
    extension: str
    """Of the image, lower case: one of `IMAGES`."""
    texts: tuple[Text, ...]
    """None is blank; of a usable sample at least one."""
    members: Mapping[str, Span]
    """All members: extension in lower case -> bytes."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """The object in `.json`."""
    label: int = -1
    """Class in `.cls`; -1 none."""


class Groups(NamedTuple):
    """Members of a tar by sample."""

    samples: dict[str, dict[str, Span]]
    """Key -> extension in lower case -> bytes; keys in the order in which they begin."""
    scattered: set[str]
    """Keys whose members do not lie together."""
    doubled: set[str]
    """Keys of which a member occurs twice."""


def read(data: Data, walk: tars.Walk, tally: Tally, json_keys: Sequence[str] = ()) -> Iterator[Sample]:
    """Usable samples in the order in which they begin in the tar; all else goes to the tally.

    `json_keys` names string fields of `.json` that are captions, beside `caption`, `caption_*` and `texts`.
    """
    for key, members in group(walk, tally).samples.items():
        sample = parse(data, key, members, tally, json_keys)
        if sample is not None:
            yield sample


def parse(
    data: Data, key: str, members: Mapping[str, Span], tally: Tally, json_keys: Sequence[str] = ()
) -> Sample | None:
    """A sample, or None when it cannot be used; why goes to the tally."""
    image = next((extension for extension in IMAGES if extension in members), None)
    if image is None or members[image].size == 0:
        tally.add("no_image" if image is None else "empty_image", key)
        return None
    found = described(data, key, members, tally, json_keys)
    if not found.texts:
        tally.add("no_caption", key)
        return None
    return found


def described(data: Data, key: str, members: Mapping[str, Span], tally: Tally, json_keys: Sequence[str] = ()) -> Sample:
    """What members say, even where it is too little for a sample: no texts, or `extension` "" for want of an image."""
    image = next((extension for extension in IMAGES if extension in members), "")
    notes: list[str] = []
    record = json_member(data, members, "json", notes)
    texts = _texts(data, members, record, json_keys, notes)
    for note in dict.fromkeys(notes):
        tally.add(note, key, notes.count(note))
    return Sample(
        key=key,
        uid=_uid(record),
        image=members.get(image, Span(0, 0)),
        extension=image,
        texts=texts,
        members=members,
        record=record,
        label=_label(data, members),
    )


def group(walk: tars.Walk, tally: Tally) -> Groups:
    """Members by sample; oddities of names and order go to the tally."""
    samples: dict[str, dict[str, Span]] = {}
    last = None
    scattered, doubled = set[str](), set[str]()
    for name, offset, size in zip(walk.names, walk.offsets, walk.sizes, strict=True):
        parts = tars.split(name)
        if parts is None:
            continue
        key, extension = parts
        members = samples.get(key)
        if members is None:
            if not tars.is_safe(key):
                tally.add("unsafe_name", key)
                continue
            members = samples[key] = {}
        elif key != last and key not in scattered:
            scattered.add(key)
            tally.add("not_adjacent", key)
        last = key
        lower = extension.lower()
        if (lower != extension and lower in IMAGES) or lower in SILENT:
            tally.add("silent_extension", f"{key}.{extension}")
        if lower in members:
            doubled.add(key)
            tally.add("duplicate_key", f"{key}.{extension}")
        else:
            members[lower] = Span(offset, size)
    return Groups(samples, scattered, doubled)


def json_member(data: Data, members: Mapping[str, Span], extension: str, notes: list[str]) -> dict[str, Any]:
    """The object in a JSON member; empty when there is none, or when it is noted as `bad_json` or `not_utf8`."""
    span = members.get(extension)
    if span is None:
        return {}
    try:
        if span.size > MEMBER_LIMIT:
            raise ValueError("too large")
        value = json.loads(bytes(data[span.offset : span.offset + span.size]))
    except UnicodeDecodeError:
        notes.append("not_utf8")
        return {}
    except (ValueError, RecursionError):
        notes.append("bad_json")
        return {}
    if not isinstance(value, dict):
        notes.append("bad_json")
        return {}
    return value


def caption_lists(syn: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The caption lists in the object of a `.syn.json`, in its order, blank captions included."""
    return {
        name: value
        for name, value in syn.items()
        if isinstance(value, list)
        and len(name) <= 64
        and "emb" not in name
        and not name.startswith("cap_")
        and all(isinstance(text, str) for text in value)
    }


def parse_paug(content: bytes | memoryview) -> Paug:
    """`.paug.json` -> parameters; `param_aug` may be a list, or a string that holds its JSON (public DataCompDR).

    Raises:
        DataError: it is neither.
    """
    try:
        if len(content) > MEMBER_LIMIT:
            raise ValueError(f"it has more than {MEMBER_LIMIT:,} bytes")
        value = json.loads(bytes(content))
        params, size = value["param_aug"], value.get("paug_size")
        if isinstance(params, str):
            params = json.loads(params)
        if not isinstance(params, list) or not params or not all(isinstance(entry, list) for entry in params):
            raise ValueError("param_aug is no list of augmentations")
        if len(params) > MAX_AUGMENTATIONS:
            raise ValueError(f"it has more than {MAX_AUGMENTATIONS:,} augmentations")
        if size is not None:
            width, height = (int(side) for side in size)
            if not (0 < width < 1 << 20 and 0 < height < 1 << 20):
                raise ValueError("paug_size is no width and height")
            size = (width, height)
        return Paug(params=params, size=size)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(
            f"a .paug.json does not hold `param_aug`, a list of augmentations or a string of one ({reason}): "
            "write it again, or remove it."
        ) from error


def box_of(entry: Sequence[Any]) -> int | None:
    """Place of the crop (four finite numbers) in an augmentation's parameters; None when it has none."""
    for place, part in enumerate(entry):
        if isinstance(part, list) and len(part) == 4 and all(_is_number(value) for value in part):
            return place
    return None


def _texts(
    data: Data,
    members: Mapping[str, Span],
    record: Mapping[str, Any],
    json_keys: Sequence[str],
    notes: list[str],
) -> tuple[Text, ...]:
    syn = json_member(data, members, "syn.json", notes)
    quality = syn.get("cap_q")
    quality = quality if isinstance(quality, dict) else {}
    known = _recorded(record)
    out: list[Text] = []

    def add(source: str, text: str | None, weight: Any = None, teacher: int = -1) -> None:
        text = _clean(text, notes)
        if text is None:
            return
        said = known.get((source, text), {})
        weight = said.get("w", said.get("q")) if weight is None else weight
        if weight is not None and not (_is_number(weight) and weight >= 0):
            notes.append("bad_quality")
            weight = None
        clip: Any = said.get("clip")
        if not _is_number(clip):
            clip = _similarity(record) if source == "alt" else math.nan
        weight = 1.0 if weight is None else float(weight)
        out.append(Text(source=source, text=text, weight=weight, teacher=teacher, clip=float(clip)))

    if "txt" in members:
        add("alt", _text_member(data, members["txt"], notes), quality.get("txt"), 0)
    row = 1
    for source, texts in caption_lists(syn).items():
        weights = quality.get(source)
        if weights is not None and not (isinstance(weights, list) and len(weights) == len(texts)):
            notes.append("bad_quality")
            weights = None
        for place, text in enumerate(texts[: MAX_TEXTS + 1]):
            add(source, text, weights[place] if weights else None, row + place)
        row += len(texts)
    _record_texts(record, json_keys, out, add)
    if len(out) > MAX_TEXTS:
        notes.append("too_many_captions")
    return tuple(out[:MAX_TEXTS])


def _record_texts(record: Mapping[str, Any], json_keys: Sequence[str], out: list[Text], add: Any) -> None:
    """Captions in `.json`. One that repeats another of the sample word for word is the same caption, not a second."""
    fields = [name for name in record if name in json_keys or name == "caption" or name.startswith("caption_")]
    for name in fields:
        text = record[name]
        if isinstance(text, str) and not any(text.strip() == other.text for other in out):
            # img2dataset's `caption` is the web text, which `.txt` repeats where there is one
            alone = name == "caption" and not any(other.source == "alt" for other in out)
            add("alt" if alone else name[:64], text, None, 0 if alone else -1)
    texts = record.get("texts")
    for pair in texts[: MAX_TEXTS + 1] if isinstance(texts, list) else ():
        if isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair):
            source, text = f"texts:{pair[0]}"[:64], pair[1].strip()
            if not any(text == other.text for other in out):
                add(source, text)


def _recorded(record: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """(source, caption) -> what `.json` says of it: its `qc` block, or the similarity of the web text."""
    known: dict[tuple[str, str], Mapping[str, Any]] = {}
    qc = record.get("qc")
    if isinstance(qc, dict):
        caps = qc.get("caps")
        for cap in caps[:MAX_TEXTS] if isinstance(caps, list) else ():
            if isinstance(cap, dict) and isinstance(cap.get("src"), str) and isinstance(cap.get("text"), str):
                known[cap["src"], cap["text"].strip()] = cap
        alt = qc.get("alt")
        if isinstance(alt, dict) and isinstance(alt.get("text"), str):
            known["alt", alt["text"].strip()] = alt
    return known


def _similarity(record: Mapping[str, Any]) -> float:
    """Of image and web text, where a filter's score was kept; NaN elsewhere."""
    found = next((record[name] for name in _SIMILARITIES if _is_number(record.get(name))), math.nan)
    return float(found)


def _clean(text: str | None, notes: list[str]) -> str | None:
    if text is None:
        return None
    if len(text) > TEXT_LIMIT:
        notes.append("caption_too_long")
        text = text[:TEXT_LIMIT]
    text = text.strip().removeprefix("\ufeff")
    if not text:
        notes.append("empty_caption")
        return None
    return text if text.isascii() else text.encode("utf-8", "replace").decode()  # lone surrogates cannot be written


def _text_member(data: Data, span: Span, notes: list[str]) -> str | None:
    content = bytes(data[span.offset : span.offset + min(span.size, MEMBER_LIMIT)])
    if span.size > MEMBER_LIMIT:  # cut, perhaps within a character
        notes.append("caption_too_long")
        return content[: TEXT_LIMIT * 4].decode("utf-8", "ignore")[:TEXT_LIMIT]
    try:
        return content.decode()
    except UnicodeDecodeError:
        notes.append("not_utf8")
        return None


def _uid(record: Mapping[str, Any]) -> str:
    for name in ("uid", "sha256"):
        value = record.get(name)
        if isinstance(value, str) and 0 < len(value) <= 128:
            return value
    return ""


def _label(data: Data, members: Mapping[str, Span]) -> int:
    span = members.get("cls")
    if span is None:
        return -1
    digits = bytes(data[span.offset : span.offset + min(span.size, 16)]).strip()
    return int(digits) if digits.isdigit() and len(digits) < 10 else -1


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _interval(start: float, length: float, limit: int) -> tuple[int, int]:
    """Whole start and length, at least one long, inside 0..limit."""
    first = min(max(round(start), 0), limit - 1)
    return first, min(max(round(start + length) - first, 1), limit - first)
