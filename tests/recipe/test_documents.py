"""A file that is no recipe of the command at hand is told in one sentence what it is; null takes a key away."""

from pathlib import Path

import pytest

from polar_ray.errors import RecipeError
from polar_ray.recipe.curate import CurateRecipe
from polar_ray.recipe.derive import DeriveRecipe
from polar_ray.recipe.document import Document
from polar_ray.recipe.input import Columns
from polar_ray.recipe.recipe import Recipe
from polar_ray.recipe.scorers import Custom, TextCloseness

PIPELINES = Path(__file__).parents[2] / "pipelines"
FOR = {"demo": "run", "score_and_derive": "run", "pairs": "derive", "combine": "derive", "curate_nightly": "curate"}


def refusal(model: type[Document], path: Path | str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as refused:
        model.load(str(path), list(overrides))
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("model", "command"), [(Recipe, "run"), (DeriveRecipe, "derive"), (CurateRecipe, "curate")])
def test_a_recipe_of_another_command_is_called_so(model: type[Document], command: str) -> None:
    for name, of in FOR.items():
        # A run's recipe with derivations is one of a curation too, save for a derivation's own output.
        if of != command and not (command == "curate" and name == "score_and_derive"):
            path = PIPELINES / f"{name}.yaml"
            assert refusal(model, path) == f"{path} is a recipe for polar-ray {of}, not for polar-ray {command}"


def test_a_mistake_in_a_recipe_of_the_command_is_still_named(tmp_path: Path) -> None:
    assert "unknown key inptu; did you mean input?" in refusal(Recipe, PIPELINES / "demo.yaml", "inptu.path=x")
    assert "run.path is missing" in refusal(DeriveRecipe, PIPELINES / "pairs.yaml", "run={}")


def test_a_manifest_is_no_recipe(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text('{"recipe": {"input": {}}, "counts": {}, "conservation": {}, "inputs": []}')
    for model in (Recipe, DeriveRecipe, CurateRecipe):
        assert "is a manifest, not a recipe; the recipe that was used stands in it" in refusal(model, path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("name: 中文".encode("gbk"), "is not UTF-8 (byte 6)"),
        (b"a: " + b"[" * 3000 + b"]" * 3000, "is nested too deep to be a recipe"),
        (b"name: 2026-13-40", "holds a value that YAML cannot read: month must be in 1..12"),
        (b"name: [1,\n  }", "is not valid YAML: "),
        (b"just text", "must hold a mapping with the keys input, scorer and output"),
    ],
)
def test_a_file_that_is_no_yaml_of_ours_is_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    assert refusal(Recipe, path).startswith(f"{path} {says}")


RECIPE = """\
name: x
input: {path: in}
output: {path: out}
"""
CUSTOM = (
    RECIPE
    + """scorer:
  kind: custom
  target: "m:C"
"""
)
BOMB = "    a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"    {name}: &{name} [{', '.join(['*' + before] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (RECIPE + "input: {path: other}\n", "found the key input twice at line 4, column 1"),
        ('name: x\n"name": y\n', "found the key name twice at line 2, column 1"),
        (RECIPE + "scorer: {kind: length,\n  kind: length}\n", "found the key kind twice at line 5, column 3"),
        (RECIPE + "scorers:\n  a: {kind: length}\n  a: {kind: length}\n", "found the key a twice at line 6, column 3"),
        ("hunter2!: 1\nhunter2!: 2\n", "found the key twice at line 2, column 1"),
        (CUSTOM + "  settings: &s {k: [1, *s]}\n", "found an alias to what it stands in at line 7, column 24"),
        (RECIPE + "scorer: &s\n  kind: custom\n  <<: *s\n", "found an alias to what it stands in at line 6, column 7"),
        (CUSTOM + "  settings:\n" + BOMB, "found aliases for more than 1,000,000 values at line 13, column"),
    ],
)
def test_a_recipe_says_each_thing_once_and_no_alias_makes_it_swell(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    message = refusal(Recipe, path)
    assert message.startswith(f"{path} is ambiguous: {says}")
    assert "hunter2" not in message


def test_an_alias_stands_for_a_value_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        RECIPE.replace("{path: in}", "&i {path: in}") + "scorer: {kind: custom, target: 'm:C', settings: *i}\n"
    )
    read = Recipe.load(str(path), ["input.path=elsewhere"])
    assert isinstance(read.scorer, Custom)
    assert (read.input.path, read.scorer.settings) == ("elsewhere", {"path": "in"})


def test_a_key_may_be_merged_and_given(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    first = "scorers:\n  a: &a {kind: text_closeness, math: false, timeout_s: 7}\n"
    path.write_text(RECIPE + first + "  b: {<<: *a, timeout_s: 8}\n  c: *a\n")
    scorers = Recipe.load(str(path)).named_scorers.values()
    assert [(scorer.math, scorer.timeout_s) for scorer in scorers if isinstance(scorer, TextCloseness)] == [
        (False, 7),
        (False, 8),
        (False, 7),
    ]


@pytest.mark.parametrize("value", ["{path: a, path: b}", "&a [*a]"])
def test_an_override_is_as_clear_as_a_recipe(value: str) -> None:
    assert "the value of the override 'input' is ambiguous: found " in refusal(
        Recipe, PIPELINES / "demo.yaml", f"input={value}"
    )


def test_a_curation_of_no_paths_is_refused() -> None:
    message = refusal(CurateRecipe, PIPELINES / "curate_nightly.yaml", "input.path=[]")
    assert "input.path gives no path: name at least one file, folder or glob" in message


def test_a_value_that_is_nested_too_deep_is_one_sentence() -> None:
    assert refusal(Recipe, PIPELINES / "demo.yaml", "input=" + "[" * 3000).endswith("cannot be read as YAML")


def test_null_takes_a_key_away_where_null_is_no_value() -> None:
    path = str(PIPELINES / "combine.yaml")
    assert DeriveRecipe.load(path, ["run.join.length=null", "name=null"]).run.join == {}
    assert DeriveRecipe.load(path, ["run.join=null", "name=null"]).name == "derived"
    assert "output is missing" in refusal(DeriveRecipe, path, "output=null")


def test_null_stays_where_it_is_a_value() -> None:
    path = str(PIPELINES / "demo.yaml")
    recipe = Recipe.load(path, ["input.columns=null", "input.columns.labels=null", "compute.gpus_per_actor=~"])
    assert recipe.input.columns == Columns(labels=None)
    assert list(Recipe.load(path, ["scorer=null", "scorers={a: {kind: length}}"]).scorers) == ["a"]
    assert "unknown key input.pth" in refusal(Recipe, path, "input.pth=null")


def test_a_key_that_is_set_again_is_there() -> None:
    recipe = Recipe.load(str(PIPELINES / "demo.yaml"), ["limits=null", "limits.max_attempts=5"])
    assert recipe.limits.max_attempts == 5
