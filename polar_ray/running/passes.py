"""Passes over what is left of a run, each watched from outside, until nothing is left.

Ray Data retries dead actors, workers and nodes by itself. What it does not do: after a node is lost, actors of a pool
that no longer fits wait for room without end (ray-project/ray#44687). That is noticed here.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.data import Dataset

from polar_ray.data.lease import Lease
from polar_ray.data.sources import Source
from polar_ray.errors import RunStalled
from polar_ray.recipe.run import Actors, Limits
from polar_ray.running.attempts import start_attempt_log
from polar_ray.running.clock import ScoringClock
from polar_ray.running.cluster import Connection, alive_nodes
from polar_ray.running.failures import PassLost, explain
from polar_ray.running.folder import Commit
from polar_ray.running.job import Job
from polar_ray.running.pipeline import commits, dataset
from polar_ray.running.placement import Pool
from polar_ray.running.progress import Reporter
from polar_ray.running.ray_private import Execution
from polar_ray.running.tally import Tally
from polar_ray.running.todo import Todo

POLL_S = 2.0
MAX_LOST_PASSES = 3
"""Passes in a row that may be lost without one commit between them."""


@dataclass(frozen=True)
class Passes:
    """The passes of a run.

    Attributes:
        job: What the run does.
        cluster: Where.
        limits: When it gives up.
        todo: What is left of it; is told of each commit, as are the three that follow.
        tally: The sums.
        clock: The times.
        lease: Is held as long as the run works.
        reporter: Is told how it goes.
    """

    job: Job
    cluster: Connection
    limits: Limits
    todo: Todo
    tally: Tally
    clock: ScoringClock
    lease: Lease
    reporter: Reporter

    def until_nothing_is_left(self, sized: list[Pool]) -> None:
        """Runs them; raises as ``run_pass``, and what the limits say."""
        lost = 0
        while sources := self.todo.sources():
            before = self.tally.splits
            try:
                self._run(sources, sized)
            except PassLost as reason:
                lost = lost + 1 if self.tally.splits == before else 1
                if lost >= MAX_LOST_PASSES:
                    raise RunStalled(
                        f"{lost} passes in a row were lost without one split committed ({reason}); the committed "
                        "splits are kept; look at the cluster (ray status), then run the same command again"
                    ) from reason
                self.reporter.say(f"{reason}; going on with what is left")
                sized = self._fewest()
            else:
                # A pass that comes to its end has done all there was to do; another would find the same.
                break

    def _run(self, sources: list[Source], sized: list[Pool]) -> None:
        attempts = start_attempt_log(self.job.folder)
        self.clock.start()
        pipeline = dataset(self.job, sources, self.todo.committed, sized, attempts)
        for commit in run_pass(pipeline, attempts, NodeLossWatch(self.limits.node_loss_s), self.reporter.say):
            for new in self.todo.add(commit):
                self.tally.add(new)
            self.clock.tick(self.tally)
            self.tally.check(self.limits)
            if self.lease.taken_over:
                self.lease.check()
            self.reporter.update(self.tally, self.todo.done_share)
        for new in self.todo.end_pass():
            self.tally.add(new)
        self.clock.ready(ray.get(attempts.ready_at.remote()))

    def _fewest(self) -> list[Pool]:
        """The pools after a loss: fewer actors than the recipe's minimum are better than none while a node is away."""
        recipe = self.job.recipe
        least = recipe.compute.model_copy(update={"actors": Actors(min=1, max=recipe.compute.actors.max)})
        return self.cluster.pools(
            least,
            list(recipe.named_scorers.values()),
            wait_s=self.limits.wait_for_nodes_s,
            say=self.reporter.say,
        )


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
