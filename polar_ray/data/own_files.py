"""Own files: what polar_ray wrote into a folder, told by exact names from what others put there.

A folder that is cleared may hold more than polar_ray's files: notes, a table of somebody's own, a link to another disk.
So nothing is deleted because it lies in a folder of a known name: each file must have a name that polar_ray gives.
"""

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from polar_ray.data.storage import Storage
from polar_ray.errors import OutputError


@dataclass(frozen=True)
class Own:
    """Files that polar_ray writes.

    Attributes:
        folder: Where they lie, from the top; "" is the top itself.
        name: A regular expression for their whole path from there; at the top a plain name.
    """

    folder: str
    name: str


def refuse_links(storage: Storage, top: str, files: tuple[Own, ...]) -> None:
    """Makes sure that none of the folders in which the files lie is a link: what is behind it belongs elsewhere.

    Raises:
        OutputError: One is.
    """
    for folder in _folders(files) if storage.is_local else ():
        path = os.path.join(storage.relative(top), folder)
        if os.path.islink(path):
            raise OutputError(
                f"{path} is a link to {os.readlink(path)}, and nothing is deleted behind a link: delete the link and "
                "what it leads to by hand, or give another output.path"
            )


def delete_own(
    storage: Storage, top: str, files: tuple[Own, ...], only: Callable[[re.Match[str]], bool] | None = None
) -> None:
    """Deletes the files below ``top``, one kind after the other, and the folders that nothing is left in.

    Each kind is gone before the next is touched, so an interruption leaves what can be cleared again.

    Args:
        storage: Where they are.
        top: The folder.
        files: What is deleted.
        only: Says of which names, as ``Own.name`` matches them; all by default.

    Raises:
        OutputError: A folder is a link; nothing was deleted.
    """
    refuse_links(storage, top, files)
    with ThreadPoolExecutor(16) as pool:
        for own in files:
            for _ in pool.map(storage.delete, _found(storage, top, own, only)):
                pass
    for folder in reversed(_folders(files)):
        storage.sweep(f"{top}/{folder}")
        storage.delete_empty(f"{top}/{folder}")


def _found(storage: Storage, top: str, own: Own, only: Callable[[re.Match[str]], bool] | None) -> list[str]:
    if not own.folder:
        # At the top there may be anything, and much of it: it is not listed.
        return [f"{top}/{own.name}"]
    folder = f"{top}/{own.folder}/"
    wanted = re.compile(own.name)
    paths = [info.path for info in storage.list(folder.rstrip("/"))]
    matches = {path: wanted.fullmatch(path[len(folder) :]) for path in paths if path.startswith(folder)}
    return [path for path, match in matches.items() if match is not None and (only is None or only(match))]


def _folders(files: tuple[Own, ...]) -> list[str]:
    """The folders in which files lie, and those in which these lie, parents first."""
    names: set[str] = set()
    for own in files:
        parts = own.folder.split("/")
        names.update("/".join(parts[: end + 1]) for end in range(len(parts)))
    return sorted(names - {""})
