"""Several scorers' rewards become one: against plain loops over one candidate at a time."""

import math
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polar_ray.deriving.block import Block
from polar_ray.deriving.combine import combined
from polar_ray.deriving.statistics import Sums, sums_of
from polar_ray.recipe.combine import Combine

Rewards = list[float | None]
"""Of the candidates of a prompt, by one scorer."""

REWARD = st.one_of(st.none(), st.sampled_from([-1.0, 0.0, 0.25, 2.0]), st.floats(-50, 50, width=32))
NAMES = ("a", "b", "c")
PROMPT = st.integers(0, 6).flatmap(
    lambda size: st.fixed_dictionaries({name: st.lists(REWARD, min_size=size, max_size=size) for name in NAMES})
)
PROMPTS = st.lists(PROMPT, min_size=1, max_size=5)
NORMALISE = st.one_of(
    st.builds(dict, method=st.sampled_from(["z_score", "min_max", "none"]), over=st.sampled_from(["prompt", "table"])),
    st.just({"method": "rank"}),
)
BY = st.sampled_from(
    [
        {"kind": "mean"},
        {"kind": "weighted", "weights": {"a": 1.0, "b": 3.0, "c": 0.5}},
        {"kind": "minimum"},
        {"kind": "mean_minus_std", "factor": 0.7},
        {"kind": "mean_minus_variance", "factor": 0.7},
    ]
)


def block(prompts: list[dict[str, Rewards]]) -> Block:
    sizes = np.array([len(prompt["a"]) for prompt in prompts])
    parts = {name: np.array([_nan(r) for prompt in prompts for r in prompt[name]]) for name in prompts[0]}
    none = np.zeros(sizes.sum(), bool)
    ids = pa.array([f"p{number}" for number in range(len(prompts))])
    return Block(ids, sizes, np.full(sizes.sum(), np.nan), none, parts=parts)


def _nan(reward: float | None) -> float:
    return math.nan if reward is None else reward


def made(prompts: list[dict[str, Rewards]], **config: Any) -> list[list[tuple[float | None, float | None]]]:
    """Combines, and returns the reward and the disagreement of each candidate of each prompt."""
    recipe = Combine.model_validate({"scorers": list(prompts[0]), **config})
    whole = block(prompts)
    statistics = {name: sums_of(r[~np.isnan(r)]).statistics() for name, r in whole.parts.items()}
    result = combined(whole, recipe, statistics if recipe.needs_table else {})
    assert result.disagreement is not None
    flat = iter(zip(result.reward.tolist(), result.disagreement.tolist(), strict=True))
    return [
        [tuple(None if math.isnan(value) else value for value in next(flat)) for _ in prompt["a"]]  # type: ignore[misc]
        for prompt in prompts
    ]


def plainly_normalised(reward: float, everyone: list[float], method: str) -> float:
    if method == "none":
        return reward
    if method == "rank":
        if len(everyone) == 1:
            return 0.5
        below, equal = sum(r < reward for r in everyone), sum(r == reward for r in everyone) - 1
        return (below + equal / 2) / (len(everyone) - 1)
    if min(everyone) == max(everyone):
        return 0.0 if method == "z_score" else 0.5
    if method == "z_score":
        return (reward - fmean(everyone)) / pstdev(everyone)
    return (reward - min(everyone)) / (max(everyone) - min(everyone))


def plainly_combined(scores: dict[str, float], by: dict[str, Any]) -> float:
    values = list(scores.values())
    match by["kind"]:
        case "mean":
            return fmean(values)
        case "weighted":
            weights = by["weights"]
            return sum(weights[name] * score for name, score in scores.items()) / sum(weights[n] for n in scores)
        case "minimum":
            return min(values)
        case "mean_minus_std":
            return fmean(values) - by["factor"] * pstdev(values)
        case _:
            return fmean(values) - by["factor"] * pstdev(values) ** 2


def known(rewards: Rewards) -> list[float]:
    return [reward for reward in rewards if reward is not None]


@settings(deadline=None, max_examples=150)
@given(prompts=PROMPTS, normalise=NORMALISE, by=BY, missing=st.sampled_from(["drop", "ignore"]))
def test_each_reward_is_what_a_loop_over_candidates_computes(
    prompts: list[dict[str, Rewards]], normalise: dict[str, str], by: dict[str, Any], missing: str
) -> None:
    result = made(prompts, normalise=normalise, by=by, missing=missing)
    for number, prompt in enumerate(prompts):
        for place in range(len(prompt["a"])):
            scores = {}
            for name in NAMES:
                reward = prompt[name][place]
                everyone = known(prompt[name])
                if normalise.get("over") == "table":
                    everyone = [r for each in prompts for r in known(each[name])]
                if reward is not None:
                    scores[name] = plainly_normalised(reward, everyone, normalise["method"])
            reward, disagreement = result[number][place]
            if len(scores) < (3 if missing == "drop" else 1):
                assert reward is None
                continue
            assert reward == pytest.approx(plainly_combined(scores, by), rel=1e-4, abs=1e-4)
            if len(scores) < 2:
                assert disagreement is None
            else:
                assert disagreement == pytest.approx(pstdev(scores.values()), rel=1e-4, abs=1e-4)


@settings(deadline=None, max_examples=100)
@given(prompts=PROMPTS, missing=st.sampled_from(["drop", "ignore"]))
def test_each_scorer_has_one_vote_for_its_best_candidate_and_equals_share_it(
    prompts: list[dict[str, Rewards]], missing: str
) -> None:
    result = made(prompts, by={"kind": "vote"}, missing=missing)
    for prompt, candidates in zip(prompts, result, strict=True):
        places = range(len(prompt["a"]))
        enough = 3 if missing == "drop" else 1
        stands = [place for place in places if sum(prompt[name][place] is not None for name in NAMES) >= enough]
        votes: list[dict[int, float]] = []
        for name in NAMES:
            rewards = {place: r for place in stands if (r := prompt[name][place]) is not None}
            best = [place for place, reward in rewards.items() if reward == max(rewards.values())]
            if best:
                votes.append({place: 1 / len(best) if place in best else 0.0 for place in stands})
        for place, (reward, disagreement) in enumerate(candidates):
            if place not in stands:
                assert (reward, disagreement) == (None, None)
                continue
            assert reward == pytest.approx(fmean(vote[place] for vote in votes))
            if len(votes) > 1:
                assert disagreement == pytest.approx(pstdev(vote[place] for vote in votes), abs=1e-6)
            else:
                assert disagreement is None


def test_one_candidate_is_average_whatever_it_got() -> None:
    prompt: dict[str, Rewards] = {"a": [7.0], "b": [-3.0]}
    for method, reward in {"z_score": 0.0, "min_max": 0.5, "rank": 0.5, "none": 2.0}.items():
        assert made([prompt], normalise={"method": method})[0][0][0] == reward


def test_equal_rewards_have_no_deviation_and_no_disagreement() -> None:
    prompt: dict[str, Rewards] = {name: [0.1] * 3 for name in NAMES}
    for by in ("mean", "minimum", "mean_minus_std"):
        assert made([prompt], normalise={"method": "none"}, by={"kind": by}) == [[(float(np.float32(0.1)), 0.0)] * 3]
        assert made([prompt], by={"kind": by}) == [[(0.0, 0.0)] * 3]


def test_a_scorer_that_rewards_equally_does_not_change_the_order_of_another() -> None:
    [candidates] = made([{"a": [3.0, 1.0, 2.0], "b": [5.0] * 3}])
    rewards = [reward for reward, _ in candidates]
    assert sorted(range(3), key=lambda place: -(rewards[place] or 0)) == [0, 2, 1]


def test_scorers_of_very_different_scales_have_the_same_say() -> None:
    [candidates] = made([{"a": [1e30, 2e30], "b": [2e-30, 1e-30]}])
    assert candidates == [(0.0, 1.0), (0.0, 1.0)]


def test_ranks_of_equal_rewards_are_shared() -> None:
    [candidates] = made([{"a": [4.0, 1.0, 4.0, 0.0], "b": [4.0, 1.0, 4.0, 0.0]}], normalise={"method": "rank"})
    # The two best are each above two of the three others, and equal to the third.
    assert [reward for reward, _ in candidates] == [float(np.float32(r)) for r in (2.5 / 3, 1 / 3, 2.5 / 3, 0)]


def test_a_candidate_that_one_scorer_could_not_score_needs_a_policy() -> None:
    prompt: dict[str, Rewards] = {"a": [1.0, 2.0], "b": [None, 4.0]}
    none = {"method": "none"}
    assert made([prompt], normalise=none) == [[(None, None), (3.0, 1.0)]]
    assert made([prompt], normalise=none, missing="ignore") == [[(1.0, None), (3.0, 1.0)]]


def test_a_tie_in_a_vote_is_split() -> None:
    prompt: dict[str, Rewards] = {"a": [1.0, 1.0, 0.0], "b": [0.0, 1.0, 0.0]}
    assert made([prompt], by={"kind": "vote"}) == [[(0.25, 0.25), (0.75, 0.25), (0.0, 0.0)]]


def test_what_float32_cannot_hold_is_no_reward() -> None:
    prompt: dict[str, Rewards] = {"a": [3e38, 1.0], "b": [-3e38, 1.0]}
    by = {"kind": "mean_minus_variance"}
    assert made([prompt], normalise={"method": "none"}, by=by)[0][0][0] is None


@settings(deadline=None, max_examples=150)
@given(
    rewards=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40),
    cut=st.integers(0, 40),
)
def test_statistics_of_a_table_are_exact_however_it_is_cut(rewards: list[float], cut: int) -> None:
    from fractions import Fraction

    parts: list[Sums] = [sums_of(np.array(part, np.float64)) for part in (rewards[:cut], rewards[cut:])]
    found = (parts[1] + parts[0]).statistics()
    exact = [Fraction(reward) for reward in rewards]
    mean = sum(exact) / len(exact)
    variance = sum((each - mean) ** 2 for each in exact) / len(exact)
    assert (found.mean, found.deviation) == (float(mean), math.sqrt(variance))
    assert (found.lowest, found.highest) == (min(rewards), max(rewards))
