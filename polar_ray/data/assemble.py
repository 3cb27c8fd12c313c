"""Assembling: from candidates that stand next to each other to groups.

The first row of a prompt says what its prompt and references are. A later row that says otherwise is left over, as
is one that repeats a candidate id.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from polar_ray.data.arrays import flat, lists
from polar_ray.data.dead_letters import short
from polar_ray.data.group import CANDIDATE, GROUP_SCHEMA
from polar_ray.data.ids import message_hashes, reference_hashes, repeats, with_candidate_ids, with_prompt_ids


@dataclass(frozen=True)
class LeftOver:
    """A row that is in no group.

    Attributes:
        position: Of the row in the table that was assembled.
        first: Position of the row that it repeats or contradicts.
    """

    position: int
    first: int
    stage: str
    reason: str
    message: str


@dataclass(frozen=True)
class Assembled:
    """Groups, and the rows that are in none of them.

    Attributes:
        groups: A table with ``GROUP_SCHEMA``.
        first: int64 position of each group's first row.
        sizes: int64 number of rows that each group is made of.
        left_over: In the order of the rows.
    """

    groups: pa.Table
    first: np.ndarray
    sizes: np.ndarray
    left_over: list[LeftOver]


def row_keys(rows: pa.Table) -> pa.Array:
    """Returns what tells the rows of one prompt from those of another: the prompt_id, else a hash of the prompt."""
    prompt_ids = flat(rows["prompt_id"])
    if not prompt_ids.null_count:
        return prompt_ids
    hashes = [digest.hex() for digest in message_hashes(flat(rows["prompt"]))]
    # The prefix keeps a hash apart from an id that looks like one.
    return pa.compute.coalesce(prompt_ids, pa.array([f"\0{digest}" for digest in hashes], pa.string()))


def assemble_groups(rows: pa.Table, keys: pa.Array) -> Assembled:
    """Makes groups of rows that are next to each other and have the same key.

    Args:
        rows: A table with ``GROUP_SCHEMA``, one candidate per row.
        keys: string, from ``row_keys``.
    """
    rows = rows.combine_chunks()
    left_over: list[LeftOver] = []
    kept = np.arange(rows.num_rows)
    for find in (_repeated_prompts, _conflicts):
        found = find(rows.take(pa.array(kept)), keys.take(pa.array(kept)), kept)
        left_over.extend(found)
        kept = np.setdiff1d(kept, [item.position for item in found])
    rows, keys = rows.take(pa.array(kept)), keys.take(pa.array(kept))
    fields = dict(zip(CANDIDATE.names, flat(rows["candidates"]).flatten().flatten(), strict=True))
    runs = _runs(keys)
    fields["candidate_id"] = with_candidate_ids(fields["candidate_id"], fields["messages"], runs)
    candidates = pa.StructArray.from_arrays(list(fields.values()), fields=list(CANDIDATE))
    again, origin = repeats(runs, fields["candidate_id"])
    for position, first in zip(again.tolist(), origin.tolist(), strict=True):
        same = candidates[position] == candidates[first]
        reason = "duplicate_row" if same else "duplicate_candidate_id"
        message = f"candidate id {short(fields['candidate_id'][position].as_py())} was used before for this prompt"
        left_over.append(LeftOver(int(kept[position]), int(kept[first]), "duplicate", reason, message))
    keep = np.setdiff1d(np.arange(len(kept)), again)
    first = keep[np.flatnonzero(np.diff(runs[keep], prepend=-1))]
    sizes = np.diff(np.append(np.searchsorted(keep, first), len(keep)))
    heads = rows.take(pa.array(first)).combine_chunks()
    groups = pa.Table.from_arrays(
        [
            with_prompt_ids(flat(heads["prompt_id"]), flat(heads["prompt"]), flat(heads["references"])),
            heads["prompt"],
            heads["references"],
            lists(sizes, candidates.take(pa.array(keep))),
            heads["extra"],
        ],
        schema=GROUP_SCHEMA,
    )
    left_over.sort(key=lambda item: item.position)
    return Assembled(groups, kept[first], sizes, left_over)


def _repeated_prompts(rows: pa.Table, keys: pa.Array, positions: np.ndarray) -> list[LeftOver]:
    """Finds rows of a prompt whose other rows ended earlier."""
    runs = _runs(keys)
    starts = np.flatnonzero(np.diff(runs, prepend=-1))
    again, origin = repeats(np.zeros(len(starts), np.int64), keys.take(pa.array(starts)))
    first_of = dict(zip(again.tolist(), origin.tolist(), strict=True))
    message = "the prompt's other rows stand apart from this one; use input.layout: scattered to bring them together"
    return [
        LeftOver(
            int(positions[row]), int(positions[starts[first_of[run]]]), "duplicate", "duplicate_prompt_id", message
        )
        for row, run in enumerate(runs.tolist())
        if run in first_of
    ]


def _conflicts(rows: pa.Table, keys: pa.Array, positions: np.ndarray) -> list[LeftOver]:
    """Finds rows whose prompt or references are not those of the prompt's first row."""
    prompts = message_hashes(flat(rows["prompt"]))
    references = reference_hashes(flat(rows["references"]))
    found = []
    first, last_run = 0, -1
    for row, run in enumerate(_runs(keys).tolist()):
        if run != last_run:
            first, last_run = row, run
        for what, hashes in (("prompt", prompts), ("reference", references)):
            if hashes[row] != hashes[first]:
                message = f"the {what} is not that of the first row with this prompt_id"
                place, origin = int(positions[row]), int(positions[first])
                found.append(LeftOver(place, origin, "conflict", f"conflicting_{what}", message))
                break
    return found


def _runs(keys: pa.Array) -> np.ndarray:
    """Returns int64 numbers from 0 that grow by one wherever a key differs from the one before."""
    codes = keys.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    changes = np.diff(codes, prepend=codes[:1]) != 0
    return np.cumsum(changes).astype(np.int64)
