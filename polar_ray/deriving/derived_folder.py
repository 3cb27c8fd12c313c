"""The output folder of a derivation.

data/train/part-00000.jsonl            the rows (and data/validation/)
ledger/part-00000.parquet              the prompts that gave nothing, and why
README.md                              the dataset card
dataset_info.json                      LLaMA-Factory's entry, for its format
manifest.json                          written last: it is there exactly when the derivation has finished
_derive/derive.json                    what the folder is for, written first
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from polar_ray.data.storage import Storage
from polar_ray.deriving.shards import FileRecord
from polar_ray.errors import NotARun, NotFinished, OutputError, RecipeChanged


class Parent(msgspec.Struct, frozen=True):
    """The run that a dataset was derived from.

    Attributes:
        path: Where its folder was.
        manifest_sha256: Of its manifest's bytes.
        name: Of its recipe.
        groups: In its score table.
        candidates: In its score table.
        fingerprints: By scorer, all that can change a score.
    """

    path: str
    manifest_sha256: str
    name: str
    groups: int
    candidates: int
    fingerprints: dict[str, dict[str, str]]


class DerivedManifest(msgspec.Struct, frozen=True):
    """The record of a finished derivation. It holds no time, so that deriving again writes the same bytes.

    Attributes:
        task: ``pairs``, ``best_of_n`` or ``labels``.
        recipe: The resolved recipe without places and ``compute``.
        parent: The run that it was derived from.
        counts: Prompts, candidates and rows, by side as well.
        ledger: Prompts that gave nothing, by reason.
        conservation: prompts = prompts with rows + prompts by reason.
        removed_candidates: Candidates left out, by condition.
        removed_pairs: Proposed pairs dropped, by filter.
        lowest_reward: The reward at ``best_of_n.min_quantile``.
        curve: The N-curve: n, expected_best, prompts.
        files: Every file with rows.
        versions: Of what wrote it.
        joined: The runs that were joined, by name.
        missing: Prompts and candidates that each of them lacks.
    """

    task: str
    recipe: dict[str, Any]
    parent: Parent
    counts: dict[str, int]
    ledger: dict[str, int]
    conservation: dict[str, Any]
    removed_candidates: dict[str, int]
    removed_pairs: dict[str, int]
    lowest_reward: float | None
    curve: list[dict[str, float]]
    files: list[FileRecord]
    versions: dict[str, str]
    joined: dict[str, Parent] = {}
    missing: dict[str, dict[str, int]] = {}


@dataclass(frozen=True)
class DerivedFolder:
    """Paths of a derivation and what lies at them."""

    path: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def storage(self) -> Storage:
        """The filesystem that holds the folder."""
        return Storage.of(self.path, self.options)

    def join(self, *names: str) -> str:
        """Returns the path of something in the folder."""
        return "/".join([self.path.rstrip("/"), *names])

    def is_finished(self) -> bool:
        """Whether a finished derivation is there."""
        return self.storage.exists(self.join("_derive", "derive.json")) and self.storage.exists(
            self.join("manifest.json")
        )

    def clear(self) -> None:
        """Deletes the derivation in the folder, if there is one, and nothing else."""
        if self.storage.exists(self.join("_derive", "derive.json")):
            self._clear()

    def establish(self, identity: dict[str, Any], *, fresh: bool) -> DerivedManifest | None:
        """Makes the folder ready; returns the manifest if it already holds this derivation, finished.

        What an interrupted derivation left is deleted: deriving again is cheaper than trusting it.

        Raises:
            OutputError: The folder holds something else.
        """
        storage, record = self.storage, msgspec.json.encode(identity, order="deterministic")
        marker, manifest = self.join("_derive", "derive.json"), self.join("manifest.json")
        if not storage.exists(marker):
            if storage.list(self.path):
                raise NotARun(
                    f"{self.path} holds files but no derived dataset, so nothing is written there; give another "
                    "output.path or empty the folder yourself"
                )
        elif not fresh and storage.exists(manifest):
            if storage.read_bytes(marker) == record:
                return self.read_manifest()
            raise RecipeChanged(
                f"{self.path} holds a dataset that was derived by another recipe, from another score table or by other "
                "versions of the software; give another output.path, or delete it with --fresh"
            )
        else:
            self._clear()
        storage.write_atomic(marker, record)
        return None

    def read_manifest(self) -> DerivedManifest:
        """Returns the manifest.

        Raises:
            NotFinished: There is none.
            OutputError: It is not that of a derived dataset.
        """
        try:
            data = self.storage.read_bytes(self.join("manifest.json"))
        except FileNotFoundError:
            raise NotFinished(f"{self.path} holds no finished derived dataset: it has no manifest.json") from None
        try:
            return msgspec.json.decode(data, type=DerivedManifest)
        except msgspec.ValidationError as error:
            raise OutputError(f"{self.path}/manifest.json is not that of a derived dataset: {error}") from None

    def _clear(self) -> None:
        storage = self.storage
        # The manifest first, for nothing may look finished that is not; the marker last: it says whose folder this is.
        storage.delete(self.join("manifest.json"))
        for name in ("data", "ledger"):
            storage.delete_tree(self.join(name))
        for name in ("README.md", "dataset_info.json"):
            storage.delete(self.join(name))
        storage.delete_tree(self.join("_derive"))
