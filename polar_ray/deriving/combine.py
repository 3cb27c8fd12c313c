"""One reward from several scorers' rewards; formulas and edge cases are said in ``recipe.combine``.

Everything but the table's statistics is a function of one prompt, so it does not depend on how the table is cut.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from polar_ray.deriving.block import Block
from polar_ray.deriving.rank import ranks_within
from polar_ray.deriving.statistics import Statistics
from polar_ray.recipe.combine import Combine, MeanMinusStd, MeanMinusVariance, Minimum, Normalise, Vote, Weighted


def combined(block: Block, config: Combine | None, statistics: Mapping[str, Statistics]) -> Block:
    """Returns the block with the combined rewards and the disagreement about each candidate.

    Args:
        block: Has the rewards of every scorer in ``parts``.
        config: None leaves the block as it is.
        statistics: Of the whole table, by scorer, where the recipe needs them.
    """
    if config is None:
        return block
    rewards = np.stack([block.parts[name] for name in config.scorers])
    known = ~np.isnan(rewards)
    stands = known.all(axis=0) if config.missing == "drop" else known.any(axis=0)
    if isinstance(config.by, Vote):
        scores = np.stack([_votes(each, stands, block.group) for each in rewards])
    else:
        scores = np.stack(
            [
                normalised(each, block.group, config.normalise, statistics.get(name))
                for name, each in zip(config.scorers, rewards, strict=True)
            ]
        )
    reward, disagreement = _joined(scores, config)
    return replace(
        block,
        reward=_float32(np.where(stands, reward, np.nan)),
        disagreement=_float32(np.where(stands, disagreement, np.nan)),
    )


def normalised(
    rewards: np.ndarray, group: np.ndarray, config: Normalise, statistics: Statistics | None = None
) -> np.ndarray:
    """Returns normalised rewards: float64 [C], NaN where there is no reward.

    Args:
        rewards: float64 [C] of one scorer, NaN where there is none.
        group: int64 [C], rising.
        config: Method and scope.
        statistics: Of the whole table, for that scope.
    """
    result = np.full(len(rewards), np.nan)
    known = np.flatnonzero(~np.isnan(rewards))
    if not len(known):
        return result
    values = rewards[known]
    if config.method == "none":
        result[known] = values
    elif config.method == "rank":
        result[known] = _shares_below(values, group[known])
    elif config.over == "table":
        assert statistics is not None, "the table is surveyed where the recipe needs it"
        result[known] = _by_table(values, config, statistics)
    else:
        result[known] = _by_prompt(values, group[known], config)
    return result


def _by_table(values: np.ndarray, config: Normalise, of: Statistics) -> np.ndarray:
    if of.lowest == of.highest:
        return np.full(len(values), 0.0 if config.method == "z_score" else 0.5)
    if config.method == "z_score":
        return np.asarray((values - of.mean) / of.deviation)
    return np.asarray((values - of.lowest) / (of.highest - of.lowest))


def _by_prompt(values: np.ndarray, group: np.ndarray, config: Normalise) -> np.ndarray:
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    sizes = np.diff(np.append(starts, len(group)))
    lowest, highest = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    above = values - np.repeat(lowest, sizes)
    equal = np.repeat(lowest == highest, sizes)
    if config.method == "min_max":
        width = np.repeat(highest - lowest, sizes)
        return np.asarray(np.divide(above, width, out=np.full(len(values), 0.5), where=~equal))
    # Differences to the lowest keep large rewards precise.
    from_mean = above - np.repeat(np.add.reduceat(above, starts) / sizes, sizes)
    deviation = np.repeat(np.sqrt(np.add.reduceat(from_mean**2, starts) / sizes), sizes)
    return np.asarray(np.divide(from_mean, deviation, out=np.zeros(len(values)), where=~equal))


def _shares_below(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The share of the group's other values that each is above, equal ones counted half."""
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    sizes = np.diff(np.append(starts, len(group)))
    others = np.repeat(sizes - 1, sizes)
    return np.asarray(np.divide(ranks_within(group, values), others, out=np.full(len(values), 0.5), where=others > 0))


def _votes(rewards: np.ndarray, stands: np.ndarray, group: np.ndarray) -> np.ndarray:
    """One scorer's votes: float64 [C], NaN in groups in which it does not vote."""
    votes = np.full(len(rewards), np.nan)
    voted_on = np.flatnonzero(stands & ~np.isnan(rewards))
    if not len(voted_on):
        return votes
    values, owner = rewards[voted_on], group[voted_on]
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    sizes = np.diff(np.append(starts, len(owner)))
    best = values == np.repeat(np.maximum.reduceat(values, starts), sizes)
    votes[np.isin(group, owner[starts])] = 0.0
    votes[voted_on] = best / np.repeat(np.add.reduceat(best.astype(np.int64), starts), sizes)
    return votes


def _joined(scores: np.ndarray, config: Combine) -> tuple[np.ndarray, np.ndarray]:
    """Returns the combined score and the disagreement of each column of float64 [S, C], NaN where there is none."""
    known = ~np.isnan(scores)
    count = known.sum(axis=0)
    some = np.maximum(count, 1)
    lowest = np.min(scores, axis=0, initial=np.inf, where=known)
    # Differences to the lowest: scorers that say the same do not disagree by a rounding error.
    above = np.where(known, scores - lowest, 0.0)
    mean_above = above.sum(axis=0) / some
    variance = np.where(known, (above - mean_above) ** 2, 0.0).sum(axis=0) / some
    deviation = np.sqrt(variance)
    match config.by:
        case Weighted(weights=weights):
            shares = np.array([weights[name] for name in config.scorers])[:, None] * known
            total = shares.sum(axis=0)
            result = lowest + np.divide((shares * above).sum(axis=0), total, out=np.zeros(len(total)), where=total > 0)
        case Minimum():
            result = lowest
        case MeanMinusStd(factor=factor):
            result = lowest + mean_above - factor * deviation
        case MeanMinusVariance(factor=factor):
            result = lowest + mean_above - factor * variance
        case _:
            result = lowest + mean_above
    return np.where(count > 0, result, np.nan), np.where(count > 1, deviation, np.nan)


def _float32(values: np.ndarray) -> np.ndarray:
    """float64 with the values that float32 can hold; NaN for what is beyond them."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32).astype(np.float64)
    return np.where(np.isfinite(rounded), rounded, np.nan)
