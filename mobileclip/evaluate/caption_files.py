"""Files of captions, in the forms that are in use -> picture names and their captions.

    rows = read_captions(Path("captions_val2017.json"))        # {"000000000139.jpg": ["A woman ...", ...], ...}

| form | where it is from |
| --- | --- |
| `.jsonl`: `{"file": ..., "captions": [...]}` a line (also `image`, `caption`) | this toolkit, many others |
| JSON list of such objects | ALBEF and BLIP: `coco_karpathy_test.json` |
| JSON object with `images` and `annotations` | COCO: `captions_val2017.json` |
| JSON object with `images`, each with `sentences` | Karpathy's splits: `dataset_flickr30k.json`, `dataset_coco.json` |
| `image_name| comment_number| comment` | Flickr30k: `results.csv` |
| `image,caption` (also tabs; `filepath`, `title`, ...) | Flickr8k: `captions.txt`; open_clip's CSV |
| `1000092795.jpg#0<tab>Two young guys ...` | Flickr30k: `results_20130124.token` |

Where rows name a split, those of `test` are taken if there are any. Blank captions and rows cut short are counted.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from mobileclip.errors import DataError
from mobileclip.evaluate.files import parse, read_text

FORMS = (
    "lines or a list of JSON objects with a file name and captions, COCO's captions JSON, Karpathy's "
    "dataset JSON, a CSV of pictures and captions, Flickr30k's .token"
)
"""What is known, for messages."""
FILE_KEYS = ("file", "image", "file_name", "filename", "image_name", "filepath", "path")
"""Names of the field or column of a picture's file, the first that is there."""
CAPTION_KEYS = ("captions", "caption", "comment", "sentences", "text", "title", "raw")
"""Names of the field or column of captions, the first that is there."""
ODD_SHARE = 0.01
"""Share of the rows that may be cut short; Flickr30k's own file has one such row."""
_TOKEN = re.compile(r"(?P<file>[^\t#]+)#\w+\t(?P<caption>.*)")


@dataclass
class Captions:
    """What a caption file says."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    """File name of each picture -> its captions, none of them blank; in the file's order."""
    left_out: int = 0
    """Rows that were cut short, and blank captions."""

    def add(self, file: str, captions: Iterable[str]) -> None:
        """Captions of one picture, perhaps not its first."""
        texts = self.texts.setdefault(file, [])
        for caption in captions:
            if text := " ".join(caption.split()):
                texts.append(text)
            else:
                self.left_out += 1


def read_captions(path: Path) -> Captions:
    """Read a caption file of any known form.

    Raises:
        DataError: an unknown form, broken content, or no caption at all.
    """
    text = read_text(path)
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        found = _records(path, _json_lines(path, text))
    elif suffix == ".json":
        found = _json(path, parse(text, str(path)))
    else:
        found = _table(path, text)
    found.left_out += sum(not texts for texts in found.texts.values())
    found.texts = {file: texts for file, texts in found.texts.items() if texts}
    if not found.texts:
        raise DataError(f"{path} holds no caption: known are {FORMS}.")
    return found


def _json_lines(path: Path, text: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield parse(line, f"{path}, line {number},")


def _json(path: Path, content: Any) -> Captions:
    if isinstance(content, list):
        return _records(path, content)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        shown = (
            f"an object with {', '.join(map(str, islice(content, 5)))}" if isinstance(content, dict) else "no object"
        )
        raise DataError(f"{path} is no caption file that is known (it holds {shown}): known are {FORMS}.")
    if "annotations" in content:
        return _coco(path, images, content["annotations"])
    return _records(path, images)


def _coco(path: Path, images: list[dict[str, Any]], annotations: Any) -> Captions:
    """COCO: captions are annotations that name the id of their picture."""
    files = {image.get("id"): image.get("file_name") for image in images if isinstance(image.get("id"), int | str)}
    found = Captions()
    for number, entry in enumerate(annotations if isinstance(annotations, list) else ()):
        caption = entry.get("caption") if isinstance(entry, dict) else None
        if not isinstance(caption, str):
            raise DataError(
                f"{path}: annotation {number} has no caption; give the captions_*.json of COCO, not its instances."
            )
        key = entry.get("image_id")
        file = files.get(key) if isinstance(key, int | str) else None
        if not isinstance(file, str):
            raise DataError(f"{path}: annotation {number} is of image {key!r:.40}, which is not among the images.")
        found.add(file, [caption])
    return found


def _records(path: Path, records: Iterable[Any]) -> Captions:
    """Objects with the name of a picture and its captions."""
    by_split: dict[str | None, Captions] = {}
    for number, record in enumerate(records, 1):
        file = _first(record, FILE_KEYS)
        captions = _first(record, CAPTION_KEYS)
        texts = _texts(captions)
        if not isinstance(file, str) or texts is None:
            raise DataError(
                f"{path}: entry {number} ({json.dumps(record, default=str)[:60]}) needs the picture's name in "
                f"one of {', '.join(FILE_KEYS)}, and text in one of {', '.join(CAPTION_KEYS)}."
            )
        folder = record.get("filepath")
        if isinstance(folder, str) and folder != file:  # Karpathy's COCO: the folder apart
            file = f"{folder}/{file}"
        split = record.get("split")
        by_split.setdefault(split if isinstance(split, str) else None, Captions()).add(file, texts)
    return _of_split(by_split)


def _of_split(by_split: dict[str | None, Captions]) -> Captions:
    """The test split where there is one, else everything."""
    if "test" in by_split:
        return by_split["test"]
    merged = Captions()
    for part in by_split.values():
        merged.left_out += part.left_out
        for file, texts in part.texts.items():
            merged.texts.setdefault(file, []).extend(texts)
    return merged


def _first(record: Any, keys: tuple[str, ...]) -> Any:
    return next((record[key] for key in keys if key in record), None) if isinstance(record, dict) else None


def _texts(captions: Any) -> list[str] | None:
    """A caption, a list of them, or a list of Karpathy's sentences."""
    if isinstance(captions, str):
        return [captions]
    if not isinstance(captions, list):
        return None
    found = [entry.get("raw") if isinstance(entry, dict) else entry for entry in captions]
    texts = [text for text in found if isinstance(text, str)]
    return texts if len(texts) == len(found) else None


def _table(path: Path, text: str) -> Captions:
    first = re.split(r"[\r\n]", text, maxsplit=1)[0][:1000]
    if _TOKEN.fullmatch(first):
        return _checked(path, _token_rows(text))
    for delimiter in ("|", "\t", ","):
        header = [name.strip().lower() for name in next(csv.reader([first], delimiter=delimiter), [])]
        if any(key in header for key in FILE_KEYS) and any(key in header for key in CAPTION_KEYS):
            return _checked(path, _csv_rows(path, text, header, delimiter))
    raise DataError(f"{path} is no caption file that is known (it begins '{first[:60]}'): known are {FORMS}.")


_Row = tuple[str, str, str | None]
"""Picture, caption (or a JSON list of them), split."""


def _token_rows(text: str) -> Iterator[_Row | None]:
    for line in text.split("\n"):
        if line.strip():
            match = _TOKEN.fullmatch(line.strip("\r"))
            yield (match["file"], match["caption"], None) if match else None


def _csv_rows(path: Path, text: str, header: list[str], delimiter: str) -> Iterator[_Row | None]:
    file, caption = (next(header.index(key) for key in keys if key in header) for keys in (FILE_KEYS, CAPTION_KEYS))
    split = header.index("split") if "split" in header else None
    # Flickr30k's captions have lone quotes; there the last column may hold the delimiter
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting)
    try:
        for cells in islice(reader, 1, None):
            if not cells:
                continue
            if len(cells) > len(header) and caption == len(header) - 1:
                cells[caption:] = [delimiter.join(cells[caption:])]
            if len(cells) < len(header):
                yield None
            else:
                yield cells[file].strip(), cells[caption], None if split is None else cells[split].strip()
    except csv.Error as error:
        raise DataError(
            f"{path} cannot be read as CSV behind line {reader.line_num} ({error}): save it again."
        ) from error


def _checked(path: Path, rows: Iterable[_Row | None]) -> Captions:
    by_split: dict[str | None, Captions] = {}
    odd, total = 0, 0
    for row in rows:
        total += 1
        if row is None or not row[0]:
            odd += 1
            continue
        by_split.setdefault(row[2], Captions()).add(row[0], _cell(row[1]))
    if odd > max(1, ODD_SHARE * total):
        raise DataError(f"{path}: {odd:,} of {total:,} rows have too few columns: is it cut or of another form?")
    found = _of_split(by_split)
    found.left_out += odd
    return found


def _cell(text: str) -> list[str]:
    """A caption; or the captions of a cell that is a JSON list of them."""
    if text.startswith('["') and text.rstrip().endswith('"]'):
        try:
            texts = _texts(json.loads(text))
        except (ValueError, RecursionError):
            texts = None
        if texts:
            return texts
    return [text]
