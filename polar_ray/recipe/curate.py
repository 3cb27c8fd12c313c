"""The recipe of scheduled curation: new shards in, scored once, a dated version of the derived datasets out."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from polar_ray.recipe.base import Part
from polar_ray.recipe.derive import Derivation, DeriveRecipe
from polar_ray.recipe.document import Document
from polar_ray.recipe.input import Input
from polar_ray.recipe.recipe import Recipe
from polar_ray.recipe.run import Compute, Limits, Output, goes_with_the_job
from polar_ray.recipe.scorers import AnyScorer, ScorerConfig
from polar_ray.recipe.selections import ScoreTable


class Retention(Part):
    """Which versions stay. The newest always does, and so does one that was replaced less than ``grace_h`` ago.

    Attributes:
        versions: How many at most.
        age_days: Older ones go as well; None keeps them while there are few enough.
        grace_h: Hours that whoever reads a version has left to finish once it is replaced.
    """

    versions: int = Field(default=7, ge=1)
    age_days: float | None = Field(default=None, gt=0)
    grace_h: float = Field(default=24, ge=0)


class CurateRecipe(Document):
    """What is watched, how it is scored, what is derived from it, and where versions go.

    ``input``, ``scorer`` or ``scorers``, ``compute`` and ``limits`` are those of a run. ``derive`` holds the datasets
    of a version by name, each a recipe of ``polar-ray derive`` without ``run`` and ``output``.

    Attributes:
        over: What a version is derived from: ``all`` current shards, or those of the ``tick`` that made it.
        min_age_s: Shards that were written less than so many seconds ago wait for the next tick, and so do those whose
            time lies less than that ahead. One with a time further ahead does not wait: its clock was wrong.
        lease_s: Seconds after which a tick that no longer says that it works counts as dead; on another machine
            by the storage's times.

    Example:
        >>> recipe = CurateRecipe.load("pipelines/curate_nightly.yaml", ["output.path=/tmp/curated"])
        >>> list(recipe.derive)
        ['pairs', 'best']
    """

    expected_keys: ClassVar[str] = "input, scorer, derive and output"

    name: str = "curated"
    input: Input
    scorer: AnyScorer | None = None
    scorers: dict[str, AnyScorer] = Field(default={})
    derive: dict[str, Derivation]
    over: Literal["all", "tick"] = "all"
    output: Output
    keep: Retention = Retention()
    min_age_s: float = Field(default=0, ge=0)
    lease_s: float = Field(default=300, gt=0)
    compute: Compute = Compute()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _consistent(self) -> "CurateRecipe":
        if self.input.layout == "scattered":
            raise ValueError(
                "input.layout scattered brings a prompt's candidates together from all shards, which a tick does not "
                "have; write a prompt's candidates into one shard and use layout candidates"
            )
        paths = [self.input.path] if isinstance(self.input.path, str) else self.input.path
        if not paths:
            raise ValueError("input.path gives no path: name at least one file, folder or glob")
        for path in filter(goes_with_the_job, paths):
            # A run may read what was sent along with its job; here the next job would find other files there.
            raise ValueError(
                f"input.path {path} is a relative path, and the working directory of a submitted job is a temporary "
                "folder of Ray, another one for each job: give an absolute path on a shared file system, or a URL"
            )
        for name in self.derive:
            if not name.isidentifier() or name in RESERVED:
                raise ValueError(f"derive.{name}: the name must be letters, digits and _, and not {RESERVED[0]}")
        # A run's part is checked by the recipe that it becomes.
        self.scoring([], "/checked")
        return self

    @property
    def named_scorers(self) -> dict[str, ScorerConfig]:
        """Scorers by the name that their columns carry; the name of a single scorer is empty."""
        return {"": self.scorer} if self.scorer is not None else dict(self.scorers)

    def scoring(self, paths: list[str], output: str) -> Recipe:
        """Returns the recipe that scores some shards into a folder."""
        return Recipe.of(
            {
                "name": self.name,
                "input": {**self.input.model_dump(mode="json"), "path": paths},
                "scorer": None if self.scorer is None else self.scorer.model_dump(mode="json"),
                "scorers": {name: scorer.model_dump(mode="json") for name, scorer in self.scorers.items()},
                "output": {"path": output, "storage_options": self.output.storage_options},
                "compute": self.compute.model_dump(mode="json"),
                # A shard without rows is a quiet hour, and no reason to hold up the others.
                "limits": {**self.limits.model_dump(mode="json", exclude_unset=True), "allow_empty": True},
            }
        )

    def datasets(self, table: str, folder: str) -> dict[str, DeriveRecipe]:
        """Returns the recipes that derive the datasets of a version, by name, from a score table into a folder."""
        options = self.output.storage_options
        scores = ScoreTable(path=table, storage_options=options)
        return {
            name: part.from_table(
                self._dataset(name), scores, Output(path=f"{folder}/{name}", storage_options=options), self.limits
            )
            for name, part in self.derive.items()
        }

    def policies(self) -> dict[str, dict[str, Any]]:
        """Returns what decides the datasets of a version, by name, wherever they are."""
        return {name: part.policy_as(self._dataset(name)) for name, part in self.derive.items()}

    def _dataset(self, name: str) -> str:
        return f"{self.name}-{name}"


RESERVED = ("table",)
"""Names that a version's folder uses itself."""
