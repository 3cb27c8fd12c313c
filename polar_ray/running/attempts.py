"""What actors tell the driver beside their results: which split they are at, and that they could not start."""

import time
from collections import Counter
from dataclasses import dataclass, field

import ray

from polar_ray.errors import PolarRayError
from polar_ray.running.folder import RunFolder

MAX_IN_VAIN = 3
"""Times, without a reward of the scorer's between them, that a new process may fail on a split as the one before did;
then errors are the data's or the scorer's, not an actor's."""
SICK_FAILURES = 50
"""Failures of a process after which their share says something of it; doubled each time that a new one failed too."""
SICK_SHARE = 0.05
"""The share of its candidates on which a process may fail, and is not replaced for it."""


@dataclass(frozen=True)
class Failures:
    """On how many candidates a process failed in a way in which a sick device fails.

    Attributes:
        failed: Candidates of a split that did.
        tried: All of that split that could be scored.
        failed_ever: Of all splits that the process has scored, this one among them.
        tried_ever: Of all those.
    """

    failed: int
    tried: int
    failed_ever: int
    tried_ever: int

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the split has a reward that could have one."""
        return self.tried > 0 and self.failed == self.tried

    def are_many(self, factor: int = 1) -> bool:
        """Whether the process fails on so many that it may be sick."""
        return self.failed_ever >= SICK_FAILURES * factor and self.failed_ever > SICK_SHARE * self.tried_ever


@dataclass
class Attempt:
    """What is known of a split when an actor starts to score it.

    Attributes:
        deaths: Earlier attempts that never came back.
        set_aside: Groups (row in the split) that killed their process while they were scored alone.
        probed: Whether every other group has been scored alone and survived.
        deaths_after_probe: Deaths since then: the groups survive alone, but not together.
    """

    deaths: int = 0
    set_aside: list[int] = field(default_factory=list)
    probed: bool = False
    deaths_after_probe: int = 0


@dataclass
class _Record:
    attempt: Attempt = field(default_factory=Attempt)
    running: bool = False
    alone: int | None = None
    before: Failures | None = None
    """Those of the process that was replaced because of them."""


class AttemptLog:
    """The memory itself. Runs as an actor beside the driver, since the process that dies cannot remember.

    Should it die too, it starts again with no memory: splits get as many attempts as before, which are still bounded.

    Args:
        folder: The run's; what its actors agreed on is kept there. None keeps it in memory.
    """

    def __init__(self, folder: RunFolder | None = None) -> None:
        self._folder = folder
        self._budgets = {} if folder is None else folder.read_budgets()
        self._records: dict[str, _Record] = {}
        self._starts: Counter[str] = Counter()
        self._in_vain: Counter[str] = Counter()
        self._partly_in_vain: Counter[str] = Counter()
        self._on_trial: dict[str, str] = {}
        self._failure: PolarRayError | None = None
        self._ready_at: float | None = None
        self._said: list[str] = []

    def say(self, text: str) -> None:
        """Notes what a task has to say. Many processes may say the same, of one storage."""
        if text not in self._said:
            self._said.append(text)

    def heard(self, count: int) -> list[str]:
        """Returns what tasks have said after the first ``count`` lines."""
        return self._said[count:]

    def starting(self, actor: str) -> int:
        """Notes that an actor's process starts; returns how many before it died while they started."""
        self._starts[actor] += 1
        return self._starts[actor] - 1

    def started(self, actor: str) -> None:
        """Notes that an actor is ready to score."""
        self._ready_at = self._ready_at or time.time()
        del self._starts[actor]

    def ready_at(self) -> float | None:
        """Returns when the first actor was ready (Unix time of the driver's node), or None."""
        return self._ready_at

    def agree(self, scorer: str, budget: int) -> int:
        """Returns the token budget of the run's first actor of a scorer, which may be this one's.

        Packs of other sizes add up in another order, so the last bits of a reward would depend on the free memory that
        each actor happened to find.
        """
        if scorer not in self._budgets:
            self._budgets[scorer] = budget
            if self._folder is not None:
                self._folder.write_budgets(self._budgets)
        return self._budgets[scorer]

    def cannot_start(self, error: PolarRayError) -> None:
        """Notes that a scorer could not be made. No actor will do better, so the driver stops the run."""
        self._failure = self._failure or error

    def failure(self) -> PolarRayError | None:
        """Returns why a scorer could not be made, if one could not."""
        return self._failure

    def begin(self, key: str) -> Attempt:
        """Notes that scoring of a split by a scorer starts; an attempt that is still running has died."""
        record = self._record(key)
        if record.running:
            record.attempt.deaths += 1
            if record.alone is not None:
                record.attempt.set_aside.append(record.alone)
            elif record.attempt.probed:
                record.attempt.deaths_after_probe += 1
        record.running, record.alone = True, None
        return record.attempt

    def alone(self, key: str, group: int) -> None:
        """Notes that one group of the split is being scored alone."""
        self._record(key).alone = group

    def probed(self, key: str) -> None:
        """Notes that every group that is not set aside has been scored alone."""
        record = self._record(key)
        record.alone, record.attempt.probed = None, True

    def replace(self, key: str, scorer: str, failures: Failures) -> bool:
        """Notes that a process failed on all of a split, or on many groups by now; returns whether it is to end.

        An actor whose device has failed fails fast: it would take the queue and turn split after split into errors. A
        new process scores the split again. If it fares no better, the errors are the split's own and stand.
        """
        record = self._record(key)
        if record.before is not None:
            return False
        if failures.is_whole:
            if self._in_vain[scorer] >= MAX_IN_VAIN:
                return False
        elif scorer in self._on_trial or not failures.are_many(2 ** self._partly_in_vain[scorer]):
            # Where errors are the data's, all actors have many: what comes of the first new process is waited for.
            return False
        else:
            self._on_trial[scorer] = key
        # The end that follows is no death that the split would answer for.
        record.before, record.running = failures, False
        return True

    def finish(self, key: str, scorer: str, failed: int, *, rewarded: bool) -> None:
        """Forgets a split that was scored, and learns from it whether a new process was of use.

        Args:
            key: The split's, for this scorer.
            scorer: That scored it.
            failed: On how many candidates it failed.
            rewarded: Whether it gave a reward. Then it can work, and an actor of it that fails on all of a split is
                worth a new process again.
        """
        record = self._records.pop(key, None)
        before = None if record is None else record.before
        if before is not None and before.is_whole and not rewarded:
            self._in_vain[scorer] += 1
        if self._on_trial.get(scorer) == key:
            del self._on_trial[scorer]
            if before is not None and 2 * failed > before.failed:
                self._partly_in_vain[scorer] += 1
            else:
                del self._partly_in_vain[scorer]
        if rewarded:
            del self._in_vain[scorer]

    def _record(self, key: str) -> _Record:
        return self._records.setdefault(key, _Record())


def start_attempt_log(folder: RunFolder | None = None) -> "ray.actor.ActorHandle":
    """Starts the log as an actor on the driver's node: it must not be lost with a worker's node."""
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    log = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(AttemptLog)
    return log.options(scheduling_strategy=here).remote(folder)
