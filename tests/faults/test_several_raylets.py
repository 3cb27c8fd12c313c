"""A node that is lost costs a retry, not the run, whether or not what is left has room for the pool."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from clusters import Cluster, cluster
from conftest import rows, write_jsonl
from processes import command, commits, contents, polar_ray, wait_for, with_title

from polar_ray.recipe.recipe import Recipe
from polar_ray.running.run import run

SPLITS = 40
SCORER = "ray::MapWorker(MapBatches(Score))"


@pytest.fixture(scope="module")
def head() -> Iterator[Cluster]:
    """A cluster whose head node, where the driver runs, has two CPUs."""
    with cluster("--num-cpus=2", "--include-dashboard=false") as started:
        yield started


@pytest.fixture
def raylets(head: Cluster) -> Iterator[list[psutil.Process]]:
    """Two more nodes with two CPUs each."""
    with head.node(cpus=2) as first, head.node(cpus=2) as second:
        yield [first, second]


def test_a_cluster_without_an_autoscaler_is_not_waited_for_where_it_is_too_small(head: Cluster, tmp_path: Path) -> None:
    recipe = {"input": {"path": str(write_jsonl(tmp_path / "in.jsonl", rows(2)))}, "scorer": {"kind": "length"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "output": {"path": str(tmp_path / "out")}}))
    wanted = polar_ray("run", str(tmp_path / "recipe.yaml"), f"compute.address={head.address}")
    with command([*wanted, "compute.cpus_per_actor=99"], tmp_path / "log", head.environment) as running:
        assert running.wait() == 1
        assert "The cluster has no autoscaler that would bring any: " in running.output


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "in.jsonl", rows(2 * SPLITS))


def recipe_of(data: Path, output: Path, seconds: float, **parts: Any) -> dict[str, Any]:
    return {
        "input": {"path": str(data), "split_rows": 2},
        "scorer": {"kind": "custom", "target": "faulty:Slow", "settings": {"seconds": seconds}},
        "output": {"path": str(output)},
        **parts,
    }


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory, embedded_ray: None) -> dict[str, bytes]:
    """The files of a run on one machine that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    run(Recipe.of(recipe_of(data, folder, seconds=0)))
    assert pq.read_table(folder / "scores").num_rows == 2 * SPLITS
    return contents(folder)


def scoring(raylets: list[psutil.Process]) -> list[psutil.Process]:
    """Those on whose nodes an actor scores."""
    return [raylet for raylet in raylets if with_title(SCORER, raylet.children())]


@pytest.mark.parametrize(
    ("actors", "stalls"),
    # Three nodes with six CPUs. Three actors leave room for all else when two CPUs are gone; four fill what is left, so
    # that nothing can be read or written any more (ray-project/ray#44687).
    [
        pytest.param({"min": 1, "max": 3}, False, id="with_room_left"),
        pytest.param({"min": 4, "max": 4}, True, id="without_room_left", marks=pytest.mark.slow),
    ],
)
def test_a_run_outlives_a_raylet_that_is_killed(
    actors: dict[str, int],
    stalls: bool,
    head: Cluster,
    raylets: list[psutil.Process],
    data: Path,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
) -> None:
    compute = {"address": head.address, "actors": actors}
    folder = tmp_path / "out"
    recipe = tmp_path / "recipe.yaml"
    description = recipe_of(data, folder, seconds=0.25, compute=compute, limits={"node_loss_s": 5})
    recipe.write_text(yaml.safe_dump(description))
    with command(polar_ray("run", str(recipe)), tmp_path / "log", head.environment) as running:
        wait_for("four commits", lambda: commits(folder) >= 4)
        # Processes of a new node take longer to start than those of the head.
        wait_for("an actor on a node that can be lost", lambda: bool(scoring(raylets)))
        scoring(raylets)[0].kill()
        assert running.wait() == 0, running.output
        if stalls:
            assert "a node was lost and the rest of the cluster stood still" in running.output
    assert contents(folder) == undisturbed
