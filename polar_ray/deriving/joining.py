"""Rewards of joined runs beside the candidates of the first: rows are found by prompt_id and candidate_id.

Runs over the same input have parts of the same names with the same prompts in them; then a unit of the first table
reads the parts of the same names of the others. Where that is not so, the rows of a table are first written anew, in
buckets: consecutive units of the first table share a bucket, which holds what they will look for. That reads each
table once, whatever its order. What is kept of a prompt meanwhile is 8 bytes: a hash of its id, and its bucket in the
hash's lowest bits.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from polar_ray.data.arrays import flat, lengths_of, lists
from polar_ray.data.storage import Storage
from polar_ray.deriving.order import spread
from polar_ray.deriving.pool import Workers
from polar_ray.deriving.tables import Table, Tables
from polar_ray.deriving.units import Unit, UnitReader, kept, plan_units
from polar_ray.deriving.wanted import candidate_path

BUCKETS = 1024
"""At most: as many as the lowest bits of a hash can number."""
WAITING_BYTES = 64 * 2**20
"""Rows that wait for their bucket's next file, in all buckets."""
_BITS = np.uint64(BUCKETS - 1)
EXAMPLES = 3


@dataclass(frozen=True)
class Source:
    """Where the rows of a joined table are read. Small and picklable.

    Attributes:
        name: The table's.
        storage: Its run's folder, or that of the buckets.
        columns: The columns that are wanted: the name among all tables, and the one in the table's files.
        schema: The wanted columns by their names among all tables.
        buckets: How many there are; None where its parts are those of the first table.
        units: Units of the first table.
    """

    name: str
    storage: Storage
    columns: dict[str, str]
    schema: pa.Schema
    buckets: int | None = None
    units: int = 0


@dataclass(frozen=True)
class Missing:
    """What a joined table lacks.

    Attributes:
        prompts: Prompts of which it has none.
        candidates: Candidates that it lacks, those of such prompts included.
        examples: A few of them, as PROMPT or PROMPT/CANDIDATE.
    """

    prompts: int = 0
    candidates: int = 0
    examples: tuple[str, ...] = ()

    def __add__(self, other: "Missing") -> "Missing":
        examples = (self.examples + other.examples)[:EXAMPLES]
        return Missing(self.prompts + other.prompts, self.candidates + other.candidates, examples)


@dataclass(frozen=True)
class Joined:
    """Columns of joined tables for one unit.

    Attributes:
        table: Lists aligned with the unit's candidates.
        unjoined: bool [C], candidates that some table lacks.
        missing: By table, where anything is.
    """

    table: pa.Table
    unjoined: np.ndarray
    missing: dict[str, Missing] = field(default_factory=dict)


def join_sources(
    tables: Tables, columns: Sequence[str], units: Sequence[Unit], workers: Workers, buckets: Storage
) -> tuple[Source, ...]:
    """Says where each joined table of which a column is wanted is read, and writes the buckets of those that need any.

    Args:
        tables: All score tables.
        columns: Wanted columns.
        units: Of the first table.
        workers: Read the tables.
        buckets: A folder for the buckets.
    """
    wanted = [
        (table, {name: column for name, column in table.columns.items() if name in columns}) for table in tables.joined
    ]
    wanted = [(table, those) for table, those in wanted if those]
    if not wanted:
        return ()
    names = sorted(_name(path) for unit in units for path in unit.parts)
    candidates = tuple(
        table
        for table, _ in wanted
        if [part.path for part in table.parts] == [table.storage.join("scores", name) for name in names]
    )
    keys, aligned = _index(tables.first, candidates, units, workers)
    sources = []
    for table, those in wanted:
        schema = pa.schema([tables.schema.field(name) for name in those])
        if table.name in aligned:
            sources.append(Source(table.name, table.storage, those, schema))
            continue
        folder = Storage.of(buckets.join(table.name), buckets.options, buckets.wait_s)
        count = _bucket_count(units)
        _write_buckets(table, those, keys, workers, folder)
        same = {name: name for name in those}
        sources.append(Source(table.name, folder, same, schema, count, len(units)))
    return tuple(sources)


def join_unit(sources: Sequence[Source], unit: Unit, prompt_ids: pa.Array, candidate_ids: pa.ListArray) -> Joined:
    """Returns the wanted columns of joined tables for the candidates of a unit of the first table.

    Args:
        sources: From ``join_sources``.
        unit: Of the first table.
        prompt_ids: string [G].
        candidate_ids: list of string [G].
    """
    sizes, ids = lengths_of(candidate_ids), candidate_ids.flatten()
    columns: dict[str, pa.Array] = {}
    unjoined = np.zeros(len(ids), bool)
    missing = {}
    for source in sources:
        rows = _rows(source, unit)
        found, prompt_found = _places(prompt_ids, sizes, ids, rows)
        lacking = found < 0
        if lacking.any():
            missing[source.name] = _missing(prompt_ids, sizes, ids, lacking, prompt_found)
            unjoined |= lacking
        places = pa.array(found, mask=lacking)
        for name in source.columns:
            columns[name] = lists(sizes, flat(rows.column(name)).flatten().take(places))
    return Joined(pa.table(columns), unjoined, missing)


def _rows(source: Source, unit: Unit) -> pa.Table:
    """Returns rows with prompt_id, candidate_id (lists) and the wanted columns by their names among all tables."""
    if source.buckets is None:
        return _read(source.storage, source.columns, _same_parts(source.storage, unit))
    bucket = _bucket(unit.number, source.units, source.buckets)
    files = source.storage.list(source.storage.join(f"{bucket:04d}"))
    with UnitReader(kept(source.storage), Unit(unit.number, tuple(file.path for file in files))) as reader:
        names = ["prompt_id", "candidate_id", *source.columns]
        return reader.read(names) if files else _empty(source)


def _empty(source: Source) -> pa.Table:
    ids = [pa.field("prompt_id", pa.string()), pa.field("candidate_id", pa.list_(pa.string()))]
    return pa.schema([*ids, *source.schema]).empty_table()


def _read(storage: Storage, columns: dict[str, str], unit: Unit) -> pa.Table:
    with UnitReader(kept(storage), unit) as reader:
        table = reader.read(["prompt_id", candidate_path("candidate_id"), *columns.values()])
    return pa.table(
        {
            "prompt_id": flat(table.column("prompt_id")),
            "candidate_id": candidate_ids_of(table),
            **{name: flat(table.column(column)) for name, column in columns.items()},
        }
    )


def candidate_ids_of(table: pa.Table) -> pa.ListArray:
    """Returns the ids of the candidates of each row: lists of string."""
    candidates = flat(table.column("candidates"))
    return lists(lengths_of(candidates), candidates.flatten().field("candidate_id"))


def _places(prompt_ids: pa.Array, sizes: np.ndarray, ids: pa.Array, rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Returns where each candidate is among all of the rows (int64 [C], -1 where it is not), and which prompts are."""
    their_prompts, their_lists = flat(rows.column("prompt_id")), flat(rows.column("candidate_id"))
    their_sizes, their_ids = lengths_of(their_lists), their_lists.flatten()
    if prompt_ids.equals(their_prompts) and np.array_equal(sizes, their_sizes) and ids.equals(their_ids):
        return np.arange(len(ids)), np.ones(len(sizes), bool)
    row = pc.fill_null(pc.index_in(prompt_ids, value_set=their_prompts), -1).to_numpy(zero_copy_only=False)
    both = pa.concat_arrays([ids, their_ids]).dictionary_encode()
    codes = both.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    kinds = len(both.dictionary) + 1
    keys = np.repeat(row.astype(np.int64), sizes) * kinds + codes[: len(ids)]
    their_keys = np.repeat(np.arange(len(their_sizes)), their_sizes) * kinds + codes[len(ids) :]
    order = np.argsort(their_keys, kind="stable")
    place = np.searchsorted(their_keys[order], keys)
    inside = place < len(order)
    found = np.full(len(keys), -1)
    found[inside] = order[place[inside]]
    found[inside] = np.where(their_keys[found[inside]] == keys[inside], found[inside], -1)
    return found, row >= 0


def _missing(
    prompt_ids: pa.Array, sizes: np.ndarray, ids: pa.Array, lacking: np.ndarray, prompt_found: np.ndarray
) -> Missing:
    group = np.repeat(np.arange(len(sizes)), sizes)
    examples = [prompt_ids[int(place)].as_py() for place in np.flatnonzero(~prompt_found)[:EXAMPLES]]
    for place in np.flatnonzero(lacking & prompt_found[group])[: EXAMPLES - len(examples)]:
        examples.append(f"{prompt_ids[int(group[place])].as_py()}/{ids[int(place)].as_py()}")
    return Missing(int((~prompt_found).sum()), int(lacking.sum()), tuple(examples))


@dataclass(frozen=True)
class _Ids:
    """Of a unit of the first table: hashes of its prompt ids (uint64 [G]), and the tables whose parts have the same."""

    hashes: np.ndarray
    aligned: frozenset[str]


def _index(
    first: Table, others: Sequence[Table], units: Sequence[Unit], workers: Workers
) -> tuple[np.ndarray, frozenset[str]]:
    """Returns sorted keys (uint64) of the first table's prompts, and the other tables that have the same parts."""
    keys = [np.zeros(0, np.uint64)]
    aligned = frozenset(table.name for table in others)
    for number, ids in enumerate(workers.over(partial(_ids, first.storage, tuple(others)), units)):
        aligned &= ids.aligned
        bucket = _bucket(number, len(units), _bucket_count(units))
        keys.append((ids.hashes & ~_BITS) | np.uint64(bucket))
    joined = np.concatenate(keys)
    joined.sort()
    return joined, aligned


def _ids(storage: Storage, others: tuple[Table, ...], unit: Unit) -> _Ids:
    with UnitReader(kept(storage), unit) as reader:
        ids = flat(reader.read(["prompt_id"]).column("prompt_id"))
    aligned = []
    for table in others:
        with UnitReader(kept(table.storage), _same_parts(table.storage, unit)) as reader:
            if flat(reader.read(["prompt_id"]).column("prompt_id")).equals(ids):
                aligned.append(table.name)
    return _Ids(_hashes(ids), frozenset(aligned))


def _same_parts(storage: Storage, unit: Unit) -> Unit:
    return Unit(unit.number, tuple(storage.join("scores", _name(path)) for path in unit.parts))


def _write_buckets(table: Table, columns: dict[str, str], keys: np.ndarray, workers: Workers, folder: Storage) -> None:
    """Writes the rows of a table that the first one has into buckets."""
    waiting: dict[int, list[pa.Table]] = {}
    size = number = 0

    def write() -> None:
        for bucket, parts in sorted(waiting.items()):
            sink = io.BytesIO()
            pq.write_table(pa.concat_tables(parts), sink, compression="zstd")
            folder.write_atomic(folder.join(f"{bucket:04d}", f"{number:05d}.parquet"), sink.getvalue())
        waiting.clear()

    for rows in workers.over(partial(_read, table.storage, columns), plan_units(table.parts)):
        hashes = _hashes(flat(rows.column("prompt_id")))
        # All keys with the hash's upper bits; two prompts of the first table may share them.
        begin = np.searchsorted(keys, hashes & ~_BITS, side="left")
        owner, offset = spread(np.searchsorted(keys, hashes | _BITS, side="right") - begin)
        bucket = (keys[begin[owner] + offset] & _BITS).astype(np.int64)
        for each in np.unique(bucket).tolist():
            taken = rows.take(pa.array(np.unique(owner[bucket == each])))
            waiting.setdefault(each, []).append(taken)
            size += taken.nbytes
        if size > WAITING_BYTES:
            write()
            size, number = 0, number + 1
    write()


def _hashes(ids: pa.Array) -> np.ndarray:
    """uint64 [G]."""
    return np.array([xxhash.xxh3_64_intdigest(name) for name in ids.cast(pa.binary()).to_pylist()], np.uint64)


def _bucket(unit: int, units: int, buckets: int) -> int:
    """The bucket of a unit of the first table."""
    return unit * buckets // units


def _bucket_count(units: Sequence[Unit]) -> int:
    return max(1, min(BUCKETS, len(units)))


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]
