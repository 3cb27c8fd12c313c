"""Scattered candidates: rows of one prompt may lie in any file, so a shuffle brings them together.

Before the shuffle each split becomes a table of candidate rows with a key and a partition; after it, the rows of a
partition become groups. The result does not depend on the order in which rows arrive.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from polar_ray.data.arrays import flat
from polar_ray.data.assemble import LeftOver, assemble_groups, row_keys
from polar_ray.data.dead_letters import DEAD_LETTER_SCHEMA, DeadLetter, dead_letter_table
from polar_ray.data.group import CANDIDATE, GROUP_SCHEMA, MESSAGES
from polar_ray.data.normalize import RawRows, normalize
from polar_ray.data.parquet_json import row_lines
from polar_ray.data.parsing import ParsedSplit, places, unreadable
from polar_ray.data.raw_split import RawSplit
from polar_ray.recipe.input import Input

CANDIDATE_ROW_SCHEMA = pa.schema(
    [
        # The prompt_id, or a hash of the prompt where the input has none.
        pa.field("key", pa.string()),
        # xxh64 of the key, modulo the number of partitions.
        pa.field("partition", pa.int64()),
        pa.field("file_index", pa.int64()),
        pa.field("row", pa.int64()),
        pa.field("prompt_id", pa.string()),
        pa.field("prompt", MESSAGES),
        pa.field("references", pa.list_(MESSAGES)),
        pa.field("candidate", CANDIDATE),
        pa.field("extra", pa.string()),
    ]
)


@dataclass(frozen=True)
class CandidateRows:
    """What became of a split's rows before the shuffle: ``rows == table rows + dead letters + sum of drops``.

    Attributes:
        table: A table with ``CANDIDATE_ROW_SCHEMA``.
        dead_letters: A table with ``DEAD_LETTER_SCHEMA``.
        rows: Input rows read.
        drops: Rows dropped by declared policy, by reason.
    """

    table: pa.Table
    dead_letters: pa.Table
    rows: int
    drops: dict[str, int]


def parse_candidate_rows(raw: RawSplit, config: Input, partitions: int) -> CandidateRows:
    """Parses a split of the ``scattered`` layout into rows that can be shuffled by ``partition``."""
    normalized = normalize(RawRows(raw), config)
    groups = normalized.groups.combine_chunks()
    keys = row_keys(groups)
    table = pa.Table.from_arrays(
        [
            keys,
            _partitions(keys, partitions),
            pa.array(np.full(groups.num_rows, raw.file_index), pa.int64()),
            pa.array(normalized.rows, pa.int64()),
            groups["prompt_id"],
            groups["prompt"],
            groups["references"],
            flat(groups["candidates"]).flatten(),
            groups["extra"],
        ],
        schema=CANDIDATE_ROW_SCHEMA,
    )
    letters = [*normalized.letters, *unreadable(raw)]
    return CandidateRows(
        table=table,
        dead_letters=dead_letter_table(letters, raw.file),
        rows=raw.rows + (raw.error is not None),
        drops=dict(normalized.drops),
    )


def assemble(rows: pa.Table, files: Sequence[str]) -> ParsedSplit:
    """Makes groups of all the rows of one or several partitions.

    Args:
        rows: A table with ``CANDIDATE_ROW_SCHEMA``, in any order.
        files: The path of each file, by ``file_index``.

    Returns:
        Groups in the order of their keys. Dead letters here hold the row's canonical columns as JSON: its bytes
        stayed behind when the rows were shuffled.
    """
    order = pc.sort_indices(rows, [("key", "ascending"), ("file_index", "ascending"), ("row", "ascending")])
    rows = rows.take(order).combine_chunks()
    one_each = pa.ListArray.from_arrays(np.arange(rows.num_rows + 1, dtype=np.int32), flat(rows["candidate"]))
    groups = pa.Table.from_arrays(
        [rows["prompt_id"], rows["prompt"], rows["references"], one_each, rows["extra"]], schema=GROUP_SCHEMA
    )
    made = assemble_groups(groups, flat(rows["key"]))
    file_indices = rows["file_index"].to_numpy()
    numbers = rows["row"].to_numpy()
    return ParsedSplit(
        groups=made.groups,
        dead_letters=_dead_letters(made.left_over, rows, file_indices, numbers, files),
        rows=rows.num_rows,
        rows_in_groups=int(made.sizes.sum()),
        drops={},
        places=places([files[i] for i in file_indices[made.first].tolist()], numbers[made.first], made.sizes),
    )


def _partitions(keys: pa.Array, partitions: int) -> pa.Array:
    encoded = keys.dictionary_encode()
    each = [xxhash.xxh64_intdigest(key.encode()) % partitions for key in encoded.dictionary.to_pylist()]
    return pa.array(each, pa.int64()).take(encoded.indices)


def _dead_letters(
    left_over: list[LeftOver], rows: pa.Table, file_indices: np.ndarray, numbers: np.ndarray, files: Sequence[str]
) -> pa.Table:
    content = rows.select(["prompt_id", "prompt", "references", "candidate", "extra"])
    by_file: dict[int, list[DeadLetter]] = {}
    for item in left_over:
        first_file = files[int(file_indices[item.first])]
        letter = DeadLetter(
            row=int(numbers[item.position]),
            stage=item.stage,
            reason=item.reason,
            message=f"{item.message} (first row: {numbers[item.first]} of {first_file})",
            raw=row_lines(content.slice(item.position, 1))[0],
        )
        by_file.setdefault(int(file_indices[item.position]), []).append(letter)
    tables = [dead_letter_table(letters, files[index]) for index, letters in sorted(by_file.items())]
    return pa.concat_tables([DEAD_LETTER_SCHEMA.empty_table(), *tables])
