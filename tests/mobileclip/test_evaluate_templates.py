"""Lists of classes and templates: their forms, what is refused, and ImageNet's as open_clip has them."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
from set_files import write

from mobileclip.errors import DataError
from mobileclip.evaluate import templates
from mobileclip.evaluate.templates import filled, imagenet_templates, read_classes, read_templates


def test_forms_of_class_lists(tmp_path: Path) -> None:
    assert read_classes(write(tmp_path / "a.txt", "\ufefftench\r\ngreat_white_shark\n")) == (
        "tench",
        "great white shark",
    )
    assert read_classes(write(tmp_path / "a.json", ["a", "b c"])) == ("a", "b c")
    assert read_classes(write(tmp_path / "b.json", {"1": "b", "0": "a"})) == ("a", "b")
    assert read_classes(write(tmp_path / "c.json", {"0": ["n01", "tench"], "1": ["n02", "x_y"]})) == ("tench", "x y")
    assert read_classes("imagenet") == tuple(open_clip.IMAGENET_CLASSNAMES)
    assert read_templates("imagenet")[0] == "a bad photo of a {}."


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (["a", 1], r'x\.json holds \["a", 1\]: a JSON list of strings is a list of class names'),
        ("3", r"x\.json holds 3: a JSON list of strings"),
        ({"0": "a", "2": "b"}, r"x\.json has no class name for index 1: a JSON object must go from 0 on without gaps"),
        ([], r"x\.json holds no class name"),
        ("[", r"x\.json is not JSON \(.*\): save it again"),
        ("[" * 100_000, r"x\.json is not JSON \(.*recursion.*\): save it again"),
    ],
)
def test_json_class_list_mistakes(content: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=text):
        read_classes(write(tmp_path / "x.json", content))


def test_too_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "MAX_ENTRIES", 3)
    with pytest.raises(DataError, match=r"x\.txt holds 4 entries: at most 3 are taken; is it a list\?"):
        read_classes(write(tmp_path / "x.txt", "a\nb\nc\nd"))


def test_templates_of_open_clip() -> None:
    for ours, theirs in zip(imagenet_templates(), open_clip.OPENAI_IMAGENET_TEMPLATES, strict=True):
        assert filled(ours, "cat {c}") == theirs("cat {c}")
