"""What a retry takes over from the generation before, and what it looks at again.

A split whose file did not change, whose groups have all their scores and whose dead letters would be dead letters again
is copied. Of every other split only the groups without scores, and rows that were dead letters, go to the scorers.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import msgspec
import numpy as np
import pyarrow.parquet as pq
import ray

from polar_ray.data.lines import BLANKS_COUNT
from polar_ray.data.parts import decoding
from polar_ray.data.revive import revives
from polar_ray.data.status import FAILED, OF_THE_SETTINGS
from polar_ray.errors import RecipeChanged
from polar_ray.recipe.input import Input
from polar_ray.running.folder import Commit, Removal, RunFolder
from polar_ray.running.identity import read_identity
from polar_ray.running.job import Job
from polar_ray.running.keep import Index, Keep, origins_path, rows_by_generation
from polar_ray.running.manifest import Generation, Manifest, Source
from polar_ray.running.progress import Reporter
from polar_ray.running.tally import Tally, errors_in
from polar_ray.scorers.fingerprint import changed_keys


@dataclass(frozen=True)
class Retrial:
    """A retry of a run's newest generation.

    Attributes:
        parent: That generation.
        manifest: Its manifest.
        number: Of the generation that the retry makes.
        changed: Paths of input files whose content changed since.
        replanned: The settings that decide groups and splits changed, so no split is what it was.
        allow_changed: The scorers may be others than before.
    """

    parent: RunFolder
    manifest: Manifest
    number: int
    changed: frozenset[str]
    replanned: bool
    allow_changed: bool = False

    @property
    def same_input(self) -> bool:
        """Whether every split holds the rows that it held."""
        return not self.changed and not self.replanned

    @cached_property
    def reading(self) -> int:
        """The rule by which the parent's lines became splits: those that are copied must be what they would be now."""
        identity = read_identity(self.parent)
        return BLANKS_COUNT if identity is None else identity.reading

    @property
    def errors(self) -> dict[str, int]:
        """By scorer, candidates with errors in the parent: as many do not stop the retry."""
        return {name: errors_in(counts) for name, counts in self.manifest.counts["statuses"].items()}

    @cached_property
    def commits(self) -> dict[str, Commit]:
        """The parent's commits as of its end, without the groups that were found to be duplicates."""
        removals = self.parent.read_records("duplicates", Removal)
        commits = self.parent.read_commits()
        return {split: _without(commit, removals.get(split)) for split, commit in commits.items()}

    def failed(self, fingerprints: dict[str, dict[str, str]]) -> dict[str, frozenset[str]]:
        """Returns by scorer the statuses that are worth another attempt."""
        before = self.manifest.fingerprints
        return {
            name: FAILED | OF_THE_SETTINGS if changed_keys(before[name], fingerprint) else FAILED
            for name, fingerprint in fingerprints.items()
        }

    def check(self, fingerprints: dict[str, dict[str, str]]) -> None:
        """Refuses to put rewards of two scorers into one table unnoticed.

        Raises:
            RecipeChanged: A scorer changed, and nobody said that it may.
        """
        before = self.manifest.fingerprints
        changed = sorted(
            ".".join(filter(None, (name, key)))
            for name in fingerprints
            for key in changed_keys(before[name], fingerprints[name])
        )
        if changed and not self.allow_changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise RecipeChanged(
                f"the scorer is not what it was when {self.parent.path} was scored ({', '.join(changed[:3])}{more}), "
                "so one table would hold the rewards of two; if that is wanted, say --allow-changed, and the manifest "
                "tells which rows come from which"
            )

    def prepare(self, job: Job, reporter: Reporter) -> Job:
        """Copies the splits that need nothing and returns the job that does the rest."""
        failed = self.failed(job.fingerprints)
        whole = self._whole(failed, job.recipe.input)
        done = job.folder.read_commits().keys()
        with ThreadPoolExecutor(16) as pool:
            letters = {info.path for info in self.parent.storage.list(self.parent.join("dead_letters"))}
            for _ in pool.map(lambda split: self._copy(split, job.folder, letters), sorted(whole - done)):
                pass
        reporter.say(
            f"generation {self.number}: {len(whole):,} of {len(self.commits):,} splits are taken over whole; of the "
            "others, what has no score is scored"
        )
        index = None
        if not self.same_input:
            index = ray.put(
                Index.of(self.parent, sorted(split for split, commit in self.commits.items() if commit.groups))
            )
        return replace(job, keep=Keep(self.parent, self.number, failed, index))

    def record(self, now: dict[str, dict[str, str]], folder: RunFolder, tally: Tally) -> Generation:
        """Returns what the manifest says of the generation that was made with fingerprints of ``now``."""
        fingerprints = {self.number: now, 1: self.manifest.fingerprints}
        if self.manifest.generation is not None:
            fingerprints |= {source.generation: source.fingerprints for source in self.manifest.generation.sources}
        later = rows_by_generation(folder, folder.read_commits())
        rows = {1: tally.groups - sum(later.values()), **later}
        return Generation(
            number=self.number,
            parent=self.parent.path,
            parent_sha256=hashlib.sha256(self.parent.storage.read_bytes(self.parent.manifest)).hexdigest(),
            sources=[Source(number, rows[number], fingerprints[number]) for number in sorted(rows) if rows[number]],
        )

    def has_work(self, settings_changed: dict[str, bool], config: Input) -> bool:
        """Whether there is anything to try again.

        Args:
            settings_changed: By scorer, whether its settings are not what they were.
            config: The input as it is read now.
        """
        statuses = self.manifest.counts["statuses"]
        failed = any(
            statuses[name].keys() & (FAILED | OF_THE_SETTINGS if changed else FAILED)
            for name, changed in settings_changed.items()
            if name in statuses
        )
        if failed or not self.same_input:
            return True
        return bool(self._revived(config))

    def _whole(self, failed: dict[str, frozenset[str]], config: Input) -> frozenset[str]:
        """The splits that are copied."""
        if self.replanned:
            return frozenset()
        revived = self._revived(config)
        if config.layout == "scattered" and (self.changed or revived):
            # A row that is read now may belong to any partition.
            return frozenset()
        return frozenset(
            split
            for split, commit in self.commits.items()
            if split not in revived
            and commit.file not in self.changed
            and not (self.changed and split in self.removals)
            and not any(failed[name] & counts.keys() for name, counts in commit.statuses.items())
        )

    @cached_property
    def removals(self) -> frozenset[str]:
        """The parent's splits out of which duplicates were taken: with other input their firsts may be gone."""
        return frozenset(self.parent.read_records("duplicates", Removal))

    def _revived(self, config: Input) -> frozenset[str]:
        """Splits of files that did not change, with dead letters that are none any more."""

        def look(path: str) -> str | None:
            with decoding(path):
                letters = self.parent.storage.read_with(path, pq.read_table)
            unchanged = letters.filter(
                np.array([file not in self.changed for file in letters["file"].to_pylist()], bool)
            )
            return _split_of(path) if revives(unchanged, config) else None

        found = self.parent.storage.list(self.parent.join("dead_letters"))
        paths = [info.path for info in found if not info.path.endswith("-duplicates.parquet")]
        with ThreadPoolExecutor(4) as pool:
            return frozenset(split for split in pool.map(look, paths) if split is not None)

    def _copy(self, split: str, folder: RunFolder, letters: set[str]) -> None:
        """Copies what stands for a split; its commit record last."""
        storage, commit = folder.storage, self.commits[split]
        pairs = [(self.parent.dead_letters(name), folder.dead_letters(name)) for name in (split, f"{split}-duplicates")]
        pairs = [(source, target) for source, target in pairs if source in letters]
        if commit.part_bytes:
            pairs.append((self.parent.part(split), folder.part(split)))
        if storage.is_file(origins_path(self.parent, split)):
            pairs.append((origins_path(self.parent, split), origins_path(folder, split)))
        for source, target in pairs:
            storage.copy(source, target)
        storage.write_atomic(folder.commit(split), msgspec.json.encode(commit))


def _split_of(path: str) -> str:
    return path.rsplit("/", 1)[-1].removeprefix("part-").removesuffix(".parquet")


def _without(commit: Commit, removal: Removal | None) -> Commit:
    """Returns a commit as if the duplicates had been dead letters from the start."""
    if removal is None:
        return commit
    tally = Tally([commit])
    tally.subtract(removal)
    return msgspec.structs.replace(
        commit,
        rows_in_groups=tally.rows_in_groups,
        groups=tally.groups,
        candidates=tally.candidates,
        dead_letters=dict(tally.dead_letters),
        statuses={name: dict(+counts) for name, counts in tally.statuses.items()},
        tokens=dict(tally.tokens),
        part_bytes=tally.part_bytes,
        examples=tally.examples,
    )
