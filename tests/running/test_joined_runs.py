"""Two runs over the same candidates, laid out and cut differently, joined with what they left."""

import json
import random
from pathlib import Path
from statistics import fmean

import pytest
from conftest import rows, write_jsonl, write_parquet
from runs import recipe

from polar_ray.deriving.derive import derive
from polar_ray.recipe.derive import DeriveRecipe
from polar_ray.running.run import run

pytestmark = pytest.mark.usefixtures("embedded_ray")

GROUPS = 20


def test_a_run_over_rows_per_group_is_joined_with_one_over_scattered_candidates(tmp_path: Path) -> None:
    data = rows(GROUPS)
    candidates = [
        {"prompt_id": row["prompt_id"], "prompt": row["prompt"], "reference": row["reference"], **candidate}
        for row in data
        for candidate in row["candidates"]
    ]
    random.Random(3).shuffle(candidates)
    run(recipe(write_jsonl(tmp_path / "groups.jsonl", data), tmp_path / "a", "input.split_rows=3"))
    scattered = write_parquet(tmp_path / "scattered.parquet", candidates)
    layout = ["input.layout=scattered", "input.split_bytes=2000"]
    run(recipe(scattered, tmp_path / "b", *layout, scorer={"kind": "custom", "target": "faulty:Slow"}))
    assert len(list((tmp_path / "b" / "scores").iterdir())) > 1
    combined = {
        "run": {"path": str(tmp_path / "a"), "scorer_name": "a", "join": {"b": {"path": str(tmp_path / "b")}}},
        "reward": {"combine": {"scorers": ["a", "b"], "normalise": {"method": "none"}}},
        "candidates": {"empty": "keep", "duplicates": "keep"},
        "best_of_n": {"top_k": None},
        "output": {"path": str(tmp_path / "out")},
        "compute": {"processes": 1},
    }
    manifest = derive(DeriveRecipe.of(combined))
    lines = (tmp_path / "out" / "data" / "train" / "part-00000.jsonl").read_text(encoding="utf-8").splitlines()
    found = {(row["prompt_id"], row["candidate_id"]): row for row in map(json.loads, lines)}
    assert manifest.counts["rows"] == len(found) == 3 * GROUPS
    for number in range(GROUPS):
        for place in range(3):
            row = found[f"p{number:04d}", f"c{place}"]
            # Both scorers reward the length.
            assert row["reward"] == fmean([10 * number + place] * 2)
            assert row["disagreement"] == 0
