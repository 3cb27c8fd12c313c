"""Lines: bytes that come in chunks of any size and go out as whole lines, as many as make a split."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

KeyOf = Callable[[bytes], str | None]

BLANKS_COUNT = 1
"""The rule of the first versions: blank lines stand in a split like others, and the longest line has 1 GiB."""
READING = 2
"""Today's rule of how lines become splits; a run keeps to the one that it was begun with."""
OLD_LINE_BYTES = 2**30
"""The limit of a line under the first rule, where that of the recipe is lower."""
KEPT_BYTES = 1000
"""What is kept of a line that is too long."""

_SPACE = np.isin(np.arange(256), list(b" \t\n\r\x0b\x0c"))


@dataclass(frozen=True, eq=False)
class Taken:
    """Lines that were taken from the front.

    Attributes:
        payload: The lines with their ends; empty if no copy was wanted.
        offsets: int64: where each line starts in the payload, and the end.
        numbers: int64: the number of each line in its file.
        rows: Lines of the file that these are, with the blank ones before them, which are left out.
        input_bytes: Bytes of the file that these are.
        too_long: Bytes of each line, by its number, of which only the beginning is in the payload.
    """

    payload: bytes
    offsets: np.ndarray
    numbers: np.ndarray
    rows: int
    input_bytes: int
    too_long: dict[int, int]


class Lines:
    """Cuts bytes into splits at line ends; how the bytes arrive does not matter.

    Blank lines are left out as they come, so that they fill neither memory nor splits; they are counted with the line
    that follows them. Of a line that is too long only the beginning is held.

    Args:
        split_rows: Most lines of a split.
        split_bytes: Most bytes of a split, unless a single line is longer.
        key_of: Tells the prompt of a line, so that the rows of one prompt stay together; None where they need not.
        line_bytes: Most bytes of a line, without its end.
        reading: The rule; with ``BLANKS_COUNT`` blank lines are lines.
    """

    def __init__(
        self,
        split_rows: int,
        split_bytes: int,
        key_of: KeyOf | None = None,
        *,
        line_bytes: int = OLD_LINE_BYTES,
        reading: int = READING,
    ) -> None:
        self._split_rows = split_rows
        self._split_bytes = split_bytes
        self._key_of = key_of
        self._line_bytes = line_bytes
        self._kept_bytes = min(KEPT_BYTES, line_bytes)
        self._blanks_count = reading == BLANKS_COUNT
        self._buffer = bytearray()
        self._start = 0
        self._held = _Held.none()
        self._too_long: dict[int, int] = {}
        # What was taken, and what has come, up to the last line end: lines of the file, its bytes, bytes that count.
        self._taken_rows = self._taken_bytes = self._taken_weight = 0
        self._rows = self._bytes = self._weight = 0
        # The line whose end has not come: its bytes, those of them in the buffer, and whether it is more than blank.
        self._open_bytes = self._open_held = 0
        self._open_text = False
        self._scan: tuple[int, str | None] | None = None

    @property
    def complete(self) -> int:
        """How many whole lines are held."""
        return len(self._held.ends)

    def add(self, chunk: bytes) -> None:
        """Takes more bytes."""
        if not (self._open_bytes or self._blanks_count) and chunk.endswith(b"\n") and chunk.isspace():
            # A few kilobytes that decompress to nothing but line ends are counted, and no more.
            self._rows += chunk.count(b"\n")
            self._bytes += len(chunk)
            return
        if self._start:
            del self._buffer[: self._start]
            self._held.ends -= self._start
            self._start = 0
        data = np.frombuffer(chunk, np.uint8)
        stops = np.flatnonzero(data == ord("\n")) + 1
        # One piece for each line that ends here, and one, which may be empty, for the line that does not.
        starts, stops = np.concatenate([[0], stops]), np.concatenate([stops, [len(data)]])
        sizes = stops - starts
        text = _has_text(data, starts, stops)
        text[0] |= self._open_text
        sizes[0] += self._open_bytes
        contents = sizes.copy()
        contents[:-1] -= 1
        keep = text | self._blanks_count
        keep[-1] = True
        long = keep & (contents > self._line_bytes)
        held = stops - starts
        line_start = len(self._buffer) - self._open_held
        if not keep[0]:
            self._open_held = 0
        elif long[0]:
            self._open_held = min(self._open_held, self._kept_bytes)
        del self._buffer[line_start + self._open_held :]
        if keep.all() and not long.any():
            self._buffer += chunk
        else:
            wanted = np.repeat(keep, held)
            for piece in np.flatnonzero(long).tolist():
                first = int(starts[piece]) + self._kept_bytes - (self._open_held if piece == 0 else 0)
                stop = int(stops[piece]) - (piece < len(stops) - 1)
                wanted[first:stop] = False
                held[piece] = np.count_nonzero(wanted[starts[piece] : stops[piece]])
            self._buffer += data[wanted].tobytes()
        held[0] += self._open_held
        self._open_bytes, self._open_held, self._open_text = int(sizes[-1]), int(held[-1]), bool(text[-1])
        self._note(line_start, sizes[:-1], contents[:-1], held[:-1], keep[:-1], long[:-1])

    def _note(
        self,
        line_start: int,
        sizes: np.ndarray,
        contents: np.ndarray,
        held: np.ndarray,
        keep: np.ndarray,
        long: np.ndarray,
    ) -> None:
        """Notes the lines that came to their ends."""
        for line in np.flatnonzero(long).tolist():
            self._too_long[self._rows + line] = int(contents[line])
        new = _Held(
            ends=line_start + np.cumsum(held[keep]),
            weights=self._weight + np.cumsum(sizes[keep]),
            bytes=(self._bytes + np.cumsum(sizes))[keep],
            numbers=self._rows + np.flatnonzero(keep),
        )
        self._held = self._held.followed_by(new)
        self._rows += len(sizes)
        self._bytes += int(sizes.sum())
        self._weight += int(sizes[keep].sum())

    def finish(self) -> None:
        """Makes a line of the bytes after the last line end."""
        if not self._open_bytes:
            return
        size, held, line_start = self._open_bytes, self._open_held, len(self._buffer) - self._open_held
        keep = self._open_text or self._blanks_count
        if not keep:
            del self._buffer[line_start:]
        one = np.array([size])
        self._open_bytes = self._open_held = 0
        long = np.array([keep and size > self._line_bytes])
        self._note(line_start, one, one, np.array([held]), np.array([keep]), long)

    def rest(self) -> bytes:
        """Returns the bytes after the last line end; of a line that is too long the beginning."""
        return bytes(self._buffer[len(self._buffer) - self._open_held :])

    def next_split(self, *, ended: bool = False) -> int | None:
        """Returns how many lines make the next split, when that is certain and it is not the file's last one.

        Args:
            ended: No more bytes will come.
        """
        held = self.complete
        fitting = int(np.searchsorted(self._held.weights, self._taken_weight + self._split_bytes, side="right"))
        open_line = self._open_text or self._blanks_count
        waiting = self._weight - self._taken_weight + (self._open_bytes if open_line else 0)
        if self._split_rows <= fitting:
            count = self._split_rows
        elif fitting < held or (fitting and waiting > self._split_bytes):
            count = max(fitting, 1)
        else:
            return None
        if self._key_of is not None:
            grown = self._to_prompt_end(count, self._key_of)
            if grown is None:
                return None
            count = grown
        # A split is the last one of its file when no line follows, which is known only once one does.
        is_followed = count < held or (not ended and open_line and self._open_bytes > 0)
        return count if is_followed else None

    def take(self, count: int, *, copy: bool, last: bool = False) -> Taken:
        """Removes lines from the front and returns them, or nothing of their bytes if no copy is wanted.

        Args:
            count: How many.
            copy: Whether the bytes are wanted.
            last: Whether the blank lines behind them are theirs too.
        """
        held = self._held
        stop = int(held.ends[count - 1]) if count else self._start
        numbers = held.numbers[:count]
        rows, size = (self._rows, self._bytes) if last else (int(numbers[-1]) + 1, int(held.bytes[count - 1]))
        taken = Taken(
            payload=bytes(memoryview(self._buffer)[self._start : stop]) if copy else b"",
            offsets=np.concatenate([[self._start], held.ends[:count]]) - self._start,
            numbers=numbers,
            rows=rows - self._taken_rows,
            input_bytes=size - self._taken_bytes,
            too_long={row: self._too_long.pop(row) for row in list(self._too_long) if row < rows},
        )
        self._start, self._taken_rows, self._taken_bytes = stop, rows, size
        if count:
            self._taken_weight = int(held.weights[count - 1])
        self._held = held.after(count)
        self._scan = None
        return taken

    def _key(self, index: int, key_of: KeyOf) -> str | None:
        if int(self._held.numbers[index]) in self._too_long:
            return None
        start = int(self._held.ends[index - 1]) if index else self._start
        return key_of(bytes(self._buffer[start : int(self._held.ends[index])]))

    def _to_prompt_end(self, count: int, key_of: KeyOf) -> int | None:
        """Returns how many lines there are up to the end of the prompt that line ``count - 1`` belongs to.

        A line that is no candidate belongs to the prompt before it. None: more bytes are needed to say.
        """
        if self._scan is None:
            keys = (self._key(index, key_of) for index in range(count - 1, -1, -1))
            self._scan = (count, next((key for key in keys if key is not None), None))
        index, key = self._scan
        while index < self.complete:
            other = self._key(index, key_of)
            if other is not None and other != key:
                self._scan = (index, key)
                return index
            index += 1
        self._scan = (index, key)
        return None


@dataclass(eq=False)
class _Held:
    """The whole lines that are held: int64, one for each of them.

    Attributes:
        ends: Where it ends in the buffer.
        weights: Bytes up to its end that count towards ``split_bytes``: those of lines that are not left out.
        bytes: Where it ends in the file.
        numbers: Its number in the file.
    """

    ends: np.ndarray
    weights: np.ndarray
    bytes: np.ndarray
    numbers: np.ndarray

    @staticmethod
    def none() -> "_Held":
        return _Held(*(np.zeros(0, np.int64) for _ in range(4)))

    def followed_by(self, new: "_Held") -> "_Held":
        return _Held(
            np.concatenate([self.ends, new.ends]),
            np.concatenate([self.weights, new.weights]),
            np.concatenate([self.bytes, new.bytes]),
            np.concatenate([self.numbers, new.numbers]),
        )

    def after(self, count: int) -> "_Held":
        return _Held(self.ends[count:], self.weights[count:], self.bytes[count:], self.numbers[count:])


def _has_text(data: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Returns for each piece of the data whether there is more in it than white space."""
    full = stops > starts
    if not _SPACE[data[starts[full]]].any():
        # The usual case: every line begins with a brace.
        return full
    counts = np.concatenate([[0], np.cumsum(~_SPACE[data], dtype=np.int32)])
    return np.asarray(counts[stops] > counts[starts])
