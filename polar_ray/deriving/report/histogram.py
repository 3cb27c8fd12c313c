"""Histograms with round edges."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

BINS = 48
"""Bins that a distribution of rewards is shown with, about."""
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
"""Widths of bins, times a power of ten."""


@dataclass(frozen=True)
class Bins:
    """Bins of one width: bin i covers ``[edges[i], edges[i + 1])``, the last one its right edge as well.

    Attributes:
        first: The left edge in widths.
        width: Of each bin.
        count: How many.
    """

    first: int
    width: float
    count: int

    @cached_property
    def edges(self) -> np.ndarray:
        """float64 [count + 1], as a float32 holds them: a reward that is shown as 0.7 is at least 0.7."""
        exact = (self.first + np.arange(self.count + 1)) * self.width
        return exact.astype(np.float32).astype(np.float64)

    def place(self, values: np.ndarray) -> np.ndarray:
        """Returns int64: 0 below the first edge, i + 1 inside bin i, count + 1 above the last edge."""
        places = np.searchsorted(self.edges, values, side="right")
        return np.where(values == self.edges[-1], self.count, places)

    def counts(self, values: np.ndarray) -> np.ndarray:
        """Returns int64 [count + 2]: values below, in each bin, above."""
        return np.bincount(self.place(values), minlength=self.count + 2)

    def finer(self, times: int) -> "Bins":
        """Returns bins over the same range, of which ``times`` make one of these."""
        return Bins(self.first * times, self.width / times, self.count * times)

    def coarser(self, counts: np.ndarray, most: int) -> tuple["Bins", np.ndarray]:
        """Returns bins from the same first edge that are at most ``most``, each of 2, 4, 8, ... of these, with counts.

        They end where no more than 1 in 200 values lie above.
        """
        inside = counts[1:-1]
        reached = np.cumsum(inside) + counts[0]
        needed = int(np.searchsorted(reached, 0.995 * counts.sum())) + 1
        times = 1
        while math.ceil(needed / times) > most:
            times *= 2
        kept = min(math.ceil(needed / times), math.ceil(self.count / times))
        # First edges stay where they are: those in use are 0 or multiples of `times`.
        assert self.first % times == 0, "the coarser bins begin at an edge of their own"
        merged = np.add.reduceat(inside, np.arange(0, self.count, times))
        coarse = np.concatenate([counts[:1], merged[:kept], [merged[kept:].sum() + counts[-1]]])
        return Bins(self.first // times, self.width * times, kept), coarse


def bins_for(low: float, high: float, many: int = BINS) -> Bins:
    """Returns about ``many`` bins of a round width that cover a range; one or two where the range is a point."""
    span = high - low
    if span <= 0:
        span = max(abs(low), 1.0) * many / 10
    width = round_up(span / many)
    first = math.floor(low / width)
    return Bins(first, width, max(1, math.ceil(high / width) - first))


def round_up(width: float) -> float:
    """Returns the smallest of 1, 2, 2.5, 5 times a power of ten that is not smaller."""
    power = 10.0 ** math.floor(math.log10(width))
    return next(step * power for step in STEPS if step * power >= width * (1 - 1e-9))


def shown(bins: Bins, counts: np.ndarray) -> dict[str, Any]:
    """Returns a histogram for the page: edges, counts, and how many lie below and above."""
    return {
        "edges": bins.edges.tolist(),
        "counts": counts[1:-1].tolist(),
        "below": int(counts[0]),
        "above": int(counts[-1]),
    }


LENGTH_EDGES = np.array(
    [0, 1, 2, 3, *(edge for power in range(2, 24) for edge in (2**power, 3 * 2 ** (power - 1)))], np.int64
)
"""Left edges of the bins of lengths: two to a doubling."""


def length_place(lengths: np.ndarray) -> np.ndarray:
    """Returns int64: the bin of each length, of which the last one is open."""
    return np.searchsorted(LENGTH_EDGES, lengths, side="right") - 1
