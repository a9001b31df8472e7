"""The shard doctor (`mobileclip inspect SHARDS`): what is wrong with shards, and which trainer can read them.

    report = inspect(["cc12m/{00000..01242}.tar"], decode=True)
    report.problems["no_caption"].count, report.table()

Everything that training reads is read, every embedding too, and with `decode` every image. Memory is that of one shard.

Unusual here: readers differ in what they drop in silence, so each gets a verdict: how many of the samples it delivers,
and why not the others. The rules of the other readers were read in their sources and are restated here: webdataset 1.0
`tariterators.py`, open_clip 3.3 `open_clip_train/data.py`, apple/ml-mobileclip `training/open_clip_v2.patch`.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from mobileclip.data import places, remote, shards, tars, teachers
from mobileclip.data.corpus import Progress
from mobileclip.data.pixels import ImageTooLarge, header, packed_image
from mobileclip.data.problems import ADVICE, Problem, Tally, as_json
from mobileclip.data.shards import Data, Groups, Paug, Sample, Span
from mobileclip.errors import DataError, ImageError

READERS = ("mobileclip", "webdataset", "open_clip", "ml-mobileclip")
"""This toolkit, plain webdataset, open_clip's trainer, Apple's trainer with dataset reinforcement."""

_MOST = 200  # different sources or licences that are counted by name
_SYNTHETIC = re.compile(r"^syn_text.*$")  # Apple's default --dataset-reinforcement-syn-text-key-regex


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one reader makes of the shards."""

    reader: str
    """One of `READERS`."""
    samples: int
    """Samples that it delivers."""
    reasons: tuple[str, ...]
    """Why it does not deliver the others, each with a count, most frequent first."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What shards hold and what is wrong with them."""

    shards: int
    """Tars."""
    keys: int
    """Different keys in them, each a sample or what was meant to be one."""
    samples: int
    """Samples with an image and a caption."""
    bytes: int
    """Of the tars."""
    sources: dict[str, int]
    """Source -> captions."""
    licences: dict[str, int]
    """Licence -> samples; "" is none."""
    extensions: dict[str, int]
    """Extension -> members, the most frequent."""
    problems: dict[str, Problem]
    """Problem -> how often, and first names (`shard/key`)."""
    readers: tuple[Verdict, ...]
    """One for each of `READERS`."""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        verdicts = {v.reader: {"samples": v.samples, "of": self.keys, "reasons": list(v.reasons)} for v in self.readers}
        found = as_json(self.problems)
        for name, problem in found.items():
            problem["advice"] = ADVICE[name]
        fields = ("shards", "keys", "samples", "bytes", "sources", "licences", "extensions")
        return {name: getattr(self, name) for name in fields} | {"problems": found, "readers": verdicts}

    def table(self) -> list[tuple[str, str, str, str]]:
        """Rows for people: problem, count, first names, what to do."""
        rows = []
        for name, problem in self.problems.items():
            more = ", ..." if problem.count > 3 else ""
            rows.append((name, f"{problem.count:,}", ", ".join(problem.names[:3]) + more, ADVICE[name]))
        return rows

    def readers_table(self) -> list[tuple[str, str, str]]:
        """Rows for people: reader, samples it delivers, why not the others."""
        return [(v.reader, f"{v.samples:,} of {self.keys:,}", "; ".join(v.reasons)) for v in self.readers]


def inspect(
    specs: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    decode: bool = False,
    json_keys: Sequence[str] = (),
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Look at every sample of the shards that `specs` name (see `expand`); `decode` decodes the images too.

    Raises:
        DataError: `specs` match nothing. What is wrong with a shard is in the report.
    """
    found = places.expand(specs)
    state = _State(decode, tuple(json_keys))
    for number, place in enumerate(found, 1):
        state.look(place, cache)
        if progress is not None:
            progress(number, len(found))
    return state.report(len(found))


class _State:
    """Counters over all shards."""

    def __init__(self, decode: bool, json_keys: tuple[str, ...]) -> None:
        self.decode, self.json_keys = decode, json_keys
        self.tally = Tally()
        self.keys = self.samples = self.bytes = 0
        self.sources, self.licences, self.extensions = Counter[str](), Counter[str](), Counter[str]()
        self.read = Counter[str]()
        self.reasons = {reader: Counter[str]() for reader in READERS}

    def report(self, count: int) -> Report:
        return Report(
            shards=count,
            keys=self.keys,
            samples=self.samples,
            bytes=self.bytes,
            sources=dict(self.sources.most_common()),
            licences=dict(self.licences.most_common()),
            extensions=dict(self.extensions.most_common(30)),
            problems=self.tally.result(),
            readers=tuple(
                Verdict(
                    reader=reader,
                    samples=self.read[reader],
                    reasons=tuple(f"{count:,} {why}" for why, count in self.reasons[reader].most_common()),
                )
                for reader in READERS
            ),
        )

    def look(self, place: str, cache: Path | None) -> None:
        """Take in a shard."""
        stem = place.rsplit("/", 1)[-1].removesuffix(".tar")
        tally = Tally()
        try:
            path = remote.local(place, cache)
            with tars.opened(path) as data:
                self.bytes += len(data)
                walk = tars.walk(data, place)
                if walk.damage is not None:
                    self.tally.add("truncated", f"{stem}: {walk.damage}")
                elif not walk.end_mark:
                    self.tally.add("no_end_mark", stem)
                self._shard(data, walk, shards.group(walk, tally), tally, stem)
        except DataError as error:
            self.tally.add("not_a_tar", f"{stem}: {error}")
            for reader in READERS:
                self.reasons[reader]["not a tar, or not to be opened (shards)"] += 1
        self.tally.merge(tally.result(), f"{stem}/")

    def _shard(self, data: Data, walk: tars.Walk, groups: Groups, tally: Tally, stem: str) -> None:
        usable = self.samples
        for key, members in groups.samples.items():
            self.keys += 1
            for extension in members:
                if extension in self.extensions or len(self.extensions) < _MOST:
                    self.extensions[extension] += 1
                if extension in shards.PICKLES:
                    tally.add("pickle", f"{key}.{extension}")
            sample = shards.parse(data, key, members, tally, self.json_keys)
            why = _why_not(data, key, members, sample, groups)
            if sample is not None:
                self._sample(data, sample, tally, why)
            for reader in READERS:
                if why[reader]:
                    self.reasons[reader][why[reader][0]] += 1
                else:
                    self.read[reader] += 1
        if self.samples == usable:
            self.tally.add("no_samples", stem)

    def _sample(self, data: Data, sample: Sample, tally: Tally, why: dict[str, list[str]]) -> None:
        self.samples += 1
        for text in sample.texts:
            if text.source in self.sources or len(self.sources) < _MOST:
                self.sources[text.source] += 1
        licence = _licence(sample.record)
        if licence in self.licences or len(self.licences) < _MOST:
            self.licences[licence] += 1
        if not licence:
            tally.add("licence_missing", sample.key)
        paug = _augmentations(data, sample, tally)
        if not _embeddings(data, sample, paug, tally):
            why["ml-mobileclip"].append("embeddings that are missing, unreadable or not as many as they should be")
        if self.decode:
            problem = _decoded(_bytes(data, sample.image), upright=paug is None)
            if problem is not None:
                tally.add(problem, sample.key)
                for reader in READERS[:1] + READERS[2:]:  # plain webdataset delivers undecoded bytes
                    why[reader].append("an image that cannot be decoded")


def _why_not(
    data: Data, key: str, members: Mapping[str, Span], sample: Sample | None, groups: Groups
) -> dict[str, list[str]]:
    """Reader -> what keeps it from delivering a sample; empty when it does."""
    why: dict[str, list[str]] = {reader: [] for reader in READERS}
    if sample is None:
        why["mobileclip"].append("without an image or a caption")
    for reader in READERS[1:]:
        if key in groups.scattered:
            why[reader].append("whose members do not lie together")
    if key in groups.doubled:
        why["webdataset"].append("with a member twice, where it stops")
    for reader in READERS[2:]:
        if not any(extension in members for extension in shards.IMAGES):
            why[reader].append("without .jpg, .png, .jpeg or .webp")
        if "txt" not in members:
            why[reader].append("without .txt")
    notes: list[str] = []
    syn = shards.json_member(data, members, "syn.json", notes)
    lists = {name: texts for name, texts in syn.items() if _SYNTHETIC.match(name)}
    if not lists or any(not isinstance(texts, list) or not texts for texts in lists.values()):
        why["ml-mobileclip"].append("without a list of captions `syn_text...` in .syn.json")
    augmentations = shards.json_member(data, members, "paug.json", notes).get("param_aug")
    if not isinstance(augmentations, list) or not augmentations:
        what = "whose param_aug is a string" if isinstance(augmentations, str) else "without .paug.json"
        why["ml-mobileclip"].append(what)
    return why


def _augmentations(data: Data, sample: Sample, tally: Tally) -> Paug | None:
    """Stored augmentations, their boxes compared with the image."""
    span = sample.members.get("paug.json")
    if span is None:
        return None
    try:
        paug = shards.parse_paug(_bytes(data, span))
    except DataError:
        tally.add("bad_augmentation", sample.key)
        return None
    try:
        width, height = header(_bytes(data, sample.image))
    except ImageError:
        return paug
    size = paug.size or (width, height)
    # the same picture at another size has its sides within a pixel of the ratio
    apart = abs(size[0] * height - size[1] * width) > max(*size, width, height)
    for entry in paug.params:
        place = shards.box_of(entry)
        if place is not None:
            top, left, tall, wide = entry[place]
            apart = apart or min(top, left) < 0 or min(tall, wide) <= 0 or top + tall > size[1] or left + wide > size[0]
    if apart:
        tally.add("augmentation_size", sample.key)
    return paug


def _embeddings(data: Data, sample: Sample, paug: Paug | None, tally: Tally) -> bool:
    """Whether the stored embeddings are complete; what is wrong goes to the tally."""
    kind = next((kind for kind in teachers.KINDS if kind in sample.members), None)
    if kind is None:
        return False
    try:
        found = teachers.read(kind, _bytes(data, sample.members[kind]))
    except DataError as error:
        tally.add("pickle" if "pickled" in str(error) else "bad_embeddings", sample.key)
        return False
    image, text = found.get("image_emb"), found.get("text_emb")
    if image is None or text is None:
        tally.add("bad_embeddings", sample.key)
        return False
    if any(0 in array.shape for array in found.values()):
        tally.add("embedding_empty", sample.key)
        return False
    if paug is None:
        tally.add("augmentation_missing", sample.key)
    elif len(paug.params) != len(image):
        tally.add("augmentation_count", sample.key)
    counts = {name: len(t) for name, t in shards.caption_lists(_syn(data, sample)).items()}
    own = {name for name in counts if f"{name}_emb" in found}
    behind = counts.get("syn_text", 0) if "syn_text" not in own else 0
    wrong = len(text) != 1 + behind or any(len(found[f"{name}_emb"]) != counts[name] for name in own)
    if wrong:
        tally.add("embedding_rows", sample.key)
    missing = any(name not in own and name != "syn_text" and _SYNTHETIC.match(name) for name in counts)
    if missing:
        tally.add("embedding_missing", sample.key)
    # Apple's reader takes the rows behind the first of text_emb for whichever list it drew
    confused = behind > 0 and sum(1 for name in counts if _SYNTHETIC.match(name)) > 1
    return not (wrong or missing or confused or paug is None or len(paug.params) != len(image))


def _syn(data: Data, sample: Sample) -> dict[str, Any]:
    return shards.json_member(data, sample.members, "syn.json", [])


def _decoded(content: bytes, *, upright: bool) -> str | None:
    """The problem that keeps an image from being decoded."""
    try:
        packed_image(content, None, 92, upright=upright)
    except ImageTooLarge:
        return "image_too_large"
    except (ImageError, DataError):
        return "broken_image"
    return None


def _licence(record: Mapping[str, Any]) -> str:
    qc = record.get("qc")
    for value in (record.get("license"), record.get("licence"), qc.get("lic") if isinstance(qc, dict) else None):
        if isinstance(value, str | int) and value != "":
            return str(value)[:100]
    return ""


def _bytes(data: Data, span: Span) -> bytes:
    return bytes(data[span.offset : span.offset + span.size])
