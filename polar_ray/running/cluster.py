"""The Ray cluster: connecting to it, and what fits on it."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import ray

from polar_ray.errors import ClusterTooSmall, ClusterUnreachable
from polar_ray.recipe.run import Compute
from polar_ray.recipe.scorers import RewardModel, ScorerConfig
from polar_ray.running.termination import exit_on_sigterm

READ_CPUS, ENCODE_CPUS, WRITE_CPUS = 0.4, 0.9, 0.4
"""CPUs that one task of each stage asks for.

They differ from each other and from any usual actor, because Ray Data fuses neighbouring stages that ask for the
same resources, and fused stages cannot overlap.
"""

CONNECT_S = 10.0
"""Seconds in which a cluster must answer at its address."""


@contextlib.contextmanager
def connected(compute: Compute) -> Iterator[None]:
    """Connects to the cluster at ``compute.address`` or ``RAY_ADDRESS``, or starts Ray inside this process.

    Ray that was started here is stopped at the end; Ray that was there already is left running. Until then SIGTERM
    raises SystemExit in the main thread, so that a run that is told to stop cleans up.

    Raises:
        ClusterUnreachable: There is no Ray at the address.
    """
    if ray.is_initialized():
        yield
        return
    # Ray Data logs every error with its stack before it raises it; the error itself says more.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    address = compute.address or os.environ.get("RAY_ADDRESS")
    # Ray Data's actor pools make Ray's core log an error about constructor arguments that is none. At this level it
    # keeps quiet.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if address:
        _connect(address)
    else:
        _start_embedded()
    try:
        with exit_on_sigterm():
            yield
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    """Connects to a cluster that is there."""
    remedy = "correct compute.address (or RAY_ADDRESS), or leave it out to start Ray inside this process"
    host, port = _host_and_port(address)
    try:
        if port:
            # Ray itself would try for 20 minutes.
            socket.create_connection((host, port), timeout=CONNECT_S).close()
        with _stderr_turned_away():
            ray.init(address=address, logging_level="WARNING", log_to_driver=False)
    except OSError as error:
        raise ClusterUnreachable(f"there is no Ray cluster at {address}: {error}; {remedy}") from error
    except ray.exceptions.AuthenticationError as error:
        raise ClusterUnreachable(
            f"the Ray cluster at {address} asks for a token that this process does not have: set RAY_AUTH_MODE=token "
            "and RAY_AUTH_TOKEN_PATH as on the cluster"
        ) from error


def _host_and_port(address: str) -> tuple[str, int]:
    """Returns where to knock; port 0 for an address such as ``auto``, which Ray looks up by itself."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    return (host.strip("[]"), int(port)) if separator and port.isdigit() else (address, 0)


@contextlib.contextmanager
def _stderr_turned_away() -> Iterator[None]:
    """Sends standard error nowhere: Ray's core announces there that its log is restricted, which is of no use."""
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _start_embedded() -> None:
    """Starts Ray inside this process, quietly."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with _stderr_turned_away():
        # One logical CPU more than there are cores: reading and writing wait for storage most of the time, and
        # without it a scoring actor that takes every core would leave them none.
        ray.init(
            address="local",
            num_cpus=(os.cpu_count() or 1) + 1,
            include_dashboard=False,
            # What a worker raises reaches the driver as an exception; it need not be logged as well.
            logging_level="CRITICAL",
            log_to_driver=False,
        )


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


def pools(compute: Compute, scorers: list[ScorerConfig]) -> list[Pool]:
    """Returns the pool of each scorer.

    Raises:
        ClusterTooSmall: Not even ``min`` actors of each scorer, with a CPU left for reading and writing, fit.
    """
    return pools_on([node["Resources"] for node in ray.nodes() if node["Alive"]], compute, scorers)


def pools_on(nodes: list[dict[str, float]], compute: Compute, scorers: list[ScorerConfig]) -> list[Pool]:
    """Returns the pool of each scorer on nodes with these resources; raises as ``pools``."""
    has_gpus = any(node.get("GPU", 0) > 0 for node in nodes)
    actors = [_actor(compute, scorer, has_gpus) for scorer in scorers]
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
                    "compute.cpus_per_actor, compute.gpus_per_actor or compute.actors.min, or add nodes"
                )
    return [
        Pool(cpus, gpus, compute.actors.min, started, compute.actors.max)
        for (cpus, gpus), started in zip(actors, initial, strict=True)
    ]


def alive_nodes() -> frozenset[str]:
    """Returns the ids of the nodes that are alive."""
    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])


def _actor(compute: Compute, scorer: ScorerConfig, has_gpus: bool) -> tuple[float, float]:
    """CPUs and GPUs of one actor of a scorer."""
    if not isinstance(scorer, RewardModel) or scorer.device == "cpu":
        return compute.cpus_per_actor, 0.0
    if compute.gpus_per_actor is not None:
        return compute.cpus_per_actor, compute.gpus_per_actor
    return compute.cpus_per_actor, 1.0 if has_gpus or scorer.device == "cuda" else 0.0


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
