"""Heads: the columns of an input file and what they hold, as far as its schema or its first rows tell."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import reduce
from itertools import islice
from typing import Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from polar_ray.data.dead_letters import BadRow
from polar_ray.data.decompress import DamagedFile, read_chunks
from polar_ray.data.listing import InputFile
from polar_ray.data.normalize import without_mark
from polar_ray.data.storage import Storage
from polar_ray.data.strict_json import Json, decode_object
from polar_ray.recipe.input import Input

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


def heads(files: list[InputFile], config: Input) -> Iterator[Head | None]:
    """Yields the head of the first file, and then of more, spread over the listing with the last among them.

    None stands for a file that has no rows or cannot be read, which tells nothing about columns.
    """
    yield _head(files[0], config)
    step = max(1, -(-(len(files) - 1) // HEADS))
    with ThreadPoolExecutor(8) as pool:
        yield from pool.map(lambda file: _head(file, config), files[:0:-step])


def _head(file: InputFile, config: Input) -> Head | None:
    storage = Storage.of(file.path, config.storage_options)
    try:
        if file.format == "parquet":
            with storage.open_file(file.path) as raw:
                footer = pq.read_metadata(raw)
                return _of_schema(footer.schema.to_arrow_schema()) if footer.num_rows else None
        rows = list(islice(_rows(storage, file), HEAD_ROWS))
    except (OSError, DamagedFile, pa.ArrowException):
        # What is wrong with the file is said when it is read; of other files the columns can still be told.
        return None
    shapes = [{name: _of_value(value) for name, value in row.items()} for row in rows]
    return reduce(merged, shapes) if shapes else None


def _rows(storage: Storage, file: InputFile) -> Iterator[dict[str, Json]]:
    """Yields the first rows of a JSONL file, without those that are damaged."""
    for number, line in enumerate(_lines(storage, file)):
        try:
            yield decode_object(without_mark(line, number))
        except BadRow:
            continue


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
