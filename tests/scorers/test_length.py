"""The length baseline against Python's own count."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polar_ray.data.group import GROUP_SCHEMA, Candidate, Group, Message, groups_to_table
from polar_ray.recipe.scorers import Length
from polar_ray.scorers.length import LengthScorer

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
MESSAGES = st.lists(TEXT, max_size=3).map(lambda texts: tuple(Message("assistant", text) for text in texts))
GROUPS = st.lists(
    st.lists(MESSAGES, min_size=1, max_size=4).map(
        lambda answers: Group(
            "p", (), (), tuple(Candidate(str(index), messages) for index, messages in enumerate(answers))
        )
    ),
    max_size=5,
)


def scorer() -> LengthScorer:
    return LengthScorer.from_config(Length())


@settings(deadline=None)
@given(GROUPS, st.data())
def test_a_table_has_the_length_of_each_candidates_joined_text(groups: list[Group], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(groups)))
    lengths = [
        float(len("\n".join(message.content for message in candidate.messages)))
        for group in groups[start:]
        for candidate in group.candidates
    ]
    assert scorer().score_table(groups_to_table(groups).slice(start)).reward.to_pylist() == lengths
    assert [score.reward for row in scorer().score(groups[start:]) for score in row] == lengths


def test_a_chinese_character_and_an_emoji_count_once_each() -> None:
    group = Group("p", (), (), (Candidate("a", (Message("assistant", "你好🙂"),)), Candidate("b", ())))
    scores = scorer().score_table(groups_to_table([group]))
    assert scores.reward.to_pylist() == [3.0, 0.0]
    assert scores.reward.type == pa.float32()
    assert scores.status.to_pylist() == ["ok", "ok"]
    assert scores.tokens.to_pylist() == [None, None]
    assert scores.error.to_pylist() == [None, None]


def test_a_table_of_several_chunks_is_scored_in_order() -> None:
    groups = [Group(str(n), (), (), (Candidate("a", (Message("assistant", "x" * n),)),)) for n in range(4)]
    table = pa.concat_tables([groups_to_table(groups[:1]), groups_to_table(groups[1:])])
    assert scorer().score_table(table).reward.to_pylist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("rows", [[], None])
def test_an_empty_table_has_no_scores(rows: list[Group] | None) -> None:
    table = GROUP_SCHEMA.empty_table() if rows is None else groups_to_table(rows)
    assert len(scorer().score_table(table)) == 0
