"""Columns: well-typed Parquet columns to canonical ones without touching a value in Python.

Each function also says which rows are not plainly fine; those are read one by one by ``RowReader``, which alone
decides what is a dead letter. A column of another type gives None: then all rows are read one by one.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.data.arrays import lengths_of, lists
from polar_ray.data.group import MESSAGE, MESSAGES

Mask = np.ndarray
"""bool, one per row."""


@dataclass(frozen=True)
class TextColumn:
    """string values, and where they need a closer look."""

    array: pa.Array
    bad: Mask


@dataclass(frozen=True)
class MessageColumn:
    """``MESSAGES`` without nulls, where there are none at all, and where they need a closer look."""

    array: pa.ListArray
    absent: Mask
    bad: Mask


@dataclass(frozen=True)
class ListColumn:
    """The flattened values of a column of lists, and the row that each value belongs to."""

    values: pa.Array
    lengths: np.ndarray
    parents: np.ndarray

    def rows_with(self, bad: Mask) -> Mask:
        """Returns which rows hold a value that is marked."""
        rows = np.zeros(len(self.lengths), bool)
        rows[self.parents[bad]] = True
        return rows


def text_column(array: pa.Array) -> pa.Array | None:
    """Returns strings of any encoding as plain strings."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    type_ = array.type
    if pa.types.is_string(type_):
        return array
    if pa.types.is_large_string(type_) or pa.types.is_string_view(type_) or pa.types.is_null(type_):
        return array.cast(pa.string())
    return None


def id_column(array: pa.Array, *, null_is_fine: bool) -> TextColumn | None:
    """Returns strings or integers as ids; blank ones, and nulls unless they are fine, are marked."""
    text = array.cast(pa.string()) if pa.types.is_integer(array.type) else text_column(array)
    if text is None:
        return None
    blank = pc.equal(pc.utf8_trim_whitespace(text), "").fill_null(not null_is_fine)
    return TextColumn(text, mask(blank))


def list_column(array: pa.Array) -> ListColumn | None:
    """Flattens lists; null is an empty list."""
    type_ = array.type
    if not (pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)):
        return None
    lengths = lengths_of(array)
    return ListColumn(array.flatten(), lengths, np.repeat(np.arange(len(lengths)), lengths))


def message_column(array: pa.Array, role: str) -> MessageColumn | None:
    """Returns strings (as one message each) or lists of messages; null and the empty list are absent."""
    text = text_column(array)
    if text is not None:
        absent = mask(text.is_null())
        roles = pa.repeat(pa.scalar(role), len(text))
        values = _message_values(roles, text)
        return MessageColumn(lists(np.ones(len(text), np.int64), values), absent, np.zeros(len(text), bool))
    column = list_column(array)
    if column is None or not pa.types.is_struct(column.values.type):
        return None
    fields = struct_fields(column.values)
    if "role" not in fields or "content" not in fields:
        return None
    roles, contents = text_column(fields.pop("role")), text_column(fields.pop("content"))
    if roles is None or contents is None:
        return None
    bad = mask(pc.or_(roles.is_null(), contents.is_null()))
    for field in fields.values():
        bad |= mask(field.is_valid())
    return MessageColumn(
        lists(column.lengths, _message_values(roles, contents)), column.lengths == 0, column.rows_with(bad)
    )


def reference_column(one: pa.Array | None, several: pa.Array | None, rows: int) -> MessageColumn | None:
    """Returns a list of references per row from the reference and the references column, where they are there.

    The array holds lists of ``MESSAGES``.
    """
    single = None if one is None else message_column(one, "assistant")
    column = None if several is None else _no_lists(several) or list_column(several)
    if (one is not None and single is None) or (several is not None and column is None):
        return None
    there = np.zeros(rows, bool) if single is None else ~single.absent
    if column is not None and column.lengths.any():
        many = message_column(column.values, "assistant")
        if many is None:
            return None
        bad = column.rows_with(many.bad | many.absent)
        if there.any():
            # Few inputs use both columns, so those rows are simply read one by one.
            bad |= there
        return MessageColumn(lists(column.lengths, many.array), column.lengths == 0, bad)
    if single is None:
        return MessageColumn(lists([0] * rows, pa.array([], MESSAGES)), ~there, np.zeros(rows, bool))
    return MessageColumn(lists(there.astype(np.int64), single.array.filter(pa.array(there))), single.absent, single.bad)


def labels_are_fine(array: pa.Array, id_field: str) -> Mask | None:
    """Returns which rows' labels need a closer look; None where the column's type does."""
    if pa.types.is_null(array.type):
        return np.zeros(len(array), bool)
    column = list_column(array)
    if column is None or not pa.types.is_struct(column.values.type):
        return None
    types = {field.name: field.type for field in column.values.type}
    for name, fits in (
        (id_field, lambda type_: _is_text(type_) or pa.types.is_integer(type_)),
        ("kind", _is_text),
        ("correct", pa.types.is_boolean),
        ("preference", _is_number),
        ("score", _is_number),
    ):
        if name in types and not pa.types.is_null(types[name]) and not fits(types[name]):
            return None
    return column.rows_with(mask(column.values.is_null()))


def struct_fields(array: pa.StructArray) -> dict[str, pa.Array]:
    """Returns the fields of a struct array, none of one name; a null struct has null fields."""
    names = [array.type.field(i).name for i in range(array.type.num_fields)]
    return dict(zip(names, array.flatten(), strict=True))


def repeats_a_name(type_: pa.DataType) -> bool:
    """Whether a struct anywhere in a type has two fields of one name."""
    if pa.types.is_struct(type_):
        fields = list(type_)
        return len({field.name for field in fields}) < len(fields) or any(
            repeats_a_name(field.type) for field in fields
        )
    if pa.types.is_map(type_):
        return repeats_a_name(type_.key_type) or repeats_a_name(type_.item_type)
    if isinstance(type_, pa.BaseExtensionType):
        return repeats_a_name(type_.storage_type)
    is_nested = pa.types.is_nested(type_) or pa.types.is_dictionary(type_)
    return is_nested and not pa.types.is_union(type_) and repeats_a_name(type_.value_type)


def mask(array: pa.Array) -> Mask:
    """Returns an Arrow bool array without nulls as a NumPy one that can be written to."""
    return np.array(array.to_numpy(zero_copy_only=False), bool)


def _message_values(roles: pa.Array, contents: pa.Array) -> pa.StructArray:
    return pa.StructArray.from_arrays([roles.fill_null(""), contents.fill_null("")], fields=list(MESSAGE))


def _no_lists(array: pa.Array) -> ListColumn | None:
    if array.null_count < len(array):
        return None
    return ListColumn(pa.array([], MESSAGES), np.zeros(len(array), np.int64), np.zeros(0, np.int64))


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))
