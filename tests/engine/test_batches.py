"""Planning forwards from lengths alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.engine.batches import plan_batches

LENGTHS = st.lists(st.integers(1, 50), max_size=60)


@given(LENGTHS, st.integers(1, 200))
def test_every_sequence_is_in_one_forward_and_the_budget_holds(lengths: list[int], budget: int) -> None:
    plan = plan_batches(np.array(lengths, np.int64), budget)
    assert sorted(row for batch in plan.batches for row in batch.rows) == list(range(len(lengths)))
    for batch in plan.batches:
        assert batch.longest == max(lengths[row] for row in batch.rows)
        assert batch.tokens == sum(lengths[row] for row in batch.rows)
        assert batch.longest * len(batch.rows) <= budget or len(batch.rows) == 1


@given(LENGTHS)
def test_the_longest_come_first_and_ties_keep_their_order(lengths: list[int]) -> None:
    plan = plan_batches(np.array(lengths, np.int64), 40)
    order = [row for batch in plan.batches for row in batch.rows]
    assert order == sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))


def test_a_plan_prints_its_sizes() -> None:
    assert str(plan_batches(np.array([3, 5, 2]), 8)).splitlines() == [
        " forward  sequences  longest    tokens    padded",
        "       0          1        5         5         5",
        "       1          2        3         5         6",
        "     sum          3                 10        11",
    ]
