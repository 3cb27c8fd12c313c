"""Damage: telling a broken file, which costs itself, from a storage that fails, which costs a retry."""

import pyarrow as pa

from polar_ray.data.storage import Storage

_EDGE_BYTES = 64 * 2**10


def is_readable(storage: Storage, path: str) -> bool:
    """Whether the storage gives the file's first and last bytes.

    When it does, an error met while decoding the file lies in the file. When it does not, the error is the
    storage's, and this function raises it.

    Raises:
        OSError: The storage fails.
    """

    def look(file: pa.NativeFile) -> None:
        size = file.size()
        file.read(min(size, _EDGE_BYTES))
        file.seek(max(0, size - _EDGE_BYTES))
        file.read(min(size, _EDGE_BYTES))

    try:
        storage.read_with(path, look)
    except (FileNotFoundError, PermissionError):
        return False
    return True
