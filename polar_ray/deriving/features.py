"""The types of a dataset's columns as a card's front matter tells them to ``datasets``.

Lines of JSON carry no types: a column that is null in the first lines, or a file without lines, would be guessed wrong.
The form is that of ``dataset_info.features`` in the cards of the Hugging Face Hub.
"""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa


def features(schema: pa.Schema) -> list[dict[str, Any]] | None:
    """Returns one entry per column, its name and its type; None where one has a type of which lines hold the text."""
    try:
        return _fields(schema)
    except KeyError:
        return None


def _fields(fields: Iterable[pa.Field]) -> list[dict[str, Any]]:
    return [{"name": field.name, **_feature(field.type)} for field in fields]


def _feature(type: pa.DataType) -> dict[str, Any]:
    if pa.types.is_struct(type):
        return {"struct": _fields(type)}
    if pa.types.is_list(type) or pa.types.is_large_list(type):
        inner = _feature(type.value_type)
        # A list of plain values names their type, one of structs names their fields, any other nests.
        return {"list": inner.get("dtype", inner.get("struct", inner))}
    return {"dtype": _NAMES[type]}


_NAMES = {
    pa.string(): "string",
    pa.large_string(): "large_string",
    pa.bool_(): "bool",
    pa.int8(): "int8",
    pa.int16(): "int16",
    pa.int32(): "int32",
    pa.int64(): "int64",
    pa.float32(): "float32",
    pa.float64(): "float64",
    pa.null(): "null",
}
