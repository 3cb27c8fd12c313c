"""Reading: from a source to raw splits, one after another, without parsing a row.

A split is a function of the file's content and the recipe: it does not matter how the storage delivers the bytes, or
which splits were read before.
"""

from collections.abc import Collection, Iterator
from itertools import count

import numpy as np

from polar_ray.data.raw_split import RawSplit
from polar_ray.data.reading_jsonl import read_jsonl
from polar_ray.data.reading_parquet import read_parquet
from polar_ray.data.sources import Source, split_id
from polar_ray.errors import UnopenedFile
from polar_ray.recipe.input import Input

__all__ = ["RawSplit", "read_source"]


def read_source(
    source: Source, config: Input, skip: Collection[str] = (), *, unopened_allowed: bool = False
) -> Iterator[RawSplit]:
    """Yields the splits of a source, in order and in bounded memory.

    A file has at least one split, of no rows where it is empty. A damaged file gives what can be read of it, and its
    last split says why there is no more.

    Args:
        source: From ``plan_sources``.
        config: The recipe's input.
        skip: Ids of splits that are not wanted again.
        unopened_allowed: What is left of a file that is gone, or may not be read, becomes dead letters.

    Raises:
        UnopenedFile: The file is gone or may not be read, and that is not allowed.
        OSError: The storage fails; the task can be tried again.
    """
    read = read_parquet if source.file.format == "parquet" else read_jsonl
    index = source.split_start
    try:
        for raw in read(source, config, skip):
            index = raw.split_index + 1
            yield raw
            # The next split is not read while this one is still held here.
            del raw
    except UnopenedFile as error:
        if not unopened_allowed:
            raise
        yield from _unopened(source, skip, index, str(error))


def _unopened(source: Source, skip: Collection[str], start: int, error: str) -> Iterator[RawSplit]:
    """Yields the splits from a number on of a file that cannot be opened."""
    if source.cuts:
        left = range(start, source.split_start + len(source.cuts) - 1)
    else:
        # How many there are of other files is known only when they are read, so one stands for all that is left.
        first = next(index for index in count(start) if split_id(source.file_index, index) not in skip)
        left = range(first, first + 1)
    for index in left:
        if (name := split_id(source.file_index, index)) not in skip:
            yield RawSplit(
                split_id=name,
                file=source.file.path,
                file_index=source.file_index,
                split_index=index,
                row_start=source.cuts[index - source.split_start] if source.cuts else 0,
                rows=0,
                last=source.last and index == left[-1],
                kind="jsonl",
                payload=b"",
                offsets=np.zeros(1, np.int64),
                error=error,
                unopened=True,
            )
