"""Reading Parquet: row groups are decoded batch by batch and cut into the splits that the plan says."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from polar_ray.data.arrays import flat
from polar_ray.data.columns import text_column
from polar_ray.data.damage import check_readable, opening
from polar_ray.data.parquet_json import json_texts
from polar_ray.data.raw_split import RawSplit
from polar_ray.data.sources import Source, split_id
from polar_ray.data.storage import Storage
from polar_ray.errors import StorageAway, UnopenedFile
from polar_ray.recipe.input import Input

_BATCH_ROWS = 64
_BATCH_BYTES = 16 * 2**20
"""Bounds of what is decoded at a time. A footer tells the size of encoded values, which may be far below that of the
values themselves, so the rows of a batch follow from what the batches before have held."""
_PREBUFFER_BYTES = 64 * 2**20
_BUFFER_BYTES = 8 * 2**20
_NO_OFFSETS = np.zeros(1, np.int64)


@dataclass(frozen=True)
class _Rows:
    """Rows of a file that stand next to each other, or why they cannot be read."""

    start: int
    stop: int
    table: pa.Table | None
    error: str | None = None

    def between(self, start: int, stop: int) -> "_Rows":
        """Returns the rows that lie in a range."""
        start = max(start, self.start)
        stop = max(start, min(stop, self.stop))
        table = None if self.table is None else self.table.slice(start - self.start, stop - start)
        return _Rows(start, stop, table, self.error)


def read_parquet(source: Source, config: Input, skip: Collection[str]) -> Iterator[RawSplit]:
    """Yields the splits of a Parquet source; see ``read_source``."""
    names = [split_id(source.file_index, source.split_start + i) for i in range(max(1, len(source.cuts) - 1))]
    if all(name in skip for name in names):
        return
    if source.unopened:
        raise UnopenedFile(source.error)
    if source.error is not None:
        yield _split(source, 0, source.row_start, [], source.error, pa.schema([]))
        return
    with ExitStack() as stack:
        storage = Storage.of(source.file.path, config.storage_options, source.wait_s)
        file = _File(storage, source.file.path, stack)
        if config.layout == "candidates":
            parts = _cut_at_prompts(source, config, file)
        else:
            parts = _cut(source.cuts, file.rows(source.row_start, source.row_stop))
        for i, (start, rows, error) in enumerate(parts):
            if names[i] not in skip:
                yield _split(source, i, start, rows, error, file.schema)


class _File:
    """An open Parquet file."""

    def __init__(self, storage: Storage, path: str, stack: ExitStack) -> None:
        self._storage = storage
        self._path = path
        self._stack = stack
        self._readers: dict[bool, pq.ParquetFile] = {}
        with opening(path):
            self._footer = footer = storage.read_with(path, pq.read_metadata)
        self._groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
        self.starts = np.concatenate([[0], np.cumsum([group.num_rows for group in self._groups], dtype=np.int64)])
        self.schema = footer.schema.to_arrow_schema()

    def _open(self, prebuffer: bool) -> pq.ParquetFile:
        if prebuffer not in self._readers:
            with opening(self._path):
                raw = self._stack.enter_context(self._storage.open_file(self._path))
            buffer_size = 0 if prebuffer else _BUFFER_BYTES
            self._readers[prebuffer] = pq.ParquetFile(
                raw, metadata=self._footer, pre_buffer=prebuffer, buffer_size=buffer_size
            )
        return self._readers[prebuffer]

    def rows(self, start: int, stop: int | None = None, columns: list[str] | None = None) -> Iterator[_Rows]:
        """Yields the rows of the row groups that lie in a range, or what is wrong with the rest of a row group."""
        for i in range(len(self._groups)):
            first, end = int(self.starts[i]), int(self.starts[i + 1])
            if end <= start or first == end:
                continue
            if stop is not None and first >= stop:
                return
            row = first
            try:
                for batch in self._batches(i, columns):
                    table = pa.Table.from_batches([batch])
                    yield _Rows(row, row + table.num_rows, table)
                    row += table.num_rows
            except StorageAway:
                raise
            except (OSError, pa.ArrowException) as error:
                check_readable(self._storage, self._path)
                message = f"Rows {row} to {end - 1} cannot be decoded, so the rest of the split is given up: {error}"
                yield _Rows(row, end, None, message)

    def _batches(self, index: int, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        batches = _Batches(self, index, columns)
        while (batch := self._storage.patiently(batches.next)) is not None:
            yield batch

    def iterate(self, index: int, columns: list[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
        """Yields the batches of a row group."""
        group = self._groups[index]
        compressed = sum(group.column(i).total_compressed_size for i in range(group.num_columns))
        # One large request per column where a row group fits into memory; else a window that moves along.
        parquet = self._open(compressed <= _PREBUFFER_BYTES)
        yield from parquet.iter_batches(batch_size=rows, row_groups=[index], columns=columns, use_threads=False)

    def reopen(self) -> None:
        """Forgets what is open, since the storage was away."""
        self._readers.clear()


class _Batches:
    """The batches of a row group, as many rows at a time as fit into the bound; goes on where it was after a fault."""

    def __init__(self, file: _File, index: int, columns: list[str] | None) -> None:
        self._file = file
        self._index = index
        self._columns = columns
        # The first row alone tells how large rows are.
        self._rows = 1
        self._done = 0
        self._batches: Iterator[pa.RecordBatch] | None = None

    def next(self) -> pa.RecordBatch | None:
        """Returns the next batch, or None at the end."""
        try:
            if self._batches is None:
                self._batches = self._from_here()
            batch = next(self._batches, None)
        except OSError:
            self._file.reopen()
            self._batches = None
            raise
        if batch is None:
            return None
        self._done += batch.num_rows
        fitting = int(_BATCH_BYTES * batch.num_rows / max(1, batch.nbytes))
        if self._rows == 1 or batch.num_rows > max(1, fitting):
            rows = max(1, min(_BATCH_ROWS, fitting))
            if rows != self._rows:
                self._rows, self._batches = rows, None
        return batch

    def _from_here(self) -> Iterator[pa.RecordBatch]:
        """Yields the batches after the rows that are done."""
        passed = 0
        for batch in self._file.iterate(self._index, self._columns, self._rows):
            start = max(0, self._done - passed)
            passed += batch.num_rows
            if start < batch.num_rows:
                yield batch.slice(start)


Part = tuple[int, list[_Rows], str | None]
"""First row, rows, and why there are no more of them."""


def _cut(cuts: tuple[int, ...], stream: Iterator[_Rows]) -> Iterator[Part]:
    """Yields one part for each pair of neighbouring cuts."""
    index = 0
    held: list[_Rows] = []
    error: str | None = None
    for rows in stream:
        while index < len(cuts) - 1 and rows.stop > cuts[index]:
            start, stop = cuts[index], cuts[index + 1]
            piece = rows.between(start, stop)
            # What follows a gap in a split is given up with it: its row numbers could not be told from the payload.
            if piece.stop > piece.start and error is None:
                error = piece.error
                held.append(piece)
            if rows.stop < stop:
                break
            yield start, held, error
            index, held, error = index + 1, [], None
    while index < len(cuts) - 1:
        yield cuts[index], held, error
        index, held, error = index + 1, [], None


def _cut_at_prompts(source: Source, config: Input, file: _File) -> Iterator[Part]:
    """Yields one part for each pair of neighbouring cuts, each cut moved on to the next start of a prompt.

    So the last part reads past the source's end, and the first one leaves out what the source before has read.
    """
    key_columns = [name for name in (config.columns.prompt_id, config.columns.prompt) if name in file.schema.names][:1]
    key = _key_before(file, source.row_start, key_columns)
    parts = len(source.cuts) - 1
    index, start, held, error = -1, source.row_start, list[_Rows](), None
    for rows in file.rows(source.row_start):
        if rows.table is None:
            bounds, key = _lost_starts(file, rows, key_columns, key)
        else:
            starts, key = _prompt_starts(rows.table, key_columns, key)
            bounds = np.flatnonzero(starts) + rows.start
        row = rows.start
        while True:
            found = int(np.searchsorted(bounds, max(row, source.cuts[index + 1])))
            piece = rows.between(row, int(bounds[found]) if found < len(bounds) else rows.stop)
            if piece.stop > piece.start and error is None:
                error = piece.error
                held.append(piece)
            if found == len(bounds):
                break
            row = int(bounds[found])
            while source.cuts[index + 1] <= row:
                if index >= 0:
                    yield start, held, error
                index, start, held, error = index + 1, row, [], None
                if index == parts:
                    return
        if index < 0:
            held, error = [], None
    while index < parts:
        if index >= 0:
            yield start, held, error
        index, start, held, error = index + 1, int(file.starts[-1]), [], None


def _lost_starts(file: _File, rows: _Rows, columns: list[str], before: bytes | None) -> tuple[np.ndarray, bytes | None]:
    """Returns where prompts start among rows that are lost, and the last key.

    The keys alone may well be readable. When they are not, the lost rows and what follows them each start anew; every
    source that looks at them comes to the same result.
    """
    if not columns:
        return np.array([rows.start]), None
    parts = [part.between(rows.start, rows.stop) for part in file.rows(rows.start, rows.stop, columns)]
    tables = [part.table for part in parts if part.table is not None]
    if len(tables) < len(parts):
        return np.array([rows.start]), None
    starts, key = _prompt_starts(pa.concat_tables(tables), columns, before)
    return np.flatnonzero(starts) + rows.start, key


def _key_before(file: _File, row: int, columns: list[str]) -> bytes | None:
    """Returns the key of the last row before a row that has one, or None if there is none or it cannot be read."""
    for first, stop in reversed(list(pairwise(file.starts.tolist()))):
        if stop > row or not columns:
            continue
        key: bytes | None = None
        for rows in file.rows(first, stop, columns):
            if rows.table is None:
                return None
            key = _prompt_starts(rows.table, columns, key)[1]
        if key is not None:
            return key
    return None


def _prompt_starts(table: pa.Table, columns: list[str], before: bytes | None) -> tuple[np.ndarray, bytes | None]:
    """Returns where the key differs from the row before, and the last key.

    A row without a key belongs to the prompt before it, if there is one.
    """
    if not columns:
        return np.ones(table.num_rows, bool), None
    keys = pa.concat_arrays([pa.array([before], pa.binary()), _keys(flat(table.column(columns[0])))])
    filled = pa.compute.fill_null_forward(keys)
    codes = filled.dictionary_encode(null_encoding="encode").indices.to_numpy(zero_copy_only=False)
    keyless = filled.is_null().to_numpy(zero_copy_only=False)[1:]
    return (np.diff(codes) != 0) | keyless, filled[-1].as_py()


def _keys(column: pa.Array) -> pa.Array:
    """Returns ids or prompts as bytes, since nobody has looked yet whether they are UTF-8."""
    text = column.cast(pa.string()) if pa.types.is_integer(column.type) else text_column(column)
    if text is None:
        return pa.array([text.encode("utf-8", "surrogateescape") for text in json_texts(column)], pa.binary())
    return text.cast(pa.binary())


def _split(source: Source, index: int, start: int, rows: list[_Rows], error: str | None, schema: pa.Schema) -> RawSplit:
    tables = [piece.table for piece in rows if piece.table is not None]
    # Who calls holds the list, and with it each table.
    rows.clear()
    count = sum(table.num_rows for table in tables)
    split_index = source.split_start + index
    return RawSplit(
        split_id=split_id(source.file_index, split_index),
        file=source.file.path,
        file_index=source.file_index,
        split_index=split_index,
        row_start=start,
        rows=count,
        last=source.last and index >= len(source.cuts) - 2,
        kind="arrow",
        payload=_ipc(tables, schema),
        offsets=_NO_OFFSETS,
        error=error,
    )


def _ipc(tables: list[pa.Table], schema: pa.Schema) -> pa.Buffer:
    """Returns tables as one stream, and empties the list: a large split is not held twice."""
    schema = tables[0].schema if tables else schema
    measured = pa.MockOutputStream()
    with pa.ipc.new_stream(measured, schema) as writer:
        for table in tables:
            writer.write_table(table)
    buffer = pa.allocate_buffer(measured.size())
    with pa.FixedSizeBufferWriter(buffer) as sink, pa.ipc.new_stream(sink, schema) as writer:
        tables.reverse()
        while tables:
            writer.write_table(tables.pop())
    return buffer
