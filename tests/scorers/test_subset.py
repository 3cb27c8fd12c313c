"""Leaving groups out of scoring changes nothing for the others, and every candidate keeps its place."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.data.group import Candidate, Group, Message, groups_to_table
from polar_ray.data.status import Status
from polar_ray.scorers.base import ENCODED_SCHEMA, CandidateScore, Scores
from polar_ray.scorers.length import LengthScorer
from polar_ray.scorers.pieces import concat, take_groups, unscored
from polar_ray.scorers.subset import score_subset


def groups_of(sizes: list[int]) -> pa.Table:
    """Groups whose candidates have 1, 2, 3, … characters, counted through all groups."""
    lengths = iter(range(1, sum(sizes) + 1))
    return groups_to_table(
        Group(
            f"p{row}",
            (Message("user", "q"),),
            (),
            tuple(Candidate(str(c), (Message("assistant", "x" * next(lengths)),)) for c in range(size)),
        )
        for row, size in enumerate(sizes)
    )


def encoded_of(sizes: list[int]) -> pa.Table:
    """One row per candidate, whose only id is its number among all candidates."""
    places = [(group, candidate) for group, size in enumerate(sizes) for candidate in range(size)]
    rows = [
        {"group": group, "candidate": candidate, "reference": 0, "ids": [number], "status": "ok", "error": None}
        for number, (group, candidate) in enumerate(places)
    ]
    return pa.Table.from_pylist(rows, schema=ENCODED_SCHEMA)


SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=6)


@given(SIZES, st.data())
def test_groups_that_are_left_out_get_the_status_and_the_others_their_own_rewards(
    sizes: list[int], data: st.DataObject
) -> None:
    left_out = data.draw(st.sets(st.integers(0, len(sizes) - 1)))
    scores = score_subset(LengthScorer(), groups_of(sizes), None, left_out, Status.CRASHED, "it died")
    is_out = [group in left_out for group, size in enumerate(sizes) for _ in range(size)]
    assert scores.reward.to_pylist() == [None if out else float(n) for n, out in enumerate(is_out, 1)]
    assert scores.status.to_pylist() == ["crashed" if out else "ok" for out in is_out]
    assert scores.error.to_pylist() == ["it died" if out else None for out in is_out]


@given(SIZES, st.data())
def test_taken_groups_keep_their_encoded_rows_under_their_new_numbers(sizes: list[int], data: st.DataObject) -> None:
    rows = sorted(data.draw(st.sets(st.integers(0, len(sizes) - 1), min_size=1)))
    groups, encoded = take_groups(groups_of(sizes), encoded_of(sizes), rows)
    assert encoded is not None
    assert groups.column("prompt_id").to_pylist() == [f"p{row}" for row in rows]
    starts = np.cumsum([0, *sizes])
    expected = [
        (new, candidate, [int(starts[row]) + candidate])
        for new, row in enumerate(rows)
        for candidate in range(sizes[row])
    ]
    columns = (encoded.column(name).to_pylist() for name in ("group", "candidate", "ids"))
    assert list(zip(*columns, strict=True)) == expected
    assert encoded.schema == ENCODED_SCHEMA


def test_groups_without_ids_are_taken_without_ids() -> None:
    groups, encoded = take_groups(groups_of([1, 2]), None, [1])
    assert groups.column("prompt_id").to_pylist() == ["p1"]
    assert encoded is None


def test_what_is_unscored_has_no_reward_and_says_why() -> None:
    scores = unscored(2, Status.CRASHED, "it died", ["similarity"])
    assert scores.reward.to_pylist() == [None, None]
    assert scores.status.to_pylist() == ["crashed", "crashed"]
    assert scores.error.to_pylist() == ["it died", "it died"]
    assert scores.tokens.to_pylist() == [None, None]
    assert scores.extras["similarity"].to_pylist() == [None, None]
    assert scores.extras["similarity"].type == pa.float32()


@pytest.mark.parametrize("order", [None, [2, 0, 1]])
def test_scores_are_put_together_in_the_order_that_is_asked_for(order: list[int] | None) -> None:
    first = Scores.of([CandidateScore(1.0, extras={"e": 0.5}), CandidateScore(2.0)], ("e",))
    second = Scores.of([CandidateScore(None, Status.TIMEOUT)], ("e",))
    joined = concat([first, second], None if order is None else np.array(order))
    chosen = order or [0, 1, 2]
    assert joined.reward.to_pylist() == [[1.0, 2.0, None][place] for place in chosen]
    assert joined.status.to_pylist() == [["ok", "ok", "timeout"][place] for place in chosen]
    assert joined.extras["e"].to_pylist() == [[0.5, None, None][place] for place in chosen]
