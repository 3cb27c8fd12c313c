"""The plan of a list of sequences: which tokens are computed, in which forward, and what is kept between forwards."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from polar_ray.engine.prefix_tree import PrefixTree, Run, pairs, prefix_tree

SMALLEST_FORWARD = 64
"""Tokens below which a forward is not made smaller, however small the budget: it would only be slower."""


@dataclass(frozen=True)
class Budget:
    """What one forward may hold.

    Attributes:
        tokens: Most tokens that it computes.
        attention: Most pairs of a token and a token that it attends to.
    """

    tokens: int
    attention: int


@dataclass(frozen=True)
class Forward:
    """One pass through the model over runs that lie one after the other in one row, without padding.

    Attributes:
        first: Position of its first run in the plan.
        stop: Position after its last run.
        kept: Runs of earlier forwards whose keys and values it reads, in ascending order.
        tokens: Tokens that it computes.
        attention: Pairs of a token and a token that it attends to.
    """

    first: int
    stop: int
    kept: tuple[int, ...]
    tokens: int
    attention: int


@dataclass(frozen=True)
class Plan:
    """The forwards of one list of sequences. It depends on their ids and on the budget alone, not on their order.

    Attributes:
        runs: What is computed, in this order; a run's parent comes before it.
        last: By sequence, the run at whose last token its score is read.
        forwards: Ranges of runs, in order.
        sequences: Sequences given.
        tokens_given: Tokens of all sequences.
        attention_given: Pairs of attention of all sequences, each computed on its own.
    """

    runs: tuple[Run, ...]
    last: tuple[int, ...]
    forwards: tuple[Forward, ...]
    sequences: int
    tokens_given: int
    attention_given: int

    @property
    def tokens(self) -> int:
        """Tokens computed."""
        return sum(forward.tokens for forward in self.forwards)

    @property
    def attention(self) -> int:
        """Pairs of attention computed."""
        return sum(forward.attention for forward in self.forwards)

    @property
    def padding(self) -> int:
        """Tokens computed that belong to no sequence."""
        return self.tokens - sum(run.tokens for run in self.runs)

    @cached_property
    def ends(self) -> frozenset[int]:
        """The runs at whose ends there is a score to read."""
        return frozenset(self.last)

    @cached_property
    def last_reader(self) -> dict[int, int]:
        """By run that is read by a later forward, the last forward that reads it."""
        return {run: number for number, forward in enumerate(self.forwards) for run in forward.kept}

    def __str__(self) -> str:
        lines = [f"{'forward':>8}{'runs':>8}{'tokens':>10}{'attention':>14}{'kept tokens':>13}"]
        lines += [
            f"{number:>8}{forward.stop - forward.first:>8}{forward.tokens:>10}{forward.attention:>14}"
            f"{sum(self.runs[run].tokens for run in forward.kept):>13}"
            for number, forward in enumerate(self.forwards)
        ]
        lines.append(f"{'sum':>8}{len(self.runs):>8}{self.tokens:>10}{self.attention:>14}")
        lines.append(
            f"{self.sequences} sequences of {self.tokens_given} tokens ({self.attention_given} pairs of attention); "
            f"{self.tokens} tokens are computed, {self.padding} of them padding."
        )
        return "\n".join(lines)


def plan_forwards(sequences: Sequence[np.ndarray], budget: Budget, *, share: bool = True) -> Plan:
    """Plans the forwards of sequences.

    Runs go into forwards in the order of the tree. A run with all that hangs on it stays in one forward where it
    fits into one; where it does not, it is computed once, its keys and values are kept, and what hangs on it is spread
    over several forwards. A run that is itself beyond the budget is cut into several.

    Args:
        sequences: Integer ids ``[length]`` each, at least one.
        budget: What one forward may hold; less than ``SMALLEST_FORWARD`` tokens is taken as that.
        share: False computes each different sequence on its own.
    """
    budget = Budget(max(budget.tokens, SMALLEST_FORWARD), max(budget.attention, SMALLEST_FORWARD**2))
    tree = _cut(prefix_tree(sequences, share=share), budget)
    lengths = [len(ids) for ids in sequences]
    return Plan(
        runs=tree.runs,
        last=tree.last,
        forwards=_forwards(tree.runs, budget),
        sequences=len(sequences),
        tokens_given=sum(lengths),
        attention_given=sum(pairs(0, length) for length in lengths),
    )


def _cut(tree: PrefixTree, budget: Budget) -> PrefixTree:
    """Cuts runs that are beyond the budget into chains of runs."""
    runs: list[Run] = []
    # By old run, the new run that ends where it ends.
    end_of: dict[int, int] = {-1: -1}
    for number, run in enumerate(tree.runs):
        parent, start = end_of[run.parent], run.start
        while start < run.end:
            # Half of it, until it fits: the later a token, the more it attends to.
            end = min(run.end, start + budget.tokens)
            while pairs(start, end) > budget.attention and end - start > SMALLEST_FORWARD:
                end = start + max(SMALLEST_FORWARD, (end - start) // 2)
            runs.append(replace(run, parent=parent, start=start, end=end))
            parent, start = len(runs) - 1, end
        end_of[number] = parent
    return PrefixTree(tuple(runs), tuple(end_of[run] for run in tree.last))


def _forwards(runs: Sequence[Run], budget: Budget) -> tuple[Forward, ...]:
    tokens = np.array([run.tokens for run in runs], np.int64)
    attention = np.array([run.attention for run in runs], np.int64)
    # A run with all that hangs on it; children come after their parents.
    all_tokens, all_attention = tokens.copy(), attention.copy()
    for number in range(len(runs) - 1, -1, -1):
        if (parent := runs[number].parent) >= 0:
            all_tokens[parent] += all_tokens[number]
            all_attention[parent] += all_attention[number]
    forwards: list[Forward] = []
    first, used_tokens, used_attention = 0, 0, 0
    for number in range(len(runs)):
        whole = all_tokens[number] <= budget.tokens and all_attention[number] <= budget.attention
        needs = (all_tokens, all_attention) if whole else (tokens, attention)
        fits = used_tokens + needs[0][number] <= budget.tokens and used_attention + needs[1][number] <= budget.attention
        if number > first and not fits:
            forwards.append(_forward(runs, first, number))
            first, used_tokens, used_attention = number, 0, 0
        used_tokens += tokens[number]
        used_attention += attention[number]
    if len(runs) > first:
        forwards.append(_forward(runs, first, len(runs)))
    return tuple(forwards)


def _forward(runs: Sequence[Run], first: int, stop: int) -> Forward:
    kept: set[int] = set()
    for number in range(first, stop):
        ancestor = runs[number].parent
        while ancestor >= 0 and ancestor not in kept:
            if ancestor < first:
                kept.add(ancestor)
            ancestor = runs[ancestor].parent
    inside = runs[first:stop]
    return Forward(
        first, stop, tuple(sorted(kept)), sum(run.tokens for run in inside), sum(run.attention for run in inside)
    )
