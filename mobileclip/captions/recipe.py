"""Recipes of caption work: named lists of stages, or a TOML file of them.

    [[stage]]
    kind = "clean"                # stages run in this order; a later one reads what earlier ones made, by their names

    [[stage]]
    kind = "clean"
    name = "clean-coca"           # the same kind again, under another name
    source = "coca"

    [[stage]]
    kind = "mine.stages:Shout"    # a class of one's own whose `kind` is these words

A stage's folder is called after its name and a hash of all that decides its output, so that a changed option makes a
new folder and an unchanged one is never made twice.
"""

import hashlib
import json
import tomllib
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from mobileclip.errors import DataError, UnknownName

if TYPE_CHECKING:
    from mobileclip.captions.stage import Stage

STAGES: Mapping[str, str] = {
    "images": "mobileclip.captions.pictures.images:Images",
    "embed": "mobileclip.captions.pictures.embed:Embed",
    "clean": "mobileclip.captions.text.clean:Clean",
    "text_score": "mobileclip.captions.text.text_score:TextScore",
    "score": "mobileclip.captions.pictures.score:Score",
    "dedup": "mobileclip.captions.pictures.dedup:Dedup",
    "caption": "mobileclip.captions.writers.caption:Caption",
    "rewrite": "mobileclip.captions.writers.rewrite:Rewrite",
    "judge": "mobileclip.captions.judge:Judge",
    "select": "mobileclip.captions.select:Select",
}
"""Kind of a stage -> its dataclass; imported when a recipe names it."""

_NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Stages in their order."""

    name: str
    """Of the recipe or its file."""
    stages: tuple["Stage", ...]
    """Names differ; each needs only earlier ones or sources in the shards."""

    def stage(self, name: str) -> "Stage":
        """The stage of that name.

        Raises:
            UnknownName: there is none.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise UnknownName("stage", name, [stage.name for stage in self.stages])

    def before(self, stage: "Stage") -> tuple["Stage", ...]:
        """The stages that it reads."""
        return tuple(other for other in self.stages if other.name in stage.needs() and other.name != stage.name)

    def hashes(self) -> dict[str, str]:
        """Name -> 12 digits of all that decides a stage's output, the stages that it reads included.

        Raises:
            MobileClipError: what an option points at cannot be used.
        """
        found: dict[str, str] = {}
        for stage in self.stages:
            before = {other.name: found[other.name] for other in self.before(stage)}
            free: frozenset[str] = getattr(stage, "incidental", frozenset())  # options on which no output depends
            deciding = {option: value for option, value in options(stage).items() if option not in free}
            said = [stage.kind, stage.version, deciding, dict(stage.points_at()), before]
            found[stage.name] = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]
        return found


def options(stage: "Stage") -> dict[str, Any]:
    """A stage's options as JSON values."""
    assert is_dataclass(stage)
    values: dict[str, Any] = json.loads(json.dumps(asdict(stage), default=str))
    return values


def recipe_of(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name, or in that TOML file; `overrides` are `stage.option=value`, values as TOML has them.

    Raises:
        UnknownName: no such recipe, stage, kind or option.
        DataError: the file is none, or a value does not fit.
    """
    text = str(name)
    if text in RECIPES:
        entries = [dict(entry) for entry in RECIPES[text]()]
    elif text.endswith(".toml") or "/" in text:
        entries = _entries(Path(name))
    else:
        raise UnknownName("caption recipe", text, RECIPES)
    for entry in entries:
        entry.setdefault("name", entry.get("kind", ""))
    for line in overrides:
        override(entries, line)
    return build(Path(text).stem, entries)


def build(name: str, entries: Sequence[Mapping[str, Any]]) -> Recipe:
    """A recipe of options by stage.

    Raises:
        UnknownName, DataError: as `recipe_of`.
    """
    if not entries:
        raise DataError(f"recipe '{name}' has no stages: give at least one [[stage]] with a kind.")
    stages = [_stage(entry) for entry in entries]
    seen: set[str] = set()
    later = {stage.name for stage in stages}
    for stage in stages:
        if stage.name in seen:
            raise DataError(f"recipe '{name}' has two stages called '{stage.name}': give one of them another name.")
        for needed in stage.needs():
            if needed in later - seen:
                raise DataError(
                    f"stage '{stage.name}' reads '{needed}', which comes later in recipe '{name}': put it before."
                )
        seen.add(stage.name)
    return Recipe(name=name, stages=tuple(stages))


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise DataError(
            f"recipe '{path}' cannot be read ({error.strerror}): give a TOML file, or a name: "
            f"{', '.join(sorted(RECIPES))}."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"recipe '{path}' is no TOML ({error}): write stages as [[stage]] tables.") from error
    entries = found.pop("stage", None)
    if found or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"recipe '{path}' must hold [[stage]] tables and nothing else; it has {sorted(found)} too.")
    return entries


def override(entries: list[dict[str, Any]], line: str) -> None:
    """Set one option: `stage.option=value`, the value as TOML has it, or a text without quotes.

    Raises:
        UnknownName: no such stage.
        DataError: the line has another form.
    """
    place, equals, text = line.partition("=")
    stage, dot, option = place.strip().rpartition(".")
    if not equals or not dot:
        raise DataError(f"'{line}' is no setting: write stage.option=value, as in clean.min_words=3.")
    entry = next((entry for entry in entries if entry["name"] == stage), None)
    if entry is None:
        raise UnknownName("stage", stage, [str(entry["name"]) for entry in entries])
    try:
        entry[option] = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        entry[option] = text.strip()


def _stage(entry: Mapping[str, Any]) -> "Stage":
    values = dict(entry)
    kind = str(values.pop("kind", ""))
    if kind not in STAGES and ":" not in kind:
        raise UnknownName("stage", kind, STAGES)
    made = _imported(kind)
    hints = get_type_hints(made)
    known = {item.name: item for item in fields(made)}  # type: ignore[arg-type]
    for option, value in values.items():
        if option not in known:
            raise UnknownName(f"option of stage '{kind}'", option, known)
        values[option] = _fitted(value, hints[option], f"{values.get('name', kind)}.{option}")
    for option, item in known.items():
        if option not in values and item.default is MISSING and item.default_factory is MISSING:
            raise DataError(f"stage '{values.get('name', kind)}' needs the option '{option}': {kind}.{option}=… .")
    label = str(values.get("name", kind))
    if not label or set(label) - set(_NAME) or len(label) > 48:
        raise DataError(f"a stage is called '{label[:60]}': letters, digits, '-' and '_' are allowed, up to 48.")
    return made(**values)


def _imported(kind: str) -> Callable[..., "Stage"]:
    """The dataclass of a kind: one of `STAGES`, or one's own as `package.module:Class`."""
    module, _, name = STAGES.get(kind, kind).partition(":")
    if kind in STAGES:
        known: Callable[..., Stage] = getattr(import_module(module), name)
        return known
    try:
        made: Callable[..., Stage] = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(
            f"stage '{kind}' cannot be imported ({error}): write package.module:Class, and put the package where "
            "Python finds it."
        ) from error
    if not is_dataclass(made) or getattr(made, "kind", None) != kind:
        raise DataError(f"'{kind}' is no stage of that kind: a dataclass is wanted whose 'kind' is '{kind}'.")
    return made


def _fitted(value: Any, hint: Any, where: str) -> Any:
    """`value` of TOML as a field's type.

    Raises:
        DataError: it does not fit.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return value if value is None else _fitted(value, next(one for one in inner if one is not type(None)), where)
    if origin is Literal:
        if value in inner:
            return value
        raise UnknownName(f"value of {where}", str(value), [str(one) for one in inner])
    if origin is tuple and isinstance(value, list):
        return tuple(_fitted(one, inner[0], where) for one in value)
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {str(key): _fitted(one, inner[1], where) for key, one in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    wanted = hint.__name__ if isinstance(hint, type) else str(hint)
    raise DataError(f"{where} is {value!r}: {wanted} is wanted.")


def text_only() -> list[dict[str, Any]]:
    """Web texts cleaned, scored and selected by rules: no model, no picture."""
    return [
        {"kind": "clean"},
        {"kind": "text_score", "source": "clean"},
        {"kind": "judge", "text": {"clean": "text_score"}},
        {"kind": "select", "judge": "judge"},
    ]


def filtered() -> list[dict[str, Any]]:
    """Web texts that fit their pictures, each picture once: set embed.model."""
    return [
        {"kind": "images"},
        {"kind": "embed"},
        {"kind": "clean"},
        {"kind": "text_score", "source": "clean"},
        {"kind": "score"},
        {"kind": "dedup"},
        {"kind": "judge", "score": "score", "text": {"clean": "text_score"}},
        {"kind": "select", "judge": "judge", "dedup": "dedup", "images": "images", "score": "score", "min_q": 0.4},
    ]


def scenes() -> list[dict[str, Any]]:
    """What `mobileclip pack scenes` writes, web texts and true captions, cleaned and judged by rules together."""
    captions = {"clean": "alt", "clean-short": "syn_text_short", "clean-quality": "syn_text_quality"}
    scores = {name: name.replace("clean", "text_score") for name in captions}
    return [
        *({"kind": "clean", "name": name, "source": source} for name, source in captions.items()),
        *({"kind": "text_score", "name": score, "source": name} for name, score in scores.items()),
        {"kind": "judge", "sources": list(captions), "text": scores},
        {"kind": "select", "sources": list(captions), "judge": "judge"},
    ]


def quality() -> list[dict[str, Any]]:
    """Web texts and five captions of a CoCa, all cleaned, scored and judged together: set embed.model, coca.model."""
    sources = ["clean", "clean-coca"]
    return [
        {"kind": "images"},
        {"kind": "embed"},
        {"kind": "caption", "name": "coca", "captioner": "coca", "k": 5},
        {"kind": "clean"},
        {"kind": "clean", "name": "clean-coca", "source": "coca"},
        {"kind": "text_score", "source": "clean"},
        {"kind": "text_score", "name": "text_score-coca", "source": "clean-coca"},
        {"kind": "score", "sources": sources},
        {"kind": "dedup"},
        {
            "kind": "judge",
            "sources": sources,
            "score": "score",
            "text": {"clean": "text_score", "clean-coca": "text_score-coca"},
        },
        {
            "kind": "select",
            "sources": sources,
            "judge": "judge",
            "score": "score",
            "dedup": "dedup",
            "images": "images",
            "min_q": 0.4,
        },
    ]


RECIPES: Mapping[str, Callable[[], list[dict[str, Any]]]] = {
    "text-only": text_only,
    "filter": filtered,
    "scenes": scenes,
    "quality": quality,
}
"""Name -> function that gives the stages."""
