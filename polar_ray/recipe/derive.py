"""The recipe of a derived dataset: one score table in, pairs, best-of-N sets or labels out."""

from typing import Any, ClassVar

from pydantic import Field, ValidationError, model_validator
from typing_extensions import Self

from polar_ray.recipe.base import Part
from polar_ray.recipe.document import Document
from polar_ray.recipe.exports import AnyExport, Card, Files, Ids, Task
from polar_ray.recipe.pairs import Pairs
from polar_ray.recipe.run import Output, StorageLimits
from polar_ray.recipe.selections import BestOfN, Candidates, Labels, Reward, ScoreTable


class Workers(Part):
    """What deriving may use; nothing here changes a byte of the result.

    Attributes:
        processes: Of this machine, or tasks at a time on a cluster; None takes as many as there are CPUs.
        address: A Ray cluster's address; None takes ``RAY_ADDRESS``, or processes of this machine. A path must then
            be reachable from all nodes.
    """

    processes: int | None = Field(default=None, ge=1)
    address: str | None = None


class Derivation(Part):
    """What is derived from a score table, and in which format.

    Exactly one of ``pairs``, ``best_of_n`` and ``labels`` is given. ``seed`` is the only source of chance.
    """

    seed: int = Field(default=0, ge=0, lt=2**63)
    reward: Reward = Reward()
    candidates: Candidates = Candidates()
    pairs: Pairs | None = None
    best_of_n: BestOfN | None = None
    labels: Labels | None = None
    export: AnyExport = Ids()
    files: Files = Files()
    card: Card = Card()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        parts = {"pairs": self.pairs, "best_of_n": self.best_of_n, "labels": self.labels}
        tasks = [name for name, part in parts.items() if part is not None]
        if len(tasks) != 1:
            raise ValueError(f"give exactly one of pairs, best_of_n and labels; given: {', '.join(tasks) or 'none'}")
        if tasks[0] not in self.export.tasks:
            raise ValueError(f"export {self.export.kind} is for {' and '.join(self.export.tasks)}, not for {tasks[0]}")
        if self.files.format not in self.export.file_formats:
            raise ValueError(
                f"export {self.export.kind} is read from {self.export.file_formats[0]}: set files.format to it"
            )
        sigmas = {
            "candidates.max_uncertainty": self.candidates.max_uncertainty,
            "pairs.min_sigmas": self.pairs.min_sigmas if self.pairs else None,
        }
        for key, value in sigmas.items():
            if value is not None and self.reward.uncertainty is None:
                raise ValueError(f"{key} needs reward.uncertainty, the column with the rewards' standard deviations")
        if self.candidates.max_disagreement is not None and self.reward.combine is None:
            raise ValueError("candidates.max_disagreement needs reward.combine, the scorers that may disagree")
        reference = self.pairs.above_reference if self.pairs else None
        if self.reward.combine is not None and reference is not None and reference.column is not None:
            raise ValueError(
                "pairs.above_reference.column holds one scorer's rewards, which combined ones cannot be held to; score "
                "the reference as a candidate and give candidate_id or model"
            )
        if self.export.kind == "trl_preference" and (self.export.style, self.export.prompt) == ("standard", "implicit"):
            raise ValueError(
                "export.style standard needs export.prompt explicit: TRL cuts the prompt out of two plain texts where "
                "they first differ, which may be inside a word"
            )
        if self.export.kind == "trl_unpaired" and self.labels and self.labels.unsure == "keep":
            raise ValueError("export trl_unpaired has a true or false label, so labels.unsure must be drop")
        if self.export.kind == "llama_factory" and self.labels and self.labels.unsure == "keep":
            raise ValueError("export llama_factory has a true or false label, so labels.unsure must be drop")
        return self

    @property
    def task(self) -> Task:
        """What is derived."""
        return "pairs" if self.pairs else "best_of_n" if self.best_of_n else "labels"

    def policy_as(self, name: str) -> dict[str, Any]:
        """Returns what decides the result under a name: all but places, credentials, ``compute`` and ``limits``."""
        return {"name": name, **self.model_dump(mode="json", include=set(Derivation.model_fields))}

    def from_table(self, name: str, run: ScoreTable, output: Output, limits: StorageLimits) -> "DeriveRecipe":
        """Returns the whole recipe of this derivation from a score table."""
        waits = StorageLimits(storage_wait_s=limits.storage_wait_s)
        return DeriveRecipe.model_validate({**dict(self), "name": name, "run": run, "output": output, "limits": waits})


class DeriveRecipe(Derivation, Document):
    """A derivation, the score table that it starts from, and where its result goes.

    Example:
        >>> recipe = DeriveRecipe.load("pipelines/pairs.yaml", ["output.path=/tmp/pairs"])
        >>> recipe.task
        'pairs'
    """

    expected_keys: ClassVar[str] = "run, output and pairs, best_of_n or labels"

    name: str = "derived"
    run: ScoreTable
    output: Output
    compute: Workers = Workers()
    limits: StorageLimits = StorageLimits()

    def policy(self) -> dict[str, Any]:
        """Returns what decides the result: the recipe without places, credentials, ``compute`` and ``limits``."""
        policy = self.policy_as(self.name)
        if self.run.join or self.run.scorer_name is not None:
            policy["tables"] = _without_places(self.run)
        return policy


class RunDerivation(Derivation):
    """A derivation that follows a run: in the run's own recipe, from the run's own score table.

    Attributes:
        output: Where its result goes; None is ``derived/NAME`` in the run's folder.
    """

    output: Output | None = None

    def of_run(self, key: str, run: Output, limits: StorageLimits) -> DeriveRecipe:
        """Returns the recipe of the derivation ``key`` of the run with the given output and limits."""
        place = f"{run.path.rstrip('/')}/derived/{key}"
        output = self.output or Output(path=place, storage_options=run.storage_options)
        return self.from_table(key, ScoreTable(path=run.path, storage_options=run.storage_options), output, limits)


def completed_policy(policy: dict[str, Any]) -> dict[str, Any]:
    """Returns the policy that an earlier version recorded as this version writes it.

    A setting that the record does not hold is one that its version did not know yet, so it was at its default.
    """
    rest = {key: value for key, value in policy.items() if key not in ("name", "tables")}
    try:
        complete = Derivation.model_validate(rest).policy_as(policy["name"])
        if "tables" in policy:
            # A record has no places, which say nothing of what was derived, and the model wants them.
            tables = policy["tables"]
            join = {name: {**table, "path": RECORDED} for name, table in tables.get("join", {}).items()}
            complete["tables"] = _without_places(ScoreTable.model_validate({**tables, "path": RECORDED, "join": join}))
    except (ValidationError, KeyError, TypeError, AttributeError):
        # A later version's settings, or somebody's by hand: they differ from those of today, and are named as they are.
        return policy
    return complete


RECORDED = "/recorded"
"""Stands for the place of a table in a policy that was recorded without."""


def _without_places(tables: ScoreTable) -> dict[str, Any]:
    places = {"path", "storage_options"}
    return tables.model_dump(mode="json", exclude={**dict.fromkeys(places, True), "join": {"__all__": places}})
