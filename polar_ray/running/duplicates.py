"""Finds prompts that occur in several splits, after all splits are there.

Inside a split, parsing sees duplicates. Across splits nobody does, since splits are read apart. So when every split
is committed, the ``prompt_id`` columns of the parts are compared, and of each repeated prompt the first group in the
order of the input stays. The others move to the dead letters. Memory is bounded: ids are compared as 64-bit hashes,
a few million at a time, and strings are looked at only where hashes agree.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from polar_ray.data.dead_letters import DEAD_LETTER_SCHEMA, examples_of
from polar_ray.data.group import GROUP_SCHEMA, table_to_groups
from polar_ray.data.parts import decoding
from polar_ray.deriving.columns import ScoreColumns
from polar_ray.errors import ConservationError
from polar_ray.running.commit import parquet_bytes, value_counts
from polar_ray.running.folder import Commit, Removal, RunFolder

HASHES_AT_ONCE = 4_000_000


def remove_duplicates(folder: RunFolder, commits: list[Commit], *, row_per_candidate: bool) -> list[Removal]:
    """Moves repeated prompts from the score table to the dead letters and returns what was removed, by part.

    A dead letter stands for one input row, so a layout with a row per candidate gets one for each candidate.

    Safe to interrupt: dead letters are written first, then the record, then the shortened part, and each step gives
    the same bytes when it is done again.
    """
    ordered = sorted(commits, key=lambda commit: (commit.file_index, commit.split_index))
    ordered = [commit for commit in ordered if commit.groups]
    removals: dict[str, Removal] = folder.read_records("duplicates", Removal)
    repeated: dict[int, dict[int, tuple[int, int]]] = defaultdict(dict)
    passes = -(-sum(commit.groups for commit in ordered) // HASHES_AT_ONCE)
    for residue in range(passes):
        for (part, row), first in _repeats(folder, ordered, residue, passes):
            repeated[part][row] = first
    # The last part first: a first occurrence lies in an earlier part, at a row that holds while that part is whole.
    for part, rows in sorted(repeated.items(), reverse=True):
        removals[ordered[part].split_id] = _remove(folder, ordered, part, rows, row_per_candidate)
    return list(removals.values())


def check_removed(folder: RunFolder, commits: list[Commit]) -> None:
    """Makes sure that parts are as short as the removal of duplicates left them.

    Raises:
        ConservationError: A writer that was thought dead wrote a part once more, as it was before.
    """
    removals: dict[str, Removal] = folder.read_records("duplicates", Removal)
    if not removals:
        return
    sizes = {info.path: info.size for info in folder.storage.list(folder.join("scores"))}
    left = {
        commit.split_id: commit.part_bytes - removals[commit.split_id].part_bytes
        for commit in commits
        if commit.split_id in removals
    }
    if again := [split for split, size in left.items() if sizes.get(folder.part(split)) != size]:
        raise ConservationError(
            f"{folder.part(again[0])} and {len(again) - 1} more were written again after duplicates were taken out of "
            "them, by a process of an earlier attempt; the run is not marked as finished. Run the same command again"
        )


def _repeats(
    folder: RunFolder, commits: list[Commit], residue: int, passes: int
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yields ((part, row), (part, row) of the first occurrence) for ids whose hash leaves ``residue``."""
    hashes, parts, rows = [], [], []

    def read(commit: Commit) -> np.ndarray:
        return _hashes(_ids(folder, commit))

    with ThreadPoolExecutor(8) as pool:
        for part, part_hashes in enumerate(pool.map(read, commits)):
            chosen = np.flatnonzero(part_hashes % np.uint64(passes) == residue)
            hashes.append(part_hashes[chosen])
            rows.append(chosen)
            parts.append(np.full(len(chosen), part))
    all_hashes, all_parts, all_rows = map(np.concatenate, (hashes, parts, rows))
    order = np.argsort(all_hashes, kind="stable")
    same = np.flatnonzero(all_hashes[order][1:] == all_hashes[order][:-1])
    suspects = np.unique(np.concatenate([order[same], order[same + 1]])) if len(same) else np.empty(0, np.int64)
    first: dict[str, tuple[int, int]] = {}
    ids: dict[int, pa.ChunkedArray] = {}
    for index in suspects:  # in the order of the input, so the first one met is the one that stays
        place = (int(all_parts[index]), int(all_rows[index]))
        if place[0] not in ids:
            ids[place[0]] = _ids(folder, commits[place[0]])
        prompt_id = ids[place[0]][place[1]].as_py()
        if first.setdefault(prompt_id, place) != place:
            yield place, first[prompt_id]


def _ids(folder: RunFolder, commit: Commit) -> pa.ChunkedArray:
    path = folder.part(commit.split_id)
    with decoding(path):
        table = folder.storage.read_with(path, lambda file: pq.read_table(file, columns=["prompt_id"]))
    return table.column("prompt_id")


def _hashes(ids: pa.ChunkedArray) -> np.ndarray:
    return pd.util.hash_array(ids.to_numpy().astype(object), categorize=False)


def _remove(
    folder: RunFolder, commits: list[Commit], part: int, rows: dict[int, tuple[int, int]], row_per_candidate: bool
) -> Removal:
    """Takes ``rows`` (row → place of the first occurrence) out of one part."""
    commit = commits[part]
    storage = folder.storage
    table = _table(folder, commit)
    gone = table.take(sorted(rows))
    # Repeats mostly come in the order of their firsts, so few parts need to be held.
    table_of = lru_cache(maxsize=4)(lambda part: _table(folder, commits[part]))
    letters: list[dict[str, Any]] = []
    for row, group in zip(sorted(rows), table_to_groups(gone), strict=True):
        first_part, first_row = rows[row]
        first = table_of(first_part).slice(first_row, 1)
        identical = first.select(GROUP_SCHEMA.names).equals(table.slice(row, 1).select(GROUP_SCHEMA.names))
        letter = {
            "file": table.column("input_file")[row].as_py(),
            "row": table.column("input_row")[row].as_py(),
            "stage": "duplicate",
            "reason": "duplicate_row" if identical else "duplicate_prompt_id",
            "message": f"prompt_id {group.prompt_id[:200]!r} is taken by row {first.column('input_row')[0]} of "
            f"{first.column('input_file')[0]}",
        }
        if row_per_candidate:
            alone = [msgspec.structs.replace(group, candidates=(candidate,)) for candidate in group.candidates]
        else:
            alone = [group]
        letters += [{**letter, "raw": msgspec.json.encode(lost)} for lost in alone]
    lost_rows = pa.Table.from_pylist(letters, schema=DEAD_LETTER_SCHEMA)
    storage.write_atomic(folder.dead_letters(f"{commit.split_id}-duplicates"), parquet_bytes(lost_rows))

    keep = np.ones(table.num_rows, bool)
    keep[list(rows)] = False
    shortened = parquet_bytes(table.filter(pa.array(keep)))

    def scored(name: str, field: str) -> pa.ChunkedArray:
        return pc.list_flatten(gone.column(ScoreColumns(name)(field)))

    removal = Removal(
        groups=gone.num_rows,
        candidates=pc.sum(pc.list_value_length(gone.column("candidates"))).as_py(),
        dead_letters=dict(Counter(letter["reason"] for letter in letters)),
        statuses={name: value_counts(scored(name, "status")) for name in commit.statuses},
        tokens={name: pc.sum(scored(name, "tokens")).as_py() or 0 for name in commit.statuses},
        part_bytes=commit.part_bytes - len(shortened),
        examples=examples_of(lost_rows),
    )
    storage.write_atomic(folder.join("_run", "duplicates", f"{commit.split_id}.json"), msgspec.json.encode(removal))
    storage.write_atomic(folder.part(commit.split_id), shortened)
    return removal


def _table(folder: RunFolder, commit: Commit) -> pa.Table:
    path = folder.part(commit.split_id)
    with decoding(path):
        return folder.storage.read_with(path, pq.read_table)
