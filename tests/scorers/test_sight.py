"""What a scorer cannot show its model of a message is a status, and never passed over."""

from typing import Any, cast

import msgspec
import pytest
from runs import TINY_POLAR

from polar_ray.data.group import Candidate, Group, Message, groups_to_table
from polar_ray.data.status import Status
from polar_ray.engine.engine import Engine
from polar_ray.recipe.scorers import Length, Polar, SequenceClassifier, TextCloseness
from polar_ray.scorers.base import CandidateScore
from polar_ray.scorers.catalog import make_scorer
from polar_ray.scorers.length import LengthScorer
from polar_ray.scorers.polar import PolarScorer
from polar_ray.scorers.polar_encoder import PolarEncoder
from polar_ray.scorers.sight import Sight, seen
from polar_ray.scorers.text_scorer import TextScorer

CALLS = [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]
PLAIN = Sight()


def extra(**fields: Any) -> str:
    return msgspec.json.encode(fields).decode()


def carried(**messages: Any) -> str:
    """The extra of a group (``prompt``, ``references``) or a candidate (``messages``) with fields of messages."""
    return extra(_message_fields=messages)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"tool_calls": CALLS}, "tool_calls"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"tool_call_id": "1"}, "tool_call_id"),
        ({"reasoning_content": "Hm."}, "reasoning_content"),
        ({"name": "Ann"}, "name"),
        ({"refusal": "No."}, "refusal"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}, "content of type image_url"),
        ({"tool_calls": []}, None),
        ({"reasoning_content": ""}, None),
        ({"id": "msg_1", "weight": 0}, None),
    ],
)
def test_fields_that_say_something_to_a_model_are_missed_and_others_are_not(
    fields: dict[str, Any], what: str | None
) -> None:
    def missed(whose: str) -> str | None:
        return None if what is None else f"message 1 of the {whose} has {what}"

    of_candidate = PLAIN.misses(None, [carried(messages=[None, fields]), None])
    assert of_candidate == [missed("candidate"), None]
    assert PLAIN.misses(carried(prompt=[None, fields]), [None, None]) == [missed("prompt")] * 2


@pytest.mark.parametrize(
    ("row", "missed"),
    [
        ({"tools": [{"type": "function"}]}, "the prompt offers tools"),
        ({"tools": '[{"type": "function"}]'}, "the prompt offers tools"),
        ({"functions": [{"name": "f"}]}, "the prompt offers functions"),
        ({"tools": []}, None),
        ({"tools": "hammer"}, None),
        ({"tools": ["hammer"]}, None),
        ({"tools": "[broken"}, None),
        ({"_message_fields": "a column of this name"}, None),
    ],
)
def test_tools_that_a_row_offers_are_missed_by_all_its_candidates(row: dict[str, Any], missed: str | None) -> None:
    assert PLAIN.misses(extra(**row), [None, None]) == [missed] * 2
    assert PLAIN.misses(None, [extra(**row), None]) == [missed, None]


def test_numbers_of_any_length_are_no_obstacle() -> None:
    assert PLAIN.misses('{"n":' + "9" * 5000 + ',"x":1e999,"tools":[{}]}', [None]) == ["the prompt offers tools"]


def test_references_count_for_those_who_read_them() -> None:
    group = carried(references=[None, [{"tool_calls": CALLS}]])
    wanted = "message 0 of a reference has tool_calls"
    assert Sight.of(Polar(model="x")).misses(group, [None]) == [wanted]
    assert Sight.of(TextCloseness()).misses(group, [None]) == [wanted]
    assert Sight.of(SequenceClassifier(model="x")).misses(group, [None]) == [None]
    assert Sight.of(Length()).misses(group, [None]) == [None]


def test_who_strips_thinking_leaves_out_that_of_candidates_and_references_by_choice() -> None:
    thought = [{"reasoning_content": "Hm."}]
    stripping = Sight.of(Polar(model="x", strip_think=True))
    assert stripping.misses(carried(references=[thought]), [carried(messages=thought)]) == [None]
    assert stripping.misses(carried(prompt=thought), [None]) == ["message 0 of the prompt has reasoning_content"]
    assert stripping.misses(None, [carried(messages=[{"tool_calls": CALLS}])]) == [
        "message 0 of the candidate has tool_calls"
    ]


def group(name: str, extras: list[str | None], of_group: str | None = None) -> Group:
    candidates = tuple(
        Candidate(str(n), (Message("assistant", "x" * (n + 1)),), extra=each) for n, each in enumerate(extras)
    )
    return Group(name, (Message("user", "q"),), ((Message("assistant", "r"),),), candidates, of_group)


CALLING = carried(messages=[{"tool_calls": CALLS}])
GROUPS = [
    group("plain", [None, extra(note="tools")]),
    group("mixed", [CALLING, None, CALLING]),
    group("tools", [None, None], extra(tools=[{"type": "function"}])),
    group("all", [CALLING]),
    group("last", [None]),
]


def test_what_is_missed_is_taken_out_before_scoring_and_put_back_as_a_status() -> None:
    table = groups_to_table(GROUPS)
    shown = seen(table, PLAIN)
    assert shown.groups["prompt_id"].to_pylist() == ["plain", "mixed", "last"]
    kept = [[each["candidate_id"] for each in row] for row in shown.groups["candidates"].to_pylist()]
    assert kept == [["0", "1"], ["1"], ["0"]]
    scores = shown.whole(LengthScorer().score_table(shown.groups))
    missing = ["unsupported"]
    statuses = ["ok", "ok", *missing, "ok", *missing, *missing, *missing, *missing, "ok"]
    assert scores.status.to_pylist() == statuses
    assert scores.reward.to_pylist() == [1.0, 2.0, None, 2.0, None, None, None, None, 1.0]
    assert scores.error.to_pylist()[2] == (
        "message 0 of the candidate has tool_calls, which this scorer cannot show its model"
    )


def test_a_table_in_which_nothing_is_missed_is_scored_as_it_is() -> None:
    table = groups_to_table(GROUPS[:1])
    assert seen(table, PLAIN).groups is table
    assert seen(table.slice(0, 0), PLAIN).misses is None


@pytest.mark.parametrize("config", [Length(), TextCloseness(), Polar(**TINY_POLAR)], ids=lambda config: config.kind)
def test_scoring_in_python_says_the_same(config: Any) -> None:
    scores = make_scorer(config).score(GROUPS)
    assert [[score.status.value for score in row] for row in scores] == [
        ["ok", "ok"],
        ["unsupported", "ok", "unsupported"],
        ["unsupported", "unsupported"],
        ["unsupported"],
        ["ok"],
    ]


def test_a_scorer_that_reads_calls_itself_gets_them() -> None:
    class Reads(TextScorer):
        sight = Sight(shows=frozenset(["tool_calls"]))

        def score_group(self, group: Group) -> list[CandidateScore]:
            return [CandidateScore(float("tool_calls" in (each.extra or ""))) for each in group.candidates]

    scores = Reads().score(GROUPS)
    assert [[score.reward for score in row] for row in scores] == [
        [0.0, 0.0],
        [1.0, 0.0, 1.0],
        [None] * 2,
        [1.0],
        [0.0],
    ]
    assert scores[2][0].status is Status.UNSUPPORTED


def test_a_scorer_sees_what_its_encoder_sees_or_ids_would_stand_beside_other_groups() -> None:
    calls = Sight(references=True, shows=frozenset({"tool_calls"}))

    class ShowsCalls(PolarEncoder):
        @property
        def sight(self) -> Sight:
            return calls

    config, engine = Polar.model_validate(TINY_POLAR), cast(Engine, None)
    assert PolarScorer(config, ShowsCalls.from_config(config), engine).sight == calls
    assert PolarEncoder.from_config(config).sight == Sight(references=True)
