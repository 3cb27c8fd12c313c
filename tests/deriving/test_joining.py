"""Rewards of several runs, joined by prompt and candidate ids, wherever their rows lie."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pytest
from score_tables import group, score_table, write_run

from polar_ray.deriving import joining
from polar_ray.deriving.derive import derive
from polar_ray.errors import NotJoined, RecipeError
from polar_ray.recipe.derive import DeriveRecipe

GROUPS = 40


def rows(seed: int) -> list[dict[str, Any]]:
    """The same prompts and candidates for every seed, with rewards of their own."""
    draw = np.random.default_rng(seed)
    sizes = [(number * 7) % 5 for number in range(GROUPS)]
    return [group(f"p{number}", draw.normal(size=size).round(2).tolist()) for number, size in enumerate(sizes)]


def without(row: dict[str, Any], place: int) -> dict[str, Any]:
    lists = {name for name, value in row.items() if isinstance(value, list) and len(value) == len(row["candidates"])}
    return {
        name: [each for number, each in enumerate(value) if number != place] if name in lists - {"prompt"} else value
        for name, value in row.items()
    }


def reversed_candidates(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, **{name: row[name][::-1] for name in ("candidates", "reward", "status", "tokens")}}


def recipe(folder: Path, output: str, *overrides: str, **parts: Any) -> DeriveRecipe:
    data: dict[str, Any] = {
        "run": {
            "path": str(folder / "first"),
            "scorer_name": "one",
            "join": {"two": {"path": str(folder / "second")}},
        },
        "reward": {"combine": {"scorers": ["one", "two"], "normalise": {"method": "none"}}},
        "candidates": {"empty": "keep", "duplicates": "keep"},
        "best_of_n": {"top_k": None, "curve": 0},
        "output": {"path": str(folder / output)},
        "compute": {"processes": 1},
    }
    return DeriveRecipe.of({**data, **parts}, list(overrides))


def picked(folder: Path) -> dict[tuple[str, str], tuple[float, float]]:
    lines = [
        json.loads(line)
        for path in sorted((folder / "data" / "train").glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return {(row["prompt_id"], row["candidate_id"]): (row["reward"], row["disagreement"]) for row in lines}


def plainly_joined(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> dict[tuple[str, str], Any]:
    """Mean and half distance of the rewards of candidates that both have."""
    theirs = {
        (row["prompt_id"], candidate["candidate_id"]): np.float32(reward)
        for row in second
        for candidate, reward in zip(row["candidates"], row["reward"], strict=True)
    }
    joined = {}
    for row in first:
        for candidate, reward in zip(row["candidates"], row["reward"], strict=True):
            key = (row["prompt_id"], candidate["candidate_id"])
            if key in theirs:
                a, b = float(np.float32(reward)), float(theirs[key])
                joined[key] = (pytest.approx((a + b) / 2, abs=1e-6), pytest.approx(abs(a - b) / 2, abs=1e-6))
    return joined


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polar_ray.deriving.units.UNIT_PARTS", 2)


def bucketed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes the tables that are written anew."""
    seen = []
    original = joining._write_buckets

    def watched(table: Any, *rest: Any) -> None:
        seen.append(table.name)
        original(table, *rest)

    monkeypatch.setattr(joining, "_write_buckets", watched)
    return seen


def test_runs_with_the_same_parts_are_read_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = bucketed(monkeypatch)
    write_run(tmp_path / "first", score_table(rows(1)), part_rows=3)
    # Where the candidates stand inside a prompt does not matter.
    write_run(tmp_path / "second", score_table([reversed_candidates(row) for row in rows(2)]), part_rows=3)
    derive(recipe(tmp_path, "out"))
    assert picked(tmp_path / "out") == plainly_joined(rows(1), rows(2))
    assert seen == []


@pytest.mark.parametrize("waiting", [1, 2**20])
@pytest.mark.parametrize("buckets", [1, 4, 1024])
def test_rows_are_found_wherever_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buckets: int, waiting: int
) -> None:
    monkeypatch.setattr(joining, "BUCKETS", buckets)
    monkeypatch.setattr(joining, "WAITING_BYTES", waiting)
    seen = bucketed(monkeypatch)
    second = [*rows(2), group("another", [1.0, 2.0])]
    random.Random(0).shuffle(second)
    write_run(tmp_path / "first", score_table(rows(1)), part_rows=3)
    write_run(tmp_path / "second", score_table(second), part_rows=5)
    derive(recipe(tmp_path, "out"))
    assert picked(tmp_path / "out") == plainly_joined(rows(1), rows(2))
    assert seen == ["two"]
    assert not (tmp_path / "out" / "_derive" / "joined").exists()


def test_parts_of_the_same_names_with_other_prompts_in_them_are_not_taken_for_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = bucketed(monkeypatch)
    write_run(tmp_path / "first", score_table(rows(1)), part_rows=3)
    write_run(tmp_path / "second", score_table(rows(2)[::-1]), part_rows=3)
    derive(recipe(tmp_path, "out"))
    assert picked(tmp_path / "out") == plainly_joined(rows(1), rows(2))
    assert seen == ["two"]


def test_prompts_whose_hashes_agree_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def colliding(ids: pa.Array) -> np.ndarray:
        return np.array([(int(name[1:]) % 3) << 20 for name in ids.to_pylist()], np.uint64)

    monkeypatch.setattr(joining, "_hashes", colliding)
    write_run(tmp_path / "first", score_table(rows(1)), part_rows=3)
    write_run(tmp_path / "second", score_table(rows(2)[::-1]), part_rows=4)
    derive(recipe(tmp_path, "out"))
    assert picked(tmp_path / "out") == plainly_joined(rows(1), rows(2))


def test_the_number_of_processes_and_the_order_of_the_other_run_change_no_byte(tmp_path: Path) -> None:
    write_run(tmp_path / "first", score_table(rows(1)), part_rows=3)
    write_run(tmp_path / "second", score_table(rows(2)), part_rows=3)
    write_run(tmp_path / "elsewhere", score_table(rows(2)[::-1]), part_rows=4)
    combine = {"scorers": ["one", "two"], "normalise": {"over": "table"}}
    for name, overrides in {
        "one": [],
        "two": ["compute.processes=2"],
        "other": [f"run.join.two.path={tmp_path / 'elsewhere'}"],
    }.items():
        derive(recipe(tmp_path, name, *overrides, reward={"combine": combine}))
    data = [
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("part-*")}
        for name in ("one", "two", "other")
    ]
    assert data[0] == data[1] == data[2]
    assert len(data[0]) == 2


def test_over_the_table_rewards_are_held_to_all_of_it(tmp_path: Path) -> None:
    write_run(tmp_path / "first", score_table(rows(1)), part_rows=3)
    write_run(tmp_path / "second", score_table(rows(2)), part_rows=4)
    combine = {"scorers": ["one", "two"], "normalise": {"over": "table", "method": "min_max"}}
    derive(recipe(tmp_path, "out", reward={"combine": combine}))
    flat = [np.float32([r for row in rows(seed) for r in row["reward"]]).astype(float) for seed in (1, 2)]
    scaled = [(each - each.min()) / (each.max() - each.min()) for each in flat]
    found = picked(tmp_path / "out")
    keys = [(row["prompt_id"], f"c{place}") for row in rows(1) for place in range(len(row["reward"]))]
    assert [found[key][0] for key in keys] == pytest.approx(np.mean(scaled, axis=0), abs=1e-6)


def test_what_another_run_lacks_is_an_error_with_counts_and_examples(tmp_path: Path) -> None:
    write_run(tmp_path / "first", score_table(rows(1)), part_rows=3)
    second = [without(row, 1) if row["prompt_id"] == "p2" else row for row in rows(2)]
    lacking = [row for row in second if row["prompt_id"] not in ("p1", "p3")]
    write_run(tmp_path / "second", score_table(lacking), part_rows=3)
    with pytest.raises(NotJoined) as error:
        derive(recipe(tmp_path, "out"))
    # p1 has 2 candidates, p3 has 1; of the 4 of p2 one is gone.
    assert f"run.join.two ({tmp_path / 'second'}) lacks 2 prompts and 4 candidates, such as p1, p3, p2/c1;" in str(
        error.value
    )
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert list((tmp_path / "out").rglob("part-*")) == []
    # Nor is anything left of the rows that were sorted to be joined.
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["derive.json"]


def test_what_another_run_lacks_can_be_left_out_and_is_in_the_ledger(tmp_path: Path) -> None:
    write_run(tmp_path / "first", score_table(rows(1)), part_rows=3)
    second = [without(row, 1) if row["prompt_id"] == "p2" else row for row in rows(2)]
    lacking = [row for row in second if row["prompt_id"] not in ("p1", "p3")]
    write_run(tmp_path / "second", score_table(lacking), part_rows=3)
    manifest = derive(recipe(tmp_path, "out", "run.missing=drop"))
    assert picked(tmp_path / "out") == plainly_joined(rows(1), lacking)
    assert manifest.missing == {"two": {"prompts": 2, "candidates": 4}}
    assert manifest.removed_candidates == {"not_joined": 4}
    # Every fifth prompt has no candidate at all.
    assert manifest.ledger == {"not_joined": 2, "too_few_candidates": 8}
    assert manifest.conservation["holds"]


def test_all_runs_are_named_in_the_manifest_and_on_the_card(tmp_path: Path) -> None:
    write_run(tmp_path / "first", score_table(rows(1)))
    write_run(tmp_path / "second", score_table(rows(2)))
    manifest = derive(recipe(tmp_path, "out"))
    second = hashlib.sha256((tmp_path / "second" / "manifest.json").read_bytes()).hexdigest()
    assert manifest.parent.path == str(tmp_path / "first")
    assert manifest.joined["two"].path == str(tmp_path / "second")
    assert manifest.joined["two"].manifest_sha256 == second
    assert manifest.joined["two"].fingerprints == {"": {"kind": "by hand"}}
    assert manifest.recipe["tables"] == {
        "scorer_name": "one",
        "join": {"two": {"scorers": None}},
        "missing": "error",
    }
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"Joined by ids as `two`: the run `by-hand` at `{tmp_path / 'second'}`" in card


def test_pairs_can_ask_for_agreement_with_a_scorer_of_another_run(tmp_path: Path) -> None:
    write_run(tmp_path / "first", score_table([group("p", [3.0, 1.0]), group("q", [3.0, 1.0])]))
    write_run(tmp_path / "second", score_table([group("p", [0.0, 1.0]), group("q", [1.0, 0.0])]))
    parts = {"reward": {"scorer": "one"}, "best_of_n": None, "pairs": {"agreement": ["two"]}}
    manifest = derive(recipe(tmp_path, "out", **parts))
    assert manifest.counts["rows"] == 1
    assert manifest.ledger == {"scorers_disagree": 1}


def test_candidates_about_which_scorers_disagree_can_be_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "first", score_table([group("p", [1.0, 2.0, 3.0]), group("q", [1.0])]))
    write_run(tmp_path / "second", score_table([group("p", [1.0, 3.0, 7.0]), group("q", [9.0])]))
    manifest = derive(recipe(tmp_path, "out", "candidates.max_disagreement=1"))
    assert picked(tmp_path / "out") == {("p", "c0"): (1.0, 0.0), ("p", "c1"): (2.5, 0.5)}
    assert manifest.removed_candidates == {"disagreement": 2}
    assert manifest.ledger == {"disagreement": 1}


def test_pairs_carry_the_disagreement_about_both(tmp_path: Path) -> None:
    write_run(tmp_path / "first", score_table([group("p", [1.0, 2.0])]))
    write_run(tmp_path / "second", score_table([group("p", [1.0, 4.0])]))
    derive(recipe(tmp_path, "out", best_of_n=None, pairs={}))
    row = json.loads((tmp_path / "out" / "data" / "train" / "part-00000.jsonl").read_text(encoding="utf-8"))
    assert (row["chosen_disagreement"], row["rejected_disagreement"], row["margin"]) == (1.0, 0.0, 2.0)


def test_a_candidate_that_any_combined_scorer_saw_cut_counts_as_truncated(tmp_path: Path) -> None:
    write_run(tmp_path / "first", score_table([group("p", [1.0, 2.0])]))
    write_run(tmp_path / "second", score_table([group("p", [1.0, 4.0], status=["ok", "truncated"])]))
    manifest = derive(recipe(tmp_path, "out"))
    assert manifest.removed_candidates == {"truncated": 1}


def test_runs_in_an_object_store_are_joined_alike(tmp_path: Path, bucket: str) -> None:
    write_run(tmp_path / "first", score_table(rows(1)), part_rows=3)
    write_run(tmp_path / "second", score_table(rows(2)[::-1]), part_rows=4)
    s3 = boto3.client("s3")
    for path in tmp_path.rglob("*"):
        if path.is_file():
            s3.put_object(Bucket=bucket, Key=str(path.relative_to(tmp_path)), Body=path.read_bytes())
    local = derive(recipe(tmp_path, "out"))
    places = {"run.path": "first", "run.join.two.path": "second", "output.path": "out"}
    there = derive(recipe(tmp_path, "out", *(f"{key}=s3://{bucket}/{name}" for key, name in places.items())))
    assert there.files == local.files
    assert [entry for entry in s3.list_objects_v2(Bucket=bucket)["Contents"] if "_derive/joined" in entry["Key"]] == []


def test_no_text_is_read_to_combine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from polar_ray.deriving.units import UnitReader

    read: set[str] = set()
    original = UnitReader.read

    def watched(self: UnitReader, columns: Any) -> pa.Table:
        read.update(columns)
        return original(self, columns)

    write_run(tmp_path / "first", score_table(rows(1)))
    write_run(tmp_path / "second", score_table(rows(2)))
    monkeypatch.setattr(UnitReader, "read", watched)
    derive(recipe(tmp_path, "out"))
    ids = {"candidates.list.element.candidate_id", "candidates.list.element.model"}
    assert read == {"prompt_id", "reward", "status", *ids}


def test_names_that_two_runs_share_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "first", score_table(rows(1)))
    write_run(tmp_path / "second", score_table(rows(2)))
    named = score_table(rows(1))
    for scorer in ("one", "three"):
        for field in ("reward", "status"):
            named = named.append_column(f"{field}_{scorer}", named.column(field))
    write_run(tmp_path / "third", named.drop_columns(["reward", "status", "tokens"]))
    with pytest.raises(
        RecipeError, match=r"first and .*third both have a scorer 'one'; say with run\.join\.x\.scorers"
    ):
        derive(recipe(tmp_path, "out", f"run.join.x.path={tmp_path / 'third'}"))
    with pytest.raises(RecipeError, match=r"run\.join\.x\.scorers: .* has no scorer 'four'; it has one, three"):
        derive(recipe(tmp_path, "out", f"run.join.x={{path: {tmp_path / 'third'}, scorers: [four]}}"))
    with pytest.raises(RecipeError, match=r"the scorer of .*first has no name.*run\.scorer_name"):
        derive(recipe(tmp_path, "out", "run.scorer_name=null"))
    with pytest.raises(RecipeError, match=r"run\.scorer_name is for .* it has one, three"):
        derive(recipe(tmp_path, "out", f"run.path={tmp_path / 'third'}"))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("reward.combine.scorers=[one]", "reward.combine.scorers: list should have at least 2 items"),
        ("reward.combine.scorers=[one, one]", "reward.combine: scorers names one twice"),
        ("reward.combine.normalise={method: rank, over: table}", "rank is over the prompt only"),
        (
            "reward.combine.by={kind: weighted, weights: {one: 1}}",
            "by.weights must have one weight for each of one, two",
        ),
        ("reward.combine={scorers: [a, b], by: {kind: vote}, normalise: {method: rank}}", "leave normalise out"),
        ("reward.scorer=one", "reward: give either scorer or combine"),
        ("reward.uncertainty=sigma", "with combine use candidates.max_disagreement"),
        ("reward.length_penalty={weight: 1, per: token}", "with combine use length_penalty.per: character"),
        ("run.scorer_name=A b", "scorer name 'A b' must be lower case letters, digits and _"),
        ("reward.combine.by.kind=median", "reward.combine.by.kind 'median' is not a known kind; did you mean mean?"),
    ],
)
def test_a_wrong_combination_is_one_clear_sentence(tmp_path: Path, override: str, says: str) -> None:
    with pytest.raises(RecipeError) as error:
        recipe(tmp_path, "out", override)
    assert says in str(error.value)


def test_combined_rewards_are_not_held_to_a_column_of_one_scorer(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"above_reference\.column holds one scorer's rewards"):
        recipe(tmp_path, "out", best_of_n=None, pairs={"above_reference": {"column": "gold"}})


def test_a_reference_that_was_scored_as_a_candidate_is_held_to_by_its_combined_reward(tmp_path: Path) -> None:
    write_run(tmp_path / "first", score_table([group("p", [1.0, 5.0, 2.0]), group("q", [1.0, 5.0, 9.0])]))
    write_run(tmp_path / "second", score_table([group("p", [1.0, 5.0, 2.0]), group("q", [1.0, 5.0, 9.0])]))
    manifest = derive(recipe(tmp_path, "out", best_of_n=None, pairs={"above_reference": {"candidate_id": "c2"}}))
    assert manifest.counts["rows"] == 1
    assert manifest.ledger == {"below_reference": 1}


def test_a_disagreement_needs_scorers_that_may_disagree(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"candidates\.max_disagreement needs reward\.combine"):
        recipe(tmp_path, "out", "candidates.max_disagreement=1", reward={})
