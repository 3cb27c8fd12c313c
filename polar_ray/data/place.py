"""Places: where a path really leads, so that two ways of writing one folder are known to be the same."""

import os
from collections.abc import Iterable
from functools import lru_cache

from polar_ray.data.storage import Storage

_SAME = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
"""Schemes that are other names of one storage."""


def place_of(path: str) -> str:
    """Returns a path with links followed, and with the usual name of its scheme.

    Args:
        path: As of a storage: a URL or an absolute local path. It need not be there.
    """
    scheme, separator, rest = path.partition("://")
    if separator:
        return f"{_SAME.get(scheme, scheme)}://{rest}"
    # Many files lie in one folder, whose links are followed once; a file may be a link itself.
    folder, name = os.path.split(path)
    place = os.path.join(_real_folder(folder), name)
    return os.path.realpath(place) if os.path.islink(place) else place


class Places:
    """Folders, and what lies in them by whatever path; of the time at which they were looked at."""

    def __init__(self, folders: Iterable[str]) -> None:
        _real_folder.cache_clear()
        self._starts = tuple(f"{place_of(Storage.of(folder).url).rstrip('/')}/" for folder in folders)

    def hold(self, path: str) -> bool:
        """Whether a file lies in one of the folders."""
        return bool(self._starts) and place_of(path).startswith(self._starts)


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)
