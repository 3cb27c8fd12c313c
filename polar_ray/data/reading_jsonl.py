"""Reading JSONL: bytes are cut into splits at line ends; no line is parsed, save where a prompt could be cut in two."""

from collections.abc import Callable, Collection, Iterator

import numpy as np

from polar_ray.data.dead_letters import BadRow
from polar_ray.data.decompress import DamagedFile, read_chunks
from polar_ray.data.raw_split import RawSplit
from polar_ray.data.rows import RowReader
from polar_ray.data.sources import Source, split_id
from polar_ray.data.storage import Storage
from polar_ray.data.strict_json import decode_object, encode_sorted
from polar_ray.recipe.input import Input

LINE_BYTES_LIMIT = 2**30
"""A longer line is taken for a file that is no JSONL; it would not fit into memory."""

KeyOf = Callable[[bytes], str | None]


def read_jsonl(source: Source, config: Input, skip: Collection[str]) -> Iterator[RawSplit]:
    """Yields the splits of a JSONL file; see ``read_source``."""
    storage = Storage.of(source.file.path, config.storage_options, source.wait_s)
    key_of = prompt_key(config) if config.layout == "candidates" else None
    lines = Lines(config.split_rows, config.split_bytes, key_of)
    row = index = 0

    def split(count: int, *, last: bool, error: str | None = None) -> RawSplit | None:
        nonlocal row, index
        name = split_id(source.file_index, index)
        payload, offsets = lines.take(count, copy=name not in skip)
        start, row, index = row, row + count, index + 1
        if name in skip:
            return None
        return RawSplit(
            split_id=name,
            file=source.file.path,
            file_index=source.file_index,
            split_index=index - 1,
            row_start=start,
            rows=count,
            last=last,
            kind="jsonl",
            payload=payload,
            offsets=offsets,
            error=error,
            tail=lines.rest() if error is not None else b"",
        )

    damage: str | None = None
    try:
        for chunk in read_chunks(storage, source.file.path, source.file.compression):
            lines.add(chunk)
            while (count := lines.next_split()) is not None:
                if (made := split(count, last=False)) is not None:
                    yield made
            if lines.unfinished_bytes > LINE_BYTES_LIMIT:
                damage = f"A line is longer than {LINE_BYTES_LIMIT} bytes; is the file JSONL?"
                break
    except DamagedFile as error:
        damage = str(error)
    if damage is None:
        lines.finish()
    while (count := lines.next_split(ended=True)) is not None:
        if (made := split(count, last=False)) is not None:
            yield made
    if (made := split(lines.complete, last=True, error=damage)) is not None:
        yield made


class Lines:
    """Bytes that come in chunks of any size and go out as whole lines, as many as make a split.

    Args:
        split_rows: Most lines of a split.
        split_bytes: Most bytes of a split, unless a single line is longer.
        key_of: Tells the prompt of a line, so that the rows of one prompt stay together; None where they need not.
    """

    def __init__(self, split_rows: int, split_bytes: int, key_of: KeyOf | None = None) -> None:
        self._split_rows = split_rows
        self._split_bytes = split_bytes
        self._key_of = key_of
        self._buffer = bytearray()
        self._start = 0
        self._ends = np.zeros(0, np.int64)
        self._scan: tuple[int, str | None] | None = None

    @property
    def complete(self) -> int:
        """How many whole lines are held."""
        return len(self._ends)

    @property
    def unfinished_bytes(self) -> int:
        """Bytes after the last line end."""
        return len(self._buffer) - (int(self._ends[-1]) if len(self._ends) else self._start)

    def add(self, chunk: bytes) -> None:
        """Takes more bytes."""
        if self._start:
            del self._buffer[: self._start]
            self._ends -= self._start
            self._start = 0
        ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + (len(self._buffer) + 1)
        self._buffer += chunk
        self._ends = np.concatenate([self._ends, ends])

    def finish(self) -> None:
        """Makes a line of the bytes after the last line end."""
        if self.unfinished_bytes:
            self._ends = np.append(self._ends, len(self._buffer))

    def rest(self) -> bytes:
        """Returns the bytes after the last line end."""
        return bytes(self._buffer[len(self._buffer) - self.unfinished_bytes :])

    def next_split(self, *, ended: bool = False) -> int | None:
        """Returns how many lines make the next split, when that is certain and it is not the file's last one.

        Args:
            ended: No more bytes will come.
        """
        held = len(self._ends)
        fitting = int(np.searchsorted(self._ends, self._start + self._split_bytes, side="right"))
        if self._split_rows <= fitting:
            count = self._split_rows
        elif fitting < held or (fitting and len(self._buffer) - self._start > self._split_bytes):
            count = max(fitting, 1)
        else:
            return None
        if self._key_of is not None:
            grown = self._to_prompt_end(count, self._key_of)
            if grown is None:
                return None
            count = grown
        # A split is the last one of its file when nothing follows, which is known only once something does.
        is_followed = int(self._ends[count - 1]) < len(self._buffer) if not ended else count < held
        return count if is_followed else None

    def take(self, count: int, *, copy: bool) -> tuple[bytes, np.ndarray]:
        """Removes lines from the front and returns them with their offsets, or nothing if no copy is wanted."""
        stop = int(self._ends[count - 1]) if count else self._start
        payload = bytes(memoryview(self._buffer)[self._start : stop]) if copy else b""
        offsets = np.concatenate([[self._start], self._ends[:count]]) - self._start
        self._start = stop
        self._ends = self._ends[count:]
        self._scan = None
        return payload, offsets

    def _line(self, index: int) -> bytes:
        start = int(self._ends[index - 1]) if index else self._start
        return bytes(self._buffer[start : int(self._ends[index])])

    def _to_prompt_end(self, count: int, key_of: KeyOf) -> int | None:
        """Returns how many lines there are up to the end of the prompt that line ``count - 1`` belongs to.

        A line that is no candidate belongs to the prompt before it. None: more bytes are needed to say.
        """
        if self._scan is None:
            keys = (key_of(self._line(index)) for index in range(count - 1, -1, -1))
            self._scan = (count, next((key for key in keys if key is not None), None))
        index, key = self._scan
        while index < len(self._ends):
            other = key_of(self._line(index))
            if other is not None and other != key:
                self._scan = (index, key)
                return index
            index += 1
        self._scan = (index, key)
        return None


def prompt_key(config: Input) -> KeyOf:
    """Returns a function that tells the prompt of a line: its id, else its messages; None if it is no candidate."""
    reader = RowReader(config)

    def key_of(line: bytes) -> str | None:
        try:
            row = reader.candidate(decode_object(line))
        except BadRow:
            return None
        return f"id:{row.prompt_id}" if row.prompt_id is not None else f"prompt:{encode_sorted(row.prompt)}"

    return key_of
