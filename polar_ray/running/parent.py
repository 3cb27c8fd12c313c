"""The run whose score table gets more scorers."""

import hashlib
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from polar_ray.data.scores import open_scores, renamed, scorer_columns, table_folder
from polar_ray.data.storage import Storage
from polar_ray.errors import ConservationError, RecipeError
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.folder import RunFolder
from polar_ray.running.manifest import Manifest, Origin, read_manifest


@dataclass(frozen=True)
class Parent:
    """A finished run, and what of it goes into the manifest of the one that adds to it.

    Attributes:
        manifest: Its manifest.
        origin: What names it.
        names: Its scorers, by the names that they have there, as they are to be called.
        fields: The columns of its scorers, as they are to be called.
    """

    manifest: Manifest
    origin: Origin
    names: dict[str, str]
    fields: list[pa.Field]

    @property
    def fingerprints(self) -> dict[str, dict[str, str]]:
        """By scorer, all that could change a score."""
        return self._of_scorers(self.manifest.fingerprints)

    def with_counts(self, counts: dict[str, Any]) -> dict[str, Any]:
        """Returns the counts of the run that adds to it, with those of the scorers that were there.

        Raises:
            ConservationError: Not all groups came along.
        """
        for name in ("groups", "candidates"):
            if counts[name] != self.manifest.counts[name]:
                raise ConservationError(
                    f"the manifest of {self.origin.path} counts {self.manifest.counts[name]} {name}, and "
                    f"{counts[name]} were read from its score table; the run is not marked as finished. Restore the "
                    "score table from a copy"
                )
        kept = {name: self._of_scorers(self.manifest.counts[name]) for name in ("statuses", "tokens")}
        return {**counts, **{name: {**there, **counts[name]} for name, there in kept.items()}}

    def _of_scorers(self, values: dict[str, Any]) -> dict[str, Any]:
        return {self.names[scorer]: value for scorer, value in values.items()}


def parent_of(recipe: Recipe) -> Parent | None:
    """Returns the run that the recipe's scorers are added to, if it is a score table that it reads.

    Raises:
        NotARun: There is no run at ``input.path``.
        NotFinished: The run there has not finished.
        RecipeError: Two scorers would have the same name, or one would have none.
    """
    config = recipe.input
    if config.format != "scores":
        return None
    assert isinstance(config.path, str), "the recipe takes one run"
    wait_s = recipe.limits.storage_wait_s
    path = Storage.of(table_folder(config.path, config.storage_options, wait_s), config.storage_options).url
    folder = RunFolder.of(path, config.storage_options, wait_s)
    manifest = read_manifest(folder)
    schema = open_scores(config.path, storage_options=config.storage_options, wait_s=wait_s).schema
    columns = scorer_columns(schema)
    if "" in columns and config.scorer_name is None:
        raise RecipeError(
            f"the scorer of {config.path} has no name, and others are to stand beside it; give it one with "
            "input.scorer_name"
        )
    if "" not in columns and config.scorer_name is not None:
        raise RecipeError(
            f"input.scorer_name is for a scorer without a name; those of {config.path} have: {', '.join(columns)}"
        )
    names = {scorer: config.scorer_name or scorer for scorer in columns}
    if taken := [name for name in recipe.scorers if name in names.values()]:
        raise RecipeError(
            f"{config.path} already has scores of {taken[0]!r}, which are not made again; call the scorer otherwise"
        )
    sha256 = hashlib.sha256(folder.storage.read_bytes(folder.manifest)).hexdigest()
    origin = Origin(path, sha256, str(manifest.recipe["name"]), list(names.values()))
    fields = [
        schema.field(column).with_name(renamed(column, scorer, names[scorer]))
        for scorer, those in columns.items()
        for column in those
    ]
    return Parent(manifest, origin, names, fields)
