"""Writing local files: each appears whole or not at all, and a disk that is full for a while is waited for."""

import contextlib
import io
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from typing_extensions import Buffer

from polar_ray.data.faults import words
from polar_ray.data.patience import Patience
from polar_ray.errors import StorageFault

TEMPORARY_PREFIX = ".tmp-"
_TEMPORARY = re.compile(re.escape(TEMPORARY_PREFIX) + "[0-9a-f]{32}")
"""Files of such a name are left by writers that were killed; they are never listed."""
_BUFFER_BYTES = 2**20


class _WaitingFile(io.FileIO):
    """A file whose every write waits for room. A write that fails for want of it has written nothing."""

    def __init__(self, path: str, patience: Patience) -> None:
        super().__init__(path, "xb")
        self._patience = patience
        self._abandoned = False

    def write(self, data: Buffer) -> int:
        if self._abandoned:
            return memoryview(data).nbytes
        return self._patience.call(lambda: super(_WaitingFile, self).write(data), writing=True)

    def abandon(self) -> None:
        """Is told that the content will not be whole: what is still buffered need not wait for room."""
        self._abandoned = True


@contextmanager
def new_file(path: str, patience: Patience) -> Iterator[BinaryIO]:
    """Opens a file that is not there yet for buffered writing."""
    raw = patience.call(lambda: _WaitingFile(path, patience), writing=True)
    with io.BufferedWriter(raw, _BUFFER_BYTES) as stream:
        try:
            yield cast(BinaryIO, stream)
            stream.flush()
        except BaseException:
            raw.abandon()
            raise


@contextmanager
def replace_local(path: str, patience: Patience, check: Callable[[], None]) -> Iterator[BinaryIO]:
    """Opens a local file for writing; it appears, whole, when the block ends, and not at all if it raises.

    Args:
        path: Of the file.
        patience: How long it is waited for a disk that is full.
        check: Is asked just before the file appears, and may raise.
    """
    folder = os.path.dirname(path)
    try:
        patience.call(lambda: os.makedirs(folder, exist_ok=True), writing=True)
    except (FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        raise StorageFault(f"{path} cannot be written: {folder} cannot be made ({words(error)})") from error
    temporary = os.path.join(folder, f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    try:
        with new_file(temporary, patience) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())

        def appear() -> None:
            check()
            os.replace(temporary, path)

        patience.call(appear, writing=True)
    except BaseException:
        # Whatever stopped the writer, an interrupt included, its half-written file must not stay. Where it cannot be
        # deleted, what stopped the writer is still what is told.
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    # The rename itself is safe from a power cut only when the folder is on disk too.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_temporary(path: str) -> bool:
    """Whether a file is what a killed writer left."""
    return _TEMPORARY.fullmatch(path.rsplit("/", 1)[-1]) is not None
