"""Ray inside this process: a folder that nobody else may enter, and nothing that outlives its driver.

A tiny process watches over both. It hears of the driver's end, however that comes, since the pipe between them closes;
then it ends what Ray left running in the folder and deletes the folder.
"""

import contextlib
import fcntl
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from polar_ray.errors import StorageError
from polar_ray.running import ray_watcher

PREFIX = "polar-ray-"
RAYS = "r"
"""The folder in it that is Ray's, whose paths must be short."""
_LOCK = "driver.lock"
MAKING_S = 600
"""Seconds after which a folder with nothing in it is not about to be used."""
LONGEST = 107 - len("/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store") - len("//r") - len(PREFIX) - 8
"""Characters of the folder in which the folders are made: the path of a Unix socket has 107 at most."""


@dataclass(frozen=True)
class Leftover:
    """What a driver that was killed has left.

    Attributes:
        folder: Of its Ray.
        processes: Ids of the processes that still run in it.
    """

    folder: str
    processes: list[int]


@contextlib.contextmanager
def own_folder() -> Iterator[str]:
    """Makes a folder with mode 0700 for an embedded Ray, and deletes it in the end, with what still runs in it.

    Raises:
        StorageError: No folder can be made.
    """
    try:
        folder = tempfile.mkdtemp(prefix=PREFIX, dir=_parents()[0])
    except OSError as error:
        raise StorageError(f"Ray needs a temporary folder: {error}; set TMPDIR to one that can be written") from error
    with open(os.path.join(folder, f"{_LOCK}.new"), "w") as lock:
        # Held as long as this process lives, in whatever container that is: process ids would not tell. Named only
        # once it is held, or another driver that starts now would take the folder for abandoned.
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(lock.name, os.path.join(folder, _LOCK))
        watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", ray_watcher.__file__, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # An interrupt from the terminal is for the driver alone.
            start_new_session=True,
        )
        try:
            yield folder
        finally:
            assert watcher.stdin is not None
            watcher.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                watcher.wait(timeout=30)


def leftovers() -> list[Leftover]:
    """Returns what drivers of this user that are dead have left on this machine."""
    found = []
    for parent in dict.fromkeys(_parents()):
        for folder in sorted(Path(parent).glob(f"{PREFIX}*")):
            with contextlib.suppress(OSError):
                if folder.stat().st_uid == os.getuid() and not folder.is_symlink() and _is_abandoned(folder):
                    found.append(Leftover(str(folder), ray_watcher.processes_in(str(folder))))
    return found


def clean_up() -> list[Leftover]:
    """Ends and deletes what drivers that are dead have left; returns what that was."""
    found = leftovers()
    for left in found:
        ray_watcher.clear(left.folder)
    return found


def _is_abandoned(folder: Path) -> bool:
    try:
        with open(folder / _LOCK) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return _is_remnant(folder)
    return True


def _is_remnant(folder: Path) -> bool:
    """Whether a folder without a lock is what was written once more while it was deleted.

    One that is being made holds nothing but the lock that is to be; of one that is in use a cleaner of temporary files
    may have deleted the lock; and others may give their folders such names.
    """
    state = folder.stat()
    if stat.S_IMODE(state.st_mode) != stat.S_IRWXU or ray_watcher.processes_in(str(folder)):
        return False
    found = {path.name for path in folder.iterdir()}
    if found <= {f"{_LOCK}.new"}:
        return time.time() - state.st_mtime > MAKING_S
    return found <= {f"{_LOCK}.new", RAYS}


def _parents() -> list[str]:
    """Folders in which a folder for Ray may be made, the one that is wanted most first."""
    wanted = [os.environ.get("RAY_TMPDIR", ""), tempfile.gettempdir(), "/tmp"]
    return [path for path in wanted if path and os.path.isabs(path) and len(path) <= LONGEST]
