"""Ranks against a plain count of the better candidates."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polar_ray.deriving.rank import rank

# Few different values, so that ties are common.
REWARDS = st.one_of(
    st.none(), st.sampled_from([-1.5, -0.0, 0.0, 0.25, 3.0, math.nan, -math.inf, math.inf]), st.floats(width=32)
)
LISTS = st.lists(st.one_of(st.none(), st.lists(REWARDS, max_size=12)), max_size=8)


def plain_rank(rewards: list[float | None] | None) -> list[int | None] | None:
    if rewards is None:
        return None
    ranks: list[int | None] = []
    for reward in rewards:
        if reward is None or math.isnan(reward):
            ranks.append(None)
        else:
            ranks.append(sum(other is not None and other > reward for other in rewards))
    return ranks


def float_lists(rows: list[list[float | None] | None]) -> pa.ListArray:
    return pa.array(rows, pa.list_(pa.float32()))


@settings(deadline=None)
@given(LISTS)
def test_a_rank_is_the_number_of_better_candidates(rows: list[list[float | None] | None]) -> None:
    assert rank(float_lists(rows)).to_pylist() == [plain_rank(row) for row in rows]


@settings(deadline=None)
@given(LISTS, st.data())
def test_a_slice_is_ranked_like_its_rows(rows: list[list[float | None] | None], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    ranked = rank(float_lists(rows).slice(start, stop - start))
    assert ranked.to_pylist() == [plain_rank(row) for row in rows[start:stop]]


@settings(deadline=None)
@given(st.lists(LISTS, max_size=4))
def test_chunks_are_ranked_like_one_array(chunks: list[list[list[float | None] | None]]) -> None:
    chunked = pa.chunked_array([float_lists(rows) for rows in chunks], pa.list_(pa.float32()))
    assert rank(chunked).to_pylist() == [plain_rank(row) for rows in chunks for row in rows]


@pytest.mark.parametrize(
    ("rewards", "ranks"),
    [
        ([], []),
        ([7.0], [0]),
        ([1.0, 1.0, 1.0], [0, 0, 0]),
        ([3.0, 1.0, 3.0], [0, 2, 0]),
        ([0.0, -0.0, -1.0], [0, 0, 2]),
        ([None, 1.0, None, 2.0], [None, 1, None, 0]),
        ([math.nan, 1.0], [None, 0]),
        ([None, None], [None, None]),
        ([-math.inf, math.inf, 0.0], [2, 0, 1]),
    ],
)
def test_ties_share_the_best_rank_and_nothing_is_ranked_without_a_reward(
    rewards: list[float | None], ranks: list[int | None]
) -> None:
    assert rank(float_lists([rewards])).to_pylist() == [ranks]


def test_ranks_are_int32_lists_of_the_same_lengths() -> None:
    ranked = rank(float_lists([[1.0, 2.0], None, []]))
    assert ranked.type == pa.list_(pa.int32())
    assert ranked.to_pylist() == [[1, 0], None, []]


def test_five_hundred_candidates_are_ranked() -> None:
    rewards = np.random.default_rng(0).integers(0, 100, 500).astype(np.float32).tolist()
    assert rank(float_lists([[1.0], rewards, [2.0, 3.0]])).to_pylist() == [[0], plain_rank(rewards), [1, 0]]


def test_double_precision_is_kept() -> None:
    rewards = [1.0, math.nextafter(1.0, 2.0)]
    assert rank(pa.array([rewards], pa.list_(pa.float64()))).to_pylist() == [[1, 0]]
