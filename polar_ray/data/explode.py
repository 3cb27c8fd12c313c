"""Exploding: from one row per group to one row per candidate."""

import numpy as np
import pyarrow as pa

from polar_ray.data.arrays import flat, lengths_of
from polar_ray.data.group import GROUP_SCHEMA

CANDIDATE_COLUMNS = {
    "candidate_id": "candidate_id",
    "messages": "messages",
    "model": "model",
    "extra": "candidate_extra",
}
"""Fields of a candidate and the columns that they become."""


def explode(table: pa.Table) -> pa.Table:
    """Returns a score table with one row per candidate, in the order of the groups and their candidates.

    Args:
        table: Has ``candidates``; further list columns that are as long as ``candidates`` in every row (rewards,
            ranks, ...) are taken apart with it. Everything else is repeated for each candidate of its group.

    Returns:
        The same columns, with ``candidates`` replaced by ``candidate_id``, ``messages``, ``model`` and
        ``candidate_extra``.

    Example:
        >>> exploded = explode(read_scores("out/demo"))
        >>> exploded.select(["prompt_id", "candidate_id", "reward", "rank"]).to_pandas()
    """
    sizes = [lengths_of(batch.column("candidates")) for batch in table.to_batches()]
    aligned = [
        name for name in table.column_names if name not in GROUP_SCHEMA.names and _is_aligned(table, name, sizes)
    ]
    batches = [_explode(pa.Table.from_batches([batch]), aligned) for batch in table.to_batches()]
    return pa.concat_tables(batches) if batches else _explode(table.schema.empty_table(), aligned)


def _explode(table: pa.Table, aligned: list[str]) -> pa.Table:
    sizes = lengths_of(flat(table.column("candidates")))
    groups = pa.array(np.repeat(np.arange(table.num_rows), sizes))
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for name in table.column_names:
        column = flat(table.column(name))
        if name == "candidates":
            candidates = column.flatten()
            for field, values in zip(candidates.type, candidates.flatten(), strict=True):
                columns[CANDIDATE_COLUMNS[field.name]] = values
        elif name in aligned:
            columns[name] = column.flatten()
        else:
            columns[name] = column.take(groups)
    return pa.table(columns)


def _is_aligned(table: pa.Table, name: str, sizes: list[np.ndarray]) -> bool:
    type_ = table.schema.field(name).type
    if not (pa.types.is_list(type_) or pa.types.is_large_list(type_)):
        return False
    columns = (batch.column(name) for batch in table.to_batches())
    return all(np.array_equal(lengths_of(column), size) for column, size in zip(columns, sizes, strict=True))
