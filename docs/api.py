"""docs/api.md from docstrings: the names that others build on, and the function behind each verb.

    python docs/api.py              # writes docs/api.md
    python docs/api.py --check      # exit code 1 where it is not current; a test runs this

A name that is published in `__all__` and missing here cannot be: the first part is read from there.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("api.md")
PACKAGES = ("mobileclip", "export", "benchmarks")
VERBS: Mapping[str, tuple[str, ...]] = {
    "captions": ("mobileclip.captions.plan:plan_of", "mobileclip.captions.engine:run"),
    "pack": ("mobileclip.data.scenes:write_scenes", "mobileclip.data.pack:pack_shards"),
    "inspect": ("mobileclip.data.doctor:inspect", "mobileclip.dense.data.checking:check"),
    "train": ("mobileclip.recipes:recipe_of", "mobileclip.recipes:Recipe", "mobileclip.train:train"),
    "evaluate": (
        "export.encoder:encoder_of",
        "mobileclip.evaluate:evaluate",
        "mobileclip.evaluate:compare",
        "mobileclip.dense.evaluation:evaluate",
    ),
    "finetune": (
        "mobileclip.dense.recipes:recipe_of",
        "mobileclip.dense.plan:Finetune",
        "mobileclip.dense.finetune:finetune",
        "mobileclip.dense.checkpoint:load",
    ),
    "predict": ("mobileclip.dense.predicting:predict",),
    "sensitivity": ("export.assign:measured",),
    "bench": ("benchmarks.protocol:Plan",),
    "report": ("benchmarks.report:write",),
    "apps": ("export.install:install",),
    "build": ("mobileclip.journey.recipes:Journey", "mobileclip.journey.runner:build"),
}
"""Verb -> what it calls; `export`, `verify` and `bench` call what is published."""


def page() -> str:
    """The whole page."""
    parts = [
        "# Python reference",
        "Made from docstrings by `python docs/api.py`. Everything that a verb does is one function call away.",
    ]
    for package in PACKAGES:
        module = import_module(package)
        parts += [f"## {package}", *_opening(module.__doc__ or "")]
        for name in module.__all__:
            parts += _entry(f"{package}.{name}", getattr(module, name))
    parts.append("## Behind the verbs")
    for verb, names in VERBS.items():
        parts.append(f"### `mobileclip {verb}`")
        for name in names:
            place, _, attribute = name.partition(":")
            parts += _entry(f"{place}.{attribute}", getattr(import_module(place), attribute), level=4)
    return "\n\n".join(parts) + "\n"


def _entry(name: str, value: Any, level: int = 3) -> Iterator[str]:
    """Heading, signature and docstring of one name."""
    yield f"{'#' * level} {name}"
    if inspect.isclass(value) and is_dataclass(value):
        yield from _opening(inspect.getdoc(value) or "")
        yield _fields(value)
    elif callable(value):
        if not inspect.isclass(value):
            yield f"```text\n{_signature(name.rpartition('.')[2], value)}\n```"
        yield from _sections(inspect.getdoc(value) or "")
    else:
        yield f"A constant: {', '.join(f'`{key}`' for key in value)}." if isinstance(value, Mapping) else repr(value)


def _signature(name: str, function: Callable[..., Any]) -> str:
    """On one line where it fits, else a line for each parameter."""
    found = inspect.signature(function)
    parameters: list[str] = []
    starred = False
    for one in found.parameters.values():
        if one.kind is one.KEYWORD_ONLY and not starred:
            parameters.append("*")
        starred = starred or one.kind in (one.KEYWORD_ONLY, one.VAR_POSITIONAL)
        parameters.append(_parameter(one))
    ending = "" if found.return_annotation is found.empty else f" -> {_type(found.return_annotation)}"
    line = f"{name}({', '.join(parameters)}){ending}"
    if len(line) <= 110:
        return line
    return "\n".join([f"{name}(", *(f"    {item}," for item in parameters), f"){ending}"])


def _parameter(one: inspect.Parameter) -> str:
    stars = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
    told = f"{stars}{one.name}" + ("" if one.annotation is one.empty else f": {_type(one.annotation)}")
    return told if one.default is one.empty else f"{told} = {_value(one.default)}"


def _type(annotation: Any) -> str:
    """As it is written, without the modules' names."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"(?<![\w'])(?:\w+\.)+(?=\w)", "", text)


def _value(value: Any) -> str:
    """A default; a function by its name, and nothing that is another on another machine."""
    if callable(value):
        return "…" if value.__name__ == "<lambda>" else str(value.__name__)
    return str(value) if isinstance(value, Path) else repr(value)


def _fields(cls: type) -> str:
    """A list of a dataclass's fields with the docstring under each."""
    docs = _field_docs(cls)
    lines = []
    for item in fields(cls):
        default = "" if item.default is MISSING else f" = {_value(item.default)}"
        lines.append(f"- `{item.name}: {_type(item.type)}{default}` {docs.get(item.name, '')}".rstrip())
    return "\n".join(lines)


def _field_docs(cls: type) -> dict[str, str]:
    """Field -> the string under it."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for before, after in zip(node.body, node.body[1:], strict=False):
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and isinstance(after, ast.Expr):
            text = after.value.value if isinstance(after.value, ast.Constant) else ""
            found[before.target.id] = " ".join(str(text).split())
    return found


def _opening(text: str) -> Iterator[str]:
    """Paragraphs of a docstring; what is indented, or begins like code, is code."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        code = paragraph.startswith("    ") or re.match(r"\w+ = \w+\.|\w+\.\w+\(", paragraph)
        yield f"```text\n{textwrap.dedent(paragraph)}\n```" if code else " ".join(paragraph.split())


def _sections(text: str) -> Iterator[str]:
    """A docstring with its `Args:`, `Returns:` and `Raises:` as lists."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        title, _, rest = paragraph.partition("\n")
        if title in ("Args:", "Returns:", "Raises:", "Yields:") and rest:
            yield f"{title[:-1]}:\n\n" + "\n".join(_items(textwrap.dedent(rest)))
        else:
            yield from _opening(paragraph)


def _items(text: str) -> Iterator[str]:
    """`name: what it is`, continued lines joined."""
    for item in re.split(r"\n(?=\S)", text):
        name, colon, told = " ".join(item.split()).partition(": ")
        yield f"- `{name}`: {told}" if colon and re.fullmatch(r"[\w, *]+", name) else f"- {name}{colon}{told}"


def main() -> int:
    """Write the page, or tell whether it is current."""
    text = page()
    if "--check" in sys.argv[1:]:
        current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print("docs/api.md is current" if current else "docs/api.md is not current: run `python docs/api.py`")
        return 0 if current else 1
    PAGE.write_text(text, encoding="utf-8")
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
