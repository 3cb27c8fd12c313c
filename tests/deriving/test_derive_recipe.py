"""The recipe of a derivation: what is refused, and with which words."""

from typing import Any

import pyarrow as pa
import pytest

from polar_ray.deriving.wanted import Wanted, wanted_of
from polar_ray.errors import RecipeError
from polar_ray.recipe.derive import DeriveRecipe

PLACES = {"run": {"path": "in"}, "output": {"path": "out"}}


def refused(parts: dict[str, Any], *overrides: str) -> str:
    with pytest.raises(RecipeError) as error:
        DeriveRecipe.of({**PLACES, **parts}, list(overrides))
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("pairs.min_margn=1", "unknown key pairs.min_margn; did you mean pairs.min_margin?"),
        ("pairs.strategy.kind=best_vs_wurst", "pairs.strategy.kind 'best_vs_wurst' is not a known kind; did you mean"),
        ("pairs.strategy={kind: best_vs_worst, k: 2}", "unknown key pairs.strategy.k"),
        ("export.kind=trl_sft", "export trl_sft is for best_of_n, not for pairs"),
        ("pairs.strategy.kind=all_pairs", "all_pairs needs per_prompt"),
        ("pairs.min_sigmas=2", "pairs.min_sigmas needs reward.uncertainty"),
        ("candidates.max_uncertainty=2", "candidates.max_uncertainty needs reward.uncertainty"),
        ("labels={good: 1, bad: 0}", "give exactly one of pairs, best_of_n and labels; given: pairs, labels"),
        ("export={kind: trl_preference, style: standard, prompt: implicit}", "needs export.prompt explicit"),
        ("pairs.above_reference={column: a, model: b}", "give exactly one of column, candidate_id and model"),
        ("candidates.truncated=maybe", "candidates.truncated: input should be 'drop' or 'keep', but it is 'maybe'"),
        ("export.kind=verl", "export verl is read from parquet: set files.format to it"),
        ("files.validation=1", "files.validation: input should be less than 1"),
    ],
)
def test_a_wrong_key_or_value_is_one_clear_sentence(override: str, says: str) -> None:
    assert says in refused({"pairs": {}}, override)


def test_something_must_be_derived() -> None:
    assert "give exactly one of pairs, best_of_n and labels; given: none" in refused({})


def test_thresholds_of_labels_are_in_order() -> None:
    assert "bad (1.0) must be below good (1.0)" in refused({"labels": {"good": 1, "bad": 1}})


@pytest.mark.parametrize("path", ["pipelines/pairs.yaml", "pipelines/best_of_n.yaml", "pipelines/combine.yaml"])
def test_the_recipes_that_are_shipped_are_valid(path: str, request: pytest.FixtureRequest) -> None:
    recipe = DeriveRecipe.load(str(request.config.rootpath / path))
    assert recipe.run.path == "out/demo"


def test_a_recipe_that_is_not_there_is_named() -> None:
    with pytest.raises(RecipeError, match="cannot read the recipe nowhere"):
        DeriveRecipe.load("nowhere.yaml")


def test_what_decides_the_result_holds_no_places_and_no_credentials() -> None:
    recipe = DeriveRecipe.of(
        {"run": {"path": "a", "storage_options": {"secret": "s"}}, "output": {"path": "b"}, "pairs": {}},
        ["compute.processes=3"],
    )
    assert not recipe.policy().keys() & {"run", "output", "compute"}


def schema(*names: str) -> pa.Schema:
    return pa.schema([("prompt_id", pa.string())] + [(name, pa.list_(pa.float32())) for name in names])


TWO = schema("reward_a", "status_a", "tokens_a", "sigma_a", "reward_b", "status_b", "tokens_b")
ONE = schema("reward", "status", "tokens")
WORDS = ONE.append(pa.field("verdict", pa.list_(pa.string())))


def resolved(table: pa.Schema, **parts: Any) -> Wanted:
    return wanted_of(DeriveRecipe.of({**PLACES, "pairs": {}, **parts}), table)


def test_the_scorer_is_found_by_its_name() -> None:
    wanted = resolved(TWO, reward={"scorer": "b", "length_penalty": {"weight": 1, "per": "token"}})
    assert wanted.columns == ["prompt_id", "reward_b", "status_b", "tokens_b"]
    assert resolved(ONE).columns == ["prompt_id", "reward", "status"]


def test_no_column_of_text_is_wanted_for_pairs_by_rewards() -> None:
    wanted = resolved(TWO, reward={"scorer": "a", "uncertainty": "sigma"}, pairs={"agreement": ["b"]})
    assert wanted.columns == ["prompt_id", "reward_a", "status_a", "sigma_a", "reward_b"]


@pytest.mark.parametrize(
    ("table", "parts", "says"),
    [
        (TWO, {}, "several scorers; choose one with reward.scorer: a, b"),
        (TWO, {"reward": {"scorer": "c"}}, "no scorer 'c'; it has a, b"),
        (schema("other"), {}, "no column of rewards"),
        (ONE, {"reward": {"scorer": "c"}}, "a single one without a name, so leave reward.scorer out"),
        (TWO, {"reward": {"scorer": "b", "uncertainty": "sigma"}}, "no column 'sigma_b'"),
        (WORDS, {"reward": {"uncertainty": "verdict"}}, "no column 'verdict' of numbers; those it has are reward"),
        (ONE, {"pairs": {"agreement": ["b"]}}, "no scorer 'b'"),
        (ONE, {"pairs": {"above_reference": {"column": "x"}}}, "no column 'x' with one number per prompt; it has none"),
    ],
)
def test_a_name_that_the_table_does_not_have_is_refused_with_those_it_has(
    table: pa.Schema, parts: dict[str, Any], says: str
) -> None:
    with pytest.raises(RecipeError) as error:
        resolved(table, **parts)
    assert says in str(error.value)
