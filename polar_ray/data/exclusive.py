"""Creating a file only where there is none: of several processes that try, exactly one succeeds."""

import errno
import os
import uuid
from contextlib import suppress
from typing import Any, BinaryIO

from polar_ray.data.filesystems import ATTEMPTS, S3_SCHEMES
from polar_ray.data.replacing import TEMPORARY_PREFIX
from polar_ray.data.storage import Storage
from polar_ray.errors import NotShareable, StorageFault

_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK)
"""What file systems without hard links say."""
CONFLICTS = 5
"""Times that others may be found at work at the very same moment."""


def create(storage: Storage, path: str, data: bytes) -> bool:
    """Writes a file if there is none of its name, whole or not at all.

    Local: a hard link to the finished content, which fails where the name is taken. S3: a put with ``If-None-Match: *``
    (https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html), through s3fs, because pyarrow's
    client has none.

    Returns:
        Whether this call wrote it.

    Raises:
        NotShareable: The storage is not known to be able to do this.
    """
    if not storage.is_local and storage.scheme not in S3_SCHEMES:
        raise NotShareable(
            f"{storage.url} cannot be shared by several processes: a file that only one of them can create is needed, "
            "and that is known to work on local paths and on s3://; give an output.path there"
        )
    tries = 0

    def create_once() -> bool:
        nonlocal tries
        tries += 1
        key = storage.relative(path)
        return _create_local(key, data) if storage.is_local else _create_s3(storage, key, data)

    try:
        created = storage.patience.ask(path, create_once, writing=True)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StorageFault(f"{path} cannot be written: its folder cannot be made, or others delete it") from error
    # The answer of an earlier try may have been lost on its way, and then the file that is there is this one.
    return created or (tries > 1 and storage.read_bytes(path) == data)


def _create_local(path: str, data: bytes) -> bool:
    folder = os.path.dirname(path)
    temporary = os.path.join(folder, f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    try:
        with _opened(temporary) as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise NotShareable(f"{folder} has no hard links, of which only one can have a name: {error}") from error
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    return True


def _opened(path: str) -> BinaryIO:
    """Creates a file, and its folder where there is none."""
    for _ in range(CONFLICTS):
        # Whoever ends may delete the folder when it is empty, as it is until the file is there.
        with suppress(FileNotFoundError):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            return open(path, "xb")
    raise FileNotFoundError(errno.ENOENT, "its folder is deleted again and again", path)


def _create_s3(storage: Storage, key: str, data: bytes) -> bool:
    try:
        from s3fs import S3FileSystem
    except ImportError as error:
        raise NotShareable("s3:// needs a package that is not installed: pip install s3fs.") from error
    options: dict[str, Any] = {name: value for name, value in storage.options.items() if name != "region"}
    region = storage.options.get("region")
    config = {
        "retries": {"total_max_attempts": ATTEMPTS, "mode": "standard"},
        "connect_timeout": 10,
        "read_timeout": 30,
    }
    client = {"region_name": region} if region else {}
    # Clients are kept by what they were made with: one of another endpoint must not be taken for that of today.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and "endpoint_url" not in options:
        options["endpoint_url"] = endpoint
    filesystem = S3FileSystem(**options, client_kwargs=client, config_kwargs=config)
    for _ in range(CONFLICTS):
        try:
            filesystem.pipe_file(key, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno == errno.ENOSYS:
                raise NotShareable(f"{storage.url} has no conditional writes (If-None-Match): {error}") from error
            if "ConditionalRequestConflict" not in str(error):
                raise
            # Others are creating it at this very moment, and S3 asks to try again: one of them will have succeeded.
        else:
            return True
    return False
