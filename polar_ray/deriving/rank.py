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


def _rank_inside(group: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the rank of each value among the values of its group. ``group`` is sorted; there is no NaN."""
    order = np.lexsort((-values, group))
    best_first = values[order]
    # Sorting leaves every group where it was, so `group` describes the sorted values as well.
    opens_group = np.ones(len(values), np.bool_)
    opens_group[1:] = group[1:] != group[:-1]
    opens_tie = opens_group.copy()
    opens_tie[1:] |= best_first[1:] != best_first[:-1]
    place = np.arange(len(values))
    group_start = np.maximum.accumulate(np.where(opens_group, place, 0))
    tie_start = np.maximum.accumulate(np.where(opens_tie, place, 0))
    ranks = np.empty(len(values), np.int32)
    ranks[order] = tie_start - group_start
    return ranks
