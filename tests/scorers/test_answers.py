"""What a scorer answers is checked where it comes in: nothing of a bad answer reaches another group's candidates."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from polar_ray.data.group import Candidate, Group, groups_to_table
from polar_ray.data.status import Status
from polar_ray.errors import CheckpointError, DeviceLost, ScoringError
from polar_ray.scorers.answers import score_checked
from polar_ray.scorers.base import CandidateScore, Scores
from polar_ray.scorers.text_scorer import TextScorer

GROUPS = [Group(name, (), (), tuple(Candidate(str(n), ()) for n in range(2))) for name in ("a", "odd", "z")]
TABLE = groups_to_table(GROUPS)


def score(reward: Any = 1.0, **fields: Any) -> CandidateScore:
    return CandidateScore(reward, **fields)


class Answers(TextScorer):
    """Gives each candidate 1.0 (and ``half`` 0.5), and of the group ``odd`` what it is told to."""

    extras = ("half",)

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def score_group(self, group: Group) -> list[CandidateScore]:
        fine = [CandidateScore(1.0, extras={"half": 0.5})] * len(group.candidates)
        answer: list[CandidateScore] = self._answer if group.prompt_id == "odd" else fine
        return answer


BAD = {
    "a score too many": ([score()] * 3, "3 scores for 2 candidates"),
    "a score too few": ([score()], "1 scores for 2 candidates"),
    "no scores": ([], "0 scores for 2 candidates"),
    "nothing": (None, "NoneType, not a list"),
    "numbers": ([1.0, 2.0], "float, not a CandidateScore"),
    "a reward beside error": ([score(), score(status=Status.ERROR)], "a reward beside the status error"),
    "no reward beside ok": ([score(), score(None)], "no reward beside the status ok"),
    "a status that is none": ([score(), score(status="fine")], "the status 'fine'"),
    "a text as reward": ([score(), score("0.5")], "the reward '0.5'"),
    "an undeclared extra": ([score(), score(extras={"whole": 1.0})], "'whole', which it does not declare in extras"),
    "an extra named rank": ([score(), score(extras={"rank": 1.0})], "'rank', which it does not declare in extras"),
    "an extra that is no number": ([score(), score(extras={"half": "x"})], "'x' as half"),
    "an infinite extra": ([score(), score(extras={"half": float("inf")})], "inf as half"),
    "an extra too large for a float": ([score(), score(extras={"half": 10**400})], "as half, which is no finite"),
    "an extra of more digits than Python writes": ([score(), score(extras={"half": 10**5000})], "many digits as half"),
    "no extras": ([score(), score(extras=None)], "None as extras"),
    "a list of extras": ([score(), score(extras=["half"])], "['half'] as extras"),
    "tokens that are true": ([score(), score(tokens=True)], "True as tokens"),
    "fewer tokens than none": ([score(), score(tokens=-1)], "-1 as tokens"),
    "tokens that are no number": ([score(), score(tokens="many")], "'many' as tokens"),
    "more tokens than int32 holds": ([score(), score(tokens=2**31)], "2147483648 as tokens"),
    "an error that is no text": ([score(), score(None, status=Status.ERROR, error=ValueError("x"))], "as error"),
}


@pytest.mark.parametrize(("answer", "said"), BAD.values(), ids=BAD.keys())
def test_a_bad_answer_about_a_group_is_an_error_of_that_group_and_names_it(answer: Any, said: str) -> None:
    scores = score_checked(Answers(answer), TABLE, None)
    assert scores.reward.to_pylist() == [1.0, 1.0, None, None, 1.0, 1.0]
    assert scores.status.to_pylist() == ["ok", "ok", "error", "error", "ok", "ok"]
    assert scores.extras["half"].to_pylist() == [0.5, 0.5, None, None, 0.5, 0.5]
    for message in scores.error.to_pylist()[2:4]:
        assert message.startswith("Answers gave for group 'odd' ")
        assert said in message


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), -float("inf"), 1e39, np.float32("nan"), 10**400])
def test_a_reward_that_is_not_finite_in_float32_is_none_with_the_status_of_a_model_that_gives_such(
    reward: float,
) -> None:
    scores = score_checked(Answers([score(reward), score(np.float32(2.0))]), TABLE, None)
    assert scores.reward.to_pylist() == [1.0, 1.0, None, 2.0, 1.0, 1.0]
    assert scores.status.to_pylist() == ["ok", "ok", "non_finite", "ok", "ok", "ok"]


@pytest.mark.parametrize(
    ("reward", "wanted"),
    [
        (Fraction(1, 3), 0.3333333432674408),
        (0.1, 0.10000000149011612),
        (True, 1.0),
        (2**24 + 1, 16777216.0),
        (np.float64(0.1), 0.10000000149011612),
        (np.int8(-3), -3.0),
    ],
)
def test_any_number_is_a_reward_and_comes_as_the_float32_that_the_table_holds(reward: Any, wanted: float) -> None:
    scorer = Answers([score(reward, tokens=np.int64(7), extras={"half": reward}), score(2.0)])
    scores = score_checked(scorer, TABLE, None)
    assert scores.reward.to_pylist() == [1.0, 1.0, wanted, 2.0, 1.0, 1.0]
    assert scores.extras["half"].to_pylist()[2] == wanted
    assert scores.tokens.to_pylist()[2:4] == [7, None]
    [[first, _]] = scorer.score([GROUPS[1]])
    assert (first.reward, first.tokens, first.extras) == (wanted, 7, {"half": wanted})
    assert {type(first.reward), type(first.tokens)} == {float, int}


def test_a_message_that_is_no_unicode_is_kept_with_escapes_and_costs_no_other_group_its_scores() -> None:
    answer = [score(), score(None, status=Status.ERROR, error="half a pair: \ud800")]
    scores = score_checked(Answers(answer), TABLE, None)
    assert scores.status.to_pylist() == ["ok", "ok", "ok", "error", "ok", "ok"]
    assert scores.error.to_pylist()[3] == "half a pair: \\ud800"

    class Raises(Answers):
        def score_group(self, group: Group) -> list[CandidateScore]:
            if group.prompt_id == "odd":
                raise ValueError("half a pair: \ud800")
            return super().score_group(group)

    scores = score_checked(Raises(None), TABLE, None)
    assert scores.reward.to_pylist() == [1.0, 1.0, None, None, 1.0, 1.0]
    assert scores.error.to_pylist()[2] == "ValueError: half a pair: \\ud800"


class Unrepresentable(int):
    def __repr__(self) -> str:
        raise RuntimeError("no words for it")


def test_an_answer_that_raises_while_it_is_looked_at_costs_no_other_group_its_scores() -> None:
    scores = score_checked(Answers([score(), score(tokens=Unrepresentable(-1))]), TABLE, None)
    assert scores.status.to_pylist() == ["ok", "ok", "error", "error", "ok", "ok"]
    assert scores.error.to_pylist()[2] == "RuntimeError: no words for it"


def test_bad_answers_about_all_groups_are_named_each() -> None:
    scores = Answers([score()]).score([GROUPS[1], replace_id(GROUPS[1])])
    assert [row[0].status for row in scores] == [Status.ERROR] * 2
    assert [row[0].error for row in scores] == ["Answers gave for group 'odd' 1 scores for 2 candidates"] * 2


def replace_id(group: Group) -> Group:
    return Group(group.prompt_id, group.prompt, group.references, group.candidates)


class Table(TextScorer):
    """Answers with a whole table of its own making."""

    extras = ("half",)

    def __init__(self, change: Any) -> None:
        self._change = change

    def score_group(self, group: Group) -> list[CandidateScore]:
        raise AssertionError("is not asked")

    def score_table(self, groups: pa.Table, encoded: pa.Table | None = None) -> Scores:
        odd = groups["prompt_id"].to_pylist().index("odd") if "odd" in groups["prompt_id"].to_pylist() else None
        size = 2 * groups.num_rows
        fine = Scores(
            reward=pa.array(np.arange(size), pa.float32()),
            status=pa.array(["ok"] * size),
            tokens=pa.nulls(size, pa.int32()),
            error=pa.nulls(size, pa.string()),
            extras={"half": pa.array([0.5] * size, pa.float32())},
        )
        changed: Scores = fine if odd is None else self._change(fine, 2 * odd)
        return changed


def put(array: pa.Array, place: int, value: Any) -> pa.Array:
    values = array.to_pylist()
    values[place] = value
    return pa.array(values, array.type)


BAD_TABLES = {
    "a reward too many": (
        lambda scores, odd: replace(scores, reward=pa.concat_arrays([scores.reward, scores.reward[:1]])),
        "reward for",
    ),
    "rewards of another type": (lambda scores, odd: replace(scores, reward=scores.reward.cast("double")), "double"),
    "an extra too few": (lambda scores, odd: replace(scores, extras={}), "without half"),
    "an extra too many": (lambda scores, odd: replace(scores, extras={**scores.extras, "rank": scores.reward}), "rank"),
    "a short extra": (lambda scores, odd: replace(scores, extras={"half": scores.reward[:1]}), "half for"),
    "no table": (lambda scores, odd: [1.0], "list, not Scores"),
    "a reward beside error": (lambda scores, odd: replace(scores, status=put(scores.status, odd, "error")), "beside"),
    "no reward beside ok": (lambda scores, odd: replace(scores, reward=put(scores.reward, odd, None)), "no reward"),
    "a null status": (lambda scores, odd: replace(scores, status=put(scores.status, odd, None)), "the status None"),
    "an unknown status": (lambda scores, odd: replace(scores, status=put(scores.status, odd, "good")), "'good'"),
    "an infinite extra": (
        lambda scores, odd: replace(scores, extras={"half": put(scores.extras["half"], odd, float("inf"))}),
        "inf as half",
    ),
}


@pytest.mark.parametrize(("change", "said"), BAD_TABLES.values(), ids=BAD_TABLES.keys())
def test_a_bad_table_of_scores_is_an_error_of_the_group_that_it_is_bad_for(change: Any, said: str) -> None:
    scores = score_checked(Table(change), TABLE, None)
    assert scores.status.to_pylist() == ["ok", "ok", "error", "error", "ok", "ok"]
    assert [reward is None for reward in scores.reward.to_pylist()] == [False, False, True, True, False, False]
    message = scores.error.to_pylist()[2]
    assert message.startswith("Table gave for group 'odd' ")
    assert said in message


def test_a_reward_of_a_table_that_is_not_finite_is_none_with_a_status() -> None:
    scores = score_checked(
        Table(lambda fine, odd: replace(fine, reward=put(fine.reward, odd, float("nan")))), TABLE, None
    )
    assert scores.reward.to_pylist() == [0.0, 1.0, None, 3.0, 4.0, 5.0]
    assert scores.status.to_pylist() == ["ok", "ok", "non_finite", "ok", "ok", "ok"]


@pytest.mark.parametrize("error", [DeviceLost, CheckpointError])
def test_a_scorer_that_cannot_work_says_so_also_when_groups_are_asked_one_by_one(error: type[Exception]) -> None:
    class Breaks(Table):
        def score_table(self, groups: pa.Table, encoded: pa.Table | None = None) -> Scores:
            if groups.num_rows == 1:
                raise error("gone")
            return super().score_table(groups, encoded)

    with pytest.raises(error, match="gone"):
        score_checked(Breaks(BAD_TABLES["no table"][0]), TABLE, None)


def test_a_group_that_raises_when_it_is_asked_alone_has_an_error() -> None:
    class Raises(Table):
        def score_table(self, groups: pa.Table, encoded: pa.Table | None = None) -> Scores:
            if groups["prompt_id"].to_pylist() == ["odd"]:
                raise ScoringError("no good")
            return super().score_table(groups, encoded)

    scores = score_checked(Raises(BAD_TABLES["no table"][0]), TABLE, None)
    assert scores.status.to_pylist() == ["ok", "ok", "error", "error", "ok", "ok"]
    assert scores.error.to_pylist()[2] == "ScoringError: no good"
