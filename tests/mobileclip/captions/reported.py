"""What tests of the report need: a stage of every kind that writes captions, tars, and a parser of pages."""

from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from given import Given, jpeg, tar

from mobileclip.captions.flags import Flag
from mobileclip.captions.judge import Judge
from mobileclip.captions.pictures.dedup import Dedup
from mobileclip.captions.pictures.embed import Embed
from mobileclip.captions.pictures.images import Images
from mobileclip.captions.pictures.score import Score
from mobileclip.captions.select import Select
from mobileclip.captions.stage import Batch, Columns
from mobileclip.captions.text.clean import Clean
from mobileclip.captions.text.text_score import TextScore

VOID = {"img", "meta", "br"}


@dataclass(frozen=True, kw_only=True)
class Written(Given):
    """Captions as a captioner's side-car holds them: K a picture, by key and place."""

    kind: ClassVar[str] = "caption"
    model: str = "seeded:captioner"
    licence: str = "MIT"
    text: str = "a photo of a {}, number {}"

    def needs(self) -> tuple[str, ...]:
        return ()

    def worker(self, prepared: Any) -> "_Writer":
        return _Writer(self)


@dataclass(frozen=True, kw_only=True)
class Cleaned(Written):
    """Texts as `clean` holds them."""

    kind: ClassVar[str] = "clean"
    source: str = "alt"


@dataclass(frozen=True, kw_only=True)
class Rewritten(Written):
    """Texts as `rewrite` holds them."""

    kind: ClassVar[str] = "rewrite"
    reads: tuple[str, ...] = ("alt", "coca")

    def needs(self) -> tuple[str, ...]:
        return self.reads


class _Writer:
    def __init__(self, stage: Written) -> None:
        self._stage = stage
        lists = {"texts": pa.string(), "flags": pa.uint32()}
        if stage.kind == "caption":
            lists |= {"lp": pa.float32()}
        self.schema = pa.schema([(name, pa.list_(value)) for name, value in lists.items()])
        self.provenance: Mapping[str, Any] = {"model": stage.model, "licence": stage.licence, "prompt": "what is this?"}

    def __call__(self, batch: Batch) -> Columns:
        out: dict[str, list[Any]] = {name: [] for name in self.schema.names}
        for one in batch.rows:
            if isinstance(self._stage, Cleaned):
                captions = [text[:600] for text in one.texts.get(self._stage.source, ())]
                out["texts"].append(captions)
            else:
                captions = [self._stage.text.format(one.key[-1], place) for place in range(2)]
                out["texts"].append(captions)
            if "lp" in out:
                out["lp"].append([-0.5 - place for place in range(len(captions))])
            out["flags"].append([int(Flag.REFUSAL) if one.key.endswith("7") else 0 for _ in captions])
        return out


SOURCES = ("clean", "coca", "fused")
STAGES = (
    Images(),
    Embed(model="seeded:nano"),
    Clean(),
    Written(name="coca"),
    Rewritten(name="fused", licence="Llama community licence, research"),
    TextScore(name="words"),
    Score(sources=SOURCES, alt="clean"),
    Dedup(),
    Judge(sources=SOURCES, score="score", fused_from={"fused": ("alt", "coca")}),
    Select(sources=SOURCES, judge="judge", dedup="dedup", top_share=0.8),
)


def shards(folder: Path, count: int = 3) -> Path:
    """Tars of 16 pictures, one twice, one broken, one missing, with harmless texts."""
    for shard in range(count):
        samples: list[tuple[str, Mapping[str, Any]]] = []
        for row in range(16):
            members: dict[str, Any] = {
                "jpg": jpeg(100 * shard + row, (300, 200)),
                "txt": f"Lake number {row} in Slovenia",
            }
            members["json"] = {"license": ["CC BY 2.0", "CC BY-NC 2.0"][row % 2], "url": "http://127.0.0.1:9/a.jpg"}
            if row == 3:
                members["jpg"] = jpeg(100 * shard + 2, (300, 200))
            if row == 5:
                members["jpg"] = members["jpg"][:200]
            if row == 6:
                del members["jpg"]
            samples.append((f"{shard:05d}{row:04d}", members))
        tar(folder / f"{shard:05d}.tar", samples)
    return folder


class Parsed(HTMLParser):
    """Elements, attributes and texts; fails on what is not closed."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.ids: set[str] = set()
        self._open: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids |= {value for name, value in attrs if name == "id" and value}
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())
