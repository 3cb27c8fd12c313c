"""Arrays: from rows in Python to the columns of a group table, flat list by flat list."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from polar_ray.data.group import CANDIDATE, GROUP_SCHEMA, MESSAGE
from polar_ray.data.rows import CandidateRow, GroupRow, Messages


def groups_table(rows: Sequence[GroupRow]) -> pa.Table:
    """Returns the rows with ``GROUP_SCHEMA``; ids that are still to be derived are null."""
    candidates = [candidate for row in rows for candidate in row.candidates]
    references = [reference for row in rows for reference in row.references]
    return pa.Table.from_arrays(
        [
            pa.array([row.prompt_id for row in rows], pa.string()),
            messages_array([row.prompt for row in rows]),
            lists([len(row.references) for row in rows], messages_array(references)),
            lists([len(row.candidates) for row in rows], candidates_array(candidates)),
            pa.array([row.extra for row in rows], pa.string()),
        ],
        schema=GROUP_SCHEMA,
    )


def candidates_array(candidates: Sequence[CandidateRow]) -> pa.StructArray:
    """Returns candidates as an array of ``CANDIDATE``; ids that are still to be derived are null."""
    return pa.StructArray.from_arrays(
        [
            pa.array([candidate.candidate_id for candidate in candidates], pa.string()),
            messages_array([candidate.messages for candidate in candidates]),
            pa.array([candidate.model for candidate in candidates], pa.string()),
            pa.array([candidate.extra for candidate in candidates], pa.string()),
        ],
        fields=list(CANDIDATE),
    )


def messages_array(rows: Sequence[Messages]) -> pa.ListArray:
    """Returns lists of messages as an array of ``MESSAGES``."""
    values = pa.StructArray.from_arrays(
        [
            pa.array([role for messages in rows for role, _ in messages], pa.string()),
            pa.array([content for messages in rows for _, content in messages], pa.string()),
        ],
        fields=list(MESSAGE),
    )
    return lists([len(messages) for messages in rows], values)


def lists(lengths: Sequence[int] | np.ndarray, values: pa.Array) -> pa.ListArray:
    """Returns a list array without nulls, from the length of each list and the values of all of them."""
    return pa.ListArray.from_arrays(pa.array(offsets(lengths), pa.int32()), values)


def offsets(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns int64 offsets, one more than there are lengths, from 0."""
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))])


def flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Returns a column as one array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def lengths_of(array: pa.ListArray) -> np.ndarray:
    """Returns int64 lengths of the lists; a null has length 0."""
    return np.asarray(array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False), np.int64)
