"""Means, deviations and correlations that add up over parts of a table.

Two parts are merged by the parallel update of Chan, Golub and LeVeque (1979, "Updating Formulae and a Pairwise
Algorithm for Computing Sample Variances"), which stays precise where plain sums of squares do not.
"""

from dataclasses import dataclass

import numpy as np

from polar_ray.deriving.rank import ranks_within


@dataclass(frozen=True)
class Moments:
    """Of K sets of numbers, each array with one value per set.

    Attributes:
        count: int64 [K].
        mean: float64 [K], 0 where there is nothing.
        squares: float64 [K], sums of squared deviations from the mean.
        least: float64 [K], infinity where there is nothing.
        most: float64 [K], minus infinity where there is nothing.
    """

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    least: np.ndarray
    most: np.ndarray

    @staticmethod
    def of(values: np.ndarray, sets: np.ndarray | None = None, many: int = 1) -> "Moments":
        """Returns the moments of values (without NaN), each of which belongs to one of ``many`` sets."""
        sets = np.zeros(len(values), np.int64) if sets is None else sets
        count = np.bincount(sets, minlength=many)
        # Deviations from one of the values keep large numbers precise.
        origin = values[0] if len(values) else 0.0
        mean = origin + np.bincount(sets, values - origin, many) / np.maximum(count, 1)
        squares = np.bincount(sets, (values - mean[sets]) ** 2, many)
        least, most = np.full(many, np.inf), np.full(many, -np.inf)
        np.minimum.at(least, sets, values)
        np.maximum.at(most, sets, values)
        return Moments(count, np.where(count > 0, mean, 0.0), squares, least, most)

    def __add__(self, other: "Moments") -> "Moments":
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        apart = other.mean - self.mean
        return Moments(
            count,
            self.mean + apart * share,
            self.squares + other.squares + apart**2 * self.count * share,
            np.minimum(self.least, other.least),
            np.maximum(self.most, other.most),
        )

    def of_sets(self, places: np.ndarray) -> "Moments":
        """Returns the moments of some of the sets."""
        return Moments(*(values[places] for values in vars(self).values()))

    def together(self) -> "Moments":
        """Returns the moments of all sets as one."""
        total = Moments.of(np.zeros(0))
        for each in range(len(self.count)):
            one = slice(each, each + 1)
            total += Moments(self.count[one], self.mean[one], self.squares[one], self.least[one], self.most[one])
        return total

    def describe(self, place: int = 0) -> dict[str, float | int | None]:
        """Returns count, mean, population standard deviation, minimum and maximum of one set, None where empty."""
        count = int(self.count[place])
        if count == 0:
            return {"count": 0, "mean": None, "sd": None, "min": None, "max": None}
        least, most = float(self.least[place]), float(self.most[place])
        deviation = 0.0 if least == most else float(np.sqrt(self.squares[place] / count))
        return {"count": count, "mean": float(self.mean[place]), "sd": deviation, "min": least, "max": most}


@dataclass(frozen=True)
class CoMoments:
    """Of pairs of numbers.

    Attributes:
        x: Moments of the first numbers.
        y: Moments of the second.
        product: Sum of the products of both deviations.
    """

    x: Moments
    y: Moments
    product: float

    @staticmethod
    def of(x: np.ndarray, y: np.ndarray) -> "CoMoments":
        """Returns the moments of pairs without NaN."""
        first, second = Moments.of(x), Moments.of(y)
        return CoMoments(first, second, float(np.sum((x - first.mean[0]) * (y - second.mean[0]))))

    def __add__(self, other: "CoMoments") -> "CoMoments":
        count = int(self.x.count[0] + other.x.count[0])
        weight = int(self.x.count[0]) * int(other.x.count[0]) / max(count, 1)
        apart = (other.x.mean[0] - self.x.mean[0]) * (other.y.mean[0] - self.y.mean[0])
        return CoMoments(self.x + other.x, self.y + other.y, float(self.product + other.product + apart * weight))

    @property
    def pearson(self) -> float | None:
        """Pearson's correlation; None where it is not defined: fewer than two pairs, or one side is constant."""
        if self.x.count[0] < 2 or self.x.least[0] == self.x.most[0] or self.y.least[0] == self.y.most[0]:
            return None
        return limited(self.product / float(np.sqrt(self.x.squares[0]) * np.sqrt(self.y.squares[0])))


def share(part: float, whole: float) -> float | None:
    """Returns part / whole, None where there is no whole."""
    return part / whole if whole else None


def limited(correlation: float) -> float | None:
    """Returns a correlation without what rounding put beyond -1 and 1; None for NaN."""
    return None if np.isnan(correlation) else float(min(1.0, max(-1.0, correlation)))


def spearman(x: np.ndarray, y: np.ndarray) -> float | None:
    """Returns Spearman's correlation: Pearson's of the ranks, in which ties share the mean of their places."""
    together = np.zeros(len(x), np.int64)
    return CoMoments.of(ranks_within(together, x), ranks_within(together, y)).pearson
