"""What tests of evaluation sets make: pictures that are known by their shade, text files."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from mobileclip.evaluate.sets import Classification, Retrieval


def encoded(shade: int = 0, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (shade % 256, 0, 0)).save(file, kind)
    return file.getvalue()


def picture(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(shade))
    return path


def write(path: Path, content: Any) -> Path:
    """Text as it is, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def shade(what: Classification | Retrieval, index: int) -> int:
    return int(what.pictures.read(index).getpixel((0, 0))[0])  # type: ignore[index]
