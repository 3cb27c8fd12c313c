"""The parts of a report against plain computations: sums that merge, ranks, pairs and histograms."""

import itertools
import math
import statistics

import numpy as np
import pytest
import reported
from hypothesis import given, settings
from hypothesis import strategies as st

from polar_ray.deriving.rank import ranks_within
from polar_ray.deriving.report import pairwise
from polar_ray.deriving.report.histogram import LENGTH_EDGES, Bins, bins_for, length_place, round_up
from polar_ray.deriving.report.moments import CoMoments, Moments
from polar_ray.deriving.report.numbers import compact, count, duration, percent, size
from polar_ray.deriving.report.page import embedded
from polar_ray.deriving.report.within import longest_sums, within_sums

NUMBERS = st.one_of(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.floats(-1000, 1000, width=32))
GROUPS = st.lists(st.lists(NUMBERS, max_size=7), max_size=6)


@settings(deadline=None)
@given(st.lists(st.lists(NUMBERS, max_size=8), min_size=1, max_size=5))
def test_moments_of_parts_are_those_of_the_whole(parts: list[list[float]]) -> None:
    total = Moments.of(np.array(parts[0]))
    for part in parts[1:]:
        total += Moments.of(np.array(part))
    every = [value for part in parts for value in part]
    shown = total.describe()
    if not every:
        assert shown == {"count": 0, "mean": None, "sd": None, "min": None, "max": None}
        return
    assert (shown["count"], shown["min"], shown["max"]) == (len(every), min(every), max(every))
    assert shown["mean"] == pytest.approx(statistics.fmean(every), abs=1e-9)
    assert shown["sd"] == pytest.approx(statistics.pstdev(every), abs=1e-6)


def test_the_deviation_of_equal_numbers_is_exactly_zero() -> None:
    assert Moments.of(np.full(7, 0.1)).describe()["sd"] == 0.0


def test_moments_of_large_numbers_stay_precise() -> None:
    values = [1e9, 1e9 + 1, 1e9 + 2]
    parts = [Moments.of(np.array([value])) for value in values]
    shown = (parts[0] + parts[1] + parts[2]).describe()
    assert shown["sd"] == pytest.approx(statistics.pstdev([0, 1, 2]), rel=1e-9)


def test_each_set_has_its_own_moments() -> None:
    moments = Moments.of(np.array([1.0, 5.0, 3.0]), np.array([0, 2, 0]), 3)
    assert moments.describe(0) == {"count": 2, "mean": 2.0, "sd": 1.0, "min": 1.0, "max": 3.0}
    assert moments.describe(1)["mean"] is None
    assert moments.together().describe()["mean"] == 3.0


@settings(deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=20), st.integers(0, 20))
def test_the_correlation_of_parts_is_that_of_the_whole(pairs: list[tuple[float, float]], cut: int) -> None:
    x, y = (np.array(side) for side in zip(*pairs, strict=True))
    cut = min(cut, len(x))
    found = (CoMoments.of(x[:cut], y[:cut]) + CoMoments.of(x[cut:], y[cut:])).pearson
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found is None
    elif np.ptp(x) > 1e-3 and np.ptp(y) > 1e-3:
        assert found == pytest.approx(statistics.correlation(x.tolist(), y.tolist()), abs=1e-6)


@settings(deadline=None)
@given(GROUPS)
def test_ranks_are_the_mean_place_of_equal_values_in_their_group(groups: list[list[float]]) -> None:
    group = np.repeat(np.arange(len(groups)), [len(values) for values in groups])
    values = np.array([value for values in groups for value in values])
    assert ranks_within(group, values).tolist() == [rank for values in groups for rank in reported.ranked(values)]


@settings(deadline=None)
@given(GROUPS, st.integers(1, 40))
def test_every_pair_of_a_group_is_compared_once(groups: list[list[float]], at_a_time: int) -> None:
    sizes = np.array([len(values) for values in groups], np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairwise, "PAIRS", at_a_time)
        found = [pair for one, other in pairwise.pairs_of(sizes, starts) for pair in zip(one, other, strict=True)]
    places = [range(start, end) for start, end in itertools.pairwise(starts.tolist())]
    assert sorted(found) == sorted(pair for group in places for pair in itertools.combinations(group, 2))


def test_five_hundred_candidates_are_compared_in_full() -> None:
    sizes = np.array([500, 500], np.int64)
    assert sum(len(one) for one, _ in pairwise.pairs_of(sizes, np.array([0, 500, 1000]))) == 2 * 500 * 499 // 2


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=6), max_size=5))
def test_correlation_inside_groups(groups: list[list[tuple[float, float]]]) -> None:
    group = np.repeat(np.arange(len(groups)), [len(pairs) for pairs in groups])
    x, y = (np.array([pair[side] for pairs in groups for pair in pairs], float) for side in (0, 1))
    found = within_sums(x, y, group, len(groups))
    _, spearman, prompts = reported.inside([([a for a, _ in pairs], [b for _, b in pairs]) for pairs in groups])
    assert found.prompts == prompts
    assert found.mean_spearman == (None if spearman is None else pytest.approx(spearman, abs=1e-9))


def test_unknown_values_take_no_part_inside_groups() -> None:
    x = np.array([1.0, 2.0, np.nan, 3.0, 9.0])
    y = np.array([1.0, 2.0, 7.0, 3.0, np.nan])
    found = within_sums(x, y, np.zeros(5, np.int64), 1)
    assert (found.pearson, found.mean_spearman, found.candidates) == (pytest.approx(1.0), pytest.approx(1.0), 3)


def test_equal_longest_candidates_share_the_probability() -> None:
    lengths, rewards = np.array([5.0, 5.0, 1.0]), np.array([1.0, 0.0, 1.0])
    found = longest_sums(lengths, rewards, np.zeros(3, np.int64), 1)
    assert (found.prompts, found.hits, found.chance) == (1, 0.5, pytest.approx(2 / 3))


@settings(deadline=None)
@given(st.floats(-1e6, 1e6, width=32), st.floats(0, 1e6, width=32))
def test_bins_cover_their_range_with_about_as_many_as_asked_for(low: float, span: float) -> None:
    high = low + span
    bins = bins_for(low, high)
    assert bins.first * bins.width <= low + 1e-9 * abs(low)
    assert (bins.first + bins.count) * bins.width >= high - 1e-6 * max(1, abs(high))
    assert 1 <= bins.count <= 50
    if span > 1e-3 * max(1, abs(low)):
        assert bins.count >= 18


@pytest.mark.parametrize(
    ("width", "rounded"), [(0.7, 1.0), (1.0, 1.0), (1.1, 2.0), (2.1, 2.5), (0.026, 0.05), (70, 100)]
)
def test_widths_are_round(width: float, rounded: float) -> None:
    assert round_up(width) == pytest.approx(rounded)


def test_a_reward_on_an_edge_is_in_the_bin_above_it_and_the_last_edge_in_the_last_bin() -> None:
    bins = Bins(0, 0.1, 10)
    rewards = np.array([0.7, 0.1, 1.0, 0.0], np.float32).astype(float)
    assert bins.place(rewards).tolist() == [8, 2, 10, 1]
    assert bins.place(np.array([-0.01, 1.01])).tolist() == [0, 11]


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=48, max_size=48), st.integers(0, 5))
def test_coarser_bins_lose_no_value(inside: list[int], above: int) -> None:
    bins, counts = Bins(0, 1.0, 48), np.array([0, *inside, above])
    coarse, merged = bins.coarser(counts, 10)
    assert merged.sum() == counts.sum()
    assert len(merged) == coarse.count + 2 <= 12
    width = round(coarse.width)
    assert merged[1:-1].tolist() == [sum(inside[at : at + width]) for at in range(0, coarse.count * width, width)]


def test_lengths_have_two_bins_to_a_doubling() -> None:
    places = length_place(np.array([0, 1, 2, 3, 4, 5, 6, 100, 10**9]))
    assert [LENGTH_EDGES[place] for place in places[:-1]] == [0, 1, 2, 3, 4, 4, 6, 96]
    assert places[-1] == len(LENGTH_EDGES) - 1


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (count(1234567), "1,234,567"),
        (compact(0.123456), "0.1235"),
        (compact(-2.5), "−2.5"),
        (compact(0), "0"),
        (compact(None), "–"),
        (compact(123456.7), "123,457"),
        (compact(0.0000123), "1.23e−05"),
        (percent(0.5), "50%"),
        (percent(0.1234), "12.3%"),
        (percent(0.00001), "< 0.1%"),
        (percent(0.99999), "> 99.9%"),
        (percent(1), "100%"),
        (duration(0.25), "250 ms"),
        (duration(12.34), "12.3 s"),
        (duration(7260), "2 h 01 min"),
        (size(1_234_567), "1.23 MB"),
    ],
)
def test_numbers_are_written_for_people(written: str, shown: str) -> None:
    assert written == shown


def test_data_can_neither_end_its_script_nor_be_nan() -> None:
    text = embedded({"a": "</script><!--", "b": math.nan, "c": "\u2028"})
    assert "<" not in text
    assert "\u2028" not in text
    assert '"b":null' in text
