"""Keeping scores: in a retry, groups that have their scores take them from the generation before.

After parsing, each group is looked up in the parent's score table by its ``prompt_id``. One that is there with all its
scores and the same content needs no model: its row travels beside the groups that are scored and joins them when the
split is written.
"""

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from polar_ray.data.group import GROUP_SCHEMA
from polar_ray.data.parts import decoding
from polar_ray.data.records import decode_record
from polar_ray.deriving.columns import ScoreColumns
from polar_ray.errors import RecipeChanged
from polar_ray.running.envelope import Envelope
from polar_ray.running.folder import RunFolder

KEPT, ROWS = "kept", "kept_rows"
"""Parts of an envelope: rows of the score table, and their int64 places among the split's groups."""
_GENERATION = "generation"
Origins = dict[int, list[str]]
"""The prompt_ids that were scored in a later generation than the first, by its number."""


@dataclass(frozen=True)
class Index:
    """Which part of the parent's score table holds a prompt; 12 bytes for each.

    Attributes:
        hashes: uint64 hashes of the prompt_ids, sorted.
        parts: int32 positions in ``splits``, aligned with ``hashes``.
        splits: The splits whose parts these are.
    """

    hashes: np.ndarray
    parts: np.ndarray
    splits: list[str]

    @staticmethod
    def of(folder: RunFolder, splits: list[str]) -> "Index":
        """Reads the prompt_ids of all parts."""
        with ThreadPoolExecutor(8) as pool:
            each = list(pool.map(lambda split: _hashes(_read(folder, split, ["prompt_id"])["prompt_id"]), splits))
        hashes = np.concatenate([np.zeros(0, np.uint64), *each])
        parts = np.repeat(np.arange(len(splits), dtype=np.int32), [len(part) for part in each])
        order = np.argsort(hashes, kind="stable")
        return Index(hashes[order], parts[order], splits)

    def splits_of(self, prompt_ids: pa.ChunkedArray) -> list[str]:
        """Returns the splits in whose parts any of the prompts may be."""
        wanted = _hashes(prompt_ids)
        first = np.searchsorted(self.hashes, wanted)
        last = np.searchsorted(self.hashes, wanted, side="right")
        found = {int(part) for start, stop in zip(first, last, strict=True) for part in self.parts[start:stop]}
        return [self.splits[part] for part in sorted(found)]


@dataclass(frozen=True)
class Keep:
    """Takes out the groups of a split that have their scores.

    Attributes:
        parent: The generation before.
        generation: The number of this one.
        failed: By scorer, the statuses that are worth another attempt.
        index: Where prompts are in the parent (a reference to an ``Index``), where splits are no longer the same.
    """

    parent: RunFolder
    generation: int
    failed: dict[str, frozenset[str]] = field(default_factory=dict)
    index: Any = None

    def __call__(self, envelope: Envelope) -> Envelope:
        """Returns the envelope with fewer groups, and the rows of the others in the part ``KEPT``."""
        if self.index is None:
            envelope = self._without_duplicates(envelope)
        groups = envelope.table("groups")
        there = self._scored(envelope.header.split_id, groups)
        if there is None:
            return envelope
        place = {prompt_id: row for row, prompt_id in enumerate(there["prompt_id"].to_pylist())}
        mine, theirs = [], []
        for row, prompt_id in enumerate(groups["prompt_id"].to_pylist()):
            other = place.get(prompt_id)
            if other is not None and _same(groups, row, there, other):
                mine.append(row)
                theirs.append(other)
        if not mine:
            return envelope
        scores = there.drop_columns(groups.column_names).take(theirs)
        kept = groups.take(mine)
        for name in scores.column_names:
            kept = kept.append_column(scores.field(name), scores[name])
        others = np.setdiff1d(np.arange(groups.num_rows), mine)
        return (
            envelope.with_table("groups", groups.take(others))
            .with_table(KEPT, kept)
            .with_bytes(ROWS, np.array(mine, np.int64).tobytes())
        )

    def _without_duplicates(self, envelope: Envelope) -> Envelope:
        """Takes out the groups that the parent found to be in another split already: they are dead letters again."""
        groups = envelope.table("groups")
        place = {where: row for row, where in enumerate(_places(groups, "input_file", "input_row"))}
        gone: set[int] = set()
        letters = [envelope.table("dead_letters")]
        split = envelope.header.split_id
        for path in (self.parent.dead_letters(split), self.parent.dead_letters(f"{split}-duplicates")):
            if not self.parent.storage.is_file(path):
                continue
            with decoding(path):
                table = self.parent.storage.read_with(path, pq.read_table)
            found = [
                (letter, place[where])
                for letter, (where, stage) in enumerate(
                    zip(_places(table, "file", "row"), table["stage"].to_pylist(), strict=True)
                )
                if stage == "duplicate" and where in place
            ]
            gone.update(row for _, row in found)
            letters.append(table.take(pa.array([letter for letter, _ in found], pa.int64())))
        if not gone:
            return envelope
        again = sum(table.num_rows for table in letters[1:])
        kept = np.setdiff1d(np.arange(groups.num_rows), sorted(gone))
        return (
            envelope.with_header(rows_in_groups=envelope.header.rows_in_groups - again)
            .with_table("groups", groups.take(kept))
            .with_table("dead_letters", pa.concat_tables(letters))
        )

    def _scored(self, split: str, groups: pa.Table) -> pa.Table | None:
        """The parent's rows that may be those of the groups and are fully scored; ``_GENERATION`` is a column more."""
        splits = [split] if self.index is None else ray.get(self.index).splits_of(groups["prompt_id"])
        tables = []
        for name in splits:
            if not self.parent.storage.is_file(self.parent.part(name)):
                continue
            table = _read(self.parent, name)
            origin = {prompt: number for number, ids in read_origins(self.parent, name).items() for prompt in ids}
            numbers = [origin.get(prompt, 1) for prompt in table["prompt_id"].to_pylist()]
            table = table.append_column(_GENERATION, pa.array(numbers, pa.int32()))
            tables.append(table.filter(pa.array(~has_status(table, self.failed))))
        return pa.concat_tables(tables) if tables else None


def with_kept(table: pa.Table, envelope: Envelope, generation: int) -> tuple[pa.Table, Origins]:
    """Puts the rows that were kept back among those that were scored.

    Args:
        table: The scored rows.
        envelope: From ``Keep``.
        generation: In which they were scored; 2 or later.

    Returns:
        The rows in the order of the input, and where they come from.

    Raises:
        RecipeChanged: The scorer of today writes other columns.
    """
    origins: Origins = defaultdict(list, {generation: table["prompt_id"].to_pylist()})
    if KEPT in envelope.parts:
        kept = envelope.table(KEPT)
        for prompt_id, number in zip(kept["prompt_id"].to_pylist(), kept[_GENERATION].to_pylist(), strict=True):
            if number > 1:
                origins[number].append(prompt_id)
        kept = kept.drop_columns([_GENERATION])
        if kept.column_names != table.column_names:
            other = sorted(set(kept.column_names) ^ set(table.column_names))
            raise RecipeChanged(
                f"the scorer writes other columns than in the generation before ({', '.join(other)}), so the two do "
                "not go into one table; score with it into another output.path"
            )
        rows = np.frombuffer(envelope.parts[ROWS], np.int64)
        places = np.concatenate([rows, np.setdiff1d(np.arange(len(rows) + table.num_rows), rows)])
        table = pa.concat_tables([kept.cast(table.schema), table]).take(np.argsort(places)).combine_chunks()
    return table, {number: ids for number, ids in origins.items() if ids}


def has_status(table: pa.Table, statuses: dict[str, frozenset[str]]) -> np.ndarray:
    """Returns a bool for each row of a score table: whether a candidate has one of the statuses from a scorer."""
    found = np.zeros(table.num_rows, bool)
    for name, wanted in statuses.items():
        column = table[ScoreColumns(name)("status")].combine_chunks()
        bad = pc.is_in(column.flatten(), pa.array(sorted(wanted), pa.string())).to_numpy(zero_copy_only=False)
        found[column.value_parent_indices().to_numpy()[bad]] = True
    return found


def origins_path(folder: RunFolder, split: str) -> str:
    """Returns the path of the record of where a split's rows come from."""
    return folder.join("_run", "origins", f"{split}.json")


def read_origins(folder: RunFolder, split: str) -> Origins:
    """Returns where a split's rows come from; those that are not in it were scored in the first generation."""
    path = origins_path(folder, split)
    storage = folder.storage
    return decode_record(storage.read_bytes(path), path, Origins) if storage.is_file(path) else {}


def rows_by_generation(folder: RunFolder, splits: Iterable[str]) -> dict[int, int]:
    """Returns how many rows of the score table were scored in each generation after the first."""
    recorded = {info.path.rsplit("/", 1)[-1].removesuffix(".json") for info in folder.storage.list(_origins(folder))}
    counts: dict[int, int] = defaultdict(int)
    for split in sorted(recorded.intersection(splits)):
        # Duplicates may have been taken out of the part since.
        there = pc.unique(_read(folder, split, ["prompt_id"])["prompt_id"])
        for number, ids in read_origins(folder, split).items():
            counts[number] += pc.sum(pc.is_in(pa.array(ids, pa.string()), there)).as_py() or 0
    return dict(counts)


def _origins(folder: RunFolder) -> str:
    return folder.join("_run", "origins")


def _read(folder: RunFolder, split: str, columns: list[str] | None = None) -> pa.Table:
    with decoding(folder.part(split)):
        return folder.storage.read_with(folder.part(split), lambda file: pq.read_table(file, columns=columns))


def _places(table: pa.Table, file: str, row: str) -> list[tuple[str, int]]:
    return list(zip(table[file].to_pylist(), table[row].to_pylist(), strict=True))


def _same(groups: pa.Table, row: int, others: pa.Table, other: int) -> bool:
    """Whether two rows hold the same group: everything that a scorer can see."""
    names = GROUP_SCHEMA.names
    mine, theirs = groups.select(names).slice(row, 1), others.select(names).slice(other, 1)
    return bool(mine.to_pylist() == theirs.to_pylist())


def _hashes(ids: pa.ChunkedArray) -> np.ndarray:
    return pd.util.hash_array(ids.to_numpy().astype(object), categorize=False)
