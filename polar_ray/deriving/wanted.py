"""Which columns of a score table deriving needs: only these are read."""

from dataclasses import dataclass

import pyarrow as pa

from polar_ray.data.scores import scorer_names
from polar_ray.deriving.columns import ScoreColumns
from polar_ray.errors import RecipeError
from polar_ray.recipe.derive import DeriveRecipe


@dataclass(frozen=True)
class Combined:
    """A scorer whose rewards are combined with others': its name and columns."""

    name: str
    reward: str
    status: str


@dataclass(frozen=True)
class Wanted:
    """Names of columns.

    Attributes:
        reward: The rewards to derive from; of combined scorers the first.
        status: Their statuses.
        combined: The scorers that are combined.
        tokens: For a length penalty per token.
        uncertainty: Standard deviations of the rewards.
        others: Other scorers that must agree: name and column of rewards.
        reference_column: One reward of the reference per group.
        reference_candidate: The field (``candidate_id`` or ``model``) and value of candidates that stand for the
            reference.
    """

    reward: str
    status: str
    tokens: str | None = None
    uncertainty: str | None = None
    others: tuple[tuple[str, str], ...] = ()
    combined: tuple[Combined, ...] = ()
    reference_column: str | None = None
    reference_candidate: tuple[str, str] | None = None

    @property
    def columns(self) -> list[str]:
        """What to read, as Parquet paths. None of it is text that a model or a person wrote."""
        optional = [self.tokens, self.uncertainty, *(column for _, column in self.others), self.reference_column]
        candidate = [candidate_path(self.reference_candidate[0])] if self.reference_candidate else []
        combined = [column for scorer in self.combined for column in (scorer.reward, scorer.status)]
        scores = [self.reward, self.status, *combined, *(name for name in optional if name is not None)]
        return list(dict.fromkeys(["prompt_id", *scores, *candidate]))


def candidate_path(field: str) -> str:
    """Returns the Parquet path of a field of the candidates."""
    return f"candidates.list.element.{field}"


def wanted_of(recipe: DeriveRecipe, schema: pa.Schema) -> Wanted:
    """Resolves the names in a recipe against a score table's schema.

    Raises:
        RecipeError: The table has no such scorer or column; the message names those that it has.
    """
    names = [name for name in scorer_names(schema) if ScoreColumns(name)("status") in schema.names]
    combine = recipe.reward.combine
    chosen = [_scorer(name, names) for name in combine.scorers] if combine else [_scorer(recipe.reward.scorer, names)]
    column = ScoreColumns(chosen[0])
    penalty = recipe.reward.length_penalty
    pairs = recipe.pairs
    reference = pairs.above_reference if pairs else None
    others = tuple((name, ScoreColumns(_scorer(name, names))("reward")) for name in (pairs.agreement if pairs else ()))
    uncertainty = recipe.reward.uncertainty
    candidate = None
    if reference and reference.candidate_id is not None:
        candidate = ("candidate_id", reference.candidate_id)
    elif reference and reference.model is not None:
        candidate = ("model", reference.model)
    return Wanted(
        reward=column("reward"),
        status=column("status"),
        tokens=column("tokens") if penalty and penalty.per == "token" else None,
        uncertainty=_column(schema, column, uncertainty) if uncertainty is not None else None,
        others=others,
        combined=tuple(Combined(name, ScoreColumns(name)("reward"), ScoreColumns(name)("status")) for name in chosen)
        if combine
        else (),
        reference_column=_numeric(schema, reference.column) if reference and reference.column is not None else None,
        reference_candidate=candidate,
    )


def _scorer(name: str | None, names: list[str]) -> str:
    shown = ", ".join(names)
    if not names:
        raise RecipeError("the score table has no column of rewards; is run.path the output folder of a scoring run?")
    if name is None:
        if len(names) > 1:
            raise RecipeError(
                f"the score table has several scorers; choose one with reward.scorer: {shown}; or combine them"
            )
        return names[0]
    if name not in names:
        has = f"it has {shown}" if any(names) else "it has a single one without a name, so leave reward.scorer out"
        raise RecipeError(f"the score table has no scorer {name!r}; {has}")
    return name


def _column(schema: pa.Schema, column: ScoreColumns, field: str) -> str:
    lists = [other.name for other in schema if pa.types.is_list(other.type) and _is_number(other.type.value_type)]
    for name in (column(field), field):
        if name in lists:
            return name
    raise RecipeError(
        f"the score table has no column {column(field)!r} of numbers; those it has are {', '.join(lists)}"
    )


def _numeric(schema: pa.Schema, name: str) -> str:
    numbers = [other.name for other in schema if _is_number(other.type)]
    if name not in numbers:
        has = f"those it has are {', '.join(numbers)}" if numbers else "it has none"
        raise RecipeError(f"the score table has no column {name!r} with one number per prompt; {has}")
    return name


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_floating(type_) or pa.types.is_integer(type_))
