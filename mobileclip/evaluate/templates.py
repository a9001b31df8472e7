"""Class lists and templates: from files, from a set's own folder, or ImageNet's as open_clip ships them.

A list is a text file with one entry a line, or a JSON list of strings; class lists may also be a JSON object from index
to name (`{"0": "tench"}`, or `{"0": ["n01440764", "tench"]}` as Keras writes ImageNet's). A template holds `{}` or
`{c}` where the class's name goes; it is never a Python format string.
"""

import json
import re
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from mobileclip.errors import DataError
from mobileclip.evaluate.files import read_json, read_text

IMAGENET = "imagenet"
"""In place of a file: ImageNet's 1,000 class names, or the 80 templates of CLIP's authors."""
PLAIN = ("a photo of a {}.",)
"""The template where none is given (CLIP, Radford et al. 2021, section 3.1.4)."""
MAX_ENTRIES = 1_000_000
_SLOT = re.compile(r"\{c?\}")


def filled(template: str, name: str) -> str:
    """The text of a class."""
    return _SLOT.sub(lambda _: name, template)


def read_classes(source: str | Path) -> tuple[str, ...]:
    """Class names in order of their index.

    Raises:
        DataError: the file cannot be read, is empty, or has a gap.
    """
    if str(source) == IMAGENET:
        return imagenet_classes()
    names = _entries(Path(source), "class name")
    return tuple(name.replace("_", " ") if " " not in name else name for name in names)


def read_templates(source: str | Path) -> tuple[str, ...]:
    """Templates, each with a place for the class.

    Raises:
        DataError: the file cannot be read, is empty, or a template has no place for the class.
    """
    if str(source) == IMAGENET:
        return imagenet_templates()
    templates = _entries(Path(source), "template")
    for number, template in enumerate(templates, 1):
        if not _SLOT.search(template):
            raise DataError(
                f"{source}: template {number} is '{template[:80]}', which has no place for the class: write {{}} or "
                "{c} where its name goes."
            )
    return tuple(templates)


@cache
def imagenet_classes() -> tuple[str, ...]:
    """ImageNet's class names in the order of its sorted WordNet ids, as open_clip ships them (two occur twice)."""
    return tuple(_open_clip().IMAGENET_CLASSNAMES)


@cache
def imagenet_templates() -> tuple[str, ...]:
    """The 80 templates of CLIP's authors, as open_clip ships them."""
    return tuple(template("{}") for template in _open_clip().OPENAI_IMAGENET_TEMPLATES)


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """The WordNet ids of ImageNet's classes in order, as timm ships them."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())


@cache
def _open_clip() -> Any:
    """open_clip's module of lists, by its file: importing the package would import torch."""
    package = find_spec("open_clip")
    assert package is not None
    assert package.submodule_search_locations
    place = Path(package.submodule_search_locations[0]) / "zero_shot_metadata.py"
    spec = spec_from_file_location("open_clip_zero_shot_metadata", place)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _entries(path: Path, what: str) -> list[str]:
    if path.suffix.lower() == ".json":
        found = _json_entries(path, read_json(path), what)
    else:
        lines = [line.strip() for line in read_text(path).split("\n")]
        while lines and not lines[-1]:
            lines.pop()
        found = lines
    if not found:
        raise DataError(f"{path} holds no {what}: put one a line, or give a JSON list.")
    if len(found) > MAX_ENTRIES:
        raise DataError(f"{path} holds {len(found):,} entries: at most {MAX_ENTRIES:,} are taken; is it a list?")
    for number, entry in enumerate(found, 1):
        if not entry.strip():
            raise DataError(f"{path}: {what} {number} is empty, and those behind it would move up: fill it in.")
    return found


def _json_entries(path: Path, content: Any, what: str) -> list[str]:
    if isinstance(content, dict):
        try:
            content = [content[str(index)] for index in range(len(content))]
        except KeyError as error:
            raise DataError(
                f"{path} has no {what} for index {error.args[0]}: a JSON object must go from 0 on without gaps."
            ) from error
        content = [entry[-1] if isinstance(entry, list) and entry else entry for entry in content]
    if not isinstance(content, list) or not all(isinstance(entry, str) for entry in content):
        raise DataError(
            f"{path} holds {json.dumps(content, default=str)[:60]}: a JSON list of strings is a list of {what}s, "
            "so is a text file with one a line."
        )
    return content
