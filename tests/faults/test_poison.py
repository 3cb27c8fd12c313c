"""Groups that kill the process that scores them: set aside after a bounded number of deaths, the others scored."""

from pathlib import Path
from typing import Any

import pytest
from conftest import rows, write_jsonl

from polar_ray.data.scores import read_scores
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.run import run

pytestmark = pytest.mark.usefixtures("embedded_ray")

MAX_ATTEMPTS = 2


def poisoned(groups: int, poisons: set[int]) -> list[dict[str, Any]]:
    """Returns input rows of which some kill the scorer ``faulty:Poisoned``."""
    data = rows(groups)
    for index in poisons:
        data[index]["prompt"][0]["content"] = f"poison {index}"
    return data


def score(folder: Path, data: list[dict[str, Any]], scorer: dict[str, Any], **recipe: Any) -> dict[str, list[Any]]:
    """Scores rows, four to a split, and returns (status, reward) lists by prompt_id."""
    out = folder / "out"
    run(
        Recipe.of(
            {
                "input": {"path": str(write_jsonl(folder / "in.jsonl", data)), "split_rows": 4},
                "scorer": {"kind": "custom", **scorer},
                "output": {"path": str(out)},
                "limits": {"max_attempts": MAX_ATTEMPTS},
                **recipe,
            }
        )
    )
    table = read_scores(str(out))
    assert table.num_rows == len(data)
    return {row["prompt_id"]: list(zip(row["status"], row["reward"], strict=True)) for row in table.to_pylist()}


def by_length(data: list[dict[str, Any]], poisons: set[int]) -> dict[str, list[Any]]:
    """What must come out: the lengths of the candidates, and ``crashed`` where the poison is."""
    return {
        row["prompt_id"]: [
            ("crashed", None) if index in poisons else ("ok", float(len(candidate["messages"][0]["content"])))
            for candidate in row["candidates"]
        ]
        for index, row in enumerate(data)
    }


@pytest.mark.parametrize("poisons", [{0}, {3}, {5, 6}], ids=["first", "last", "two_in_one_split"])
def test_a_group_that_kills_its_process_is_set_aside_and_the_others_are_scored(
    poisons: set[int], tmp_path: Path
) -> None:
    data = poisoned(9, poisons)
    diary = tmp_path / "deaths"
    scores = score(tmp_path, data, {"target": "faulty:Poisoned", "settings": {"diary": str(diary)}})
    assert scores == by_length(data, poisons)
    deaths = diary.read_text().splitlines()
    # The split is given up as a whole after max_attempts deaths; then each poisoned group dies alone, once.
    assert len(deaths) == MAX_ATTEMPTS + len(poisons)
    assert set(deaths) == {f"poison {index}" for index in poisons}


def test_poison_in_one_split_does_not_touch_another_that_holds_poison_too(tmp_path: Path) -> None:
    data = poisoned(8, {2, 4})
    diary = tmp_path / "deaths"
    actors = {"compute": {"cpus_per_actor": 0.5, "actors": {"min": 2, "max": 2}}}
    scores = score(tmp_path, data, {"target": "faulty:Poisoned", "settings": {"diary": str(diary)}}, **actors)
    assert scores == by_length(data, {2, 4})
    assert len(diary.read_text().splitlines()) == 2 * (MAX_ATTEMPTS + 1)


def test_a_crashed_group_says_why_and_is_counted(tmp_path: Path) -> None:
    data = poisoned(2, {1})
    out = tmp_path / "out"
    manifest = run(
        Recipe.of(
            {
                "input": {"path": str(write_jsonl(tmp_path / "in.jsonl", data))},
                "scorer": {"kind": "custom", "target": "faulty:Poisoned"},
                "output": {"path": str(out)},
                "limits": {"max_attempts": 1},
            }
        )
    )
    assert manifest.counts["statuses"] == {"": {"crashed": 3, "ok": 3}}
    assert manifest.conservation["holds"]
    row = read_scores(str(out)).to_pylist()[1]
    assert row["rank"] == [None] * 3
    assert all("killed its process" in message for message in row["error"])


def test_a_scorer_that_dies_once_gives_the_table_of_a_healthy_run(tmp_path: Path) -> None:
    data = rows(9)
    settings = {"marker": str(tmp_path / "died")}
    scores = score(tmp_path, data, {"target": "faulty:DiesOnce", "settings": settings})
    assert (tmp_path / "died").exists()
    assert scores == by_length(data, set())
