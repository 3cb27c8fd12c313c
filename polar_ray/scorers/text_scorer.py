"""What every scorer that reads text in Python shares: a table in, one group at a time, errors kept to their group."""

from abc import ABC, abstractmethod
from dataclasses import replace

import pyarrow as pa

from polar_ray.data.group import Group, table_to_groups
from polar_ray.data.status import Status
from polar_ray.errors import PolarRayError, ScoringError
from polar_ray.recipe.secrets import hidden, hidden_error
from polar_ray.scorers.answers import checked_answer
from polar_ray.scorers.base import CandidateScore, Scores, error_text
from polar_ray.scorers.sight import Sight, score_seen


class TextScorer(ABC):
    """A scorer without an encoder. A subclass scores one group."""

    extras: tuple[str, ...] = ()
    """Names of the columns that this scorer adds. None may be that of a column which the score table has anyway."""
    sight: Sight = Sight()
    """What it sees of messages beside their texts. A scorer that reads tool calls from ``extra`` says so here:
    ``Sight(shows=frozenset(["tool_calls"]))``; candidates with what is not named are ``unsupported``."""

    secrets: tuple[str, ...] = ()
    """Texts that no message may repeat: settings of a custom scorer that the recipe does not call public."""

    @abstractmethod
    def score_group(self, group: Group) -> list[CandidateScore]:
        """Returns one score per candidate of the group, in their order.

        A ``PolarRayError`` says that the scorer itself cannot work; any other exception concerns this group only. So
        does an answer that is none: another number of scores, a reward beside a status that has none, an extra that is
        not declared. A reward that is not finite becomes the status ``non_finite``.
        """

    def score_table(self, groups: pa.Table, encoded: pa.Table | None = None) -> Scores:
        """Scores a table with ``GROUP_SCHEMA``.

        A group that raises gets the status ``error`` with the exception's text.

        Raises:
            ScoringError: Every group of the table raised. The cause is the first group's exception.
            PolarRayError: The scorer cannot work at all.
        """
        scores = self.score(table_to_groups(groups))
        return Scores.of([score for group in scores for score in group], self.extras)

    def score(self, groups: list[Group]) -> list[list[CandidateScore]]:
        """Scores groups in Python: one list per group, aligned with its candidates. Raises as ``score_table``."""
        errors: list[Exception] = []

        def score(group: Group) -> list[CandidateScore]:
            try:
                # What an answer is made of may raise when it is looked at.
                return checked_answer(type(self).__name__, group, self.score_group(group), self.extras)
            except PolarRayError as error:
                if self.secrets:
                    raise hidden_error(error, self.secrets) from None
                raise
            # Any text must be expected, so one group's exception may not take the other groups with it.
            except Exception as error:
                errors.append(error)
                failed = CandidateScore(None, Status.ERROR, error=error_text(error))
                return [failed] * len(group.candidates)

        scores = [score_seen(group, self.sight, score) for group in groups]
        if errors and len(errors) == len(groups):
            message = (
                f"{type(self).__name__} failed on each of {len(groups)} groups; "
                f"the first, {groups[0].prompt_id!r}, raised {error_text(errors[0])}"
            )
            # Where there are secrets the cause, whose message may hold one, must not travel along.
            raise ScoringError(hidden(message, self.secrets)) from (None if self.secrets else errors[0])
        return [[self._without_secrets(score) for score in group] for group in scores] if self.secrets else scores

    def _without_secrets(self, score: CandidateScore) -> CandidateScore:
        return score if score.error is None else replace(score, error=hidden(score.error, self.secrets))
