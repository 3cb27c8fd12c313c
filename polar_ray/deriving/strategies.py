"""What pairs are proposed: each strategy as a function from the order of a block to places in it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from polar_ray.data.arrays import offsets
from polar_ray.deriving.chance import draws, prompt_seeds, uniform
from polar_ray.deriving.order import Order, spread
from polar_ray.deriving.quantile import as_written
from polar_ray.recipe.pairs import (
    Adjacent,
    AllPairs,
    BestVsQuantile,
    BestVsRandom,
    BestVsSecond,
    BestVsSigma,
    BestVsWorst,
    LengthMatched,
    Strategy,
    TopVsBottom,
)

PROPOSALS_AT_ONCE = 1_000_000
"""Bounds the memory for groups of many candidates; a single group may go beyond it."""


@dataclass(frozen=True)
class Proposals:
    """P pairs of a block.

    Attributes:
        group: int64 [P].
        chosen: int64 [P], the place of the chosen candidate in its group's order.
        rejected: int64 [P], the place of the rejected one, which is after it.
    """

    group: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray

    def __len__(self) -> int:
        return len(self.group)

    @staticmethod
    def none() -> "Proposals":
        """Returns no pairs."""
        return Proposals(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))

    @staticmethod
    def joined(parts: list["Proposals"]) -> "Proposals":
        """Returns the pairs of all parts, which are at least one."""
        return Proposals(
            np.concatenate([part.group for part in parts]),
            np.concatenate([part.chosen for part in parts]),
            np.concatenate([part.rejected for part in parts]),
        )

    def where(self, kept: np.ndarray) -> "Proposals":
        """Returns the pairs that are marked (bool [P]) or numbered (int64)."""
        return Proposals(self.group[kept], self.chosen[kept], self.rejected[kept])


def propose(strategy: Strategy, order: Order, prompt_ids: list[str] | None, seed: int) -> Iterator[Proposals]:
    """Yields the proposed pairs of all groups with at least two candidates, every group whole.

    Args:
        strategy: Which pairs.
        order: The eligible candidates.
        prompt_ids: Ids of all groups, for strategies that draw; see ``draws_by_prompt``.
        seed: For strategies that draw.
    """
    groups = np.flatnonzero(order.counts >= 2)
    counts = order.counts[groups]
    if isinstance(strategy, AllPairs | LengthMatched):
        sizes = counts * (counts - 1) // 2
    elif isinstance(strategy, TopVsBottom):
        sizes = np.minimum(strategy.k, counts // 2) ** 2
    elif isinstance(strategy, Adjacent):
        sizes = counts - 1
    else:
        rejected = _rejected(strategy, order, groups, counts, prompt_ids, seed)
        yield Proposals(groups, np.zeros_like(groups), rejected)
        return
    for start, stop in _slices(sizes):
        owner, chosen, rejected = _several(strategy, counts[start:stop])
        yield Proposals(groups[start:stop][owner], chosen, rejected)


def draws_by_prompt(strategy: Strategy) -> bool:
    """Whether a strategy needs the ids of the prompts."""
    return isinstance(strategy, BestVsRandom)


def _rejected(
    strategy: Strategy, order: Order, groups: np.ndarray, counts: np.ndarray, prompt_ids: list[str] | None, seed: int
) -> np.ndarray:
    """Places of the candidates that are rejected in favour of the best: int64, one per group."""
    match strategy:
        case BestVsWorst():
            return np.asarray(counts - 1)
        case BestVsSecond():
            return np.ones_like(counts)
        case BestVsRandom():
            assert prompt_ids is not None
            seeds = prompt_seeds([prompt_ids[group] for group in groups], seed, "rejected")
            drawn = np.floor(uniform(draws(seeds, np.zeros(len(seeds)))) * (counts - 1)).astype(np.int64)
            return np.asarray(1 + drawn)
        case BestVsQuantile(quantile=quantile):
            sizes, which = np.unique(counts, return_inverse=True)
            share = as_written(quantile)
            above_worst = np.array([math.floor(share * (size - 1)) for size in sizes.tolist()], np.int64)[which]
            return np.asarray(np.maximum(1, counts - 1 - above_worst))
        case BestVsSigma(sigmas=sigmas):
            return np.asarray(_nearest(order, sigmas)[groups])
        case _:
            raise AssertionError(strategy)


def _nearest(order: Order, sigmas: float) -> np.ndarray:
    """Place of the candidate after the best whose reward is nearest to mean - sigmas x deviation: int64 [G].

    Of two that are equally near the better is taken. Groups with fewer than two candidates get 0.
    """
    mean, deviation = order.moments()
    group, place = order.group, order.place
    distance = np.abs(order.reward - (mean - sigmas * deviation)[group])
    others = np.flatnonzero(place > 0)
    nearest = others[np.lexsort((place[others], distance[others], group[others]))]
    found, first = np.unique(group[nearest], return_index=True)
    places = np.zeros(len(order.counts), np.int64)
    places[found] = place[nearest[first]]
    return places


def _several(strategy: Strategy, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns for each pair the number of its group (in ``counts``), and the two places."""
    if isinstance(strategy, Adjacent):
        owner, chosen = spread(counts - 1)
        return owner, chosen, chosen + 1
    if isinstance(strategy, TopVsBottom):
        side = np.minimum(strategy.k, counts // 2)
        owner, number = spread(side * side)
        return owner, number // side[owner], counts[owner] - 1 - number % side[owner]
    first_owner, first = spread(counts - 1)
    pair, step = spread(counts[first_owner] - 1 - first)
    return first_owner[pair], first[pair], first[pair] + 1 + step


def _slices(sizes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Cuts groups into runs of at most ``PROPOSALS_AT_ONCE`` proposals, or of one group."""
    ends = offsets(sizes)
    start = 0
    while start < len(sizes):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + PROPOSALS_AT_ONCE, side="right")) - 1)
        yield start, stop
        start = stop
