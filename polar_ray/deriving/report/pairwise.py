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
        beaten: int64 [M, M]: how often the row's model has the higher reward than the column's, M - 1 for all others.
        level: int64 [M, M]: how often the row's first candidate ties with the column's later one.
        longer: By unit of length, pairs in which rewards and lengths both differ: all, and those in which the longer
            one has the higher reward.
    """

    pairs: int
    tied: int
    beaten: np.ndarray
    level: np.ndarray
    longer: dict[str, tuple[int, int]]

    def __add__(self, other: "PairSums") -> "PairSums":
        return PairSums(
            self.pairs + other.pairs,
            self.tied + other.tied,
            self.beaten + other.beaten,
            self.level + other.level,
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


def compare(frame: Frame, models: int) -> Compared:
    """Compares every two candidates of each prompt; ``models`` counts those that are shown and one for the others."""
    many = len(frame.blocks)
    zero = np.zeros((models, models), np.int64)
    scorers = [PairSums(0, 0, zero, zero, dict.fromkeys(units, (0, 0))) for units in frame.lengths]
    agreement = {(a, b): AgreementSums() for a in range(many) for b in range(a + 1, many)}
    labels = {(scorer, kind): LabelSums() for scorer in range(many) for kind in frame.labels}
    for first, second in pairs_of(frame.sizes, frame.starts):
        rewards = [signs(block.reward, first, second) for block in frame.blocks]
        label_signs = {kind: signs(values, first, second) for kind, values in frame.labels.items()}
        left, right = frame.model[first], frame.model[second]
        for scorer, reward in enumerate(rewards):
            lengths = {unit: signs(values, first, second) for unit, values in frame.lengths[scorer].items()}
            scorers[scorer] += _pair_sums(reward, left, right, models, lengths)
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
    reward: np.ndarray, left: np.ndarray, right: np.ndarray, models: int, lengths: dict[str, np.ndarray]
) -> PairSums:
    known = reward != UNKNOWN
    sign = reward[known].astype(np.int64)
    # One count for each of: first wins, tie, second wins; for each first model; for each second model.
    code = ((sign + 1) * models + left[known]) * models + right[known]
    lost, level, won = np.bincount(code, minlength=3 * models**2).reshape(3, models, models)
    longer = {}
    for unit, length in lengths.items():
        product = reward * length
        told = (np.abs(product) == 1) & known & (length != UNKNOWN)
        longer[unit] = (int(told.sum()), int((product[told] == 1).sum()))
    return PairSums(int(known.sum()), int((sign == 0).sum()), won + lost.T, level, longer)


def _agreement(one: np.ndarray, other: np.ndarray) -> AgreementSums:
    both = (one != UNKNOWN) & (other != UNKNOWN)
    product = one[both] * other[both]
    return AgreementSums(int(both.sum()), int((product != 0).sum()), int((product == 1).sum()))


def _added(one: dict[str, tuple[int, int]], other: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {unit: (one[unit][0] + other[unit][0], one[unit][1] + other[unit][1]) for unit in one}
