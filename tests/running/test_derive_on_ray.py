"""Deriving by tasks on a Ray cluster gives what deriving on one machine gives, to the byte."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import files_below
from score_tables import group, score_table, write_run

from polar_ray.deriving.derive import derive
from polar_ray.errors import NotJoined, PolarRayError
from polar_ray.recipe.derive import DeriveRecipe
from polar_ray.running.deriving import RayTasks, derive_on_ray

pytestmark = pytest.mark.usefixtures("embedded_ray")


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs over the same 60 prompts, in different orders."""
    monkeypatch.setattr("polar_ray.deriving.units.UNIT_PARTS", 2)
    for name in ("a", "b"):
        draw = np.random.default_rng(ord(name))
        made = [group(f"p{number}", draw.normal(size=number % 6).tolist()) for number in range(60)]
        write_run(tmp_path / name, score_table(made if name == "a" else made[::-1]), part_rows=4)
    return tmp_path


def recipe(folder: Path, output: str, **parts: Any) -> DeriveRecipe:
    joined = {"path": str(folder / "a"), "scorer_name": "a", "join": {"b": {"path": str(folder / "b")}}}
    combine = {"scorers": ["a", "b"], "normalise": {"over": "table"}}
    data: dict[str, Any] = {
        "run": joined,
        "reward": {"combine": combine},
        "best_of_n": {"top_k": 2, "min_quantile": 0.2},
        "export": {"kind": "trl_sft"},
        "files": {"shard_rows": 20, "validation": 0.2},
        "output": {"path": str(folder / output)},
    }
    return DeriveRecipe.of({**data, **parts})


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in sorted(files_below(folder))}


def test_the_bytes_are_those_of_one_machine(tables: Path) -> None:
    seen: list[tuple[int, int]] = []
    derive_on_ray(recipe(tables, "cluster"), progress=lambda done, of: seen.append((done, of)))
    derive(recipe(tables, "here", compute={"processes": 1}))
    assert contents(tables / "cluster") == contents(tables / "here")
    assert len(contents(tables / "cluster")) > 7
    assert seen == [(number, 8) for number in range(1, 9)]


def test_what_is_wrong_is_the_same_error(tables: Path) -> None:
    draw = np.random.default_rng(0)
    write_run(tables / "c", score_table([group("p5", draw.normal(size=5).tolist())]))
    short = {"path": str(tables / "a"), "scorer_name": "a", "join": {"b": {"path": str(tables / "c")}}}
    with pytest.raises(NotJoined, match="lacks 59 prompts"):
        derive_on_ray(recipe(tables, "out", run=short))


class Odd(PolarRayError):
    pass


def _refuses_odd_numbers(number: int) -> int:
    if number % 2:
        raise Odd(f"{number} is odd")
    return 10 * number


def test_results_come_in_order_and_no_more_are_under_way_than_can_wait() -> None:
    taken: list[int] = []

    def items() -> Any:
        for number in range(0, 20, 2):
            taken.append(number)
            yield number

    results = RayTasks(1).over(_refuses_odd_numbers, items())
    assert next(results) == 0
    assert taken == [0, 2]
    assert list(results) == [20 * number for number in range(1, 10)]


def test_an_error_of_ours_comes_out_as_it_is() -> None:
    with pytest.raises(Odd, match="3 is odd"):
        list(RayTasks(2).over(_refuses_odd_numbers, [0, 2, 3, 4, 6]))
