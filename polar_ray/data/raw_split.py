"""The raw split: rows as they were read, still to be parsed."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa


@dataclass(frozen=True, eq=False)
class RawSplit:
    """A split as read: bytes that are still to be parsed.

    Attributes:
        split_id: ``{file_index:05d}-{split_index:05d}``, the name of the split's part file.
        file: URL or absolute path.
        file_index: Position of the file in the listing.
        split_index: Position of the split in its file.
        row_start: 0-based number of the first row in its file: a physical line, or a Parquet row.
        rows: Rows of the file that the split is: those in ``payload``, and the blank lines that are left out.
        last: Whether it is the last split of its file.
        kind: ``jsonl``: lines with their ends. ``arrow``: an Arrow IPC stream.
        payload: The rows.
        offsets: int64, JSONL only: where each line starts in ``payload``, and the end; one more than there are lines.
        error: Why what follows the rows cannot be read, or None. It becomes one dead letter.
        tail: The readable beginning of the row that could not be read to its end.
        unopened: Whether ``error`` is that the file is gone or may not be read.
        numbers: int64, JSONL only: the number of each line in its file.
        too_long: JSONL only: the bytes of each line, by its number, of which only the beginning is in ``payload``.
        left_out_bytes: Bytes of the file that are not in ``payload``: blank lines, and the rest of those too long.
    """

    split_id: str
    file: str
    file_index: int
    split_index: int
    row_start: int
    rows: int
    last: bool
    kind: Literal["jsonl", "arrow"]
    payload: bytes | pa.Buffer
    offsets: np.ndarray
    error: str | None = None
    tail: bytes = b""
    unopened: bool = False
    numbers: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    too_long: dict[int, int] = field(default_factory=dict)
    left_out_bytes: int = 0

    @property
    def input_bytes(self) -> int:
        """Bytes that were read, decompressed."""
        return len(self.payload) + self.left_out_bytes

    @property
    def blank_lines(self) -> int:
        """How many lines were left out, since they are blank."""
        return self.rows - len(self.numbers) if self.kind == "jsonl" else 0
