"""Parsing: from a raw split to groups, dead letters and counts. Nothing is lost on the way, and nothing changed.

Every input row ends in exactly one place: in a group, as a dead letter, or as a declared drop (blank lines only).
What may be where is the table in ``rows``; the reasons of dead letters are the table in ``dead_letters``. What is
not an error, though it may look like one:

| input | what becomes of it |
| --- | --- |
| no ``prompt_id`` or candidate id | derived from the content (``ids``) |
| an integer as id | its decimal text |
| a prompt, reference or candidate as plain text; candidates as a list of strings | one message |
| one message without a role | ``user`` in a prompt, ``assistant`` elsewhere |
| unknown roles, odd orders of roles, a system message alone | kept; a chat template may refuse them later |
| content as OpenAI text parts | their texts joined without anything between them |
| ``content: null``, or none, beside ``tool_calls`` or another field that says something | an empty text |
| content with parts that are not text | the texts joined; all parts are carried in ``extra`` |
| ``reference`` missing, null or ``[]`` | no reference; an empty text is a reference |
| an empty prompt or candidate text, white space, control characters, any Unicode text | kept as it is |
| prompts that differ only in white space or Unicode form | different prompts |
| identical candidates under different ids | kept, all of them |
| a byte order mark at the start of a file, CRLF line ends, no final line end | read past |
| blank lines | dropped and counted (``blank_line``); they fill no split |
| labels that contradict each other or name no candidate | carried |
| unknown columns and fields; numbers of any length | carried in ``extra`` with the same digits |
| Parquet columns of types that JSON has not; dates that Python has not | carried as text (``parquet_json``) |
| a ``prompt_id`` used before, in the same split or another | the first row stays, later ones are dead letters |
| a candidate id used by two prompts | kept: it is unique within its prompt |
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.data.arrays import flat, lengths_of, lists
from polar_ray.data.assemble import assemble_groups, row_keys
from polar_ray.data.dead_letters import UNOPENED, DeadLetter, dead_letter_table, short
from polar_ray.data.group import CANDIDATE, GROUP_SCHEMA
from polar_ray.data.ids import repeats, with_candidate_ids, with_prompt_ids
from polar_ray.data.normalize import Normalized, RawRows, normalize
from polar_ray.data.raw_split import RawSplit
from polar_ray.data.scores import renamed, scorer_columns
from polar_ray.errors import InputError
from polar_ray.recipe.input import Input


@dataclass(frozen=True)
class ParsedSplit:
    """What became of a split's rows: ``rows == rows_in_groups + dead letters + sum of drops``.

    Attributes:
        groups: A table with ``GROUP_SCHEMA``, in the order of the input.
        dead_letters: A table with ``DEAD_LETTER_SCHEMA``, in the order of the input.
        rows: Input rows read; what could not be read at the end of a damaged file counts as one row.
        rows_in_groups: Input rows that became (part of) a group.
        drops: Rows dropped by declared policy, by reason.
        places: Aligned with ``groups``: ``input_file`` string, ``input_row`` int64 (0-based, the first row of the
            group), ``input_rows`` int64 (how many rows went into it).
        scores: Aligned with ``groups``: the columns of scores that the input has, where it is a score table.
    """

    groups: pa.Table
    dead_letters: pa.Table
    rows: int
    rows_in_groups: int
    drops: dict[str, int]
    places: pa.Table
    scores: pa.Table | None = None

    def groups_with_places(self) -> pa.Table:
        """Returns the groups with the columns of ``places``, and then of ``scores``, behind theirs."""
        tables = [self.groups, self.places, *([] if self.scores is None else [self.scores])]
        return pa.Table.from_arrays(
            [column for table in tables for column in table.columns],
            schema=pa.schema([field for table in tables for field in table.schema]),
        )


def parse_split(raw: RawSplit, config: Input) -> ParsedSplit:
    """Parses a split of the ``groups`` or the ``candidates`` layout.

    The result depends on the split and the recipe alone. A row that is wrong becomes a dead letter; nothing in the
    input makes this function raise.
    """
    assert config.layout != "scattered", "candidates that lie scattered are parsed by parse_candidate_rows"
    rows = RawRows(raw)
    if config.format == "scores":
        return _scored_groups(raw, rows.table, config.scorer_name)
    normalized = normalize(rows, config)
    made = _whole_groups(normalized, rows) if config.layout == "groups" else _assembled(normalized, rows)
    letters = [*normalized.letters, *made.letters, *unreadable(raw)]
    return ParsedSplit(
        groups=made.groups,
        dead_letters=dead_letter_table(letters, raw.file),
        rows=raw.rows + (raw.error is not None),
        rows_in_groups=int(made.input_rows.sum()),
        drops=dict(normalized.drops),
        places=places([raw.file] * made.groups.num_rows, made.first_rows, made.input_rows),
    )


def _scored_groups(raw: RawSplit, table: pa.Table, scorer_name: str | None) -> ParsedSplit:
    """Takes a part of a score table as it is; a scorer without a name gets one.

    Raises:
        InputError: The part is damaged, or its columns are not aligned. A run wrote it whole, so this is no row's
            fault.
    """
    if raw.error is not None:
        raise InputError(f"{raw.file} is a part of a score table, and damaged: {raw.error}; restore it from a copy")
    sizes = pc.list_value_length(table.column("candidates"))
    scores = {
        renamed(column, scorer, scorer_name if scorer_name is not None else scorer): table.column(column)
        for scorer, columns in scorer_columns(table.schema).items()
        for column in columns
    }
    for name, column in scores.items():
        if not pa.types.is_list(column.type) or not pc.list_value_length(column).equals(sizes):
            raise InputError(
                f"{raw.file} is a part of a score table in which {name} has not one value per candidate; restore it "
                "from a copy"
            )
    input_rows = pa.array(np.ones(table.num_rows, np.int64))
    return ParsedSplit(
        groups=table.select(GROUP_SCHEMA.names).cast(GROUP_SCHEMA),
        dead_letters=dead_letter_table([], raw.file),
        rows=raw.rows,
        rows_in_groups=raw.rows,
        drops={},
        places=table.select(["input_file", "input_row"]).append_column("input_rows", input_rows),
        scores=pa.table(scores),
    )


def places(files: list[str], first_rows: np.ndarray, input_rows: np.ndarray) -> pa.Table:
    """Returns the table of where groups come from."""
    return pa.table(
        {
            "input_file": pa.array(files, pa.string()),
            "input_row": pa.array(first_rows, pa.int64()),
            "input_rows": pa.array(input_rows, pa.int64()),
        }
    )


def unreadable(raw: RawSplit) -> list[DeadLetter]:
    """Returns the dead letter that stands for what could not be read, if there is such."""
    if raw.error is None:
        return []
    reason = UNOPENED if raw.unopened else "unreadable"
    return [DeadLetter(raw.row_start + raw.rows, "read", reason, raw.error, raw.tail)]


@dataclass(frozen=True)
class _Made:
    groups: pa.Table
    first_rows: np.ndarray
    input_rows: np.ndarray
    letters: list[DeadLetter]


def _assembled(normalized: Normalized, rows: RawRows) -> _Made:
    numbers = normalized.rows
    made = assemble_groups(normalized.groups, row_keys(normalized.groups))
    letters = [
        DeadLetter(
            row := int(numbers[item.position]),
            item.stage,
            item.reason,
            f"{item.message} (first row: {numbers[item.first]})",
            rows.line(row),
        )
        for item in made.left_over
    ]
    return _Made(made.groups, numbers[made.first], made.sizes, letters)


def _whole_groups(normalized: Normalized, rows: RawRows) -> _Made:
    """Derives ids and takes out the rows that repeat one."""
    groups, numbers = normalized.groups.combine_chunks(), normalized.rows
    letters: dict[int, DeadLetter] = {}
    listed = flat(groups["candidates"])
    sizes = lengths_of(listed)
    parents = np.repeat(np.arange(len(sizes)), sizes)
    fields = dict(zip(CANDIDATE.names, listed.flatten().flatten(), strict=True))
    fields["candidate_id"] = with_candidate_ids(fields["candidate_id"], fields["messages"], parents)
    again, _ = repeats(parents, fields["candidate_id"])
    for position in again.tolist():
        row = int(numbers[parents[position]])
        name = fields["candidate_id"][position].as_py()
        message = f"two candidates have the id {short(name)}"
        letters.setdefault(row, DeadLetter(row, "duplicate", "duplicate_candidate_id", message, rows.line(row)))
    keep = ~np.isin(numbers, list(letters))
    # Only a row that becomes a group takes its prompt_id, so repeats are looked for among the others.
    kept = np.flatnonzero(keep)
    prompt_ids = with_prompt_ids(flat(groups["prompt_id"]), flat(groups["prompt"]), flat(groups["references"]))
    again, first = repeats(np.zeros(len(kept), np.int64), prompt_ids.take(pa.array(kept)))
    for position, origin in zip(again.tolist(), first.tolist(), strict=True):
        row, first_row = int(numbers[kept[position]]), int(numbers[kept[origin]])
        line = rows.line(row)
        reason = "duplicate_row" if line == rows.line(first_row) else "duplicate_prompt_id"
        message = f"prompt_id {short(prompt_ids[kept[position]].as_py())} was used before, in row {first_row}"
        letters[row] = DeadLetter(row, "duplicate", reason, message, line)
        keep[kept[position]] = False
    candidates = lists(sizes, pa.StructArray.from_arrays(list(fields.values()), fields=list(CANDIDATE)))
    groups = groups.set_column(0, GROUP_SCHEMA.field("prompt_id"), prompt_ids)
    groups = groups.set_column(3, GROUP_SCHEMA.field("candidates"), candidates)
    if not keep.all():
        groups = groups.filter(pa.array(keep))
    numbers = numbers[keep]
    return _Made(groups, numbers, np.ones(len(numbers), np.int64), list(letters.values()))
