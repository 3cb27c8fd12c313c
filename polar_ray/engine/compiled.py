"""A C library that is compiled for this machine when it is first needed, and kept in the user's cache folder.

What is loaded runs with all that this process may do. So it is loaded only from a folder and a file that belong to this
user and that nobody else may write to, and only as it was written: its checksum stands at the file's end.
"""

import ctypes
import hashlib
import os
import platform
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from polar_ray.data.own_cache import is_own, own_cache_folder

# No -ffast-math: NaN must stay NaN.
_FLAGS = [
    *("-O3", "-march=native", "-std=gnu11", "-fopenmp", "-fPIC", "-shared"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
]
_SUM = hashlib.sha256().digest_size


def load_compiled(source: Path, compiler: list[str], functions: Sequence[str]) -> ctypes.CDLL:
    """Returns a library, compiled unless that was done before.

    Where there is no cache folder that can be trusted and written to, each process compiles for itself.

    Args:
        source: A C file.
        compiler: The command.
        functions: What the library must have.

    Raises:
        OSError: The compiler cannot be run or made no such library, or there is nowhere to write.
        SubprocessError: The compiler failed, or takes minutes.
    """
    version = subprocess.run([*compiler, "--version"], check=True, capture_output=True, timeout=60).stdout
    made_of = [source.read_bytes(), " ".join([*compiler, *_FLAGS]).encode(), version, _processor()]
    name = f"{source.stem}-{hashlib.sha256(b'|'.join(made_of)).hexdigest()[:16]}.so"
    folder = own_cache_folder()
    kept = None if folder is None else _load_kept(folder / name)
    if kept is not None:
        return kept
    with tempfile.TemporaryDirectory(prefix="polar_ray-") as place:
        made = Path(place) / name
        command = [*compiler, *_FLAGS, str(source), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=300)
        data = made.read_bytes()
        # The name is that of this folder alone, so that the loader does not take it for another; it stays loaded.
        library = ctypes.CDLL(str(made))
    if missing := [function for function in functions if not _has(library, function)]:
        raise OSError(f"{' '.join(compiler)} made a library without {', '.join(missing)}")
    if folder is not None:
        _keep(folder / name, data)
    return library


def _load_kept(path: Path) -> ctypes.CDLL | None:
    """Returns a library that was kept, or None where it is not there, not ours, or not as it was written."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    found = os.fstat(file)
    if stat.S_ISREG(found.st_mode) and is_own(found):
        with os.fdopen(os.dup(file), "rb") as stream:
            data = stream.read()
        if hashlib.sha256(data[:-_SUM]).digest() == data[-_SUM:]:
            # What was read and no other file that has its name by now. It stays open: the loader knows libraries by
            # their names, and would take the next one with this number for this one.
            return ctypes.CDLL(f"/proc/self/fd/{file}")
    os.close(file)
    return None


def _keep(path: Path, data: bytes) -> None:
    """Writes a library and its checksum. Several processes may be at it at once: the last one's stays.

    What cannot be kept is compiled again next time.
    """
    try:
        file, name = tempfile.mkstemp(dir=path.parent)
    except OSError:
        return
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(data + hashlib.sha256(data).digest())
            stream.flush()
            # Else a crash of the machine could leave the name and not the content.
            os.fsync(stream.fileno())
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)


def _has(library: ctypes.CDLL, function: str) -> bool:
    try:
        library[function]
    except AttributeError:
        return False
    return True


def _processor() -> bytes:
    """What ``-march=native`` depends on, so that machines which share a home folder do not share a library."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        lines = []
    names = (b"flags", b"Features", b"model name")
    return platform.machine().encode() + b"".join(sorted({line for line in lines if line.startswith(names)}))
