"""The order of the eligible candidates of each group: best first."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from polar_ray.data.arrays import offsets
from polar_ray.deriving.block import Block


@dataclass(frozen=True)
class Order:
    """The eligible candidates, group after group, inside a group by falling reward.

    A candidate's place is its position in its group's order, from 0.

    Attributes:
        candidate: int64 [E], numbers of candidates in the block.
        reward: float64 [E], their rewards.
        starts: int64 [G + 1], where each group begins; the end.
    """

    candidate: np.ndarray
    reward: np.ndarray
    starts: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """int64 [G]: eligible candidates of each group."""
        return np.asarray(np.diff(self.starts))

    @property
    def group(self) -> np.ndarray:
        """int64 [E]: the group of each."""
        return np.repeat(np.arange(len(self.starts) - 1), self.counts)

    @property
    def place(self) -> np.ndarray:
        """int64 [E]: the place of each."""
        return np.asarray(np.arange(len(self.candidate)) - np.repeat(self.starts[:-1], self.counts))

    def at(self, group: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Returns positions in ``candidate`` and ``reward``."""
        return np.asarray(self.starts[group] + place)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and population standard deviation of each group's rewards: float64 [G], NaN where none.

        Where all rewards of a group are equal the deviation is exactly 0.
        """
        counts = self.counts
        some = counts > 0
        mean, deviation = np.full(len(counts), np.nan), np.full(len(counts), np.nan)
        if not some.any():
            return mean, deviation
        starts = self.starts[:-1][some]
        best, worst = self.reward[starts], self.reward[self.starts[1:][some] - 1]
        # Summing differences to the best keeps equal rewards exact, and large rewards precise.
        below = self.reward - np.repeat(best, counts[some])
        mean_below = np.add.reduceat(below, starts) / counts[some]
        squares = np.add.reduceat((below - np.repeat(mean_below, counts[some])) ** 2, starts)
        mean[some] = best + mean_below
        deviation[some] = np.where(best == worst, 0.0, np.sqrt(squares / counts[some]))
        return mean, deviation


def best_first(block: Block, eligible: np.ndarray, tie_key: Callable[[], np.ndarray] | None = None) -> Order:
    """Puts the eligible candidates (bool [C], all with a reward) in order.

    Equal rewards are ordered by ``tie_key`` (one value per candidate of the block, lowest first), then as in the table.
    """
    chosen = np.flatnonzero(eligible)
    group, reward = block.group[chosen], block.reward[chosen]
    keys = (-reward, group) if tie_key is None else (tie_key()[chosen], -reward, group)
    # A stable sort keeps what is equal as in the table, and every group where it was.
    order = np.lexsort(keys)
    return Order(chosen[order], reward[order], offsets(block.count(eligible)))


def spread(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns for counts 2, 0, 3 the owners 0, 0, 2, 2, 2 and the numbers 0, 1, 0, 1, 2; both int64."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(offsets(counts)[:-1], counts)
