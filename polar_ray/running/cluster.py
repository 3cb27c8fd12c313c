"""The Ray cluster: connecting to it, and what fits on it."""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import ray
from ray.autoscaler.sdk import request_resources

from polar_ray.errors import ClusterTooSmall, ClusterUnreachable
from polar_ray.recipe.run import Compute
from polar_ray.recipe.scorers import RewardModel, ScorerConfig
from polar_ray.running.embedded import clean_up, own_folder
from polar_ray.running.ray_private import node_types
from polar_ray.running.termination import exit_on_sigterm

logger = logging.getLogger(__name__)

READ_CPUS, ENCODE_CPUS, WRITE_CPUS = 0.4, 0.9, 0.4
"""CPUs that one task of each stage asks for.

They differ from each other and from any usual actor, because Ray Data fuses neighbouring stages that ask for the
same resources, and fused stages cannot overlap.
"""

AUTOSCALER_S = 900.0
"""Seconds that an autoscaler gets to bring nodes: a machine with GPUs that has to pull its image takes that long."""
POLL_S = 2.0
"""Seconds between two looks at a cluster that is to grow."""
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
    with contextlib.ExitStack() as stack:
        if address:
            _connect(address)
        else:
            for left in clean_up():
                logger.warning("ended %d processes that a killed run had left in %s", len(left.processes), left.folder)
            _start_embedded(stack.enter_context(own_folder()))
        stack.callback(ray.shutdown)
        with exit_on_sigterm():
            yield


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


def _start_embedded(folder: str) -> None:
    """Starts Ray inside this process, quietly, with its files in a folder."""
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
            # Ray opens its own folder to everybody, so that lies in one that nobody else may enter.
            _temp_dir=os.path.join(folder, "r"),
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


def pools(
    compute: Compute,
    scorers: list[ScorerConfig],
    *,
    wait_s: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Pool]:
    """Returns the pool of each scorer, once there is room for it.

    Where actors do not fit and an autoscaler may bring nodes, it is asked for them.

    Args:
        compute: What the run may use.
        scorers: Its scorers.
        wait_s: Seconds to wait for the autoscaler; None waits ``AUTOSCALER_S`` where one tells what it may start.
        say: Is told that there is something to wait for.

    Raises:
        ClusterTooSmall: Not even ``min`` actors of each scorer, with a CPU left for reading and writing, fit.
    """
    asked_at: float | None = None
    try:
        while True:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            try:
                return pools_on(nodes, compute, scorers, settled=is_embedded(compute))
            except ClusterTooSmall as error:
                patience = wait_s if wait_s is not None else AUTOSCALER_S if node_types() else 0.0
                if asked_at is None and patience:
                    asked_at = time.monotonic()
                    request_resources(bundles=bundles(compute, scorers))
                    say(f"waiting up to {patience:,.0f} s for the autoscaler to bring nodes: {error}")
                if asked_at is None or time.monotonic() - asked_at > patience:
                    raise
            time.sleep(POLL_S)
    finally:
        if asked_at is not None:
            # A request holds until the next one; from here on the actors themselves ask for their nodes.
            request_resources(bundles=[])


def bundles(compute: Compute, scorers: list[ScorerConfig]) -> list[dict[str, float]]:
    """Returns what an autoscaler is asked for: the fewest actors of each scorer, and a CPU beside them."""
    actors = [_actor(compute, scorer, has_gpus=True) for scorer in scorers for _ in range(compute.actors.min)]
    return [{"CPU": cpus, **({"GPU": gpus} if gpus else {})} for cpus, gpus in actors] + [{"CPU": 1.0}]


def is_embedded(compute: Compute) -> bool:
    """Whether Ray runs inside this process, so that no node will ever join it."""
    return not (compute.address or os.environ.get("RAY_ADDRESS"))


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


def alive_nodes() -> frozenset[str]:
    """Returns the ids of the nodes that are alive."""
    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])


def placement(compute: Compute, scorer: ScorerConfig) -> str:
    """Returns where a scorer will run, and why, as ``plan`` says it before there is a cluster to look at."""
    if not isinstance(scorer, RewardModel):
        return "on CPUs: it has no model"
    if scorer.device == "cpu":
        return "on CPUs: device: cpu"
    if compute.gpus_per_actor is not None:
        count = f"{compute.gpus_per_actor:g} GPU for each actor" if compute.gpus_per_actor else "CPUs"
        return f"on {count}: compute.gpus_per_actor"
    if scorer.device == "cuda":
        return "on 1 GPU for each actor: device: cuda"
    if is_embedded(compute):
        return "on 1 GPU for each actor if this machine has one, else on CPUs: Ray runs inside this process"
    return "on 1 GPU for each actor: a cluster has GPUs unless the recipe says device: cpu"


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
