"""Plain rows: the rows of a Parquet table that become groups, or candidates, by casting whole columns."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from polar_ray.data.arrays import flat, lists
from polar_ray.data.columns import (
    Mask,
    MessageColumn,
    TextColumn,
    id_column,
    labels_are_fine,
    list_column,
    message_column,
    reference_column,
    repeats_a_name,
    struct_fields,
    text_column,
)
from polar_ray.data.group import CANDIDATE, GROUP_SCHEMA
from polar_ray.data.parquet_json import object_texts
from polar_ray.data.rows import candidate_field_names, group_columns, shared_columns
from polar_ray.recipe.input import CandidateFields, Input


@dataclass(frozen=True)
class Plain:
    """Rows that are plainly fine.

    Attributes:
        groups: A table with ``GROUP_SCHEMA``; ids that are still to be derived are null.
        rows: int64 positions of these rows in the table that they come from.
    """

    groups: pa.Table
    rows: np.ndarray


@dataclass(frozen=True)
class _Candidates:
    array: pa.Array
    bad: Mask


@dataclass(frozen=True)
class _Shared:
    """The columns that every layout has."""

    prompt_id: pa.Array
    prompt: pa.ListArray
    references: pa.ListArray
    bad: Mask


def _none() -> Plain:
    """No rows. Not made once and for all: making a table loads pandas, which not all who read need."""
    return Plain(GROUP_SCHEMA.empty_table(), np.zeros(0, np.int64))


def plain_groups(table: pa.Table, config: Input) -> Plain:
    """Returns the plainly fine rows of the ``groups`` layout."""
    columns = _columns(table)
    if columns is None or config.columns.candidates not in columns:
        return _none()
    shared = _shared(columns, config, table.num_rows)
    listed = list_column(columns[config.columns.candidates])
    candidates = None if listed is None else _candidates(listed.values, config.candidate_fields)
    if shared is None or listed is None or candidates is None:
        return _none()
    bad = shared.bad | (listed.lengths == 0) | listed.rows_with(candidates.bad)
    if config.columns.labels in columns:
        doubtful = labels_are_fine(columns[config.columns.labels], config.candidate_fields.candidate_id)
        if doubtful is None:
            return _none()
        bad |= doubtful
    known = group_columns(config.columns)
    extra = _extra({name: column for name, column in columns.items() if name not in known}, table.num_rows)
    return _plain(shared, lists(listed.lengths, candidates.array), extra, bad)


def plain_candidates(table: pa.Table, config: Input) -> Plain:
    """Returns the plainly fine rows of a row-per-candidate layout, each as a group with one candidate."""
    columns = _columns(table)
    if columns is None:
        return _none()
    shared = _shared(columns, config, table.num_rows)
    known = shared_columns(config.columns)
    fields = {name: column for name, column in columns.items() if name not in known}
    candidates = _candidates_of(fields, config.candidate_fields, table.num_rows)
    if shared is None or candidates is None:
        return _none()
    one_each = lists(np.ones(table.num_rows, np.int64), candidates.array)
    return _plain(shared, one_each, pa.nulls(table.num_rows, pa.string()), shared.bad | candidates.bad)


def _plain(shared: _Shared, candidates: pa.ListArray, extra: pa.Array, bad: Mask) -> Plain:
    groups = pa.Table.from_arrays(
        [shared.prompt_id, shared.prompt, shared.references, candidates, extra], schema=GROUP_SCHEMA
    )
    rows = np.flatnonzero(~bad)
    return Plain(groups if len(rows) == len(bad) else groups.take(pa.array(rows)), rows)


def _columns(table: pa.Table) -> dict[str, pa.Array] | None:
    if len(set(table.column_names)) < table.num_columns or any(map(repeats_a_name, table.schema.types)):
        return None
    try:
        # Parquet readers do not check that a string is UTF-8.
        table.validate(full=True)
    except pa.ArrowInvalid:
        return None
    return {name: flat(table.column(name)) for name in table.column_names}


def _shared(columns: dict[str, pa.Array], config: Input, rows: int) -> _Shared | None:
    names = config.columns
    prompt_id: TextColumn | None = TextColumn(pa.nulls(rows, pa.string()), np.zeros(rows, bool))
    if names.prompt_id in columns:
        prompt_id = id_column(columns[names.prompt_id], null_is_fine=False)
    prompt: MessageColumn | None = None
    if names.prompt in columns:
        prompt = message_column(columns[names.prompt], "user")
    references = reference_column(columns.get(names.reference), columns.get(names.references), rows)
    if prompt_id is None or prompt is None or references is None:
        return None
    return _Shared(
        prompt_id.array,
        prompt.array,
        references.array,
        prompt_id.bad | prompt.bad | prompt.absent | references.bad,
    )


def _candidates(values: pa.Array, names: CandidateFields) -> _Candidates | None:
    """Returns the flattened values of the candidates column as an array of ``CANDIDATE``."""
    if pa.types.is_struct(values.type):
        candidates = _candidates_of(struct_fields(values), names, len(values))
        if candidates is None:
            return None
        return _Candidates(candidates.array, candidates.bad | values.is_null().to_numpy(zero_copy_only=False))
    if text_column(values) is None:
        return None
    return _candidates_of({names.messages: values}, names, len(values))


def _candidates_of(fields: dict[str, pa.Array], names: CandidateFields, rows: int) -> _Candidates | None:
    if names.messages not in fields:
        return None
    absent = pa.nulls(rows, pa.string())
    candidate_id = id_column(fields.get(names.candidate_id, absent), null_is_fine=True)
    messages = message_column(fields[names.messages], "assistant")
    model = text_column(fields.get(names.model, absent))
    if candidate_id is None or messages is None or model is None:
        return None
    known = candidate_field_names(names)
    extra = _extra({name: field for name, field in fields.items() if name not in known}, rows)
    array = pa.StructArray.from_arrays([candidate_id.array, messages.array, model, extra], fields=list(CANDIDATE))
    return _Candidates(array, candidate_id.bad | messages.bad | messages.absent)


def _extra(columns: dict[str, pa.Array], rows: int) -> pa.Array:
    if not columns:
        return pa.nulls(rows, pa.string())
    return pa.array(object_texts(list(columns), list(columns.values())), pa.string())
