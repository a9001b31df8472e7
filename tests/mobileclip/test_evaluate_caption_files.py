"""Odd rows, quotes and blanks of caption files; any other content ends in a sentence."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from set_files import write

from mobileclip.errors import DataError
from mobileclip.evaluate.caption_files import Captions, read_captions


def test_flickrs_odd_row_and_blank_captions(tmp_path: Path) -> None:
    text = "image_name| comment_number| comment\n"
    text += "".join(f"{n}.png| 0| a | b {n}\n" for n in range(120)) + "7.png| 4   without a delimiter\n8.png| 1|  \n"
    found = read_captions(write(tmp_path / "results.csv", text))
    assert len(found.texts) == 120
    assert found.texts["7.png"] == ["a | b 7"]  # the delimiter inside of a caption
    assert found.left_out == 2
    quoted = 'image_name| comment_number| comment\na.png| 0| he says "hi\nb.png| 0| two\n'
    assert read_captions(write(tmp_path / "q.csv", quoted)).texts == {"a.png": ['he says "hi'], "b.png": ["two"]}


def test_commas_and_quotes_in_csv(tmp_path: Path) -> None:
    rows = [("a.png", 'a dog, a cat and "x"'), ("b.png", "two\nlines"), ("c.png", "u\u2028v")]
    file = io.StringIO(newline="")
    csv.writer(file).writerows([("filepath", "title"), *rows])
    (tmp_path / "x.csv").write_bytes(file.getvalue().encode())
    found = read_captions(tmp_path / "x.csv")
    assert found.texts == {"a.png": ['a dog, a cat and "x"'], "b.png": ["two lines"], "c.png": ["u v"]}


def _read_or_told(path: Path) -> Captions | None:
    try:
        return read_captions(path)
    except DataError as error:
        told = str(error)
    assert told.startswith(str(path))
    return None


@settings(max_examples=100, deadline=None)
@given(
    suffix=st.sampled_from([".json", ".jsonl", ".csv", ".token"]),
    content=st.one_of(st.text(max_size=80), st.binary(max_size=80)),
)
def test_foreign_caption_files_end_in_a_sentence(
    suffix: str, content: str | bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"foreign{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    found = _read_or_told(path)
    if found is not None:
        assert all(text.strip() for texts in found.texts.values() for text in texts)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "images",
                    "annotations",
                    "id",
                    "file_name",
                    "image_id",
                    "caption",
                    "file",
                    "captions",
                    "sentences",
                    "raw",
                    "split",
                    "filepath",
                    "filename",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(content=JSON)
def test_foreign_json_ends_in_a_sentence(content: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "foreign.json"
    path.write_text(json.dumps(content))
    found = _read_or_told(path)
    if found is not None:
        assert all(isinstance(file, str) and texts for file, texts in found.texts.items())
