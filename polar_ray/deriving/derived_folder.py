"""The output folder of a derivation.

data/train/part-00000.jsonl            the rows (and data/validation/)
ledger/part-00000.parquet              the prompts that gave nothing, and why
README.md                              the dataset card
dataset_info.json                      LLaMA-Factory's entry, for its format
manifest.json                          written last: it is there exactly when the derivation has finished
_derive/derive.json                    what the folder is for, written first
_derive/lease/017321094512.json        who writes, while somebody does
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import msgspec

from polar_ray.data.claim import Purpose
from polar_ray.data.generations import RECORD
from polar_ray.data.guard import Guard, also
from polar_ray.data.one_writer import one_writer, others
from polar_ray.data.own_files import Own, delete_own, refuse_links
from polar_ray.data.records import DAMAGE, decode_record, differences
from polar_ray.data.storage import Storage
from polar_ray.deriving.shards import FileRecord
from polar_ray.errors import NotFinished, OutputError, RecipeChanged
from polar_ray.recipe.derive import completed_policy
from polar_ray.recipe.run import STORAGE_WAIT_S, Output


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


class _Marker(msgspec.Struct, frozen=True):
    """What every version has written into ``derive.json``, among other things."""

    recipe: dict[str, Any]
    parent: str
    versions: dict[str, str]


RECORDS = "_derive"
WORK = Purpose("derivation", "the dataset is not finished", strict=False)
JOINED = Own("_derive/joined", r".+/\d{4,}/\d{5,}\.parquet")
"""Rows of joined tables, in an interrupted derivation."""
OWN = (
    # The manifest first, for nothing may look finished that is not; the marker last: it says whose folder this is.
    Own("", "manifest.json"),
    Own("data/train", r"part-\d{5,}\.(parquet|jsonl)"),
    Own("data/validation", r"part-\d{5,}\.(parquet|jsonl)"),
    Own("ledger", r"part-\d{5,}\.parquet"),
    Own("", "README.md"),
    Own("", "dataset_info.json"),
    JOINED,
    Own("_derive", r"derive\.json"),
)
"""All files of a derivation, in the order in which they are deleted."""


WAY_ON = "; give another output.path, or delete it with --fresh"
"""What is to be done about a dataset that was derived otherwise, where it was derived by itself."""


@dataclass(frozen=True)
class DerivedFolder:
    """Paths of a derivation and what lies at them.

    Attributes:
        path: Of the folder.
        options: ``storage_options`` of the output.
        wait_s: Seconds in which a storage that is away may come back.
        guard: Is asked before this process changes anything in the folder; see ``Storage``.
    """

    path: str
    options: dict[str, Any] = field(default_factory=dict)
    wait_s: float = STORAGE_WAIT_S
    guard: Guard | None = field(default=None, compare=False, repr=False)

    @cached_property
    def storage(self) -> Storage:
        """The filesystem that holds the folder, made once."""
        return replace(Storage.of(self.path, self.options, self.wait_s), guard=self.guard)

    def guarded(self, guard: Guard) -> "DerivedFolder":
        """Returns the folder with a guard, such as the lease under which it is written to, beside those it has."""
        return replace(self, guard=also(self.guard, guard))

    @staticmethod
    def of(output: Output, wait_s: float = STORAGE_WAIT_S) -> "DerivedFolder":
        """Returns the folder of a recipe's output; a relative path becomes absolute, as workers run elsewhere."""
        return DerivedFolder(Storage.of(output.path).url, output.storage_options, wait_s)

    def join(self, *names: str) -> str:
        """Returns the path of something in the folder."""
        return "/".join([self.path.rstrip("/"), *names])

    def is_finished(self) -> bool:
        """Whether a finished derivation is there."""
        return self.storage.exists(self.join("manifest.json")) and self._is_derivation()

    def clear(self) -> None:
        """Deletes the derivation in the folder, if there is one, and nothing else.

        Raises:
            OutputError: A folder of the derivation is a link, or somebody writes there; nothing was deleted.
        """
        if self._is_derivation():
            with one_writer(self.storage, RECORDS, WORK) as lease:
                delete_own(self.guarded(lease.check_lately).storage, self.path, OWN)

    def check_clearable(self) -> None:
        """Makes sure that the derivation in the folder can be deleted, if there is one.

        Raises:
            OutputError: A folder of the derivation is a link.
        """
        if self._is_derivation():
            refuse_links(self.storage, self.path, OWN)

    def delete_joined(self) -> None:
        """Deletes the rows of joined tables that were sorted to be read."""
        delete_own(self.storage, self.path, (JOINED,))

    def establish(self, identity: dict[str, Any], *, fresh: bool) -> DerivedManifest | None:
        """Makes the folder ready; returns the manifest if it already holds this derivation, finished.

        What an interrupted derivation left is deleted: deriving again is cheaper than trusting it.

        Raises:
            OutputError: The folder holds something else.
        """
        storage, record = self.storage, msgspec.json.encode(identity, order="deterministic")
        marker, manifest = self.join("_derive", "derive.json"), self.join("manifest.json")
        if not self._is_derivation():
            if storage.is_file(self.join(RECORD)):
                raise OutputError(
                    f"{self.path} holds a run, beside which no dataset is derived; give output.path a folder of its own"
                )
            if others(storage, RECORDS):
                raise OutputError(
                    f"{self.path} holds files but no derived dataset, so nothing is written there; give another "
                    "output.path or empty the folder yourself"
                )
        elif not fresh and storage.exists(manifest):
            return self.read_same(identity)
        else:
            # The old marker stays until the new one takes its place: it says whose folder this is.
            delete_own(storage, self.path, OWN[:-1])
        storage.write_atomic(marker, record)
        return None

    def read_same(self, identity: dict[str, Any]) -> DerivedManifest:
        """Returns the manifest of the finished derivation in the folder.

        An earlier version may have finished it, or one with other libraries: its manifest says which.

        Raises:
            RecipeChanged: It is another one.
        """
        marker = self.join("_derive", "derive.json")
        earlier = decode_record(self.storage.read_bytes(marker), marker, dict[str, Any])
        earlier = {**earlier, "recipe": completed_policy(earlier["recipe"]), "versions": identity["versions"]}
        if found := differences(earlier, msgspec.to_builtins(identity)):
            raise RecipeChanged(f"{self.path} holds a dataset that was derived otherwise: {found}{WAY_ON}")
        return self.read_manifest()

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
        except DAMAGE as error:
            raise OutputError(f"{self.path}/manifest.json is not that of a derived dataset: {error}") from None

    def _is_derivation(self) -> bool:
        """Whether the record of a derivation is in the folder, which has the keys that ``establish`` was given."""
        try:
            record = msgspec.json.decode(self.storage.read_bytes(self.join("_derive", "derive.json")), type=_Marker)
        except (FileNotFoundError, *DAMAGE):
            return False
        return bool(record.recipe and record.versions)
