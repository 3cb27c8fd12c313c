"""Units: consecutive parts of a score table that are worked on together, and the reading of their columns."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial

import pyarrow as pa
import pyarrow.parquet as pq

from polar_ray.data.parts import decoding
from polar_ray.data.storage import FileInfo, Storage

UNIT_PARTS = 16
UNIT_BYTES = 4 * 2**20
"""Bounds of a unit. A part holds one split of the run, at most 16 MiB of JSON by default, so this bounds the memory."""


@dataclass(frozen=True)
class Unit:
    """Parts of a score table, in order.

    Attributes:
        number: Position among the units of the table.
        parts: Paths.
    """

    number: int
    parts: tuple[str, ...]


def plan_units(files: Sequence[FileInfo]) -> list[Unit]:
    """Cuts the parts into units, by their sizes alone, so that every derivation of a table has the same units."""
    units: list[Unit] = []
    parts: list[str] = []
    size = 0
    for file in files:
        if parts and (len(parts) == UNIT_PARTS or size + file.size > UNIT_BYTES):
            units.append(Unit(len(units), tuple(parts)))
            parts, size = [], 0
        parts.append(file.path)
        size += file.size
    if parts:
        units.append(Unit(len(units), tuple(parts)))
    return units


@lru_cache(maxsize=4)
def kept(storage: Storage) -> Storage:
    """Returns the first storage of its kind in this process: its connection is made once, not for every unit."""
    return storage


class UnitReader:
    """Reads columns of a unit's parts; use it as a context manager."""

    def __init__(self, storage: Storage, unit: Unit) -> None:
        self._storage = storage
        self._unit = unit
        self._files: list[pq.ParquetFile] = []
        self._stack = ExitStack()

    def __enter__(self) -> "UnitReader":
        for path in self._unit.parts:
            with decoding(path):
                source = self._stack.enter_context(self._storage.open_file(path))
                self._files.append(self._storage.patiently(partial(self._opened, source)))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def part_rows(self) -> list[int]:
        """Rows of each part."""
        return [file.metadata.num_rows for file in self._files]

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Returns columns (Parquet paths, in which ``a.list.element.b`` is a field of list elements) of all rows."""
        tables = []
        for path, file in zip(self._unit.parts, self._files, strict=True):
            # One thread: the other CPUs work on other units.
            reading = partial(file.read, columns=list(columns), use_threads=False)
            with decoding(path):
                tables.append(self._storage.patiently(reading))
        return pa.concat_tables(tables)

    def _opened(self, source: pa.NativeFile) -> pq.ParquetFile:
        return pq.ParquetFile(source, pre_buffer=not self._storage.is_local)
