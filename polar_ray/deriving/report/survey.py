"""The first pass over a score table: how many, from where to where, and which models.

Only rewards and model names are read. It settles the bins of the histograms, which models there are, and in which bin
of bits each quantile lies; see ``polar_ray.deriving.quantile``.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from polar_ray.data.arrays import flat
from polar_ray.data.storage import Storage
from polar_ray.deriving.block import block_of
from polar_ray.deriving.quantile import Bin, find_bin, upper_counts, value_in_bin
from polar_ray.deriving.report.histogram import Bins, bins_for
from polar_ray.deriving.report.sources import Sources
from polar_ray.deriving.units import Unit, UnitReader
from polar_ray.deriving.wanted import Wanted

NAMES = 10_000
"""Different model names that are counted; a table with more has a name per candidate, not models."""
MATRIX = 256
"""Models, those with the most candidates, that have a histogram each and are compared with each other one by one."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_TAIL = 0.002
"""Share of the rewards at each end that may lie outside of a histogram, if they would stretch it."""


@dataclass(frozen=True)
class Range:
    """The rewards of one scorer: counts by their upper bits, the least and the most."""

    upper: np.ndarray
    least: float
    most: float

    def __add__(self, other: "Range") -> "Range":
        return Range(self.upper + other.upper, min(self.least, other.least), max(self.most, other.most))

    @property
    def count(self) -> int:
        """Rewards."""
        return int(self.upper.sum())

    def bins(self) -> Bins:
        """Returns the bins in which this scorer's rewards are shown."""
        low, high = self._about(_TAIL), self._about(1 - _TAIL)
        if low is None or high is None:
            return bins_for(0.0, 1.0)
        room = 0.2 * (high - low)
        low = self.least if self.least >= low - room else low
        high = self.most if self.most <= high + room else high
        return bins_for(low, high)

    def quantile_bins(self) -> list[Bin | None]:
        """Returns where each of ``QUANTILES`` lies."""
        return [find_bin(self.upper, quantile) for quantile in QUANTILES]

    def _about(self, quantile: float) -> float | None:
        """Returns a quantile to the precision of the upper bits."""
        found = find_bin(self.upper, quantile)
        if found is None:
            return None
        inside = np.zeros(1 << 16, np.int64)
        inside[0] = self.upper[found.upper]
        return min(max(value_in_bin(found, inside), self.least), self.most)


@dataclass(frozen=True)
class Survey:
    """What a part of the table holds.

    Attributes:
        prompts: Rows.
        candidates: Of all prompts.
        ranges: For each scorer.
        models: Candidates by model; the empty name where the model is not known.
    """

    prompts: int
    candidates: int
    ranges: tuple[Range, ...]
    models: Counter[str]

    def __add__(self, other: "Survey") -> "Survey":
        models = self.models + other.models
        if len(models) > NAMES:
            # Names seen first stay; what is cut is counted with the other models.
            models = Counter(dict(list(models.items())[:NAMES]))
        ranges = tuple(one + two for one, two in zip(self.ranges, other.ranges, strict=True))
        return Survey(self.prompts + other.prompts, self.candidates + other.candidates, ranges, models)

    def known_models(self) -> tuple[str, ...]:
        """Names of all models, those with the most candidates first."""
        ordered = sorted(self.models.items(), key=lambda entry: (-entry[1], entry[0]))
        return tuple(name for name, _ in ordered)


def empty_survey(sources: Sources) -> Survey:
    """Returns the survey of nothing."""
    nothing = Range(np.zeros(1 << 16, np.int64), np.inf, -np.inf)
    return Survey(0, 0, (nothing,) * len(sources.scorers), Counter())


def survey_unit(storage: Storage, sources: Sources, unit: Unit) -> Survey:
    """Surveys one unit."""
    with UnitReader(storage, unit) as reader:
        statuses = [scorer.wanted.status for scorer in sources.scorers]
        table = reader.read([*sources.survey_columns, *statuses])
    ranges = []
    candidates = 0
    for scorer in sources.scorers:
        block = block_of(table, Wanted(scorer.wanted.reward, scorer.wanted.status))
        candidates = len(block.reward)
        rewards = block.reward[~np.isnan(block.reward)]
        least, most = (float(rewards.min()), float(rewards.max())) if len(rewards) else (np.inf, -np.inf)
        ranges.append(Range(upper_counts(rewards), least, most))
    models: Counter[str] = Counter()
    if sources.model:
        names = flat(table.column("candidates")).flatten().field("model")
        counted = pc.value_counts(pc.fill_null(names, ""))
        models.update({entry["values"]: entry["counts"] for entry in counted.to_pylist()})
    return Survey(table.num_rows, candidates, tuple(ranges), models)
