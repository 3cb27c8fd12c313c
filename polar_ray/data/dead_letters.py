"""Dead letters: input rows that cannot become (part of) a group, kept whole with the reason.

The reasons, which are also the keys of the statistics:

| stage | reason | what is wrong |
| --- | --- | --- |
| read | ``unreadable`` | the rest of a file, or all of it, cannot be decoded; one letter stands for it |
| read | ``unopened`` | a file, or the rest of it, is gone or may not be read; each split has one letter |
| read | ``line_too_long`` | a line of more bytes than ``input.max_line_bytes``; only its beginning is kept |
| parse | ``invalid_utf8`` | bytes that are not UTF-8 (another encoding, a damaged character) |
| parse | ``invalid_json`` | not one JSON value: cut line, trailing comma, two objects, raw control character |
| parse | ``byte_order_mark`` | U+FEFF before a line that is not the first of its file |
| parse | ``duplicate_key`` | an object has the same key twice, so one of the two values would be lost; in Parquet two \
columns, or fields of a struct, of one name |
| parse | ``nan_literal`` | ``NaN`` or ``Infinity``, which are not JSON |
| parse | ``lone_surrogate`` | an escape such as ``\\ud800`` without its other half, which is no character |
| parse | ``nested_too_deep`` | more nested lists and objects than a parser can follow |
| schema | ``not_an_object`` | a JSON value that is no object |
| schema | ``*_missing``, ``*_null``, ``*_empty``, ``*_type`` | what the part before the last ``_`` names (``prompt``, \
``candidates``, ``content``, ...) is not there, null, empty or of a wrong type |
| schema | ``reference_ambiguous`` | both the reference and the references column hold something |
| duplicate | ``duplicate_candidate_id`` | two candidates of a prompt share an id |
| duplicate | ``duplicate_prompt_id`` | the prompt_id was used before; the first row stays. With \
``input.layout: candidates`` it mostly means that a prompt's rows are not next to each other: set \
``input.layout: scattered`` |
| duplicate | ``duplicate_row`` | the same, and the rows are identical |
| conflict | ``conflicting_prompt`` | row-per-candidate layouts: same prompt_id as the first row, another prompt |
| conflict | ``conflicting_reference`` | likewise for the references |
"""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import pyarrow as pa

from polar_ray.terminal import printable

UNOPENED = "unopened"
"""The reason that a later attempt may do away with, although the file did not change."""

LINE_TOO_LONG = "line_too_long"

WIDTH = 200
"""Characters of the message of an example."""

DEAD_LETTER_SCHEMA = pa.schema(
    [
        # As listed: a URL or an absolute local path.
        pa.field("file", pa.string()),
        # 0-based: the physical line of a JSONL file, the row of a Parquet file.
        pa.field("row", pa.int64()),
        pa.field("stage", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("message", pa.string()),
        # The line without its line end; a Parquet row as one JSON object.
        pa.field("raw", pa.large_binary()),
    ]
)


class BadRow(Exception):
    """A row cannot become (part of) a group.

    Attributes:
        stage: ``parse``, ``schema``, ``duplicate`` or ``conflict``.
        reason: A short stable name, the key of the statistics.
        message: What is wrong and where, for a person.
    """

    def __init__(self, stage: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class DeadLetter:
    """One row of ``DEAD_LETTER_SCHEMA``, without its file."""

    row: int
    stage: str
    reason: str
    message: str
    raw: bytes


def dead_letter_table(letters: Iterable[DeadLetter], file: str) -> pa.Table:
    """Returns the letters of one file as a table, sorted by row."""
    ordered = sorted(letters, key=lambda letter: letter.row)
    return pa.table(
        [
            pa.array([file] * len(ordered), pa.string()),
            pa.array([letter.row for letter in ordered], pa.int64()),
            pa.array([letter.stage for letter in ordered], pa.string()),
            pa.array([letter.reason for letter in ordered], pa.string()),
            pa.array([letter.message for letter in ordered], pa.string()),
            pa.array([letter.raw for letter in ordered], pa.large_binary()),
        ],
        schema=DEAD_LETTER_SCHEMA,
    )


class Example(msgspec.Struct, frozen=True):
    """One of the rows that became dead letters for the same reason, for a person."""

    file: str
    row: int
    message: str

    def __str__(self) -> str:
        """Returns the sentence that says where it is and what is wrong there, in one line."""
        return f"row {self.row} of {printable(self.file, lines=False)}: {self.message}"


def examples_of(letters: pa.Table) -> dict[str, Example]:
    """Returns the first of the dead letters of each reason."""
    found: dict[str, Example] = {}
    columns = (letters[name].to_pylist() for name in ("reason", "file", "row", "message"))
    for reason, file, row, message in zip(*columns, strict=True):
        if reason not in found:
            text = printable(" ".join(message.split()), lines=False)
            found[reason] = Example(file, row, text if len(text) <= WIDTH else f"{text[:WIDTH]} …")
    return found


def short(value: object) -> str:
    """Returns a value for a message: its text, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
