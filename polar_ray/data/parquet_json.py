"""Parquet values as JSON text, for what is carried in ``extra`` and for dead letters.

A value without a form in JSON is converted: a timestamp, date or time to its ISO 8601 text, a duration to seconds,
a decimal to its exact text, bytes to base64, a map to a list of pairs, NaN and infinities to null. Everything else is
what the same value would be in a JSONL file: a float has the shortest text that gives the same double.

Files hold more than Python's types do. A timestamp in a time zone that is not known here has its text in UTC. A date
outside of the years 1 to 9999 and a duration of more than 999,999,999 days is a text of the number that is stored and
its unit, such as ``"253402300800000000 us"``, which counts from 1970. A time of day of more than 24 hours is one of the
next day; where those are thousands of years, it is such a text, too. Nothing that a column may hold raises.
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


_NO_VALUE = (ArithmeticError, LookupError, ValueError, pa.ArrowException)
"""What pyarrow raises for what is no value of Python's types: a late year, a zone without a name, bytes that are no
text, two fields of one name."""


def json_texts(column: pa.ChunkedArray | pa.Array) -> list[str]:
    """Returns the JSON text of each value of a column.

    A byte of a string that is not UTF-8 is a lone surrogate (``surrogateescape``), and an object has a key twice where
    a struct has two fields of one name: so neither is passed over by who reads the text.
    """
    array = flat(column)
    try:
        return [_text(value) for value in array.to_pylist()]
    except _NO_VALUE:
        return [_scalar_text(scalar) for scalar in array]


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
    texts = [json_texts(column) for column in table.columns]
    lines = (
        "{" + ",".join([key + text for key, text in zip(keys, row, strict=True)]) + "}"
        for row in zip(*texts, strict=True)
    )
    return [line.encode("utf-8", "surrogateescape") for line in lines] if keys else [b"{}"] * table.num_rows


def _scalar_text(scalar: pa.Scalar) -> str:
    """Returns the JSON text of a value, of its parts where it is none as a whole."""
    try:
        return _text(scalar.as_py())
    except _NO_VALUE:
        pass
    type_ = scalar.type
    if pa.types.is_struct(type_):
        fields = sorted((type_.field(i).name, i) for i in range(type_.num_fields))
        return "{" + ",".join([f"{_text(name)}:{_scalar_text(scalar[i])}" for name, i in fields]) + "}"
    if pa.types.is_map(type_):
        pairs = [f"[{_scalar_text(pair[0])},{_scalar_text(pair[1])}]" for pair in scalar.values]
        return f"[{','.join(pairs)}]"
    if pa.types.is_temporal(type_):
        return _time_text(scalar)
    if isinstance(scalar, pa.StringScalar | pa.LargeStringScalar | pa.StringViewScalar):
        return _text(scalar.as_buffer().to_pybytes().decode("utf-8", "surrogateescape"))
    if isinstance(scalar, pa.DictionaryScalar | pa.ExtensionScalar):
        return _scalar_text(scalar.value)
    return f"[{','.join([_scalar_text(item) for item in scalar.values])}]"


def _time_text(scalar: pa.Scalar) -> str:
    type_ = scalar.type
    if pa.types.is_timestamp(type_) and type_.tz not in (None, "UTC"):
        return _scalar_text(scalar.cast(pa.timestamp(type_.unit, "UTC")))
    if pa.types.is_date(type_):
        return _text(f"{scalar.value} {'ms' if pa.types.is_date64(type_) else 'days'}")
    return _text(f"{scalar.value} {type_.unit}")


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
