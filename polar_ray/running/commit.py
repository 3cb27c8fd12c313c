"""Commits a split: its dead letters, then its part of the score table, then the record that says it is done."""

import time
from collections import Counter

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from polar_ray.deriving.score_table import score_table
from polar_ray.running.envelope import Envelope
from polar_ray.running.folder import Commit, RunFolder
from polar_ray.scorers.base import Scores


def commit_split(folder: RunFolder, envelope: Envelope, scorer_names: tuple[str, ...]) -> bytes:
    """Ranks and writes a scored split and returns its commit record as JSON.

    Each file appears whole or not at all, and writing a split again writes the same bytes, so a retry does no harm.
    """
    started = time.perf_counter()
    header = envelope.header
    groups, dead_letters = envelope.table("groups"), envelope.table("dead_letters")
    scores = {name: Scores.from_table(envelope.table(f"scores:{name}")) for name in scorer_names}
    storage = folder.storage
    if dead_letters.num_rows:
        storage.write_atomic(folder.dead_letters(header.split_id), parquet_bytes(dead_letters))
    part = parquet_bytes(score_table(groups, scores))
    storage.write_atomic(folder.part(header.split_id), part)
    record = Commit(
        split_id=header.split_id,
        file=header.file,
        file_index=header.file_index,
        split_index=header.split_index,
        last=header.last,
        rows=header.rows,
        rows_in_groups=header.rows_in_groups,
        groups=groups.num_rows,
        candidates=len(next(iter(scores.values()))),
        dead_letters=dict(Counter(dead_letters.column("reason").to_pylist())),
        drops=dict(header.drops),
        statuses={name: value_counts(score.status) for name, score in scores.items()},
        errors={name: message for name, score in scores.items() if (message := _first(score.error)) is not None},
        tokens={name: pc.sum(score.tokens).as_py() or 0 for name, score in scores.items()},
        seconds={**header.seconds, "write": round(time.perf_counter() - started, 6)},
        input_bytes=header.input_bytes,
        part_bytes=len(part),
        waited=header.waited,
        verified=header.verified,
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
