"""The parts of a score table: which there are, and whether they are all there as they were written.

That is told from the sum of their sizes, by one listing; only where that is wrong are the commit records read.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import msgspec
import pyarrow as pa

from polar_ray.data.records import decode_record
from polar_ray.data.storage import Files, Storage
from polar_ray.errors import OutputError, PolarRayError


class _Counts(msgspec.Struct):
    score_table_bytes: int | None = None


class _Manifest(msgspec.Struct):
    counts: _Counts


class _Bytes(msgspec.Struct):
    part_bytes: int = 0


def run_parts(table: Storage) -> Files:
    """Returns the files in a run's folder of parts, in order."""
    return [info for info in table.list(table.join("scores")) if info.path.endswith(".parquet")]


def check_parts(table: Storage, parts: Files) -> None:
    """Makes sure that the parts of a finished run are those that its records tell of, as long as they were written.

    Args:
        table: The run's folder.
        parts: As ``run_parts`` lists them.

    Raises:
        OutputError: A part is gone, has another size, or is none of the run's; the message names it.
    """
    place = table.join("manifest.json")
    total = decode_record(table.read_bytes(place), place, _Manifest).counts.score_table_bytes
    if total == sum(part.size for part in parts):
        return
    written, removed = _sizes(table, "commits"), _sizes(table, "duplicates")
    expected = {split: size - removed.get(split, 0) for split, size in written.items() if size}
    wrong = _wrong(table, parts, expected) if written else None
    if wrong is None and total is not None:
        found = sum(part.size for part in parts)
        wrong = f"{table.join('scores')} holds {found:,} bytes in {len(parts):,} parts where {place} counts {total:,}"
    # Of a table that was made by hand nothing is known.
    if wrong is not None:
        raise OutputError(
            f"{wrong}. Restore the score table from a copy; or delete {place} and run the command again that made it, "
            "which keeps what is whole and scores the rest"
        )


@contextmanager
def decoding(path: str) -> Iterator[None]:
    """Puts into one sentence that a Parquet file which a run wrote cannot be read.

    Raises:
        OutputError: It is gone, or damaged.
    """
    try:
        yield
    except (PolarRayError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise OutputError(f"{path} is gone; restore it from a copy") from error
    except PermissionError as error:
        raise OutputError(f"{path} may not be read by this user: {error.strerror or error}") from error
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        raise OutputError(f"{path} cannot be read as Parquet ({said:.200}); restore it from a copy") from error


def _wrong(table: Storage, parts: Files, expected: Mapping[str, int]) -> str | None:
    """Returns what is wrong with the first part that is not what its split wrote, by the sizes in bytes, or None."""
    there = {part.path: part.size for part in parts}
    wanted = {table.join("scores", f"part-{split}.parquet"): size for split, size in expected.items()}
    for path, size in sorted(wanted.items()):
        if path not in there:
            return f"{path} is gone, and the scores of its split with it"
        if there[path] != size:
            return f"{path} has {there[path]:,} bytes where {size:,} were written: it is damaged"
    others = [path for path in there if path not in wanted]
    return f"{others[0]} is no part of this run, and would be read as one: move it elsewhere" if others else None


def _sizes(table: Storage, kind: str) -> dict[str, int]:
    """Returns the sizes that records of a run tell, by split."""
    paths = [info.path for info in table.list(table.join("_run", kind)) if info.path.endswith(".json")]
    with ThreadPoolExecutor(16) as pool:
        records = [
            decode_record(data, path, _Bytes)
            for path, data in zip(paths, pool.map(table.read_bytes, paths), strict=True)
        ]
    names = [path.rsplit("/", 1)[-1].removesuffix(".json") for path in paths]
    return {name: record.part_bytes for name, record in zip(names, records, strict=True)}
