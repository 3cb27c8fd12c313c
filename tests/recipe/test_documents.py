"""A file that is no recipe of the command at hand is told in one sentence what it is; null takes a key away."""

from pathlib import Path

import pytest

from polar_ray.errors import RecipeError
from polar_ray.recipe.curate import CurateRecipe
from polar_ray.recipe.derive import DeriveRecipe
from polar_ray.recipe.document import Document
from polar_ray.recipe.input import Columns
from polar_ray.recipe.recipe import Recipe

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
