"""The stages of the pipeline: what Ray Data calls with a block, one split per row.

read → encode → score (once per scorer) → write. Everything but scoring runs as plain tasks.
"""

import os
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import pyarrow as pa

from polar_ray.data.lease import Fence
from polar_ray.data.parsing import parse_split
from polar_ray.data.reading import RawSplit, read_source
from polar_ray.data.sources import Source
from polar_ray.recipe.input import Input
from polar_ray.recipe.scorers import ScorerConfig
from polar_ray.running.commit import commit_split
from polar_ray.running.envelope import Envelope, Header
from polar_ray.running.failures import stage
from polar_ray.running.folder import RunFolder
from polar_ray.running.keep import Keep
from polar_ray.running.overheard import overheard
from polar_ray.scorers.base import Encoder
from polar_ray.scorers.catalog import make_encoder
from polar_ray.scorers.sight import seen

Blocks = Iterator[pa.Table]


@dataclass(frozen=True)
class Read:
    """Source → its raw splits. A generator, so that a huge file streams through in bounded memory."""

    input: Input
    committed: frozenset[str]
    attempts: Any = None
    unopened_allowed: bool = False

    def __call__(self, block: pa.Table) -> Blocks:
        """Yields one block per split."""
        for source in block.column("source").to_pylist():
            yield from self._splits(pickle.loads(source))

    def _splits(self, source: Source) -> Blocks:
        with stage("reading", source.file.path), overheard(self.attempts):
            started = time.perf_counter()
            for raw in read_source(source, self.input, self.committed, unopened_allowed=self.unopened_allowed):
                block = pack(raw).timed("read", time.perf_counter() - started).to_block()
                # The next split is not read while this one is still held here.
                del raw
                yield block
                del block
                started = time.perf_counter()


@dataclass(frozen=True)
class Encode:
    """Raw split → groups, dead letters and, for the first scorer, ids. ``keep`` takes out what needs no scoring."""

    input: Input
    scorer_name: str
    scorer: ScorerConfig
    keep: Keep | None = None

    def __call__(self, block: pa.Table) -> Blocks:
        """Yields one block per split."""
        for envelope in Envelope.of_block(block):
            with stage("encoding", envelope.name):
                encoded = encode(self._parse(envelope), self.scorer_name, self.scorer)
            yield encoded.to_block()

    def _parse(self, envelope: Envelope) -> Envelope:
        started = time.perf_counter()
        parsed = parse_split(unpack(envelope), self.input)
        envelope = envelope.without("raw", "raw_split").with_header(
            rows_in_groups=parsed.rows_in_groups, drops=parsed.drops
        )
        groups = parsed.groups_with_places().drop_columns("input_rows")
        envelope = envelope.with_table("groups", groups).with_table("dead_letters", parsed.dead_letters)
        if self.keep is not None:
            envelope = self.keep(envelope)
        return envelope.timed("parse", time.perf_counter() - started)


@dataclass(frozen=True)
class EncodeNext:
    """Groups → ids for the second and later scorers."""

    scorer_name: str
    scorer: ScorerConfig

    def __call__(self, block: pa.Table) -> Blocks:
        """Yields one block per split."""
        for envelope in Envelope.of_block(block):
            with stage("encoding", envelope.name):
                encoded = encode(envelope, self.scorer_name, self.scorer)
            yield encoded.to_block()


@dataclass(frozen=True)
class Write:
    """Scores → ranks, part file, dead letters and commit record; a block of one small row remains."""

    folder: RunFolder
    scorer_names: tuple[str, ...]
    generation: int = 1
    attempts: Any = None
    fence: Fence | None = None

    def __call__(self, block: pa.Table) -> Blocks:
        """Yields one block per split: its commit record as JSON."""
        for envelope in Envelope.of_block(block):
            with stage("writing", envelope.name), overheard(self.attempts):
                if self.fence is not None:
                    self.fence.check()
                record = commit_split(self.folder, envelope, self.scorer_names, self.generation)
            yield pa.table({"commit": pa.array([record], pa.binary())})


def pack(raw: RawSplit) -> Envelope:
    """Puts a raw split into an envelope; its bytes become a part of their own."""
    header = Header(
        split_id=raw.split_id,
        file=raw.file,
        file_index=raw.file_index,
        split_index=raw.split_index,
        last=raw.last,
        # What could not be read of a damaged file counts as one row: its dead letter stands for it.
        rows=raw.rows + (raw.error is not None),
        input_bytes=raw.input_bytes,
    )
    envelope = Envelope(header).with_bytes("raw", raw.payload)
    return envelope.with_bytes("raw_split", pickle.dumps(replace(raw, payload=b"")))


def unpack(envelope: Envelope) -> RawSplit:
    """Takes the raw split out of an envelope."""
    raw: RawSplit = pickle.loads(envelope.parts["raw_split"])
    part = envelope.parts["raw"]
    # Lines are cut out one by one, for which bytes are quicker; rows are read where they lie.
    return replace(raw, payload=part.to_pybytes() if raw.kind == "jsonl" else part)


def encode(envelope: Envelope, name: str, config: ScorerConfig) -> Envelope:
    """Adds the ids that a scorer reads, if it reads ids."""
    encoder = _encoder(config)
    if encoder is None:
        return envelope
    started = time.perf_counter()
    groups = seen(envelope.table("groups"), encoder.sight).groups
    envelope = envelope.with_table(f"encoded:{name}", encoder.encode(groups))
    return envelope.timed(f"encode:{name}", time.perf_counter() - started)


def _encoder(config: ScorerConfig) -> Encoder | None:
    return _encoder_of_json(type(config), config.model_dump_json())


@lru_cache(maxsize=4)
def _encoder_of_json(config: type[ScorerConfig], text: str) -> Encoder | None:
    # A worker process serves many splits; the tokenizer is loaded once in each. Tasks run side by side, and each asks
    # for less than one CPU: the tokenizers library must not take all cores for it, the model's among them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return make_encoder(config.model_validate_json(text))
