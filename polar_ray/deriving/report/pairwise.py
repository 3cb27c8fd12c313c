"""Every two candidates of a prompt, compared: ties, win rates of models, agreement with length, scorers and labels."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from polar_ray.deriving.report.additive import Additive
from polar_ray.deriving.report.frame import Frame
from polar_ray.deriving.report.labels import LabelKind, LabelSums, label_pairs

PAIRS = 1 << 20
"""Pairs that are compared at a time; this bounds the memory."""
UNKNOWN = 2
"""The sign of a comparison in which a side has no value."""


@dataclass(frozen=True)
class PairSums:
    """Of one scorer.

    Attributes:
        pairs: Pairs of candidates of a prompt that both have a reward.
        tied: Those with equal rewards.
        beaten: int64 [M + 1, M + 1]: how often the row's model has the higher reward than the column's, for the M
            models that are compared one by one; M stands for all others.
        level: int64 [M + 1, M + 1]: how often the row's first candidate ties with the column's later one.
        each: int64 [3, K + 1]: how often each of all K models has the lower, the same and the higher reward than a
            candidate of another model; K stands for candidates whose model is not known.
        longer: By unit of length, pairs in which rewards and lengths both differ: all, and those in which the longer
            one has the higher reward.
    """

    pairs: int
    tied: int
    beaten: np.ndarray
    level: np.ndarray
    each: np.ndarray
    longer: dict[str, tuple[int, int]]

    def __add__(self, other: "PairSums") -> "PairSums":
        return PairSums(
            self.pairs + other.pairs,
            self.tied + other.tied,
            self.beaten + other.beaten,
            self.level + other.level,
            self.each + other.each,
            _added(self.longer, other.longer),
        )


@dataclass(frozen=True)
class AgreementSums(Additive):
    """Of two scorers.

    Attributes:
        both: Pairs of candidates of a prompt that have both rewards.
        told: Those in which neither scorer has a tie.
        same: Those of them that both put in the same order.
    """

    both: int = 0
    told: int = 0
    same: int = 0


@dataclass(frozen=True)
class Compared:
    """What comes of all pairs of a frame.

    Attributes:
        scorers: For each scorer.
        agreement: For every two scorers.
        labels: For each scorer and kind of label.
    """

    scorers: tuple[PairSums, ...]
    agreement: dict[tuple[int, int], AgreementSums]
    labels: dict[tuple[int, LabelKind], LabelSums]


def compare(frame: Frame, models: int, apart: int) -> Compared:
    """Compares every two candidates of each prompt.

    Args:
        frame: The candidates.
        models: How many models there are.
        apart: How many of them, the first ones, are compared one by one.
    """
    many = len(frame.blocks)
    zero, none = np.zeros((apart + 1, apart + 1), np.int64), np.zeros((3, models + 1), np.int64)
    scorers = [PairSums(0, 0, zero, zero, none, dict.fromkeys(units, (0, 0))) for units in frame.lengths]
    agreement = {(a, b): AgreementSums() for a in range(many) for b in range(a + 1, many)}
    labels = {(scorer, kind): LabelSums() for scorer in range(many) for kind in frame.labels}
    for first, second in pairs_of(frame.sizes, frame.starts):
        rewards = [signs(block.reward, first, second) for block in frame.blocks]
        label_signs = {kind: signs(values, first, second) for kind, values in frame.labels.items()}
        left, right = frame.model[first], frame.model[second]
        for scorer, reward in enumerate(rewards):
            lengths = {unit: signs(values, first, second) for unit, values in frame.lengths[scorer].items()}
            scorers[scorer] += _pair_sums(reward, left, right, models, apart, lengths)
            length = next(iter(lengths.values()), None)
            for kind, label in label_signs.items():
                labels[scorer, kind] += label_pairs(label, reward, length)
        for a, b in agreement:
            agreement[a, b] += _agreement(rewards[a], rewards[b])
    return Compared(tuple(scorers), agreement, labels)


def pairs_of(sizes: np.ndarray, starts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields candidates and later candidates of the same group, int64 [P] each, every pair once."""
    for size in np.unique(sizes[sizes >= 2]).tolist():
        groups = np.flatnonzero(sizes == size)
        rows = max(1, PAIRS // size)
        for low in range(0, size - 1, rows):
            earlier, later = np.triu_indices(min(rows, size - 1 - low), 1, size - low)
            at_a_time = max(1, PAIRS // len(earlier))
            for place in range(0, len(groups), at_a_time):
                at = starts[groups[place : place + at_a_time]][:, None] + low
                yield (at + earlier).ravel(), (at + later).ravel()


def signs(values: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the sign of the first value minus the second, ``UNKNOWN`` where one is NaN: int8 [P]."""
    one, other = values[first], values[second]
    sign = (one > other).astype(np.int8) - (one < other).astype(np.int8)
    sign[np.isnan(one) | np.isnan(other)] = UNKNOWN
    return np.asarray(sign)


def _pair_sums(
    reward: np.ndarray, left: np.ndarray, right: np.ndarray, models: int, apart: int, lengths: dict[str, np.ndarray]
) -> PairSums:
    known = reward != UNKNOWN
    sign = reward[known].astype(np.int64)
    one, other = left[known], right[known]
    # One count for each of: first wins, tie, second wins; for each first model; for each second model.
    size = apart + 1
    code = ((sign + 1) * size + np.minimum(one, apart)) * size + np.minimum(other, apart)
    lost, level, won = np.bincount(code, minlength=3 * size**2).reshape(3, size, size)
    differ = one != other
    sign_apart = sign[differ]
    each = sum(
        np.bincount((outcome + 1) * (models + 1) + model[differ], minlength=3 * (models + 1))
        for outcome, model in ((sign_apart, one), (-sign_apart, other))
    )
    longer = {}
    for unit, length in lengths.items():
        product = reward * length
        told = (np.abs(product) == 1) & known & (length != UNKNOWN)
        longer[unit] = (int(told.sum()), int((product[told] == 1).sum()))
    return PairSums(
        int(known.sum()), int((sign == 0).sum()), won + lost.T, level, np.reshape(each, (3, models + 1)), longer
    )


def _agreement(one: np.ndarray, other: np.ndarray) -> AgreementSums:
    both = (one != UNKNOWN) & (other != UNKNOWN)
    product = one[both] * other[both]
    return AgreementSums(int(both.sum()), int((product != 0).sum()), int((product == 1).sum()))


def _added(one: dict[str, tuple[int, int]], other: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {unit: (one[unit][0] + other[unit][0], one[unit][1] + other[unit][1]) for unit in one}
