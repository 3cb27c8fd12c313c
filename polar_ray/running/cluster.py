"""The Ray cluster: connecting to it, and waiting for the nodes that a run needs."""

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
from polar_ray.recipe.scorers import ScorerConfig
from polar_ray.running.embedded import RAYS, clean_up, own_folder
from polar_ray.running.placement import Pool, bundles, pools_on
from polar_ray.running.ray_private import Scaling, is_started_here, scaling, start_in
from polar_ray.termination import exit_on_sigterm

logger = logging.getLogger(__name__)

NOTICE_S = 20.0
"""Seconds in which an autoscaler that can bring what it was asked for begins to: it looks every few."""
AUTOSCALER_S = 900.0
"""Seconds that an autoscaler gets to bring nodes: a machine with GPUs that has to pull its image takes that long."""
POLL_S = 2.0
"""Seconds between two looks at a cluster that is to grow."""
CONNECT_S = 10.0
"""Seconds in which a cluster must answer at its address."""


@dataclass(frozen=True)
class Connection:
    """The Ray that this process is connected to.

    Attributes:
        embedded: Whether it was started by this process, polar_ray or a notebook: then no node will ever join it.
    """

    embedded: bool

    def pools(
        self,
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
            wait_s: Seconds to wait for nodes; None waits ``AUTOSCALER_S`` for an autoscaler that begins to bring some
                within ``NOTICE_S``, and not at all where there is none.
            say: Is told that there is something to wait for.

        Raises:
            ClusterTooSmall: Not even ``min`` actors of each scorer, with a CPU left for reading and writing, fit.
        """
        patience = wait_s if wait_s is not None else 0.0 if self.embedded else NOTICE_S
        asked_at: float | None = None
        growing = False
        try:
            while True:
                nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
                try:
                    return pools_on(nodes, compute, scorers, settled=self.embedded)
                except ClusterTooSmall as error:
                    state = scaling() if patience and wait_s is None and not growing else Scaling.SILENT
                    if state is Scaling.NONE:
                        raise ClusterTooSmall(
                            f"{error}. The cluster has no autoscaler that would bring any: nodes that are about to "
                            "join are waited for with limits.wait_for_nodes_s"
                        ) from error
                    if asked_at is None and patience:
                        asked_at = time.monotonic()
                        request_resources(bundles=bundles(compute, scorers))
                        say(
                            f"waiting up to {patience:,.0f} s for the autoscaler to bring nodes, if there is one: "
                            f"{error}"
                        )
                    if asked_at is None or time.monotonic() - asked_at > patience:
                        raise
                if state is Scaling.GROWING:
                    growing, patience = True, AUTOSCALER_S
                    say(f"the autoscaler is bringing nodes; waiting up to {patience:,.0f} s")
                time.sleep(POLL_S)
        finally:
            if asked_at is not None:
                # A request holds until the next one; from here on the actors themselves ask for their nodes.
                request_resources(bundles=[])


def here() -> Connection | None:
    """Returns what this process is connected to, or None."""
    return Connection(is_started_here()) if ray.is_initialized() else None


@contextlib.contextmanager
def connected(compute: Compute) -> Iterator[Connection]:
    """Connects to the cluster at ``compute.address`` or ``RAY_ADDRESS``, or starts Ray inside this process.

    Ray that was started here is stopped at the end; Ray that was there already is left running. Until then SIGTERM
    raises SystemExit in the main thread, so that a run that is told to stop cleans up.

    Raises:
        ClusterUnreachable: There is no Ray at the address.
    """
    if (there := here()) is not None:
        yield there
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
            yield Connection(is_started_here())


def _connect(address: str) -> None:
    """Connects to a cluster that is there."""
    remedy = "correct compute.address (or RAY_ADDRESS), or leave it out to start Ray inside this process"
    token = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH as on the cluster"
    host, port = _host_and_port(address)
    try:
        if port:
            # Ray itself would try for 20 minutes.
            socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError as error:
        raise ClusterUnreachable(f"there is no Ray cluster at {address}: {error}; {remedy}") from error
    try:
        with _stderr_turned_away():
            ray.init(address=address, logging_level="WARNING", log_to_driver=False)
    except OSError as error:
        # Ray does not tell a cluster that asks for a token from one that is none.
        answers = f"something answers at {address}, but not as a Ray cluster" if port else "there is no Ray cluster"
        raise ClusterUnreachable(f"{answers}: {error}; if it asks for a token, {token}; otherwise {remedy}") from error
    except ray.exceptions.AuthenticationError as error:
        raise ClusterUnreachable(
            f"the Ray cluster at {address} asks for a token that this process does not have: {token}"
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
        start_in(
            # Ray opens its own folder to everybody, so that lies in one that nobody else may enter.
            os.path.join(folder, RAYS),
            num_cpus=(os.cpu_count() or 1) + 1,
            include_dashboard=False,
            # What a worker raises reaches the driver as an exception; it need not be logged as well.
            logging_level="CRITICAL",
            log_to_driver=False,
        )


def alive_nodes() -> frozenset[str]:
    """Returns the ids of the nodes that are alive."""
    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])
