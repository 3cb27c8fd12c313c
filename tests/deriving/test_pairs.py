"""Pairs against plain loops over one prompt at a time."""

import math
from collections import Counter
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from score_tables import group, score_table

from polar_ray.deriving.block import Block, block_of
from polar_ray.deriving.pairs import MadePairs, make_pairs
from polar_ray.deriving.texts import Texts
from polar_ray.deriving.wanted import Wanted
from polar_ray.recipe.pairs import Pairs
from polar_ray.recipe.selections import Candidates

WANTED = Wanted(reward="reward", status="status")
NUMBERS_ONLY = Candidates(empty="keep", duplicates="keep")
"""Conditions that look at no text."""

# Few different values, so that ties are common.
REWARD = st.one_of(st.none(), st.sampled_from([-2.0, -0.0, 0.0, 0.5, 1.0, math.nan]), st.floats(-100, 100, width=32))
PROMPTS = st.lists(st.lists(REWARD, max_size=9), max_size=7)
STRATEGIES: list[dict[str, Any]] = [
    {"kind": "best_vs_worst"},
    {"kind": "best_vs_second"},
    {"kind": "best_vs_random"},
    {"kind": "adjacent"},
    {"kind": "top_vs_bottom", "k": 1},
    {"kind": "top_vs_bottom", "k": 3},
    {"kind": "all_pairs"},
    {"kind": "best_vs_quantile", "quantile": 0.0},
    {"kind": "best_vs_quantile", "quantile": 0.3},
    {"kind": "best_vs_quantile", "quantile": 0.29},
    {"kind": "best_vs_quantile", "quantile": 0.99},
    {"kind": "best_vs_sigma", "sigmas": 2.0},
    {"kind": "best_vs_sigma", "sigmas": 0.0},
]


def config(strategy: str | dict[str, Any] = "best_vs_worst", **settings_: Any) -> Pairs:
    chosen = {"kind": strategy} if isinstance(strategy, str) else strategy
    cap = {"per_prompt": 10_000} if chosen["kind"] == "all_pairs" else {}
    return Pairs.model_validate({"strategy": chosen, "equal_texts": "keep", **cap, **settings_})


def block(prompts: list[list[float | None]]) -> Block:
    return block_of(score_table([group(f"p{i}", rewards) for i, rewards in enumerate(prompts)]), WANTED)


def no_texts() -> Texts:
    def read(columns: Any) -> pa.Table:
        raise AssertionError(f"text was read: {columns}")

    return Texts(read)


def pairs_of(prompts: list[list[float | None]], pairs: Pairs, seed: int = 0) -> MadePairs:
    return make_pairs(block(prompts), NUMBERS_ONLY, pairs, no_texts(), seed=seed)


def by_prompt(made: MadePairs, prompts: list[list[float | None]]) -> list[list[tuple[int, int]]]:
    """Returns the pairs of each prompt as positions of candidates."""
    starts = np.cumsum([0, *(len(rewards) for rewards in prompts)])
    pairs: list[list[tuple[int, int]]] = [[] for _ in prompts]
    for number, chosen, rejected in zip(made.group, made.chosen, made.rejected, strict=True):
        pairs[number].append((int(chosen - starts[number]), int(rejected - starts[number])))
    return pairs


def plain_order(rewards: list[float | None]) -> list[int]:
    """Positions of the candidates with a reward, best first; equals as they come."""
    known = [i for i, reward in enumerate(rewards) if reward is not None and not math.isnan(reward)]
    return sorted(known, key=lambda i: -rewards[i])  # type: ignore[operator]


def plain_proposals(rewards: list[float | None], strategy: dict[str, Any]) -> list[tuple[int, int]]:
    """The pairs that a strategy proposes for one prompt, by its definition."""
    order = plain_order(rewards)
    n = len(order)
    if n < 2:
        return []
    match strategy["kind"]:
        case "best_vs_worst":
            return [(order[0], order[-1])]
        case "best_vs_second":
            return [(order[0], order[1])]
        case "adjacent":
            return [(order[i], order[i + 1]) for i in range(n - 1)]
        case "top_vs_bottom":
            k = min(strategy["k"], n // 2)
            return [(top, bottom) for top in order[:k] for bottom in order[n - k :]]
        case "all_pairs":
            return [(order[i], order[j]) for i in range(n) for j in range(i + 1, n)]
        case "best_vs_quantile":
            rising = order[::-1]
            at = math.floor(Decimal(repr(strategy["quantile"])) * (n - 1))
            return [(order[0], rising[min(at, n - 2)])]
        case "best_vs_sigma":
            values = [float(np.float32(rewards[i])) for i in order]
            mean = math.fsum(values) / n
            deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / n)
            target = mean - strategy["sigmas"] * deviation
            distances = [abs(value - target) for value in values[1:]]
            return [(order[0], order[1 + distances.index(min(distances))])]
    raise AssertionError(strategy)


def value(rewards: list[float | None], position: int) -> float:
    reward = rewards[position]
    assert reward is not None
    return float(np.float32(reward))


@pytest.mark.parametrize(
    "strategy", [s for s in STRATEGIES if s["kind"] not in ("best_vs_random", "best_vs_sigma")], ids=str
)
@settings(deadline=None, max_examples=60)
@given(prompts=PROMPTS)
def test_a_strategy_makes_the_pairs_of_its_definition(
    strategy: dict[str, Any], prompts: list[list[float | None]]
) -> None:
    made = by_prompt(pairs_of(prompts, config(strategy)), prompts)
    for rewards, pairs in zip(prompts, made, strict=True):
        proposed = plain_proposals(rewards, strategy)
        wanted = {pair for pair in proposed if value(rewards, pair[0]) > value(rewards, pair[1])}
        assert Counter(pairs) == Counter(wanted)
        margins = [value(rewards, a) - value(rewards, b) for a, b in pairs]
        assert margins == sorted(margins, reverse=True)


@settings(deadline=None, max_examples=100)
@given(prompts=PROMPTS, sigmas=st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_best_vs_sigma_rejects_the_candidate_nearest_to_the_target(
    prompts: list[list[float | None]], sigmas: float
) -> None:
    made = by_prompt(pairs_of(prompts, config({"kind": "best_vs_sigma", "sigmas": sigmas}, ties="keep")), prompts)
    for rewards, pairs in zip(prompts, made, strict=True):
        order = plain_order(rewards)
        assert len(pairs) == (len(order) >= 2)
        for chosen, rejected in pairs:
            values = [value(rewards, i) for i in order]
            target = float(np.mean(values) - sigmas * np.std(values))
            nearest = min(abs(each - target) for each in values[1:])
            assert chosen == order[0]
            assert abs(value(rewards, rejected) - target) <= nearest + 1e-9


def test_two_standard_deviations_below_the_mean_is_not_the_worst_of_many() -> None:
    rewards: list[float | None] = [float(r) for r in np.random.default_rng(0).normal(size=500)]
    [[(chosen, rejected)]] = by_prompt(pairs_of([rewards], config("best_vs_sigma")), [rewards])
    values = np.float32(rewards).astype(np.float64)
    target = values.mean() - 2 * values.std()
    assert chosen == values.argmax()
    assert rejected == np.abs(values - target).argmin()
    assert rejected != values.argmin()


@settings(deadline=None, max_examples=60)
@given(prompts=PROMPTS, seed=st.integers(0, 3))
def test_best_vs_random_takes_the_best_and_any_other(prompts: list[list[float | None]], seed: int) -> None:
    made = by_prompt(pairs_of(prompts, config("best_vs_random", ties="keep"), seed), prompts)
    for rewards, pairs in zip(prompts, made, strict=True):
        order = plain_order(rewards)
        assert len(pairs) == (len(order) >= 2)
        assert all(chosen == order[0] and rejected in order[1:] for chosen, rejected in pairs)


def test_best_vs_random_draws_all_others_about_equally_often() -> None:
    prompts: list[list[float | None]] = [[4.0, 3.0, 2.0, 1.0]] * 3000
    drawn = Counter(pair for pairs in by_prompt(pairs_of(prompts, config("best_vs_random")), prompts) for pair in pairs)
    assert set(drawn) == {(0, 1), (0, 2), (0, 3)}
    assert all(900 < count < 1100 for count in drawn.values())


def test_what_is_drawn_depends_on_the_seed_and_the_prompts_id_and_not_on_the_others() -> None:
    rows = [group(f"p{i}", [float(c) for c in range(9)]) for i in range(50)]

    def drawn(selected: list[dict[str, Any]], seed: int) -> dict[str, tuple[int, int]]:
        made = make_pairs(
            block_of(score_table(selected), WANTED), NUMBERS_ONLY, config("best_vs_random"), no_texts(), seed=seed
        )
        ids = [row["prompt_id"] for row in selected]
        return {
            ids[g]: (int(c % 9), int(r % 9)) for g, c, r in zip(made.group, made.chosen, made.rejected, strict=True)
        }

    everything = drawn(rows, 1)
    assert drawn(rows[::-1], 1) == everything
    assert drawn(rows[13:31], 1).items() <= everything.items()
    assert drawn(rows, 2) != everything


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@settings(deadline=None, max_examples=40)
@given(prompts=PROMPTS, min_margin=st.sampled_from([0.0, 0.75]), min_chosen=st.sampled_from([None, 0.5]))
def test_every_prompt_has_pairs_or_one_reason(
    strategy: dict[str, Any], prompts: list[list[float | None]], min_margin: float, min_chosen: float | None
) -> None:
    made = pairs_of(prompts, config(strategy, min_margin=min_margin, min_chosen=min_chosen))
    with_pairs = set(made.group.tolist())
    assert set(np.flatnonzero(made.ledger.open).tolist()) == with_pairs
    assert len(with_pairs) + made.ledger.counts().total() == len(prompts)


@settings(deadline=None, max_examples=150)
@given(
    prompts=PROMPTS,
    min_margin=st.sampled_from([0.0, 0.75]),
    max_margin=st.sampled_from([None, 1.0]),
    min_chosen=st.sampled_from([None, 0.5]),
)
def test_the_reason_is_the_condition_that_took_the_last_pair(
    prompts: list[list[float | None]], min_margin: float, max_margin: float | None, min_chosen: float | None
) -> None:
    made = pairs_of(prompts, config("adjacent", min_margin=min_margin, max_margin=max_margin, min_chosen=min_chosen))
    ids = pa.array([f"p{i}" for i in range(len(prompts))], pa.string())
    listed = made.ledger.table(ids, np.array([len(rewards) for rewards in prompts], np.int64)).to_pylist()
    expected = []
    for i, rewards in enumerate(prompts):
        reason = plain_reason(rewards, min_margin, max_margin, min_chosen)
        if reason is not None:
            expected.append({"prompt_id": f"p{i}", "reason": reason, "candidates": len(rewards)})
    assert listed == expected
    assert made.ledger.counts() == Counter(row["reason"] for row in expected)


def plain_reason(
    rewards: list[float | None], min_margin: float, max_margin: float | None, min_chosen: float | None
) -> str | None:
    if len(rewards) < 2:
        return "too_few_candidates"
    pairs = plain_proposals(rewards, {"kind": "adjacent"})
    if not pairs:
        return "no_reward"
    values = [(value(rewards, a), value(rewards, a) - value(rewards, b)) for a, b in pairs]
    for reason, keep in (
        ("tie", lambda chosen, margin: margin > 0),
        ("margin_too_small", lambda chosen, margin: margin >= min_margin),
        ("margin_too_large", lambda chosen, margin: max_margin is None or margin <= max_margin),
        ("chosen_too_low", lambda chosen, margin: min_chosen is None or chosen >= min_chosen),
    ):
        values = [each for each in values if keep(*each)]
        if not values:
            return reason
    return None


@pytest.mark.parametrize(
    ("rewards", "reason"),
    [
        ([], "too_few_candidates"),
        ([1.0], "too_few_candidates"),
        ([1.0, None], "no_reward"),
        ([None, None, None], "no_reward"),
        ([math.nan, 1.0], "no_reward"),
        ([0.5, 0.5, 0.5], "tie"),
        ([0.0, -0.0], "tie"),
    ],
)
def test_what_cannot_be_a_pair_has_its_reason(rewards: list[float | None], reason: str) -> None:
    made = pairs_of([[2.0, 1.0], rewards], config())
    assert by_prompt(made, [[2.0, 1.0], rewards]) == [[(0, 1)], []]
    assert made.ledger.counts() == Counter({reason: 1})


def test_a_tie_never_pairs_a_candidate_with_its_equal() -> None:
    rewards: list[float | None] = [1.0, 1.0, 0.0, 0.0]
    assert by_prompt(pairs_of([rewards], config("best_vs_second")), [rewards]) == [[]]
    assert by_prompt(pairs_of([rewards], config("best_vs_worst")), [rewards]) == [[(0, 3)]]
    assert by_prompt(pairs_of([rewards], config("best_vs_second", ties="keep")), [rewards]) == [[(0, 1)]]


def test_ties_are_broken_by_the_shorter_text_if_asked() -> None:
    table = score_table([group("p", [1.0, 1.0, 0.0, 0.0], ["long answer", "short", "wrong", "wrong, at length"])])
    made = make_pairs(block_of(table, WANTED), NUMBERS_ONLY, config(tie_break="shortest"), Texts.of(table))
    assert (made.chosen.tolist(), made.rejected.tolist()) == ([1], [3])


def test_ties_are_broken_at_random_from_the_seed_if_asked() -> None:
    prompts: list[list[float | None]] = [[1.0, 1.0, 1.0, 0.0]] * 900
    first = by_prompt(pairs_of(prompts, config(tie_break="random"), seed=1), prompts)
    chosen = Counter(pairs[0][0] for pairs in first)
    assert set(chosen) == {0, 1, 2}
    assert all(240 < count < 360 for count in chosen.values())
    assert by_prompt(pairs_of(prompts, config(tie_break="random"), seed=1), prompts) == first
    assert by_prompt(pairs_of(prompts, config(tie_break="random"), seed=2), prompts) != first


@pytest.mark.parametrize(
    ("prefer", "pairs"),
    [("widest", [(0, 3), (0, 2)]), ("narrowest", [(2, 3), (0, 1)])],
)
def test_the_cap_keeps_what_is_preferred(prefer: str, pairs: list[tuple[int, int]]) -> None:
    rewards: list[float | None] = [10.0, 8.0, 5.0, 4.0]
    made = pairs_of([rewards], config("all_pairs", per_prompt=2, prefer=prefer))
    assert by_prompt(made, [rewards]) == [pairs]
    assert made.removed_pairs == Counter({"per_prompt": 4})


def test_the_cap_keeps_a_random_sample_without_repeats() -> None:
    prompts: list[list[float | None]] = [[5.0, 4.0, 3.0, 2.0, 1.0]] * 1000
    made = by_prompt(pairs_of(prompts, config("all_pairs", per_prompt=3, prefer="random")), prompts)
    assert all(len(set(pairs)) == 3 for pairs in made)
    kept = Counter(pair for pairs in made for pair in pairs)
    assert len(kept) == 10
    assert all(230 < count < 370 for count in kept.values())


def test_five_hundred_candidates_make_all_their_pairs() -> None:
    rewards: list[float | None] = [float(i) for i in np.random.default_rng(1).permutation(500)]
    made = pairs_of([[1.0, 0.0], rewards, [2.0, 3.0]], config("all_pairs", per_prompt=200_000))
    assert np.bincount(made.group).tolist() == [1, 500 * 499 // 2, 1]
    assert made.margin.min() == 1.0
    assert made.margin.max() == 499.0


def test_many_proposals_are_made_in_slices_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(2)
    prompts: list[list[float | None]] = [draw.normal(size=draw.integers(0, 30)).tolist() for _ in range(40)]
    whole = pairs_of(prompts, config("all_pairs"))
    monkeypatch.setattr("polar_ray.deriving.strategies.PROPOSALS_AT_ONCE", 100)
    sliced = pairs_of(prompts, config("all_pairs"))
    assert by_prompt(sliced, prompts) == by_prompt(whole, prompts)
    assert sliced.ledger.counts() == whole.ledger.counts()
