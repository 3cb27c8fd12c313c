"""A recipe is typed: what is wrong is named in one sentence, with the nearest right key."""

from pathlib import Path

import pytest
import yaml

from polar_ray.errors import RecipeError
from polar_ray.recipe.curate import CurateRecipe
from polar_ray.recipe.derive import DeriveRecipe
from polar_ray.recipe.recipe import Recipe

BASE = {
    "input": {"path": "gens.parquet"},
    "scorer": {"kind": "polar", "model": "m"},
    "output": {"path": "out"},
}


def message_of(*overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        Recipe.of(BASE, list(overrides))
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("input.pth=x", "unknown key input.pth; did you mean input.path?"),
        ("inptu={}", "unknown key inptu; did you mean input?"),
        ("scorer.dtpye=float32", "unknown key scorer.dtpye; did you mean scorer.dtype?"),
        ("input.columns.promt=q", "unknown key input.columns.promt; did you mean input.columns.prompt?"),
        ("compute.actors.maximum=2", "unknown key compute.actors.maximum; did you mean compute.actors.max?"),
        ("scorer.kind=poler", "scorer.kind 'poler' is not a scorer; did you mean polar?"),
    ],
)
def test_a_wrong_key_is_named_with_the_nearest_right_one(override: str, expected: str) -> None:
    assert expected in message_of(override)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "scorer.dtype=float33",
            "scorer.dtype: input should be 'float32', 'bfloat16' or 'float16', but it is 'float33'",
        ),
        ("compute.actors.max=two", "compute.actors.max: input should be a valid integer"),
        ("compute.actors={min: 3, max: 2}", "compute.actors: max (2) is below min (3)"),
        ("limits.max_dead_letters=-1", "limits.max_dead_letters: input should be greater than or equal to 0"),
        ("nonsense", "the override 'nonsense' must look like key.key=value"),
        ("input.path.x=1", "goes through path, which holds a value, not keys"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_should_be(override: str, expected: str) -> None:
    assert expected in message_of(override)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(RecipeError, match=r"output\.path is missing"):
        Recipe.of({**BASE, "output": {}})


def test_overrides_are_typed_like_the_recipe() -> None:
    recipe = Recipe.of(
        BASE, ["compute.actors.max=4", "input.path=[a.parquet, b.parquet]", "scorer.strip_think=true", "name=007x"]
    )
    assert recipe.compute.actors.max == 4
    assert recipe.input.path == ["a.parquet", "b.parquet"]
    assert recipe.scorer is not None
    assert recipe.scorer.strip_think is True  # type: ignore[union-attr]
    assert recipe.name == "007x"


def test_overrides_leave_the_given_data_alone() -> None:
    Recipe.of(BASE, ["input.path=other.parquet"])
    assert BASE["input"] == {"path": "gens.parquet"}


def test_a_recipe_has_one_scorer_or_several_named_ones() -> None:
    several = {
        **BASE,
        "scorer": None,
        "scorers": {"length": {"kind": "length"}, "polar": {"kind": "polar", "model": "m"}},
    }
    assert list(Recipe.of(several).named_scorers) == ["length", "polar"]
    assert list(Recipe.of(BASE).named_scorers) == [""]
    for wrong in ({**several, "scorer": BASE["scorer"]}, {**BASE, "scorer": None}):
        with pytest.raises(RecipeError, match="exactly one of scorer"):
            Recipe.of(wrong)


def test_the_resolved_recipe_reads_back_as_itself() -> None:
    recipe = Recipe.of(BASE, ["scorer.max_length=8192"])
    assert Recipe.of(yaml.safe_load(recipe.to_yaml())) == recipe


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "pipelines").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    if path.name.startswith("curate"):
        assert CurateRecipe.load(str(path)).derive
    elif "run" in yaml.safe_load(path.read_text(encoding="utf-8")):
        assert DeriveRecipe.load(str(path)).task
    else:
        assert Recipe.load(str(path)).named_scorers


def test_a_submitted_job_does_not_write_into_rays_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Recipe.of(BASE, ["output.path=out/scored"]).output.path == "out/scored"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(RecipeError, match=r"output: out/scored is a relative path, .*give an absolute path"):
        Recipe.of(BASE, ["output.path=out/scored"])
    for path in ("/shared/scored", "s3://bucket/scored", "~/scored"):
        assert Recipe.of(BASE, [f"output.path={path}"]).output.path == path


def test_an_unreadable_recipe_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot read the recipe .*nowhere\.yaml: No such file"):
        Recipe.load(str(tmp_path / "nowhere.yaml"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("input: [unclosed")
    with pytest.raises(RecipeError, match=r"broken\.yaml is not valid YAML"):
        Recipe.load(str(broken))
