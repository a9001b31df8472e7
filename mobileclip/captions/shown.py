"""A recipe as the TOML file that says the same, every option with its meaning: where own recipes begin."""

import ast
import inspect
import json
import math
import textwrap
from collections.abc import Mapping
from dataclasses import fields
from itertools import pairwise
from typing import Any

from mobileclip.captions.recipe import Recipe
from mobileclip.captions.stage import Stage


def toml_of(recipe: Recipe) -> str:
    """TOML of a recipe; `recipe_of` reads it back."""
    parts = [f"# {recipe.name}: stages run in this order."]
    for stage in recipe.stages:
        meanings = _meanings(type(stage))
        lines = [f'[[stage]]\nkind = "{stage.kind}"']
        for item in fields(stage):  # type: ignore[arg-type]
            comment = textwrap.indent("\n".join(textwrap.wrap(meanings.get(item.name, ""), 100)), "# ")
            lines.append(f"{comment}\n{item.name} = {_value(getattr(stage, item.name))}".strip())
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _meanings(stage: type[Stage]) -> dict[str, str]:
    """Field -> the string under it, its bases' too."""
    found: dict[str, str] = {}
    for base in reversed(stage.__mro__[:-1]):
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError, ValueError):
            continue
        body = tree.body if isinstance(tree, ast.ClassDef) else []
        for first, second in pairwise(body):
            if isinstance(first, ast.AnnAssign) and isinstance(first.target, ast.Name):
                meaning = second.value if isinstance(second, ast.Expr) else None
                if isinstance(meaning, ast.Constant) and isinstance(meaning.value, str):
                    found[first.target.id] = " ".join(meaning.value.split())
    return found


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{json.dumps(key)} = {_value(one)}" for key, one in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(_value(one) for one in value)}]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False)
