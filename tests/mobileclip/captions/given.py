"""A stage whose columns are options, and tars with what a test wants in them."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image

from mobileclip.captions.plan import Plan, plan_of
from mobileclip.captions.recipe import Recipe
from mobileclip.captions.stage import Batch, Columns, Everything, Prepared
from mobileclip.captions.work import prepare, work


@dataclass(frozen=True, kw_only=True)
class Given:
    """Gives the values that it is told, by key; `types` are pyarrow's, as texts."""

    kind: ClassVar[str] = "given:Given"
    version: ClassVar[int] = 1
    prepares: ClassVar[bool] = False
    divisible: ClassVar[bool] = True

    name: str = "given"
    types: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def needs(self) -> tuple[str, ...]:
        return ()

    def looks(self) -> bool:
        return False

    def points_at(self) -> Mapping[str, str]:
        return {}

    def prepare(self, everything: Everything) -> pa.Table | None:
        return None

    def worker(self, prepared: Prepared | None) -> "_Giver":
        return _Giver(self)


class _Giver:
    def __init__(self, stage: Given) -> None:
        self._stage = stage
        self.schema = pa.schema([(column, kind_of(text)) for column, text in stage.types.items()])
        self.provenance: dict[str, Any] = {"model": "a table", "licence": "MIT"}

    def __call__(self, batch: Batch) -> Columns:
        return {name: [self._stage.values[name].get(row.key) for row in batch.rows] for name in self._stage.types}


def kind_of(text: str) -> pa.DataType:
    """`list<item: float>` -> pyarrow's type."""
    inner = text.removeprefix("list<item: ")
    return pa.type_for_alias(text) if inner == text else pa.list_(kind_of(inner.removesuffix(">")))


def jpeg(seed: int = 0, size: tuple[int, int] = (48, 32)) -> bytes:
    """A small picture that differs by seed."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (4, 6, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def tar(path: Path, samples: Sequence[tuple[str, Mapping[str, bytes | str | dict[str, Any]]]]) -> Path:
    """A tar of (key, extension -> content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as out:
        for key, members in samples:
            for extension, content in members.items():
                text = json.dumps(content) if isinstance(content, dict) else content
                data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))
    return path


def pairs(path: Path, texts: Mapping[str, str], first: int = 0) -> Path:
    """A tar of pictures with one text each."""
    return tar(path, [(key, {"jpg": jpeg(first + n), "txt": text}) for n, (key, text) in enumerate(texts.items())])


def ran(stages: Sequence[Any], shards: Any, folder: Path) -> Plan:
    """A plan of these stages, done in this process."""
    plan = plan_of(Recipe(name="test", stages=tuple(stages)), shards, folder)
    for wave in plan.waves:
        for stage in wave:
            prepare(plan, stage)
        for item in plan.todo(wave):
            work(plan, wave, item)
    return plan
