"""Answers: what a scorer returns is checked where it comes in (law 9).

A bad answer about a group becomes the status ``error`` of all of the group's candidates, with a message that names the
group. It never moves another group's scores.
"""

import math
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.data.group import Group
from polar_ray.data.status import Status
from polar_ray.errors import DeviceLost, PolarRayError, ScoringError
from polar_ray.scorers.base import CandidateScore, Scorer, Scores, encodable, error_text
from polar_ray.scorers.encoded import candidate_counts
from polar_ray.scorers.pieces import concat, take_groups, unscored

_STATUSES = pa.array([status.value for status in Status])
_WITH_REWARD = pa.array([status.value for status in Status if status.has_reward])
_TYPES = {"reward": pa.float32(), "status": pa.string(), "tokens": pa.int32(), "error": pa.string()}
_MOST_TOKENS = 2**31 - 1


class _BadAnswer(Exception):
    """What is wrong with an answer, as the end of a sentence that begins with who gave it."""


def checked_answer(scorer: str, group: Group, answer: Any, extras: tuple[str, ...]) -> list[CandidateScore]:
    """Returns what a scorer answered about one group, or errors where it is not what it should be.

    Numbers come back as the score table holds them: float32, int32. A reward that is not finite so is taken out, with
    the status ``non_finite``.

    Args:
        scorer: What the message calls the scorer.
        group: What it was asked about.
        answer: Should be one ``CandidateScore`` per candidate.
        extras: The columns that it declares.
    """
    try:
        return _checked_list(answer, len(group.candidates), extras)
    except _BadAnswer as bad:
        failed = CandidateScore(None, Status.ERROR, error=f"{scorer} gave for group {group.prompt_id!r} {bad}")
        return [failed] * len(group.candidates)


def score_checked(scorer: Scorer, groups: pa.Table, encoded: pa.Table | None) -> Scores:
    """Scores a table as ``scorer.score_table`` does, and checks what it returns.

    Where the columns do not fit the table, nobody can tell whose scores are whose: then each group is scored alone.

    Raises:
        ScoringError: As ``score_table``, for the whole table.
        PolarRayError: The scorer cannot work at all.
    """
    scores = scorer.score_table(groups, encoded)
    name = type(scorer).__name__
    try:
        _check_columns(scores, int(candidate_counts(groups).sum()), scorer.extras)
    except _BadAnswer as bad:
        if groups.num_rows > 1:
            return concat([_alone(scorer, *take_groups(groups, encoded, [row])) for row in range(groups.num_rows)])
        return _error(scorer, groups, f"{name} gave for group {groups['prompt_id'][0].as_py()!r} {bad}")
    return _checked_values(name, _finite(scores), groups)


def _alone(scorer: Scorer, groups: pa.Table, encoded: pa.Table | None) -> Scores:
    try:
        return score_checked(scorer, groups, encoded)
    except DeviceLost:
        raise
    except ScoringError as error:
        return _error(scorer, groups, error_text(error))
    except PolarRayError:
        raise
    except Exception as error:
        # Any scorer may be asked here, and it may raise anything about a group.
        return _error(scorer, groups, error_text(error))


def _error(scorer: Scorer, groups: pa.Table, message: str) -> Scores:
    return unscored(int(candidate_counts(groups).sum()), Status.ERROR, message, scorer.extras)


def _checked_list(answer: Any, candidates: int, extras: tuple[str, ...]) -> list[CandidateScore]:
    if not isinstance(answer, list | tuple):
        raise _BadAnswer(f"{type(answer).__name__}, not a list of CandidateScore")
    for score in answer:
        if not isinstance(score, CandidateScore):
            raise _BadAnswer(f"a {type(score).__name__}, not a CandidateScore")
    if len(answer) != candidates:
        raise _BadAnswer(f"{len(answer)} scores for {candidates} candidates")
    return [_checked_score(score, extras) for score in answer]


def _checked_score(score: CandidateScore, extras: tuple[str, ...]) -> CandidateScore:
    """Returns a score with plain values, as the score table holds them: whatever Arrow would stumble over is gone."""
    if not isinstance(score.status, Status):
        raise _BadAnswer(f"the status {score.status!r}, which is none of polar_ray.data.status.Status")
    if score.reward is None and score.status.has_reward:
        raise _BadAnswer(f"no reward beside the status {score.status.value}")
    if score.reward is not None:
        if not isinstance(score.reward, Real):
            raise _BadAnswer(f"the reward {score.reward!r:.80}, which is no number")
        if not score.status.has_reward:
            raise _BadAnswer(f"a reward beside the status {score.status.value}")
    if score.error is not None and not isinstance(score.error, str):
        raise _BadAnswer(f"{score.error!r:.80} as error, which is no text")
    if not isinstance(score.extras, dict):
        raise _BadAnswer(f"{score.extras!r:.80} as extras, which is no dictionary")
    reward = None if score.reward is None else _float32(score.reward)
    broken = reward is not None and not math.isfinite(reward)
    return CandidateScore(
        reward=None if broken else reward,
        status=Status.NON_FINITE if broken else score.status,
        tokens=None if score.tokens is None else _tokens(score.tokens),
        error=None if score.error is None else encodable(score.error),
        extras={name: _extra(name, value, extras) for name, value in score.extras.items()},
    )


def _tokens(value: Any) -> int:
    # True counts nothing, though Python takes it for 1.
    if isinstance(value, bool) or not (isinstance(value, Integral) and 0 <= int(value) <= _MOST_TOKENS):
        raise _BadAnswer(f"{_short(value)} as tokens, which is no number of tokens")
    return int(value)


def _extra(name: Any, value: Any, extras: tuple[str, ...]) -> float | None:
    if name not in extras:
        raise _BadAnswer(f"an extra {name!r}, which it does not declare in extras")
    if value is None:
        return None
    if not isinstance(value, Real) or not math.isfinite(number := _float32(value)):
        raise _BadAnswer(f"{_short(value)} as {name}, which is no finite number")
    return number


def _float32(value: Real) -> float:
    """Returns a number as float32, in which the score table holds it; infinite where it is too large for that."""
    try:
        number = float(value)
    except OverflowError:
        return math.inf
    with np.errstate(over="ignore"):
        return float(np.float32(number))


def _short(value: Any) -> str:
    """Returns a value as a message shows it. Python refuses to write an integer of many thousand digits."""
    return "an integer of many digits" if isinstance(value, int) and abs(value) >= 10**80 else f"{value!r:.80}"


def _check_columns(scores: Any, candidates: int, extras: tuple[str, ...]) -> None:
    """Checks that there are the declared columns, with a value for each candidate."""
    if not isinstance(scores, Scores):
        raise _BadAnswer(f"a {type(scores).__name__}, not Scores")
    if not isinstance(scores.extras, dict):
        raise _BadAnswer(f"{type(scores.extras).__name__} as extras, not a dictionary of columns")
    if missing := sorted(set(extras) - scores.extras.keys()):
        raise _BadAnswer(f"scores without {missing[0]}, which it declares in extras")
    if unknown := sorted(scores.extras.keys() - set(extras)):
        raise _BadAnswer(f"an extra {unknown[0]!r}, which it does not declare in extras")
    columns = {"reward": scores.reward, "status": scores.status, "tokens": scores.tokens, "error": scores.error}
    for name, column in {**columns, **scores.extras}.items():
        wanted = _TYPES.get(name, pa.float32()) if name in columns else pa.float32()
        if not isinstance(column, pa.Array) or column.type != wanted:
            given = column.type if isinstance(column, pa.Array | pa.ChunkedArray) else type(column).__name__
            raise _BadAnswer(f"{name} as {given}, not as an array of {wanted}")
        if len(column) != candidates:
            raise _BadAnswer(f"{len(column)} values of {name} for {candidates} candidates")


def _finite(scores: Scores) -> Scores:
    """Takes out the rewards that are not finite; where all are, the scores are returned as they are."""
    broken = pc.invert(pc.is_finite(scores.reward)).fill_null(False)
    if not pc.any(broken).as_py():
        return scores
    return replace(
        scores,
        reward=pc.if_else(broken, pa.scalar(None, pa.float32()), scores.reward),
        status=pc.if_else(broken, pa.scalar(Status.NON_FINITE.value), scores.status),
    )


def _checked_values(scorer: str, scores: Scores, groups: pa.Table) -> Scores:
    """Replaces the scores of groups with impossible values by errors."""
    known = pc.is_in(scores.status, _STATUSES)
    rewarded = pc.is_in(scores.status, _WITH_REWARD)
    bad = pc.or_(pc.invert(known), pc.xor(rewarded, scores.reward.is_valid()))
    for column in scores.extras.values():
        bad = pc.or_(bad, pc.invert(pc.is_finite(column)).fill_null(False))
    if not pc.any(bad).as_py():
        return scores
    counts = candidate_counts(groups)
    group_of = np.repeat(np.arange(len(counts)), counts)
    places = bad.to_numpy(zero_copy_only=False)
    messages: dict[int, str] = {}
    for place in np.flatnonzero(places).tolist():
        row = int(group_of[place])
        if row not in messages:
            prompt_id = groups["prompt_id"][row].as_py()
            messages[row] = f"{scorer} gave for group {prompt_id!r} {_what_is_wrong(scores, place)}"
    failed = pa.array(np.isin(group_of, list(messages)))
    error = pa.array([messages.get(row) for row in group_of.tolist()], pa.string())
    nothing = pa.scalar(None, pa.float32())
    return Scores(
        reward=pc.if_else(failed, nothing, scores.reward),
        status=pc.if_else(failed, pa.scalar(Status.ERROR.value), scores.status),
        tokens=pc.if_else(failed, pa.scalar(None, pa.int32()), scores.tokens),
        error=pc.if_else(failed, error, scores.error),
        extras={name: pc.if_else(failed, nothing, column) for name, column in scores.extras.items()},
    )


def _what_is_wrong(scores: Scores, place: int) -> str:
    status, reward = scores.status[place].as_py(), scores.reward[place].as_py()
    if status not in _STATUSES.to_pylist():
        return f"the status {status!r}, which is none of polar_ray.data.status.Status"
    if (reward is not None) != Status(status).has_reward:
        return f"{'a' if reward is not None else 'no'} reward beside the status {status}"
    name, value = next(
        (name, column[place].as_py())
        for name, column in scores.extras.items()
        if column[place].is_valid and not math.isfinite(column[place].as_py())
    )
    return f"{value!r} as {name}, which is no finite number"
