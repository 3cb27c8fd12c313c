"""Which tokens of a list of sequences are computed once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.engine.prefix_tree import RUN_COST, PrefixTree, prefix_tree

# Few different ids and short parts that repeat, so that beginnings are shared at many depths.
SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=40), min_size=1, max_size=12)


def arrays(sequences: list[list[int]]) -> list[np.ndarray]:
    return [np.array(ids, np.int32) for ids in sequences]


def spelled(tree: PrefixTree, sequences: list[np.ndarray], number: int) -> list[int]:
    """The ids that the runs of a sequence hold, from its start to its end."""
    parts = []
    run = tree.last[number]
    while run >= 0:
        part = tree.runs[run]
        parts.append(sequences[part.source][part.start : part.end].tolist())
        run = part.parent
    return [token for part in reversed(parts) for token in part]


def distinct_beginnings(sequences: list[list[int]]) -> int:
    return len({tuple(ids[: end + 1]) for ids in sequences for end in range(len(ids))})


@given(SEQUENCES, st.booleans())
def test_the_runs_of_a_sequence_spell_it(sequences: list[list[int]], share: bool) -> None:
    tree = prefix_tree(arrays(sequences), share=share)
    for number, ids in enumerate(sequences):
        assert spelled(tree, arrays(sequences), number) == ids


@given(SEQUENCES)
def test_runs_follow_their_parents_and_begin_where_these_end(sequences: list[list[int]]) -> None:
    tree = prefix_tree(arrays(sequences))
    for number, run in enumerate(tree.runs):
        assert run.tokens > 0
        assert run.parent < number
        assert run.start == (tree.runs[run.parent].end if run.parent >= 0 else 0)


@given(SEQUENCES)
def test_no_more_is_computed_twice_than_a_run_costs(sequences: list[list[int]]) -> None:
    computed = sum(run.tokens for run in prefix_tree(arrays(sequences)).runs)
    least = distinct_beginnings(sequences)
    assert least <= computed <= least + 2 * RUN_COST * len(sequences)


@given(SEQUENCES)
def test_without_sharing_each_different_sequence_is_one_run(sequences: list[list[int]]) -> None:
    tree = prefix_tree(arrays(sequences), share=False)
    assert sum(run.tokens for run in tree.runs) == sum(len(ids) for ids in {tuple(ids) for ids in sequences})
    assert all(run.parent == -1 for run in tree.runs)


@given(SEQUENCES, st.randoms())
def test_the_order_of_arrival_changes_nothing(sequences: list[list[int]], random: st.DataObject) -> None:
    order = list(range(len(sequences)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = [sequences[row] for row in order]
    first, second = prefix_tree(arrays(sequences)), prefix_tree(arrays(shuffled))
    assert [(run.parent, run.start, run.end) for run in first.runs] == [
        (run.parent, run.start, run.end) for run in second.runs
    ]
    assert [first.last[row] for row in order] == list(second.last)


def test_a_system_prompt_a_prompt_and_a_long_beginning_of_two_candidates_are_each_computed_once() -> None:
    system, first, second = [1] * 20, [2] * 30, [3] * 25
    sequences = [
        [*system, *first, *[4] * 15, 5],
        [*system, *first, *[4] * 15, 6, 6],
        [*system, *first, 7, 7, 7],
        [*system, *second, 8],
        [*system, *second, 9],
    ]
    runs = prefix_tree(arrays(sequences)).runs
    assert [(run.start, run.end, run.parent) for run in runs] == [
        (0, 20, -1),
        (20, 50, 0),
        (50, 65, 1),
        (65, 66, 2),
        (65, 67, 2),
        (50, 53, 1),
        (20, 45, 0),
        (45, 46, 6),
        (45, 46, 6),
    ]


def test_a_beginning_of_few_tokens_is_not_worth_a_run() -> None:
    assert len(prefix_tree(arrays([[1, *[2] * 30], [1, *[3] * 30]])).runs) == 2


def test_equal_sequences_have_one_run_even_without_sharing() -> None:
    for share in (True, False):
        tree = prefix_tree(arrays([[1, 2, 3], [4], [1, 2, 3]]), share=share)
        assert len(tree.runs) == 2
        assert tree.last[0] == tree.last[2] != tree.last[1]


def test_a_candidate_that_another_begins_with_ends_inside_it() -> None:
    tree = prefix_tree(arrays([[1] * 30, [1] * 30 + [2] * 5]))
    assert [(run.start, run.end) for run in tree.runs] == [(0, 30), (30, 35)]
    assert tree.last == (0, 1)


def test_ids_sort_as_numbers_whatever_their_bytes() -> None:
    tree = prefix_tree(arrays([[256, 1], [1, 256], [70000, 2]]))
    assert [run.source for run in tree.runs] == [1, 0, 2]
