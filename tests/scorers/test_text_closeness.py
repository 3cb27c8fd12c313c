"""Closeness to the reference."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from polar_ray.data.group import Candidate, Group, Message, groups_to_table
from polar_ray.data.status import Status
from polar_ray.recipe.scorers import TextCloseness
from polar_ray.scorers.base import CandidateScore
from polar_ray.scorers.catalog import fingerprint_of, make_encoder, make_scorer
from polar_ray.scorers.math_verifier import MathVerifier, Verdict
from polar_ray.scorers.text_closeness import TextClosenessScorer

HANG = r"The answer is $\boxed{9^{9^{9^{9}}}}$"
GSM8K_REFERENCE = "She sells 16 - 3 - 4 = 9 eggs a day.\nShe makes 9 * 2 = $18 every day.\nA: 18"


def group(references: list[str], candidates: list[str], prompt_id: str = "p") -> Group:
    return Group(
        prompt_id,
        (Message("user", "?"),),
        tuple((Message("assistant", reference),) for reference in references),
        tuple(Candidate(str(n), (Message("assistant", text),)) for n, text in enumerate(candidates)),
    )


@pytest.fixture(scope="module")
def scorer() -> Any:
    scorer = TextClosenessScorer.from_config(TextCloseness())
    yield scorer
    scorer.close()


def scores(scorer: TextClosenessScorer, references: list[str], candidates: list[str]) -> list[CandidateScore]:
    return scorer.score([group(references, candidates)])[0]


def rewards(scorer: TextClosenessScorer, references: list[str], candidates: list[str]) -> list[float]:
    found = [score.reward for score in scores(scorer, references, candidates)]
    assert None not in found
    return [reward for reward in found if reward is not None]


def test_a_right_answer_beats_a_wrong_one_however_close_its_text(scorer: TextClosenessScorer) -> None:
    wrong = GSM8K_REFERENCE.replace("A: 18", "A: 19")
    found = scores(scorer, [GSM8K_REFERENCE], [wrong, "十八\n答案是 18", "I give up"])
    assert [score.extras["answer_match"] for score in found] == [0.0, 1.0, 0.0]
    similarity = [score.extras["similarity"] for score in found]
    assert similarity[0] > 0.9 > 0.1 > similarity[1]
    assert found[0].reward == pytest.approx(0.49 * similarity[0])
    assert found[1].reward == pytest.approx(0.5 + 0.5 * similarity[1])
    assert found[2].reward == pytest.approx(0.49 * similarity[2])


def test_similarity_orders_candidates_whose_answers_are_alike(scorer: TextClosenessScorer) -> None:
    close, far = "She makes 9 * 2 = $18 every day.\nA: 18", "Eighteen dollars.\nA: 18"
    ordered = rewards(scorer, [GSM8K_REFERENCE], [GSM8K_REFERENCE, close, far])
    assert ordered == sorted(ordered, reverse=True)
    assert ordered[0] == 1.0
    assert len(set(ordered)) == 3


@pytest.mark.parametrize(
    ("reference", "right", "wrong"),
    [
        (r"So it is $\boxed{\frac{1}{3}}$.", r"I get \boxed{1/3}", r"I get \boxed{0.33}"),
        ("9 + 9 = 18\n#### 18", "The answer is 18.0", "The answer is 81"),
        ("342", "A: 342", "A: 343"),
        ("所以答案是 42。", "算出来一共是42个。", "算出来一共是24个。"),
        ("$1<x<2$", r"\boxed{(1,2)}", r"\boxed{(1,3)}"),
        ("The answer is 50%.", r"\boxed{0.5}", r"\boxed{0.05}"),
        ("1,234", "It comes to $1234 in all.", "It comes to $1235 in all."),
    ],
)
def test_answers_are_compared_by_value(scorer: TextClosenessScorer, reference: str, right: str, wrong: str) -> None:
    found = scores(scorer, [reference], [right, wrong])
    assert [score.extras["answer_match"] for score in found] == [1.0, 0.0]
    assert [score.status for score in found] == [Status.OK, Status.OK]


def test_a_reference_without_a_mathematical_answer_is_compared_as_text(scorer: TextClosenessScorer) -> None:
    candidates = [
        "水在标准大气压下的沸点是一百摄氏度。",
        "水的沸点大约是九十摄氏度。",
        "今天的天气很好，适合出门散步。",
        "",
    ]
    found = scores(scorer, ["在标准大气压下，水的沸点是一百摄氏度。"], candidates)
    assert [score.extras["answer_match"] for score in found] == [None] * 4
    ordered = [score.reward for score in found]
    assert ordered == sorted(ordered, reverse=True)
    assert ordered == [score.extras["similarity"] for score in found]
    assert ordered[-1] == 0.0


def test_mathematics_can_be_switched_off() -> None:
    scorer = TextClosenessScorer.from_config(TextCloseness(math=False))
    assert scores(scorer, ["A: 18"], ["A: 18"]) == [
        CandidateScore(1.0, extras={"similarity": 1.0, "answer_match": None})
    ]


@pytest.mark.parametrize("references", [[], [""], [" \n", ""]])
def test_a_group_without_a_reference_has_no_rewards(scorer: TextClosenessScorer, references: list[str]) -> None:
    assert scores(scorer, references, ["a", "b"]) == [CandidateScore(None, Status.NO_REFERENCE)] * 2


def test_several_references_give_the_first_the_best_or_the_mean_reward() -> None:
    references, candidates = ["", "a rather long first answer", "A: 18"], ["A: 18"]
    far = rewards(TextClosenessScorer(TextCloseness(references="first")), references, candidates)[0]
    assert far < 0.2
    assert rewards(TextClosenessScorer(TextCloseness(references="max")), references, candidates) == [1.0]
    mean = scores(TextClosenessScorer(TextCloseness(references="mean")), references, candidates)[0]
    assert mean.reward == pytest.approx((1 + far) / 2)
    assert mean.extras == {"similarity": pytest.approx((1 + far) / 2), "answer_match": 1.0}


def test_a_comparison_that_hangs_is_a_timeout_and_never_a_wrong_answer() -> None:
    scorer = TextClosenessScorer.from_config(TextCloseness(timeout_s=0.7))
    found = scores(scorer, [r"$\boxed{42}$"], ["A: 42", HANG, HANG + " ", "A: 41"])
    assert [score.status for score in found] == [Status.OK, Status.TIMEOUT, Status.TIMEOUT, Status.OK]
    assert [score.reward is None for score in found] == [False, True, True, False]
    assert [score.extras["answer_match"] for score in found] == [1.0, None, None, 0.0]
    scorer.close()


def test_a_reference_that_hangs_gives_its_whole_group_timeouts() -> None:
    scorer = TextClosenessScorer.from_config(TextCloseness(timeout_s=0.7))
    hanging = group([r"\boxed{" + "(" * 900 + "}"], ["A: 1", "A: 2"], "hanging")
    fine = group(["A: 1"], ["A: 1"], "fine")
    found = scorer.score([hanging, fine])
    assert [[score.status for score in row] for row in found] == [[Status.TIMEOUT] * 2, [Status.OK]]
    scorer.close()


def test_a_thread_scores_as_the_main_thread_does(scorer: TextClosenessScorer) -> None:
    groups = [
        group([rf"\boxed{{\frac{{{n}}}{{7}}}}"], [rf"\boxed{{{n}/7}}", rf"\boxed{{{n}/8}}"], str(n)) for n in range(5)
    ]
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(scorer.score, groups).result()
    assert [[score.extras["answer_match"] for score in row] for row in found] == [
        [1.0, float(n == 0)] for n in range(5)
    ]
    assert found == scorer.score(groups)


def test_the_order_and_repetition_of_candidates_do_not_matter(scorer: TextClosenessScorer) -> None:
    candidates = ["A: 18", "A: 17", "A: 18", "eighteen"]
    forward = rewards(scorer, [GSM8K_REFERENCE], candidates)
    assert rewards(scorer, [GSM8K_REFERENCE], candidates[::-1]) == forward[::-1]
    assert forward[0] == forward[2]
    assert [rewards(scorer, [GSM8K_REFERENCE], [text])[0] for text in candidates] == forward


def test_a_table_has_the_scores_of_its_groups_one_after_the_other(scorer: TextClosenessScorer) -> None:
    table = groups_to_table([group(["A: 18"], ["A: 18", "A: 19"]), group([], ["x"]), group(["plain"], ["plain"])])
    found = scorer.score_table(table, None)
    # "a: 18" and "a: 19" have 10 byte sequences each and share the 4 that end before the last digit.
    assert found.reward.to_pylist() == [1.0, pytest.approx(0.49 * 4 / 10), None, 1.0]
    assert found.status.to_pylist() == ["ok", "ok", "no_reference", "ok"]
    assert found.extras["answer_match"].to_pylist() == [1.0, 0.0, None, None]
    assert found.tokens.to_pylist() == [None] * 4


def test_a_message_list_is_compared_as_its_contents_joined_by_newlines(scorer: TextClosenessScorer) -> None:
    messages = (Message("assistant", "first"), Message("tool", "second"))
    several = Group("p", (), (messages,), (Candidate("a", (Message("assistant", "first\nsecond"),)),))
    assert scorer.score([several])[0][0].reward == 1.0


def test_it_is_in_the_catalog_and_its_fingerprint_names_what_can_change_a_score() -> None:
    config = TextCloseness()
    scorer = make_scorer(config)
    assert isinstance(scorer, TextClosenessScorer)
    assert make_encoder(config) is None
    fingerprint = fingerprint_of(config)
    assert {"kind", "scoring_code", "unicode", "setting:math", "setting:references", "library:math-verify"} <= set(
        fingerprint
    )
    assert fingerprint != fingerprint_of(TextCloseness(references="mean"))


def test_a_setting_that_came_later_is_in_no_fingerprint_at_its_default() -> None:
    assert "setting:group_timeout_s" not in fingerprint_of(TextCloseness())
    assert fingerprint_of(TextCloseness(group_timeout_s=7))["setting:group_timeout_s"] == "7.0"


def test_a_group_has_a_budget_for_all_of_its_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def equal(verifier: MathVerifier, gold: str, answer: str) -> Verdict:
        asked.append(answer)
        return Verdict(answer == r"\boxed{3}", seconds=4.0)

    monkeypatch.setattr(MathVerifier, "equal", equal)
    scorer = TextClosenessScorer(TextCloseness(group_timeout_s=10))
    reference = (Message("assistant", "The answer is 3."),)
    answers = tuple(Candidate(f"c{n}", (Message("assistant", rf"\boxed{{{n}}}"),)) for n in range(6))
    for _ in range(2):
        # Each group has its own.
        asked.clear()
        (scores,) = scorer.score([Group("p", (Message("user", "?"),), (reference,), answers)])
        assert asked == [r"\boxed{0}", r"\boxed{1}", r"\boxed{2}"]
        assert [score.status.value for score in scores] == ["ok"] * 3 + ["timeout"] * 3
        assert scores[3].error == "math-verify took more than 10 s of processor time for the group"
