"""Mean, standard deviation and range of all rewards of a table: exactly, so in whatever parts it is read.

A float32 is an integer of 24 bits times a power of two. Sums of those integers and of their squares, one for each
power, are integers too, and so they add up over parts of a table in any order without a rounding error; mean and
variance are rounded once, in the end.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import inf, sqrt

import numpy as np

_LOWEST_POWER = -149
_BITS = 24
_POWERS = 278
"""float32 numbers lie between 2^-149 and 2^128."""


@dataclass(frozen=True)
class Statistics:
    """Of the rewards of one scorer; the standard deviation is that of the population."""

    mean: float
    deviation: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Sums:
    """What adds up over parts of a table.

    Attributes:
        count: Rewards.
        first: Python integers [powers]: sums of the rewards' integers.
        second: The same of their squares.
        lowest: inf where there are none.
        highest: -inf where there are none.
    """

    count: int
    first: np.ndarray
    second: np.ndarray
    lowest: float
    highest: float

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.count + other.count,
            self.first + other.first,
            self.second + other.second,
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
        )

    def statistics(self) -> Statistics:
        """Returns mean, deviation and range; all 0 where there are no rewards."""
        if not self.count:
            return Statistics(0.0, 0.0, 0.0, 0.0)
        total = _value(self.first, 1)
        mean = total / self.count
        variance = _value(self.second, 2) / self.count - mean * mean
        return Statistics(float(mean), sqrt(variance), self.lowest, self.highest)


def sums_of(rewards: np.ndarray) -> Sums:
    """Returns the sums of rewards (without NaN), at most 2^28 of them, as float32 holds them."""
    values = rewards.astype(np.float32).astype(np.float64)
    fractions, powers = np.frexp(values)
    # frexp gives fractions in [0.5, 1), also of numbers that float32 holds with fewer bits.
    integers = np.ldexp(fractions, _BITS).astype(np.int64)
    places = powers - _BITS - (_LOWEST_POWER - _BITS)
    squares = integers * integers
    upper, lower = squares >> _BITS, squares & ((1 << _BITS) - 1)

    def counted(weights: np.ndarray) -> np.ndarray:
        # Sums of fewer than 2^28 integers of 25 bits are exact in float64.
        return np.bincount(places, weights=weights, minlength=_POWERS).astype(np.int64).astype(object)

    return Sums(
        len(values),
        counted(integers),
        counted(upper) * (1 << _BITS) + counted(lower),
        float(values.min(initial=inf)),
        float(values.max(initial=-inf)),
    )


def _value(sums: np.ndarray, exponent: int) -> Fraction:
    lowest = exponent * (_LOWEST_POWER - _BITS)
    return sum((int(part) * Fraction(2) ** (lowest + exponent * place) for place, part in enumerate(sums)), Fraction(0))
