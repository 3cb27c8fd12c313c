"""Several scorers in one recipe stand side by side, each under its name, and none disturbs the others."""

from pathlib import Path

import pyarrow as pa
import pytest
from conftest import rows, write_jsonl
from runs import TINY_POLAR, recipe, score_table

from polar_ray.data.scores import scorer_names
from polar_ray.running.manifest import Manifest
from polar_ray.running.run import run

pytestmark = pytest.mark.usefixtures("embedded_ray")

FIELDS = ("reward", "rank", "status", "tokens", "truncated", "error")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("several")
    data = rows(7)
    data[3]["reference"] = None
    data[5]["prompt"][0]["content"] = "a bad question"
    write_jsonl(folder / "in.jsonl", data)
    scorers = {
        "length": {"kind": "length"},
        "closeness": {"kind": "text_closeness"},
        "polar": TINY_POLAR,
        "mine": {"kind": "custom", "target": "faulty:Raises"},
    }
    wanted = recipe(folder / "in.jsonl", folder / "out", "input.split_rows=3", scorers=scorers)
    # Four pools of an actor each fit beside reading and writing where actors take a half of a core.
    wanted = wanted.model_copy(update={"compute": wanted.compute.model_copy(update={"cpus_per_actor": 0.5})})
    return folder, run(wanted)


@pytest.fixture
def table(together: tuple[Path, Manifest]) -> pa.Table:
    return score_table(together[0] / "out")


def test_each_scorer_has_its_columns(table: pa.Table) -> None:
    expected = [f"{field}_{name}" for name in ("length", "closeness", "polar", "mine") for field in FIELDS]
    extras = ["similarity_closeness", "answer_match_closeness"]
    assert [name for name in table.column_names if name in expected] == expected
    assert set(table.column_names[7:]) == {*expected, *extras}
    assert scorer_names(table.schema) == ["length", "closeness", "polar", "mine"]


def test_each_scorer_gives_what_it_gives_alone(
    together: tuple[Path, Manifest], table: pa.Table, tmp_path: Path
) -> None:
    run(recipe(together[0] / "in.jsonl", tmp_path / "out", "input.split_rows=3", scorer=TINY_POLAR))
    alone = score_table(tmp_path / "out")
    for field in FIELDS:
        assert table.column(f"{field}_polar").equals(alone.column(field)), field
    lengths = [[float(10 * group + candidate) for candidate in range(3)] for group in range(7)]
    assert table.column("reward_length").to_pylist() == lengths


def test_a_group_that_one_scorer_cannot_score_is_scored_by_the_others(table: pa.Table) -> None:
    statuses = {name: table.column(f"status_{name}").to_pylist() for name in ("length", "closeness", "polar", "mine")}
    assert statuses["length"] == [["ok"] * 3] * 7
    assert [row[0] for row in statuses["closeness"]] == ["ok"] * 3 + ["no_reference"] + ["ok"] * 3
    assert [row[0] for row in statuses["polar"]] == ["ok"] * 3 + ["no_reference"] + ["ok"] * 3
    assert [row[0] for row in statuses["mine"]] == ["ok"] * 5 + ["error"] + ["ok"]
    assert table.column("error_mine").to_pylist()[5] == ["ValueError: no number in this answer"] * 3
    assert table.column("error_length").to_pylist() == [[None] * 3] * 7


def test_ranks_follow_each_scorers_own_rewards(table: pa.Table) -> None:
    assert table.column("rank_length").to_pylist() == [[2, 1, 0]] * 7
    assert table.column("rank_mine").to_pylist()[5] == [None] * 3


def test_the_manifest_counts_them_apart(together: tuple[Path, Manifest]) -> None:
    manifest = together[1]
    assert manifest.counts["candidates"] == 21
    assert manifest.counts["statuses"] == {
        "length": {"ok": 21},
        "closeness": {"no_reference": 3, "ok": 18},
        "polar": {"no_reference": 3, "ok": 18},
        "mine": {"error": 3, "ok": 18},
    }
    assert manifest.counts["tokens"]["polar"] > 0
    assert set(manifest.fingerprints) == {"length", "closeness", "polar", "mine"}
    assert {"score:length", "encode:polar", "score:polar"} <= set(manifest.stage_seconds)
