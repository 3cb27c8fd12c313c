"""Placement: what an actor of each scorer asks for, and how many of them fit on the nodes of a cluster."""

from dataclasses import dataclass

from polar_ray.errors import ClusterTooSmall
from polar_ray.recipe.run import Compute
from polar_ray.recipe.scorers import RewardModel, ScorerConfig


@dataclass(frozen=True)
class Pool:
    """Resources of one scorer's pool of actors.

    Attributes:
        cpus: CPUs of one actor.
        gpus: GPUs of one actor.
        initial: Actors to start with: as many of ``max`` as the cluster has room for now.
    """

    cpus: float
    gpus: float
    min: int
    initial: int
    max: int

    @property
    def threads(self) -> int:
        """Threads that a model on the CPU may use."""
        return max(1, int(self.cpus))

    @property
    def ranks(self) -> int:
        """Devices over which the weights of one actor's model are spread."""
        return max(1, int(self.gpus))


def bundles(compute: Compute, scorers: list[ScorerConfig]) -> list[dict[str, float]]:
    """Returns what an autoscaler is asked for: the fewest actors of each scorer, and a CPU beside them."""
    actors = [_actor(compute, scorer, has_gpus=True) for scorer in scorers for _ in range(compute.actors.min)]
    return [{"CPU": cpus, **({"GPU": gpus} if gpus else {})} for cpus, gpus in actors] + [{"CPU": 1.0}]


def pools_on(
    nodes: list[dict[str, float]], compute: Compute, scorers: list[ScorerConfig], *, settled: bool = True
) -> list[Pool]:
    """Returns the pool of each scorer on nodes with these resources; raises as ``pools``.

    A model takes a GPU unless its recipe says ``device: cpu`` or ``gpus_per_actor: 0``. Only where the nodes are
    ``settled``, as those of a Ray inside this process are, does a model without either run on CPUs: elsewhere, that no
    node with a GPU is alive says nothing of the next minute.
    """
    has_gpus = not settled or any(node.get("GPU", 0) > 0 for node in nodes)
    actors = [_actor(compute, scorer, has_gpus) for scorer in scorers]
    on_cpus = ""
    if any(gpus for _, gpus in actors) and not any(node.get("GPU", 0) > 0 for node in nodes):
        on_cpus = "; no node with a GPU is alive: set the scorer's device: cpu if it is to run on CPUs"
    room = _Room(nodes)
    initial = [0] * len(actors)
    # First what every scorer needs, then in turn what it may have more.
    for count in range(1, compute.actors.max + 1):
        for index, (cpus, gpus) in enumerate(actors):
            if initial[index] == count - 1 and room.take(cpus, gpus):
                initial[index] = count
            elif count <= compute.actors.min:
                raise ClusterTooSmall(
                    f"compute.actors.min={compute.actors.min} actors of {cpus:g} CPU and {gpus:g} GPU for each of "
                    f"{len(actors)} scorer(s), and 1 CPU for reading and writing, do not fit: the cluster has "
                    f"{_total(nodes, 'CPU'):g} CPU and {_total(nodes, 'GPU'):g} GPU on {len(nodes)} node(s); lower "
                    f"compute.cpus_per_actor, compute.gpus_per_actor or compute.actors.min, or add nodes{on_cpus}"
                )
    return [
        Pool(cpus, gpus, compute.actors.min, started, compute.actors.max)
        for (cpus, gpus), started in zip(actors, initial, strict=True)
    ]


def placement(compute: Compute, scorer: ScorerConfig, *, embedded: bool) -> str:
    """Returns where a scorer will run, and why, as ``plan`` says it before there is a cluster to look at.

    Args:
        compute: What the run may use.
        scorer: One of its scorers.
        embedded: Whether Ray will run inside this process.
    """
    gpus, why = _gpus(compute, scorer)
    if gpus is not None:
        return f"on {f'{gpus:g} GPU for each actor' if gpus else 'CPUs'}: {why}"
    if embedded:
        return "on 1 GPU for each actor if this machine has one, else on CPUs: Ray runs inside this process"
    return "on 1 GPU for each actor: a cluster has GPUs unless the recipe says device: cpu"


def _actor(compute: Compute, scorer: ScorerConfig, has_gpus: bool) -> tuple[float, float]:
    """CPUs and GPUs of one actor of a scorer."""
    gpus, _ = _gpus(compute, scorer)
    return compute.cpus_per_actor, float(has_gpus) if gpus is None else gpus


def _gpus(compute: Compute, scorer: ScorerConfig) -> tuple[float | None, str]:
    """GPUs of one actor of a scorer, and what says so; None takes one where there are any."""
    if not isinstance(scorer, RewardModel):
        return 0.0, "it has no model"
    if scorer.device == "cpu":
        return 0.0, "device: cpu"
    if compute.gpus_per_actor is not None:
        return compute.gpus_per_actor, "compute.gpus_per_actor"
    if scorer.device == "cuda":
        return 1.0, "device: cuda"
    return None, ""


class _Room:
    """What is left of the nodes' CPUs and GPUs while actors are placed, each whole on one node."""

    def __init__(self, nodes: list[dict[str, float]]) -> None:
        # Nodes without GPUs first, so that actors that need none leave them to the others.
        self._nodes = sorted(([node.get("CPU", 0), node.get("GPU", 0)] for node in nodes), key=lambda node: node[1])
        self._spare_cpus = sum(cpus for cpus, _ in self._nodes) - 1

    def take(self, cpus: float, gpus: float) -> bool:
        """Places an actor if there is room for it."""
        if cpus > self._spare_cpus + 1e-9:
            return False
        for node in self._nodes:
            if cpus <= node[0] + 1e-9 and gpus <= node[1] + 1e-9:
                node[0] -= cpus
                node[1] -= gpus
                self._spare_cpus -= cpus
                return True
        return False


def _total(nodes: list[dict[str, float]], resource: str) -> float:
    return sum(node.get(resource, 0) for node in nodes)
