"""Which columns of a score table a report reads."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from polar_ray.data.scores import scorer_names
from polar_ray.deriving.columns import ScoreColumns
from polar_ray.deriving.wanted import Wanted, candidate_path
from polar_ray.errors import RecipeError

UNCERTAINTY = ("uncertainty", "disagreement")
"""Columns of a scorer that say how far a reward can be trusted: low is certain."""


@dataclass(frozen=True)
class LabelSource:
    """Where people's judgements of the candidates are: in the JSON of the ``extra`` column.

    Attributes:
        key: Of the list of labels.
        id_field: Name of the candidate's id in a label.
    """

    key: str
    id_field: str


@dataclass(frozen=True)
class ScorerSource:
    """One scorer and its columns.

    Attributes:
        name: Empty for a single scorer.
        wanted: Its columns.
        error: Its column of error messages, where it has one.
    """

    name: str
    wanted: Wanted
    error: str | None


@dataclass(frozen=True)
class Sources:
    """What to read.

    Attributes:
        scorers: In the order of the table; the one that examples are chosen by comes first.
        model: Whether candidates say which model wrote them.
        labels: Where labels are, if there can be any.
        text: Whether texts are read: lengths in characters, errors, examples.
    """

    scorers: tuple[ScorerSource, ...]
    model: bool
    labels: LabelSource | None
    text: bool

    @property
    def survey_columns(self) -> list[str]:
        """Parquet paths for the first pass."""
        rewards = [scorer.wanted.reward for scorer in self.scorers]
        return ["prompt_id", *rewards, *([candidate_path("model")] if self.model else [])]

    @property
    def columns(self) -> list[str]:
        """Parquet paths for the second pass."""
        names = dict.fromkeys(self.survey_columns)
        for scorer in self.scorers:
            names.update(dict.fromkeys(scorer.wanted.columns))
            if scorer.error and self.text:
                names[scorer.error] = None
        if self.labels:
            names[candidate_path("candidate_id")] = names["extra"] = None
        if self.text:
            names[candidate_path("messages.list.element.content")] = None
        return list(names)


def sources_of(schema: pa.Schema, manifest: dict[str, Any], *, scorer: str | None, text: bool) -> Sources:
    """Resolves what a report reads against a score table's schema.

    Raises:
        RecipeError: There is no such scorer; the message names those that there are.
    """
    names = [name for name in scorer_names(schema) if ScoreColumns(name)("status") in schema.names]
    if scorer is not None:
        if scorer not in names:
            alone = "it has a single one without a name, so leave --scorer out"
            has = f"it has {', '.join(names)}" if any(names) else alone
            raise RecipeError(f"the score table has no scorer {scorer!r}; {has}")
        names.sort(key=lambda name: name != scorer)
    candidate = schema.field("candidates").type.value_type if "candidates" in schema.names else pa.struct([])
    return Sources(
        scorers=tuple(_scorer(schema, name) for name in names),
        model=candidate.get_field_index("model") >= 0,
        labels=_labels(manifest) if "extra" in schema.names else None,
        text=text,
    )


def _scorer(schema: pa.Schema, name: str) -> ScorerSource:
    column = ScoreColumns(name)

    def there(field: str) -> str | None:
        return column(field) if column(field) in schema.names else None

    uncertain = next((there(field) for field in UNCERTAINTY if there(field)), None)
    wanted = Wanted(column("reward"), column("status"), tokens=there("tokens"), uncertainty=uncertain)
    return ScorerSource(name, wanted, there("error"))


def _labels(manifest: dict[str, Any]) -> LabelSource | None:
    """Labels are checked by the run in the ``groups`` layout only, under the names in its recipe."""
    source = manifest["recipe"].get("input")
    if source is None or source["layout"] != "groups" or source["columns"].get("labels") is None:
        return None
    return LabelSource(source["columns"]["labels"], source["candidate_fields"]["candidate_id"])
