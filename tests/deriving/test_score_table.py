"""Scores stand beside the candidates that they are of, or the table is not made."""

from typing import Any

import pyarrow as pa
import pytest

from polar_ray.data.group import Candidate, Group, groups_to_table
from polar_ray.deriving.score_table import score_table
from polar_ray.errors import ScoringError
from polar_ray.scorers.base import CandidateScore, Scores

GROUPS = groups_to_table(
    Group(name, (), (), tuple(Candidate(str(n), ()) for n in range(size))) for name, size in (("a", 2), ("b", 1))
)


def scores(*rewards: float, **extras: Any) -> Scores:
    of = Scores.of([CandidateScore(reward) for reward in rewards])
    return Scores(of.reward, of.status, of.tokens, of.error, {name: pa.array(value) for name, value in extras.items()})


def test_scores_are_cut_where_the_candidates_are() -> None:
    table = score_table(GROUPS, {"x": scores(1.0, 2.0, 3.0, half=[0.5, 1.0, 1.5])})
    assert table["reward_x"].to_pylist() == [[1.0, 2.0], [3.0]]
    assert table["rank_x"].to_pylist() == [[1, 0], [0]]
    assert table["half_x"].to_pylist() == [[0.5, 1.0], [1.5]]


@pytest.mark.parametrize("rewards", [(1.0, 2.0), (1.0, 2.0, 3.0, 4.0)])
def test_another_number_of_scores_than_candidates_is_no_table(rewards: tuple[float, ...]) -> None:
    with pytest.raises(ScoringError, match=f"{len(rewards)} values of reward for 3 candidates"):
        score_table(GROUPS, {"": scores(*rewards)})


@pytest.mark.parametrize("name", ["rank", "truncated", "prompt_id", "reward"])
def test_no_column_is_written_over(name: str) -> None:
    with pytest.raises(ScoringError, match=f"has a column {name} already"):
        score_table(GROUPS, {"": scores(1.0, 2.0, 3.0, **{name: [0.0, 0.0, 0.0]})})
