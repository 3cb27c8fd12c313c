"""Reading: from a source to raw splits, one after another, without parsing a row.

A split is a function of the file's content and the recipe: it does not matter how the storage delivers the bytes, or
which splits were read before.
"""

from collections.abc import Collection, Iterator

from polar_ray.data.raw_split import RawSplit
from polar_ray.data.reading_jsonl import read_jsonl
from polar_ray.data.reading_parquet import read_parquet
from polar_ray.data.sources import Source
from polar_ray.recipe.input import Input

__all__ = ["RawSplit", "read_source"]


def read_source(source: Source, config: Input, skip: Collection[str] = ()) -> Iterator[RawSplit]:
    """Yields the splits of a source, in order and in bounded memory.

    A file has at least one split, of no rows where it is empty. A damaged file gives what can be read of it, and its
    last split says why there is no more.

    Args:
        source: From ``plan_sources``.
        config: The recipe's input.
        skip: Ids of splits that are not wanted again.

    Raises:
        OSError: The storage fails; the task can be tried again.
    """
    read = read_parquet if source.file.format == "parquet" else read_jsonl
    return read(source, config, skip)
