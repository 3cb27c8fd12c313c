"""Building and reading tables with ``ENCODED_SCHEMA`` without a Python object per id."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.data.status import Status
from polar_ray.scorers.base import ENCODED_SCHEMA

Ids = np.ndarray | Sequence[int]
"""int32 ids of a text, or of a few control tokens."""


@dataclass
class EncodedRows:
    """Collects the rows of an encoded table: each sequence as the parts that it is put together from."""

    _group: list[int] = field(default_factory=list)
    _candidate: list[int] = field(default_factory=list)
    _reference: list[int] = field(default_factory=list)
    _parts: list[Ids] = field(default_factory=list)
    _lengths: list[int | None] = field(default_factory=list)
    _status: list[str] = field(default_factory=list)
    _error: list[str | None] = field(default_factory=list)

    def add(
        self,
        group: int,
        candidate: int,
        parts: Sequence[Ids],
        *,
        reference: int = 0,
        status: Status = Status.OK,
    ) -> None:
        """Adds a sequence: its ids are the parts, one after the other."""
        self._place(group, candidate, reference, status, None)
        # numpy takes an empty list for floats.
        self._parts += [part for part in parts if len(part)]
        self._lengths.append(sum(map(len, parts)))

    def add_unscored(
        self, group: int, candidate: int, status: Status, error: str | None = None, *, reference: int = 0
    ) -> None:
        """Adds a row without ids; ``status`` says why."""
        self._place(group, candidate, reference, status, error)
        self._lengths.append(None)

    def _place(self, group: int, candidate: int, reference: int, status: Status, error: str | None) -> None:
        self._group.append(group)
        self._candidate.append(candidate)
        self._reference.append(reference)
        self._status.append(status.value)
        self._error.append(error)

    def table(self) -> pa.Table:
        """Returns the rows with ``ENCODED_SCHEMA``."""
        lengths = np.array([length or 0 for length in self._lengths], np.int64)
        offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
        values = np.empty(int(offsets[-1]), np.int32)
        if self._parts:
            np.concatenate(self._parts, out=values, casting="same_kind")
        nulls = np.array([length is None for length in self._lengths], bool)
        columns = [
            pa.array(self._group, pa.int32()),
            pa.array(self._candidate, pa.int32()),
            pa.array(self._reference, pa.int32()),
            pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), mask=pa.array(nulls)),
            pa.array(self._status, pa.string()),
            pa.array(self._error, pa.string()),
        ]
        return pa.table(columns, schema=ENCODED_SCHEMA)


def id_lists(encoded: pa.Table) -> list[np.ndarray | None]:
    """Returns the ids of each row as int32 views of the column, None where it is null."""
    views: list[np.ndarray | None] = []
    for chunk in encoded.column("ids").chunks:
        offsets = chunk.offsets.to_numpy()
        values = chunk.values.to_numpy(zero_copy_only=False)
        valid = chunk.is_valid().to_numpy(zero_copy_only=False)
        views += [
            values[start:end] if there else None
            for start, end, there in zip(offsets[:-1], offsets[1:], valid, strict=True)
        ]
    return views


def candidate_counts(groups: pa.Table) -> np.ndarray:
    """Returns int64 ``[groups]``: the number of candidates of each group."""
    counts: np.ndarray = pc.list_value_length(groups.column("candidates")).to_numpy().astype(np.int64)
    return counts
