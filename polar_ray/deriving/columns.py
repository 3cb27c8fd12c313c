"""Names of the score columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from polar_ray.data.explode import CANDIDATE_COLUMNS
from polar_ray.data.group import GROUP_SCHEMA
from polar_ray.data.scores import scorer_names
from polar_ray.errors import RecipeError

SCORE_FIELDS = {
    "reward": pa.float32(),
    "rank": pa.int32(),
    "status": pa.string(),
    "tokens": pa.int32(),
    "truncated": pa.bool_(),
    "error": pa.string(),
}
"""What every scorer writes and its type, each a list aligned with ``candidates``."""


@dataclass(frozen=True)
class ScoreColumns:
    """The columns of one scorer: plain names for a recipe's single scorer (empty name), else ``reward_NAME``."""

    scorer: str = ""

    def __call__(self, field: str) -> str:
        """Returns the name of the column that holds ``field`` (``reward``, ``rank``, ``status``, ...)."""
        return f"{field}_{self.scorer}" if self.scorer else field


def check_extras(target: str, extras: Any, scorer: str, scorers: Sequence[str]) -> None:
    """Checks that what a scorer adds can stand in the score table beside what is there anyway.

    Args:
        target: What the message calls the scorer.
        extras: The names that the scorer declares.
        scorer: Its name in the recipe.
        scorers: The names of all of the recipe's scorers, this one included.

    Raises:
        RecipeError: A name is none, or its column would be that of something else.
    """
    if not isinstance(extras, tuple) or not all(isinstance(name, str) for name in extras):
        raise RecipeError(f"{target}: extras is {extras!r}, not a tuple of names")
    # A run's own, and those that taking the candidates apart makes.
    taken = dict.fromkeys([*GROUP_SCHEMA.names, *CANDIDATE_COLUMNS.values(), "input_file", "input_row"], "")
    taken |= {ScoreColumns(other)(field): other for other in scorers for field in SCORE_FIELDS}
    remedy = "give it another name in extras"
    for place, name in enumerate(extras):
        column = ScoreColumns(scorer)(name)
        if not name:
            raise RecipeError(f"{target}: {name!r} is no name of a column; {remedy}")
        if name in extras[:place]:
            raise RecipeError(f"{target}: extras holds {name} twice; {remedy}")
        if column in taken:
            whose = f"scorer {taken[column]}" if taken[column] not in ("", scorer) else "the score table"
            raise RecipeError(f"{target} adds {column}, which is a column of {whose}; {remedy}")
    columns = [*taken, *(ScoreColumns(scorer)(name) for name in extras)]
    seeming = set(scorer_names(pa.schema([pa.field(name, pa.null()) for name in columns]))) - set(scorers)
    if seeming:
        raise RecipeError(
            f"{target} adds reward_{min(seeming)} and status_{min(seeming)}, with which the table would seem to have "
            f"another scorer; {remedy}"
        )
