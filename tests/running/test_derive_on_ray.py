"""Deriving by tasks on a Ray cluster gives what deriving on one machine gives, to the byte."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from runs import files_below
from score_tables import group, score_table, write_run

from polar_ray.deriving.derive import derive
from polar_ray.errors import NotJoined, PolarRayError
from polar_ray.recipe.derive import DeriveRecipe
from polar_ray.running.deriving import RayTasks, derive_on_ray

ROOT = Path(__file__).parents[2]
JOB = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("LOADED", *[name for name in ("ray", "torch") if name in sys.modules])
"""
"""Runs a job's file and says what it loaded."""

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


def job(name: str, *arguments: str, address: str | None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"RAY_ADDRESS": address} if address else {})}
    return subprocess.run(
        [sys.executable, "-c", JOB, f"jobs/{name}.py", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        env=environment,
    )


def test_a_job_works_on_the_cluster_that_it_runs_on(tables: Path) -> None:
    # A job that was submitted finds its cluster in RAY_ADDRESS.
    cluster = ray.get_runtime_context().gcs_address
    outputs = {}
    for name, address in {"there": cluster, "here": None}.items():
        arguments = [f"run.path={tables / 'a'}", f"output.path={tables / name}", "compute.processes=2"]
        outputs[name] = job("build_pairs", *arguments, address=address)
        assert outputs[name].returncode == 0, outputs[name].stderr
    assert outputs["there"].stdout.splitlines()[-1] == "LOADED ray"
    assert outputs["here"].stdout.splitlines()[-1] == "LOADED"
    assert contents(tables / "there") == contents(tables / "here")


def test_no_cluster_at_the_address_is_one_sentence(tables: Path) -> None:
    arguments = [f"run.path={tables / 'a'}", f"output.path={tables / 'out'}", "compute.address=127.0.0.1:1"]
    result = job("best_of_n", *arguments, address=None)
    assert result.returncode == 1
    assert result.stderr.startswith("polar-ray: ClusterUnreachable: there is no Ray cluster at 127.0.0.1:1")
    assert result.stderr.count("\n") == 1
