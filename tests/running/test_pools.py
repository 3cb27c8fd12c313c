"""How many actors fit on a cluster."""

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import command

from polar_ray.errors import ClusterTooSmall, ClusterUnreachable
from polar_ray.recipe.run import Compute
from polar_ray.recipe.scorers import Length, Polar, ScorerConfig
from polar_ray.running import cluster
from polar_ray.running.cluster import Connection, alive_nodes, connected
from polar_ray.running.placement import placement, pools_on
from polar_ray.running.ray_private import Scaling

Nodes = list[dict[str, float]]
TEXT, MODEL, CPU_MODEL = Length(), Polar(model="m"), Polar(model="m", device="cpu")


def compute(minimum: int = 1, maximum: int = 1, **settings: float) -> Compute:
    return Compute.model_validate({"actors": {"min": minimum, "max": maximum}, **settings})


def initial(nodes: Nodes, settings: Compute, *scorers: ScorerConfig) -> list[int]:
    return [pool.initial for pool in pools_on(nodes, settings, list(scorers))]


@pytest.mark.parametrize(
    ("nodes", "settings", "actors"),
    [
        # One CPU stays free for reading and writing.
        ([{"CPU": 3}], compute(1, 8), 2),
        ([{"CPU": 3}], compute(1, 1), 1),
        ([{"CPU": 8}], compute(1, 8, cpus_per_actor=2), 3),
        ([{"CPU": 2}], compute(1, 8, cpus_per_actor=0.25), 4),
        # An actor lies whole on one node.
        ([{"CPU": 3}, {"CPU": 3}], compute(1, 8, cpus_per_actor=2), 2),
        ([{"CPU": 1}] * 5, compute(1, 8), 4),
    ],
)
def test_a_pool_starts_with_the_actors_that_fit_up_to_its_maximum(nodes: Nodes, settings: Compute, actors: int) -> None:
    assert initial(nodes, settings, TEXT) == [actors]


def test_a_model_takes_a_gpu_where_there_are_any_and_a_text_scorer_never() -> None:
    nodes: Nodes = [{"CPU": 16, "GPU": 4}]
    (pool,) = pools_on(nodes, compute(1, 8), [MODEL])
    assert (pool.gpus, pool.initial, pool.max) == (1, 4, 8)
    assert [pool.gpus for pool in pools_on(nodes, compute(), [TEXT, CPU_MODEL])] == [0, 0]
    assert pools_on([{"CPU": 16}], compute(), [MODEL])[0].gpus == 0


def test_actors_can_share_a_gpu() -> None:
    nodes: Nodes = [{"CPU": 16, "GPU": 1}, {"CPU": 16, "GPU": 1}]
    assert initial(nodes, compute(1, 8, gpus_per_actor=0.5), MODEL) == [4]
    assert initial(nodes, compute(1, 8, gpus_per_actor=0.4), MODEL) == [4]


def test_several_scorers_share_what_is_there() -> None:
    assert initial([{"CPU": 6}], compute(1, 8), TEXT, TEXT) == [3, 2]
    assert initial([{"CPU": 9, "GPU": 3}], compute(1, 8), MODEL, MODEL) == [2, 1]
    assert initial([{"CPU": 4, "GPU": 2}, {"CPU": 4}], compute(1, 4), MODEL, TEXT) == [2, 4]


def test_a_model_is_spread_over_the_gpus_of_its_actor() -> None:
    nodes: Nodes = [{"CPU": 16, "GPU": 4}, {"CPU": 16, "GPU": 1}]
    (pool,) = pools_on(nodes, compute(1, 8, gpus_per_actor=2), [MODEL])
    assert (pool.initial, pool.gpus, pool.ranks) == (2, 2, 2)
    assert [pools_on(nodes, compute(gpus_per_actor=gpus), [MODEL])[0].ranks for gpus in (0, 0.5, 1, 4)] == [1, 1, 1, 4]
    assert pools_on(nodes, compute(gpus_per_actor=2), [CPU_MODEL])[0].ranks == 1
    with pytest.raises(ValueError, match=r"gpus_per_actor is 1\.5, but beyond 1 it must be a whole number"):
        compute(gpus_per_actor=1.5)


def test_two_models_do_not_count_on_the_same_gpu() -> None:
    with pytest.raises(ClusterTooSmall, match=r"for each of 2 scorer\(s\)"):
        pools_on([{"CPU": 16, "GPU": 1}], compute(), [MODEL, MODEL])
    assert initial([{"CPU": 16, "GPU": 1}], compute(gpus_per_actor=0.5), MODEL, MODEL) == [1, 1]


@pytest.mark.parametrize(
    ("nodes", "settings", "scorer"),
    [
        ([{"CPU": 1}], compute(), TEXT),
        ([{"CPU": 3}, {"CPU": 3}], compute(cpus_per_actor=4), TEXT),
        ([{"CPU": 8}], compute(2, 2, gpus_per_actor=1), MODEL),
        ([{"CPU": 8, "GPU": 1}], compute(2, 2), MODEL),
        ([], compute(), TEXT),
    ],
)
def test_actors_that_do_not_fit_are_an_error_with_the_remedy(
    nodes: Nodes, settings: Compute, scorer: ScorerConfig
) -> None:
    with pytest.raises(ClusterTooSmall, match=r"do not fit: .*lower compute\.cpus_per_actor"):
        pools_on(nodes, settings, [scorer])


def test_a_model_gets_as_many_threads_as_its_actor_has_whole_cpus() -> None:
    threads = [
        pools_on([{"CPU": 9}], compute(cpus_per_actor=cpus), [CPU_MODEL])[0].threads for cpus in (0.5, 1, 3.5, 4)
    ]
    assert threads == [1, 1, 3, 4]


def test_a_model_on_a_cluster_takes_a_gpu_also_while_no_node_with_one_is_alive() -> None:
    (pool,) = pools_on([{"CPU": 16, "GPU": 1}], compute(), [MODEL], settled=False)
    assert pool.gpus == 1
    with pytest.raises(ClusterTooSmall, match=r"no node with a GPU is alive: set the scorer's device: cpu"):
        pools_on([{"CPU": 16}], compute(), [MODEL], settled=False)
    for settings, scorer in ((compute(), CPU_MODEL), (compute(gpus_per_actor=0), MODEL), (compute(), TEXT)):
        assert pools_on([{"CPU": 16}], settings, [scorer], settled=False)[0].gpus == 0


@pytest.mark.parametrize(
    ("settings", "scorer", "where"),
    [
        (compute(), TEXT, "on CPUs: it has no model"),
        (compute(gpus_per_actor=1), CPU_MODEL, "on CPUs: device: cpu"),
        (compute(gpus_per_actor=2), MODEL, "on 2 GPU for each actor: compute.gpus_per_actor"),
        (compute(gpus_per_actor=0), MODEL, "on CPUs: compute.gpus_per_actor"),
        (compute(), MODEL.model_copy(update={"device": "cuda"}), "on 1 GPU for each actor: device: cuda"),
    ],
)
def test_a_plan_says_where_a_scorer_runs(settings: Compute, scorer: ScorerConfig, where: str) -> None:
    for embedded in (True, False):
        assert placement(settings, scorer, embedded=embedded) == where


def test_where_a_model_runs_without_a_word_of_the_recipe_depends_on_whose_ray_it_is() -> None:
    told = {embedded: placement(compute(), MODEL, embedded=embedded) for embedded in (True, False)}
    assert told[True].startswith("on 1 GPU for each actor if this machine has one, else on CPUs")
    assert told[False].startswith("on 1 GPU for each actor: a cluster has GPUs unless")


class Growing:
    """A cluster whose autoscaler, once it was asked, says that it brings a node with a GPU, and then does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, brings: bool = True) -> None:
        self.asked: list[list[dict[str, float]]] = []
        self.looks = 0
        self.state = Scaling.SILENT
        self._brings = brings
        monkeypatch.setattr("polar_ray.running.cluster.POLL_S", 0)
        monkeypatch.setattr("polar_ray.running.cluster.scaling", self.scaling)
        monkeypatch.setattr("polar_ray.running.cluster.request_resources", lambda bundles: self.asked.append(bundles))
        monkeypatch.setattr("polar_ray.running.cluster.ray.nodes", self.nodes)

    def scaling(self) -> Scaling:
        return Scaling.GROWING if self._brings and self.asked else self.state

    def nodes(self) -> list[dict[str, Any]]:
        if self.asked:
            self.looks += 1
        brought = self._brings and self.looks > 2
        return [{"Alive": True, "Resources": node} for node in [{"CPU": 2.0}, *[{"CPU": 2.0, "GPU": 1.0}] * brought]]


ON_CLUSTER, EMBEDDED = Connection(embedded=False), Connection(embedded=True)


@pytest.mark.parametrize(("wait_s", "lines"), [(None, 2), (60.0, 1)])
def test_a_cluster_that_scales_from_zero_is_waited_for(
    wait_s: float | None, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    growing = Growing(monkeypatch)
    said: list[str] = []
    (pool,) = ON_CLUSTER.pools(compute(), [MODEL], wait_s=wait_s, say=said.append)
    assert (pool.gpus, pool.initial) == (1, 1)
    # What was asked for is given back, or its nodes would never go.
    assert growing.asked == [[{"CPU": 1, "GPU": 1.0}, {"CPU": 1.0}], []]
    assert [line.split(" up to ")[0] for line in said] == [
        "waiting",
        "the autoscaler is bringing nodes; waiting",
    ][:lines]


@pytest.mark.parametrize(("where", "wait_s"), [(ON_CLUSTER, 0.0), (EMBEDDED, None), (EMBEDDED, 0.0)])
def test_a_cluster_that_is_not_to_grow_or_cannot_is_too_small_at_once(
    where: Connection, wait_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    growing = Growing(monkeypatch)
    with pytest.raises(ClusterTooSmall):
        where.pools(compute(gpus_per_actor=1), [MODEL], wait_s=wait_s)
    assert growing.asked == []


def test_a_cluster_without_an_autoscaler_is_too_small_at_once_unless_nodes_are_to_be_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    growing = Growing(monkeypatch, brings=False)
    growing.state = Scaling.NONE
    with pytest.raises(ClusterTooSmall, match=r"no autoscaler that would bring any: .* limits\.wait_for_nodes_s"):
        ON_CLUSTER.pools(compute(), [MODEL])
    assert growing.asked == []
    with pytest.raises(ClusterTooSmall):
        ON_CLUSTER.pools(compute(), [MODEL], wait_s=0.05)
    assert len(growing.asked) == 2


@pytest.mark.parametrize(("brings", "wait_s"), [(False, None), (True, 0.05), (True, None)])
def test_waiting_for_nodes_has_an_end(brings: bool, wait_s: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    growing = Growing(monkeypatch, brings=brings)
    monkeypatch.setattr("polar_ray.running.cluster.NOTICE_S", 0.05)
    monkeypatch.setattr("polar_ray.running.cluster.AUTOSCALER_S", 0.1)
    with pytest.raises(ClusterTooSmall):
        ON_CLUSTER.pools(compute(cpus_per_actor=99), [MODEL], wait_s=wait_s)
    assert growing.asked[-1] == []


@pytest.mark.usefixtures("embedded_ray")
def test_the_embedded_cluster_has_room_for_an_actor_on_every_core() -> None:
    import os

    cores = os.cpu_count() or 1
    assert len(alive_nodes()) == 1
    with connected(compute()) as there:
        assert there.embedded
        (pool,) = there.pools(compute(1, 1000), [TEXT])
    assert pool.initial == cores


def test_what_answers_but_lets_nobody_in_may_ask_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", refuse)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        said = (
            f"something answers at {address}, but not as a Ray cluster: .*RAY_AUTH_MODE=token.*correct compute.address"
        )
        settings = Compute.model_validate({"address": address})
        with pytest.raises(ClusterUnreachable, match=said), cluster.connected(settings):
            pass


@pytest.mark.parametrize("theirs", [True, False])
def test_a_notebook_that_is_connected_to_a_cluster_already_works_on_that(
    theirs: bool, ray_environment: dict[str, str], tmp_path: Path
) -> None:
    # No address in the recipe and none in the environment: the recipe alone does not tell.
    address = ray_environment["RAY_ADDRESS"] if theirs else "local"
    notebook = (
        f"import ray; ray.init(address={address!r}, log_to_driver=False)\n"
        "from polar_ray.recipe.run import Compute; from polar_ray.running.cluster import connected\n"
        "from polar_ray.running.plan import will_be_embedded\n"
        "with connected(Compute()) as there:\n    print(there.embedded, will_be_embedded(Compute()))"
    )
    with command([sys.executable, "-c", notebook], tmp_path / "log") as running:
        assert running.wait() == 0, running.output
        assert running.output.splitlines()[-1] == f"{not theirs} {not theirs}"
