"""The output folder of a run.

scores/part-00000-00000.parquet        the score table, one part per split
dead_letters/part-00000-00000.parquet  rows that could not become groups
manifest.json                          written last: it is there exactly when the run has finished
_run/run.json                          what the run is: recipe, inputs, fingerprints
_run/token_budgets.json                how large forwards are, by scorer: all actors of a run pack alike
_run/taken_back.json                   which splits are about to leave the folder, to be scored again
_run/commits/00000-00000.json          one small record per finished split, written after its part
_run/duplicates/00000-00000.json       what the search for duplicate prompts took out of a part
_run/origins/00000-00000.json          in a generation: which rows of a part were scored in which
_run/lease/017321094512.json           who writes, while somebody does: of the run and all its generations
generations/2                          what a retry made of the run: a folder like this one
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any

import msgspec

from polar_ray.data.claim import Purpose
from polar_ray.data.dead_letters import Example
from polar_ray.data.generations import RECORD
from polar_ray.data.guard import Guard, also
from polar_ray.data.manifests import Count, StatusName
from polar_ray.data.one_writer import others
from polar_ray.data.records import decode_record
from polar_ray.data.storage import Storage
from polar_ray.errors import NotARun
from polar_ray.recipe.run import STORAGE_WAIT_S
from polar_ray.scorers.verification import Verification

RECORDS = "_run"
RUN = Purpose("run", "the run goes on there", strict=False)
Groups = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
"""Groups of one part: Arrow counts no more lists in one column."""


class Commit(msgspec.Struct, frozen=True):
    """The record of one finished split. Everything in it adds up over splits.

    Attributes:
        statuses: Candidates by status, for each scorer.
        errors: One error message for each scorer that had any.
        dead_letters: Dead letters by reason.
        seconds: Time spent in each stage.
        input_bytes: Bytes read for the split, decompressed.
        part_bytes: Size of the part file.
        waited: Seconds that actors waited for the split, for each scoring stage.
        verified: What came of scoring a sample again, for each scorer that did.
        examples: One of the dead letters, by reason.
    """

    split_id: str
    file: str
    file_index: Count
    split_index: Count
    last: bool
    rows: Count
    rows_in_groups: Count
    groups: Groups
    candidates: Count
    dead_letters: dict[str, Count]
    drops: dict[str, Count]
    statuses: dict[str, dict[StatusName, Count]]
    errors: dict[str, str]
    tokens: dict[str, Count]
    seconds: dict[str, float]
    input_bytes: Count
    part_bytes: Count
    waited: dict[str, float] = {}
    verified: dict[str, Verification] = {}
    examples: dict[str, Example] = {}


class Removal(msgspec.Struct, frozen=True):
    """What was taken out of one part; the manifest subtracts it from the split's commit record.

    Attributes:
        part_bytes: How much smaller the part file became.
        examples: One of the dead letters, by reason.
    """

    groups: Groups
    candidates: Count
    dead_letters: dict[str, Count]
    statuses: dict[str, dict[StatusName, Count]]
    tokens: dict[str, Count]
    part_bytes: int
    examples: dict[str, Example] = {}


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run and what lies at them. Picklable: it travels to the workers.

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

    @staticmethod
    def of(path: str, options: dict[str, Any] | None = None, wait_s: float = STORAGE_WAIT_S) -> "RunFolder":
        """Returns the folder at a URL or local path; a relative path becomes absolute, as workers run elsewhere."""
        return RunFolder(Storage.of(path, options).url, dict(options or {}), wait_s)

    @cached_property
    def storage(self) -> Storage:
        """The filesystem that holds the folder, made once."""
        return replace(Storage.of(self.path, self.options, self.wait_s), guard=self.guard)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "options": self.options, "wait_s": self.wait_s}

    def guarded(self, guard: Guard) -> "RunFolder":
        """Returns the folder with a guard, such as the lease under which it is written to, beside those it has."""
        return replace(self, guard=also(self.guard, guard))

    def join(self, *names: str) -> str:
        """Returns the path of something in the folder."""
        return "/".join([self.path.rstrip("/"), *names])

    def part(self, split_id: str) -> str:
        """Path of a split's part of the score table."""
        return self.join("scores", f"part-{split_id}.parquet")

    def dead_letters(self, split_id: str) -> str:
        """Path of a split's dead letters."""
        return self.join("dead_letters", f"part-{split_id}.parquet")

    def commit(self, split_id: str) -> str:
        """Path of a split's commit record."""
        return self.join("_run", "commits", f"{split_id}.json")

    @property
    def manifest(self) -> str:
        """Path of the manifest."""
        return self.join("manifest.json")

    @property
    def budgets(self) -> str:
        """Path of the token budgets that the run's actors agreed on."""
        return self.join("_run", "token_budgets.json")

    @property
    def identity(self) -> str:
        """Path of the record of what the run is."""
        return self.join(RECORD)

    @property
    def taken_back(self) -> str:
        """Path of the record of splits that are being taken back."""
        return self.join("_run", "taken_back.json")

    def read_commits(self) -> dict[str, Commit]:
        """Returns the commit records by split."""
        return self.read_records("commits", Commit)

    def read_records(self, kind: str, record: type) -> dict[str, Any]:
        """Returns the records in ``_run/KIND`` by split."""
        storage = self.storage
        paths = [info.path for info in storage.list(self.join("_run", kind)) if info.path.endswith(".json")]
        with ThreadPoolExecutor(16) as pool:
            data = pool.map(storage.read_bytes, paths)
            remedy = "restore it from a copy; in an unfinished run it may be deleted, and its split is scored again"
            records: list[Any] = [
                decode_record(text, path, record, remedy) for text, path in zip(data, paths, strict=True)
            ]
        names = [path.rsplit("/", 1)[-1].removesuffix(".json") for path in paths]
        return dict(zip(names, records, strict=True))

    def read_budgets(self) -> dict[str, int]:
        """Returns the token budgets that the run's actors agreed on, by scorer."""
        if not self.storage.is_file(self.budgets):
            return {}
        remedy = "restore it from a copy, or start over with --fresh: what is packed together must not change in a run"
        return decode_record(self.storage.read_bytes(self.budgets), self.budgets, dict[str, int], remedy)

    def write_budgets(self, budgets: dict[str, int]) -> None:
        """Writes them."""
        self.storage.write_atomic(self.budgets, msgspec.json.encode(budgets))

    def is_finished(self) -> bool:
        """Whether the run in the folder has finished."""
        return self.storage.exists(self.manifest)

    def is_run(self) -> bool:
        """Whether the folder holds a run, finished or not."""
        return self.storage.is_file(self.identity)

    def check_free(self) -> None:
        """Raises NotARun if the folder holds anything but the lease of who is about to write there."""
        if others(self.storage, RECORDS):
            raise NotARun(
                f"{self.path} holds files but no run of polar_ray, so nothing is written there; "
                "give another output.path or empty the folder yourself"
            )
