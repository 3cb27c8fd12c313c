"""Puts scores beside the groups they belong to."""

from collections.abc import Mapping

import pyarrow as pa

from polar_ray.deriving.columns import ScoreColumns
from polar_ray.deriving.rank import rank
from polar_ray.errors import ScoringError
from polar_ray.scorers.base import Scores


def score_table(groups: pa.Table, scores: Mapping[str, Scores]) -> pa.Table:
    """Returns the groups with the columns of every scorer, each a list aligned with ``candidates``.

    Args:
        groups: A table with ``GROUP_SCHEMA`` (and possibly more columns).
        scores: Flat scores of all candidates, by the scorer's name.

    Raises:
        ScoringError: There is not one score per candidate, or two columns would have the same name.
    """
    groups = groups.combine_chunks()
    candidates = groups.column("candidates").combine_chunks() if groups.num_rows else None
    offsets = pa.array([0], pa.int32()) if candidates is None else _offsets(candidates)
    count = offsets[-1].as_py()
    table = groups
    for name, score in scores.items():
        column = ScoreColumns(name)
        own = {
            "reward": score.reward,
            "rank": None,
            "status": score.status,
            "tokens": score.tokens,
            "truncated": score.truncated,
            "error": score.error,
        }
        for field, values in [*own.items(), *score.extras.items()]:
            if column(field) in table.column_names:
                raise ScoringError(
                    f"the score table has a column {column(field)} already, which scorer {name!r} would add; give what "
                    "the scorer adds another name in its extras"
                )
            if values is not None and len(values) != count:
                raise ScoringError(
                    f"there are {len(values)} values of {column(field)} for {count} candidates, so nobody can tell "
                    "whose they are. Please report this"
                )
            if values is None:
                lists = rank(table.column(column("reward")))
            else:
                lists = pa.ListArray.from_arrays(offsets, _flat(values))
            table = table.append_column(column(field), lists)
    return table


def _offsets(lists: pa.ListArray) -> pa.Array:
    """int32 offsets of a list array that start at 0, whatever it was sliced from."""
    offsets = lists.offsets
    return pa.compute.subtract(offsets, offsets[0])


def _flat(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
