"""Damage: telling a broken file, which costs itself, from one that cannot be opened and from a storage that fails."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from polar_ray.data.faults import is_denied, words
from polar_ray.data.storage import Storage
from polar_ray.errors import StorageFault, UnopenedFile

_EDGE_BYTES = 64 * 2**10


def check_readable(storage: Storage, path: str) -> None:
    """Makes sure that the storage gives the file's first and last bytes.

    When it does, an error met while decoding the file lies in the file. When it does not, the error is the
    storage's, and this function raises it.

    Raises:
        UnopenedFile: The file is gone, or may not be read.
        OSError: The storage fails.
    """

    def look(file: pa.NativeFile) -> None:
        size = file.size()
        file.read(min(size, _EDGE_BYTES))
        file.seek(max(0, size - _EDGE_BYTES))
        file.read(min(size, _EDGE_BYTES))

    with opening(path):
        storage.read_with(path, look)


def can_be_opened(storage: Storage, path: str) -> bool:
    """Whether the file is there and may be read. Raises OSError where the storage fails."""
    try:
        check_readable(storage, path)
    except UnopenedFile:
        return False
    return True


@contextmanager
def opening(path: str) -> Iterator[None]:
    """Tells a file that cannot be opened from a storage that fails.

    Raises:
        UnopenedFile: The file is gone, or may not be read.
    """
    try:
        yield
    except OSError as error:
        if not isinstance(error, FileNotFoundError) and not is_denied(error):
            raise
        raise UnopenedFile(
            f"{path} cannot be opened ({_reason(error)}), so its rows would be missing. Put it back or let this user "
            "read it, and run the same command again; or set limits.max_unopened_files to go on without such files"
        ) from error


def _reason(error: OSError) -> str:
    """Returns why, without the path, which the sentence has already."""
    cause = error.__cause__ if isinstance(error, StorageFault) and error.__cause__ is not None else error
    number = cause.errno if isinstance(cause, OSError) else None
    return words(cause) if number is None else os.strerror(number)
