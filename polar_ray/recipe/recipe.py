"""The recipe: one typed description of a run."""

import json
from typing import Any, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from polar_ray.errors import RecipeError
from polar_ray.recipe.base import Part
from polar_ray.recipe.explain import explain
from polar_ray.recipe.input import Input
from polar_ray.recipe.overrides import apply_overrides
from polar_ray.recipe.run import Compute, Limits, Output
from polar_ray.recipe.scorers import AnyScorer, ScorerConfig

PartT = TypeVar("PartT", Input, Output)


class Recipe(Part):
    """What is read, how it is scored and where the score table goes.

    Exactly one of ``scorer`` and ``scorers`` is given. A single scorer writes the columns ``reward``, ``rank``,
    ``status``, ...; several, each under its name, write ``reward_NAME``, ``rank_NAME``, ``status_NAME``, ....

    Example:
        >>> recipe = Recipe.load("pipelines/demo.yaml", ["output.path=/tmp/scored"])
        >>> recipe.scorer.kind
        'text_closeness'
    """

    name: str = "run"
    input: Input
    scorer: AnyScorer | None = None
    scorers: dict[str, AnyScorer] = Field(default={})
    output: Output
    compute: Compute = Compute()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _one_way_to_name_scorers(self) -> "Recipe":
        if (self.scorer is None) == (not self.scorers):
            raise ValueError("give exactly one of scorer (one) and scorers (several, by name)")
        for name in self.scorers:
            if not name.isidentifier() or name != name.lower():
                raise ValueError(f"scorer name {name!r} must be lower case letters, digits and _")
        return self

    @property
    def named_scorers(self) -> dict[str, ScorerConfig]:
        """Scorers by the name that their columns carry; the name of a single scorer is empty."""
        return {"": self.scorer} if self.scorer is not None else dict(self.scorers)

    @classmethod
    def load(cls, path: str, overrides: list[str] | None = None) -> "Recipe":
        """Reads a YAML recipe and applies overrides such as ``input.path=s3://bucket/*.parquet``.

        Raises:
            RecipeError: The file, a key or a value is wrong; the message names the nearest right key.
        """
        try:
            with open(path, encoding="utf-8") as file:
                data = yaml.safe_load(file)
        except OSError as error:
            raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
        except yaml.YAMLError as error:
            raise RecipeError(f"{path} is not valid YAML: {error}") from error
        if not isinstance(data, dict):
            raise RecipeError(f"{path} must hold a mapping with the keys input, scorer and output")
        return cls.of(data, overrides, where=path)

    @classmethod
    def of(cls, data: dict[str, Any], overrides: list[str] | None = None, where: str = "recipe") -> "Recipe":
        """Builds a recipe from plain data and overrides; raises RecipeError like ``load``."""
        try:
            return cls.model_validate(apply_overrides(data, overrides or []))
        except ValidationError as error:
            raise RecipeError(f"{where}: {explain(error, cls)}") from None

    def without_credentials(self) -> "Recipe":
        """Returns the recipe as it may be shown: storage options are named, not told."""

        def hidden(part: PartT) -> PartT:
            return part.model_copy(update={"storage_options": dict.fromkeys(part.storage_options, "***")})

        return self.model_copy(update={"input": hidden(self.input), "output": hidden(self.output)})

    def to_yaml(self) -> str:
        """Returns the resolved recipe, defaults included, as YAML."""
        return yaml.safe_dump(json.loads(self.model_dump_json()), sort_keys=False, allow_unicode=True)
