"""What is left of a run: sources with splits that have no commit record."""

from collections import Counter, defaultdict

from polar_ray.data.sources import Source, split_id
from polar_ray.errors import ConservationError, OutputError
from polar_ray.recipe.input import Input
from polar_ray.running.folder import Commit, RunFolder
from polar_ray.running.scattering import partitions


class Todo:
    """Keeps track of which splits are committed.

    A Parquet source knows its splits. A JSONL source is a whole file, whose last split says that it is the last.
    """

    def __init__(self, sources: list[Source], commits: dict[str, Commit]) -> None:
        self._sources = sources
        self._commits: dict[str, Commit] = {}
        self._done_of_file: Counter[int] = Counter()
        self._bytes_of_file: Counter[int] = Counter()
        self._size = {source.file_index: source.file.size for source in sources}
        self._share_of_file = dict.fromkeys(self._size, 0.0)
        self._splits = self._known_splits()
        for commit in commits.values():
            self.add(commit)

    @property
    def commits(self) -> list[Commit]:
        """Records of all committed splits."""
        return list(self._commits.values())

    @property
    def committed(self) -> frozenset[str]:
        """Ids of all committed splits."""
        return frozenset(self._commits)

    @property
    def done_share(self) -> float:
        """The share of the input, by bytes, that is committed: an estimate while a compressed file is read."""
        total = sum(self._size.values())
        if total == 0:
            return 1.0
        return sum(self._size[index] * share for index, share in self._share_of_file.items()) / total

    def add(self, commit: Commit) -> list[Commit]:
        """Notes a commit; returns what is new (a pass that is tried again may report one twice)."""
        if commit.split_id in self._commits:
            return []
        index = commit.file_index
        if index not in self._splits:
            raise OutputError(
                f"the record of split {commit.split_id} says that it is of file {index} of the input, which has "
                f"{len(self._size)}: it is damaged; restore it from a copy, or delete it, and its split is scored again"
            )
        self._commits[commit.split_id] = commit
        self._done_of_file[index] += 1
        self._bytes_of_file[index] += commit.input_bytes
        if commit.last and self._splits.get(index) is None:
            self._splits[index] = commit.split_index + 1
        splits = self._splits[index]
        if splits is not None:
            self._share_of_file[index] = self._done_of_file[index] / splits
        else:
            self._share_of_file[index] = min(0.99, self._bytes_of_file[index] / max(1, self._size[index]))
        return [commit]

    def end_pass(self) -> list[Commit]:
        """Is told that a pass came to its end; returns commits that were not reported."""
        return []

    def sources(self) -> list[Source]:
        """Returns the sources that are not wholly committed."""
        return [source for source in self._sources if not self._is_done(source)]

    def check_complete(self, folder: RunFolder) -> None:
        """Checks that every split of every source is committed and its part is there, whole.

        Raises:
            ConservationError: Something is missing, which no fault that polar_ray knows can cause.
        """
        missing = [source.file.path for source in self.sources()]
        sizes = {info.path.rsplit("/", 1)[-1]: info.size for info in folder.storage.list(folder.join("scores"))}
        removed = set(folder.read_records("duplicates", dict))
        written = [commit for commit in self.commits if commit.part_bytes and commit.split_id not in removed]
        parts = [
            commit.split_id for commit in written if sizes.get(f"part-{commit.split_id}.parquet") != commit.part_bytes
        ]
        if missing or parts:
            raise ConservationError(
                f"splits are missing from {len(missing)} files {missing[:3]}, and parts are missing or have another "
                f"size than when they were written: {parts[:3]}; start over with --fresh. If nobody touched the "
                "output folder, please report this"
            )

    def _is_done(self, source: Source) -> bool:
        splits = source.splits
        if splits is None:
            splits = self._splits[source.file_index]
            if splits is None:
                return False
        return all(
            split_id(source.file_index, source.split_start + offset) in self._commits for offset in range(splits)
        )

    def _known_splits(self) -> dict[int, int | None]:
        """Number of splits of each file, where the plan knows it."""
        known: dict[int, int | None] = {}
        for source in self._sources:
            before = known.get(source.file_index, 0)
            known[source.file_index] = None if source.splits is None or before is None else before + source.splits
        return known


class ScatteredTodo(Todo):
    """Keeps track of partitions. The splits that are read before the shuffle have commit records too.

    Whether a partition is empty is known only after a shuffle, so nothing is left when every file has been read and
    every row that was read has ended somewhere.
    """

    def __init__(self, sources: list[Source], commits: dict[str, Commit], partitions: int, folder: RunFolder) -> None:
        super().__init__(sources, {})
        self._partitions = partitions
        self._folder = folder
        self._reads: dict[str, Commit] = {}
        self._note(commits)

    @property
    def commits(self) -> list[Commit]:
        return [*self._reads.values(), *self._commits.values()]

    @property
    def done_share(self) -> float:
        return min(1.0, len(self._commits) / self._partitions)

    def add(self, commit: Commit) -> list[Commit]:
        # The shuffle lies between reading and the first partition, so by now the records of all reads are there.
        new = [] if self._reads else self._note(self._folder.read_commits())
        return new + self._note({commit.split_id: commit})

    def end_pass(self) -> list[Commit]:
        return self._note(self._folder.read_commits())

    def sources(self) -> list[Source]:
        read: dict[int, set[int]] = defaultdict(set)
        ends: dict[int, int] = {}
        for commit in self._reads.values():
            read[commit.file_index].add(commit.split_index)
            if commit.last:
                ends[commit.file_index] = commit.split_index + 1
        files = {source.file_index for source in self._sources}
        all_read = all(index in ends and len(read[index]) == ends[index] for index in files)
        ended = sum(
            commit.rows_in_groups + sum(commit.dead_letters.values()) + sum(commit.drops.values())
            for commit in self.commits
        )
        done = all_read and ended == sum(commit.rows for commit in self._reads.values())
        return [] if done else self._sources

    def _note(self, commits: dict[str, Commit]) -> list[Commit]:
        new = []
        for split, commit in commits.items():
            known = self._commits if split.startswith("scattered-") else self._reads
            if split not in known:
                known[split] = commit
                new.append(commit)
        return new


def todo_of(config: Input, sources: list[Source], folder: RunFolder) -> Todo:
    """Returns what is left of the run in the folder."""
    commits = folder.read_commits()
    if config.layout != "scattered":
        return Todo(sources, commits)
    files = list({source.file_index: source.file for source in sources}.values())
    return ScatteredTodo(sources, commits, partitions(files, config), folder)
