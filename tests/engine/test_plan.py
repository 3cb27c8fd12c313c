"""Forwards under a budget, from ids alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.engine.plan import SMALLEST_FORWARD, Budget, Plan, plan_forwards

UNBOUNDED = 10**12


def group(random: np.random.Generator, prefix: int, lengths: list[int]) -> list[np.ndarray]:
    start = random.integers(0, 1000, prefix)
    return [np.concatenate([start, random.integers(0, 1000, length)]).astype(np.int32) for length in lengths]


@st.composite
def splits(draw: st.DrawFn) -> list[np.ndarray]:
    random = np.random.default_rng(draw(st.integers(0, 2**20)))
    shapes = draw(
        st.lists(st.tuples(st.integers(1, 200), st.lists(st.integers(1, 150), min_size=1, max_size=6)), max_size=5)
    )
    return [ids for prefix, lengths in shapes for ids in group(random, prefix, lengths)]


def attended(plan: Plan) -> int:
    """The pairs of attention, counted token by token."""
    return sum(position + 1 for run in plan.runs for position in range(run.start, run.end))


@given(splits(), st.integers(1, 400), st.integers(5000, 100_000))
def test_forwards_hold_all_runs_in_order_within_the_budget(
    sequences: list[np.ndarray], tokens: int, attention: int
) -> None:
    plan = plan_forwards(sequences, Budget(tokens, attention))
    assert [number for forward in plan.forwards for number in range(forward.first, forward.stop)] == list(
        range(len(plan.runs))
    )
    for forward in plan.forwards:
        assert forward.tokens <= max(tokens, SMALLEST_FORWARD)
        # One run of the smallest size is allowed whatever it attends to.
        assert forward.attention <= attention or forward.stop - forward.first == 1


@given(splits(), st.integers(1, 400))
def test_a_forward_reads_the_kept_runs_that_its_own_hang_on(sequences: list[np.ndarray], tokens: int) -> None:
    plan = plan_forwards(sequences, Budget(tokens, UNBOUNDED))
    for number, forward in enumerate(plan.forwards):
        needed = set()
        for run in range(forward.first, forward.stop):
            while (run := plan.runs[run].parent) >= 0:
                needed.add(run)
        assert list(forward.kept) == sorted(run for run in needed if run < forward.first)
        assert all(plan.last_reader[run] >= number for run in forward.kept)


@given(splits(), st.integers(1, 400))
def test_the_arithmetic_of_a_plan_is_that_of_its_tokens(sequences: list[np.ndarray], tokens: int) -> None:
    plan = plan_forwards(sequences, Budget(tokens, UNBOUNDED))
    assert plan.tokens_given == sum(len(ids) for ids in sequences)
    assert plan.tokens == sum(run.end - run.start for run in plan.runs)
    assert plan.attention == attended(plan)
    assert plan.attention_given == sum(len(ids) * (len(ids) + 1) // 2 for ids in sequences)
    assert plan.padding == 0


@given(splits(), st.integers(64, 400))
def test_a_smaller_budget_computes_no_token_twice(sequences: list[np.ndarray], tokens: int) -> None:
    whole = plan_forwards(sequences, Budget(UNBOUNDED, UNBOUNDED))
    assert plan_forwards(sequences, Budget(tokens, UNBOUNDED)).tokens == whole.tokens


def test_a_group_that_fits_into_a_forward_is_not_torn() -> None:
    random = np.random.default_rng(0)
    sequences = [ids for _ in range(6) for ids in group(random, 100, [20, 30, 40])]
    plan = plan_forwards(sequences, Budget(500, UNBOUNDED))
    assert [forward.tokens for forward in plan.forwards] == [380, 380, 380]
    assert all(forward.kept == () for forward in plan.forwards)


def test_a_group_of_500_candidates_computes_its_prefix_once_and_keeps_it() -> None:
    sequences = group(np.random.default_rng(0), 600, [50] * 500)
    plan = plan_forwards(sequences, Budget(2048, UNBOUNDED))
    assert plan.tokens == 600 + 500 * 50
    assert len(plan.forwards) == 13
    assert all(forward.kept == (0,) for forward in plan.forwards[1:])


def test_a_prefix_longer_than_the_budget_is_cut_into_a_chain() -> None:
    sequences = group(np.random.default_rng(0), 1000, [10, 20])
    plan = plan_forwards(sequences, Budget(300, UNBOUNDED))
    assert [(forward.tokens, forward.kept) for forward in plan.forwards] == [
        (300, ()),
        (300, (0,)),
        (300, (0, 1)),
        (130, (0, 1, 2)),
    ]
    assert plan.tokens == 1030


def test_the_budget_of_attention_makes_late_tokens_come_in_smaller_forwards() -> None:
    plan = plan_forwards([np.arange(4000, dtype=np.int32)], Budget(1000, 600_000))
    assert [forward.tokens for forward in plan.forwards][:2] == [1000, 250]
    assert all(forward.attention <= 600_000 for forward in plan.forwards)
    assert plan.tokens == 4000


def test_a_plan_prints_its_arithmetic() -> None:
    shared = np.arange(30, dtype=np.int32)
    sequences = [np.append(shared, [100 + end] * 40).astype(np.int32) for end in range(3)]
    assert str(plan_forwards(sequences, Budget(100, UNBOUNDED))).splitlines() == [
        " forward    runs    tokens     attention  kept tokens",
        "       0       2        70          2485            0",
        "       1       2        80          4040           30",
        "     sum       4       150          6525",
        "3 sequences of 210 tokens (7455 pairs of attention); 150 tokens are computed, 0 of them padding.",
    ]


@pytest.mark.parametrize("share", [True, False])
def test_nothing_gives_an_empty_plan(share: bool) -> None:
    plan = plan_forwards([], Budget(100, UNBOUNDED), share=share)
    assert (plan.runs, plan.forwards, plan.tokens) == ((), (), 0)
