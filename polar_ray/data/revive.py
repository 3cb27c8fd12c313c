"""Reviving: whether a row that was a dead letter would become a group today."""

import pyarrow as pa

from polar_ray.data.dead_letters import BadRow
from polar_ray.data.normalize import without_mark
from polar_ray.data.rows import RowReader
from polar_ray.data.strict_json import decode_object
from polar_ray.recipe.input import Input

_OF_THE_ROW = ("parse", "schema")
"""Stages that look at one row alone. What the others found depends on other rows, or on the file."""


def revives(letters: pa.Table, config: Input) -> bool:
    """Whether any row of a table with ``DEAD_LETTER_SCHEMA`` is read without complaint by this version of polar_ray."""
    reader = RowReader(config)
    read = reader.group if config.layout == "groups" else reader.candidate
    columns = [letters[name].to_pylist() for name in ("stage", "row", "raw")]
    for stage, row, raw in zip(*columns, strict=True):
        if stage not in _OF_THE_ROW:
            continue
        try:
            read(decode_object(without_mark(raw, row)))
        except BadRow:
            continue
        return True
    return False
