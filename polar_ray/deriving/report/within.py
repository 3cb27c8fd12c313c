"""Inside prompts: correlation of reward and length, and how often the longest candidate is the best."""

from dataclasses import dataclass

import numpy as np

from polar_ray.deriving.rank import ranks_within
from polar_ray.deriving.report.additive import Additive
from polar_ray.deriving.report.moments import limited

ENOUGH = 3
"""Candidates with a reward and a length that a prompt needs for a correlation of its own."""


@dataclass(frozen=True)
class WithinSums(Additive):
    """Of two quantities x and y of candidates, compared inside prompts.

    Attributes:
        xx: Sum of squares of x minus its prompt's mean.
        yy: Likewise for y.
        xy: Sum of the products of both.
        candidates: In prompts with two or more that have both.
        spearman: Sum of the prompts' Spearman correlations.
        prompts: Prompts with ``ENOUGH`` candidates in which neither x nor y is constant.
    """

    xx: float = 0.0
    yy: float = 0.0
    xy: float = 0.0
    candidates: int = 0
    spearman: float = 0.0
    prompts: int = 0

    @property
    def pearson(self) -> float | None:
        """Pearson's correlation of the deviations from the prompts' means, over all candidates."""
        if self.xx == 0 or self.yy == 0:
            return None
        return limited(self.xy / float(np.sqrt(self.xx) * np.sqrt(self.yy)))

    @property
    def mean_spearman(self) -> float | None:
        """Mean over prompts of Spearman's correlation inside the prompt."""
        return self.spearman / self.prompts if self.prompts else None


def within_sums(x: np.ndarray, y: np.ndarray, group: np.ndarray, groups: int) -> WithinSums:
    """Compares x and y (float64 [C], NaN where unknown) inside the groups that ``group`` (sorted) names."""
    known = ~np.isnan(x) & ~np.isnan(y)
    many = np.bincount(group[known], minlength=groups)
    use = known & (many >= 2)[group]
    of = group[use]
    dx, dy = _deviations(x[use], of, groups), _deviations(y[use], of, groups)
    enough = (many >= ENOUGH)[of]
    ranked = of[enough]
    rx = _deviations(ranks_within(ranked, x[use][enough]), ranked, groups)
    ry = _deviations(ranks_within(ranked, y[use][enough]), ranked, groups)
    rxx, ryy = group_sums(rx * rx, ranked, groups), group_sums(ry * ry, ranked, groups)
    varies = (rxx > 0) & (ryy > 0)
    each = group_sums(rx * ry, ranked, groups)[varies] / np.sqrt(rxx[varies] * ryy[varies])
    return WithinSums(
        float(dx @ dx), float(dy @ dy), float(dx @ dy), int(use.sum()), float(each.sum()), int(varies.sum())
    )


@dataclass(frozen=True)
class LongestSums(Additive):
    """How often the longest candidate of a prompt is the best, over prompts with two or more candidates.

    Attributes:
        prompts: With two or more candidates that have reward and length.
        hits: Sum of the probabilities that a longest one, picked evenly, is a best one.
        chance: Sum of the probabilities that any one, picked evenly, is a best one.
    """

    prompts: int = 0
    hits: float = 0.0
    chance: float = 0.0


def longest_sums(length: np.ndarray, reward: np.ndarray, group: np.ndarray, groups: int) -> LongestSums:
    """Returns the sums for lengths and rewards (float64 [C], NaN where unknown)."""
    known = ~np.isnan(length) & ~np.isnan(reward)
    many = np.bincount(group[known], minlength=groups)
    use = known & (many >= 2)[group]
    of = group[use]
    best = reward[use] == group_best(reward[use], of, groups)[of]
    longest = length[use] == group_best(length[use], of, groups)[of]
    there = many >= 2
    hits = group_sums(best & longest, of, groups)[there] / group_sums(longest, of, groups)[there]
    return LongestSums(
        int(there.sum()), float(hits.sum()), float((group_sums(best, of, groups)[there] / many[there]).sum())
    )


def group_sums(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Returns float64 [groups]."""
    # Of no values at all it counts in whole numbers.
    return np.asarray(np.bincount(group, values, groups), np.float64)


def group_best(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Returns the largest value of each group: float64 [groups], minus infinity for an empty one."""
    best = np.full(groups, -np.inf)
    np.maximum.at(best, group, values)
    return best


def _deviations(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Returns each value minus the mean of its group; exactly 0 where all of a group are equal."""
    first = np.zeros(groups)
    opens = np.diff(group, prepend=-1) != 0
    first[group[opens]] = values[opens]
    moved = values - first[group]
    mean = group_sums(moved, group, groups) / np.maximum(np.bincount(group, minlength=groups), 1)
    return np.asarray(moved - mean[group])
