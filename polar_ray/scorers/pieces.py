"""Pieces of tables of groups and of their scores: taking some out, making up for others, joining them."""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from polar_ray.data.status import Status
from polar_ray.scorers.base import Scores


def take_groups(
    groups: pa.Table, encoded: pa.Table | None, rows: Sequence[int] | np.ndarray
) -> tuple[pa.Table, pa.Table | None]:
    """Returns the given rows of a table of groups, in order, with what was encoded for them."""
    if encoded is None:
        return groups.take(rows), None
    new_row = np.full(groups.num_rows, -1, np.int32)
    new_row[rows] = np.arange(len(rows), dtype=np.int32)
    group = new_row[encoded.column("group").to_numpy()]
    kept = encoded.filter(pa.array(group >= 0))
    index = encoded.schema.get_field_index("group")
    return groups.take(rows), kept.set_column(index, "group", pa.array(group[group >= 0], pa.int32()))


def unscored(size: int, status: Status, error: str | None, extras: Iterable[str]) -> Scores:
    """Returns ``size`` scores without a reward."""
    return Scores(
        reward=pa.nulls(size, pa.float32()),
        status=pa.repeat(pa.scalar(status.value, pa.string()), size),
        tokens=pa.nulls(size, pa.int32()),
        error=pa.repeat(pa.scalar(error, pa.string()), size),
        extras={name: pa.nulls(size, pa.float32()) for name in extras},
    )


def concat(scores: list[Scores], order: np.ndarray | None = None) -> Scores:
    """Returns scores one after the other, or in the given order of positions."""

    def joined(arrays: list[pa.Array]) -> pa.Array:
        flat = pa.chunked_array(arrays, arrays[0].type).combine_chunks()
        flat = flat if isinstance(flat, pa.Array) else pa.concat_arrays(flat.chunks)
        return flat if order is None else flat.take(pa.array(order))

    return Scores(
        reward=joined([part.reward for part in scores]),
        status=joined([part.status for part in scores]),
        tokens=joined([part.tokens for part in scores]),
        error=joined([part.error for part in scores]),
        extras={name: joined([part.extras[name] for part in scores]) for name in scores[0].extras},
    )
