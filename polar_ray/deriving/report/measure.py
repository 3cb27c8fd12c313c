"""The second pass over a score table: everything that is counted, and the prompts that are shown."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from polar_ray.data.storage import Storage
from polar_ray.deriving.block import Block
from polar_ray.deriving.curve import CurveSums, curve_sums
from polar_ray.deriving.order import Order, best_first
from polar_ray.deriving.quantile import Bin, lower_counts
from polar_ray.deriving.report.additive import Additive
from polar_ray.deriving.report.choosing import Chosen, choose
from polar_ray.deriving.report.frame import STATUSES, Frame, frame_of
from polar_ray.deriving.report.histogram import LENGTH_EDGES, Bins, length_place
from polar_ray.deriving.report.labels import LabelKind, LabelSums, label_sums
from polar_ray.deriving.report.moments import CoMoments, Moments
from polar_ray.deriving.report.pairwise import AgreementSums, PairSums, compare
from polar_ray.deriving.report.sources import Sources
from polar_ray.deriving.report.survey import MATRIX
from polar_ray.deriving.report.within import LongestSums, WithinSums, longest_sums, within_sums
from polar_ray.deriving.units import Unit, UnitReader, kept

FINER = 8
"""Bins of margins to one of rewards."""
CURVE = 512
"""Largest n of an N-curve."""
MESSAGES = 200
"""Different error messages that are counted."""
MESSAGE_CHARACTERS = 240


@dataclass(frozen=True)
class Measuring:
    """What is measured. Small and picklable.

    Attributes:
        storage: Where the score table is.
        sources: What is read of it.
        models: Names of all models, those with the most candidates first.
        bins: For each scorer's rewards.
        quantiles: For each scorer, where its quantiles lie.
        examples: Prompts to show of each category.
        share: Of the candidates that are sampled for correlations of ranks.
        seed: Of what is random.
    """

    storage: Storage
    sources: Sources
    models: tuple[str, ...]
    bins: tuple[Bins, ...]
    quantiles: tuple[tuple[Bin | None, ...], ...]
    examples: int
    share: float
    seed: int

    @property
    def apart(self) -> int:
        """How many models, the first ones, have a histogram and are compared one by one."""
        return min(len(self.models), MATRIX)


@dataclass(frozen=True)
class LengthSums(Additive):
    """Rewards against one unit of length.

    Attributes:
        together: Moments of length and reward.
        within: The same inside prompts.
        longest: How often the longest is the best.
        density: int64 [lengths, rewards + 2]: candidates by bins of length and of reward.
        reward: float64 [lengths]: sum of the rewards in each bin of length.
    """

    together: CoMoments
    within: WithinSums
    longest: LongestSums
    density: np.ndarray
    reward: np.ndarray


@dataclass(frozen=True)
class ScorerSums:
    """Of one scorer.

    Attributes:
        statuses: int64 [K + 1, S + 1]: candidates by model and status; K stands for those whose model is not known.
        moments: Of the rewards by model, K + 1 likewise.
        histogram: int64 [M + 1, bins + 2]: rewards by model and bin; M stands for all models after the first M.
        quantiles: For each quantile, the rewards of its bin by their lower bits.
        sizes: Prompts by the number of candidates with a reward: none, one, more.
        margins: ``second`` and ``worst``: moments and counts of the best reward minus that one.
        ties: Prompts whose best reward several candidates share; those in which all rewards are equal.
        curve: For the N-curve.
        pairs: What comes of comparing every two candidates.
        lengths: By unit of length.
        errors: Candidates by error message.
    """

    statuses: np.ndarray
    moments: Moments
    histogram: np.ndarray
    quantiles: tuple[np.ndarray, ...]
    sizes: np.ndarray
    margins: dict[str, tuple[Moments, np.ndarray]]
    ties: np.ndarray
    curve: CurveSums
    pairs: PairSums
    lengths: dict[str, LengthSums]
    errors: Counter[str]

    def __add__(self, other: "ScorerSums") -> "ScorerSums":
        errors = self.errors + other.errors
        return ScorerSums(
            self.statuses + other.statuses,
            self.moments + other.moments,
            self.histogram + other.histogram,
            tuple(one + two for one, two in zip(self.quantiles, other.quantiles, strict=True)),
            self.sizes + other.sizes,
            {
                name: (one[0] + other.margins[name][0], one[1] + other.margins[name][1])
                for name, one in self.margins.items()
            },
            self.ties + other.ties,
            self.curve + other.curve,
            self.pairs + other.pairs,
            {unit: one + other.lengths[unit] for unit, one in self.lengths.items()},
            Counter(dict(list(errors.items())[:MESSAGES])),
        )


@dataclass(frozen=True)
class Sample:
    """Candidates at random: float64 [s] each, NaN where unknown; the rewards of each scorer and each length."""

    rewards: list[np.ndarray] = field(default_factory=list)
    lengths: list[dict[str, np.ndarray]] = field(default_factory=list)


@dataclass(frozen=True)
class Measured:
    """What came of one unit, or of several.

    Attributes:
        scorers: Sums of each scorer.
        agreement: Of every two scorers: pairs, and the correlation inside prompts.
        labels: Of each scorer and kind of label.
        sample: Candidates for correlations of ranks.
        chosen: Prompts to show.
    """

    scorers: tuple[ScorerSums, ...]
    agreement: dict[tuple[int, int], tuple[AgreementSums, WithinSums]]
    labels: dict[tuple[int, LabelKind], LabelSums]
    sample: Sample
    chosen: Chosen

    def merged(self, other: "Measured", examples: int) -> "Measured":
        """Returns both together. The order matters for sums of floats, so units are merged in theirs."""
        return Measured(
            tuple(one + two for one, two in zip(self.scorers, other.scorers, strict=True)),
            {
                both: (one[0] + other.agreement[both][0], one[1] + other.agreement[both][1])
                for both, one in self.agreement.items()
            },
            {
                key: self.labels.get(key, LabelSums()) + other.labels.get(key, LabelSums())
                for key in dict.fromkeys([*self.labels, *other.labels])
            },
            Sample(
                [np.concatenate(pair) for pair in zip(self.sample.rewards, other.sample.rewards, strict=True)],
                [
                    {unit: np.concatenate([values, two[unit]]) for unit, values in one.items()}
                    for one, two in zip(self.sample.lengths, other.sample.lengths, strict=True)
                ],
            ),
            self.chosen.merged(other.chosen, examples),
        )


def measure_unit(measuring: Measuring, unit: Unit) -> Measured:
    """Measures one unit."""
    with UnitReader(kept(measuring.storage), unit) as reader:
        table = reader.read(measuring.sources.columns)
        part_rows = reader.part_rows
    chance = np.random.default_rng([measuring.seed, unit.number])
    frame = frame_of(table, measuring.sources, measuring.models)
    orders = [best_first(block, ~np.isnan(block.reward)) for block in frame.blocks]
    compared = compare(frame, len(measuring.models), measuring.apart)
    picked = chance.random(len(frame.group)) < measuring.share
    labels = {}
    for (scorer, kind), pairs in compared.labels.items():
        length = next(iter(frame.lengths[scorer].values()), None)
        reward = frame.blocks[scorer].reward
        sums = label_sums(frame.labels[kind], reward, length, frame.group, len(frame.sizes))
        labels[scorer, kind] = sums + pairs
    return Measured(
        tuple(
            _scorer(frame, number, orders[number], pairs, measuring) for number, pairs in enumerate(compared.scorers)
        ),
        {
            (a, b): (
                sums,
                within_sums(frame.blocks[a].reward, frame.blocks[b].reward, frame.group, len(frame.sizes)),
            )
            for (a, b), sums in compared.agreement.items()
        },
        labels,
        Sample(
            [block.reward[picked] for block in frame.blocks],
            [{unit: values[picked] for unit, values in units.items()} for units in frame.lengths],
        ),
        choose(frame, orders[0], unit.parts, part_rows, measuring.examples, chance),
    )


def _scorer(frame: Frame, number: int, order: Order, pairs: PairSums, measuring: Measuring) -> ScorerSums:
    block, bins, models = frame.blocks[number], measuring.bins[number], len(measuring.models) + 1
    known = ~np.isnan(block.reward)
    rewards, model = block.reward[known], frame.model[known]
    many = len(STATUSES) + 1
    several = order.counts > 1
    best = order.reward[order.starts[:-1][several]]
    others = {
        "second": order.reward[order.starts[:-1][several] + 1],
        "worst": order.reward[order.starts[1:][several] - 1],
    }
    fine = margin_bins(bins)
    margins = {name: best - other for name, other in others.items()}
    return ScorerSums(
        statuses=np.bincount(frame.model * many + frame.statuses[number], minlength=models * many).reshape(
            models, many
        ),
        moments=Moments.of(rewards, model, models),
        histogram=np.bincount(
            np.minimum(model, measuring.apart) * (bins.count + 2) + bins.place(rewards),
            minlength=(measuring.apart + 1) * (bins.count + 2),
        ).reshape(measuring.apart + 1, -1),
        quantiles=tuple(
            lower_counts(rewards, found.upper) if found else np.zeros(1, np.int64)
            for found in measuring.quantiles[number]
        ),
        sizes=np.bincount(np.minimum(order.counts, 2), minlength=3),
        margins={name: (Moments.of(values), fine.counts(values)) for name, values in margins.items()},
        ties=np.array([np.count_nonzero(values == 0) for values in margins.values()]),
        curve=curve_sums(order, CURVE),
        pairs=pairs,
        lengths={unit: _length(frame, block, values, bins) for unit, values in frame.lengths[number].items()},
        errors=_messages(frame.errors[number]),
    )


def margin_bins(bins: Bins) -> Bins:
    """Returns the bins of margins, for the bins of the rewards."""
    return Bins(0, bins.width / FINER, bins.count * FINER)


def _length(frame: Frame, block: Block, length: np.ndarray, bins: Bins) -> LengthSums:
    known = ~np.isnan(length) & ~np.isnan(block.reward)
    lengths, rewards = length[known], block.reward[known]
    place, columns = length_place(lengths), bins.count + 2
    groups = len(frame.sizes)
    return LengthSums(
        CoMoments.of(lengths, rewards),
        within_sums(length, block.reward, frame.group, groups),
        longest_sums(length, block.reward, frame.group, groups),
        np.bincount(place * columns + bins.place(rewards), minlength=len(LENGTH_EDGES) * columns).reshape(-1, columns),
        np.bincount(place, rewards, len(LENGTH_EDGES)),
    )


def _messages(errors: pa.StringArray | None) -> Counter[str]:
    if errors is None or errors.null_count == len(errors):
        return Counter()
    counted = pa.compute.value_counts(errors.drop_null()).to_pylist()
    messages: Counter[str] = Counter()
    for entry in counted:
        message = entry["values"][:MESSAGE_CHARACTERS]
        if message in messages or len(messages) < MESSAGES:
            messages[message] += entry["counts"]
    return messages
