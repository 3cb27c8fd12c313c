"""Parquet values as JSON text, for what is carried in ``extra`` and for dead letters.

A value without a form in JSON is converted: a timestamp, date or time to its ISO 8601 text, a duration to seconds,
a decimal to its exact text, bytes to base64, a map to a list of pairs, NaN and infinities to null. Everything else is
what the same value would be in a JSONL file: a float has the shortest text that gives the same double.
"""

import base64
import datetime
import decimal
import json
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from polar_ray.data.arrays import flat

_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True, default=lambda value: _convert(value)
)


def json_texts(column: pa.ChunkedArray | pa.Array) -> list[str]:
    """Returns the JSON text of each value of a column.

    Raises:
        UnicodeDecodeError: A string is not UTF-8.
    """
    return [_text(value) for value in flat(column).to_pylist()]


def object_texts(names: Sequence[str], columns: Sequence[pa.ChunkedArray | pa.Array]) -> list[str]:
    """Returns one JSON object per row of the columns, its keys sorted."""
    order = sorted(range(len(names)), key=lambda i: names[i])
    keys = [f"{_text(names[i])}:" for i in order]
    texts = [json_texts(columns[i]) for i in order]
    return [
        "{" + ",".join([key + text for key, text in zip(keys, row, strict=True)]) + "}"
        for row in zip(*texts, strict=True)
    ]


def row_lines(table: pa.Table) -> list[bytes]:
    """Returns each row as the bytes of one JSON object, in the table's order of columns.

    A string that is not UTF-8 keeps its bytes, so such a row is as unreadable as it would be in a JSONL file.
    """
    keys = [f"{_text(name)}:" for name in table.column_names]
    try:
        texts = [json_texts(column) for column in table.columns]
    except UnicodeDecodeError:
        texts = [[_text(_decoded(value)) for value in _as_bytes(column).to_pylist()] for column in table.columns]
    lines = (
        "{" + ",".join([key + text for key, text in zip(keys, row, strict=True)]) + "}"
        for row in zip(*texts, strict=True)
    )
    return [line.encode("utf-8", "surrogateescape") for line in lines] if keys else [b"{}"] * table.num_rows


def _text(value: Any) -> str:
    try:
        return _ENCODER.encode(value)
    except ValueError:
        return _ENCODER.encode(_finite(value))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _convert(value: Any) -> Any:
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def _as_bytes(column: pa.ChunkedArray) -> pa.Array:
    return flat(column).cast(_binary_type(column.type))


def _binary_type(type_: pa.DataType) -> pa.DataType:
    """Returns a type with bytes in the place of strings."""
    if pa.types.is_struct(type_):
        fields = [type_.field(i) for i in range(type_.num_fields)]
        return pa.struct([field.with_type(_binary_type(field.type)) for field in fields])
    if pa.types.is_list(type_):
        return pa.list_(type_.value_field.with_type(_binary_type(type_.value_type)))
    return pa.binary() if pa.types.is_string(type_) else type_


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return value
