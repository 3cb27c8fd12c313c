"""Decompression: one stream of bytes from a file of several gzip members or zstd frames, in bounded memory.

Reading past a damaged place is not possible, but everything before it is given, to the last byte.
"""

from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa

from polar_ray.data.damage import opening
from polar_ray.data.listing import Compression
from polar_ray.data.storage import Storage

CHUNK_BYTES = 2**20
_BUFFER_BYTES = 4 * 2**20


class DamagedFile(Exception):
    """The file's content is broken; the storage is not to blame."""


class _Readable(Protocol):
    def read(self, size: int) -> bytes: ...


class _Watched:
    """A raw stream that remembers its own failure, so that it is not taken for damage of the content."""

    def __init__(self, stream: _Readable) -> None:
        self._stream = stream
        self.closed = False
        self.error: OSError | None = None

    def read(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except OSError as error:
            self.error = error
            raise

    def close(self) -> None:
        self.closed = True


def read_chunks(storage: Storage, path: str, compression: Compression | None) -> Iterator[bytes]:
    """Yields a file's bytes, decompressed.

    Raises:
        DamagedFile: After the last good byte: the rest cannot be decompressed.
        UnopenedFile: The file is gone, or may not be read.
        StorageFault: The storage fails.
    """
    good = 0
    try:
        for chunk in _chunks(storage, path, compression, CHUNK_BYTES):
            good += len(chunk)
            yield chunk
    except DamagedFile:
        if compression is None:
            raise
        # The read that met the damage lost what it had decompressed before it, so that part is read again bytewise.
        rest = _chunks(storage, path, compression, 1, skip=good)
        yield from _until_damage(rest)
        raise


def _until_damage(chunks: Iterator[bytes]) -> Iterator[bytes]:
    held = bytearray()
    try:
        for chunk in chunks:
            held += chunk
    except DamagedFile:
        pass
    if held:
        yield bytes(held)


def _chunks(storage: Storage, path: str, compression: Compression | None, size: int, skip: int = 0) -> Iterator[bytes]:
    with opening(path), storage.open_input(path) as raw:
        if compression is None:
            while chunk := raw.read(size):
                yield chunk
            return
        watched = _Watched(raw)
        # One buffer below the decompressor, so that it does not ask the storage for every few bytes.
        buffered = pa.BufferedInputStream(pa.PythonFile(watched, mode="r"), _BUFFER_BYTES)
        stream = pa.CompressedInputStream(buffered, compression)
        try:
            while skip:
                skip -= len(stream.read(min(skip, CHUNK_BYTES)))
            while chunk := stream.read(size):
                yield chunk
        except (OSError, pa.ArrowException) as error:
            if watched.error is not None:
                raise watched.error from error
            raise DamagedFile(f"The {compression} data is broken or cut: {error}") from error
