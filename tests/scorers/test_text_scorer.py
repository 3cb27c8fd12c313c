"""What a scorer that reads text does with groups that raise."""

import pytest

from polar_ray.data.group import Candidate, Group, groups_to_table
from polar_ray.data.status import Status
from polar_ray.errors import CheckpointError, ScoringError
from polar_ray.scorers.base import CandidateScore
from polar_ray.scorers.text_scorer import TextScorer


class CandidateCount(TextScorer):
    """Rewards the number of candidates; prompt ids choose what goes wrong."""

    extras = ("half",)

    def score_group(self, group: Group) -> list[CandidateScore]:
        if group.prompt_id == "bad":
            raise ValueError("no good")
        if group.prompt_id == "unusable":
            raise CheckpointError("gone")
        count = len(group.candidates)
        return [CandidateScore(float(count), extras={"half": count / 2})] * count


def group(prompt_id: str, candidates: int = 2) -> Group:
    return Group(prompt_id, (), (), tuple(Candidate(str(n), ()) for n in range(candidates)))


def test_a_group_that_raises_gets_error_statuses_and_the_others_their_scores() -> None:
    scores = CandidateCount().score_table(groups_to_table([group("a", 1), group("bad"), group("c")]))
    assert scores.reward.to_pylist() == [1.0, None, None, 2.0, 2.0]
    assert scores.status.to_pylist() == ["ok", "error", "error", "ok", "ok"]
    assert scores.error.to_pylist() == [None, "ValueError: no good", "ValueError: no good", None, None]
    assert scores.extras["half"].to_pylist() == [0.5, None, None, 1.0, 1.0]


def test_an_error_in_every_group_is_raised_with_its_cause() -> None:
    with pytest.raises(ScoringError, match="'bad', raised ValueError: no good") as raised:
        CandidateCount().score([group("bad"), group("bad")])
    assert isinstance(raised.value.__cause__, ValueError)


def test_a_scorer_that_cannot_work_raises_at_once() -> None:
    with pytest.raises(CheckpointError, match="gone"):
        CandidateCount().score([group("a"), group("unusable")])


def test_scores_in_python_are_aligned_with_groups_and_candidates() -> None:
    scores = CandidateCount().score([group("a", 3), group("b", 1)])
    assert [[score.reward for score in row] for row in scores] == [[3.0, 3.0, 3.0], [1.0]]
    assert scores[0][0].status is Status.OK
    assert CandidateCount().score([]) == []
