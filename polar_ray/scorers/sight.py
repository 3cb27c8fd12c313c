"""Sight: what of a group's messages a scorer can show its model, and the status of what it cannot (law 10)."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.data.arrays import flat, lists
from polar_ray.data.group import Group
from polar_ray.data.message_fields import MESSAGE_FIELDS, REASONING, TOOLS, Carried, Said
from polar_ray.data.status import Status
from polar_ray.recipe.scorers import RewardModel, ScorerConfig
from polar_ray.scorers.base import CandidateScore, Scores
from polar_ray.scorers.catalog import entry_of
from polar_ray.scorers.encoded import candidate_counts
from polar_ray.scorers.pieces import concat, unscored

_PATTERN = "|".join(f'"{name}"' for name in (MESSAGE_FIELDS, *TOOLS))
_MAY_CARRY = re.compile(_PATTERN)


@dataclass(frozen=True)
class Sight:
    """What a scorer sees of messages beside their roles and texts.

    Attributes:
        references: Whether it looks at the references.
        shows: Fields of messages, and columns, that it reads from ``extra`` itself, such as ``tool_calls``.
        leaves_out: Fields of candidates and references that its settings say are not to be scored.
    """

    references: bool = False
    shows: frozenset[str] = frozenset()
    leaves_out: frozenset[str] = frozenset()

    @staticmethod
    def of(config: ScorerConfig) -> "Sight":
        """Returns the sight of a scorer with these settings that reads ids."""
        # Who strips what is between <think> and </think> wants no thinking from elsewhere either.
        strips = isinstance(config, RewardModel) and config.strip_think
        return Sight(entry_of(config).needs_reference, leaves_out=REASONING if strips else frozenset())

    def misses(self, group: str | None, candidates: list[str | None]) -> list[str | None]:
        """Returns for each candidate what of its group this scorer cannot show its model; None where it can show all.

        Args:
            group: The ``extra`` of the group.
            candidates: Those of its candidates.
        """
        whole = None if group is None else self._of_group(group)
        return [whole or (None if extra is None else self._of_candidate(extra)) for extra in candidates]

    def _of_group(self, extra: str) -> str | None:
        if not _MAY_CARRY.search(extra):
            return None
        carried = Carried(extra)
        references = carried.of_references() if self.references else []
        return (
            _first(carried.of("prompt"), self.shows, "the prompt")
            or _first(references, self.shows | self.leaves_out, "a reference")
            or self._offered(carried)
        )

    def _of_candidate(self, extra: str) -> str | None:
        if not _MAY_CARRY.search(extra):
            return None
        carried = Carried(extra)
        said = _first(carried.of("messages"), self.shows | self.leaves_out, "the candidate")
        # In the row-per-candidate layouts every candidate has the columns of its row.
        return said or self._offered(carried)

    def _offered(self, carried: Carried) -> str | None:
        tools = carried.tools()
        return None if tools is None or tools in self.shows else f"the prompt offers {tools}"


@dataclass(frozen=True)
class Seen:
    """A table of groups as a scorer sees it.

    Attributes:
        groups: The groups without the candidates that the scorer cannot score for what they carry, and without the
            groups of which none is left.
        misses: What it is, for each candidate of the whole table; None where every candidate is there.
    """

    groups: pa.Table
    misses: list[str | None] | None = None

    def whole(self, scores: Scores) -> Scores:
        """Returns scores of the whole table: those of ``groups``, and the status ``unsupported`` for the others."""
        if self.misses is None:
            return scores
        missed = np.array([reason is not None for reason in self.misses], bool)
        reasons = [f"{reason}, which this scorer cannot show its model" for reason in self.misses if reason is not None]
        others = replace(
            unscored(len(reasons), Status.UNSUPPORTED, None, scores.extras), error=pa.array(reasons, pa.string())
        )
        # Position of each candidate in the scored ones followed by the others.
        position = np.empty(len(missed), np.int64)
        position[~missed] = np.arange(len(missed) - len(reasons))
        position[missed] = len(missed) - len(reasons) + np.arange(len(reasons))
        return concat([scores, others], position)


def seen(groups: pa.Table, sight: Sight) -> Seen:
    """Returns what a scorer sees of a table with ``GROUP_SCHEMA``: the same table, unless messages carry more."""
    if not groups.num_rows:
        return Seen(groups)
    column = flat(groups.column("candidates"))
    candidates = column.flatten()
    counts = candidate_counts(groups)
    parents = np.repeat(np.arange(len(counts)), counts)
    extra = candidates.field("extra")
    may = _may_carry(flat(groups.column("extra")))
    may[parents[_may_carry(extra)]] = True
    misses: list[str | None] = [None] * len(candidates)
    starts = np.cumsum(counts) - counts
    for row in np.flatnonzero(may).tolist():
        start, stop = int(starts[row]), int(starts[row] + counts[row])
        misses[start:stop] = sight.misses(groups["extra"][row].as_py(), extra[start:stop].to_pylist())
    kept = np.array([reason is None for reason in misses], bool)
    if kept.all():
        return Seen(groups)
    left = np.bincount(parents[kept], minlength=len(counts))
    place = groups.schema.get_field_index("candidates")
    fewer = groups.set_column(
        place, groups.schema.field(place), lists(left, candidates.filter(pa.array(kept))).cast(column.type)
    )
    return Seen(fewer.filter(pa.array((left > 0) | (counts == 0))), misses)


def score_seen(group: Group, sight: Sight, score: Callable[[Group], list[CandidateScore]]) -> list[CandidateScore]:
    """Scores one group in Python, without the candidates that carry what the scorer cannot show its model."""
    misses = sight.misses(group.extra, [candidate.extra for candidate in group.candidates])
    if not any(misses):
        return score(group)
    kept = tuple(candidate for candidate, reason in zip(group.candidates, misses, strict=True) if reason is None)
    scores = iter(score(msgspec.structs.replace(group, candidates=kept)) if kept else ())
    return [
        next(scores)
        if reason is None
        else CandidateScore(None, Status.UNSUPPORTED, error=f"{reason}, which this scorer cannot show its model")
        for reason in misses
    ]


def _first(said: list[Said], known: frozenset[str], whose: str) -> str | None:
    return next(
        (f"message {each.position} of {whose} has {each.words}" for each in said if each.field not in known), None
    )


def _may_carry(extra: pa.Array) -> np.ndarray:
    """Returns a bool for each text of an ``extra``: whether it is worth reading."""
    found: np.ndarray = pc.match_substring_regex(extra, _PATTERN).fill_null(False).to_numpy(zero_copy_only=False)
    return found
