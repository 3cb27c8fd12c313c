"""Verification: a sample of what was scored, scored again by one plain forward for each sequence.

What the engine does to be fast (shared beginnings, packed rows, kernels of its own) is proven by tests and probed when
it starts. Verification looks at the rewards of the run itself.
"""

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from polar_ray.data.status import Status
from polar_ray.errors import DeviceLost
from polar_ray.scorers.base import Scores, error_text
from polar_ray.scorers.encoded import candidate_counts
from polar_ray.scorers.pieces import take_groups

if TYPE_CHECKING:
    from polar_ray.scorers.reward_model import RewardModelScorer


class Verification(msgspec.Struct, frozen=True):
    """What came of scoring candidates again. ``+`` adds two of them up, in any order.

    Attributes:
        tolerance: How far a reward may move, relative to ``max(1, |reward|)``; see ``allowed_rounding``. Of a sum, the
            largest of its parts.
        groups: Groups of the sample.
        candidates: Candidates that have a reward both ways.
        beyond: Candidates whose rewards are further apart than the tolerance, or are finite in one way only.
        failed: Candidates that could not be scored again, most often for want of memory.
        sum_delta: Sum of |difference| over ``candidates``.
        max_delta: The largest |difference|.
        worst: The ``prompt_id`` where the difference is largest; among those beyond the tolerance, if there are any.
        error: Why a candidate could not be scored again.
    """

    tolerance: float
    groups: int = 0
    candidates: int = 0
    beyond: int = 0
    failed: int = 0
    sum_delta: float = 0.0
    max_delta: float = 0.0
    worst: str | None = None
    error: str | None = None

    def __add__(self, other: "Verification") -> "Verification":
        # What is finite in one way only has no part in max_delta, and the tolerance grows with the reward.
        worst = max(self, other, key=lambda part: (part.beyond > 0, part.max_delta, part.worst or ""))
        return Verification(
            tolerance=max(self.tolerance, other.tolerance),
            groups=self.groups + other.groups,
            candidates=self.candidates + other.candidates,
            beyond=self.beyond + other.beyond,
            failed=self.failed + other.failed,
            sum_delta=self.sum_delta + other.sum_delta,
            max_delta=max(self.max_delta, other.max_delta),
            worst=worst.worst,
            error=self.error or other.error,
        )


def sample(groups: pa.Table, encoded: pa.Table, share: float) -> np.ndarray:
    """Returns the rows of the groups to verify: those whose prompt's hash lies in the lowest ``share`` of all hashes.

    Args:
        groups: Table with ``GROUP_SCHEMA``.
        encoded: What the scorer's encoder made of it; groups without a sequence are left out.
        share: Between 0 and 1.
    """
    with_ids = encoded.filter(pc.is_valid(encoded.column("ids")))
    rows = np.unique(with_ids.column("group").to_numpy())
    prompt_ids = groups.column("prompt_id").take(pa.array(rows)).to_pylist()
    hashes = np.array([xxhash.xxh3_64_intdigest(name.encode()) for name in prompt_ids], np.uint64)
    # As floats, since a share of 1 is one more than the largest hash.
    chosen = hashes.astype(np.float64) < share * 2.0**64 if share < 1 else np.ones(len(rows), bool)
    picked: np.ndarray = rows[chosen]
    return picked


def verify(
    scorer: "RewardModelScorer", groups: pa.Table, encoded: pa.Table, scores: Scores, rows: np.ndarray
) -> Verification:
    """Scores the given groups again and compares.

    Args:
        scorer: What gave the scores.
        groups: All groups, with ``GROUP_SCHEMA``.
        encoded: What the scorer's encoder made of them.
        scores: Their scores, one per candidate.
        rows: From ``sample``.

    Raises:
        DeviceLost: Nothing more can be scored in this process.
    """
    if not len(rows):
        return Verification(scorer.tolerance)
    kept, compared = _of_sample(groups, scores, rows)
    before = scores.reward.filter(pa.array(kept))
    prompt_ids = np.repeat(groups.column("prompt_id").to_numpy(), candidate_counts(groups))[kept]
    try:
        again = scorer.rescore_table(*take_groups(groups, encoded, rows))
    except DeviceLost:
        raise
    except Exception as error:
        # A forward of one whole sequence may need memory that packed ones do not, and the scores stand without it.
        return not_rescored(scorer.tolerance, groups, scores, rows, error_text(error))
    # Loads torch, which whoever only reads the record of a run does not need.
    from polar_ray.engine.device import allowed_rounding

    failed = compared & pc.equal(again.status, Status.ERROR.value).to_numpy(zero_copy_only=False)
    compared = compared & ~failed
    first = before.to_numpy(zero_copy_only=False)[compared].astype(np.float64)
    second = again.reward.to_numpy(zero_copy_only=False)[compared].astype(np.float64)
    delta = np.abs(first - second)
    finite = np.isfinite(delta)
    one_way_only = np.isfinite(first) != np.isfinite(second)
    relative = delta / np.maximum(1.0, np.abs(second))
    tolerance = allowed_rounding(relative[finite], scorer.engine.dtype)
    beyond = one_way_only | (finite & (relative > tolerance))
    # What is finite in one way only is worse than any distance, and what is beyond is worse than what is not.
    distance = np.where(one_way_only, np.inf, np.where(finite & (beyond | ~beyond.any()), delta, 0.0))
    return Verification(
        tolerance,
        groups=len(rows),
        candidates=int(finite.sum()),
        beyond=int(beyond.sum()),
        failed=int(failed.sum()),
        sum_delta=float(delta[finite].sum()),
        max_delta=float(delta[finite].max(initial=0.0)),
        worst=str(prompt_ids[compared][distance.argmax()]) if len(distance) else None,
        error=next((message for message in again.error.to_pylist() if message is not None), None),
    )


def not_rescored(tolerance: float, groups: pa.Table, scores: Scores, rows: np.ndarray, why: str) -> Verification:
    """Returns what is said of a sample none of which could be scored again."""
    if not len(rows):
        return Verification(tolerance)
    _, compared = _of_sample(groups, scores, rows)
    return Verification(tolerance, groups=len(rows), failed=int(compared.sum()), error=why)


def _of_sample(groups: pa.Table, scores: Scores, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns which candidates are of the sample, and which of those the model has given what can be compared."""
    counts = candidate_counts(groups)
    chosen = np.zeros(len(counts), bool)
    chosen[rows] = True
    kept = np.repeat(chosen, counts)
    statuses = pa.array([each.value for each in (Status.OK, Status.TRUNCATED, Status.NON_FINITE)])
    compared = pc.is_in(scores.status.filter(pa.array(kept)), statuses)
    return kept, compared.to_numpy(zero_copy_only=False)
