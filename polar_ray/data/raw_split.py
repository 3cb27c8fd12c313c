"""The raw split: rows as they were read, still to be parsed."""

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True, eq=False)
class RawSplit:
    """A split as read: bytes that are still to be parsed.

    Attributes:
        split_id: ``{file_index:05d}-{split_index:05d}``, the name of the split's part file.
        file: URL or absolute path.
        file_index: Position of the file in the listing.
        split_index: Position of the split in its file.
        row_start: 0-based number of the first row in its file: a physical line, or a Parquet row.
        rows: Rows in ``payload``.
        last: Whether it is the last split of its file.
        kind: ``jsonl``: lines with their ends. ``arrow``: an Arrow IPC stream.
        payload: The rows.
        offsets: int64, JSONL only: where each line starts in ``payload``, and the end; ``rows + 1`` of them.
        error: Why what follows the rows cannot be read, or None. It becomes one dead letter.
        tail: The readable beginning of the row that could not be read to its end.
        unopened: Whether ``error`` is that the file is gone or may not be read.
    """

    split_id: str
    file: str
    file_index: int
    split_index: int
    row_start: int
    rows: int
    last: bool
    kind: Literal["jsonl", "arrow"]
    payload: bytes
    offsets: np.ndarray
    error: str | None = None
    tail: bytes = b""
    unopened: bool = False
