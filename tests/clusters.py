"""Ray clusters that tests start on this machine with ``ray start``, apart from any other Ray here."""

import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from processes import Command, command, wait_for

RAY = str(Path(sys.executable).parent / "ray")

ENVIRONMENT = {
    # Head and clients must agree, and a token may lie in the home folder of who runs the tests.
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    # A raylet that is killed counts as dead after two seconds, not fifteen.
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}


class Cluster:
    """A cluster of raylets, each of which could be a machine of its own.

    Attributes:
        address: For ``compute.address``.
        environment: What a process needs to connect.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.environment = environment
        self._folder = folder
        self.address = ""

    @contextmanager
    def head(self, *options: str) -> Iterator[None]:
        """Runs the head node."""
        # The agent takes jobs; its usual port may be taken by another Ray.
        agent = f"--dashboard-agent-listen-port={free_port()}"
        with self._start("--head", "--port=0", agent, f"--temp-dir={self._folder}", *options):
            told = self._folder / "ray_current_cluster"
            wait_for("the address of the cluster", lambda: told.exists() and told.read_text().strip() != "")
            self.address = told.read_text().strip()
            yield

    @contextmanager
    def node(self, cpus: int) -> Iterator[psutil.Process]:
        """Runs one more node, which signs off in the end, and yields its raylet."""
        with self._start(f"--address={self.address}", f"--num-cpus={cpus}") as node:
            yield next(process for process in node.family() if "raylet" in Path(process.cmdline()[0]).name)
            node.popen.terminate()
            node.wait()

    @contextmanager
    def _start(self, *options: str) -> Iterator[Command]:
        arguments = [RAY, "start", "--block", "--disable-usage-stats", *options]
        log = self._folder / f"node-{uuid.uuid4().hex}.log"
        with command(arguments, log, self.environment) as node:
            wait_for("Ray to start", lambda: "Ray runtime started" in node.output or node.popen.poll() is not None)
            assert node.popen.poll() is None, node.output
            yield node


def free_port() -> int:
    """Returns a port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def cluster(*head_options: str, environment: dict[str, str] | None = None) -> Iterator[Cluster]:
    """Starts a cluster with a head node; in the end no process of it is left.

    Args:
        head_options: Of ``ray start``.
        environment: What its processes have beside what every cluster of the tests has.
    """
    # Ray's sockets lie in this folder, and their paths must be shorter than those that pytest gives.
    with tempfile.TemporaryDirectory(prefix="r-", ignore_cleanup_errors=True) as folder:
        started = Cluster(Path(folder), {**ENVIRONMENT, **(environment or {})})
        with started.head(*head_options):
            yield started
