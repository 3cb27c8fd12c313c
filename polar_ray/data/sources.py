"""Sources: the slices of the input that are read side by side, planned from the files alone."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from polar_ray.data.damage import check_readable
from polar_ray.data.lines import READING
from polar_ray.data.listing import InputFile
from polar_ray.data.storage import Storage
from polar_ray.errors import StorageAway, UnopenedFile
from polar_ray.recipe.input import Input
from polar_ray.recipe.run import STORAGE_WAIT_S

SOURCE_BYTES = 64 * 2**20
"""Uncompressed bytes of Parquet row groups that one source spans, at least."""


@dataclass(frozen=True)
class Source:
    """A part of one file that is read from its start to its end by one task.

    A Parquet source begins and ends between row groups, because a row group can only be read from its start; so it
    may hold several splits. A JSONL file is one source: a compressed file cannot be entered in the middle.

    Attributes:
        file_index: Position of the file in the sorted listing.
        file: The file.
        row_start: First row.
        row_stop: The row after the last; None for JSONL, whose rows are counted while reading.
        split_start: ``split_index`` of the first split.
        cuts: Parquet: the rows at which splits begin, and ``row_stop``: one more than there are splits.
        last: Whether the file ends with this source.
        error: Why the file's rows cannot be read at all, or None.
        wait_s: Seconds in which a storage that is away may come back.
        unopened: Whether that is because the file is gone or may not be read.
        reading: The rule by which lines become splits, as of ``Lines``.
    """

    file_index: int
    file: InputFile
    row_start: int = 0
    row_stop: int | None = None
    split_start: int = 0
    cuts: tuple[int, ...] = ()
    last: bool = True
    error: str | None = None
    wait_s: float = STORAGE_WAIT_S
    unopened: bool = False
    reading: int = READING

    @property
    def splits(self) -> int | None:
        """Number of splits; None for JSONL, where it is known after reading."""
        return len(self.cuts) - 1 if self.cuts else (1 if self.error is not None else None)


@dataclass(frozen=True)
class RowGroup:
    """What a Parquet footer says of a row group: rows, and bytes before compression."""

    rows: int
    bytes: int


def split_id(file_index: int, split_index: int) -> str:
    """Returns the name of a split: it is also the name of its part file."""
    return f"{file_index:05d}-{split_index:05d}"


def plan_sources(
    files: Sequence[InputFile],
    config: Input,
    wait_s: float = STORAGE_WAIT_S,
    footer_threads: int = 16,
    reading: int = READING,
) -> list[Source]:
    """Plans the sources of the input, in the order of the files.

    Parquet footers are read side by side. A Parquet file whose footer cannot be read becomes one source that says
    so; it turns into a dead letter when it is read. So does one that cannot be opened, if the recipe allows that.

    Args:
        files: The input.
        config: The recipe's input.
        wait_s: Seconds in which a storage that is away may come back.
        footer_threads: Footers that are read at a time.
        reading: The rule by which the run cuts lines into splits.

    Raises:
        StorageError: The storage fails (a damaged or missing file is no error here).
    """
    with ThreadPoolExecutor(max_workers=footer_threads) as pool:
        return [
            source
            for planned in pool.map(
                lambda item: _plan_file(item[0], item[1], config, wait_s, reading), enumerate(files)
            )
            for source in planned
        ]


def plan_cuts(groups: Sequence[RowGroup], split_rows: int, split_bytes: int) -> list[int]:
    """Returns the rows at which splits begin, and the number of rows at the end.

    Small row groups are joined up to ``split_rows`` rows and ``split_bytes`` bytes; a larger one is cut into equal
    ranges. So no split spans a part of a row group together with another one.
    """
    cuts = [0]
    row = held_bytes = 0
    for group in groups:
        most = min(split_rows, max(1, split_bytes * group.rows // max(1, group.bytes)))
        held_rows = row - cuts[-1]
        fits = held_rows + group.rows <= split_rows and held_bytes + group.bytes <= split_bytes
        if held_rows and not fits:
            cuts.append(row)
            held_bytes = 0
        if group.rows > most:
            pieces = -(-group.rows // most)
            cuts.extend(row + group.rows * piece // pieces for piece in range(1, pieces + 1))
            held_bytes = 0
        else:
            held_bytes += group.bytes
        row += group.rows
    if cuts[-1] != row or len(cuts) == 1:
        cuts.append(row)
    return cuts


def _plan_file(file_index: int, file: InputFile, config: Input, wait_s: float, reading: int) -> list[Source]:
    if file.format == "jsonl":
        return [Source(file_index, file, wait_s=wait_s, reading=reading)]
    storage = Storage.of(file.path, config.storage_options, wait_s)
    try:
        groups = storage.patiently(lambda: _row_groups(storage, file.path))
    except StorageAway:
        raise
    except (OSError, pa.ArrowException) as error:
        failed = Source(
            file_index, file, row_stop=0, error=f"The Parquet footer cannot be read: {error}", wait_s=wait_s
        )
        try:
            check_readable(storage, file.path)
        except UnopenedFile as unopened:
            failed = replace(failed, error=str(unopened), unopened=True)
        return [failed]
    cuts = plan_cuts(groups, config.split_rows, config.split_bytes)
    sources = []
    start = row = size = 0
    for group in groups:
        row += group.rows
        size += group.bytes
        if size >= SOURCE_BYTES and row in cuts[start + 1 : -1]:
            stop = cuts.index(row)
            sources.append(_source(file_index, file, cuts, start, stop, wait_s))
            start, size = stop, 0
    return [*sources, _source(file_index, file, cuts, start, len(cuts) - 1, wait_s)]


def _source(file_index: int, file: InputFile, cuts: list[int], start: int, stop: int, wait_s: float) -> Source:
    return Source(
        file_index=file_index,
        file=file,
        row_start=cuts[start],
        row_stop=cuts[stop],
        split_start=start,
        cuts=tuple(cuts[start : stop + 1]),
        last=stop == len(cuts) - 1,
        wait_s=wait_s,
    )


def _row_groups(storage: Storage, path: str) -> list[RowGroup]:
    with storage.open_file(path) as file:
        footer = pq.read_metadata(file)
    groups = (footer.row_group(i) for i in range(footer.num_row_groups))
    return [RowGroup(group.num_rows, group.total_byte_size) for group in groups]
