"""Law 8: what is derived needs the score table and nothing else: no input, no model, no torch, no Ray."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import rows, write_jsonl
from runs import TINY_POLAR, recipe, score_table

from polar_ray.running.run import run

# Runs in a process of its own in which the packages for models and clusters cannot be imported.
DERIVE = """
import json, sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "ray", "transformers", "tokenizers", "sentencepiece"):
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Absent())
from polar_ray import explode, read_scores
from polar_ray.deriving.rank import rank

table = read_scores(sys.argv[1])
derived = {
    column: rank(table.column(column)).to_pylist() for column in table.column_names if column.startswith("reward_")
}
print(json.dumps({"ranks": derived, "exploded": explode(table).num_rows}))
"""


@pytest.fixture(scope="module")
def table_alone(tmp_path_factory: pytest.TempPathFactory, embedded_ray: None) -> Path:
    """The output of a run that was moved away, after its input and its model were deleted."""
    folder = tmp_path_factory.mktemp("alone")
    shutil.copytree(TINY_POLAR["model"], folder / "model")
    data = rows(9, 4)
    data[4]["reference"] = None
    for row in data:
        # A tie for any scorer.
        row["candidates"][2]["messages"] = row["candidates"][0]["messages"]
    write_jsonl(folder / "in.jsonl", data)
    scorers = {"polar": {**TINY_POLAR, "model": str(folder / "model")}, "length": {"kind": "length"}}
    run(recipe(folder / "in.jsonl", folder / "out", "input.split_rows=4", scorers=scorers))
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "table"
    shutil.move(folder / "out", elsewhere)
    shutil.rmtree(folder)
    return elsewhere


@pytest.fixture(scope="module")
def derived(table_alone: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", DERIVE, str(table_alone)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_ranks_derived_again_are_those_of_the_table(table_alone: Path, derived: dict[str, Any]) -> None:
    table = score_table(table_alone)
    for name in ("polar", "length"):
        assert derived["ranks"][f"reward_{name}"] == table.column(f"rank_{name}").to_pylist()


def test_ranks_are_the_number_of_better_rewards(table_alone: Path) -> None:
    table = score_table(table_alone)
    for name in ("polar", "length"):
        rewards, ranks = (table.column(f"{field}_{name}").to_pylist() for field in ("reward", "rank"))
        for group_rewards, group_ranks in zip(rewards, ranks, strict=True):
            expected = [
                None if reward is None else sum(other is not None and other > reward for other in group_rewards)
                for reward in group_rewards
            ]
            assert group_ranks == expected
    assert table.column("rank_polar").to_pylist()[4] == [None] * 4


def test_the_table_opens_where_nothing_else_is(derived: dict[str, Any]) -> None:
    assert derived["exploded"] == 36
