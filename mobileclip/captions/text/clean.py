"""Captions as they should be trained on: what is no description is taken away, and what cannot be mended is named.

    [[stage]]
    kind = "clean"                            # texts, flags and lang, one each for every caption of the source
    languages = ["en", "de"]                  # [] for all
    blocks = ["empty", "file_name", "date"]   # rules that say a caption is not to be used

A cleaned text is one line of NFC with single spaces, without markup, addresses, invisible characters and what shops and
agencies write round a description; cleaning it again changes nothing. A text that a rule blocks keeps its place, with
`Flag.BLOCKED`: what comes of it is for a later stage to say. The rules are in `rules`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate, chain
from typing import Any, ClassVar

import pyarrow as pa

from mobileclip.captions.flags import Flag
from mobileclip.captions.stage import OK, Batch, Columns, Everything, Prepared, checked
from mobileclip.captions.text import language, rules
from mobileclip.captions.text.language import Languages
from mobileclip.errors import UnknownName

BLOCKS = ("empty", "file_name", "date", "refusal", "leakage", "language")
"""Rules whose captions are not used, where nothing else is said."""

_SHORT, _LONG, _LANGUAGE, _BLOCKED = (
    int(flag) for flag in (Flag.SHORT, Flag.LONG, Flag.LANGUAGE, Flag.BLOCKED)
)  # operations on members of an enum take ten times as long


@dataclass(frozen=True, kw_only=True)
class Clean:
    """Cleans one source of captions."""

    kind: ClassVar[str] = "clean"
    version: ClassVar[int] = 1
    prepares: ClassVar[bool] = False
    divisible: ClassVar[bool] = True

    name: str = "clean"
    """What this entry is called."""
    source: str = "alt"
    """Captions to clean: a source in the shards, or a stage with texts."""
    languages: tuple[str, ...] = ("en",)
    """ISO 639-1 codes; captions that are surely in no such language are flagged. Empty: all are wanted."""
    min_words: int = 3
    """Fewer are flagged as short."""
    max_words: int = 120
    """More are flagged as long."""
    blocks: tuple[str, ...] = BLOCKS
    """Names of flags whose captions are not to be used."""

    def __post_init__(self) -> None:
        known = [str(flag.name).lower() for flag in Flag if flag != Flag.BLOCKED]
        for block in self.blocks:
            if block not in known:
                raise UnknownName("rule that blocks", block, known)
        checked(
            0 <= self.min_words <= self.max_words,
            f"{self.name}.min_words is {self.min_words} and max_words {self.max_words}: 0 <= min_words <= max_words is "
            "allowed; change one.",
        )
        Languages.check(self.languages)

    def needs(self) -> tuple[str, ...]:
        """The source."""
        return (self.source,)

    def looks(self) -> bool:
        """Not at pictures."""
        return False

    def points_at(self) -> Mapping[str, str]:
        """The versions of packages that decide results.

        Raises:
            MissingExtra: languages are asked for, and lingua is not installed.
        """
        if self.languages:
            language.needed()
        return {"lingua": version_of("lingua-language-detector"), "ftfy": version_of("ftfy")}

    def prepare(self, everything: Everything) -> pa.Table | None:
        """Nothing."""
        return None

    def worker(self, prepared: Prepared | None) -> "Cleaner":
        """With languages loaded."""
        return Cleaner(self)


class Cleaner:
    """The worker of `Clean`."""

    schema = pa.schema(
        [
            pa.field("texts", pa.list_(pa.string())),
            pa.field("flags", pa.list_(pa.uint32())),
            pa.field("lang", pa.list_(pa.string())),
        ]
    )

    def __init__(self, stage: Clean) -> None:
        self._stage = stage
        self._languages = Languages(stage.languages)
        self._blocks = sum(flag for flag in Flag if str(flag.name).lower() in stage.blocks)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Packages that decide results."""
        return dict(self._stage.points_at())

    def __call__(self, batch: Batch) -> Columns:
        """texts, flags and lang of the batch's captions."""
        texts, lists = texts_of(batch, self._stage.source)
        return lists.columns(self.schema, dict(zip(self.schema.names, self.cleaned(texts), strict=True)))

    def cleaned(self, texts: Sequence[str]) -> tuple[list[str], list[int], list[str]]:
        """Cleaned texts, their flags and their languages."""
        stage, blocks = self._stage, self._blocks
        found = rules.settle(texts)
        tags = self._languages.tags(found.texts, found.words)
        flags = []
        for done, what, tag, words in zip(
            found.flags, rules.name(found.texts, found.words), tags, found.words, strict=True
        ):
            flag = done | what
            if len(words) < stage.min_words:
                flag |= _SHORT
            elif len(words) > stage.max_words:
                flag |= _LONG
            if self._languages.unwanted(tag, words):
                flag |= _LANGUAGE
            flags.append(flag | _BLOCKED if flag & blocks else flag)
        return found.texts, flags, tags


@dataclass(frozen=True, kw_only=True)
class Lists:
    """How the captions of a batch, one after the other, belong to its rows."""

    ends: list[int]
    """[B + 1] where each row's captions begin, and the last one's end."""
    missing: list[bool]
    """[B] whether the row is not to be touched."""

    def columns(self, schema: pa.Schema, flat: Mapping[str, Any]) -> dict[str, pa.Array]:
        """Columns of lists, one a row, of values of all captions; null where a row is missing."""
        offsets, missing = pa.array(self.ends, pa.int32()), pa.array(self.missing, pa.bool_())
        return {
            field.name: pa.ListArray.from_arrays(
                offsets, pa.array(flat[field.name], field.type.value_type), field.type, mask=missing
            )
            for field in schema
        }


def texts_of(batch: Batch, source: str) -> tuple[list[str], Lists]:
    """Captions of a source, one after the other, and whose they are; none of rows that are not to be touched."""
    missing = [status != OK for status in batch.status]
    rows = [[] if gone else own for own, gone in zip(batch.texts(source), missing, strict=True)]
    ends = [0, *accumulate(map(len, rows))]
    return list(chain.from_iterable(rows)), Lists(ends=ends, missing=missing)


@cache
def version_of(package: str) -> str:
    """Of an installed package; "" where it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
