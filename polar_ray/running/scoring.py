"""The scoring stage: one actor, one copy of the model."""

import logging
import os
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn, cast

import pyarrow as pa
import pyarrow.compute as pc
import ray

from polar_ray.data.status import Status
from polar_ray.deriving.columns import check_extras
from polar_ray.errors import CheckpointError, DeviceLost, PolarRayError, ScoringError
from polar_ray.recipe.scorers import RewardModel, ScorerConfig
from polar_ray.running.attempts import Attempt, Failures
from polar_ray.running.envelope import Envelope
from polar_ray.running.failures import stage
from polar_ray.scorers.answers import score_checked
from polar_ray.scorers.base import Scores, error_text
from polar_ray.scorers.catalog import fingerprint_of, make_scorer
from polar_ray.scorers.pieces import concat, take_groups, unscored
from polar_ray.scorers.sight import seen
from polar_ray.scorers.subset import score_subset
from polar_ray.scorers.verification import Verification, not_rescored, sample, verify
from polar_ray.terminal import printable

if TYPE_CHECKING:
    from polar_ray.scorers.reward_model import RewardModelScorer

logger = logging.getLogger(__name__)

MAX_DEATHS_AT_START = 3
"""Times in a row that an actor's process may die while its model is loaded."""


class Score:
    """Ids or groups → scores. Making one loads the model and runs its self-check.

    A split is scored whole, by a plan that depends on the split alone. A split that has killed its process
    ``max_attempts`` times is searched: each group is scored alone, those that kill the process are set aside with
    the status ``crashed``, and then the rest is scored whole again.

    A share of the groups (``verify``), chosen by the hash of their prompt ids, is scored again plainly, after the
    split's scores are final. The sample of a split that has killed its process is left alone.
    """

    def __init__(
        self,
        name: str,
        config: ScorerConfig,
        fingerprint: dict[str, str],
        attempts: Any,
        max_attempts: int,
        threads: int,
        ranks: int,
        verify: float = 0,
        names: tuple[str, ...] = ("",),
    ) -> None:
        if isinstance(config, RewardModel):
            import torch

            from polar_ray.models.quiet import without_progress_bars

            # Before anything runs in parallel; Ray makes and calls an actor in the same thread, to which this applies.
            torch.set_num_threads(threads)
            without_progress_bars()
        self._name = name
        self._attempts = attempts
        self._max_attempts = max_attempts
        self._verify = verify if isinstance(config, RewardModel) else 0
        self._failure: PolarRayError | None = None
        self._failed = self._tried = 0
        actor = ray.get_runtime_context().get_actor_id()
        deaths = ray.get(attempts.starting.remote(actor))
        try:
            if deaths >= MAX_DEATHS_AT_START:
                raise ScoringError(
                    f"the process of a scoring actor died {deaths} times in a row before it could score; most often "
                    "its model does not fit into memory: give it a larger machine or GPU, or fewer actors to a node"
                )
            _check_files(config, fingerprint)
            self._scorer = make_scorer(config, ranks)
            check_extras(type(self._scorer).__name__, self._scorer.extras, name, names)
            if isinstance(config, RewardModel):
                self._agree_on_budget()
        except PolarRayError as error:
            # Raised from here it would come out as a page of Ray's own words; the driver asks for it instead.
            ray.get(attempts.cannot_start.remote(error))
            self._failure = error
        ray.get(attempts.started.remote(actor))
        self._idle_since = time.perf_counter()

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """Yields one block per split, with the split's scores in place of its ids."""
        for envelope in Envelope.of_block(block):
            waited = time.perf_counter() - self._idle_since
            with stage("scoring", envelope.name):
                scored = self._scored(envelope)
            self._idle_since = time.perf_counter()
            yield scored.waited(f"score:{self._name}", waited).to_block()

    def _agree_on_budget(self) -> None:
        """Packs as the run's other actors do, as far as there is memory for it here."""
        engine = cast("RewardModelScorer", self._scorer).engine
        engine.token_budget = min(
            engine.token_budget, ray.get(self._attempts.agree.remote(self._name, engine.token_budget))
        )

    def _scored(self, envelope: Envelope) -> Envelope:
        if self._failure is not None:
            raise self._failure
        started = time.perf_counter()
        encoded = f"encoded:{self._name}"
        # What was encoded is of the same candidates.
        shown = seen(envelope.table("groups"), self._scorer.sight)
        groups = shown.groups
        ids = envelope.table(encoded) if encoded in envelope.parts else None
        key = f"{self._name}:{envelope.header.split_id}"
        attempt = ray.get(self._attempts.begin.remote(key))
        scores = self._score(key, groups, ids, attempt)
        failures = self._failures(scores)
        may_be_sick = failures.is_whole or (failures.failed > 0 and failures.are_many())
        if may_be_sick and ray.get(self._attempts.replace.remote(key, self._name, failures)):
            _end_process(
                f"{failures.failed} of {failures.tried} candidates of {envelope.name} became errors, and "
                f"{failures.failed_ever} of {failures.tried_ever} since this process began; a new one scores it again"
            )
        scored = envelope.without(encoded).with_table(f"scores:{self._name}", shown.whole(scores).to_table())
        scored = scored.timed(f"score:{self._name}", time.perf_counter() - started)
        if self._verify:
            started = time.perf_counter()
            scored = scored.verified(self._name, self._verified(groups, ids, scores, attempt))
            scored = scored.timed(f"verify:{self._name}", time.perf_counter() - started)
        rewarded = scores.reward.null_count < len(scores)
        ray.get(self._attempts.finish.remote(key, self._name, failures.failed, rewarded=rewarded))
        return scored

    def _failures(self, scores: Scores) -> Failures:
        """Counts those of a split towards those of this process."""
        failed = pc.sum(pc.is_in(scores.status, _DEVICE)).as_py() or 0
        tried = pc.sum(pc.is_in(scores.status, _TRIED)).as_py() or 0
        self._failed += failed
        self._tried += tried
        return Failures(failed, tried, self._failed, self._tried)

    def _verified(self, groups: pa.Table, ids: pa.Table | None, scores: Scores, attempt: Attempt) -> Verification:
        """Verifies the sample of a split."""
        from polar_ray.scorers.reward_model import RewardModelScorer

        assert isinstance(self._scorer, RewardModelScorer)
        table = ids if ids is not None else self._scorer.encoder.encode(groups)
        rows = sample(groups, table, self._verify)
        if attempt.deaths:
            why = "a group of their split had killed the process that scored it"
            return not_rescored(self._scorer.tolerance, groups, scores, rows, why)
        try:
            return verify(self._scorer, groups, table, scores, rows)
        except DeviceLost as error:
            # The next split would fail and be blamed for it; this one is scored again without.
            _end_process(str(error))

    def _score(self, key: str, groups: pa.Table, ids: pa.Table | None, attempt: Attempt) -> Scores:
        if groups.num_rows == 0:
            return unscored(0, Status.OK, None, self._scorer.extras)
        if attempt.deaths < self._max_attempts:
            return self._whole(groups, ids, [])
        alone: dict[int, Scores] = {}
        together_kills = attempt.deaths_after_probe >= self._max_attempts
        if not attempt.probed or together_kills:
            alone = self._each_alone(key, groups, ids, attempt.set_aside)
        if together_kills:
            return concat([alone[row] for row in range(groups.num_rows)])
        return self._whole(groups, ids, attempt.set_aside)

    def _whole(self, groups: pa.Table, ids: pa.Table | None, set_aside: list[int]) -> Scores:
        try:
            if not set_aside:
                return score_checked(self._scorer, groups, ids)
            return score_subset(self._scorer, groups, ids, set_aside, Status.CRASHED, self._crash_message())
        except Exception as error:
            if isinstance(error, PolarRayError) and not isinstance(error, ScoringError):
                # The scorer says that it cannot work at all: no other split would fare better.
                raise
            # What else a scorer raises here hit every group of the split. It becomes their status; the driver
            # stops the run when no split fares better.
            if isinstance(error, DeviceLost) or "CUDA error" in str(error):
                _end_process(str(error))
            candidates = sum(len(row) for row in groups.column("candidates"))
            return unscored(candidates, Status.ERROR, error_text(error), self._scorer.extras)

    def _each_alone(self, key: str, groups: pa.Table, ids: pa.Table | None, set_aside: list[int]) -> dict[int, Scores]:
        """Scores each group alone and notes which one it is at, so that a death tells which group it was."""
        alone = {}
        for row in range(groups.num_rows):
            if row in set_aside:
                size = len(groups.column("candidates")[row])
                alone[row] = unscored(size, Status.CRASHED, self._crash_message(), self._scorer.extras)
                continue
            ray.get(self._attempts.alone.remote(key, row))
            alone[row] = self._whole(*take_groups(groups, ids, [row]), [])
        ray.get(self._attempts.probed.remote(key))
        return alone

    def _crash_message(self) -> str:
        return "scoring this group killed its process each time, also when it was scored alone"


_TRIED = pa.array([status.value for status in Status if status.was_tried])
_DEVICE = pa.array([status.value for status in Status if status.may_be_the_device])


def _end_process(reason: str) -> NoReturn:
    """Ends a process that can no longer use its devices, or seems not to: only a new one helps."""
    logger.error("%s", printable(reason))
    os._exit(1)


def _check_files(config: ScorerConfig, expected: dict[str, str]) -> None:
    """Checks that this node has the same model files as the node where the run's fingerprint was taken.

    Raises:
        CheckpointError: A file differs: actors on different nodes would give different rewards.
    """
    if not isinstance(config, RewardModel):
        return
    here = fingerprint_of(config)
    differing = sorted(key for key in {**expected, **here} if expected.get(key) != here.get(key))
    if differing:
        raise CheckpointError(
            f"{config.model} on node {socket.gethostname()} is not what it is elsewhere: {', '.join(differing[:3])}; "
            "give all nodes the same files, or a Hugging Face id with a revision"
        )
