"""Shards: the files of a dataset, cut at a number of rows, each of which appears whole or not at all."""

import hashlib
import io
from contextlib import ExitStack
from typing import BinaryIO, Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from polar_ray.data.storage import Storage

ROW_GROUP_ROWS = 8192
ROW_GROUP_BYTES = 32 * 2**20
"""A Parquet row group is written when the rows that wait reach one of these."""


class FileRecord(msgspec.Struct, frozen=True):
    """One file of a dataset; ``path`` is relative to the dataset's folder."""

    path: str
    rows: int
    bytes: int
    sha256: str


class ShardWriter:
    """Writes tables, one after the other, into ``FOLDER/part-00000.EXTENSION`` and so on.

    What is in the files depends on the tables, not on when they come. Use it as a context manager: the last file
    appears when the block ends, and does not if it raises.
    """

    def __init__(
        self, storage: Storage, root: str, folder: str, format: Literal["jsonl", "parquet"], shard_rows: int
    ) -> None:
        self.files: list[FileRecord] = []
        self._storage, self._root, self._folder = storage, root, folder
        self._format, self._shard_rows = format, shard_rows
        self._shard: _Shard | None = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._shard is not None:
            if error is None:
                self._finish(self._shard)
            else:
                self._shard.abandon(error)

    def write(self, table: pa.Table) -> None:
        """Adds rows; for JSON lines a table with the binary column ``line``."""
        start = 0
        while start < table.num_rows:
            if self._shard is None:
                self._shard = self._next()
            taken = table.slice(start, self._shard_rows - self._shard.rows)
            self._shard.write(taken)
            start += taken.num_rows
            if self._shard.rows == self._shard_rows:
                self._finish(self._shard)

    def write_empty(self, empty: pa.Table) -> None:
        """Writes a file without rows, so that who opens the dataset finds the columns of a table and not nothing."""
        assert not self.files, "there are rows"
        self._shard = self._next()
        self._shard.write(empty)
        self._finish(self._shard)

    def _next(self) -> "_Shard":
        name = f"{self._folder}/part-{len(self.files):05d}.{self._format}"
        kind = _Lines if self._format == "jsonl" else _Parquet
        return kind(self._storage, f"{self._root}/{name}", name)

    def _finish(self, shard: "_Shard") -> None:
        self.files.append(shard.finish())
        self._shard = None


class _Shard:
    """One file while it is written."""

    def __init__(self, storage: Storage, path: str, name: str) -> None:
        self.rows = 0
        self._name = name
        self._stack = ExitStack()
        self._stream = _Hashed(self._stack.enter_context(storage.open_atomic(path)))

    def write(self, table: pa.Table) -> None:
        """Adds rows."""
        self.rows += table.num_rows
        self._add(table)

    def finish(self) -> FileRecord:
        """Completes the file, which then appears."""
        self._complete()
        self._stack.close()
        return FileRecord(self._name, self.rows, self._stream.size, self._stream.digest())

    def abandon(self, error: BaseException) -> None:
        """Leaves no file."""
        self._stack.__exit__(type(error), error, error.__traceback__)

    def _add(self, table: pa.Table) -> None:
        raise NotImplementedError

    def _complete(self) -> None:
        raise NotImplementedError


class _Lines(_Shard):
    def _add(self, table: pa.Table) -> None:
        self._stream.write(b"".join(table.column("line").to_pylist()))

    def _complete(self) -> None:
        pass


class _Parquet(_Shard):
    def __init__(self, storage: Storage, path: str, name: str) -> None:
        super().__init__(storage, path, name)
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []

    def _add(self, table: pa.Table) -> None:
        self._waiting.append(table)
        rows, size = sum(each.num_rows for each in self._waiting), sum(each.nbytes for each in self._waiting)
        if rows >= ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
            self._write_row_group()

    def _write_row_group(self) -> None:
        table = pa.concat_tables(self._waiting).combine_chunks()
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._stream, table.schema, compression="zstd")
        if table.num_rows:
            # A row group without rows is more than some readers can bear.
            self._writer.write_table(table, row_group_size=table.num_rows)
        self._waiting = []

    def _complete(self) -> None:
        if self._waiting:
            self._write_row_group()
        assert self._writer is not None
        self._writer.close()


class _Hashed(io.RawIOBase):
    """Writes through to a stream and hashes what it writes."""

    def __init__(self, stream: BinaryIO) -> None:
        self.size = 0
        self._stream = stream
        self._hash = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        self._hash.update(view)
        self._stream.write(view)
        self.size += view.nbytes
        return view.nbytes

    def digest(self) -> str:
        """Hexadecimal sha256 of all that was written."""
        return self._hash.hexdigest()
