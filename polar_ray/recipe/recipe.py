"""The recipe: one typed description of a run."""

import json
import re
from typing import ClassVar, TypeVar

import yaml
from pydantic import Field, model_validator

from polar_ray.recipe.base import check_scorer_name
from polar_ray.recipe.derive import DeriveRecipe, RunDerivation
from polar_ray.recipe.document import Document
from polar_ray.recipe.input import Input
from polar_ray.recipe.run import Compute, Limits, Output
from polar_ray.recipe.scorers import AnyScorer, Custom, ScorerConfig

PartT = TypeVar("PartT", Input, Output)


def _masked(scorer: ScorerConfig) -> ScorerConfig:
    return scorer.masked() if isinstance(scorer, Custom) else scorer


class Recipe(Document):
    """What is read, how it is scored and where the score table goes.

    Exactly one of ``scorer`` and ``scorers`` is given. A single scorer writes the columns ``reward``, ``rank``,
    ``status``, ...; several, each under its name, write ``reward_NAME``, ``rank_NAME``, ``status_NAME``, ....
    ``derive`` names what is derived from the score table once it is finished.

    ``verify`` is a share of the groups: those are scored again by one plain forward for each sequence, and the manifest
    says how far the rewards are apart. It changes no score; a run may be resumed with another share or none.

    Example:
        >>> recipe = Recipe.load("pipelines/demo.yaml", ["output.path=/tmp/scored"])
        >>> recipe.scorer.kind
        'text_closeness'
    """

    expected_keys: ClassVar[str] = "input, scorer and output"

    name: str = "run"
    input: Input
    scorer: AnyScorer | None = None
    scorers: dict[str, AnyScorer] = Field(default={})
    output: Output
    compute: Compute = Compute()
    limits: Limits = Limits()
    derive: dict[str, RunDerivation] = {}
    verify: float = Field(default=0, ge=0, le=1)

    @model_validator(mode="after")
    def _one_way_to_name_scorers(self) -> "Recipe":
        if (self.scorer is None) == (not self.scorers):
            raise ValueError("give exactly one of scorer (one) and scorers (several, by name)")
        if self.scorer is not None and self.input.format == "scores":
            raise ValueError("to add to a score table a scorer needs a name: give scorers: {NAME: {...}}")
        for name in self.scorers:
            check_scorer_name(name)
        for name in self.derive:
            if not re.fullmatch(r"[\w.-]*\w[\w.-]*", name):
                raise ValueError(f"derive.{name}: a name that becomes a folder has letters, digits, _, - and . only")
        return self

    @property
    def named_scorers(self) -> dict[str, ScorerConfig]:
        """Scorers by the name that their columns carry; the name of a single scorer is empty."""
        return {"": self.scorer} if self.scorer is not None else dict(self.scorers)

    @property
    def derivations(self) -> dict[str, DeriveRecipe]:
        """The recipes of what is derived from the run, by name."""
        return {name: each.of_run(name, self.output, self.limits) for name, each in self.derive.items()}

    def without_credentials(self) -> "Recipe":
        """Returns the recipe as it may be shown: storage options and a custom scorer's settings are named, not told."""

        def hidden(part: PartT) -> PartT:
            return part.model_copy(update={"storage_options": dict.fromkeys(part.storage_options, "***")})

        derive = {
            name: each.model_copy(update={"output": each.output and hidden(each.output)})
            for name, each in self.derive.items()
        }
        return self.model_copy(
            update={
                "input": hidden(self.input),
                "output": hidden(self.output),
                "derive": derive,
                "scorer": self.scorer and _masked(self.scorer),
                "scorers": {name: _masked(scorer) for name, scorer in self.scorers.items()},
            }
        )

    def to_yaml(self) -> str:
        """Returns the resolved recipe, defaults included, as YAML."""
        return yaml.safe_dump(json.loads(self.model_dump_json()), sort_keys=False, allow_unicode=True)
