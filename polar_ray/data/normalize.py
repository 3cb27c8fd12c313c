"""Normalising: from a raw split, of whatever format, to groups with canonical columns.

Well-typed Parquet columns are cast as a whole. Everything else, JSONL and the Parquet rows that are not plainly fine
(as JSON), goes through ``RowReader`` row by row; so a row means the same in both formats.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

from polar_ray.data.arrays import groups_table
from polar_ray.data.dead_letters import LINE_TOO_LONG, BadRow, DeadLetter
from polar_ray.data.group import GROUP_SCHEMA
from polar_ray.data.parquet_json import row_lines
from polar_ray.data.plain import plain_candidates, plain_groups
from polar_ray.data.raw_split import RawSplit
from polar_ray.data.rows import GroupRow, RowReader
from polar_ray.data.strict_json import Json, decode_object
from polar_ray.recipe.input import Input

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLANK_LINE = "blank_line"
"""Key of the drops: a JSONL line with nothing but white space."""


@dataclass(frozen=True)
class Normalized:
    """A split's rows with canonical columns, in their order.

    Attributes:
        groups: A table with ``GROUP_SCHEMA``; ids that are still to be derived are null. In the row-per-candidate
            layouts each row is a group with one candidate.
        rows: int64 row number in the file of each group.
        letters: The rows that are none of these.
        drops: Rows dropped by declared policy, by reason.
    """

    groups: pa.Table
    rows: np.ndarray
    letters: list[DeadLetter] = field(default_factory=list)
    drops: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class RawRows:
    """The rows of a raw split as bytes, one at a time."""

    raw: RawSplit

    @cached_property
    def table(self) -> pa.Table:
        """The rows of a Parquet split."""
        with pa.ipc.open_stream(self.raw.payload) as reader:
            return reader.read_all()

    def line(self, row: int) -> bytes:
        """Returns a row of the file, by its number: a line without its end, or a Parquet row as JSON."""
        if self.raw.kind == "arrow":
            return row_lines(self.table.slice(row - self.raw.row_start, 1))[0]
        return self._line(int(np.searchsorted(self.raw.numbers, row)))

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yields the lines with their numbers, without their ends."""
        for position, row in enumerate(self.raw.numbers.tolist()):
            yield row, self._line(position)

    def _line(self, position: int) -> bytes:
        start, stop = self.raw.offsets[position : position + 2].tolist()
        return bytes(self.raw.payload[start:stop]).removesuffix(b"\n")


def normalize(rows: RawRows, config: Input) -> Normalized:
    """Returns the split's rows with canonical columns."""
    raw = rows.raw
    reader = RowReader(config)
    read = reader.group if config.layout == "groups" else reader.candidate
    if raw.kind == "jsonl":
        found = _read_lines(rows.lines(), read, raw.too_long)
        if raw.blank_lines:
            found.drops[BLANK_LINE] += raw.blank_lines
        return found
    if not raw.rows:
        return Normalized(GROUP_SCHEMA.empty_table(), np.zeros(0, np.int64))
    table = rows.table
    plain = plain_groups(table, config) if config.layout == "groups" else plain_candidates(table, config)
    if len(plain.rows) == table.num_rows:
        return Normalized(plain.groups, plain.rows + raw.row_start)
    others = np.setdiff1d(np.arange(table.num_rows), plain.rows)
    lines = row_lines(table.take(pa.array(others)) if len(plain.rows) else table)
    slow = _read_lines(zip((others + raw.row_start).tolist(), lines, strict=True), read, {})
    numbers_ = np.concatenate([plain.rows + raw.row_start, slow.rows])
    order = np.argsort(numbers_, kind="stable")
    groups = pa.concat_tables([plain.groups, slow.groups]).take(pa.array(order)).combine_chunks()
    return Normalized(groups, numbers_[order], slow.letters, slow.drops)


def without_mark(line: bytes, row: int) -> bytes:
    """Returns a line without the byte order mark that the first line of a file may begin with."""
    return line.removeprefix(_BYTE_ORDER_MARK) if row == 0 else line


def _read_lines(
    lines: Iterable[tuple[int, bytes]], read: Callable[[dict[str, Json]], GroupRow], too_long: Mapping[int, int]
) -> Normalized:
    groups: list[GroupRow] = []
    rows: list[int] = []
    letters: list[DeadLetter] = []
    drops: Counter[str] = Counter()
    for row, line in lines:
        if row in too_long:
            message = f"the line has {too_long[row]:,} bytes, more than input.max_line_bytes; its beginning is kept"
            letters.append(DeadLetter(row, "read", LINE_TOO_LONG, message, line))
            continue
        text = without_mark(line, row)
        if not text or text.isspace():
            drops[BLANK_LINE] += 1
            continue
        try:
            groups.append(read(decode_object(text)))
            rows.append(row)
        except BadRow as bad:
            letters.append(DeadLetter(row, bad.stage, bad.reason, bad.message, line))
    return Normalized(groups_table(groups), np.array(rows, np.int64), letters, drops)
