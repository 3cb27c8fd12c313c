"""A quantile of all rewards of a table, exactly, in memory that does not grow with the table.

A float32 has 32 bits, which can be put in such an order that numbers compare like their bits. A first pass over the
table counts the rewards by the upper 16 bits, which says in which of 65,536 bins the quantile lies; a second pass
counts those of that bin by the lower 16 bits. Counts add up over parts of the table in any order.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

BINS = 1 << 16


@dataclass(frozen=True)
class Bin:
    """Where the quantile lies after the first pass.

    Attributes:
        upper: The upper 16 bits.
        rank: How many rewards of the bin are below it.
    """

    upper: int
    rank: int


def upper_counts(rewards: np.ndarray) -> np.ndarray:
    """Counts rewards (without NaN) by their upper bits: int64 [65536]."""
    return np.bincount(_ordered_bits(rewards) >> np.uint32(16), minlength=BINS)


def lower_counts(rewards: np.ndarray, upper: int) -> np.ndarray:
    """Counts the rewards with the given upper bits by their lower bits: int64 [65536]."""
    bits = _ordered_bits(rewards)
    inside = bits[(bits >> np.uint32(16)) == upper]
    return np.bincount(inside & np.uint32(BINS - 1), minlength=BINS)


def as_written(share: float) -> Fraction:
    """Returns the decimal that a recipe says: 0.29 of 100 is 29, while the float nearest to 0.29 gives less."""
    return Fraction(repr(float(share)))


def find_bin(counts: np.ndarray, quantile: float) -> Bin | None:
    """Finds the bin of the quantile by the counts of the whole table; None if there are no rewards.

    The quantile is the smallest reward of which at least the share ``quantile`` of all rewards is at or below it (the
    inverse of the empirical distribution function).
    """
    total = int(counts.sum())
    if total == 0:
        return None
    rank = max(0, math.ceil(as_written(quantile) * total) - 1)
    upper = int(np.searchsorted(np.cumsum(counts), rank, side="right"))
    return Bin(upper, rank - int(counts[:upper].sum()))


def value_in_bin(bin_: Bin, counts: np.ndarray) -> float:
    """Returns the quantile, a float32, by the counts inside its bin."""
    lower = int(np.searchsorted(np.cumsum(counts), bin_.rank, side="right"))
    return _from_bits(bin_.upper << 16 | lower)


def _ordered_bits(rewards: np.ndarray) -> np.ndarray:
    """uint32 that compare like the numbers."""
    # Adding 0 turns -0.0 into 0.0, which it is equal to.
    bits = (rewards.astype(np.float32) + np.float32(0)).view(np.uint32)
    negative = (bits >> np.uint32(31)).astype(bool)
    return np.asarray(np.where(negative, ~bits, bits | np.uint32(1 << 31)))


def _from_bits(ordered: int) -> float:
    bits = ordered ^ (1 << 31) if ordered >> 31 else ~ordered & 0xFFFFFFFF
    return float(np.array([bits], np.uint32).view(np.float32)[0])
