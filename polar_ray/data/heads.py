"""Heads: the columns of an input file and what they hold, as far as its schema or its first rows tell."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import reduce
from itertools import islice
from typing import Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from polar_ray.data.dead_letters import BadRow
from polar_ray.data.decompress import CHUNK_BYTES, DamagedFile, read_chunks
from polar_ray.data.listing import InputFile
from polar_ray.data.normalize import without_mark
from polar_ray.data.storage import Storage
from polar_ray.data.strict_json import Json, decode_object
from polar_ray.errors import UnopenedFile
from polar_ray.recipe.input import Input
from polar_ray.recipe.run import STORAGE_WAIT_S

Kind = Literal["nothing", "text", "number", "texts", "objects", "object", "other"]
"""``texts`` and ``objects`` are lists of them; ``nothing`` is null or an empty list, ``other`` anything else."""

HEAD_ROWS = 1000
"""Lines of a JSONL file that are looked at."""
HEAD_BYTES = 8 * 2**20
"""Decompressed bytes of a JSONL file after which no more is read."""
HEADS = 32
"""Files that are looked at where the first one is not enough."""


@dataclass(frozen=True)
class Shape:
    """What a column holds; ``fields`` are those of its objects."""

    kind: Kind
    fields: dict[str, "Shape"] = field(default_factory=dict)

    def __or__(self, other: "Shape") -> "Shape":
        """Returns the shape of a column that holds both."""
        if self.kind == other.kind:
            return Shape(self.kind, merged(self.fields, other.fields))
        if "nothing" in (self.kind, other.kind):
            return other if self.kind == "nothing" else self
        return Shape("other")


Head = dict[str, Shape]
"""Columns by name."""

NOTHING, OTHER = Shape("nothing"), Shape("other")


def heads(files: list[InputFile], config: Input, wait_s: float = STORAGE_WAIT_S) -> Iterator[tuple[str, Head]]:
    """Yields the head of the first file, its end, and then both of more files, spread over the listing; with paths.

    Files that have no rows or cannot be read are left out: they tell nothing about columns.
    """
    first, *others = files
    yield from ((first.path, head) for head in _heads(first, config, wait_s))
    step = max(1, -(-len(others) // HEADS))
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(
            lambda file: [(file.path, head) for head in _heads(file, config, wait_s)], others[::-step]
        ):
            yield from found


def _heads(file: InputFile, config: Input, wait_s: float) -> Iterator[Head]:
    storage = Storage.of(file.path, config.storage_options, wait_s)
    try:
        if file.format == "parquet":
            with storage.open_file(file.path) as raw:
                footer = pq.read_metadata(raw)
            if footer.num_rows:
                yield _of_schema(footer.schema.to_arrow_schema())
            return
        if head := _of_lines(enumerate(islice(_lines(storage, file), HEAD_ROWS))):
            yield head
        # A file that begins with rows of another kind may go on with what is wanted.
        if file.compression is None and (end := _of_lines((1, line) for line in _last_lines(storage, file))):
            yield end
    except (OSError, UnopenedFile, pa.ArrowException):
        # What is wrong with the file is said when it is read; of other files the columns can still be told.
        return


def _of_lines(lines: Iterable[tuple[int, bytes]]) -> Head:
    """Returns the columns of lines with their numbers, without those that are no rows."""
    found: Head = {}
    for number, line in lines:
        try:
            row = decode_object(without_mark(line, number))
        except BadRow:
            continue
        found = merged(found, {name: _of_value(value) for name, value in row.items()})
    return found


def _lines(storage: Storage, file: InputFile) -> Iterator[bytes]:
    held, read = b"", 0
    try:
        for chunk in read_chunks(storage, file.path, file.compression):
            *lines, held = (held + chunk).split(b"\n")
            yield from lines
            read += len(chunk)
            if read >= HEAD_BYTES:
                return
    except DamagedFile:
        return
    yield held


def _last_lines(storage: Storage, file: InputFile) -> list[bytes]:
    with storage.open_file(file.path) as raw:
        start = max(0, raw.size() - CHUNK_BYTES)
        raw.seek(start)
        lines: list[bytes] = raw.read().split(b"\n")
    return lines[1 if start else 0 :][-HEAD_ROWS:]


def _of_value(value: Json) -> Shape:
    if value is None or value == []:
        return NOTHING
    if isinstance(value, str):
        return Shape("text")
    if isinstance(value, msgspec.Raw):
        return Shape("number")
    if isinstance(value, dict):
        return Shape("object", {name: _of_value(item) for name, item in value.items()})
    return _listed(reduce(Shape.__or__, map(_of_value, value))) if isinstance(value, list) else OTHER


def _of_schema(fields: pa.Schema | pa.StructType) -> Head:
    return {item.name: _of_type(item.type) for item in fields}


def _of_type(type_: pa.DataType) -> Shape:
    if pa.types.is_dictionary(type_):
        return _of_type(type_.value_type)
    if pa.types.is_null(type_):
        return NOTHING
    if pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return Shape("text")
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return Shape("number")
    if pa.types.is_struct(type_):
        return Shape("object", _of_schema(type_))
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        return _listed(_of_type(type_.value_type))
    return OTHER


def _listed(item: Shape) -> Shape:
    if item.kind == "text":
        return Shape("texts")
    return Shape("objects", item.fields) if item.kind == "object" else OTHER


def merged(one: Head, other: Head) -> Head:
    """Returns the columns that either has."""
    both = {name: one[name] | other[name] for name in one if name in other}
    return {**one, **other, **both}
