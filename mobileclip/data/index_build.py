"""From a tar to the arrays of its index: offsets, captions as tokens, hashes, weights.

    found, metadata = build(data, tars.walk(data, path), path.name)

Unusual here: everything that costs time in training (JSON, Unicode, byte-pair encoding) is paid here, once. All tokens
of a caption are kept, up to `MAX_TOKENS`, without start and end, so that a policy can choose sentences of a long one.
"""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobileclip import tokenizer
from mobileclip.data import shards, tars, teachers
from mobileclip.data.problems import Tally, as_json
from mobileclip.data.shards import Sample, Span, Text
from mobileclip.data.sidecar import keys_hash

VERSION = 1
"""Of the layout; an index of another one is built again."""
MAX_TOKENS = 1_024
"""Ids of a caption that are kept."""
MAX_SOURCES = 255
"""Different sources in one shard; captions of further ones are not used."""

_SHORT = 2_000  # characters that are encoded whole; of longer texts only the tokens that are kept are worked out
_ROW = tokenizer.CONTEXT - 2  # tokens of a row, which are what two captions are compared by
_NONE = Span(-1, -1)


def build(
    data: shards.Data, walk: tars.Walk, name: str, json_keys: Sequence[str] = ()
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and metadata of an index; `name` is the tar's, for problems and for ids of samples that have none."""
    tally, rows = Tally(), _Rows()
    if walk.damage is not None:
        tally.add("truncated", f"{name}: {walk.damage}")
    elif not walk.end_mark:
        tally.add("no_end_mark", name)
    for sample in shards.read(data, walk, tally, json_keys):
        rows.add(sample, data, name, tally)
    kinds = Counter(parts[1][:32] for parts in map(tars.split, walk.names) if parts is not None)
    metadata = {
        "index": VERSION,
        "n": len(rows.label),
        "tar_bytes": len(data),
        "headers": walk.checksum,
        "members": len(walk.names),
        "damage": walk.damage,
        "tokenizer": tokenizer.tokenizer_hash(),
        "json_keys": list(json_keys),
        "sources": list(rows.sources),
        "extensions": dict(kinds.most_common(20)),
        "problems": as_json(tally.result()),
        "keys_hash": keys_hash(rows.names),
        "texts_hash": keys_hash(rows.aligned),
    }
    return rows.arrays(), metadata


def tokens_of(text: str) -> list[int]:
    """Its first `MAX_TOKENS` ids, without start and end."""
    if len(text) <= _SHORT:
        return tokenizer.encode(text)[:MAX_TOKENS]
    row = tokenizer.tokenize(text, MAX_TOKENS + 2)[0].tolist()
    while row[-1] != tokenizer.END:  # what fills the row behind the end
        row.pop()
    return [int(index) for index in row[1:-1]]


def hash64(content: bytes) -> int:
    """BLAKE2b of 64 bits."""
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little")


class _Rows:
    """The growing arrays."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.aligned: list[str] = []  # captions that embeddings may be aligned with, and their rows
        self.sources: dict[str, int] = {}
        self.keys = bytearray()
        self.key_start, self.text_start, self.token_start = array("q", [0]), array("q", [0]), array("q", [0])
        self.uid, self.text_hash = array("Q"), array("Q")
        self.spans: dict[str, array[int]] = {name: array("q") for name in ("image", "paug", "embeds", "syn")}
        self.image_kind, self.embeds_kind, self.source = bytearray(), bytearray(), bytearray()
        self.weight, self.clip = array("f"), array("f")
        self.teacher, self.label = array("i"), array("i")
        self.tokens = array("H")

    def add(self, sample: Sample, data: shards.Data, name: str, tally: Tally) -> None:
        texts = [text for text in sample.texts if self._source(text.source) is not None]
        if len(texts) < len(sample.texts):
            tally.add("too_many_captions", sample.key, len(sample.texts) - len(texts))
        if not texts:
            return
        self.names.append(sample.key)
        self.keys += sample.key.encode()
        self.key_start.append(len(self.keys))
        own = sample.uid or f"{name}\0{sample.key}"
        self.uid.append(hash64(own.encode("utf-8", "surrogatepass")))
        kind, span, known = _embeddings(sample, data, tally)
        self.embeds_kind.append(kind)
        self.image_kind.append(0 if sample.extension in ("jpg", "jpeg") else 1)
        places = {"image": sample.image, "embeds": span, "paug": sample.members.get("paug.json", _NONE)}
        for field, (offset, size) in (places | {"syn": sample.members.get("syn.json", _NONE)}).items():
            self.spans[field].extend((offset, size))
        self.label.append(sample.label)
        for text in texts:
            self._add_text(text, known)
        self.text_start.append(len(self.source))

    def _add_text(self, text: Text, known: frozenset[str] | None) -> None:
        ids = array("H", tokens_of(text.text))
        self.tokens.extend(ids)
        self.token_start.append(len(self.tokens))
        self.source.append(self.sources[text.source])
        self.weight.append(text.weight)
        self.clip.append(text.clip)
        self.text_hash.append(hash64(ids[:_ROW].tobytes()))
        if text.teacher >= 0:
            self.aligned.append(f"{text.teacher}\0{text.text}")
        name = "txt" if text.source == "alt" else text.source
        self.teacher.append(text.teacher if known is None or teachers.has_rows(name, known) else -1)

    def _source(self, source: str) -> int | None:
        if source not in self.sources and len(self.sources) < MAX_SOURCES:
            self.sources[source] = len(self.sources)
        return self.sources.get(source)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As they are stored; see `mobileclip.data.index.Index`."""
        out: dict[str, NDArray[Any]] = {
            name: np.frombuffer(values, np.int64).reshape(-1, 2) for name, values in self.spans.items()
        }
        for name in ("keys", "image_kind", "embeds_kind", "source"):
            out[name] = np.frombuffer(getattr(self, name), np.uint8)
        for name in ("key_start", "text_start", "token_start"):
            out[name] = np.frombuffer(getattr(self, name), np.int64)
        for name in ("uid", "text_hash"):
            out[name] = np.frombuffer(getattr(self, name), np.uint64)
        for name in ("weight", "clip"):
            out[name] = np.frombuffer(getattr(self, name), np.float32)
        out["teacher"] = np.frombuffer(self.teacher, np.int32)
        out["cls"] = np.frombuffer(self.label, np.int32)
        out["tokens"] = np.frombuffer(self.tokens, np.uint16)
        return out


def _embeddings(sample: Sample, data: shards.Data, tally: Tally) -> tuple[int, Span, frozenset[str] | None]:
    """Kind (0 none), bytes, and names of the embeddings in the shard; names are None when it has none."""
    members: Mapping[str, Span] = sample.members
    for kind, extension in enumerate(teachers.KINDS, 1):
        span = members.get(extension)
        if span is None:
            continue
        content = bytes(data[span.offset : span.offset + min(span.size, teachers.LIMIT)])
        known = teachers.names(extension, content)
        if known:
            return kind, span, known
        tally.add("bad_embeddings", sample.key)
    return 0, _NONE, None
