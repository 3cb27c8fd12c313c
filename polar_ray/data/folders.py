"""Local folders: what is in them, and whether they can be written."""

import errno
import os
import stat
from collections.abc import Iterator

from polar_ray.errors import StorageError

_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""What is said of a link to nothing, or to itself, and of a file that is gone by now."""


def files_below(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yields the files below a folder at any depth, or the file itself; nothing where there is none.

    Links are followed, but not into a folder that they lie in: a loop has no end.

    Raises:
        StorageError: A name is not UTF-8, so that it could not be written down.
        OSError: A folder cannot be read.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISDIR(found.st_mode):
        yield from _below(path, ((found.st_dev, found.st_ino),))
    elif stat.S_ISREG(found.st_mode):
        yield path, found


def writable(path: str) -> str | None:
    """Returns why a folder, which need not be there yet, cannot be written, or None if it can."""
    place = path
    while not os.path.lexists(place) and os.path.dirname(place) != place:
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        return f"{place} is no folder"
    # As who this process acts now, not as who started it.
    allowed = os.access(place, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)
    return None if allowed else f"{place} is read-only for this user"


def _below(folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        path = os.path.join(folder, name)
        try:
            found = os.stat(path)
        except OSError as error:
            if error.errno not in _NOTHING_THERE:
                # Left out, it would be missing from an input that looks whole.
                raise
            continue
        kind = stat.S_IFMT(found.st_mode)
        place = (found.st_dev, found.st_ino)
        if kind == stat.S_IFDIR and place not in above:
            yield from _below(path, (*above, place))
        elif kind == stat.S_IFREG:
            try:
                name.encode()
            except UnicodeEncodeError:
                raise StorageError(
                    f"{path!a} has a name that is not UTF-8, which cannot be written down; rename it"
                ) from None
            yield path, found
