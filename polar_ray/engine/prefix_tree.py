"""The prefix tree of a list of sequences: each run of tokens that several of them begin with is in it once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

RUN_COST = 4
"""What one more run costs, in tokens: its keys are gathered and its rows fill no tile.

Runs are split where that saves more. The figure is small because a run costs some microseconds a layer, about what a
few tokens cost in a model of 100 million parameters, and less than one in a larger model.
"""


@dataclass(frozen=True)
class Run:
    """Tokens that are computed once: part of one sequence, or of several that agree up to its end.

    Attributes:
        parent: Position in the list of runs of the run before it in the same sequence, -1 at a sequence's start.
        source: A sequence that holds it.
        start: Position of its first token in the sequence.
        end: Position after its last token.
    """

    parent: int
    source: int
    start: int
    end: int

    @property
    def tokens(self) -> int:
        return self.end - self.start

    @property
    def attention(self) -> int:
        """Pairs of a token and a token that it attends to, itself included."""
        return pairs(self.start, self.end)


@dataclass(frozen=True)
class PrefixTree:
    """Runs, parents before children, each run's descendants right behind it.

    Attributes:
        runs: All runs.
        last: By sequence, the run that ends where the sequence ends.
    """

    runs: tuple[Run, ...]
    last: tuple[int, ...]


def pairs(start: int, end: int) -> int:
    """Returns the pairs of attention of the tokens from ``start`` to ``end`` of a sequence."""
    return (end * (end + 1) - start * (start + 1)) // 2


def prefix_tree(sequences: Sequence[np.ndarray], *, share: bool = True) -> PrefixTree:
    """Finds the runs that sequences share, from their ids alone.

    The tree depends on the set of sequences and not on their order, except for which of several equal sequences is a
    run's source. A beginning is shared if that saves more tokens than ``RUN_COST`` for each part that it is split
    into. Equal sequences are always one.

    Args:
        sequences: Integer ids ``[length]`` each, at least one.
        share: False makes each different sequence one run.
    """
    # As big-endian unsigned numbers, bytes compare like the ids.
    keys = [ids.astype(">u4").tobytes() for ids in sequences]
    order = sorted(range(len(sequences)), key=keys.__getitem__)
    unique = [row for place, row in enumerate(order) if place == 0 or keys[row] != keys[order[place - 1]]]
    first_of = {keys[row]: number for number, row in enumerate(unique)}
    ids = [sequences[row] for row in unique]
    common = np.array([_common(ids[number - 1], ids[number]) for number in range(1, len(ids))], np.int64)
    runs, last = _shared(ids, common) if share else _separate(ids)
    return PrefixTree(
        tuple(replace(run, source=unique[run.source]) for run in runs), tuple(last[first_of[key]] for key in keys)
    )


def _separate(ids: list[np.ndarray]) -> tuple[list[Run], list[int]]:
    return [Run(-1, number, 0, len(row)) for number, row in enumerate(ids)], list(range(len(ids)))


def _shared(ids: list[np.ndarray], common: np.ndarray) -> tuple[list[Run], list[int]]:
    """Returns the runs of different sequences in ascending order, and the last run of each.

    Args:
        ids: The sequences.
        common: How many tokens each sequence but the first begins with like the one before it.
    """
    runs: list[Run] = []
    last = [-1] * len(ids)
    # Ranges of sequences that agree up to some depth; so many of their tokens have their run already, ending in that.
    waiting = [(0, len(ids), 0, -1)] if ids else []
    while waiting:
        low, high, covered, parent = waiting.pop()
        within = common[low : high - 1]
        depth = int(within.min()) if high - low > 1 else len(ids[low])
        branches = [low, *(low + 1 + np.flatnonzero(within == depth)).tolist()]
        saved = (len(branches) - 1) * (depth - covered)
        if len(branches) == 1 or saved > RUN_COST * len(branches):
            runs.append(Run(parent, low, covered, depth))
            covered, parent = depth, len(runs) - 1
        if len(ids[low]) == covered:
            # The shortest sorts first. It ends where the others go on.
            last[low] = parent
            branches = branches[1:]
        bounds = list(pairwise([*branches, high]))
        # Reversed, so that the first is taken up next: depth first.
        waiting += [(start, end, covered, parent) for start, end in reversed(bounds)]
    return runs, last


def _common(first: np.ndarray, second: np.ndarray) -> int:
    shortest = min(len(first), len(second))
    differ = first[:shortest] != second[:shortest]
    position = int(differ.argmax()) if shortest else 0
    return position if shortest and differ[position] else shortest
