"""Ranks of the candidates of each group, from their rewards."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def rank(reward: pa.ListArray | pa.ChunkedArray) -> pa.ListArray:
    """Ranks the rewards inside each list by competition ranking.

    0 is best (the highest reward), ties share the best rank (rewards 3, 3, 1 rank 0, 0, 2), and -0.0 ties with
    0.0. A null or NaN reward has no rank and takes no place from the others.

    Args:
        reward: list<float32 or float64>, one list per group.

    Returns:
        list<int32> with the same lengths; null where the reward is null or NaN, a null list for a null list.
    """
    lists = reward.combine_chunks() if isinstance(reward, pa.ChunkedArray) else reward
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    values = pc.fill_null(lists.flatten().cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)
    ranked = ~np.isnan(values)
    group = np.repeat(np.arange(len(lengths)), lengths)[ranked]
    ranks = np.zeros(len(values), np.int32)
    ranks[ranked] = _rank_inside(group, values[ranked])
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(
        pa.array(offsets),
        pa.array(ranks, mask=~ranked),
        mask=lists.is_null() if lists.null_count else None,
    )


def ranks_within(group: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Ranks each value among those of its group from 0, the lowest, up; ties share the mean of their places.

    Args:
        group: int64, sorted.
        values: float64 without NaN.

    Returns:
        float64, as long as the values.
    """
    order, group_start, ties, sizes = _ties(group, values)
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(ties + (sizes - 1) / 2, sizes) - group_start
    return ranks


def _rank_inside(group: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the rank of each value among the values of its group. ``group`` is sorted; there is no NaN."""
    order, group_start, ties, sizes = _ties(group, -values)
    ranks = np.empty(len(values), np.int32)
    ranks[order] = np.repeat(ties, sizes) - group_start
    return ranks


def _ties(group: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sorts values inside their groups, which are sorted.

    Returns:
        The order; for each place in it, the first place of its group; the first place and the size of each tie.
    """
    order = np.lexsort((values, group))
    ordered = values[order]
    # Sorting leaves every group where it was, so `group` describes the sorted values as well.
    opens_group = np.ones(len(values), np.bool_)
    opens_group[1:] = group[1:] != group[:-1]
    opens_tie = opens_group.copy()
    opens_tie[1:] |= ordered[1:] != ordered[:-1]
    group_start = np.maximum.accumulate(np.where(opens_group, np.arange(len(values)), 0))
    ties = np.flatnonzero(opens_tie)
    return order, group_start, ties, np.diff(np.append(ties, len(values)))
