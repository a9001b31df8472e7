"""Recipes of caption work: TOML, overrides, hashes; every mistake is one sentence."""

from pathlib import Path

import pytest

from mobileclip.captions import plan as plans
from mobileclip.captions.plan import plan_of
from mobileclip.captions.recipe import RECIPES, STAGES, build, recipe_of
from mobileclip.captions.select import Select
from mobileclip.captions.shown import toml_of
from mobileclip.errors import DataError, MobileClipError, UnknownName

from given import pairs  # isort: skip

TWO = """
[[stage]]
kind = "clean"

[[stage]]
kind = "select"
name = "strict"
sources = ["clean"]
min_side = 200
images = "pictures"
heads = { nsfw = [-1, 0.5] }
embed = "embed"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_toml_and_overrides(tmp_path: Path) -> None:
    recipe = recipe_of(written(tmp_path, TWO), ["strict.min_side=64", 'strict.use="web"', "strict.max_aspect=3"])
    assert (recipe.name, [stage.name for stage in recipe.stages]) == ("mine", ["clean", "strict"])
    strict = recipe.stage("strict")
    assert isinstance(strict, Select)
    assert (strict.min_side, strict.use, strict.max_aspect, strict.sources) == (64, "web", 3.0, ("clean",))
    assert strict.heads == {"nsfw": (-1.0, 0.5)}
    assert [other.name for other in recipe.before(strict)] == ["clean"]


def test_hashes_follow_options_and_what_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, TWO)
    first, again = recipe_of(path).hashes(), recipe_of(path).hashes()
    assert first == again
    other = recipe_of(path, ["strict.min_side=64"]).hashes()
    assert (other["clean"], other["strict"] != first["strict"]) == (first["clean"], True)
    earlier = recipe_of(path, ["clean.min_words=5"]).hashes()
    assert earlier["clean"] != first["clean"]
    assert earlier["strict"] != first["strict"]


def test_the_plan_of_a_folder_is_read_back(tmp_path: Path) -> None:
    pairs(tmp_path / "in" / "0.tar", {"a": "x"})
    plan = plan_of(recipe_of(written(tmp_path, TWO)), tmp_path / "in", tmp_path / "work", json_keys=("x",))
    plans.save(plan)
    assert plans.load(tmp_path / "work") == plan
    changed = plans.load(tmp_path / "work", ["strict.min_side=1"])
    assert changed.hashes["strict"] != plan.hashes["strict"]
    (tmp_path / "work" / "plan.json").write_text('{"version": 7}')
    with pytest.raises(DataError, match=r"is of version 7, 1 is read"):
        plans.load(tmp_path / "work")
    (tmp_path / "work" / "plan.json").write_text("[]")
    with pytest.raises(DataError, match="is damaged"):
        plans.load(tmp_path / "work")
    with pytest.raises(DataError, match=r"is no folder of caption work \(no plan.json: No such file"):
        plans.load(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[[stage]]\nkind = "claen"', "unknown stage 'claen': did you mean 'clean'"),
        (
            '[[stage]]\nkind = "clean"\nmin_word = 3',
            "unknown option of stage 'clean' 'min_word': did you mean 'min_words'",
        ),
        ('[[stage]]\nkind = "clean"\nmin_words = "three"', "clean.min_words is 'three': int is wanted."),
        ('[[stage]]\nkind = "clean"\nmin_words = true', "clean.min_words is True: int is wanted."),
        ('[[stage]]\nkind = "select"\nuse = "al"', "unknown value of select.use 'al': did you mean 'all'"),
        ('[[stage]]\nkind = "clean"\n[[stage]]\nkind = "clean"', "has two stages called 'clean': give one of them"),
        (
            '[[stage]]\nkind = "select"\n[[stage]]\nkind = "clean"',
            "stage 'select' reads 'clean', which comes later in recipe 'mine': put it before.",
        ),
        ('[[stage]]\nkind = "clean"\nname = "../x"', r"a stage is called '../x': letters, digits"),
        ("stage = 3", r"must hold \[\[stage\]\] tables and nothing else"),
        ('other = 1\n[[stage]]\nkind = "clean"', r"nothing else; it has \['other'\] too"),
        ("[[stage", "is no TOML"),
        ("", "must hold"),
    ],
)
def test_mistakes(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(MobileClipError, match=sentence):
        recipe_of(written(tmp_path, text))


def test_mistakes_of_names_and_settings(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown caption recipe 'text-onyl': did you mean 'text-only'"):
        recipe_of("text-onyl")
    with pytest.raises(DataError, match=r"recipe '.*none.toml' cannot be read"):
        recipe_of(tmp_path / "none.toml")
    with pytest.raises(DataError, match=r"'clean' is no setting: write stage.option=value"):
        recipe_of("text-only", ["clean"])
    with pytest.raises(UnknownName, match="unknown stage 'claen': did you mean 'clean'"):
        recipe_of("text-only", ["claen.min_words=3"])
    with pytest.raises(UnknownName, match="unknown option of stage 'clean' 'min_word'"):
        recipe_of("text-only", ["clean.min_word=3"])
    with pytest.raises(DataError, match="recipe 'none' has no stages"):
        build("none", [])


@pytest.mark.parametrize("kind", sorted(STAGES))
def test_every_kind_has_a_stage(kind: str) -> None:
    from importlib import import_module

    module, _, name = STAGES[kind].partition(":")
    stage = getattr(import_module(module), name)
    assert stage.kind == kind
    assert isinstance(stage.version, int)
    assert {"prepares", "divisible"} <= set(dir(stage))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_can_be_built(name: str) -> None:
    settings = []
    for entry in RECIPES[name]():
        label = entry.get("name", entry["kind"])
        if entry["kind"] == "embed":
            settings.append(f"{label}.model=seeded:nano")
        if entry["kind"] == "caption":
            settings.append(f"{label}.model=coca_ViT-B-32")
    assert recipe_of(name, settings).stages


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_is_shown_as_the_file_that_says_it(name: str, tmp_path: Path) -> None:
    entries = RECIPES[name]()
    places = [f"{entry.get('name', entry['kind'])}.model" for entry in entries if entry["kind"] in ("embed", "caption")]
    recipe = recipe_of(name, [f"{place}=seeded:nano" for place in places])
    shown = toml_of(recipe)
    assert recipe_of(written(tmp_path, shown)).stages == recipe.stages
    assert "# Quality below which a caption is not used.\nmin_q = " in shown
