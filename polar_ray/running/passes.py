"""One pass over what is left of a run, watched from outside.

Ray Data retries dead actors, workers and nodes by itself. What it does not do: after a node is lost, actors of a pool
that no longer fits wait for room without end (ray-project/ray#44687). That is noticed here.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.data import Dataset

from polar_ray.running.cluster import alive_nodes
from polar_ray.running.failures import PassLost, explain
from polar_ray.running.folder import Commit
from polar_ray.running.pipeline import commits
from polar_ray.running.ray_private import Execution

POLL_S = 2.0


class NodeLossWatch:
    """Notices that a node has died and that nothing has been committed for a while.

    Attributes:
        grace_s: Seconds that Ray gets to recover by itself; start-up and splits that take longer get more.
    """

    def __init__(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self._nodes = alive_nodes()
        self._lost_at: float | None = None
        self._slowest = 0.0
        self._last_commit = time.monotonic()

    def committed(self) -> None:
        """Notes a commit."""
        now = time.monotonic()
        self._slowest = max(self._slowest, now - self._last_commit)
        # A loss is not forgotten: the other actors commit what they have at hand before the pass stands still.
        self._last_commit = now

    def stuck(self) -> bool:
        """Whether a node is gone and the pass stands still."""
        now = time.monotonic()
        nodes = alive_nodes()
        if self._nodes - nodes:
            self._lost_at = now
        self._nodes = nodes
        if self._lost_at is None:
            return False
        return now - max(self._lost_at, self._last_commit) > max(self.grace_s, 2 * self._slowest)


def run_pass(
    dataset: Dataset, attempts: Any, watch: NodeLossWatch, say: Callable[[str], None] = lambda text: None
) -> Iterator[Commit]:
    """Runs a pipeline and yields commit records.

    Args:
        dataset: From ``pipeline.dataset``.
        attempts: The AttemptLog actor that the pipeline's actors talk to.
        watch: Looks after the nodes.
        say: Is told what tasks have to say.

    Raises:
        PassLost: Part of the cluster went away; the rest is worth another pass.
        RunStalled: Nothing moved for ``limits.no_progress_s`` seconds.
        PolarRayError: What a stage raised on purpose, such as CheckpointError when the model was loaded.
        ScoringError: What a stage raised otherwise.
    """
    results: queue.Queue[Commit | BaseException | None] = queue.Queue()
    heard = 0

    def consume() -> None:
        try:
            for commit in commits(dataset):
                results.put(commit)
            results.put(None)
        except BaseException as error:
            results.put(error)

    execution = Execution(dataset)
    thread = threading.Thread(target=consume, name="polar-ray-pass", daemon=True)
    thread.start()
    try:
        while True:
            try:
                result = results.get(timeout=POLL_S)
            except queue.Empty:
                failure = ray.get(attempts.failure.remote())
                for text in ray.get(attempts.heard.remote(heard)):
                    heard += 1
                    say(text)
                if failure is not None:
                    raise failure from None
                if watch.stuck():
                    raise PassLost("a node was lost and the rest of the cluster stood still") from None
                continue
            if result is None:
                return
            if isinstance(result, BaseException):
                raise explain(result) from result
            watch.committed()
            yield result
    finally:
        execution.stop()
        thread.join(timeout=10)
