"""A stream of a file's bytes that goes on where it was when the storage was away meanwhile."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.fs as pafs

from polar_ray.data.patience import Patience


class Stream:
    """Reads a file from its start to its end; a context manager.

    Args:
        filesystem: Makes the filesystem.
        key: The file's path in it.
        path: The same for a person.
        patience: How long the storage is waited for.

    Raises:
        FileNotFoundError: There is no such file.
        StorageFault: The storage fails, here or in ``read``.
    """

    def __init__(self, filesystem: Callable[[], pafs.FileSystem], key: str, path: str, patience: Patience) -> None:
        self._filesystem = filesystem
        self._key = key
        self._path = path
        self._patience = patience
        self._position = 0
        self._open: pa.NativeFile | None = patience.ask(path, self._opened)

    def read(self, size: int | None = None) -> bytes:
        """Returns up to ``size`` bytes, or all that are left; none at the end."""
        data = self._patience.ask(self._path, lambda: self._read(size))
        self._position += len(data)
        return data

    def close(self) -> None:
        """Closes the file."""
        if self._open is not None:
            self._open.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read(self, size: int | None) -> bytes:
        if self._open is None:
            self._open = self._opened()
        try:
            data: bytes = self._open.read(size)
        except OSError:
            # Where a stream stands after it failed is not known.
            self._open = None
            raise
        return data

    def _opened(self) -> pa.NativeFile:
        if self._position == 0:
            return self._filesystem().open_input_stream(self._key, compression=None)
        file = self._filesystem().open_input_file(self._key)
        file.seek(self._position)
        return file
