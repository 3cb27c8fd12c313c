"""The user's cache folder, for what is trusted when it is read again: nobody else may have written it."""

import os
import stat
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def own_cache_folder(*names: str) -> Path | None:
    """Returns a folder of polar_ray in the user's cache folder, made where it is not there.

    Args:
        names: Of the folder below polar_ray's own, if it is not that itself.

    Returns:
        None where there is no home, or where the folder cannot be written to, is a link, or is one that others can
        write to.
    """
    # Relative paths are to be ignored: https://specifications.freedesktop.org/basedir-spec/latest/
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        folder = (base if base.is_absolute() else Path.home() / ".cache") / "polar_ray"
        for each in (folder, *(folder.joinpath(*names[: depth + 1]) for depth in range(len(names)))):
            each.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = each.lstat()
            if not (stat.S_ISDIR(found.st_mode) and is_own(found) and os.access(each, os.W_OK)):
                return None
            folder = each
    except (OSError, RuntimeError):
        # A RuntimeError says that the user has no home.
        return None
    return folder


def is_own(found: os.stat_result) -> bool:
    """Whether a file or folder is this user's, and nobody else may write to it."""
    return found.st_uid == os.geteuid() and not found.st_mode & _OTHERS_WRITE
