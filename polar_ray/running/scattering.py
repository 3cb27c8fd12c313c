"""The stages that bring scattered candidates together before they are scored.

read → rows → shuffle by partition → gather. What cannot become a candidate row is committed before the shuffle,
under the raw split's name; each partition then goes through the rest of the pipeline as one split.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.data.dead_letters import examples_of
from polar_ray.data.lease import Fence
from polar_ray.data.listing import InputFile
from polar_ray.data.reading import RawSplit
from polar_ray.data.scattered import assemble, parse_candidate_rows
from polar_ray.recipe.input import Input
from polar_ray.recipe.scorers import ScorerConfig
from polar_ray.running.commit import parquet_bytes
from polar_ray.running.envelope import Envelope, Header
from polar_ray.running.failures import stage
from polar_ray.running.folder import Commit, RunFolder
from polar_ray.running.keep import Keep
from polar_ray.running.packing import packing
from polar_ray.running.stages import encode, unpack


def partitions(files: Iterable[InputFile], config: Input) -> int:
    """Returns how many partitions the input is shuffled into: by its stored size alone, about a split's bytes each."""
    total = sum(file.size * packing(file) for file in files)
    return max(1, round(total / config.split_bytes))


def partition_id(partition: int) -> str:
    """Returns the name of the split that a partition becomes."""
    return f"scattered-{partition:05d}"


@dataclass(frozen=True)
class ToRows:
    """Raw split → rows of candidates, to be shuffled; what is no candidate is committed here."""

    input: Input
    folder: RunFolder
    partitions: int
    committed: frozenset[str]
    fence: Fence | None = None

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """Yields one table per split."""
        for envelope in Envelope.of_block(block):
            with stage("parsing", envelope.name):
                rows = self._rows(envelope)
            yield rows

    def _rows(self, envelope: Envelope) -> pa.Table:
        started = time.perf_counter()
        raw = unpack(envelope)
        parsed = parse_candidate_rows(raw, self.input, self.partitions)
        storage = self.folder.storage
        if self.fence is not None:
            self.fence.check()
        if parsed.dead_letters.num_rows:
            storage.write_atomic(self.folder.dead_letters(raw.split_id), parquet_bytes(parsed.dead_letters))
        seconds = envelope.timed("parse", time.perf_counter() - started).header.seconds
        record = _read_record(raw, parsed.dead_letters, parsed.rows, parsed.drops, seconds)
        storage.write_atomic(self.folder.commit(raw.split_id), msgspec.json.encode(record))
        wanted = [index for index in range(self.partitions) if partition_id(index) not in self.committed]
        return parsed.table.filter(pc.is_in(parsed.table["partition"], pa.array(wanted, pa.int64())))


@dataclass(frozen=True)
class Gather:
    """Rows of partitions → one envelope per partition, with its groups and the first scorer's ids."""

    files: tuple[str, ...]
    scorer_name: str
    scorer: ScorerConfig
    keep: Keep | None = None

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """Yields one block per partition."""
        for partition in sorted(pc.unique(block["partition"]).to_pylist()):
            with stage("gathering", partition_id(partition)):
                envelope = self._gathered(block, partition)
                encoded = encode(envelope, self.scorer_name, self.scorer)
            yield encoded.to_block()

    def _gathered(self, block: pa.Table, partition: int) -> Envelope:
        started = time.perf_counter()
        parsed = assemble(block.filter(pc.equal(block["partition"], partition)), self.files)
        header = Header(
            split_id=partition_id(partition),
            file="",
            file_index=0,
            split_index=partition,
            last=False,
            # The rows were counted when they were read; here they only change places.
            rows=0,
            rows_in_groups=parsed.rows_in_groups,
        )
        groups = parsed.groups_with_places().drop_columns("input_rows")
        envelope = Envelope(header).with_table("groups", groups).with_table("dead_letters", parsed.dead_letters)
        if self.keep is not None:
            envelope = self.keep(envelope)
        return envelope.timed("gather", time.perf_counter() - started)


def _read_record(
    raw: RawSplit, dead_letters: pa.Table, rows: int, drops: dict[str, int], seconds: dict[str, float]
) -> Commit:
    """The record of a split that was read: all its rows, of which only those that go no further end here."""
    return Commit(
        split_id=raw.split_id,
        file=raw.file,
        file_index=raw.file_index,
        split_index=raw.split_index,
        last=raw.last,
        rows=rows,
        rows_in_groups=0,
        groups=0,
        candidates=0,
        dead_letters=dict(Counter(dead_letters["reason"].to_pylist())),
        drops=drops,
        statuses={},
        errors={},
        tokens={},
        seconds=seconds,
        input_bytes=raw.input_bytes,
        part_bytes=0,
        examples=examples_of(dead_letters),
    )
