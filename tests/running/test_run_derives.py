"""Derivations in a run's own recipe: made from its score table when that is finished."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import rows, write_jsonl
from runs import Listening, files_below, recipe

from polar_ray.deriving.derive import derive
from polar_ray.errors import RecipeChanged, RecipeError
from polar_ray.recipe.derive import DeriveRecipe
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.derivations import check_derivations
from polar_ray.running.plan import plan
from polar_ray.running.run import run

ROOT = Path(__file__).parents[2]
PAIRS = {"pairs": {"min_margin": 2}, "export": {"kind": "trl_preference"}}
BEST = {"best_of_n": {"top_k": 1}, "export": {"kind": "trl_sft"}}


def wanted(folder: Path, *overrides: str, **parts: Any) -> Recipe:
    source = folder / "in.jsonl"
    if not source.exists():
        write_jsonl(source, rows(9))
    derivations = {"pairs": PAIRS, "best": BEST}
    return recipe(source, folder / "out", "input.split_rows=4", *overrides, **{"derive": derivations, **parts})


def datasets(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in sorted(files_below(folder))}


@pytest.mark.usefixtures("embedded_ray")
def test_a_run_leaves_what_deriving_by_hand_leaves(tmp_path: Path) -> None:
    listening = Listening()
    run(wanted(tmp_path), reporter=listening)
    assert listening.said == ["deriving pairs", "deriving best"]
    for name, parts in {"pairs": PAIRS, "best": BEST}.items():
        data = {
            "name": name,
            "run": {"path": str(tmp_path / "out")},
            "output": {"path": str(tmp_path / name)},
            "compute": {"processes": 1},
            **parts,
        }
        derive(DeriveRecipe.of(data))
        assert datasets(tmp_path / "out" / "derived" / name) == datasets(tmp_path / name)
    # Of the first prompt one candidate is empty, and the others are 1 apart.
    assert json.loads((tmp_path / "pairs" / "manifest.json").read_text())["counts"]["rows"] == 8


@pytest.mark.usefixtures("embedded_ray")
def test_a_finished_run_goes_on_with_what_is_not_derived_yet(tmp_path: Path) -> None:
    run(wanted(tmp_path))
    whole = datasets(tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "derived" / "pairs")
    (tmp_path / "out" / "derived" / "best" / "manifest.json").unlink()
    listening = Listening()
    run(wanted(tmp_path), reporter=listening)
    assert listening.said[1:] == ["deriving pairs", "deriving best"]
    assert datasets(tmp_path / "out") == whole
    run(wanted(tmp_path), reporter=listening)
    assert listening.said[3:] == [f"{tmp_path / 'out'} holds this run, finished; nothing to do (--fresh starts over)"]
    assert datasets(tmp_path / "out") == whole


@pytest.mark.usefixtures("embedded_ray")
def test_what_a_finished_run_has_yet_to_derive_does_not_wait_for_room_for_its_scorers(tmp_path: Path) -> None:
    run(wanted(tmp_path))
    whole = datasets(tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "derived" / "pairs")
    run(wanted(tmp_path, "compute.cpus_per_actor=1000"))
    assert datasets(tmp_path / "out") == whole


@pytest.mark.usefixtures("embedded_ray")
def test_a_changed_derivation_does_not_cost_the_scores(tmp_path: Path) -> None:
    run(wanted(tmp_path))
    whole = datasets(tmp_path / "out")
    with pytest.raises(RecipeChanged, match=r"derive\.pairs: .*The score table is finished and kept; delete that"):
        run(wanted(tmp_path, "derive.pairs.pairs.min_margin=1"))
    assert datasets(tmp_path / "out") == whole
    run(wanted(tmp_path, "derive.pairs.pairs.min_margin=1", f"derive.pairs.output.path={tmp_path / 'other'}"))
    assert json.loads((tmp_path / "other" / "manifest.json").read_text())["counts"]["rows"] == 9
    assert datasets(tmp_path / "out") == whole


@pytest.mark.usefixtures("embedded_ray")
def test_fresh_scores_make_fresh_datasets(tmp_path: Path) -> None:
    run(wanted(tmp_path))
    before = (tmp_path / "out" / "derived" / "pairs" / "manifest.json").read_bytes()
    write_jsonl(tmp_path / "in.jsonl", rows(6))
    run(wanted(tmp_path), fresh=True)
    after = json.loads((tmp_path / "out" / "derived" / "pairs" / "manifest.json").read_text())
    assert json.loads(before)["counts"]["rows"] == 8
    assert after["counts"]["rows"] == 5


@pytest.mark.parametrize(
    ("derivation", "parts", "says"),
    [
        ({"pairs": {}, "reward": {"scorer": "x"}}, {}, "derive.x: the score table has no scorer 'x'; it has a single"),
        ({"pairs": {"agreement": ["b"]}}, {}, "derive.x: the score table has no scorer 'b'"),
        ({"pairs": {}, "reward": {"uncertainty": "sigma"}}, {}, "derive.x: the score table has no column 'sigma'"),
        *(
            (
                {"pairs": {}, "reward": {"uncertainty": name}},
                {"scorer": scorer},
                f"derive.x: the score table has no column '{name}' of numbers; those it has are reward, rank, tokens",
            )
            for name in ("error", "status", "truncated")
            for scorer in ({"kind": "length"}, {"kind": "custom", "target": "faulty:Slow"})
        ),
        (
            {"pairs": {}, "reward": {"combine": {"scorers": ["a", "c"]}}},
            {"scorers": {"a": {"kind": "length"}, "b": {"kind": "length"}}},
            "derive.x: the score table has no scorer 'c'; it has a, b",
        ),
        ({"pairs": {"above_reference": {"column": "gold"}}}, {}, "no column 'gold' with one number per prompt"),
    ],
)
def test_what_the_table_will_not_have_is_said_before_anything_is_read(
    tmp_path: Path, derivation: dict[str, Any], parts: dict[str, Any], says: str
) -> None:
    refused = recipe(tmp_path / "not there", tmp_path / "out", derive={"x": derivation}, **parts)
    for attempt in (run, plan):
        with pytest.raises(RecipeError) as error:
            attempt(refused)
        assert says in str(error.value)
    assert not (tmp_path / "out").exists()


def test_what_a_custom_scorer_may_add_is_taken_on_trust(tmp_path: Path) -> None:
    scorer = {"kind": "custom", "target": "faulty:Slow"}
    derivation = {"pairs": {"min_sigmas": 1}, "reward": {"uncertainty": "sigma"}}
    planned = plan(wanted(tmp_path, scorer=scorer, derive={"x": derivation}))
    assert planned.sample_groups > 0


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("derive.x.pairs.min_margn=1", "unknown key derive.x.pairs.min_margn; did you mean derive.x.pairs.min_margin?"),
        ("derive.x={run: {path: a}, pairs: {}}", "unknown key derive.x.run"),
        ("derive.x={}", "derive.x: give exactly one of pairs, best_of_n and labels; given: none"),
        ("derive={a/b: {pairs: {}}}", "derive.a/b: a name that becomes a folder has letters"),
    ],
)
def test_a_wrong_derivation_is_one_clear_sentence(tmp_path: Path, override: str, says: str) -> None:
    with pytest.raises(RecipeError) as error:
        recipe("in", "out", override)
    assert says in str(error.value)


def test_credentials_of_derivations_are_not_shown() -> None:
    output = {"path": "s3://b/x", "storage_options": {"secret": "s3cr3t"}}
    shown = recipe("in", "out", derive={"x": {"pairs": {}, "output": output}}).without_credentials().to_yaml()
    assert "s3cr3t" not in shown
    assert "secret: '***'" in shown


def test_the_command_shows_what_was_derived(tmp_path: Path, ray_environment: dict[str, str]) -> None:
    described = wanted(tmp_path).model_dump(mode="json", exclude_unset=True)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(described))
    command = [sys.executable, "-m", "polar_ray", "run", str(tmp_path / "recipe.yaml")]
    environment = {**os.environ, **ray_environment}
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=180, check=False, cwd=ROOT, env=environment
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("pairs: "))
    assert lines[begin : begin + 2] == [
        "pairs: 8 rows from 9 prompts with 27 candidates",
        "conservation: 9 prompts = 8 with rows + 1 without",
    ]
    assert f"dataset: {tmp_path / 'out' / 'derived' / 'best'}" in lines


def test_the_recipe_that_is_shipped_asks_for_what_there_will_be() -> None:
    shipped = Recipe.load(str(ROOT / "pipelines" / "score_and_derive.yaml"))
    check_derivations(shipped, None)
    assert {name: each.output.path for name, each in shipped.derivations.items()} == {
        "pairs": "out/score_and_derive/derived/pairs",
        "best": "out/score_and_derive/derived/best",
    }
