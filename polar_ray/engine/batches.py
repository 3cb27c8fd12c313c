"""Padded batches: which sequences go through a model together that is served plainly."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MicroBatch:
    """Sequences of one forward.

    Attributes:
        rows: Positions in the list of sequences, longest first.
        longest: Tokens of the longest of them, to which the others are padded.
        tokens: Tokens of all of them, without padding.
    """

    rows: tuple[int, ...]
    longest: int
    tokens: int

    @property
    def padded_tokens(self) -> int:
        """Tokens of the forward, padding included: what the token budget counts."""
        return len(self.rows) * self.longest


@dataclass(frozen=True)
class BatchPlan:
    """The forwards of one list of sequences. It depends on their lengths and on the budget alone."""

    batches: tuple[MicroBatch, ...]

    @property
    def sequences(self) -> int:
        return sum(len(batch.rows) for batch in self.batches)

    @property
    def tokens(self) -> int:
        return sum(batch.tokens for batch in self.batches)

    @property
    def padded_tokens(self) -> int:
        return sum(batch.padded_tokens for batch in self.batches)

    def __str__(self) -> str:
        lines = [f"{'forward':>8}{'sequences':>11}{'longest':>9}{'tokens':>10}{'padded':>10}"]
        lines += [
            f"{number:>8}{len(batch.rows):>11}{batch.longest:>9}{batch.tokens:>10}{batch.padded_tokens:>10}"
            for number, batch in enumerate(self.batches)
        ]
        lines.append(f"{'sum':>8}{self.sequences:>11}{'':>9}{self.tokens:>10}{self.padded_tokens:>10}")
        return "\n".join(lines)


def plan_batches(lengths: np.ndarray, token_budget: int) -> BatchPlan:
    """Plans the forwards of sequences of these lengths.

    Sequences are sorted by length, longest first so that a budget that is too large shows at once, ties by position,
    and cut into batches of at most ``token_budget`` padded tokens. A sequence that is longer than the budget is a
    batch of its own.

    Args:
        lengths: int ``[N]``, tokens of each sequence, at least 1.
        token_budget: Most tokens of one forward, padding included.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    batches: list[MicroBatch] = []
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        rows = order[start : start + max(1, token_budget // longest)]
        batches.append(MicroBatch(tuple(rows.tolist()), longest, int(lengths[rows].sum())))
        start += len(rows)
    return BatchPlan(tuple(batches))
