"""What a scorer adds to the score table may not take the place of what is there."""

from typing import Any

import pytest

from polar_ray.deriving.columns import check_extras
from polar_ray.errors import RecipeError


@pytest.mark.parametrize(
    ("extras", "names", "said"),
    [
        (("rank",), [""], "rank, which is a column of the score table"),
        (("truncated",), ["polar"], "truncated_polar, which"),
        (("prompt_id",), [""], "prompt_id, which"),
        (("input_row",), [""], "input_row, which"),
        (("candidate_extra",), [""], "candidate_extra, which"),
        (("half", "half"), [""], "half twice"),
        (("",), [""], "'' is no name"),
        ("half", [""], "extras is 'half', not a tuple of names"),
        # Scorers b and b_c: the column of b's extra is that of the other's reward.
        (("reward_b",), ["c", "b_c"], "reward_b_c, which is a column of scorer b_c"),
        # A table with these two columns would seem to have one scorer more.
        (("reward_x", "status_x"), [""], "reward_x"),
    ],
)
def test_an_extra_that_collides_with_a_column_is_refused_before_anything_is_scored(
    extras: Any, names: list[str], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        check_extras("Answers", extras, names[0], names)


def test_extras_that_collide_with_nothing_are_allowed() -> None:
    check_extras("Answers", ("half", "reward_x", "ranking"), "", [""])
    check_extras("Answers", ("half",), "a", ["a", "b"])
