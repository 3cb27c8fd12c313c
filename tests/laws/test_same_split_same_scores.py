"""Law 3: a split's scores do not depend on who scores it, when, or beside what: not in a single bit.

The whole job runs with a model, since only sums of floating-point numbers can tell one order of work from another.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import rows, write_jsonl
from runs import PLACES, TINY_POLAR, part_files, recipe, score_table

from polar_ray.recipe.recipe import Recipe
from polar_ray.running.run import run

pytestmark = pytest.mark.usefixtures("embedded_ray")

WORDS = ("the", "capital", "of", "China", "is", "Beijing", "and", "not", "Shanghai", "said", "one", "river", "near")


def generations(groups: int) -> list[dict[str, Any]]:
    """Groups of three candidates of very different lengths, so that batches are never alike."""
    data = rows(groups)
    for number, row in enumerate(data):
        for place, candidate in enumerate(row["candidates"]):
            length = 1 + (7 * number + 31 * place) % 60
            text = " ".join(WORDS[(number + place + word) % len(WORDS)] for word in range(length))
            candidate["messages"][0]["content"] = text
    return data


DATA = generations(15)


def polar(path: Path, output: Path, *overrides: str) -> Recipe:
    # A small budget makes several forwards of every split.
    scorer = {**TINY_POLAR, "token_budget": 256}
    return recipe(path, output, "input.split_rows=4", *overrides, scorer=scorer)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("same-split")
    write_jsonl(folder / "in" / "b.jsonl", DATA)
    run(polar(folder / "in", folder / "out"))
    return folder


def test_the_scores_are_worth_comparing(scored: Path) -> None:
    table = score_table(scored / "out")
    rewards = [reward for row in table.column("reward").to_pylist() for reward in row]
    assert len(part_files(scored / "out")) == 4
    assert len(set(rewards)) == 45
    assert {status for row in table.column("status").to_pylist() for status in row} == {"ok"}


def test_two_actors_write_the_same_bytes_as_one(scored: Path, tmp_path: Path) -> None:
    run(polar(scored / "in", tmp_path / "out", "compute.actors={min: 2, max: 2}"))
    assert part_files(tmp_path / "out") == part_files(scored / "out")


def test_a_run_resumed_in_the_middle_writes_the_same_bytes(scored: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(scored / "out", output)
    (output / "manifest.json").unlink()
    for split in ("00000-00000", "00000-00002"):
        (output / "scores" / f"part-{split}.parquet").unlink()
        (output / "_run" / "commits" / f"{split}.json").unlink()
    manifest = run(polar(scored / "in", output))
    assert manifest.resumed_splits == 2
    assert part_files(output) == part_files(scored / "out")


def test_other_files_beside_it_change_no_score_of_a_file(scored: Path, tmp_path: Path) -> None:
    shutil.copy(scored / "in" / "b.jsonl", tmp_path / "b.jsonl")
    others = [{**row, "prompt_id": f"other-{row['prompt_id']}"} for row in generations(9)[::-1]]
    write_jsonl(tmp_path / "a.jsonl", others)
    write_jsonl(tmp_path / "c.jsonl", [{**row, "prompt_id": f"more-{row['prompt_id']}"} for row in others[:3]])
    paths = [str(tmp_path / f"{name}.jsonl") for name in "cab"]
    run(polar(tmp_path, tmp_path / "out", f"input.path={paths}", "compute.actors={min: 2, max: 2}"))
    table = score_table(tmp_path / "out")
    mine = table.filter([file.endswith("b.jsonl") for file in table.column("input_file").to_pylist()])
    assert mine.drop_columns(PLACES).equals(score_table(scored / "out").drop_columns(PLACES))
