"""The tally adds up commit records, and gives a hopeless run up."""

import re
from typing import Any

import pytest
from runs import commit

from polar_ray.data.dead_letters import Example
from polar_ray.errors import ConservationError, ScoringError, TooManyDeadLetters
from polar_ray.recipe.run import Limits
from polar_ray.running.folder import Commit, Removal
from polar_ray.running.manifest import conservation_of, counts_of
from polar_ray.running.tally import Tally


def unscored(status: str, candidates: int, **changes: Any) -> Commit:
    return commit(candidates=candidates, statuses={"": {status: candidates}}, **changes)


def dead(rows: int, letters: int) -> Commit:
    groups = rows - letters
    return commit(rows=rows, rows_in_groups=groups, groups=groups, drops={}, dead_letters={"invalid_json": letters})


def test_commits_add_up() -> None:
    tally = Tally([commit(), commit(dead_letters={"invalid_json": 1, "prompt_null": 1}, statuses={"": {"ok": 14}})])
    assert counts_of(tally) == {
        "rows": 20,
        "rows_in_groups": 14,
        "groups": 14,
        "candidates": 28,
        "splits": 2,
        "tokens": {"": 200},
        "statuses": {"": {"error": 1, "ok": 27}},
        "dead_letters": {"invalid_json": 3, "prompt_null": 1},
        "drops": {"blank_line": 2},
        "score_table_bytes": 600,
    }
    assert tally.seconds == {"read": 1.0}
    assert tally.dead_letter_count == 4


def test_rewards_are_counted_by_status() -> None:
    tally = Tally([commit(statuses={"": {"ok": 3, "truncated": 2, "no_reference": 4, "error": 5}})])
    assert tally.rewards("") == 5


def test_rows_read_are_rows_in_groups_and_dead_letters_and_drops() -> None:
    assert conservation_of(Tally([commit()])) == {
        "rows_read": 10,
        "rows_in_groups": 7,
        "dead_letters": 2,
        "drops": 1,
        "holds": True,
    }


@pytest.mark.parametrize("change", [{"rows": 11}, {"rows": 9}, {"drops": {}}, {"dead_letters": {}}])
def test_a_row_lost_or_doubled_breaks_conservation(change: dict[str, Any]) -> None:
    with pytest.raises(ConservationError, match="rows were lost or doubled"):
        conservation_of(Tally([commit(**change)]))


def test_duplicates_that_are_removed_become_dead_letters_and_nothing_is_lost() -> None:
    tally = Tally([commit(), commit()])
    tally.subtract(
        Removal(
            groups=2,
            candidates=4,
            dead_letters={"duplicate_row": 1, "duplicate_prompt_id": 1},
            statuses={"": {"ok": 3, "error": 1}},
            tokens={"": 30},
            part_bytes=100,
        )
    )
    counts = counts_of(tally)
    assert (counts["groups"], counts["candidates"], counts["tokens"]) == (12, 24, {"": 170})
    assert counts["score_table_bytes"] == 500
    assert counts["statuses"] == {"": {"error": 1, "ok": 23}}
    assert counts["dead_letters"] == {"duplicate_prompt_id": 1, "duplicate_row": 1, "invalid_json": 4}
    assert conservation_of(tally)["holds"]


def test_a_status_of_which_nothing_is_left_is_not_listed() -> None:
    tally = Tally([commit(statuses={"": {"ok": 13, "error": 1}})])
    tally.subtract(
        Removal(
            groups=1,
            candidates=1,
            dead_letters={"duplicate_row": 1},
            statuses={"": {"error": 1}},
            tokens={},
            part_bytes=0,
        )
    )
    assert counts_of(tally)["statuses"] == {"": {"ok": 13}}


def test_a_share_of_dead_letters_counts_only_after_a_thousand_rows_or_at_the_end() -> None:
    limits = Limits(max_dead_letters=0.1)
    Tally([dead(999, 500)]).check(limits)
    with pytest.raises(TooManyDeadLetters):
        Tally([dead(999, 500)]).check(limits, final=True)
    with pytest.raises(TooManyDeadLetters):
        Tally([dead(1000, 101)]).check(limits)
    Tally([dead(1000, 100)]).check(limits, final=True)


def test_a_number_of_dead_letters_counts_at_once() -> None:
    limits = Limits(max_dead_letters=5)
    Tally([dead(10, 5)]).check(limits)
    with pytest.raises(TooManyDeadLetters):
        Tally([dead(10, 6)]).check(limits)


def test_no_dead_letters_at_all_may_be_asked_for() -> None:
    with pytest.raises(TooManyDeadLetters):
        Tally([dead(10, 1)]).check(Limits(max_dead_letters=0), final=True)


def test_one_row_stands_beside_each_reason_for_dead_letters_and_none_is_left_out() -> None:
    text = "candidates[0] is a list, not an object or a string"
    counts = {"invalid_json": 1, "candidate_type": 9, "prompt_null": 2, "invalid_utf8": 3, "nan_literal": 1}
    examples = {"candidate_type": Example("in.jsonl", 4, text), "prompt_null": Example("a\x1b[31m\n.jsonl", 0, "null")}
    tally = Tally([commit(rows=16, dead_letters=counts, examples=examples)])
    with pytest.raises(TooManyDeadLetters) as refused:
        tally.check(Limits(), final=True)
    assert str(refused.value).startswith(
        f"16 of the 16 rows read became dead letters (candidate_type 9 [row 4 of in.jsonl: {text}], invalid_utf8 3, "
        "prompt_null 2 [row 0 of a\\x1b[31m\\n.jsonl: null], and 2 for 2 other reasons), more than "
    )


def test_rows_of_a_prompt_that_stand_apart_are_told_with_the_layout_that_keeps_them() -> None:
    removal = Removal(
        groups=2,
        candidates=2,
        dead_letters={"duplicate_prompt_id": 2},
        statuses={},
        tokens={},
        part_bytes=0,
        examples={"duplicate_prompt_id": Example("in.jsonl", 8, "taken")},
    )
    for layout, told in (("candidates", True), ("groups", False), ("scattered", False)):
        tally = Tally([commit(rows=3, rows_in_groups=3, dead_letters={}, drops={})], layout=layout)
        tally.subtract(removal)
        with pytest.raises(TooManyDeadLetters, match=r"\[row 8 of in.jsonl: taken\]") as refused:
            tally.check(Limits(), final=True)
        said = "set input.layout=scattered, as the rows of a prompt are not all next to each other" in str(
            refused.value
        )
        assert said is told


def test_too_many_dead_letters_are_told_with_the_commonest_reasons_and_a_remedy() -> None:
    tally = Tally([commit(rows=20, dead_letters={"invalid_json": 9, "prompt_null": 3})])
    expected = re.escape(
        "12 of the 20 rows read became dead letters (invalid_json 9, prompt_null 3), more than "
        "limits.max_dead_letters=0.5 allows; look at dead_letters/"
    )
    with pytest.raises(TooManyDeadLetters, match=expected):
        tally.check(Limits(), final=True)


def test_a_run_without_one_reward_is_given_up_after_a_hundred_candidates_or_at_the_end() -> None:
    tally = Tally([unscored("error", 99)])
    tally.check(Limits())
    with pytest.raises(ScoringError, match="none of the 99 candidates so far has a reward; the status is mostly error"):
        tally.check(Limits(), final=True)
    with pytest.raises(ScoringError, match="ValueError: no number"):
        Tally([unscored("error", 100)]).check(Limits())


def test_one_reward_is_enough_to_go_on() -> None:
    Tally([commit(candidates=100, statuses={"": {"error": 99, "truncated": 1}})]).check(Limits(), final=True)


def test_one_of_several_scorers_without_a_reward_is_named() -> None:
    statuses = {"length": {"ok": 100}, "polar": {"no_reference": 100}}
    with pytest.raises(ScoringError, match=r"from polar; .*name the column in input\.columns\.reference"):
        Tally([commit(candidates=100, statuses=statuses, errors={})]).check(Limits())


def test_an_input_without_candidates_is_no_failure_of_the_scorer() -> None:
    Tally([commit(candidates=0, statuses={"": {}})]).check(Limits(), final=True)


@pytest.mark.parametrize(
    ("limit", "errors", "of", "stops"),
    [
        (0.05, 99, 100, False),  # a share of few says little
        (0.05, 100, 2000, False),
        (0.05, 101, 2000, True),
        (0.5, 100, 200, False),
        (5, 5, 2000, False),
        (5, 6, 2000, True),
        (0, 100, 2000, True),
    ],
)
@pytest.mark.parametrize("status", ["error", "crashed"])
def test_errors_beyond_a_share_or_a_number_stop_the_run(
    status: str, limit: float, errors: int, of: int, stops: bool
) -> None:
    tally = Tally([commit(candidates=of, statuses={"": {"ok": of - errors, status: errors}})])
    if not stops:
        tally.check(Limits(max_errors=limit))
        return
    with pytest.raises(
        ScoringError, match=rf"{errors} of the {of:,} .* limits\.max_errors={limit:g}.*ValueError: no number"
    ):
        tally.check(Limits(max_errors=limit))


def test_timeouts_and_what_a_scorer_cannot_do_are_no_errors() -> None:
    counts = {"ok": 10, "timeout": 200, "no_reference": 200, "too_long": 200, "unsupported": 200, "non_finite": 200}
    Tally([commit(candidates=1010, statuses={"": counts})]).check(Limits(max_errors=0), final=True)


def test_a_retry_may_have_the_errors_of_its_parent_and_not_one_more() -> None:
    limits = Limits(max_errors=5)
    for errors, stops in ((20, False), (21, True)):
        commits = [commit(candidates=100, statuses={"": {"ok": 100 - errors, "error": errors}})]
        tally = Tally(commits, inherited={"": 20})
        assert tally.failed(limits) == stops
        if not stops:
            tally.check(limits, final=True)
            continue
        with pytest.raises(ScoringError, match=r"21 of the 100 candidates so far have errors"):
            tally.check(limits)
    # The first splits of a retry may be those that have nothing but errors again.
    Tally([unscored("error", 150)], inherited={"": 150}).check(limits)
    with pytest.raises(ScoringError, match="none of the 150 candidates"):
        Tally([unscored("error", 150)], inherited={"": 50}).check(limits)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        ("error", "Correct the cause and run the same command again"),
        ("timeout", "Correct the cause and run the same command again"),
        ("too_long", "Correct the cause and start over with --fresh"),
        ("unsupported", "Leave what the scorer cannot show"),
    ],
)
def test_what_to_do_about_a_run_without_a_reward_depends_on_why_there_is_none(status: str, remedy: str) -> None:
    with pytest.raises(ScoringError, match=remedy):
        Tally([unscored(status, 100)]).check(Limits())
