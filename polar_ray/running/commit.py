"""Commits a split: its dead letters, then its part of the score table, then the record that says it is done."""

import time
from collections import Counter

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from polar_ray.data.dead_letters import examples_of
from polar_ray.deriving.columns import ScoreColumns
from polar_ray.deriving.score_table import score_table
from polar_ray.running.envelope import Envelope
from polar_ray.running.folder import Commit, RunFolder
from polar_ray.running.keep import origins_path, with_kept
from polar_ray.scorers.base import Scores


def commit_split(folder: RunFolder, envelope: Envelope, scorer_names: tuple[str, ...], generation: int = 1) -> bytes:
    """Ranks and writes a scored split and returns its commit record as JSON.

    In a later generation than the first, the rows that kept their scores join those that were scored.

    Each file appears whole or not at all, and writing a split again writes the same bytes, so a retry does no harm.
    """
    started = time.perf_counter()
    header = envelope.header
    groups, dead_letters = envelope.table("groups"), envelope.table("dead_letters")
    scores = {name: Scores.from_table(envelope.table(f"scores:{name}")) for name in scorer_names}
    storage = folder.storage
    if dead_letters.num_rows:
        storage.write_atomic(folder.dead_letters(header.split_id), parquet_bytes(dead_letters))
    table = score_table(groups, scores)
    if generation > 1:
        table, origins = with_kept(table, envelope, generation)
        storage.write_atomic(origins_path(folder, header.split_id), msgspec.json.encode(origins))
    part = parquet_bytes(table)
    storage.write_atomic(folder.part(header.split_id), part)

    def scored(name: str, field: str) -> pa.Array:
        return table[ScoreColumns(name)(field)].combine_chunks().flatten()

    record = Commit(
        split_id=header.split_id,
        file=header.file,
        file_index=header.file_index,
        split_index=header.split_index,
        last=header.last,
        rows=header.rows,
        rows_in_groups=header.rows_in_groups,
        groups=table.num_rows,
        candidates=pc.sum(pc.list_value_length(table["candidates"])).as_py() or 0,
        dead_letters=dict(Counter(dead_letters.column("reason").to_pylist())),
        drops=dict(header.drops),
        statuses={name: value_counts(scored(name, "status")) for name in scorer_names},
        errors={name: message for name in scorer_names if (message := _first(scored(name, "error"))) is not None},
        tokens={name: pc.sum(scored(name, "tokens")).as_py() or 0 for name in scorer_names},
        seconds={**header.seconds, "write": round(time.perf_counter() - started, 6)},
        input_bytes=header.input_bytes,
        part_bytes=len(part),
        waited=header.waited,
        verified=header.verified,
        examples=examples_of(dead_letters),
    )
    data = msgspec.json.encode(record)
    storage.write_atomic(folder.commit(header.split_id), data)
    return data


def parquet_bytes(table: pa.Table) -> bytes:
    """Returns a table as one Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def value_counts(values: pa.Array | pa.ChunkedArray) -> dict[str, int]:
    """Returns how often each value occurs."""
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(values).to_pylist()}


def _first(values: pa.Array) -> str | None:
    kept = values.drop_null()
    return kept[0].as_py() if len(kept) else None
