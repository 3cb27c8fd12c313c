"""Each condition on candidates and on pairs, and the reason it leaves."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from score_tables import assistant, group, score_table, user

from polar_ray.deriving.block import block_of
from polar_ray.deriving.exports.shape import Shape
from polar_ray.deriving.pairs import MadePairs, make_pairs
from polar_ray.deriving.penalty import penalised
from polar_ray.deriving.texts import Texts, length_ratio
from polar_ray.deriving.wanted import Wanted
from polar_ray.recipe.pairs import Pairs
from polar_ray.recipe.selections import Candidates, LengthPenalty

WANTED = Wanted(reward="reward", status="status")
KEEP = {"empty": "keep", "duplicates": "keep"}


def made_of(
    rows: list[dict[str, Any]],
    candidates: dict[str, Any] | None = None,
    pairs: dict[str, Any] | None = None,
    *,
    wanted: Wanted = WANTED,
    types: dict[str, pa.DataType] | None = None,
    fits: Any = None,
) -> MadePairs:
    table = score_table(rows, **(types or {}))
    settings = Candidates.model_validate(candidates or {})
    config = Pairs.model_validate(pairs or {})
    return make_pairs(block_of(table, wanted), settings, config, Texts.of(table), fits=fits)


def pair(made: MadePairs) -> list[tuple[int, int]]:
    return list(zip(made.chosen.tolist(), made.rejected.tolist(), strict=True))


def test_a_truncated_candidate_is_left_out_unless_asked_for() -> None:
    rows = [group("p", [3.0, 2.0, 1.0], status=["truncated", "ok", "ok"])]
    assert pair(made_of(rows)) == [(1, 2)]
    assert pair(made_of(rows, {"truncated": "keep"})) == [(0, 2)]


def test_a_prompt_whose_candidates_are_truncated_says_so() -> None:
    made = made_of([group("p", [3.0, 2.0, None], status=["truncated", "ok", "error"])])
    assert made.ledger.counts() == Counter({"truncated": 1})
    assert made.removed_candidates == Counter({"no_reward": 1, "truncated": 1})


def test_an_empty_answer_is_left_out_unless_asked_for() -> None:
    rows = [group("p", [3.0, 2.0, 1.0], ["right", "wrong", " \n\t"])]
    assert pair(made_of(rows)) == [(0, 1)]
    assert pair(made_of(rows, {"empty": "keep"})) == [(0, 2)]
    assert made_of([group("p", [2.0, 1.0], ["right", ""])]).ledger.counts() == Counter({"empty_text": 1})


def test_of_equal_answers_the_one_with_the_highest_reward_is_used() -> None:
    rows = [group("p", [1.0, 3.0, 2.0], ["same", " same\n", "other"]), group("q", [1.0, 0.0], ["same", "same"])]
    made = made_of(rows, pairs={"strategy": {"kind": "all_pairs"}, "per_prompt": 9})
    assert pair(made) == [(1, 2)]
    assert made.removed_candidates == Counter({"duplicate_text": 2})
    assert made.ledger.counts() == Counter({"duplicate_text": 1})


def test_equal_texts_of_different_prompts_are_no_duplicates() -> None:
    rows = [group("p", [2.0, 1.0], ["yes", "no"]), group("q", [2.0, 1.0], ["no", "yes"])]
    assert pair(made_of(rows)) == [(0, 1), (2, 3)]


def test_an_answer_that_is_like_a_better_one_is_left_out() -> None:
    texts = ["the capital is Beijing", "the capital is Beijing!", "Shanghai, I would say", "the capitol is Beijing!"]
    made = made_of([group("p", [4.0, 3.0, 2.0, 1.0], texts)], {"max_similarity": 0.9})
    assert pair(made) == [(0, 2)]
    assert made.removed_candidates == Counter({"similar_text": 2})


def test_an_equal_pair_is_dropped_where_duplicates_are_kept() -> None:
    rows = [group("p", [2.0, 1.0], ["same", "same "])]
    made = made_of(rows, KEEP)
    assert made.ledger.counts() == Counter({"equal_text": 1})
    assert pair(made_of(rows, KEEP, {"equal_texts": "keep"})) == [(0, 1)]


def test_a_pair_of_similar_texts_is_dropped() -> None:
    # 22 of 22 characters match 22 of 23: 2 * 22 / 45 = 0.978.
    rows = [group("p", [2.0, 1.0], ["the capital is Beijing", "the capital is Beijing!"])]
    made = made_of(rows, KEEP, {"max_similarity": 0.97})
    assert made.ledger.counts() == Counter({"similar_pair": 1})
    assert pair(made_of(rows, KEEP, {"max_similarity": 0.98})) == [(0, 1)]


@pytest.mark.parametrize(
    ("settings", "pairs", "reason"),
    [
        ({"min_margin": 1.5}, [(0, 2), (3, 5)], None),
        ({"min_margin": 2.5}, [(3, 5)], "margin_too_small"),
        ({"max_margin": 2.0}, [(0, 2)], "margin_too_large"),
        ({"min_chosen": 3.5}, [(3, 5)], "chosen_too_low"),
    ],
)
def test_margins_and_the_chosen_reward_are_bounded(
    settings: dict[str, Any], pairs: list[tuple[int, int]], reason: str | None
) -> None:
    made = made_of([group("p", [3.0, 2.0, 1.0]), group("q", [4.0, 2.0, 0.0])], pairs=settings)
    assert pair(made) == pairs
    assert made.ledger.counts() == (Counter({reason: 1}) if reason else Counter())


@pytest.mark.parametrize(
    ("rewards", "settings", "kept"),
    [
        # As float32 they are 0.4999999... apart.
        ([0.9, 0.4], {"min_margin": 0.5}, True),
        ([0.9, 0.4001], {"min_margin": 0.5}, False),
        # As float32 they are 0.2000000... apart.
        ([0.3, 0.1], {"max_margin": 0.2}, True),
        ([0.3, 0.0999], {"max_margin": 0.2}, False),
        ([-0.4, -0.9], {"min_margin": 0.5}, True),
    ],
)
def test_a_margin_is_that_of_the_rewards_as_they_are_shown(
    rewards: list[float], settings: dict[str, Any], kept: bool
) -> None:
    assert pair(made_of([group("p", rewards)], pairs=settings)) == ([(0, 1)] if kept else [])


def test_lengths_may_differ_only_so_much() -> None:
    rows = [group("p", [2.0, 1.0], ["x" * 30, "y" * 20]), group("q", [2.0, 1.0], ["x" * 20, "y" * 31])]
    made = made_of(rows, pairs={"max_length_ratio": 1.5})
    assert pair(made) == [(0, 1)]
    assert made.ledger.counts() == Counter({"length_ratio": 1})


def test_length_counts_characters_and_not_bytes() -> None:
    rows = [group("p", [2.0, 1.0], ["北京是首都", "hello"])]
    assert pair(made_of(rows, pairs={"max_length_ratio": 1.0})) == [(0, 1)]


def test_no_length_is_infinitely_shorter_than_some() -> None:
    ratios = length_ratio(np.array([0, 0, 5]), np.array([0, 3, 10]))
    assert ratios.tolist() == [1.0, math.inf, 2.0]


def test_the_length_matched_pair_is_the_widest_of_those_about_as_long() -> None:
    texts = ["x" * 100, "y" * 104, "z" * 50, "w" * 52, "v" * 10]
    made = made_of([group("p", [5.0, 4.0, 3.0, 1.0, 0.0], texts)], pairs={"strategy": {"kind": "length_matched"}})
    assert pair(made) == [(2, 3)]


def test_a_penalty_on_length_comes_before_the_order() -> None:
    rows = [group("p", [2.0, 1.9, 1.0], ["x" * 100, "y" * 10, "z" * 10], tokens=[50, 60, 70])]
    table = score_table(rows)
    texts = Texts.of(table)
    block = penalised(block_of(table, WANTED), LengthPenalty(weight=0.01), texts)
    np.testing.assert_allclose(block.reward, [1.0, 1.8, 0.9], rtol=1e-6)
    assert pair(make_pairs(block, Candidates(), Pairs(), texts)) == [(1, 2)]
    by_token = Wanted(reward="reward", status="status", tokens="tokens")
    block = penalised(block_of(table, by_token), LengthPenalty(weight=0.1, per="token"), texts)
    np.testing.assert_allclose(block.reward, [-3.0, -4.1, -6.0], rtol=1e-6)


def test_a_penalty_leaves_a_missing_reward_missing() -> None:
    table = score_table([group("p", [2.0, None])])
    block = penalised(block_of(table, WANTED), LengthPenalty(weight=1.0), Texts.of(table))
    assert np.isnan(block.reward).tolist() == [False, True]


def test_the_chosen_one_must_beat_the_reference_in_a_column() -> None:
    rows = [
        group("p", [3.0, 1.0], ceiling=2.5),
        group("q", [3.0, 1.0], ceiling=3.0),
        group("r", [3.0, 1.0], ceiling=None),
    ]
    wanted = Wanted(reward="reward", status="status", reference_column="ceiling")
    made = made_of(
        rows, pairs={"above_reference": {"column": "ceiling"}}, wanted=wanted, types={"ceiling": pa.float32()}
    )
    assert pair(made) == [(0, 1)]
    assert made.ledger.counts() == Counter({"below_reference": 1, "no_reference_reward": 1})


def test_the_chosen_one_must_beat_the_reference_among_the_candidates_which_is_in_no_pair() -> None:
    rows = [
        group("p", [3.0, 2.0, 1.0]),
        group("q", [3.0, 4.0, 1.0]),
        group("r", [3.0, None, 1.0]),
        group("s", [3.0, 9.0]),
    ]
    wanted = Wanted(reward="reward", status="status", reference_candidate=("candidate_id", "c1"))
    made = made_of(rows, pairs={"above_reference": {"candidate_id": "c1"}}, wanted=wanted)
    assert pair(made) == [(0, 2)]
    assert made.ledger.counts() == Counter({"below_reference": 1, "no_reference_reward": 1, "is_reference": 1})


def test_of_several_candidates_of_the_references_model_the_best_counts() -> None:
    rows = [group("p", [5.0, 2.0, 4.0, 4.5, 1.0])]
    wanted = Wanted(reward="reward", status="status", reference_candidate=("model", "m1"))
    made = made_of(rows, pairs={"above_reference": {"model": "m1"}}, wanted=wanted)
    assert pair(made) == [(0, 4)]


def test_an_uncertain_candidate_is_left_out() -> None:
    rows = [group("p", [3.0, 2.0, 1.0, 0.0], sigma=[0.9, 0.1, 0.2, None])]
    wanted = Wanted(reward="reward", status="status", uncertainty="sigma")
    made = made_of(rows, {"max_uncertainty": 0.5}, wanted=wanted, types={"sigma": pa.list_(pa.float32())})
    assert pair(made) == [(1, 2)]
    assert made.removed_candidates == Counter({"uncertain": 2})


def test_a_margin_must_be_beyond_the_uncertainty_of_both() -> None:
    # sqrt(0.3^2 + 0.4^2) = 0.5
    sigma = [0.3, 0.4]
    rows = [group("p", [2.0, 0.75], sigma=sigma), group("q", [2.0, 1.25], sigma=sigma)]
    wanted = Wanted(reward="reward", status="status", uncertainty="sigma")
    made = made_of(rows, pairs={"min_sigmas": 2.0}, wanted=wanted, types={"sigma": pa.list_(pa.float32())})
    assert pair(made) == [(0, 1)]
    assert made.ledger.counts() == Counter({"uncertain_margin": 1})


def test_other_scorers_must_agree() -> None:
    rows = [
        group("p", [2.0, 1.0], reward_b=[0.1, 0.0], reward_c=[9.0, 8.0]),
        group("q", [2.0, 1.0], reward_b=[0.1, 0.0], reward_c=[8.0, 8.0]),
        group("r", [2.0, 1.0], reward_b=[0.1, None], reward_c=[9.0, 8.0]),
    ]
    wanted = Wanted(reward="reward", status="status", others=(("b", "reward_b"), ("c", "reward_c")))
    types = {"reward_b": pa.list_(pa.float32()), "reward_c": pa.list_(pa.float32())}
    made = made_of(rows, pairs={"agreement": ["b", "c"]}, wanted=wanted, types=types)
    assert pair(made) == [(0, 1)]
    assert made.ledger.counts() == Counter({"scorers_disagree": 2})


def test_conditions_on_candidates_let_the_next_best_step_in() -> None:
    rows = [group("p", [9.0, 8.0, 7.0, 6.0], ["", "fine", "fine", "bad"], status=["ok", "truncated", "ok", "ok"])]
    assert pair(made_of(rows)) == [(2, 3)]


@pytest.mark.parametrize(
    ("prompt", "shape", "fits"),
    [
        ([user("a")], Shape(one_user_message=True), True),
        ([assistant("a")], Shape(one_user_message=True), False),
        ([user("a"), user("b")], Shape(one_user_message=True), False),
        ([user("a")], Shape(alternating=True), True),
        ([{"role": "system", "content": "s"}, user("a")], Shape(alternating=True), True),
        ([user("a"), assistant("b"), user("c")], Shape(alternating=True), True),
        ([user("a"), assistant("b")], Shape(alternating=True), False),
        ([user("a"), user("b"), user("c")], Shape(alternating=True), False),
        ([user("a"), {"role": "system", "content": "s"}, user("c")], Shape(alternating=True), False),
        ([{"role": "system", "content": "s"}], Shape(alternating=True), False),
        ([user("a"), {"role": "tool", "content": "s"}, user("c")], Shape(alternating=True), False),
    ],
)
def test_a_prompt_that_a_format_cannot_hold_gives_no_pair(
    prompt: list[dict[str, str]], shape: Shape, fits: bool
) -> None:
    rows = [group("p", [2.0, 1.0]), group("q", [2.0, 1.0], prompt=prompt)]
    made = made_of(rows, fits=shape.fits)
    assert pair(made) == [(0, 1), (2, 3)][: 1 + fits]
    assert made.ledger.counts() == (Counter() if fits else Counter({"not_in_format": 1}))


def test_a_candidate_that_a_format_cannot_hold_is_left_out() -> None:
    row = group("p", [3.0, 2.0, 1.0])
    row["candidates"][0]["messages"] = [assistant("let me look"), assistant("done")]
    made = made_of([row], fits=Shape(one_answer=True).fits)
    assert pair(made) == [(1, 2)]


def test_a_prompt_without_a_reference_is_not_in_a_format_that_has_one() -> None:
    made = made_of([group("p", [3.0, 2.0], references=[])], fits=Shape(reference=True).fits)
    assert made.ledger.counts() == Counter({"not_in_format": 1})
