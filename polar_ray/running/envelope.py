"""A split on its way through the pipeline.

Each split travels as one row of one block, so that Ray can neither cut a split nor mix two. The row holds a small
header and named parts (the raw bytes, groups, ids, scores), each as Arrow IPC bytes that are read without a copy.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import msgspec
import pyarrow as pa

from polar_ray.scorers.verification import Verification


class Header(msgspec.Struct, frozen=True):
    """What is known of a split.

    Attributes:
        split_id: Names the split's part file.
        file: The input file as listed.
        split_index: Position among the splits of its file.
        last: Whether it is the last split of its file.
        rows: Input rows read, as the reader counted them.
        input_bytes: Bytes read, decompressed.
        rows_in_groups: Input rows that became (part of) a group.
        drops: Rows dropped by declared policy, by reason.
        seconds: Time spent in each stage.
        waited: Time that the actor of a scoring stage waited for this split.
        verified: What came of scoring a sample again, by scorer.
    """

    split_id: str
    file: str
    file_index: int
    split_index: int
    last: bool
    rows: int = 0
    input_bytes: int = 0
    rows_in_groups: int = 0
    drops: dict[str, int] = {}
    seconds: dict[str, float] = {}
    waited: dict[str, float] = {}
    verified: dict[str, Verification] = {}


_HEADER = "header"


@dataclass(frozen=True)
class Envelope:
    """One split: its header and its parts by name."""

    header: Header
    parts: dict[str, pa.Buffer] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What an error message calls the split."""
        return f"split {self.header.split_id} of {self.header.file or 'the input'}"

    def with_header(self, **changes: object) -> "Envelope":
        """Returns the envelope with fields of its header replaced."""
        return replace(self, header=msgspec.structs.replace(self.header, **changes))

    def timed(self, stage: str, seconds: float) -> "Envelope":
        """Returns the envelope with the time that a stage took."""
        return self.with_header(seconds={**self.header.seconds, stage: round(seconds, 6)})

    def waited(self, stage: str, seconds: float) -> "Envelope":
        """Returns the envelope with the time that an actor waited for it."""
        return self.with_header(waited={**self.header.waited, stage: round(seconds, 6)})

    def verified(self, scorer: str, verification: Verification) -> "Envelope":
        """Returns the envelope with what came of scoring a sample of it again."""
        return self.with_header(verified={**self.header.verified, scorer: verification})

    def with_bytes(self, name: str, data: bytes | pa.Buffer) -> "Envelope":
        """Returns the envelope with one more part."""
        return replace(self, parts={**self.parts, name: pa.py_buffer(data)})

    def with_table(self, name: str, table: pa.Table) -> "Envelope":
        """Returns the envelope with a table as one more part."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return self.with_bytes(name, sink.getvalue())

    def without(self, *names: str) -> "Envelope":
        """Returns the envelope without some parts."""
        return replace(self, parts={name: part for name, part in self.parts.items() if name not in names})

    def table(self, name: str) -> pa.Table:
        """Reads a part that is a table, without copying it."""
        with pa.ipc.open_stream(self.parts[name]) as reader:
            return reader.read_all()

    def to_block(self) -> pa.Table:
        """Returns the block of one row that stands for this split."""
        columns = {_HEADER: pa.array([msgspec.msgpack.encode(self.header)], pa.binary())}
        for name, part in self.parts.items():
            # from_buffers takes the part as it is: no copy of the bytes, however large.
            offsets = pa.py_buffer(pa.array([0, part.size], pa.int64()).buffers()[1])
            columns[name] = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, part])
        return pa.table(columns)

    @staticmethod
    def of_block(block: pa.Table) -> Iterator["Envelope"]:
        """Yields the splits of a block, one per row."""
        for row in range(block.num_rows):
            parts = {name: block.column(name)[row].as_buffer() for name in block.column_names if name != _HEADER}
            header = msgspec.msgpack.decode(block.column(_HEADER)[row].as_py(), type=Header)
            yield Envelope(header, {name: part for name, part in parts.items() if part is not None})
