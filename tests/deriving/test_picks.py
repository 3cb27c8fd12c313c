"""Selections, labels, N-curves and quantiles against plain loops and brute force."""

import math
from collections import Counter
from decimal import Decimal
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from score_tables import group, score_table

from polar_ray.deriving.block import Block, block_of
from polar_ray.deriving.curve import CurveSums, best_of_weights, curve_sums
from polar_ray.deriving.order import best_first
from polar_ray.deriving.picks import Picks, best_of_n, label
from polar_ray.deriving.quantile import find_bin, lower_counts, upper_counts, value_in_bin
from polar_ray.deriving.texts import Texts
from polar_ray.deriving.wanted import Wanted
from polar_ray.recipe.selections import BestOfN, Candidates, Labels

NUMBERS_ONLY = Candidates(empty="keep", duplicates="keep")
REWARD = st.one_of(st.none(), st.sampled_from([-2.0, 0.0, 0.5, 1.0, math.nan]), st.floats(-100, 100, width=32))
PROMPTS = st.lists(st.lists(REWARD, max_size=8), max_size=6)


def block(prompts: list[list[float | None]]) -> Block:
    table = score_table([group(f"p{i}", rewards) for i, rewards in enumerate(prompts)])
    return block_of(table, Wanted(reward="reward", status="status"))


def texts() -> Texts:
    def read(columns: Any) -> Any:
        raise AssertionError(f"text was read: {columns}")

    return Texts(read)


def selected(prompts: list[list[float | None]], **config: Any) -> Picks:
    return best_of_n(block(prompts), NUMBERS_ONLY, BestOfN(**config), texts())


def by_prompt(picks: Picks, prompts: list[list[float | None]]) -> list[list[int]]:
    starts = np.cumsum([0, *(len(rewards) for rewards in prompts)])
    found: list[list[int]] = [[] for _ in prompts]
    for number, candidate in zip(picks.group, picks.candidate, strict=True):
        found[number].append(int(candidate - starts[number]))
    return found


def known(rewards: list[float | None]) -> list[tuple[int, float]]:
    """Positions and rewards of the candidates with a reward, best first, equals as they come."""
    pairs = [(i, float(np.float32(r))) for i, r in enumerate(rewards) if r is not None and not math.isnan(r)]
    return sorted(pairs, key=lambda pair: -pair[1])


@settings(deadline=None, max_examples=100)
@given(
    prompts=PROMPTS,
    top_k=st.sampled_from([None, 1, 3]),
    min_reward=st.sampled_from([None, 0.5]),
    min_z=st.sampled_from([None, 0.0, 1.0]),
)
def test_a_selected_candidate_meets_every_condition(
    prompts: list[list[float | None]], top_k: int | None, min_reward: float | None, min_z: float | None
) -> None:
    picks = selected(prompts, top_k=top_k, min_reward=min_reward, min_z=min_z)
    for rewards, found in zip(prompts, by_prompt(picks, prompts), strict=True):
        order = known(rewards)
        values = [reward for _, reward in order]
        mean, deviation = (np.mean(values), np.std(values)) if values else (0.0, 0.0)
        expected = []
        for place, (position, reward) in enumerate(order):
            z = (reward - mean) / deviation if deviation > 0 else 0.0
            # At the very edge the two computations may round to different sides.
            if min_z is not None and abs(z - min_z) < 1e-9 and min_z != 0.0:
                continue
            fine = (min_reward is None or reward >= min_reward) and (min_z is None or z >= min_z - 1e-12)
            if fine and (top_k is None or place < top_k):
                expected.append(position)
        assert set(expected) <= set(found)
        assert len(found) <= (top_k or len(rewards))
        if min_z is None:
            assert found == expected


@settings(deadline=None, max_examples=100)
@given(prompts=PROMPTS, min_reward=st.sampled_from([None, 0.5]))
def test_every_prompt_is_selected_from_or_has_a_reason(
    prompts: list[list[float | None]], min_reward: float | None
) -> None:
    picks = selected(prompts, min_reward=min_reward)
    assert len(set(picks.group.tolist())) + picks.ledger.counts().total() == len(prompts)
    expected = Counter(
        "too_few_candidates" if not rewards else "no_reward" if not known(rewards) else "below_threshold"
        for rewards in prompts
        if not known(rewards) or (min_reward is not None and known(rewards)[0][1] < min_reward)
    )
    assert picks.ledger.counts() == expected


def test_equal_rewards_have_a_z_score_of_zero() -> None:
    picks = selected([[0.1, 0.1, 0.1], [1e9, 1e9]], top_k=None)
    assert picks.z_score.tolist() == [0.0] * 5


def test_the_best_candidates_come_first_with_their_places() -> None:
    picks = selected([[1.0, 3.0, None, 2.0]], top_k=2)
    assert picks.candidate.tolist() == [1, 3]
    assert picks.place.tolist() == [0, 1]
    np.testing.assert_allclose(picks.z_score, [math.sqrt(1.5), 0.0])
    assert picks.removed_candidates == Counter({"no_reward": 1, "top_k": 1})


def test_labels_are_given_by_two_thresholds() -> None:
    rewards: list[float | None] = [0.9, 0.5, 0.1, 0.7, 0.3, None]
    dropped = label(block([rewards]), NUMBERS_ONLY, Labels(good=0.7, bad=0.1), texts())
    # 0.7 and 0.1 are 0.699999988 and 0.100000001 in float32, and count as what they are shown as.
    assert dropped.candidate.tolist() == [0, 3, 2]
    assert dropped.removed_candidates == Counter({"no_reward": 1, "unsure": 2})
    kept = label(block([rewards]), NUMBERS_ONLY, Labels(good=0.7, bad=0.2, unsure="keep"), texts())
    assert kept.label is not None
    assert dict(zip(kept.candidate.tolist(), kept.label.tolist(), strict=True)) == {
        0: "good",
        3: "good",
        1: "unsure",
        4: "unsure",
        2: "bad",
    }


def test_a_prompt_with_unsure_candidates_only_says_so() -> None:
    labelled = label(block([[0.5], [0.9, 0.5], []]), NUMBERS_ONLY, Labels(good=0.8, bad=0.2), texts())
    assert labelled.ledger.counts() == Counter({"unsure": 1, "too_few_candidates": 1})
    assert labelled.group.tolist() == [1]


def test_labels_by_z_score_compare_with_the_prompt() -> None:
    prompts: list[list[float | None]] = [[1.0, 2.0, 3.0], [101.0, 102.0, 103.0]]
    labelled = label(block(prompts), NUMBERS_ONLY, Labels(by="z_score", good=1.0, bad=-1.0), texts())
    assert labelled.candidate.tolist() == [2, 0, 5, 3]
    assert labelled.label is not None
    assert labelled.label.tolist() == ["good", "bad", "good", "bad"]


def curve_of(prompts: list[list[float | None]], most: int = 100) -> CurveSums:
    each = block(prompts)
    return curve_sums(best_first(each, ~np.isnan(each.reward)), most)


@settings(deadline=None, max_examples=60)
@given(prompts=PROMPTS, most=st.sampled_from([1, 3, 100]))
def test_the_n_curve_is_the_mean_best_over_all_subsets(prompts: list[list[float | None]], most: int) -> None:
    curve = curve_of(prompts, most)
    values = [[reward for _, reward in known(rewards)] for rewards in prompts]
    for n in range(1, min(most, max(map(len, values), default=0)) + 1):
        enough = [each for each in values if len(each) >= n]
        best = [np.mean([max(subset) for subset in combinations(each, n)]) for each in enough]
        assert curve.prompts[n - 1] == len(enough)
        np.testing.assert_allclose(curve.best[n - 1], sum(best), rtol=1e-9, atol=1e-9)
    assert len(curve.best) == min(most, max(map(len, values), default=0))


def test_the_n_curve_begins_at_the_mean_and_ends_at_the_best() -> None:
    rewards = [float(r) for r in np.random.default_rng(3).normal(size=500).astype(np.float32)]
    [*_, last] = points = curve_of([list(rewards)], 500).points()
    assert points[0]["expected_best"] == pytest.approx(np.mean(rewards), abs=1e-12)
    assert last == {"n": 500, "expected_best": pytest.approx(max(rewards)), "prompts": 1}
    assert all(a["expected_best"] <= b["expected_best"] for a, b in pairwise(points))


@pytest.mark.parametrize(("correct", "n"), [(3, 1), (3, 5), (1, 10), (10, 2), (0, 4)])
def test_for_right_and_wrong_answers_the_n_curve_is_pass_at_k(correct: int, n: int) -> None:
    curve = curve_of([[1.0] * correct + [0.0] * (10 - correct)])
    expected = 1 - math.comb(10 - correct, n) / math.comb(10, n)
    assert curve.best[n - 1] == pytest.approx(expected, abs=1e-12)


def test_the_weights_of_the_n_curve_are_shares() -> None:
    weights = best_of_weights(500, 500)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-9)
    assert weights[249, 3] == pytest.approx(math.comb(496, 249) / math.comb(500, 250), rel=1e-9)


def test_curves_add_up() -> None:
    prompts: list[list[float | None]] = [[1.0], [3.0, 2.0, 5.0], [4.0, 1.0]]
    whole, parts = curve_of(prompts), curve_of(prompts[:1]) + curve_of(prompts[1:])
    np.testing.assert_allclose(parts.best, whole.best)
    assert parts.prompts.tolist() == whole.prompts.tolist() == [3, 2, 1]


FLOATS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38]),
)


@settings(deadline=None, max_examples=200)
@given(
    rewards=st.lists(FLOATS, min_size=1, max_size=60),
    quantile=st.floats(0, 1) | st.integers(0, 100).map(lambda percent: percent / 100),
    cut=st.integers(0, 60),
)
@example(rewards=[float(number) for number in range(100)], quantile=0.07, cut=50)
def test_the_quantile_of_a_table_is_exact(rewards: list[float], quantile: float, cut: int) -> None:
    parts = [np.array(rewards[:cut]), np.array(rewards[cut:])]
    bin_ = find_bin(sum((upper_counts(part) for part in parts), np.zeros(1, np.int64)), quantile)
    assert bin_ is not None
    value = value_in_bin(bin_, sum((lower_counts(part, bin_.upper) for part in parts), np.zeros(1, np.int64)))
    rising = sorted(rewards)
    # 0.07 of 100 is 7, while the product of the floats is a little more.
    at_or_below = math.ceil(Decimal(repr(quantile)) * len(rewards))
    assert value == np.float32(rising[max(0, at_or_below - 1)])


def test_a_table_without_rewards_has_no_quantile() -> None:
    assert find_bin(upper_counts(np.zeros(0)), 0.5) is None
