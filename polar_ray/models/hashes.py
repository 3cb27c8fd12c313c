"""Hashes of a model's files, taken once on a node for each state of a file.

A checkpoint of a hundred gigabytes takes minutes to hash, and every actor wants to know that its files are those of the
run. What one process has found is kept in a folder of the user's own, under a name made of all that changes when the
file does; nothing in a folder that somebody else can write to is believed.
"""

import fcntl
import hashlib
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from polar_ray.data.own_cache import is_own, own_cache_folder

SETTLED_S = 2.0
"""A file that was written so recently may change once more without showing it: the steps of its time are coarse."""
_BLOCK = 2**20
_DIGEST = re.compile("[0-9a-f]{64}")


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 (hex) of a file. Raises OSError if it cannot be read."""
    entry = _entry(path)
    if entry is None:
        return _hash(path)
    if (known := _read(entry)) is not None:
        return known
    with _alone(entry):
        # Whoever held the lock meanwhile may have found it.
        if (known := _read(entry)) is not None:
            return known
        digest = _hash(path)
        info = path.stat()
        if _entry(path) == entry and time.time() - max(info.st_mtime, info.st_ctime) >= SETTLED_S:
            _write(entry, digest)
    return digest


def known_sha256(path: Path) -> str | None:
    """Returns the SHA-256 (hex) of a file if it was taken on this node and the file is as it was then."""
    entry = _entry(path)
    return None if entry is None else _read(entry)


def _entry(path: Path) -> Path | None:
    """Where the hash of a file in its present state is kept, or None if there is no safe place."""
    folder = own_cache_folder("hashes")
    if folder is None:
        return None
    info = path.stat()
    state = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
    return folder / hashlib.sha256(repr((_node(), os.path.realpath(path), *state)).encode()).hexdigest()


@cache
def _node() -> str:
    """What tells this node, as long as it runs, from others that share the folder."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _read(entry: Path) -> str | None:
    try:
        with open(os.open(entry, os.O_RDONLY | os.O_NOFOLLOW), encoding="ascii") as file:
            text = file.read(100) if is_own(os.fstat(file.fileno())) else ""
    except (OSError, UnicodeDecodeError):
        return None
    return text if _DIGEST.fullmatch(text) else None


def _write(entry: Path, digest: str) -> None:
    temporary = entry.with_name(f".tmp-{uuid.uuid4().hex}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(digest)
        temporary.replace(entry)
    except OSError:
        # A full disk, say: the next process takes the hash again.
        temporary.unlink(missing_ok=True)


@contextmanager
def _alone(entry: Path) -> Iterator[None]:
    """Lets one process of the node at a time take the hash of a file; the others wait for what it finds."""
    try:
        lock = os.open(entry.with_name(f"lock-{entry.name[0]}"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        yield
        return
    try:
        # On a network's file system without locks each process takes the hash by itself.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
