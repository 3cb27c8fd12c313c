"""Storage: one way to read, write and list, local or in an object store.

What is written appears whole or not at all: a local file is written beside its place and renamed; an object is
put in one go after its content is complete.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, BinaryIO, TypeVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from polar_ray.data.filesystems import AZURE_SCHEMES, make_filesystem
from polar_ray.data.folders import files_below, writable
from polar_ray.data.glob import compile_glob, fixed_folder, is_glob
from polar_ray.data.guard import Guard
from polar_ray.data.patience import Patience
from polar_ray.data.replacing import is_temporary, new_file, replace_local
from polar_ray.data.stream import Stream
from polar_ray.errors import StorageDenied, StorageError, StorageFault
from polar_ray.recipe.paths import mistake_in
from polar_ray.recipe.run import STORAGE_WAIT_S
from polar_ray.recipe.secrets import secrets_of_storage

Result = TypeVar("Result")


@dataclass(frozen=True)
class FileInfo:
    """A file in a storage.

    Attributes:
        path: As a URL, or an absolute local path.
        size: Bytes.
        etag: Where the storage's listing tells it (fsspec); pyarrow's does not.
        mtime: Seconds since 1970, where the listing tells it.
    """

    path: str
    size: int
    etag: str | None = None
    mtime: float | None = None


Files = list[FileInfo]

_COPY_BYTES = 2**20

_ETAG_NAMES = ("ETag", "etag", "blob_id")
"""What the filesystems of fsspec call an object's version."""


@dataclass(frozen=True)
class Storage:
    """A filesystem and a folder in it. Small and picklable: a worker opens its own connection.

    Every method takes a path as a user writes it: a URL of the same storage, or a local path. ``join`` makes one for
    a name below the storage's own folder. A storage that is away, full or read-only is waited for; every method may
    raise StorageFault in the end, which is one sentence.

    Attributes:
        scheme: ``""`` for local files.
        root: The folder (or file) inside the filesystem.
        host: The account's host in an Azure URL.
        options: ``storage_options`` of the recipe.
        wait_s: Seconds in which it may come back when it is away: ``limits.storage_wait_s`` of the recipe.
        guard: Is asked before anything is changed, and raises where that is no longer this process's to do. It stays in
            this process: it does not travel with the storage.
    """

    scheme: str
    root: str
    host: str | None = None
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    wait_s: float = STORAGE_WAIT_S
    guard: Guard | None = field(default=None, compare=False, repr=False)

    @staticmethod
    def of(url: str, options: dict[str, Any] | None = None, wait_s: float = STORAGE_WAIT_S) -> "Storage":
        """Resolves a local path or URL.

        Args:
            url: A local path, ``file://``, ``s3://``, ``gs://``, ``az://``, ``abfs://``, ``hf://``, or another
                scheme that fsspec knows.
            options: ``storage_options``: for S3 ``endpoint_url``, ``key``, ``secret``, ``token``, ``region``,
                ``anon``; for others what their filesystem takes. What is not given comes from the environment.
            wait_s: Seconds in which it may come back when it is away.

        Raises:
            StorageError: There is a slip in the path; or, from the first use of it: an unknown option or scheme, or a
                package is missing.
        """
        if (mistake := mistake_in(url)) is not None:
            raise StorageError(mistake)
        scheme, host, path = _split_url(url)
        if scheme == "":
            path = os.path.abspath(os.path.expanduser(path))
        return Storage(scheme, path.rstrip("/") or ("/" if scheme == "" else ""), host, dict(options or {}), wait_s)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("scheme", "root", "host", "options", "wait_s")}

    @property
    def url(self) -> str:
        """The folder as a URL, or an absolute local path."""
        return self._url_of(self.root)

    @property
    def is_local(self) -> bool:
        """Whether this is a folder of this machine (or a network share mounted on it)."""
        return self.scheme == ""

    @cached_property
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow filesystem; made on first use.

        Raises:
            StorageError: An option or the scheme is unknown, or a package is missing.
        """
        return make_filesystem(self.scheme, self.root, self.host, self.options)

    def join(self, *names: str) -> str:
        """Returns the full path of a name below this storage's folder."""
        return self._url_of("/".join([self.root.rstrip("/"), *names]))

    @cached_property
    def patience(self) -> Patience:
        """How long it is waited for."""
        return Patience(self.url, self.wait_s, tuple(secrets_of_storage(self.options)))

    def open_input(self, path: str) -> Stream:
        """Opens a stream of the file's raw bytes. Raises FileNotFoundError."""
        return Stream(lambda: self.filesystem, self._key(path), path, self.patience)

    def open_file(self, path: str) -> pa.NativeFile:
        """Opens a file for random access; ``patiently`` does the reading. Raises FileNotFoundError."""
        return self.patience.ask(path, lambda: self.filesystem.open_input_file(self._key(path)))

    def read_with(self, path: str, read: Callable[[pa.NativeFile], Result]) -> Result:
        """Returns what a function reads from a file, which it is given anew when the storage was away.

        Raises:
            FileNotFoundError: There is no such file.
            Exception: What the function raises about the content.
        """

        def reading() -> Result:
            with self.open_file(path) as file:
                return read(file)

        return self.patiently(reading)

    def patiently(self, reading: Callable[[], Result]) -> Result:
        """Reads from this storage by other means than these methods, again from the start when it was away.

        What is wrong with the content is raised as it is; only a storage that stays away becomes a StorageAway.
        """
        return self.patience.call(reading)

    def read_bytes(self, path: str) -> bytes:
        """Returns a file's content. Raises FileNotFoundError."""
        with self.open_input(path) as stream:
            return stream.read()

    def write_atomic(self, path: str, data: bytes) -> None:
        """Writes a file that is seen whole or not at all, replacing what was there."""

        def write() -> None:
            with self.open_atomic(path) as stream:
                stream.write(data)

        # A disk may say that it is full only when all is written.
        self.patience.ask(path, write, writing=self.is_local)

    @contextmanager
    def open_atomic(self, path: str) -> Iterator[BinaryIO]:
        """Opens a file for writing; it appears, whole, when the block ends, and not at all if it raises."""
        key = self._key(path)
        if self.is_local:
            with replace_local(key, self.patience, self._check) as stream:
                yield stream
            return
        # An object store gets nothing before the content is complete, so there is no upload to abort.
        with tempfile.TemporaryDirectory(prefix="polar-ray-") as folder:
            spool = os.path.join(folder, "spool")
            with new_file(spool, Patience(folder, self.wait_s)) as stream:
                yield stream
            try:
                self.patience.ask(path, self._guarded(lambda: self._upload(spool, key)), writing=True)
            except FileNotFoundError as error:
                raise StorageFault(f"{path} cannot be written: {error}; is there such a bucket?") from error

    def check_writable(self) -> None:
        """Makes sure, before there is anything to lose, that a local folder can be written; it need not be there yet.

        Later a folder that has become read-only is waited for; at the start it is a mistake.

        Raises:
            StorageDenied: It cannot.
        """
        if self.is_local and (reason := writable(self.root)) is not None:
            raise StorageDenied(f"{self.root} cannot be written: {reason}; give another path, or get access to it")

    def copy(self, source: str, target: str) -> None:
        """Copies a file inside the storage; the copy appears whole. An object store copies by itself."""
        if self.is_local:
            with self.open_input(source) as stream, self.open_atomic(target) as copy:
                while data := stream.read(_COPY_BYTES):
                    copy.write(data)
            return
        self._ask(source, self._guarded(lambda: self.filesystem.copy_file(self._key(source), self._key(target))))

    def sweep(self, path: str = "", older_than_s: float = 0) -> None:
        """Deletes what writers left in a folder that were killed at least so many seconds ago; nobody writes to it now.

        Object stores show nothing of an upload that was not completed, so there is nothing to do.
        """
        if not self.is_local:
            return
        for folder, _, names in os.walk(self._key(path)):
            for name in filter(is_temporary, names):
                left = os.path.join(folder, name)
                try:
                    if time.time() - os.stat(left).st_mtime >= older_than_s:
                        self._ask(left, self._guarded(partial(os.unlink, left)), writing=True)
                except FileNotFoundError:
                    # Its writer was not dead after all, and has just finished.
                    continue

    def exists(self, path: str = "") -> bool:
        """Whether there is a file, or a folder with something in it."""
        return bool(self._type(path) != pafs.FileType.NotFound)

    def is_file(self, path: str = "") -> bool:
        """Whether there is a file of exactly this name."""
        return bool(self._type(path) == pafs.FileType.File)

    def written_at(self, path: str) -> float | None:
        """Returns when a file was written, in seconds since 1970 by the storage's clock, where it tells."""
        return _mtime(self._ask(path, lambda: self.filesystem.get_file_info(self._key(path)).mtime_ns))

    def list(self, prefix: str = "") -> "Files":
        """Returns all files below a folder, at any depth, sorted by path; or the file itself.

        A folder that is not there gives an empty list. What killed writers left is not listed.
        """
        found = self._ask(prefix, lambda: self._list(self._key(prefix)))
        kept = [info for info in found if not is_temporary(info.path)]
        return sorted(kept, key=lambda info: info.path)

    def glob(self, pattern: str) -> "Files":
        """Returns the files that match a pattern of ``*``, ``?``, ``[...]`` and ``**``, sorted by path."""
        key = self._key(pattern)
        if not is_glob(key):
            return self.list(pattern) if self.is_file(pattern) else []
        glob = compile_glob(key)
        return [info for info in self.list(self._url_of(fixed_folder(key))) if glob.matches(self._key(info.path))]

    def delete(self, path: str) -> None:
        """Deletes a file; one that is not there is no error."""
        try:
            self._ask(path, self._guarded(lambda: self.filesystem.delete_file(self._key(path))), writing=True)
        except FileNotFoundError:
            return

    def delete_tree(self, path: str = "") -> None:
        """Deletes a folder with all that is in it; one that is not there is no error."""
        key = self._key(path)
        # A plain rmtree also removes what `list` does not show.
        delete = (lambda: shutil.rmtree(key)) if self.is_local else (lambda: self.filesystem.delete_dir(key))
        try:
            self._ask(path, self._guarded(delete), writing=True)
        except FileNotFoundError:
            return

    def delete_empty(self, path: str) -> None:
        """Deletes a folder, and those in it, as far as no file is left in them; one that is not there is no error."""
        key = self._key(path)
        if not self.is_local:
            # What an object store shows of a folder without files is a marker.
            if not self.list(path):
                self.delete_tree(path)
            return
        for folder, _, _ in os.walk(key, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)

    def relative(self, path: str) -> str:
        """Returns a path as ``filesystem`` takes it: without the scheme."""
        return self._key(path)

    def _check(self) -> None:
        if self.guard is not None:
            self.guard()

    def _guarded(self, operation: Callable[[], Result]) -> Callable[[], Result]:
        """Returns an operation that changes something, with the guard before each try."""

        def change() -> Result:
            self._check()
            return operation()

        return change

    def _ask(self, path: str, operation: Callable[[], Result], *, writing: bool = False) -> Result:
        """Runs an operation on a path; only in local files does it matter that it writes."""
        return self.patience.ask(path or self.url, operation, writing=writing)

    def _type(self, path: str) -> pafs.FileType:
        return self._ask(path, lambda: self.filesystem.get_file_info(self._key(path)).type)

    def _key(self, path: str) -> str:
        if path == "":
            return self.root
        scheme, _, key = _split_url(path)
        if scheme == "" and self.is_local:
            return os.path.abspath(os.path.expanduser(key))
        assert scheme == self.scheme, f"{path} is not in {self.url}"
        return key.strip("/")

    def _url_of(self, key: str) -> str:
        if self.scheme == "":
            return key
        if self.host is not None:
            container, _, rest = key.partition("/")
            return f"{self.scheme}://{container}@{self.host}/{rest}"
        return f"{self.scheme}://{key}"

    @property
    def _fsspec(self) -> Any:
        """The fsspec filesystem below, or None."""
        filesystem = self.filesystem
        return filesystem.handler.fs if isinstance(filesystem, pafs.PyFileSystem) else None

    def _list(self, key: str) -> "Files":
        if self.is_local:
            return [FileInfo(path, found.st_size, mtime=_mtime(found.st_mtime_ns)) for path, found in files_below(key)]
        if self._fsspec is not None:
            return self._list_fsspec(key)
        info = self.filesystem.get_file_info(key) if key else None
        if info is not None and info.type == pafs.FileType.File:
            infos = [info]
        else:
            selector = pafs.FileSelector(key, recursive=True, allow_not_found=True)
            infos = [info for info in self.filesystem.get_file_info(selector) if info.type == pafs.FileType.File]
        return [FileInfo(self._url_of(info.path), info.size, mtime=_mtime(info.mtime_ns)) for info in infos]

    def _list_fsspec(self, key: str) -> "Files":
        # Filesystems of fsspec remember listings: what was written since would not be seen.
        self._fsspec.invalidate_cache()
        found = self._fsspec.find(key, detail=True)
        return [
            FileInfo(
                self._url_of(path.lstrip("/")),
                int(info["size"]),
                next((str(info[name]).strip('"') for name in _ETAG_NAMES if info.get(name)), None),
                info["mtime"] if isinstance(info.get("mtime"), float) else None,
            )
            for path, info in found.items()
        ]

    def _upload(self, source: str, key: str) -> None:
        if self._fsspec is not None:
            self._fsspec.put_file(source, key)
            return
        content = pa.py_buffer(b"")
        if os.path.getsize(source):
            with pa.memory_map(source) as mapped:
                content = mapped.read_buffer()
        stream = self.filesystem.open_output_stream(key, compression=None)
        # One write of all there is: should anything interrupt it, the stream holds either a failed upload, which
        # the store never shows, or the whole content. A stream that was given half would publish half, since
        # pyarrow completes an upload when the stream is garbage-collected.
        stream.write(content)
        stream.close()


def _mtime(nanoseconds: int | None) -> float | None:
    return nanoseconds / 1e9 if nanoseconds else None


def _split_url(url: str) -> tuple[str, str | None, str]:
    """Returns the scheme, the Azure host and the path inside the filesystem."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "", None, url
    if scheme == "file":
        return "", None, unquote(rest.removeprefix("localhost"))
    if scheme in AZURE_SCHEMES and "@" in rest.split("/", 1)[0]:
        authority, _, path = rest.partition("/")
        container, _, host = authority.partition("@")
        return scheme, host, f"{container}/{path}"
    return scheme, None, rest
